"""What a suite is, and how its measured answers become scores with intervals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lpo.eval_config import SuiteName
from lpo.evaluation.answers import Answer
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured
from lpo.evaluation.metrics import Metric
from lpo.intervals import Interval, Ratios, bootstrap_ratios, paired_ratios
from lpo.records import Prompt


@dataclass(frozen=True)
class Point:
    """A point of a curve.

    Args:
        x: Where it stands.
        y: A mean with its interval; `low` and `high` are None where the value has none (a largest one, say).
    """

    x: float
    y: Interval


@dataclass(frozen=True)
class Curve:
    """Something drawn over something else.

    Args:
        key: Curves of one key are drawn together, model by model.
        title: Of the chart.
        x: Name of the horizontal axis, with its unit.
        y: Name of the vertical axis, with its unit.
        points: In the order of `x`.
        diagonal: Draw the line where y equals x: as long as asked for.
    """

    key: str
    title: str
    x: str
    y: str
    points: tuple[Point, ...]
    diagonal: bool = False


class Suite(Protocol):
    """Tasks, and how answers to them are scored."""

    @property
    def name(self) -> SuiteName:
        """As in `eval.suites`."""
        ...

    @property
    def title(self) -> str:
        """As people read it."""
        ...

    @property
    def source(self) -> str:
        """The paper it is from, and what of it is ours."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Its scores, the most important first."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """What scores are broken down by, in the order to be shown; empty: by nothing."""
        ...

    @property
    def group_name(self) -> str:
        """What the groups are: `words asked`, say."""
        ...

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """What a model is asked. Empty where outputs are given."""
        ...

    @property
    def given(self) -> tuple[Answer, ...]:
        """Outputs that are there already; empty where a model is asked."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the numbers: settings that are not the published ones, say."""
        ...

    def judgements(self, answers: int) -> int:
        """Calls of the judge for this many answers, at most."""
        ...

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """Measure answers; one result for each, in order.

        Args:
            answers: To this suite's prompts (a prompt may be missing), or the given ones.
            judge: None: `eval.judge` is false; what it would say is then absent, not unscored.
            seed: The run's seed.
            on_done: Called after each answer.
            stop: As in `side_by_side`.
        """
        ...

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """What is drawn of one model's measured answers."""
        ...


@dataclass(frozen=True)
class SuiteScores:
    """The scores of one suite: an entry of `suites` in scores.json; the fields have its keys."""

    suite: str
    title: str
    source: str
    n_prompts: int
    metrics: tuple[Metric, ...]
    group_name: str
    models: dict[str, dict[str, Interval]]
    """Model -> metric -> score."""
    difference: dict[str, Interval]
    """Trained minus base, prompt by prompt; empty with one model."""
    groups: dict[str, dict[str, dict[str, Interval]]]
    """Model -> group -> metric -> score."""
    group_difference: dict[str, dict[str, Interval]]
    """Group -> metric -> trained minus base; empty with one model."""
    curves: dict[str, tuple[Curve, ...]]
    """Model -> curves."""
    unscored: dict[str, dict[str, dict[str, int]]]
    """Model -> value -> reason -> how many answers; `judgements` (of parts of answers) -> reason -> how many of
    them."""
    judge: dict[str, Any] | None
    decoding: dict[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON values."""
        return asdict(self)


def summarise_suite(
    suite: Suite, rows: Mapping[str, Sequence[Measured]], *, judge: Mapping[str, Any] | None,
    decoding: Mapping[str, Any], seed: int, resamples: int, more_curves: Mapping[str, Sequence[Curve]] | None = None,
) -> SuiteScores:
    """Put the scores of a suite together.

    Args:
        suite: The suite.
        rows: Model -> its measured answers. With `base` and `trained` the difference is taken too.
        judge: Who judged; None without a judge.
        decoding: How answers were drawn.
        seed: Of the bootstrap.
        resamples: Behind each interval.
        more_curves: Model -> further curves, such as quality along the text.

    Raises:
        UnsoundError: The two models answered different prompts.
    """
    draws = {"seed": seed, "resamples": resamples}
    measured = [metric for metric in suite.metrics
                if any(_was_measured(metric, row) for of_model in rows.values() for row in of_model)]
    paired = "base" in rows and "trained" in rows

    def scores(inside: Sequence[Measured]) -> dict[str, Interval]:
        return {metric.key: bootstrap_ratios([metric.of(row.values) for row in inside], **draws)
                for metric in measured}

    def difference(base: Sequence[Measured], trained: Sequence[Measured]) -> dict[str, Interval]:
        return {metric.key: paired_ratios(_by_prompt(metric, base), _by_prompt(metric, trained), **draws)
                for metric in measured}

    def members(of_model: Sequence[Measured], group: str) -> list[Measured]:
        return [row for row in of_model if row.group == group]

    return SuiteScores(
        suite=suite.name.value, title=suite.title, source=suite.source,
        n_prompts=max((len(of_model) for of_model in rows.values()), default=0), metrics=tuple(measured),
        group_name=suite.group_name, models={model: scores(of_model) for model, of_model in rows.items()},
        difference=difference(rows["base"], rows["trained"]) if paired else {},
        groups={model: {group: scores(members(of_model, group)) for group in suite.groups}
                for model, of_model in rows.items()},
        group_difference={group: difference(members(rows["base"], group), members(rows["trained"], group))
                          for group in suite.groups} if paired else {},
        curves={model: (*suite.curves(of_model, **draws), *(more_curves or {}).get(model, ()))
                for model, of_model in rows.items()},
        unscored={model: _reasons(of_model) for model, of_model in rows.items()},
        judge=dict(judge) if judge is not None else None, decoding=dict(decoding), notes=suite.notes,
    )


def _was_measured(metric: Metric, row: Measured) -> bool:
    """Has the answer a value for it, or a reason why it has none? Without a judge it has neither."""
    keys = {key for factor in metric.factors or ((metric.key, None),) for key in factor if key is not None}
    return all(row.values.get(key) is not None or key in row.unscored for key in keys)


def _by_prompt(metric: Metric, rows: Sequence[Measured]) -> dict[str, Ratios | None]:
    return {row.answer.prompt_id: metric.of(row.values) for row in rows}


def _reasons(rows: Sequence[Measured]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for key, reason in row.unscored.items():
            of_key = counts.setdefault(key, {})
            of_key[reason] = of_key.get(reason, 0) + 1
        for part, reasons in row.unscored_parts.items():
            of_part = counts.setdefault(part, {})
            for reason, failed in reasons.items():
                of_part[reason] = of_part.get(reason, 0) + failed
    return counts
