"""What an evaluation leaves: the scores of each suite, preferences, general abilities, and the measured answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from lpo.report.reading import placed_rows, record
from lpo.report.stored import Answer, Interval, Stored

HELD_OUT = "held_out"
MODELS = ("base", "trained", "model")
"""`base` and `trained` of a run; `model` where one model alone was measured."""
LABELS: Mapping[str, str] = {"base": "Base", "trained": "Trained", "model": "Model"}
TEXT_CHARACTERS = 24_000
"""How much of an answer is kept: no page shows more of it."""


def model_class(model: str) -> str:
    """The class that gives a model's colour."""
    return "base" if model == "base" else "trained"


class MetricData(Stored):
    """A score of a suite and how it is read."""

    key: str
    name: str
    meaning: str
    better: str = "up"
    unit: str = "points"


class PointData(Stored):
    """A point of a curve."""

    x: float
    y: Interval


class CurveData(Stored):
    """Something drawn over something else, for one model."""

    key: str
    title: str
    x: str
    y: str
    points: tuple[PointData, ...] = ()
    diagonal: bool = False


class SuiteData(Stored):
    """An entry of `suites` in `scores.json`."""

    suite: str
    title: str
    source: str = ""
    n_prompts: int = 0
    metrics: tuple[MetricData, ...] = ()
    group_name: str = "group"
    models: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    difference: dict[str, Interval] = Field(default_factory=dict)
    groups: dict[str, dict[str, dict[str, Interval]]] = Field(default_factory=dict)
    group_difference: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    curves: dict[str, tuple[CurveData, ...]] = Field(default_factory=dict)
    unscored: dict[str, dict[str, dict[str, int]]] = Field(default_factory=dict)
    judge: dict[str, Any] | None = None
    decoding: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The models that were measured."""
        return tuple(self.models)

    def of(self, model: str, metric: str) -> Interval:
        """A score; an empty one where it was not taken."""
        return self.models.get(model, {}).get(metric, Interval())

    def of_group(self, model: str, group: str, metric: str) -> Interval:
        """A score inside a group, likewise."""
        return self.groups.get(model, {}).get(group, {}).get(metric, Interval())


class PairwiseData(Stored):
    """An entry of `pairwise` in `scores.json`: base against trained model, answer by answer."""

    win_rate: Interval = Interval()
    """0–100."""
    lc_win_rate: Interval | None = None
    """With length taken out, 0–100."""
    position_bias: Interval = Interval()
    """Share of the verdicts that go to the first place, 0–1."""
    length_difference: Interval = Interval()
    """Characters of the trained model's text minus the base model's."""
    length_effect: float | None = None
    """Above 0: the judge likes length."""
    wins: int = 0
    ties: int = 0
    losses: int = 0
    order_ties: int = 0
    """Prompts where the two orders do not agree; not among `ties`."""
    unscored: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class GuardMeasure(Stored):
    """A measure of one of lm-eval's tasks on both models, or on the only one (as `base`)."""

    base: float | None = None
    trained: float | None = None
    difference: Interval | None = None
    """Without an interval where the measure is no mean over documents."""
    base_stderr: float | None = None
    trained_stderr: float | None = None
    n: int = 0
    """Documents."""
    higher_is_better: bool | None = None


class GuardData(Stored):
    """`guard` in `scores.json`: general abilities."""

    tasks: dict[str, dict[str, GuardMeasure]] = Field(default_factory=dict)
    subtasks: dict[str, dict[str, GuardMeasure]] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    shots: dict[str, int] = Field(default_factory=dict)
    limit: int | None = None
    notes: tuple[str, ...] = ()


class MeasuredData(Stored):
    """An answer with its values: a line of `eval/<suite>/answers.<model>.jsonl`."""

    answer: Answer
    group: str | None = None
    values: dict[str, float | None] = Field(default_factory=dict)
    unscored: dict[str, str] = Field(default_factory=dict)
    characters: int = 0
    """Of the whole text, of which `answer` keeps the beginning."""


Measured = Mapping[str, tuple[MeasuredData, ...]]
"""Model -> its measured answers."""


def read_measured(folder: Path, suite: str) -> Measured:
    """The measured answers to a suite, of every model that has answered it; texts cut to what a page may show.

    Args:
        folder: The run directory.
        suite: By its name. The answers to held-out prompts stand in `eval/` itself, without values.

    Raises:
        DataError: A line is damaged.
    """
    place = folder / "eval" if suite == HELD_OUT else folder / "eval" / suite
    found = {model: tuple({row.answer.prompt_id: row
                           for row in _rows(place / f"answers.{model}.jsonl", bare=suite == HELD_OUT)}.values())
             for model in MODELS}
    return {model: rows for model, rows in found.items() if rows}


def _rows(path: Path, *, bare: bool) -> Iterator[MeasuredData]:
    for number, _, values in placed_rows(path):
        where = f"{path}:{number}"
        row = MeasuredData(answer=record(values, Answer, where)) if bare else record(values, MeasuredData, where)
        kept = row.answer.model_copy(update={"text": row.answer.text[:TEXT_CHARACTERS]})
        yield row.model_copy(update={"answer": kept, "characters": len(row.answer.text)})
