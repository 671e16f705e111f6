"""Several runs side by side, read: what the comparison says of them, and what their directories hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from lpo.errors import DataError
from lpo.report.data import Event, Manifest, Training, merge_events
from lpo.report.reading import record, rows, settings, whole
from lpo.report.stored import Interval, Stored
from lpo.report.suites_data import HELD_OUT, CurveData, MeasuredData, MetricData, read_measured

LETTERS = "ABCDEFGH"
"""One for each run: what tells them apart where there is no room for a name, and no colour to be seen."""
MODELS = ("trained", "model", "base")
"""Which model of a run is compared, where nobody says it: the first of these that has answered."""


class Difference(Stored):
    """A score of a run minus that of the first one, prompt by prompt."""

    interval: Interval = Interval()
    p: float | None = None


class SuiteComparison(Stored):
    """One suite over all runs. Everything is by the name of the run; a run that was not measured is not in it."""

    title: str
    source: str = ""
    metrics: tuple[MetricData, ...] = ()
    group_name: str = "group"
    n: dict[str, int] = Field(default_factory=dict)
    scores: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    groups: dict[str, dict[str, dict[str, Interval]]] = Field(default_factory=dict)
    difference: dict[str, dict[str, Difference]] = Field(default_factory=dict)
    group_difference: dict[str, dict[str, dict[str, Difference]]] = Field(default_factory=dict)
    curves: dict[str, tuple[CurveData, ...]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    judge: dict[str, Any] = Field(default_factory=dict)
    decoding: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class WinRate(Stored):
    """How often one run's text is preferred to another's, 0–100; `lc`: with the length taken out."""

    interval: Interval = Interval()
    lc: Interval | None = None


class Comparison(Stored):
    """What was computed over all runs."""

    runs: tuple[str, ...] = ()
    models: dict[str, str] = Field(default_factory=dict)
    suites: dict[str, SuiteComparison] = Field(default_factory=dict)
    win_rates: dict[str, dict[str, dict[str, WinRate]]] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run of a comparison, read from its directory; empty values stand for stages that have not run.

    Args:
        index: Its place, from 0; gives its letter, colour, shape and dashes.
        name: Unlike that of any other run here.
        folder: The run directory.
        model: Which of its models is compared; None: the one that has answered.
        config: As resolved.
        manifest: Versions, hardware, stages.
        training: `train.json`.
        events: `metrics.jsonl`.
    """

    index: int
    name: str
    folder: Path
    model: str | None
    config: Mapping[str, Any]
    manifest: Manifest
    training: Training | None
    events: tuple[Event, ...]

    @property
    def letter(self) -> str:
        """Stands for it in charts."""
        return LETTERS[self.index]

    @property
    def css(self) -> str:
        """Class of everything that is drawn of it."""
        return f"run-{self.index + 1}"

    @cached_property
    def suites(self) -> tuple[str, ...]:
        """Suites whose answers stand in its directory."""
        folder = self.folder / "eval"
        others = sorted(path.parent.name for path in folder.glob("*/answers.*.jsonl"))
        return tuple(dict.fromkeys([*([HELD_OUT] if any(folder.glob("answers.*.jsonl")) else []), *others]))

    def measured(self, suite: str) -> tuple[MeasuredData, ...]:
        """The measured answers of the model that is compared; none where it has not answered this suite.

        Raises:
            DataError: A line of the file is damaged.
        """
        of_model = read_measured(self.folder, suite) if suite in self.suites else {}
        if self.model is not None:
            return of_model.get(self.model, ())
        return next((of_model[name] for name in MODELS if name in of_model), ())

    def setting(self, *path: str) -> Any:
        """A value of the resolved configuration by its path, or None."""
        value: Any = self.config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read_comparison(values: Mapping[str, Any] | None, folders: Sequence[Path]) -> Comparison:
    """The comparison as typed values; an empty one where nothing was computed.

    Raises:
        DataError: It is not about these runs.
    """
    found = record(values, Comparison, "comparison") if values is not None else Comparison()
    if values is not None and len(found.runs) != len(folders):
        raise DataError(f"the comparison is of {len(found.runs)} runs, but {len(folders)} directories are given",
                        where="comparison", mend="give the directories of the compared runs, in the same order")
    return found


def read_compared(folders: Sequence[Path], comparison: Comparison) -> tuple[ComparedRun, ...]:
    """Read run directories.

    Args:
        folders: In the order of the comparison; differences are against the first.
        comparison: Names the runs and their models, where there is one.

    Raises:
        DataError: There are too few or too many runs, a folder is missing, or a file in it is damaged.
    """
    if not 2 <= len(folders) <= len(LETTERS):
        raise DataError(f"{len(folders)} run(s) to compare", where="runs",
                        mend=f"give from 2 to {len(LETTERS)} run directories; more cannot be told apart on one page")
    manifests = [_manifest(folder) for folder in folders]
    names = comparison.runs or _names(folders, manifests)
    return tuple(
        ComparedRun(
            index=index, name=name, folder=folder, model=comparison.models.get(name),
            config=settings(folder / "config.yaml"), manifest=manifest, training=whole(folder / "train.json", Training),
            events=merge_events(list(rows(folder / "metrics.jsonl"))))
        for index, (name, folder, manifest) in enumerate(zip(names, folders, manifests, strict=True)))


def _names(folders: Sequence[Path], manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """The names of the runs, made different by their folders where two are called the same."""
    names = [manifest.name or folder.resolve().name for folder, manifest in zip(folders, manifests, strict=True)]
    return tuple(name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True))


def _manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise DataError("no such run directory", where=str(folder), mend="give the folder of a run, e.g. runs/<name>")
    return whole(folder / "manifest.json", Manifest) or Manifest()
