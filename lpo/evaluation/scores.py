"""`scores.json`: means with intervals for both models, their paired difference, and what was measured how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from lpo.evaluation.answers import Answer
from lpo.evaluation.preferences import PreferenceRow, preference_accuracy
from lpo.intervals import Interval, bootstrap_mean, paired_difference
from lpo.llm.base import Finish

BUCKETS = {"[0, 500)": (0, 500), "[500, 2k)": (500, 2000), "[2k, 4k)": (2000, 4000), "[4k, 20k]": (4000, 20_001)}
"""LongBench-Write's buckets of required words: name -> first and one past the last."""


class Metric(StrEnum):
    """What is measured on every answer."""

    LENGTH_SCORE = "length_score"
    """S_l, 0–100."""
    REPETITION = "repetition"
    """Share of repeated 4-grams, 0–1."""
    JUDGE = "judge"
    """The judge's overall score, 0–1."""
    WORDS = "words"
    ENDED = "ended"
    """Did the answer end by itself, before the token limit?"""

    def of(self, answer: Answer) -> float | None:
        """The value of one answer; None when it has none."""
        return _VALUE[self](answer)


_VALUE: dict[Metric, Callable[[Answer], float | None]] = {
    Metric.LENGTH_SCORE: lambda answer: answer.scores.length,
    Metric.REPETITION: lambda answer: answer.scores.repetition,
    Metric.JUDGE: lambda answer: answer.scores.judge,
    Metric.WORDS: lambda answer: None if answer.finish is Finish.REFUSED else float(answer.words),
    Metric.ENDED: lambda answer: None if answer.finish is Finish.REFUSED else float(answer.finish is Finish.STOP),
}


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
    sides = {"base": base, "trained": trained}
    measured = [metric for metric in Metric if metric is not Metric.JUDGE or judge is not None]
    nothing = {} if judge is not None else {Metric.JUDGE.value: Interval(None, None, None, 0, 0)}

    def mean(answers: Sequence[Answer], metric: Metric) -> Interval:
        return bootstrap_mean([metric.of(answer) for answer in answers], seed=seed, resamples=resamples)

    def difference(metric: Metric) -> Interval:
        before, after = ({answer.prompt_id: metric.of(answer) for answer in answers} for answers in (base, trained))
        return paired_difference(before, after, seed=seed, resamples=resamples)

    def buckets(answers: Sequence[Answer]) -> dict[str, Interval]:
        members = {name: [answer for answer in answers if bucket(answer.target_words) == name] for name in BUCKETS}
        return {name: mean(inside, Metric.LENGTH_SCORE) for name, inside in members.items()}

    groups = [row.group for row in preferences]
    logprobs = {"base": [row.base for row in preferences], "trained": [row.trained for row in preferences]}
    return Scores(
        n_prompts=len(base),
        models={name: {metric.value: mean(answers, metric) for metric in measured} | nothing
                for name, answers in sides.items()},
        difference={metric.value: difference(metric) for metric in measured} | nothing,
        buckets={name: buckets(answers) for name, answers in sides.items()},
        preference_accuracy={name: preference_accuracy(values, groups, seed=seed, resamples=resamples)
                             for name, values in logprobs.items()},
        judge=judge, decoding=dict(decoding), versions=dict(versions), overlap=overlap,
    )


def bucket(target_words: int | None) -> str | None:
    """LongBench-Write's bucket of a required length; None without one, or above 20,000 words."""
    if target_words is None:
        return None
    return next((name for name, (low, end) in BUCKETS.items() if low <= target_words < end), None)
