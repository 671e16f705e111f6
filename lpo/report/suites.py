"""The section on scores: each suite's table, groups, curves and lengths, then preferences and general abilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lpo.report.charts import IntervalRow, difference_mark, interval_chart
from lpo.report.data import Interval, RunData, Scores
from lpo.report.entries import beginning
from lpo.report.scores import (
    ACCURACY,
    Cell,
    Figure,
    Measure,
    Verdict,
    bracket,
    cell,
    measure_of,
    signed,
    suites_of,
)
from lpo.report.suites_curves import curve_figures, scatter_figure
from lpo.report.suites_data import LABELS, SuiteData, model_class
from lpo.report.suites_pairwise import GuardView, PairwiseView, guard_view, pairwise_view

HEADLINES = 3
"""Scores of a suite that are plotted group by group."""
EVERYWHERE = frozenset({"repetition", "ended", "words", "words_all"})
"""What every suite measures beside its own scores."""
GROUPS_PLOTTED = 12
GROUPS_LISTED = 60


@dataclass(frozen=True)
class ScoreRow:
    """A line of the table of scores.

    Args:
        name: Of the score.
        meaning: What it is, and which way is better.
        cells: A value for each model.
        difference: Trained minus base; None with one model.
        verdict: What may be said of the difference.
        mark: The difference and its interval, drawn about zero.
        n: How many answers were scored, model by model and then in both.
        unscored: How many were not, model by model.
    """

    name: str
    meaning: str
    cells: tuple[Cell, ...]
    difference: Cell | None
    verdict: Verdict
    mark: Markup
    n: str
    unscored: str


@dataclass(frozen=True)
class SuiteView:
    """What is shown of a suite."""

    key: str
    title: str
    source: str
    n_prompts: int
    models: tuple[tuple[str, str], ...]
    """`(class, label)` of each model, in the order of the columns."""
    paired: bool
    rows: tuple[ScoreRow, ...]
    group_name: str
    group_figures: tuple[Figure, ...]
    group_table: Figure | None
    decided: tuple[str, ...]
    """What single groups do not show, a sentence each."""
    figures: tuple[Figure, ...]
    """Lengths and curves."""
    unscored: tuple[tuple[str, str, str, int], ...]
    """`(model, value, reason, count)`."""
    made: tuple[tuple[str, str], ...]
    """How the answers were drawn, and who judged."""
    notes: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    has_texts: bool


@dataclass(frozen=True)
class ScoreSection:
    """Everything the section on scores shows."""

    suites: tuple[SuiteView, ...]
    accuracy: Figure | None
    pairwise: tuple[PairwiseView, ...]
    guard: GuardView | None
    versions: str
    dots_without_line: bool
    """Is there a mean without an interval?"""

    @property
    def paired(self) -> bool:
        """Are two models compared?"""
        return any(suite.paired for suite in self.suites)


def score_section(run: RunData) -> ScoreSection | None:
    """The section on scores, or None before the evaluation."""
    scores = run.scores
    if scores is None:
        return None
    suites = suites_of(scores)
    titles = {suite.suite: suite.title for suite in suites}
    return ScoreSection(
        suites=tuple(_suite_view(suite, run) for suite in suites), accuracy=_accuracy(scores, run.held_out_pairs),
        pairwise=tuple(pairwise_view(name, titles.get(name, name), pairwise)
                       for name, pairwise in scores.pairwise.items()),
        guard=guard_view(scores.guard) if scores.guard is not None else None,
        versions=", ".join(f"{name} {version}" for name, version in scores.versions.items() if version),
        dots_without_line=any(interval.mean is not None and interval.bounds is None for suite in suites
                              for of_model in suite.models for interval in _all(suite, of_model)),
    )


def _all(suite: SuiteData, model: str) -> list[Interval]:
    return [*suite.models[model].values(), *(interval for group in suite.groups.get(model, {}).values()
                                             for interval in group.values())]


def _suite_view(suite: SuiteData, run: RunData) -> SuiteView:
    measures = [measure_of(metric) for metric in suite.metrics]
    groups = groups_of(suite)
    measured = run.measured.get(suite.suite, {})
    names = {measure.key: measure.name for measure in measures}
    scatter = scatter_figure(suite, measured)
    return SuiteView(
        key=suite.suite, title=suite.title, source=suite.source, n_prompts=suite.n_prompts,
        models=tuple((model_class(model), LABELS.get(model, model)) for model in suite.names),
        paired=bool(suite.difference), rows=tuple(score_row(suite, measure) for measure in measures),
        group_name=suite.group_name,
        group_figures=tuple(figure for measure in _headlines(measures)
                            if (figure := group_figure(suite, measure, groups)) is not None),
        group_table=_group_table(suite, measures, groups), decided=tuple(decided_groups(suite, measures, groups)),
        figures=(*((scatter,) if scatter is not None else ()), *curve_figures(suite)),
        unscored=tuple((LABELS.get(model, model), names.get(value, value.replace("_", " ")), reason, count)
                       for model, values in suite.unscored.items() for value, reasons in values.items()
                       for reason, count in sorted(reasons.items(), key=lambda item: -item[1])),
        made=tuple(_made(suite)), notes=suite.notes,
        legend=tuple((model_class(model), LABELS.get(model, model)) for model in suite.names),
        has_texts=any(measured.values()),
    )


def groups_of(suite: SuiteData) -> tuple[str, ...]:
    """Groups in which anything was written, in their order."""
    names = dict.fromkeys(group for groups in suite.groups.values() for group in groups)
    return tuple(group for group in names if any(
        interval.n + interval.unscored for groups in suite.groups.values()
        for interval in groups.get(group, {}).values()))


def _headlines(measures: Sequence[Measure]) -> Sequence[Measure]:
    """The suite's own scores, the most important ones."""
    return [measure for measure in measures if measure.key not in EVERYWHERE][:HEADLINES]


def score_row(suite: SuiteData, measure: Measure) -> ScoreRow:
    """The line of a measure."""
    scores = [suite.of(model, measure.key) for model in suite.names]
    difference = suite.difference.get(measure.key, Interval()) if suite.difference else None
    verdict = measure.direction.verdict(difference or Interval())
    mark = Markup("")
    if difference is not None and difference.bounds is not None:
        low, mean, high = (signed(measure, value) for value in difference.bounds)
        mark = difference_mark(f"difference-{suite.suite}-{measure.key}",
                               f"{measure.name}: {mean}, interval from {low} to {high}", difference.bounds,
                               verdict.name.lower())
    both = [] if difference is None else [difference]
    return ScoreRow(
        name=measure.name, meaning=f"{measure.meaning}; {measure.direction}",
        cells=tuple(cell(measure, score) for score in scores),
        difference=None if difference is None else cell(measure, difference, signed), verdict=verdict, mark=mark,
        n=" / ".join(str(interval.n) for interval in (*scores, *both)),
        unscored=" / ".join(str(interval.unscored) for interval in scores),
    )


def group_figure(suite: SuiteData, measure: Measure, groups: Sequence[str]) -> Figure | None:
    """A score group by group, a line for each model; None where the suite has no groups, or no score in any."""
    shown = [group for group in groups if any(_taken(suite.of_group(model, group, measure.key))
                                              for model in suite.names)][:GROUPS_PLOTTED]
    if not shown:
        return None
    rows: list[IntervalRow] = []
    table: list[tuple[str, ...]] = []
    for group in shown:
        for place, model in enumerate(suite.names):
            interval = suite.of_group(model, group, measure.key)
            rows.append(IntervalRow(beginning(group, 18) if not place else "", model_class(model), interval.mean,
                                    interval.bounds))
            table.append((group, model, cell(measure, interval).value, bracket(measure, interval), str(interval.n)))
    title = f"{measure.name} by {suite.group_name}"
    captions = ["the first line of each is the base model"] if suite.difference else []
    if len(shown) < len(groups):
        captions.append(f"the first {len(shown)} of {len(groups)}")
    return Figure(title, "; ".join(captions or [str(measure.direction)]), interval_chart(
        f"groups-{suite.suite}-{measure.key}", title, "; ".join(" ".join(row) for row in table), rows,
        write=measure.write, span=measure.span), (suite.group_name, "model", "score", "interval", "n"), tuple(table))


def _taken(interval: Interval) -> bool:
    return interval.n + interval.unscored > 0


def _group_table(suite: SuiteData, measures: Sequence[Measure], groups: Sequence[str]) -> Figure | None:
    """Every score in every group."""
    if not groups:
        return None
    header = [suite.group_name, "score", *(LABELS.get(model, model) for model in suite.names)]
    header += ["difference", "", "n"] if suite.difference else ["n"]
    table: list[tuple[str, ...]] = []
    for group in groups[:GROUPS_LISTED]:
        for measure in measures:
            scores = [suite.of_group(model, group, measure.key) for model in suite.names]
            if not any(map(_taken, scores)):
                continue
            row = [group, measure.name, *(_written(measure, score) for score in scores)]
            if suite.difference:
                difference = suite.group_difference.get(group, {}).get(measure.key, Interval())
                row += [f"{cell(measure, difference, signed).value} {bracket(measure, difference, signed)}".strip(),
                        measure.direction.verdict(difference).value]
            table.append((*row, " / ".join(str(score.n) for score in scores)))
    left_out = len(groups) - GROUPS_LISTED
    return Figure(f"every score by {suite.group_name}", f"the first {GROUPS_LISTED} of {len(groups)}" if left_out > 0
                  else "", Markup(""), tuple(header), tuple(table)) if table else None


def _written(measure: Measure, interval: Interval) -> str:
    return f"{cell(measure, interval).value} {bracket(measure, interval)}".strip()


def decided_groups(suite: SuiteData, measures: Sequence[Measure], groups: Sequence[str]) -> list[str]:
    """A sentence for each group whose main score decides nothing, said from its interval."""
    if not measures:
        return []
    main, said = measures[0], list[str]()
    for group in groups[:GROUPS_PLOTTED]:
        named = f"the group {group} ({suite.group_name})"
        if not suite.difference:
            scores = [suite.of_group(model, group, main.key) for model in suite.names]
            said += [f"In {named}, {_prompts(score.n)} {_are(score.n)} too few for an interval of {main.name}."
                     for score in scores if score.mean is not None and score.bounds is None]
            continue
        difference = suite.group_difference.get(group, {}).get(main.key, Interval())
        match main.direction.verdict(difference):
            case Verdict.OPEN:
                said.append(f"In {named}, {_prompts(difference.n)} {'decides' if difference.n == 1 else 'decide'}: the "
                            f"interval of the difference in {main.name} covers zero, "
                            f"{bracket(main, difference, signed)}.")
            case Verdict.NO_INTERVAL:
                said.append(f"In {named}, {_prompts(difference.n)} {_are(difference.n)} too few for an interval of the "
                            f"difference in {main.name}: it decides nothing.")
            case _:
                pass
    return said


def _prompts(count: int) -> str:
    return f"{count:,} prompt{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _made(suite: SuiteData) -> list[tuple[str, str]]:
    drawn = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in suite.decoding.items()
                      if value is not None)
    judge = suite.judge or {}
    named = ", ".join(str(judge[name]).replace("_", " ") if name == "method" else str(judge[name])
                      for name in ("model", "method") if judge.get(name)) or str(judge.get("name") or "")
    return [(name, text) for name, text in (("Answers drawn with", drawn), ("Judge", named)) if text]


def _accuracy(scores: Scores, pairs: int) -> Figure | None:
    if not any(interval.n + interval.unscored for interval in scores.preference_accuracy.values()):
        return None
    models = {model: scores.preference_accuracy.get(model, Interval()) for model in ("base", "trained")}
    counted = f"{pairs} held-out pairs" if pairs else f"n = {models['trained'].n}"
    described = "; ".join(f"{model}: {_written(ACCURACY, interval)}" for model, interval in models.items())
    return Figure(ACCURACY.name, f"{ACCURACY.meaning}; {counted}; the thin line is chance", interval_chart(
        "accuracy", ACCURACY.name, f"{ACCURACY.meaning}. {described}",
        [IntervalRow(model, model, interval.mean, interval.bounds) for model, interval in models.items()],
        write=ACCURACY.write, span=ACCURACY.span, reference=0.5))
