"""The runs of a comparison themselves: what tells their settings apart, what a reader must know, time and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lpo.report.comparison_data import ComparedRun, Comparison, Difference, SuiteComparison
from lpo.report.comparison_scores import verdict_of
from lpo.report.honesty import Caveat, Weight
from lpo.report.scores import Direction, Measure, Verdict, bracket, measure_of, signed
from lpo.report.stages import StageCost, stage_costs
from lpo.report.stored import Interval
from lpo.report.story import plural

PLACES = ("name", "runs_dir")
"""Settings that say where a run is kept, not what it does."""
VALUE_CHARACTERS = 160
FEW_RUNS = 3
"""Runs that one sentence can hold."""
NOT_SET = "–"
SECTION = "set, see below"


@dataclass(frozen=True)
class Setting:
    """A setting that is not the same in all runs."""

    path: str
    values: tuple[str, ...]
    """Run by run."""


@dataclass(frozen=True)
class StageRow:
    """What one stage of one run took."""

    run: ComparedRun
    status: str
    """Empty where it is complete."""
    values: Mapping[str, str]
    """What -> how much."""


@dataclass(frozen=True)
class StageBlock:
    """One stage of all runs."""

    name: str
    rows: tuple[StageRow, ...]


def differing_settings(runs: Sequence[ComparedRun]) -> tuple[Setting, ...]:
    """The settings in which the resolved configurations differ, in the order in which they stand there. Those of a
    stage that a run has not gone through have done nothing, and are compared among the other runs.
    """
    configs = [_used(run) for run in runs]
    rows = (Setting(path, tuple(_shown(_at(config, path)) for config in configs)) for path in _paths(configs)
            if path not in PLACES and len({repr(_at(config, path)) for config in configs
                                           if path.partition(".")[0] in config}) > 1)
    return tuple(rows)


def _used(run: ComparedRun) -> Mapping[str, Any]:
    stages = run.manifest.stages
    idle = {name for name, stage in (("build", "build"), ("critic", "build"), ("train", "train"))
            if stages and stage not in stages}
    return {name: section for name, section in run.config.items() if name not in idle}


def _paths(configs: Sequence[Mapping[str, Any]], above: str = "") -> Iterator[str]:
    """Every path that leads to a value in one of the configurations, each section before what is in it."""
    for key in dict.fromkeys(key for config in configs for key in config):
        found = [config[key] for config in configs if key in config]
        inner = [value for value in found if isinstance(value, Mapping) and value]
        if len(inner) < len(found):
            yield f"{above}{key}"
        yield from _paths(inner, f"{above}{key}.")


def _at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a path; None also where there is no such setting, as a setting of null and one that another
    version does not know mean the same. Of a section, whose settings have lines of their own, that it is one.
    """
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return SECTION if isinstance(value, Mapping) and value else value


def _shown(value: Any) -> str:
    """A value as it is written in YAML, in one line."""
    if value is None:
        return NOT_SET
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS - 1]}…"


def headline(comparison: Comparison, runs: Sequence[ComparedRun]) -> str:
    """The first score of the first suite, in one sentence: the first run's and, of many others, the best one's."""
    for suite in comparison.suites.values():
        for metric in suite.metrics[:1]:
            measure = measure_of(metric)
            scored = [run for run in runs if _mean(suite, run, measure) is not None]
            if not scored:
                continue
            shown, others = scored, ""
            if len(scored) > FEW_RUNS:
                best = (min if measure.direction is Direction.DOWN else max)(
                    scored[1:], key=lambda run: _mean(suite, run, measure) or 0.0)
                shown, others = [scored[0], best], f"of {len(scored) - 1} others the best is "
            first, *rest = (_said(suite, run, measure, scored[0]) for run in shown)
            return f"{measure.name} on {suite.title}: {'; '.join([first, *(others + text for text in rest)])}."
    return "None of these runs has been evaluated yet." if not comparison.suites else "Nothing was scored."


def _mean(suite: SuiteComparison, run: ComparedRun, measure: Measure) -> float | None:
    return suite.scores.get(run.name, {}).get(measure.key, Interval()).mean


def _said(suite: SuiteComparison, run: ComparedRun, measure: Measure, first: ComparedRun) -> str:
    """A score and, in brackets, what its difference to the first run allows to say."""
    text = f"{run.letter} {measure.write(_mean(suite, run, measure) or 0.0)}"
    change = suite.difference.get(run.name, {}).get(measure.key)
    if change is None:
        return text
    between = bracket(measure, change.interval, signed)
    return f"{text} (difference to {first.letter} {f'{between}, ' if between else ''}{verdict_of(measure, change)[1]})"


def comparison_caveats(comparison: Comparison, runs: Sequence[ComparedRun],
                       settings: Sequence[Setting]) -> tuple[Caveat, ...]:
    """What a reader must know before the numbers, from the runs themselves; what matters most first."""
    found = [*_on_evaluation(comparison, runs), *_on_chance(comparison, runs), *_on_causes(runs, settings)]
    return tuple(sorted(found, key=lambda caveat: list(Weight).index(caveat.weight)))


def _on_evaluation(comparison: Comparison, runs: Sequence[ComparedRun]) -> Iterator[Caveat]:
    silent = [run for run in runs if not any(run.name in suite.scores for suite in comparison.suites.values())]
    if silent:
        yield Caveat(Weight.WARNING, f"Without an evaluation, so without scores here: {_named(silent)}.")
    for suite in comparison.suites.values():
        for warning in suite.warnings:
            yield Caveat(Weight.WARNING, f"{suite.title}: {warning.rstrip('.')}.")
        absent = [run for run in runs if run.name not in suite.scores and run not in silent]
        if absent:
            yield Caveat(Weight.NOTE, f"{suite.title} was not measured for {_named(absent)}.")


def _on_chance(comparison: Comparison, runs: Sequence[ComparedRun]) -> Iterator[Caveat]:
    verdicts = [verdict for verdict, _ in _differences(comparison, runs)]
    if not verdicts:
        return
    tests = sum(verdict is not Verdict.NOT_MEASURED for verdict in verdicts)
    decided = sum(verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.CHANGED) for verdict in verdicts)
    if tests and not decided:
        yield Caveat(Weight.WARNING, f"None of the {plural(tests, 'difference')} is more than chance "
                     "can explain: these evaluations do not tell the runs apart.")
    if tests >= 10:
        yield Caveat(Weight.NOTE, (
            f"The tables of scores hold {tests} differences, each tested by itself. Were all runs equal, about "
            f"{max(1, round(tests * 0.05))} of them would still leave out zero: trust those that were foreseen, and "
            "several that agree."))
    wide = sum(verdict is Verdict.NO_INTERVAL for verdict in verdicts)
    if wide:
        yield Caveat(Weight.NOTE, f"{plural(wide, 'difference')} rest{'s' if wide == 1 else ''} on too few prompts for "
                     "an interval.")


def _differences(comparison: Comparison, runs: Sequence[ComparedRun]) -> Iterator[tuple[Verdict, Difference]]:
    for suite in comparison.suites.values():
        for metric in suite.metrics:
            for run in runs:
                change = suite.difference.get(run.name, {}).get(metric.key)
                if change is not None:
                    yield verdict_of(measure_of(metric), change)[0], change


def _on_causes(runs: Sequence[ComparedRun], settings: Sequence[Setting]) -> Iterator[Caveat]:
    paths = {setting.path for setting in settings}
    configured = [run for run in runs if run.config]
    if len(configured) < len(runs):
        missing = [run for run in runs if run not in configured]
        yield Caveat(Weight.NOTE, f"The configuration of {_named(missing)} is not there, so its settings cannot be "
                     "compared.")
    elif not paths:
        yield Caveat(Weight.NOTE, "All settings are equal: what differs between the runs is chance, or the code.")
    elif paths == {"seed"}:
        yield Caveat(Weight.NOTE, "Only the seed differs: the spread between these runs is that of chance.")
    elif len(paths - {"seed"}) > 1:
        yield Caveat(Weight.NOTE, f"The runs differ in {plural(len(paths), 'setting')}: no difference of scores "
                     "belongs to one of them alone.")
    for name, values in (("prompts", {run.manifest.prompts_hash for run in runs}),
                         ("versions of lpo", {run.manifest.lpo for run in runs})):
        if len(values - {None}) > 1:
            yield Caveat(Weight.NOTE, f"The runs were made with different {name}.")
    machines = {json.dumps(run.manifest.hardware, sort_keys=True, default=str) for run in runs if run.manifest.hardware}
    if len(machines) > 1:
        yield Caveat(Weight.NOTE, "The runs were made on different hardware: their times cannot be compared.")


def _named(runs: Sequence[ComparedRun]) -> str:
    return ", ".join(f"{run.letter} ({run.name})" for run in runs)


def stage_blocks(runs: Sequence[ComparedRun]) -> tuple[StageBlock, ...]:
    """Time and cost of every stage, run by run, and of all stages together."""
    costs = {run: {cost.name: cost for cost in stage_costs(run.manifest)} for run in runs}
    names = dict.fromkeys(name for run in sorted(runs, key=lambda run: -len(costs[run])) for name in costs[run])
    return tuple(StageBlock(name, tuple(_stage_row(run, costs[run].get(name)) for run in runs)) for name in names)


def cost_columns(blocks: Sequence[StageBlock]) -> tuple[str, ...]:
    """What is known of any stage."""
    rows = sorted((row for block in blocks for row in block.rows), key=lambda row: -len(row.values))
    return tuple(dict.fromkeys(name for row in rows for name in row.values))


def _stage_row(run: ComparedRun, cost: StageCost | None) -> StageRow:
    if cost is None:
        return StageRow(run, "not run" if run.manifest.stages else "not recorded", {})
    return StageRow(run, "" if cost.status == "complete" else cost.status, dict(cost.values))
