"""What a scorer is given and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lpo.records import Judgement, Prompt


@dataclass(frozen=True)
class Draft:
    """An answer, or the part of it that stands so far.

    Args:
        prompt: The writing task.
        prefix: The answer before the step that is judged; may be empty.
        text: The step itself.
        complete: Does the answer end with this step?
        required_words: Words that `prefix + text` should have by now (the prompt's target when complete); None when
            no length is asked for.
    """

    prompt: Prompt
    prefix: str
    text: str
    complete: bool
    required_words: int | None

    @property
    def so_far(self) -> str:
        """The answer up to and including this step: what is judged (LongDPO judges this, not the step alone)."""
        return self.prefix + self.text


class Principle(StrEnum):
    """The seven principles LongDPO's judge grades (arXiv 2502.02095)."""

    ACCURACY = "accuracy"
    PURPOSE = "purpose"
    HARMLESS = "harmless"
    CONSISTENCY = "consistency"
    BREADTH = "breadth"
    READING = "reading"
    INSIGHT = "insight"


class Unscored(StrEnum):
    """Why a text has no score. A failed judgement is never a number."""

    CUT = "cut"
    """The judge's reply ran out of tokens, twice."""
    EMPTY = "empty"
    REFUSED = "refused"
    UNPARSABLE = "unparsable"
    OUT_OF_RANGE = "out_of_range"
    """The reply has the right form, but a weight is negative or not finite, or all weights of a principle are 0."""
    REQUEST_REJECTED = "request_rejected"
    """The back end refuses this one request: the text is too long for the judge, say."""
    NO_GRADE = "no_grade"
    """The model gives the grades no probability at all."""
    NO_TARGET = "no_target"
    """The prompt asks for no length."""
    NO_POINTS = "no_points"
    """The prompt names no points to cover."""
    NO_STATEMENTS = "no_statements"
    """The answer takes nothing from the document, and `build.longreward.no_statements` wants no score for that."""


GRADES = (1, 2, 3, 4, 5)


def expected_grade(weights: Sequence[float]) -> float:
    """The mean grade under weights over the grades 1 to 5 that add up to 1 (LongDPO: r_p = sum of k * w_k)."""
    return sum(grade * weight for grade, weight in zip(GRADES, weights, strict=True))


def grade_weights(logprobs: Sequence[float]) -> list[float] | None:
    """Probabilities of the grades 1 to 5 as weights that add up to 1.

    Args:
        logprobs: Log-probability of each grade, in nats.

    Returns:
        None when no grade has any probability, or one of them is not a number.
    """
    top = max(logprobs)
    if any(math.isnan(value) for value in logprobs) or not math.isfinite(top):
        return None
    shares = [math.exp(value - top) for value in logprobs]
    return [share / sum(shares) for share in shares]


def grade_to_unit(grade: float) -> float:
    """A grade on 1–5 as a score on 0–1."""
    return (grade - 1) / 4


class Scorer(Protocol):
    """Scores drafts on 0–1, or says why a draft has no score."""

    @property
    def name(self) -> str:
        """As it appears in judgements and reports."""
        ...

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts; siblings come together, so that a back end can batch them.

        Returns:
            One judgement for each draft, in order.

        Raises:
            BackendError: The judge cannot be used at all.
        """
        ...
