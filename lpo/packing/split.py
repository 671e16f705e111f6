"""A group too big for a pack, cut along its trunk where the least is computed twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lpo.packing.cost import CostModel
from lpo.packing.rows import Group
from lpo.packing.trie import lay_out


@dataclass(frozen=True)
class Budget:
    """What a pack may hold.

    Args:
        tokens: Packed tokens; None: any number.
        cost: Forward floating-point operations by a cost model (`CostModel.tree`); None: any number.

    Raises:
        ValueError: A limit is not above zero.
    """

    tokens: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        if not all(limit is None or limit > 0 for limit in (self.tokens, self.cost)):
            raise ValueError(f"limits of a pack must be above zero, got {self}")

    def limits(self, cost_model: CostModel | None) -> tuple[float, ...]:
        """The limit of each measure: tokens and, where there is a cost model, cost; infinity is no limit.

        Raises:
            ValueError: A cost is limited and there is no cost model.
        """
        if self.cost is not None and cost_model is None:
            raise ValueError("a budget that limits cost needs a cost model")
        limits = (self.tokens,) if cost_model is None else (self.tokens, self.cost)
        return tuple(float("inf") if limit is None else limit for limit in limits)


@dataclass(frozen=True)
class Split:
    """A group in pieces.

    Args:
        pieces: Unit numbers of each piece.
        oversized: Units that exceed the budget by themselves; they are in no piece.
    """

    pieces: tuple[tuple[int, ...], ...]
    oversized: tuple[int, ...]


def split_group(group: Group, budget: Budget, cost_model: CostModel | None = None) -> Split:
    """Cut a group into pieces within the budget with the least recomputation.

    Units are put in the order in which a depth-first walk, trunk first, meets the end of one of their rows: the steps
    of a document in their order. Among all ways to cut that sequence, the one is taken whose pieces cost least together
    (hold the fewest tokens, without a cost model); among equals the one whose first pieces hold the most units.

    Args:
        group: What to split; a group within the budget comes back as one piece.
        budget: What a piece may hold at most.
        cost_model: Needed if the budget limits cost.

    Raises:
        ValueError: A cost is limited and there is no cost model.
    """
    limits = budget.limits(cost_model)
    stretches = _Stretches(group, cost_model)
    cut = _BestCut(len(group.units), stretches.n, limits)
    oversized: list[int] = []
    for unit in reversed(stretches.unit_order):
        touched_M = stretches.touched_by(unit)
        weights_RM = stretches.weights_RE[:, touched_M]
        if (weights_RM.sum(1) > np.array(limits)).any():
            oversized.append(unit)
        else:
            cut.prepend(unit, touched_M, weights_RM)
    return Split(tuple(cut.pieces()), tuple(sorted(oversized)))


class _Stretches:
    """A trie cut wherever rows branch, end, begin or cease to be scored: a row holds and scores a stretch or does not.

    With a cost model every stretch stands twice: as something held and as something scored.

    Attributes:
        n: How many there are.
        weights_RE: int64 [R measures, E = n]: tokens of each stretch and, with a cost model, its operations.
        unit_order: Unit numbers in the order in which the laid-out trie meets an end of one of their rows.
    """

    def __init__(self, group: Group, cost_model: CostModel | None) -> None:
        layout = lay_out(group.rows)
        paths = [layout.chains[number] for number in layout.row_chain]
        held = [list(path.ranges(0, len(row.ids))) for path, row in zip(paths, group.rows, strict=True)]
        scored = [list(path.ranges(row.start, row.end)) if cost_model else []
                  for path, row in zip(paths, group.rows, strict=True)]
        edges = sorted({edge for ranges in (*held, *scored) for packed in ranges for edge in packed})
        number = {edge: index for index, edge in enumerate(edges)}
        self._group = group
        self._held = [[(number[start], number[stop]) for start, stop in ranges] for ranges in held]
        self._scored = [[(number[start], number[stop]) for start, stop in ranges] for ranges in scored]

        edges_E = np.array(edges)
        lengths_E = np.diff(edges_E)
        if cost_model is None:
            self.weights_RE = lengths_E[None]
        else:
            starts = np.array([chain.start for chain in layout.chains])
            positions = np.array([chain.position for chain in layout.chains])
            chain_E = np.searchsorted(starts, edges_E[:-1], side="right") - 1
            depth_E = edges_E[:-1] - starts[chain_E] + positions[chain_E]
            layers_E = cost_model.path_flops(depth_E + lengths_E) - cost_model.path_flops(depth_E)
            self.weights_RE = np.array([[*lengths_E, *np.zeros_like(lengths_E)],
                                        [*layers_E, *(cost_model.head_flops * lengths_E)]])
        self.n = self.weights_RE.shape[1]
        self._touched = np.zeros(self.n, dtype=bool)
        unit_ends = [sorted(held[row][-1][1] for row in unit) for unit in group.units]
        self.unit_order = sorted(range(len(group.units)), key=unit_ends.__getitem__)

    def touched_by(self, unit: int) -> np.ndarray:
        """Indices of the stretches that a unit holds, and of those it scores."""
        self._touched[:] = False
        n_held = self.n // 2
        for row in self._group.units[unit]:
            for start, stop in self._held[row]:
                self._touched[start:stop] = True
            for start, stop in self._scored[row]:
                self._touched[n_held + start : n_held + stop] = True
        return np.flatnonzero(self._touched)


class _BestCut:
    """The best way to cut a sequence of units, which grows from its last unit to its first.

    Slots slot .. n_units - 1 hold the units so far.
    """

    def __init__(self, n_units: int, n_stretches: int, limits: Sequence[float]) -> None:
        self._limits = limits
        self._slot = self._reach = self._n_units = n_units
        self._unit_U = np.empty(n_units, dtype=np.int64)
        # The next slot that touches each stretch, and what each slot adds to a piece that begins at the first slot and
        # has come to it: the stretches that none of the slots in between touches.
        self._next_E = np.full(n_stretches, n_units)
        self._added_RU = np.zeros((len(limits), n_units), dtype=np.int64)
        # For the sequence from each slot on: the sum over its pieces, and where the first one stops.
        self._sum_U = np.zeros(n_units + 1, dtype=np.int64)
        self._stop_U = np.zeros(n_units, dtype=np.int64)

    def prepend(self, unit: int, touched_M: np.ndarray, weights_RM: np.ndarray) -> None:
        """Put a unit, which fits by itself, before the others."""
        self._slot -= 1
        slot = self._slot
        self._unit_U[slot] = unit
        next_M = self._next_E[touched_M]
        seen_M = next_M < self._n_units
        for added_U, weights_M in zip(self._added_RU, weights_RM, strict=True):
            added_U[slot] = weights_M.sum()
            np.subtract.at(added_U, next_M[seen_M], weights_M[seen_M])
        self._next_E[touched_M] = slot

        # No piece reaches further than one that begins a unit later, for it holds more.
        sizes_RU = self._added_RU[:, slot : self._reach].cumsum(1)
        n_stops = min(int(np.searchsorted(sizes_U, limit, side="right"))
                      for sizes_U, limit in zip(sizes_RU, self._limits, strict=True))
        self._reach = slot + n_stops
        sums_U = sizes_RU[-1, :n_stops] + self._sum_U[slot + 1 : self._reach + 1]
        self._sum_U[slot] = sums_U.min()
        self._stop_U[slot] = slot + 1 + np.flatnonzero(sums_U == sums_U.min())[-1]

    def pieces(self) -> Iterator[tuple[int, ...]]:
        """Units of each piece."""
        slot = self._slot
        while slot < self._n_units:
            stop = int(self._stop_U[slot])
            yield tuple(self._unit_U[slot:stop].tolist())
            slot = stop
