"""Attention over a tree cut into parts: some queries that stand together, and one contiguous range of keys.

Queries and keys are numbered separately, so that the keys may reach further back than the queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from lpo.packing import Chain


@dataclass(frozen=True)
class Part:
    """Queries and keys, every query of which sees at least one of the keys.

    Args:
        query: Range of queries.
        key: Range of keys.
        causal: As many keys as queries, and the i-th query sees keys 0 .. i.
        band: Columns of the window's band mask (`band_mask`) to add to the scores; None adds none.
    """

    query: slice
    key: slice
    causal: bool = False
    band: slice | None = None


@dataclass(frozen=True)
class PartPlan:
    """The parts that make up the attention of all queries.

    Args:
        own: Parts within a chain; they cover every query once.
        ancestors: Parts of queries with keys of the chains above.
        window: The sliding window they keep to; None where it cuts nothing off.
    """

    own: tuple[Part, ...]
    ancestors: tuple[Part, ...]
    window: int | None

    @property
    def parts(self) -> Iterator[Part]:
        """All parts."""
        yield from self.own
        yield from self.ancestors

    def band_mask(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """The mask the parts' bands are columns of; None where no part needs one.

        Row i sees columns i .. i + window - 1. Every part of a window is such a stretch of diagonals, so one small
        matrix serves them all, each as a view.
        """
        if self.window is None:
            return None
        block = query_block(self.window)
        column_C = torch.arange(self.window + block - 1, device=device)
        row_Q = torch.arange(block, device=device)[:, None]
        hidden_QC = (column_C < row_Q) | (column_C >= row_Q + self.window)
        return torch.zeros(hidden_QC.shape, dtype=dtype, device=device).masked_fill_(hidden_QC, -torch.inf)


def query_block(window: int) -> int:
    """Queries taken together under a window: a part then computes at most a quarter more than the window asks for."""
    return max(32, min(256, window // 4))


def plan_parts(chains: Iterable[Chain], window: int | None, first_query: int = 0) -> PartPlan:
    """Cut the attention of some chains into parts.

    Args:
        chains: The chains the queries lie in. Keys are numbered by packed index.
        window: The layers' sliding window, counted in positions; None for none.
        first_query: Packed index of query 0.

    Returns:
        The plan.
    """
    own: list[Part] = []
    ancestors: list[Part] = []
    deepest = 0
    for chain in chains:
        depth = chain.position + chain.stop - chain.start
        deepest = max(deepest, depth)
        if window is None or depth <= window:
            query = slice(chain.start - first_query, chain.stop - first_query)
            own.append(Part(query, slice(chain.start, chain.stop), causal=True))
            ancestors.extend(Part(query, slice(start, stop)) for start, stop in chain.ancestors)
            continue
        block = query_block(window)
        for start in range(chain.start, chain.stop, block):
            queries = _Queries(start, min(start + block, chain.stop), chain.position + start - chain.start, window,
                               first_query)
            own.append(queries.own(chain))
            ancestors.extend(queries.above(chain))
    return PartPlan(tuple(own), tuple(ancestors), None if window is None or deepest <= window else window)


@dataclass(frozen=True)
class _Queries:
    """A block of queries under a window.

    Args:
        start: Packed index of the first.
        stop: One past the last.
        position: Position of the first.
        window: The window.
        first_query: Packed index of query 0.
    """

    start: int
    stop: int
    position: int
    window: int
    first_query: int

    def own(self, chain: Chain) -> Part:
        """The part of the block's own chain."""
        first = max(chain.start, self.start - self.window + 1)
        if first == self.start and self.stop - self.start <= self.window:
            return Part(self._query(self.stop), slice(first, self.stop), causal=True)
        return Part(self._query(self.stop), slice(first, self.stop),
                    band=self._band(self.start - first, self.stop - first))

    def above(self, chain: Chain) -> Iterator[Part]:
        """The parts of the ancestors that the window reaches. A query that sees none of the keys stays out."""
        reached = self.position - self.window + 1
        position = 0
        for start, stop in chain.ancestors:
            skipped = max(0, reached - position)
            end = position + stop - start  # one past the last key's position
            if skipped < stop - start:
                n_queries = min(self.stop - self.start, end - 1 + self.window - self.position)
                distance = self.position - position - skipped
                n_keys = stop - start - skipped
                band = None if distance + n_queries <= self.window else self._band(distance, n_keys)
                yield Part(self._query(self.start + n_queries), slice(start + skipped, stop), band=band)
            position = end

    def _query(self, stop: int) -> slice:
        return slice(self.start - self.first_query, stop - self.first_query)

    def _band(self, distance: int, n_keys: int) -> slice:
        """Columns for keys of which the first stands `distance` positions before the first query."""
        first = self.window - 1 - distance
        return slice(first, first + n_keys)
