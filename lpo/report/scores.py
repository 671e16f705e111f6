"""What each measure means and how its values, intervals and differences are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from markupsafe import Markup

from lpo.report.charts import plain
from lpo.report.data import Interval, Scores
from lpo.report.suites_data import HELD_OUT, MetricData, SuiteData


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
    """A formatted number with a real minus sign; what rounds to nothing has none."""
    return text.replace("-", "−" if any(digit in text for digit in "123456789") else "")


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
    """A count, or a mean of counts: below 100 with a decimal where it has one."""
    return minus(f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}".removesuffix(".0"))


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
    return f"+{text}" if value > 0 and any(digit in text for digit in "123456789") else text


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
class Figure:
    """A chart with its caption."""

    title: str
    caption: str
    chart: Markup
    header: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    """The numbers of the chart, where no table of the page holds them."""


def cell(measure: Measure, interval: Interval, write: Write = level) -> Cell:
    """A value with its interval, or a dash."""
    if interval.mean is None:
        return Cell("–")
    return Cell(write(measure, interval.mean), bracket(measure, interval, write))


UNITS: Mapping[str, tuple[Callable[[float], str], tuple[float, float] | None]] = {
    "points": (points, (0.0, 100.0)), "share": (percent, (0.0, 1.0)), "score": (unit, None), "words": (whole, None),
}
"""How the scores of a suite are written, and the ends of their axis where the whole scale is worth showing."""
DIRECTIONS: Mapping[str, Direction] = {"up": Direction.UP, "down": Direction.DOWN}


def measure_of(metric: MetricData) -> Measure:
    """How a score of a suite is read and written."""
    write, span = UNITS.get(metric.unit, (plain, None))
    direction = DIRECTIONS.get(metric.better, Direction.NEITHER)
    return Measure(metric.key, metric.name, metric.meaning, direction, write,
                   span if direction is Direction.UP else None)


def in_sentence(name: str) -> str:
    """A name inside a sentence: `length score`, but `S_l` and `CR` as they are."""
    words = name.replace(" ", "")
    return name[0].lower() + name[1:] if words.isalpha() and name[1:].islower() else name


def suites_of(scores: Scores) -> tuple[SuiteData, ...]:
    """The suites of an evaluation, held-out prompts first. One that was stored before there were suites measured those
    alone.
    """
    if scores.suites:
        return tuple(sorted(scores.suites.values(), key=lambda suite: suite.suite != HELD_OUT))
    if not scores.models:
        return ()
    metrics = tuple(MetricData(key=measure.key, name=measure.name, meaning=measure.meaning, unit=_UNIT_OF[measure.key],
                               better={Direction.UP: "up", Direction.DOWN: "down"}.get(measure.direction, "neither"))
                    for measure in MEASURES
                    if any(_taken(values.get(measure.key)) for values in scores.models.values()))
    return (SuiteData(
        suite=HELD_OUT, title="Held-out prompts", n_prompts=scores.n_prompts, metrics=metrics,
        group_name="words asked", models=scores.models, difference=scores.difference,
        groups={model: {name: {"length_score": interval} for name, interval in buckets.items()}
                for model, buckets in scores.buckets.items()}, decoding=scores.decoding),)


_UNIT_OF: Mapping[str, str] = {"length_score": "points", "judge": "score", "repetition": "share", "ended": "share",
                               "words": "words"}


def _taken(interval: Interval | None) -> bool:
    """Was the measure taken at all? A judge that was switched off leaves it without a single answer."""
    return interval is not None and interval.n + interval.unscored > 0
