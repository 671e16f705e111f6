"""Which of two models a judge prefers, and what became of general abilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lpo.report.charts import IntervalRow, difference_mark, interval_chart
from lpo.report.data import Interval
from lpo.report.scores import Cell, Direction, Figure, Verdict, percent, unit, whole
from lpo.report.suites_charts import share_bar
from lpo.report.suites_data import GuardData, GuardMeasure, PairwiseData


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
    cells: tuple[tuple[str, Cell], ...]
    """`(model, value with its standard error)`."""
    difference: Cell | None
    mark: Markup
    css: str
    verdict: str
    n: str


@dataclass(frozen=True)
class GuardView:
    """What is shown of general abilities."""

    rows: tuple[GuardRow, ...]
    subtasks: tuple[GuardRow, ...]
    models: tuple[str, ...]
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
    if not data.length_effect or data.win_rate.bounds is None:  # of so few verdicts nothing more is said
        return said
    return f"{said} In these verdicts length speaks {'for' if data.length_effect > 0 else 'against'} a text."


def _scaled(interval: Interval, factor: float) -> Interval:
    low, mean, high = (None if value is None else value * factor
                       for value in (interval.low, interval.mean, interval.high))
    return interval.model_copy(update={"low": low, "mean": mean, "high": high})


def _per_cent(value: float) -> str:
    return percent(value / 100)


def guard_view(data: GuardData) -> GuardView:
    """lm-eval's tasks, each measure a line."""
    paired = any(measure.difference is not None for measures in data.tasks.values() for measure in measures.values())
    models = ("Base", "Trained") if paired else ("Model",)
    versions = ", ".join(f"{name} {version}" for name, version in data.versions.items() if version)
    return GuardView(_guard_rows(data, data.tasks, models, "guard"), _guard_rows(data, data.subtasks, models, "part"),
                     models, versions, data.limit, data.notes)


def _guard_rows(data: GuardData, tasks: Mapping[str, Mapping[str, GuardMeasure]], models: tuple[str, ...],
                key: str) -> tuple[GuardRow, ...]:
    return tuple(_guard_row(task, data.shots.get(task), name, measure, models, f"{key}-{place}-{index}")
                 for place, (task, measures) in enumerate(tasks.items())
                 for index, (name, measure) in enumerate(measures.items()))


def _guard_row(task: str, shots: int | None, name: str, measure: GuardMeasure, models: tuple[str, ...],
               key: str) -> GuardRow:
    values = (measure.base, measure.trained)
    write: Callable[[float], str] = percent if all(0 <= value <= 1 for value in values if value is not None) else unit
    cells = tuple((model, Cell("–" if value is None else write(value), f"± {write(error)}" if error else ""))
                  for model, value, error in zip(models, values, (measure.base_stderr, measure.trained_stderr),
                                                 strict=False))
    named = [name.partition(",")[0].replace("_", " "), f"{shots}-shot" if shots is not None else ""]
    found = measure.difference
    if found is None:
        return GuardRow(task, ", ".join(filter(None, named)), cells, None, Markup(""), "", "", f"{measure.n:,}")
    direction = {True: Direction.UP, False: Direction.DOWN, None: Direction.NEITHER}[measure.higher_is_better]
    verdict = direction.verdict(found)
    mark = Markup("")
    if found.bounds is not None:
        mark = difference_mark(key, f"{task}, {named[0]}: {write(found.bounds[1])}, interval from "
                               f"{write(found.bounds[0])} to {write(found.bounds[2])}", found.bounds,
                               verdict.name.lower())
    ends = "" if found.bounds is None else f"[{_signed(found.bounds[0], write)}, {_signed(found.bounds[2], write)}]"
    return GuardRow(task, ", ".join(filter(None, named)), cells,
                    Cell("–" if found.mean is None else _signed(found.mean, write), ends), mark, verdict.name.lower(),
                    "no interval" if verdict is Verdict.NO_INTERVAL else verdict.value, f"{measure.n:,}")


def _signed(value: float, write: Callable[[float], str]) -> str:
    return ("+" if value > 0 else "") + write(value)
