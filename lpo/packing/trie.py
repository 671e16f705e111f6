"""A compressed token trie over rows, laid out depth first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from lpo.packing.rows import Row


@dataclass(frozen=True)
class Chain:
    """Tokens that stand one after another, both in the packed order and on every path through them.

    Args:
        start: Packed index of the first token.
        stop: One past the last.
        position: Depth of the first token.
        ancestors: What its tokens see beyond the chain itself: packed ranges (start, stop) from the root downwards,
            which together hold exactly the positions 0 .. position - 1.
    """

    start: int
    stop: int
    position: int
    ancestors: tuple[tuple[int, int], ...]

    @property
    def parent(self) -> int:
        """Packed index of the token before the first one; -1 at a root."""
        return self.ancestors[-1][1] - 1 if self.ancestors else -1

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Packed ranges (start, stop) of the positions start .. stop - 1 on the path that runs through this chain."""
        position = 0
        for first, last in (*self.ancestors, (self.start, self.stop)):
            low, high = max(start - position, 0), min(stop - position, last - first)
            if low < high:
                yield first + low, first + high
            position += last - first


@dataclass(frozen=True)
class Layout:
    """A trie in depth-first order, the longest way down first: the trunk of a document is one chain.

    Args:
        chains: In packed order; they cover 0 .. T - 1 without gaps.
        row_chain: For each row, the number of the chain in which it ends.
        ids: Token ids [T], int64.
    """

    chains: tuple[Chain, ...]
    row_chain: tuple[int, ...]
    ids: np.ndarray


@dataclass
class _Node:
    """An edge of the trie: a stretch of one row, with what branches off at its end."""

    row: int
    start: int
    stop: int
    children: list[_Node] = field(default_factory=list)
    rows_ending: list[int] = field(default_factory=list)
    height: int = 0


def lay_out(rows: Sequence[Row], first_index: int = 0) -> Layout:
    """Put rows into one trie and lay it out.

    The result depends on which token sequences there are, not on the order of the rows.

    Args:
        rows: At least one.
        first_index: Packed index of the first token.

    Returns:
        The layout; each distinct path token appears in it once.
    """
    arrays = token_arrays(rows)
    roots = _build(arrays)
    chains: list[Chain] = []
    row_chain = [0] * len(rows)
    pieces: list[np.ndarray] = []
    index = first_index
    todo: list[tuple[_Node, tuple[tuple[int, int], ...]]] = [(root, ()) for root in reversed(roots)]
    while todo:
        node, ancestors = todo.pop()
        start, position = index, node.start
        branches: list[tuple[_Node, tuple[tuple[int, int], ...]]] = []
        while True:
            pieces.append(arrays[node.row][node.start : node.stop])
            index += node.stop - node.start
            for row in node.rows_ending:
                row_chain[row] = len(chains)
            if not node.children:
                break
            here = (*ancestors, (start, index))
            branches += [(child, here) for child in reversed(node.children[1:])]
            node = node.children[0]
        todo += branches  # the deepest branch is taken first, as in a depth-first walk
        chains.append(Chain(start, index, position, ancestors))
    return Layout(tuple(chains), tuple(row_chain), np.concatenate(pieces))


def token_arrays(rows: Sequence[Row]) -> list[np.ndarray]:
    """Token ids of each row, int64."""
    return [np.asarray(row.ids, dtype=np.int64) for row in rows]


def sort_by_tokens(arrays: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """Rows in the order of their tokens, in which each shares most with its neighbours.

    Returns:
        Row numbers in that order, and for each how many first tokens it shares with the one before it.
    """
    order = sorted(range(len(arrays)), key=lambda number: arrays[number].astype(">u8").tobytes())
    return order, [0, *(_common_prefix(arrays[before], arrays[row]) for before, row in pairwise(order))]


def _build(arrays: Sequence[np.ndarray]) -> list[_Node]:
    """The trie of sorted rows: every branching point lies between two neighbours."""
    root = _Node(row=-1, start=0, stop=0)
    path = [root]  # from the root to the end of the row before
    for row, shared in zip(*sort_by_tokens(arrays), strict=True):
        while path[-1].start >= shared and len(path) > 1:
            path.pop()
        last = path[-1]
        if last.stop > shared:
            _split(last, shared)
        if len(arrays[row]) > shared:
            node = _Node(row=row, start=shared, stop=len(arrays[row]))
            last.children.append(node)
            path.append(node)
        path[-1].rows_ending.append(row)
    _sort_by_height(root)
    return root.children


def _split(node: _Node, at: int) -> None:
    """Cut an edge in two; what hung at its end hangs at the second part."""
    tail = _Node(row=node.row, start=at, stop=node.stop, children=node.children, rows_ending=node.rows_ending)
    node.stop, node.children, node.rows_ending = at, [tail], []


def _sort_by_height(root: _Node) -> None:
    """The longest way down comes first among children; equally long ones keep the order of their tokens."""
    order: list[_Node] = [root]
    for node in order:
        order.extend(node.children)
    for node in reversed(order):
        node.children.sort(key=lambda child: -child.height)
        node.height = node.stop - node.start + max((child.height for child in node.children), default=0)


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length
