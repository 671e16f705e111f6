"""Several scorers as one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from lpo.records import Judgement
from lpo.reward.base import Draft, Scorer, Unscored


@dataclass(frozen=True)
class Weighted:
    """A scorer and what it counts.

    Args:
        scorer: Scores on 0–1.
        weight: Above 0; only the proportions matter.
    """

    scorer: Scorer
    weight: float


class WeightedScorer:
    """The weighted mean of scorers.

    A draft that one of them leaves unscored is unscored, with that reason: a mean over whoever answered would compare
    siblings by different measures. The one exception is a length that nobody asked for (`no_target`): it is so for
    all siblings alike, and its weight goes to the others. `scores` holds each scorer's overall under its name and its
    dimensions under `name.dimension`; `parts` holds the weights that counted and each scorer's own parts.

    Args:
        parts: The scorers, with different names.
    """

    name = "weighted"

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

    def _combine(self, judgements: Sequence[Judgement]) -> Judgement:
        counted = {
            judgement.scorer: (part.weight, judgement)
            for part, judgement in zip(self._parts, judgements, strict=True)
            if judgement.unscored != Unscored.NO_TARGET
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
            reason = failed.unscored if failed else Unscored.NO_TARGET
            return Judgement(scorer=self.name, unscored=reason, parts=parts)
        overall = sum(weight * (judgement.overall or 0.0) for weight, judgement in counted.values()) / total
        return Judgement(scorer=self.name, overall=overall, scores=_scores(judgements), parts=parts)


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
