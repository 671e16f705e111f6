"""Reading a run directory: everything the page shows, typed, whatever has been run so far.

Files that do not exist yet are empty values here; the sections say what to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from lpo.errors import DataError
from lpo.records import PreferencePair, RejectedRow, Usage
from lpo.report.kinds import RunKind
from lpo.report.pair_lengths import RESAMPLES, LengthGap, length_gap
from lpo.report.reading import Row, records, rows, settings, whole
from lpo.report.stored import Answer, Interval, Stored
from lpo.report.suites_data import HELD_OUT, GuardData, Measured, PairwiseData, SuiteData, read_measured
from lpo.report.tree_file import TreeFile

Metrics = Mapping[str, float]


class Judge(Stored):
    """Who scored the answers."""

    name: str = "judge"
    model: str | None = None
    was_training_reward: bool = False


class Overlap(Stored):
    """Held-out prompts compared with the prompts of the build."""

    checked: int = 0
    found: int = 0


class Scores(Stored):
    """`scores.json`."""

    n_prompts: int = 0
    models: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    difference: dict[str, Interval] = Field(default_factory=dict)
    buckets: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    preference_accuracy: dict[str, Interval] = Field(default_factory=dict)
    judge: Judge | None = None
    decoding: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    overlap: Overlap | None = None
    suites: dict[str, SuiteData] = Field(default_factory=dict)
    pairwise: dict[str, PairwiseData] = Field(default_factory=dict)
    guard: GuardData | None = None


class Sample(Stored):
    """A text written during training."""

    step: int
    prompt_id: str
    request: str
    target_words: int | None = None
    text: str
    words: int
    finish: str


class JudgementCounts(Stored):
    """How many judgements of the build gave a score, and why the others did not."""

    scored: int = 0
    unscored: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)


class Stability(Stored):
    """Agreement of the judge's ranking with its ranking under a reworded rubric."""

    kendall_tau: float | None = None
    same_best: float | None = None
    layers: int = 0


class Build(Stored):
    """`build.json`."""

    prompts: int = 0
    trees: int = 0
    layers: int = 0
    candidates: int = 0
    pairs: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    judgements: JudgementCounts = JudgementCounts()
    stability: Stability | None = None
    cleaned_characters: int = 0


class FineTuningRow(Stored):
    """A row of `sft.jsonl`, without its text."""

    id: str
    words: int = 0
    target_words: int | None = None
    length_score: float | None = None


class ScoredAnswers(Stored):
    """`score.json`: what `lpo score` found."""

    file: str = ""
    answers: int = 0
    questions: int = 0
    scored: int = 0
    unscored: dict[str, int] = Field(default_factory=dict)
    interval_over: str = "questions"
    means: dict[str, Interval] = Field(default_factory=dict)


class Stage(Stored):
    """What one stage took."""

    status: str = "not run"
    seconds: float | None = None
    peak_memory_mb: float | None = None
    finished: str | None = None
    usage: Usage | None = None


class Training(Stored):
    """`train.json`."""

    pairs: int = 0
    held_out_pairs: int = 0
    rejected: int = 0
    steps: int = 0
    parameters_moved: float | None = None
    """L2 norm of the change divided by that of the initial weights, over the weights that were trained."""

    @property
    def used(self) -> int:
        """Pairs that were trained on."""
        return self.pairs - self.rejected


class Manifest(Stored):
    """`manifest.json`."""

    name: str | None = None
    kind: str | None = None
    """`measured`: one model was measured, and nothing built or trained."""
    lpo: str | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)
    python: str | None = None
    platform: str | None = None
    hardware: dict[str, Any] = Field(default_factory=dict)
    git: dict[str, Any] | None = None
    config_hash: str | None = None
    prompts_hash: str | None = None
    seed: int | None = None
    stages: dict[str, Stage] = Field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """What was logged at one optimiser step: training metrics, and those of an evaluation when there was one."""

    step: int
    values: Metrics


@dataclass(frozen=True)
class RunData:
    """A run directory, read. `None` and empty tuples stand for stages that have not run."""

    folder: Path
    config: Mapping[str, Any]
    manifest: Manifest
    build: Build | None
    pairs: tuple[PreferencePair, ...]
    sft: tuple[FineTuningRow, ...]
    scored: ScoredAnswers | None
    trees: TreeFile
    rejected: tuple[RejectedRow, ...]
    training: Training | None
    events: tuple[Event, ...]
    samples: tuple[Sample, ...]
    measured: Mapping[str, Measured]
    """Suite -> model -> its answers with their values; held-out ones among them."""
    scores: Scores | None
    held_out_pairs: int

    @property
    def name(self) -> str:
        """The run's name."""
        return self.manifest.name or str(self.config.get("name") or self.folder.resolve().name)

    @property
    def kind(self) -> RunKind:
        """What the trees of its method hold."""
        if self.scored is not None:
            return RunKind.SCORED
        if self.manifest.kind == RunKind.MEASURED.value:
            return RunKind.MEASURED
        methods = self.trees.counts.methods.most_common(1)
        return RunKind.of(self.setting("build", "method") or (methods[0][0] if methods else None))

    @property
    def answers(self) -> Mapping[str, tuple[Answer, ...]]:
        """The held-out answers, model by model."""
        return {model: tuple(row.answer for row in rows) for model, rows in self.measured.get(HELD_OUT, {}).items()}

    @property
    def candidates(self) -> int:
        """Texts that were sampled or given; those of the trees, or else as the build has counted them."""
        return self.trees.counts.candidates if self.trees else self.build.candidates if self.build else 0

    @property
    def layers(self) -> int:
        """Sets of siblings, likewise."""
        return self.trees.counts.layers if self.trees else self.build.layers if self.build else 0

    @property
    def full_length_pairs(self) -> int:
        """Pairs whose sides are whole answers, not beginnings or single segments of them; of step pairs, all."""
        return sum(bool(pair.provenance.get("full_length", True)) for pair in self.pairs)

    @cached_property
    def length_gap(self) -> LengthGap | None:
        """How much longer the chosen sides are; None without pairs."""
        return length_gap(self.pairs, seed=int(self.setting("seed") or 0),
                          resamples=int(self.setting("eval", "bootstrap") or RESAMPLES))

    def setting(self, *path: str) -> Any:
        """A value of the resolved configuration by its path, or None."""
        value: Any = self.config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read_run(folder: Path) -> RunData:
    """Read a run directory.

    Args:
        folder: The run directory; any of its files may be missing or empty.

    Raises:
        DataError: The folder is missing, or a file in it is damaged; the error names the file and the line.
    """
    if not folder.is_dir():
        raise DataError("no such run directory", where=str(folder), mend="give the folder of a run, e.g. runs/<name>")
    manifest, scores = whole(folder / "manifest.json", Manifest), whole(folder / "scores.json", Scores)
    return RunData(
        folder=folder,
        config=settings(folder / "config.yaml"),
        manifest=manifest or Manifest(),
        build=whole(folder / "build.json", Build),
        pairs=records(folder / "pairs.jsonl", PreferencePair),
        sft=records(folder / "sft.jsonl", FineTuningRow),
        scored=whole(folder / "score.json", ScoredAnswers),
        trees=TreeFile.read(folder / "trees.jsonl"),
        rejected=records(folder / "rejected_rows.jsonl", RejectedRow),
        training=whole(folder / "train.json", Training),
        events=merge_events(list(rows(folder / "metrics.jsonl"))),
        samples=_latest(records(folder / "samples.jsonl", Sample), lambda row: (row.step, row.prompt_id)),
        measured={suite: found for suite in (HELD_OUT, *(scores.suites if scores is not None else ()))
                  if (found := read_measured(folder, suite))},
        scores=scores,
        held_out_pairs=sum(1 for _ in rows(folder / "eval" / "preferences.jsonl")),
    )


def merge_events(logged: list[dict[str, Any]]) -> tuple[Event, ...]:
    """One event per step, in order. A step logged twice, as a resumed run does, keeps what was logged last."""
    merged: dict[int, dict[str, float]] = {}
    for row in logged:
        values = {key: float(value) for key, value in row.items() if isinstance(value, (int, float))}
        if "step" in values:
            merged.setdefault(int(values["step"]), {}).update(values)
    return tuple(Event(step, merged[step]) for step in sorted(merged))


def _latest(written: tuple[Row, ...], key: Callable[[Row], tuple[object, ...]]) -> tuple[Row, ...]:
    """Rows without those that a resumed run wrote again."""
    return tuple({key(row): row for row in written}.values())
