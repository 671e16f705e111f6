"""The sides of pairs as lists of indices into one array of scored tokens.

So rows of a batch, shared tokens of a prefix tree and nested rows are all the same thing to a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from lpo.errors import DataError


@dataclass(frozen=True)
class SideIndex:
    """The scored tokens of every side, in the order of the text.

    Args:
        token_index_M: int64 [M], which scored token each entry is. A token may serve several sides.
        side_id_M: int64 [M], which side each entry belongs to; never decreasing.
        n_sides: Number of sides S; every side has at least one entry.
    """

    token_index_M: torch.Tensor
    side_id_M: torch.Tensor
    n_sides: int

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], *, start: int = 0, device: torch.device | str = "cpu") -> SideIndex:
        """Sides that stand one after another in the array of scored tokens.

        Args:
            lengths: Tokens of each side.
            start: Index of the first side's first token.
            device: Where the index lives.

        Raises:
            DataError: A side has no token.
        """
        return cls.from_lists(_ranges(lengths, start), device=device)

    @classmethod
    def from_lists(cls, sides: Sequence[Sequence[int]], *, device: torch.device | str = "cpu") -> SideIndex:
        """Sides given as lists of scored tokens.

        Raises:
            DataError: A side has no token.
        """
        empty = [number for number, side in enumerate(sides) if not len(side)]
        if empty:
            raise DataError("nothing is scored on it", where=f"side {empty[0]}", mend="drop the pair before training")
        lengths = torch.tensor([len(side) for side in sides], dtype=torch.int64)
        tokens = torch.tensor([index for side in sides for index in side], dtype=torch.int64)
        ids = torch.repeat_interleave(torch.arange(len(sides)), lengths)
        return cls(tokens.to(device), ids.to(device), len(sides))

    @classmethod
    def from_tensors(cls, sides: Sequence[torch.Tensor]) -> SideIndex:
        """Sides given as int64 tensors of scored tokens, none of them empty."""
        lengths = torch.tensor([len(side) for side in sides])
        tokens_M = torch.cat(list(sides))
        ids_M = torch.repeat_interleave(torch.arange(len(sides)), lengths)
        return cls(tokens_M, ids_M.to(tokens_M.device), len(sides))

    def restricted(self, sides: Sequence[int]) -> SideIndex:
        """Some of the sides, in this order."""
        edges = [0, *self.lengths_S.cumsum(0).tolist()]
        return self.from_tensors([self.token_index_M[edges[side] : edges[side + 1]] for side in sides])

    def to(self, device: torch.device | str) -> SideIndex:
        """The same index on a device."""
        return SideIndex(self.token_index_M.to(device), self.side_id_M.to(device), self.n_sides)

    @cached_property
    def lengths_S(self) -> torch.Tensor:
        """int64 [S], tokens of each side."""
        ones_M = torch.ones_like(self.side_id_M)
        return ones_M.new_zeros(self.n_sides).index_add(0, self.side_id_M, ones_M)

    @cached_property
    def position_M(self) -> torch.Tensor:
        """int64 [M], position of each entry within its side, from 0."""
        starts_S = self.lengths_S.cumsum(0) - self.lengths_S
        return torch.arange(len(self.side_id_M), device=self.side_id_M.device) - starts_S[self.side_id_M]


def _ranges(lengths: Sequence[int], start: int) -> list[range]:
    ranges: list[range] = []
    for length in lengths:
        ranges.append(range(start, start + length))
        start += length
    return ranges


def segment_sums(values_N: torch.Tensor, sides: SideIndex, weight_M: torch.Tensor | None = None) -> torch.Tensor:
    """Sum over the tokens of each side.

    Args:
        values_N: One value per scored token.
        sides: Which tokens belong to which side.
        weight_M: Weight of each entry; None counts every entry once.

    Returns:
        [S], differentiable in `values_N`.
    """
    values_M = values_N[sides.token_index_M]
    if weight_M is not None:
        values_M = values_M * weight_M
    return values_M.new_zeros(sides.n_sides).index_add(0, sides.side_id_M, values_M)
