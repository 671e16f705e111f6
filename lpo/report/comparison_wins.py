"""Which run's texts are preferred to which: a matrix to be read by its numbers, with a tint for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lpo.report.comparison_data import ComparedRun, Comparison, WinRate
from lpo.report.scores import minus
from lpo.report.stored import Interval

EVEN = 50.0


class Outcome(StrEnum):
    """What the interval of a win-rate allows to say."""

    PREFERRED = "preferred"
    NOT_PREFERRED = "not preferred"
    OPEN = "open"
    NO_INTERVAL = "too few for an interval"
    UNSCORED = "nothing scored"

    @classmethod
    def of(cls, rate: Interval) -> Outcome:
        """The outcome of a win-rate on 0–100."""
        if rate.mean is None:
            return cls.UNSCORED
        if rate.bounds is None:
            return cls.NO_INTERVAL
        low, _, high = rate.bounds
        return cls.OPEN if low <= EVEN <= high else cls.PREFERRED if low > EVEN else cls.NOT_PREFERRED


@dataclass(frozen=True)
class WinCell:
    """How often the run of the row is preferred to the run of the column."""

    column: ComparedRun
    value: str
    interval: str
    n: str
    controlled: str
    """The same with the length taken out."""
    outcome: Outcome | None
    """None: they were not compared."""
    tint: str


@dataclass(frozen=True)
class WinMatrixView:
    """The matrix of one suite."""

    name: str
    title: str
    runs: tuple[ComparedRun, ...]
    rows: tuple[tuple[ComparedRun, tuple[WinCell | None, ...]], ...]
    """Row by row; None where a run would meet itself."""
    controlled: bool
    """Is the length taken out anywhere?"""


def win_matrices(comparison: Comparison, runs: Sequence[ComparedRun]) -> tuple[WinMatrixView, ...]:
    """The win-rates of every suite that was judged pairwise, over the runs that were compared."""
    return tuple(view for name in comparison.win_rates if (view := _matrix(name, comparison, runs)).runs)


def _matrix(name: str, comparison: Comparison, runs: Sequence[ComparedRun]) -> WinMatrixView:
    rates = comparison.win_rates[name]
    met = [run for run in runs if rates.get(run.name) or any(run.name in row for row in rates.values())]
    rows = tuple((row, tuple(None if row is column else _cell(column, rates.get(row.name, {}).get(column.name))
                             for column in met)) for row in met)
    title = comparison.suites[name].title if name in comparison.suites else name.replace("_", " ")
    return WinMatrixView(name, title, tuple(met), rows,
                         any(rate.lc is not None for row in rates.values() for rate in row.values()))


def _cell(column: ComparedRun, rate: WinRate | None) -> WinCell:
    if rate is None:
        return WinCell(column, "–", "", "", "", None, "")
    interval = rate.interval
    unscored = f", {interval.unscored:,} unscored" if interval.unscored else ""
    return WinCell(
        column, "–" if interval.mean is None else _percent(interval.mean), _bracket(interval),
        f"n = {interval.n:,}{unscored}", _controlled(rate.lc), Outcome.of(interval),
        "" if interval.mean is None else f"win-{min(4, max(0, int((interval.mean - 25) // 10)))}")


def _controlled(rate: Interval | None) -> str:
    if rate is None:
        return ""
    return "–" if rate.mean is None else f"{_percent(rate.mean)} {_bracket(rate)}".rstrip()


def _percent(value: float) -> str:
    return f"{value:.1f}\u202f%"


def _bracket(interval: Interval) -> str:
    if interval.bounds is None:
        return ""
    low, _, high = interval.bounds
    return minus(f"[{low:.1f}, {high:.1f}]")
