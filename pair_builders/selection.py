"""Which sibling does a path go on with? Pure formulas over visits and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

PUCT_BASE = 19652.0
"""AlphaZero's c_base: the bonus grows once a node has been visited about this often."""


@dataclass(frozen=True)
class Standing:
    """What selection knows of a sibling.

    Args:
        score: Its own, on 0–1.
        value: Mean of what paths through it were back-propagated with; its own score before the first.
        visits: Paths that went through it.
        prior: Its share of the siblings' probability; None when the policy gives no log-probabilities.
    """

    score: float
    value: float
    visits: int
    prior: float | None


class Selection(StrEnum):
    """How a path chooses among siblings."""

    UCB = "ucb"
    """v + alpha * sqrt(2 ln(N / (1 + n))), LongDPO's formula (arXiv 2502.02095). As printed the logarithm is
    negative once a sibling has all visits but one; it counts as 0 there."""
    UCT = "uct"
    """v + alpha * sqrt(2 ln N / n), an unvisited sibling first (Kocsis & Szepesvári, 2006)."""
    PUCT = "puct"
    """v + p * (ln((N + c_base + 1) / c_base) + c_init) * sqrt(N) / (n + 1) (AlphaZero; what LongDPO's code holds)."""
    GREEDY = "greedy"
    """The best score."""

    @property
    def default_exploration(self) -> float:
        """The weight of the bonus (alpha or c_init) when none is given; values lie on 0–1."""
        return {Selection.UCB: 0.25, Selection.UCT: 0.25, Selection.PUCT: 1.25, Selection.GREEDY: 0.0}[self]

    def bonus(self, sibling: Standing, *, parent_visits: int, siblings: int, exploration: float) -> float:
        """What is added to a sibling's value because little is known of it.

        Args:
            sibling: The sibling.
            parent_visits: Paths that went through the parent before this one (N).
            siblings: How many siblings there are; without priors each has an equal share.
            exploration: alpha or c_init.
        """
        match self:
            case Selection.UCB:
                ratio = parent_visits / (1 + sibling.visits)
                return exploration * math.sqrt(2 * math.log(ratio)) if ratio > 1 else 0.0
            case Selection.UCT:
                if not sibling.visits:
                    return math.inf if exploration else 0.0
                return exploration * math.sqrt(2 * math.log(parent_visits) / sibling.visits)
            case Selection.PUCT:
                prior = 1 / siblings if sibling.prior is None else sibling.prior
                growth = math.log((parent_visits + PUCT_BASE + 1) / PUCT_BASE) + exploration
                return prior * growth * math.sqrt(parent_visits) / (sibling.visits + 1)
            case Selection.GREEDY:
                return 0.0

    def choose(self, siblings: Sequence[Standing], *, parent_visits: int, exploration: float) -> int:
        """The sibling a path goes on with; of equals the one with the higher score, then the first.

        Args:
            siblings: At least one.
            parent_visits: Paths that went through the parent before this one.
            exploration: alpha or c_init; 0 goes by value alone.

        Returns:
            Its index.
        """
        def rank(index: int) -> tuple[float, float, int]:
            one = siblings[index]
            value = one.score if self is Selection.GREEDY else one.value
            bonus = self.bonus(one, parent_visits=parent_visits, siblings=len(siblings), exploration=exploration)
            return value + bonus, one.score, -index

        return max(range(len(siblings)), key=rank)
