"""What a suite measures: how an answer's values become a score, and how a reader should take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from lpo.intervals import Ratios


class Better(StrEnum):
    """Which way a score gets better."""

    UP = "up"
    DOWN = "down"
    NEITHER = "neither"


class Unit(StrEnum):
    """How a score is written."""

    POINTS = "points"
    """0–100."""
    SHARE = "share"
    """0–1, written in per cent."""
    SCORE = "score"
    """0–1."""
    WORDS = "words"
    """A count."""


@dataclass(frozen=True)
class Metric:
    """A score over the answers of one suite.

    Args:
        key: Its name in files; by default also the value of an answer whose mean it is.
        name: As people read it.
        meaning: One line, in lower case.
        better: Which way is better.
        unit: How it is written.
        factors: The score is the product of these: each the sum of a value over all answers, divided by the sum of
            another one (None: by the number of answers). By default the mean of the value `key`.
    """

    key: str
    name: str
    meaning: str
    better: Better = Better.UP
    unit: Unit = Unit.POINTS
    factors: tuple[tuple[str, str | None], ...] = ()

    def of(self, values: Mapping[str, float | None]) -> Ratios | None:
        """What one answer adds to the score; None when a value is missing: the answer is then unscored.

        Args:
            values: The answer's values by name.
        """
        ratios: list[tuple[float, float]] = []
        for numerator, denominator in self.factors or ((self.key, None),):
            above, below = values.get(numerator), 1.0 if denominator is None else values.get(denominator)
            if above is None or below is None:
                return None
            ratios.append((above, below))
        return tuple(ratios)


LENGTH_SCORE = Metric("length_score", "S_l", "how close the length comes to the one asked for")
REPETITION = Metric("repetition", "Repetition", "share of four-word sequences that stood before in the same text",
                    Better.DOWN, Unit.SHARE)
WORDS = Metric("words", "Words", "words written, as published: Chinese characters and runs of ASCII letters",
               Better.NEITHER, Unit.WORDS)
WORDS_ALL = Metric("words_all", "Words, all scripts", "words written, digits and other scripts counted too",
                   Better.NEITHER, Unit.WORDS)
ENDED = Metric("ended", "Ended by itself", "answers that ended before the token limit cut them", Better.UP, Unit.SHARE)
ON_EVERY_ANSWER = (REPETITION, ENDED, WORDS, WORDS_ALL)
"""What every suite measures beside its own scores (`measured.basic_values`)."""
