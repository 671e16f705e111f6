"""Which blocks of queries see which blocks of keys in a token tree, without looking at pairs of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lpo.packing import Chain


class VisibleBlocks(NamedTuple):
    """Blocks of A queries by blocks of as many keys.

    Args:
        some_AA: bool, a query of the block sees a key of the block.
        all_AA: bool, every query sees every key, and neither block reaches beyond the last token.
    """

    some_AA: np.ndarray
    all_AA: np.ndarray


def visible_blocks(chains: Sequence[Chain], window: int | None, size: int) -> VisibleBlocks:
    """Compare blocks by the ranges of keys that they see.

    What a token sees of its chain and of each range of ancestors is an interval, and from one token of a chain to the
    next neither end of it moves back, nor forward by more than one. For tokens of a chain that stand together, what
    one of them sees and what all of them see is therefore known from the first and the last of them. The work is that
    of the blocks, not of the tokens.

    Args:
        chains: Those of a whole tree, in packed order.
        window: Sliding window, counted in positions; None for none.
        size: Tokens of a block.

    Returns:
        The visible blocks, exactly.
    """
    n_tokens = chains[-1].stop
    edge_A = np.arange(0, n_tokens, size)
    some_AA = np.zeros((len(edge_A), len(edge_A)), dtype=bool)
    all_AA = np.ones_like(some_AA)
    for chain in chains:
        starts = [chain.start, *range((chain.start // size + 1) * size, chain.stop, size)]
        for start, stop in zip(starts, [*starts[1:], chain.stop], strict=True):
            block = start // size
            seen_by_all_A = np.zeros(len(edge_A), dtype=np.int64)
            for first, last in _seen(chain, start, stop, window):
                some_AA[block, first[0] // size : -(-last[1] // size)] |= first[0] < last[1]
                # What all see begins with what the last one sees and ends with what the first one sees.
                seen_by_all_A += _overlap(last[0], max(last[0], first[1]), edge_A, size)
            all_AA[block] &= seen_by_all_A == size
    if n_tokens % size:
        all_AA[-1] = False
    return VisibleBlocks(some_AA, all_AA)


def _seen(
    chain: Chain, start: int, stop: int, window: int | None
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Of the chain and each range above it: the keys that the tokens start and stop - 1 see, as ranges."""
    position = 0
    for first_key, end_key in (*chain.ancestors, (chain.start, chain.stop)):
        def seen(token: int, first: int = first_key, end: int = end_key, position: int = position) -> tuple[int, int]:
            reached = 0 if window is None else chain.position + token - chain.start - window + 1
            return min(first + max(0, reached - position), end), min(end, token + 1)

        yield seen(start), seen(stop - 1)
        position += end_key - first_key


def _overlap(start: int, stop: int, edge_A: np.ndarray, size: int) -> np.ndarray:
    """How many of the tokens start .. stop - 1 lie in each block."""
    return np.clip(stop - edge_A, 0, size) - np.clip(start - edge_A, 0, size)
