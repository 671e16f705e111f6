"""Which of two models a judge prefers, and what became of general abilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from lpo.report.charts import Bounds, IntervalRow, difference_mark, interval_chart
from lpo.report.data import Interval
from lpo.report.scores import Cell, Direction, Figure, Verdict, percent, unit, whole
from lpo.report.suites_charts import share_bar
from lpo.report.suites_data import GuardData, GuardTask, PairwiseData


@dataclass(frozen=True)
class PairwiseView:
    """What is shown of a comparison of two models, answer by answer."""

    key: str
    title: str
    figure: Figure
    counts: Markup
    counted: str
    verdict: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class GuardRow:
    """A measure of one of lm-eval's tasks."""

    task: str
    measure: str
    base: str
    trained: str
    difference: Cell
    mark: Markup
    verdict: Verdict


@dataclass(frozen=True)
class GuardView:
    """What is shown of general abilities."""

    rows: tuple[GuardRow, ...]
    paired: bool
    versions: str
    limit: int | None
    notes: tuple[str, ...]


def pairwise_view(key: str, title: str, data: PairwiseData) -> PairwiseView:
    """Win-rates of the trained model over the base model on a suite."""
    rates = [("win-rate", "trained", data.win_rate)]
    captions = ["how often the trained model's answer is preferred to the base model's; ties count half"]
    if data.lc_win_rate is not None:
        rates.append(("equal length", "trained", data.lc_win_rate))
        captions.append("equal length: what would be left if both were as long")
    if data.position_bias.mean is not None:
        rates.append(("first place", "unused", _scaled(data.position_bias, 100)))
        captions.append("first place: how often the judge prefers what stands first, whoever wrote it")
    table = tuple((name, rate(interval), str(interval.n), str(interval.unscored)) for name, _, interval in rates)
    chart = interval_chart(
        f"pairwise-{key}", f"Win-rates, {title}", "; ".join(" ".join(row) for row in table),
        [IntervalRow(name, css, interval.mean, interval.bounds) for name, css, interval in rates],
        write=_per_cent, span=(0.0, 100.0), reference=50.0)
    counted = f"{data.wins:,} won, {data.ties:,} tied, {data.losses:,} lost"
    if data.order_ties:
        counted += f", {data.order_ties:,} where the two orders disagree"
    if data.unscored:
        counted += "; no verdict on " + ", ".join(
            f"{count:,} ({reason.replace('_', ' ')})" for reason, count in data.unscored.items())
    return PairwiseView(
        key, title, Figure("Win-rate", "; ".join(captions), chart, ("", "rate", "n", "unscored"), table),
        share_bar(f"pairwise-counts-{key}", f"Won, tied and lost, {title}", counted, [
            ("won", "better", data.wins), ("tied", "unused", data.ties), ("disagree", "halved", data.order_ties),
            ("lost", "worse", data.losses)]),
        counted, " ".join(filter(None, [preferred(data.win_rate), _on_length(data)])), data.notes)


def rate(interval: Interval) -> str:
    """A rate on 0–100 with its interval."""
    if interval.mean is None:
        return "–"
    ends = "" if interval.bounds is None else (
        f" [{_per_cent(interval.bounds[0])}, {_per_cent(interval.bounds[2])}]")
    return _per_cent(interval.mean) + ends


def preferred(found: Interval) -> str:
    """What the interval of a win-rate on 0–100 allows to say."""
    if found.mean is None:
        return "Nothing was judged."
    if found.bounds is None:
        return f"{found.n} verdict{'' if found.n == 1 else 's'}: too few for an interval."
    low, _, high = found.bounds
    if low <= 50 <= high:
        return "The interval covers one half: which model the judge prefers is open."
    return f"The judge prefers the {'trained' if low > 50 else 'base'} model: the interval leaves out one half."


def _on_length(data: PairwiseData) -> str:
    """How much longer the trained model's answers are, and whether the judge likes that."""
    found = data.length_difference
    if found.mean is None:
        return ""
    ends = "" if found.bounds is None else f" [{whole(found.bounds[0])}, {whole(found.bounds[2])}]"
    said = (f"The trained model's answers are {whole(abs(found.mean))} characters "
            f"{'longer' if found.mean >= 0 else 'shorter'} on average{ends}.")
    if data.length_effect is None:
        return said
    return f"{said} This judge {'likes' if data.length_effect > 0 else 'does not like'} length."


def _scaled(interval: Interval, factor: float) -> Interval:
    low, mean, high = (None if value is None else value * factor
                       for value in (interval.low, interval.mean, interval.high))
    return interval.model_copy(update={"low": low, "mean": mean, "high": high})


def _per_cent(value: float) -> str:
    return percent(value / 100)


def guard_view(data: GuardData) -> GuardView:
    """lm-eval's tasks, each measure a line."""
    paired = any(task.difference is not None for measures in data.tasks.values() for task in measures.values())
    rows = tuple(_guard_row(task, name, value, f"guard-{place}-{index}")
                 for place, (task, measures) in enumerate(data.tasks.items())
                 for index, (name, value) in enumerate(measures.items()))
    versions = ", ".join(f"{name} {version}" for name, version in data.versions.items() if version)
    return GuardView(rows, paired, versions, data.limit, data.notes)


def _guard_row(task: str, name: str, value: GuardTask, key: str) -> GuardRow:
    write: Callable[[float], str] = percent if all(0 <= known <= 1 for known in (value.base, value.trained)
                                                   if known is not None) else unit
    difference = value.difference or Interval()
    measure = name.partition(",")[0]  # what follows is lm-eval's filter of the replies
    verdict = (Direction.DOWN if measure in _LOWER else Direction.UP).verdict(difference)
    mark = Markup("")
    if difference.bounds is not None:
        bounds: Bounds = difference.bounds
        mark = difference_mark(key, f"{task}, {name}: {write(bounds[1])}, interval from {write(bounds[0])} to "
                               f"{write(bounds[2])}", bounds, verdict.name.lower())
    mean = "–" if difference.mean is None else ("+" if difference.mean > 0 else "") + write(difference.mean)
    ends = "" if difference.bounds is None else f"[{write(difference.bounds[0])}, {write(difference.bounds[2])}]"
    return GuardRow(task, measure.replace("_", " "), _known(value.base, write),
                    _known(value.trained, write), Cell(mean, ends), mark,
                    verdict)


_LOWER = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"})
"""lm-eval's measures that are better when they are lower."""


def _known(value: float | None, write: Callable[[float], str]) -> str:
    return "–" if value is None else write(value)
