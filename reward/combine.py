"""Several scorers as one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lpo.records import Judgement
from lpo.reward.base import Draft, Scorer, Unscored

NOT_ASKED = (Unscored.NO_TARGET, Unscored.NO_POINTS)
"""The prompt itself gives a scorer nothing to measure by."""


@dataclass(frozen=True)
class Weighted:
    """A scorer and what it counts.

    Args:
        scorer: Scores on 0–1.
        weight: Above 0; only the proportions matter.
    """

    scorer: Scorer
    weight: float


class CombinedScorer:
    """What the ways of combining scorers share.

    A draft that one of the scorers leaves unscored is unscored, with that reason: a score made of whoever answered
    would compare siblings by different measures. The exceptions are a length that nobody asked for (`no_target`) and
    points that nobody named (`no_points`): there it is so for all siblings alike, and the weight goes to the others.
    `scores` holds each scorer's overall under its name and its dimensions under `name.dimension`; `parts` holds the
    weights that counted and each scorer's own parts.

    Args:
        parts: The scorers, with different names.
    """

    name: str

    def __init__(self, parts: Sequence[Weighted]) -> None:
        if not parts or any(part.weight <= 0 for part in parts):
            raise ValueError("every part needs a weight above zero, and there must be one")
        if len({part.scorer.name for part in parts}) < len(parts):
            raise ValueError("two scorers have the same name")
        self._parts = tuple(parts)

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts by every scorer at once."""
        by_scorer = await asyncio.gather(*(part.scorer.score(drafts) for part in self._parts))
        return [self._combine(judgements) for judgements in zip(*by_scorer, strict=True)]

    def overall(self, counted: Sequence[tuple[float, float]]) -> float:
        """One score of several.

        Args:
            counted: `(weight, score)` of the scorers that count, at least one.
        """
        raise NotImplementedError

    def _combine(self, judgements: Sequence[Judgement]) -> Judgement:
        counted = {
            judgement.scorer: (part.weight, judgement)
            for part, judgement in zip(self._parts, judgements, strict=True)
            if judgement.unscored not in NOT_ASKED
        }
        total = sum(weight for weight, _ in counted.values())
        parts = {
            judgement.scorer: {
                "weight": counted[judgement.scorer][0] / total if judgement.scorer in counted else 0.0,
                "unscored": judgement.unscored,
                **judgement.parts,
            }
            for judgement in judgements
        }
        failed = next((judgement for _, judgement in counted.values() if judgement.unscored), None)
        if failed is not None or not counted:
            reason = failed.unscored if failed else judgements[0].unscored
            return Judgement(scorer=self.name, unscored=reason, parts=parts)
        overall = self.overall([(weight, judgement.overall or 0.0) for weight, judgement in counted.values()])
        return Judgement(scorer=self.name, overall=overall, scores=_scores(judgements), parts=parts)


class WeightedScorer(CombinedScorer):
    """The weighted mean of scorers."""

    name = "weighted"

    def overall(self, counted: Sequence[tuple[float, float]]) -> float:
        """`sum(weight * score) / sum(weight)`."""
        return sum(weight * score for weight, score in counted) / sum(weight for weight, _ in counted)


class ProductScorer(CombinedScorer):
    """The product of scorers, each to the power of its weight: the weighted geometric mean. Length × quality, say: an
    answer must be good in every respect, and a single 0 makes the whole 0.
    """

    name = "product"

    def overall(self, counted: Sequence[tuple[float, float]]) -> float:
        """`prod(score ** (weight / sum(weight)))`."""
        total = sum(weight for weight, _ in counted)
        return math.prod(score ** (weight / total) for weight, score in counted)


def _scores(judgements: Sequence[Judgement]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for judgement in judgements:
        if judgement.overall is None:
            continue
        scores[judgement.scorer] = judgement.overall
        for dimension, score in judgement.scores.items():
            if dimension != judgement.scorer:
                scores[f"{judgement.scorer}.{dimension}"] = score
    return scores
