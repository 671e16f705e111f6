"""The suites of a comparison: every score with its interval, its difference to the first run and what that allows to
say, by group, and the curves of all runs in one chart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lpo.report.charts import plain
from lpo.report.comparison_charts import (
    Level,
    Trace,
    change_mark,
    grouped_levels,
    level_axis,
    level_mark,
    level_ticks,
    overlay_chart,
)
from lpo.report.comparison_data import ComparedRun, Comparison, Difference, SuiteComparison
from lpo.report.scores import UNITS, Figure, Measure, Verdict, bracket, measure_of, signed
from lpo.report.stored import Interval
from lpo.report.story import plural
from lpo.report.suites_data import MetricData

SIGNIFICANT = 0.05
PLOTTED_BY_GROUP = 3
"""Scores of a suite, the first ones, that are shown by group."""
GROUPS = 12
"""Groups that are shown."""


@dataclass(frozen=True)
class RunScore:
    """A line of the table: one score of one run."""

    run: ComparedRun
    value: str
    interval: str
    mark: Markup
    n: str
    unscored: str
    difference: str
    difference_interval: str
    difference_mark: Markup
    p: str
    verdict: str
    verdict_css: str


@dataclass(frozen=True)
class MetricBlock:
    """One score of all runs."""

    name: str
    meaning: str
    axis: Markup
    rows: tuple[RunScore, ...]


@dataclass(frozen=True)
class SuiteView:
    """What the section of one suite shows."""

    name: str
    title: str
    source: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    setting: tuple[tuple[str, str], ...]
    """Judge and decoding: `(name, value)`, run by run where they differ."""
    runs: tuple[ComparedRun, ...]
    """Those that were measured on it; differences are to the first of them."""
    blocks: tuple[MetricBlock, ...]
    groups: tuple[Figure, ...]
    groups_left_out: str
    curves: tuple[Figure, ...]


def suite_views(comparison: Comparison, runs: Sequence[ComparedRun]) -> tuple[SuiteView, ...]:
    """The sections of all suites, in the order of the comparison."""
    return tuple(_view(name, suite, runs) for name, suite in comparison.suites.items())


def verdict_of(measure: Measure, difference: Difference) -> tuple[Verdict, str]:
    """What may be said of a difference, and in which words. The interval decides; where the test says otherwise, the
    difference stays open.
    """
    verdict = measure.direction.verdict(difference.interval)
    found = verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.CHANGED)
    if found and difference.p is not None and difference.p >= SIGNIFICANT:
        return Verdict.OPEN, "open: interval and test disagree"
    if verdict is Verdict.OPEN:
        return verdict, "open: covers zero"
    return verdict, str(verdict)


def write_p(p: float | None) -> str:
    """A p-value with the digits it has."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _view(name: str, suite: SuiteComparison, runs: Sequence[ComparedRun]) -> SuiteView:
    measured = [run for run in runs if run.name in suite.scores]
    names = list(dict.fromkeys(group for of_run in suite.groups.values() for group, scores in of_run.items()
                               if any(one.n + one.unscored for one in scores.values())))
    shown = [metric for metric in suite.metrics if metric.better != "neither"][:PLOTTED_BY_GROUP]
    by_group = [_by_group(name, suite, measured, metric, names[:GROUPS])
                for metric in shown] if len(names) > 1 else []
    return SuiteView(
        name=name, title=suite.title, source=suite.source, warnings=suite.warnings, notes=suite.notes,
        setting=tuple(_settings(suite, measured)), runs=tuple(measured),
        blocks=tuple(_block(suite, measured, metric) for metric in suite.metrics),
        groups=tuple(by_group), groups_left_out=_left_out(len(names) - GROUPS) if by_group else "",
        curves=tuple(_curves(name, suite, measured)),
    )


def _left_out(groups: int) -> str:
    return f"{plural(groups, 'group')} more stand{'s' if groups == 1 else ''} in the runs' scores.json." \
        if groups > 0 else ""


def _block(suite: SuiteComparison, runs: Sequence[ComparedRun], metric: MetricData) -> MetricBlock:
    """The runs that were measured; the first of them is what the others are compared with."""
    measure = measure_of(metric)
    scores = {run.name: suite.scores[run.name].get(measure.key, Interval()) for run in runs}
    ticks = level_ticks([_level(run, scores[run.name]) for run in runs], _limits(metric))
    differences = {run.name: suite.difference.get(run.name, {}).get(measure.key, Difference()) for run in runs}
    reach = max((abs(end) for one in differences.values() for end in one.interval.bounds or ()), default=0.0) or 1.0
    return MetricBlock(
        measure.name, f"{measure.meaning}; {measure.direction}",
        level_axis(ticks, measure.write) if any(one.mean is not None for one in scores.values()) else Markup(""),
        tuple(_row(run, measure, scores[run.name], None if run is runs[0] else differences[run.name], ticks, reach)
              for run in runs))


def _row(run: ComparedRun, measure: Measure, score: Interval, difference: Difference | None, ticks: Sequence[float],
         reach: float) -> RunScore:
    change = difference.interval if difference is not None else Interval()
    verdict, said = verdict_of(measure, difference) if difference is not None else (Verdict.NOT_MEASURED, "")
    return RunScore(
        run=run, value="–" if score.mean is None else measure.write(score.mean), interval=bracket(measure, score),
        mark=level_mark(_level(run, score), ticks),
        n=f"{score.n:,}", unscored=f"{score.unscored:,} unscored" if score.unscored else "",
        difference="" if change.mean is None else signed(measure, change.mean),
        difference_interval=bracket(measure, change, signed),
        difference_mark=Markup("") if change.bounds is None else change_mark(change.bounds, reach, run.index),
        p="" if difference is None or difference.p is None else f"{'' if difference.p < 0.001 else '= '}"
        f"{write_p(difference.p)}", verdict=said,
        verdict_css=verdict.name.lower(),
    )


def _level(run: ComparedRun, score: Interval) -> Level:
    return Level(run.index, run.letter, score.mean, score.bounds)


def _limits(metric: MetricData) -> tuple[float, float] | None:
    return UNITS[metric.unit][1] if metric.unit in UNITS else None


def _by_group(name: str, suite: SuiteComparison, runs: Sequence[ComparedRun], metric: MetricData,
              groups: Sequence[str]) -> Figure:
    measure = measure_of(metric)
    drawn: list[tuple[str, list[Level]]] = []
    table: list[tuple[str, ...]] = []
    for group in groups:
        levels: list[Level] = []
        for run in runs:
            score = suite.groups.get(run.name, {}).get(group, {}).get(measure.key, Interval())
            difference = suite.group_difference.get(run.name, {}).get(group, {}).get(measure.key)
            levels.append(_level(run, score))
            table.append((group, f"{run.letter} {run.name}", *_cells(measure, score), *_changes(measure, difference)))
        drawn.append((group, levels))
    title = f"{measure.name} by {suite.group_name}"
    open_groups = _undecided(suite, runs, measure, groups)
    return Figure(
        title, f"{measure.direction}{open_groups}",
        grouped_levels(f"groups-{name}-{measure.key}", title, f"{measure.meaning}; the numbers follow", drawn,
                       write=measure.write, limits=_limits(metric)),
        (suite.group_name, "run", "score", "interval", "n", "difference", "interval", "p", "verdict"), tuple(table))


def _undecided(suite: SuiteComparison, runs: Sequence[ComparedRun], measure: Measure, groups: Sequence[str]) -> str:
    """Groups in which no run can be told from the first one, each with the prompts that were to decide it."""
    found: list[str] = []
    for group in groups:
        differences = [difference for run in runs
                       if (difference := suite.group_difference.get(run.name, {}).get(group, {}).get(measure.key))]
        if differences and all(verdict_of(measure, one)[0] in (Verdict.OPEN, Verdict.NO_INTERVAL)
                               for one in differences):
            prompts = max(one.interval.n for one in differences)
            found.append(f"{group} ({plural(prompts, 'prompt')})")
    return f"; open, as every difference to the first run may be chance: {', '.join(found)}" if found else ""


def _cells(measure: Measure, score: Interval) -> tuple[str, str, str]:
    return ("–" if score.mean is None else measure.write(score.mean), bracket(measure, score), f"{score.n:,}")


def _changes(measure: Measure, difference: Difference | None) -> tuple[str, str, str, str]:
    if difference is None or difference.interval.mean is None:
        return "", "", "", ""
    change = difference.interval
    assert change.mean is not None
    return (signed(measure, change.mean), bracket(measure, change, signed), write_p(difference.p),
            verdict_of(measure, difference)[1])


def _curves(name: str, suite: SuiteComparison, runs: Sequence[ComparedRun]) -> Iterator[Figure]:
    """Curves of one key in one chart, run over run."""
    keys = dict.fromkeys(curve.key for run in runs for curve in suite.curves.get(run.name, ()))
    for key in keys:
        found = [(run, curve) for run in runs for curve in suite.curves.get(run.name, ()) if curve.key == key]
        known = found[0][1]
        traces: list[Trace] = []
        table: list[tuple[str, ...]] = []
        for run, curve in found:
            placed = [(point.x, point.y, point.y.mean) for point in curve.points if point.y.mean is not None]
            traces.append(Trace(run.index, tuple((x, mean) for x, _, mean in placed),
                                tuple(y.bounds for _, y, _ in placed)))
            table += [(f"{run.letter} {run.name}", plain(round(x, 2)), plain(round(mean, 3)), _ends(y), str(y.n))
                      for x, y, mean in placed]
        if table:
            meaning = f"{known.y}; {'the dashed line is as asked' if known.diagonal else 'with 95 % intervals'}"
            chart = overlay_chart(f"curve-{name}-{key}", known.title, f"{meaning}; the numbers follow",
                                  [trace for trace in traces if trace.points], x_name=known.x, diagonal=known.diagonal)
            yield Figure(known.title, meaning, chart, ("run", known.x, known.y, "interval", "n"), tuple(table))


def _ends(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"[{plain(round(interval.low, 3))}, {plain(round(interval.high, 3))}]"


def _settings(suite: SuiteComparison, runs: Sequence[ComparedRun]) -> Iterator[tuple[str, str]]:
    """Who judged and how answers were drawn; what all runs share is said once."""
    for title, of_runs, describe in (("Judge", suite.judge, _judge), ("Decoding", suite.decoding, _decoding)):
        said = {run: describe(of_runs.get(run.name)) for run in runs}
        if len(set(said.values())) == 1:
            yield title, next(iter(said.values()))
        else:
            yield from ((f"{title}, {run.letter}", text) for run, text in said.items())


def _judge(judge: Any) -> str:
    if judge is None:
        return "none, or not recorded"
    if not isinstance(judge, Mapping):
        return str(judge)
    parts = [str(judge[key]) for key in ("name", "model") if judge.get(key)]
    reward = "; it was the training reward too, so its score of a trained model is no independent evidence"
    return ", ".join(parts) + (reward if judge.get("was_training_reward") else "")


def _decoding(decoding: Any) -> str:
    if not isinstance(decoding, Mapping):
        return "not known"
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in decoding.items() if value is not None)
