"""Does the ranking of siblings survive another wording of the rubric?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RankStability:
    """How far two rankings of the same candidates agree.

    Args:
        kendall_tau: Kendall's tau-b, averaged over layers, -1 to 1; None when no layer has two different scores in
            both rankings.
        same_best: Share of layers with the same best candidate; None when there is no layer.
        layers: Layers with at least two candidates scored both times.
    """

    kendall_tau: float | None
    same_best: float | None
    layers: int


def rank_stability(
    groups_a: Sequence[Sequence[float | None]], groups_b: Sequence[Sequence[float | None]]
) -> RankStability:
    """Compare two scorings of the same layers.

    Args:
        groups_a: One group per layer: the scores of its candidates, None where unscored.
        groups_b: The scores of the same candidates, in the same order, by the other scorer.
    """
    from scipy.stats import kendalltau  # heavy, and only needed here

    taus: list[float] = []
    agreements: list[bool] = []
    for scores_a, scores_b in zip(groups_a, groups_b, strict=True):
        both = [(a, b) for a, b in zip(scores_a, scores_b, strict=True) if a is not None and b is not None]
        if len(both) < 2:
            continue
        first, second = [a for a, _ in both], [b for _, b in both]
        agreements.append(first.index(max(first)) == second.index(max(second)))
        if len(set(first)) > 1 and len(set(second)) > 1:
            taus.append(_statistic(kendalltau(first, second)))
    return RankStability(
        kendall_tau=math.fsum(taus) / len(taus) if taus else None,
        same_best=sum(agreements) / len(agreements) if agreements else None,
        layers=len(agreements),
    )


def _statistic(result: Any) -> float:
    """SciPy's result object has no usable type."""
    return float(result.statistic)
