"""`scores.json`: means with intervals for both models, their paired difference, and what was measured how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lpo.evaluation.answers import Answer
from lpo.evaluation.buckets import BUCKETS
from lpo.evaluation.measured import Measured
from lpo.evaluation.metrics import ENDED, LENGTH_SCORE, REPETITION, WORDS, Metric
from lpo.evaluation.preferences import PreferenceRow, preference_accuracy
from lpo.evaluation.suites.held_out import JUDGE, measured_answer
from lpo.intervals import Interval, bootstrap_mean, paired_difference

METRICS = (LENGTH_SCORE, REPETITION, JUDGE, WORDS, ENDED)
"""What is measured on every answer."""


@dataclass(frozen=True)
class JudgeNote:
    """Who judged the answers.

    Args:
        name: The scorer's name.
        model: The model behind it.
        was_training_reward: Did the same judge choose the pairs the model was trained on? Then its score of the
            trained model is no independent evidence.
    """

    name: str
    model: str
    was_training_reward: bool


@dataclass(frozen=True)
class OverlapNote:
    """Held-out prompts that were compared with the build prompts, and how many were found there."""

    checked: int
    found: int


@dataclass(frozen=True)
class Scores:
    """Everything in `scores.json`; the fields have its keys."""

    n_prompts: int
    models: dict[str, dict[str, Interval]]
    difference: dict[str, Interval]
    buckets: dict[str, dict[str, Interval]]
    preference_accuracy: dict[str, Interval]
    judge: JudgeNote | None
    decoding: dict[str, Any]
    versions: dict[str, str]
    overlap: OverlapNote

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON values."""
        return asdict(self)


def summarise(
    base: Sequence[Answer],
    trained: Sequence[Answer],
    preferences: Sequence[PreferenceRow],
    *,
    judge: JudgeNote | None,
    decoding: Mapping[str, Any],
    versions: Mapping[str, str],
    overlap: OverlapNote,
    seed: int,
    resamples: int,
) -> Scores:
    """Put the scores of an evaluation together.

    Args:
        base: The base model's answers.
        trained: The trained model's answers to the same prompts.
        preferences: Held-out pairs under both models; empty when there are none.
        judge: Who judged; None leaves the judge's metric empty (n = 0, none unscored).
        decoding: How answers were drawn.
        versions: Versions of the packages involved.
        overlap: Outcome of comparing held-out with build prompts.
        seed: Seed of the bootstrap.
        resamples: Resamples behind each interval.

    Raises:
        UnsoundError: The two models answered different prompts.
    """
    sides = {name: [measured_answer(answer) for answer in answers]
             for name, answers in (("base", base), ("trained", trained))}
    measured = [metric for metric in METRICS if metric is not JUDGE or judge is not None]
    nothing = {} if judge is not None else {JUDGE.key: Interval(None, None, None, 0, 0)}

    def mean(rows: Sequence[Measured], metric: Metric) -> Interval:
        return bootstrap_mean([row.values.get(metric.key) for row in rows], seed=seed, resamples=resamples)

    def difference(metric: Metric) -> Interval:
        before, after = ({row.answer.prompt_id: row.values.get(metric.key) for row in sides[name]} for name in sides)
        return paired_difference(before, after, seed=seed, resamples=resamples)

    def buckets(rows: Sequence[Measured]) -> dict[str, Interval]:
        return {name: mean([row for row in rows if row.group == name], LENGTH_SCORE) for name in BUCKETS}

    groups = [row.group for row in preferences]
    logprobs = {"base": [row.base for row in preferences], "trained": [row.trained for row in preferences]}
    return Scores(
        n_prompts=len(base),
        models={name: {metric.key: mean(rows, metric) for metric in measured} | nothing
                for name, rows in sides.items()},
        difference={metric.key: difference(metric) for metric in measured} | nothing,
        buckets={name: buckets(rows) for name, rows in sides.items()},
        preference_accuracy={name: preference_accuracy(values, groups, seed=seed, resamples=resamples)
                             for name, values in logprobs.items()},
        judge=judge, decoding=dict(decoding), versions=dict(versions), overlap=overlap,
    )
