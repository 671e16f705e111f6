"""The scores of base and trained model: what each measure means, the table, and the interval plots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from markupsafe import Markup

from lpo.report.charts import IntervalRow, difference_mark, interval_chart
from lpo.report.data import Interval, RunData, Scores

MODELS = ("base", "trained")


class Direction(StrEnum):
    """Which way a measure gets better."""

    UP = "higher is better"
    DOWN = "lower is better"
    NEITHER = "neither is better by itself"

    def verdict(self, difference: Interval) -> Verdict:
        """What the interval of a difference allows to say."""
        if difference.mean is None:
            return Verdict.NOT_MEASURED
        if difference.bounds is None:
            return Verdict.NO_INTERVAL
        low, _, high = difference.bounds
        if low <= 0 <= high:
            return Verdict.OPEN
        if self is Direction.NEITHER:
            return Verdict.CHANGED
        return Verdict.BETTER if (low > 0) == (self is Direction.UP) else Verdict.WORSE


class Verdict(StrEnum):
    """What may be said of a difference."""

    BETTER = "better"
    WORSE = "worse"
    CHANGED = "changed"
    OPEN = "covers zero"
    NO_INTERVAL = "too few for an interval"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Measure:
    """A column of scores.json and how to read it."""

    key: str
    name: str
    meaning: str
    direction: Direction
    write: Callable[[float], str]
    span: tuple[float, float] | None = None


def minus(text: str) -> str:
    """A formatted number with a real minus sign."""
    return text.replace("-", "−")


def points(value: float) -> str:
    """A number of points on a scale to 100."""
    return minus(f"{value:.1f}".removesuffix(".0"))


def percent(value: float) -> str:
    """A share as a percentage."""
    return minus(f"{value * 100:.1f}".removesuffix(".0")) + "\u202f%"


def unit(value: float) -> str:
    """A score on 0–1."""
    return minus(f"{value:.3f}".rstrip("0").rstrip(".") if value else "0")


def whole(value: float) -> str:
    """A count."""
    return minus(f"{value:,.0f}")


MEASURES = (
    Measure("length_score", "Length score", "how close the length comes to the one asked for, 0–100",
            Direction.UP, points, (0.0, 100.0)),
    Measure("judge", "Judge", "the judge's mean score of the text, 0–1", Direction.UP, unit),
    Measure("repetition", "Repetition", "share of four-word sequences that stood before in the same text",
            Direction.DOWN, percent),
    Measure("ended", "Ended by itself", "share of answers that ended before the token limit cut them",
            Direction.UP, percent, (0.0, 1.0)),
    Measure("words", "Words", "words written (Chinese: characters)", Direction.NEITHER, whole),
)
MEASURE = {measure.key: measure for measure in MEASURES}
ACCURACY = Measure("preference_accuracy", "Held-out preference accuracy",
                   "share of held-out pairs where the chosen side has the higher mean log-probability per token",
                   Direction.UP, percent, (0.0, 1.0))


def signed(measure: Measure, value: float) -> str:
    """A difference with its sign."""
    text = measure.write(value)
    return text if value <= 0 else f"+{text}"


def level(measure: Measure, value: float) -> str:
    """A value on the measure's own scale."""
    return measure.write(value)


Write = Callable[[Measure, float], str]


def bracket(measure: Measure, interval: Interval, write: Write = level) -> str:
    """`[low, high]`, or nothing when there is no interval."""
    if interval.low is None or interval.high is None:
        return ""
    return f"[{write(measure, interval.low)}, {write(measure, interval.high)}]"


@dataclass(frozen=True)
class Cell:
    """A value of the table with its interval."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """A line of the table of scores."""

    name: str
    meaning: str
    base: Cell
    trained: Cell
    difference: Cell
    verdict: Verdict
    mark: Markup
    n: str
    unscored: str


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    title: str
    caption: str
    chart: Markup
    header: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    """The numbers of the chart, where no table of the page holds them."""


@dataclass(frozen=True)
class ScoreSection:
    """Everything the section on scores shows."""

    rows: tuple[ScoreRow, ...]
    figures: tuple[Figure, ...]
    buckets: Figure | None
    accuracy: Figure | None
    decoding: tuple[tuple[str, str], ...]
    dots_without_line: bool
    """Is there a mean without an interval?"""


def score_section(run: RunData) -> ScoreSection | None:
    """The section on scores, or None before the evaluation."""
    scores = run.scores
    if scores is None:
        return None
    measured = [measure for measure in MEASURES if any(_taken(scores, model, measure) for model in MODELS)]
    return ScoreSection(
        rows=tuple(_row(scores, measure) for measure in measured),
        figures=tuple(_figure(scores, measure) for measure in measured),
        buckets=_buckets(scores),
        accuracy=_accuracy(scores, run.held_out_pairs),
        decoding=tuple((name, str(value)) for name, value in scores.decoding.items() if value is not None),
        dots_without_line=any(interval.mean is not None and interval.bounds is None
                              for values in (*scores.models.values(), *scores.buckets.values())
                              for interval in values.values()),
    )


def _taken(scores: Scores, model: str, measure: Measure) -> bool:
    """Was the measure taken at all? A judge that was switched off leaves it without a single answer."""
    interval = scores.models.get(model, {}).get(measure.key, Interval())
    return interval.n + interval.unscored > 0


def _row(scores: Scores, measure: Measure) -> ScoreRow:
    base, trained = (scores.models.get(model, {}).get(measure.key, Interval()) for model in MODELS)
    difference = scores.difference.get(measure.key, Interval())
    verdict = measure.direction.verdict(difference)
    mark = Markup("")
    if difference.bounds is not None:
        low, mean, high = (signed(measure, value) for value in difference.bounds)
        mark = difference_mark(f"difference-{measure.key}", f"{measure.name}: {mean}, interval from {low} to {high}",
                               difference.bounds, verdict.name.lower())
    return ScoreRow(
        name=measure.name, meaning=f"{measure.meaning}; {measure.direction}",
        base=_cell(measure, base), trained=_cell(measure, trained), difference=_cell(measure, difference, signed),
        verdict=verdict, mark=mark, n=f"{base.n} / {trained.n} / {difference.n}",
        unscored=f"{base.unscored} / {trained.unscored}",
    )


def _cell(measure: Measure, interval: Interval, write: Write = level) -> Cell:
    if interval.mean is None:
        return Cell("–")
    return Cell(write(measure, interval.mean), bracket(measure, interval, write))


def _interval_rows(base: Interval, trained: Interval) -> list[IntervalRow]:
    return [IntervalRow(model, model, interval.mean, interval.bounds)
            for model, interval in zip(MODELS, (base, trained), strict=True)]


def _figure(scores: Scores, measure: Measure) -> Figure:
    base, trained = (scores.models.get(model, {}).get(measure.key, Interval()) for model in MODELS)
    return Figure(measure.name, str(measure.direction), interval_chart(
        f"score-{measure.key}", measure.name, _described(measure, base, trained), _interval_rows(base, trained),
        write=measure.write, span=measure.span))


def _described(measure: Measure, base: Interval, trained: Interval) -> str:
    parts = [f"{model}: {_cell(measure, interval).value} {bracket(measure, interval)}".rstrip()
             for model, interval in zip(MODELS, (base, trained), strict=True)]
    return f"{measure.meaning}. {'; '.join(parts)}"


def _buckets(scores: Scores) -> Figure | None:
    """Length scores by the length asked for."""
    names = list(dict.fromkeys(name for model in MODELS for name, interval in scores.buckets.get(model, {}).items()
                               if interval.n + interval.unscored))
    if not names:
        return None
    length = MEASURE["length_score"]
    rows: list[IntervalRow] = []
    table: list[tuple[str, ...]] = []
    for name in names:
        for model in MODELS:
            interval = scores.buckets.get(model, {}).get(name, Interval())
            rows.append(IntervalRow(name if model == "base" else "", model, interval.mean, interval.bounds))
            table.append((name, model, _cell(length, interval).value, bracket(length, interval), str(interval.n)))
    described = "; ".join(" ".join(row) for row in table)
    return Figure(
        "Length score by words asked", "the first line of each is the base model",
        interval_chart("buckets", "Length score by words asked", described, rows, write=length.write, span=length.span),
        ("words asked", "model", "score", "interval", "n"), tuple(table))


def _accuracy(scores: Scores, pairs: int) -> Figure | None:
    if not scores.preference_accuracy:
        return None
    base, trained = (scores.preference_accuracy.get(model, Interval()) for model in MODELS)
    counted = f"{pairs} held-out pairs" if pairs else f"n = {trained.n}"
    return Figure(ACCURACY.name, f"{ACCURACY.meaning}; {counted}; the thin line is chance", interval_chart(
        "accuracy", ACCURACY.name, _described(ACCURACY, base, trained), _interval_rows(base, trained),
        write=ACCURACY.write, span=ACCURACY.span, reference=0.5))
