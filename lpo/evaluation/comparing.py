"""Several models that answered the same prompts, each against the first: paired differences, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lpo.evaluation.measured import Measured
from lpo.evaluation.metrics import Better, Metric, Unit
from lpo.intervals import Interval, bootstrap_ratios, paired_p_value, paired_ratios


@dataclass(frozen=True)
class Difference:
    """A model's score minus that of the first one.

    Args:
        interval: Over prompts both were scored on.
        p: Two-sided p-value of a paired permutation test; None where there is nothing to test.
    """

    interval: Interval
    p: float | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"interval": self.interval.to_json(), "p": self.p}


@dataclass(frozen=True)
class Comparison:
    """Several models on one suite.

    Args:
        scores: Model -> metric -> score over all its answers.
        groups: Model -> group -> metric -> score.
        difference: Model (but the first) -> metric -> difference over the prompts that both answered.
        group_difference: The same for each group.
        n: Model -> answers.
        shared: Model (but the first) -> prompts it shares with the first.
    """

    scores: dict[str, dict[str, Interval]]
    groups: dict[str, dict[str, dict[str, Interval]]]
    difference: dict[str, dict[str, Difference]]
    group_difference: dict[str, dict[str, dict[str, Difference]]]
    n: dict[str, int]
    shared: dict[str, int]


def compare(rows: Mapping[str, Sequence[Measured]], metrics: Sequence[Metric], groups: Sequence[str], *, seed: int,
            resamples: int) -> Comparison:
    """Compare models on one suite.

    Args:
        rows: Model -> its measured answers; differences are against the first model.
        metrics: The scores.
        groups: What scores are broken down by.
        seed: Of bootstrap and permutations.
        resamples: Behind each interval and each p-value.
    """
    draws = {"seed": seed, "resamples": resamples}
    first, *others = rows
    shared = {other: _shared(rows[first], rows[other]) for other in others}

    def scores(of_model: Sequence[Measured]) -> dict[str, Interval]:
        return {metric.key: bootstrap_ratios([metric.of(row.values) for row in of_model], **draws)
                for metric in metrics}

    def differences(base: Sequence[Measured], other: Sequence[Measured]) -> dict[str, Difference]:
        sides = [({row.answer.prompt_id: metric.of(row.values) for row in base},
                  {row.answer.prompt_id: metric.of(row.values) for row in other}) for metric in metrics]
        return {metric.key: Difference(paired_ratios(*side, **draws), paired_p_value(*side, **draws))
                for metric, side in zip(metrics, sides, strict=True)}

    return Comparison(
        scores={model: scores(of_model) for model, of_model in rows.items()},
        groups={model: {group: scores(_of_group(of_model, group)) for group in groups}
                for model, of_model in rows.items()},
        difference={other: differences(*shared[other]) for other in others},
        group_difference={other: {group: differences(*(_of_group(side, group) for side in shared[other]))
                                  for group in groups} for other in others},
        n={model: len(of_model) for model, of_model in rows.items()},
        shared={other: len(shared[other][0]) for other in others},
    )


def metric_from_json(values: Mapping[str, Any]) -> Metric:
    """A metric as it stands in scores.json."""
    return Metric(key=values["key"], name=values["name"], meaning=values["meaning"], better=Better(values["better"]),
                  unit=Unit(values["unit"]),
                  factors=tuple((above, below) for above, below in values.get("factors", ())))


def _shared(base: Sequence[Measured], other: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """The answers of both to prompts that both answered, in one order. The same id must mean the same task."""
    tasks = {row.answer.prompt_id: row.answer.request for row in base}
    theirs = {row.answer.prompt_id: row for row in other if tasks.get(row.answer.prompt_id) == row.answer.request}
    ours = [row for row in base if row.answer.prompt_id in theirs]
    return ours, [theirs[row.answer.prompt_id] for row in ours]


def _of_group(rows: Sequence[Measured], group: str) -> list[Measured]:
    return [row for row in rows if row.group == group]
