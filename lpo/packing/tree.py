"""Rows packed into one sequence in which every shared token stands once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch

from lpo.packing.rows import Group
from lpo.packing.trie import Chain, Layout, lay_out


@dataclass(frozen=True, eq=False)
class PackedTree:
    """Token tries in depth-first order: one tree a group, several where not even the first token is shared.

    A token sees exactly its ancestors and itself: packed index k is visible to q if `k <= q < subtree_end_T[k]`.

    Args:
        input_ids_T: int64 [T], each distinct path token once.
        position_ids_T: int64 [T], depth of each token, from 0: its position in every row that holds it.
        subtree_end_T: int64 [T], one past the last packed index below each token (its Euler interval is
            [t, subtree_end_T[t])).
        hidden_index_N: int64 [N], for each distinct scored token the packed index of its parent, whose hidden state
            predicts it. One hidden state may predict several different tokens.
        target_id_N: int64 [N], id of the scored token. Ordered by the packed index of the scored token.
        row_tokens: For each row, in the order of groups and rows, int64 indices into N of its scored tokens, in the
            order of the text. They stay on the CPU.
        row_end: For each row, the packed index of its last token.
        chains: The stretches the packed order is made of.
        n_row_tokens: Tokens that row-by-row computation of the units would read.
    """

    input_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    subtree_end_T: torch.Tensor
    hidden_index_N: torch.Tensor
    target_id_N: torch.Tensor
    row_tokens: tuple[torch.Tensor, ...]
    row_end: tuple[int, ...]
    chains: tuple[Chain, ...]
    n_row_tokens: int

    @property
    def n_tokens(self) -> int:
        """Packed tokens T."""
        return len(self.input_ids_T)

    @property
    def n_scored(self) -> int:
        """Distinct scored tokens N."""
        return len(self.target_id_N)

    @property
    def sharing(self) -> float:
        """Row tokens per packed token: how much less is computed than row by row."""
        return self.n_row_tokens / self.n_tokens

    @cached_property
    def parent_T(self) -> np.ndarray:
        """int64 [T] on the CPU, packed index of the token before each one; -1 at the roots."""
        return _parents(self.chains, self.n_tokens)

    def path(self, row: int) -> list[int]:
        """Packed indices of all tokens of a row, in the order of the text."""
        end = self.row_end[row]
        chain = next(chain for chain in self.chains if chain.start <= end < chain.stop)
        return [index for start, stop in (*chain.ancestors, (chain.start, end + 1)) for index in range(start, stop)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same tree with its tensors (those with a shape suffix) on a device."""
        moved = {field.name: getattr(self, field.name).to(device, non_blocking=non_blocking)
                 for field in fields(self) if field.name[-2:] in ("_T", "_N")}
        return replace(self, **moved)


def pack(groups: Sequence[Group]) -> PackedTree:
    """Pack groups one after another; tokens are shared within a group, never between groups.

    Args:
        groups: At least one, none of them empty.

    Returns:
        The packed tree, on the CPU.
    """
    layouts: list[Layout] = []
    for group in groups:
        layouts.append(lay_out(group.rows, sum(len(layout.ids) for layout in layouts)))
    chains = tuple(chain for layout in layouts for chain in layout.chains)
    ids_T = np.concatenate([layout.ids for layout in layouts])
    position_T, subtree_end_T = _positions(chains, len(ids_T)), _subtree_ends(chains, len(ids_T))
    parent_T = _parents(chains, len(ids_T))

    row_end: list[int] = []
    scored_paths: list[np.ndarray] = []
    scored_T = np.zeros(len(ids_T), dtype=bool)
    for group, layout in zip(groups, layouts, strict=True):
        for row, number in zip(group.rows, layout.row_chain, strict=True):
            chain = layout.chains[number]
            path = np.concatenate([np.arange(*packed) for packed in chain.ranges(row.start, row.end)])
            row_end.append(chain.start + len(row.ids) - chain.position - 1)
            scored_paths.append(path)
            scored_T[path] = True
    scored_tokens_N = np.flatnonzero(scored_T)
    number_T = np.cumsum(scored_T) - 1
    return PackedTree(
        input_ids_T=torch.from_numpy(ids_T), position_ids_T=torch.from_numpy(position_T),
        subtree_end_T=torch.from_numpy(subtree_end_T),
        hidden_index_N=torch.from_numpy(parent_T[scored_tokens_N]),
        target_id_N=torch.from_numpy(ids_T[scored_tokens_N]),
        row_tokens=tuple(torch.from_numpy(number_T[path]) for path in scored_paths), row_end=tuple(row_end),
        chains=chains, n_row_tokens=sum(group.n_row_tokens for group in groups))


def _parents(chains: Sequence[Chain], n_tokens: int) -> np.ndarray:
    parent_T = np.arange(-1, n_tokens - 1)
    for chain in chains:
        parent_T[chain.start] = chain.parent
    return parent_T


def _positions(chains: Sequence[Chain], n_tokens: int) -> np.ndarray:
    position_T = np.empty(n_tokens, dtype=np.int64)
    for chain in chains:
        position_T[chain.start : chain.stop] = np.arange(chain.position, chain.position + chain.stop - chain.start)
    return position_T


def _subtree_ends(chains: Sequence[Chain], n_tokens: int) -> np.ndarray:
    """A token's subtree ends where its chain ends, or where the last branch ends that hangs at or below it."""
    end_T = np.empty(n_tokens, dtype=np.int64)
    for chain in chains:
        end_T[chain.start : chain.stop] = chain.stop
    # Branches follow what they hang on, so from the back a branch is final before it counts for its ancestors.
    for chain in reversed(chains):
        stop = end_T[chain.start]
        for start, end in chain.ancestors[-1:]:  # the chain it hangs on; that one passes it on to its own
            np.maximum(end_T[start:end], stop, out=end_T[start:end])
    return end_T
