"""Batches of units, and the pieces in which a model reads them.

A unit is what a batch counts: a pair under `rows`, all pairs of one group under `tree`. A piece is what goes through
the model at once. How a batch falls into pieces changes memory and time, never the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from lpo.errors import DataError
from lpo.packing import Budget, Group, PackedTree, Row, fill, pack, packed_tokens
from lpo.trainers.reference_key import unit_digest
from lpo.trainers.sides import SideIndex
from lpo.trainers.tokenise import TokenisedPair, TokenisedSide


class Packing(StrEnum):
    """How pairs become model inputs."""

    TREE = "tree"
    """Pairs of one group stand in one token tree: every distinct token is computed once."""
    ROWS = "rows"
    """Every side is a padded row of its own, as in TRL."""

    def units(self, pairs: Sequence[TokenisedPair]) -> list[tuple[int, ...]]:
        """The numbers of the pairs of each unit, in the order in which units first appear."""
        if self is Packing.ROWS:
            return [(number,) for number in range(len(pairs))]
        groups: dict[str, list[int]] = {}
        for number, pair in enumerate(pairs):
            groups.setdefault(pair.group, []).append(number)
        return [tuple(numbers) for numbers in groups.values()]


@dataclass(frozen=True)
class Unit:
    """What a batch counts.

    Args:
        number: Of the unit in its data set.
        pair_numbers: Of its pairs in the data set.
        pairs: The pairs.
        packing: How it is read.
    """

    number: int
    pair_numbers: tuple[int, ...]
    pairs: tuple[TokenisedPair, ...]
    packing: Packing

    @property
    def sides(self) -> list[TokenisedSide]:
        """Chosen and rejected side of each pair, pair after pair."""
        return [side for pair in self.pairs for side in (pair.chosen, pair.rejected)]

    @property
    def group(self) -> Group:
        """The unit's sides as rows of one tree; the two sides of a pair stay together."""
        return Group(tuple(Row(side.ids, side.start) for side in self.sides),
                     tuple((2 * number, 2 * number + 1) for number in range(len(self.pairs))))

    @property
    def digest(self) -> str:
        """Names the unit's tokens and which of them are scored."""
        return unit_digest([(side.ids, side.start, len(side.ids)) for side in self.sides],
                           ordered=self.packing is Packing.ROWS)


class UnitDataset(Dataset[Unit]):
    """Tokenised pairs, by units.

    Args:
        pairs: All pairs.
        packing: What makes a unit.
    """

    def __init__(self, pairs: Sequence[TokenisedPair], packing: Packing) -> None:
        self.pairs = pairs
        self.packing = packing
        self._units = packing.units(pairs)

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, index: int) -> Unit:
        numbers = self._units[index]
        return Unit(index, numbers, tuple(self.pairs[number] for number in numbers), self.packing)


@dataclass(frozen=True, eq=False)
class PaddedRows:
    """Rows padded on the right to one length.

    Args:
        input_ids_BT: [B, T].
        attention_mask_BT: [B, T], 0 on padding.
        scored_index_N: [N], position in the flattened [B * T] whose hidden state predicts the scored token.
        scored_targets_N: [N], the scored tokens.
        n_tokens: Tokens without padding.
    """

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    scored_index_N: torch.Tensor
    scored_targets_N: torch.Tensor
    n_tokens: int

    @property
    def n_row_tokens(self) -> int:
        """Tokens of all rows."""
        return self.n_tokens

    def to(self, device: Any, non_blocking: bool = False) -> PaddedRows:
        """The same rows on a device."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in (
            "input_ids_BT", "attention_mask_BT", "scored_index_N", "scored_targets_N")})


class UnitPart(NamedTuple):
    """A unit, or some pairs of it, in a piece.

    Args:
        digest: Of the whole unit.
        index_n: For each scored token of the part, its number among those of the whole unit; None: all of them.
    """

    digest: str
    index_n: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """Pairs that go through the model at once.

    Args:
        tokens: What the model reads and which tokens are scored.
        pair_slot_P: [P], which of the batch's pairs these are.
        chosen: Their chosen sides, as indices of scored tokens.
        rejected: Their rejected sides.
        parts: The units, or parts of units, whose scored tokens these are, one after the other.
        depth_first: The piece is too big for one forward and goes through the model branch by branch.
    """

    tokens: PaddedRows | PackedTree
    pair_slot_P: torch.Tensor
    chosen: SideIndex
    rejected: SideIndex
    parts: tuple[UnitPart, ...]
    depth_first: bool = False

    def restricted(self, pairs: Sequence[int]) -> Piece:
        """Some of the pairs, their sides still as indices of the whole piece's scored tokens."""
        return replace(self, pair_slot_P=self.pair_slot_P[pairs], chosen=self.chosen.restricted(pairs),
                       rejected=self.rejected.restricted(pairs))

    @property
    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments of a forward with scoring attached."""
        if isinstance(self.tokens, PackedTree):
            return {"tree": self.tokens}
        return {"input_ids": self.tokens.input_ids_BT, "attention_mask": self.tokens.attention_mask_BT,
                "scored_index": self.tokens.scored_index_N, "scored_targets": self.tokens.scored_targets_N}

    def to(self, device: Any, non_blocking: bool = False) -> Piece:
        """The same piece on a device."""
        return replace(self, tokens=self.tokens.to(device, non_blocking=non_blocking),
                       pair_slot_P=self.pair_slot_P.to(device), chosen=self.chosen.to(device),
                       rejected=self.rejected.to(device))


Batch = Mapping[str, Any]
"""`unit_index` [U], `unit_size` [U] in pairs, `pair_index` [P] (numbers in the data set), `step` [P], and `pieces`, a
list of `Piece`."""


def _batch(units: Sequence[Unit], pieces: list[Piece]) -> dict[str, Any]:
    return {
        # First, because the trainer and accelerate take the batch size from the first tensor.
        "unit_index": torch.tensor([unit.number for unit in units]),
        "unit_size": torch.tensor([len(unit.pairs) for unit in units]),
        "pair_index": torch.tensor([number for unit in units for number in unit.pair_numbers]),
        "step": torch.tensor([pair.step for unit in units for pair in unit.pairs]),
        "pieces": pieces,
    }


@dataclass(frozen=True)
class RowCollator:
    """Makes a batch of one piece: the sides of its pairs as padded rows, chosen and rejected in turn.

    Args:
        pad_token_id: Fills rows up to the longest one; hidden by the attention mask.
    """

    pad_token_id: int

    def __call__(self, units: Sequence[Unit]) -> dict[str, Any]:
        """Collate a batch."""
        sides = [side for unit in units for side in unit.sides]
        edges = accumulate((side.n_scored for side in sides), initial=0)
        ranges = [range(start, stop) for start, stop in pairwise(edges)]
        piece = Piece(
            pad_rows(sides, self.pad_token_id), torch.arange(len(sides) // 2),
            SideIndex.from_lists(ranges[0::2]), SideIndex.from_lists(ranges[1::2]),
            tuple(UnitPart(unit.digest) for unit in units))
        return _batch(units, [piece])


def pad_rows(sides: Sequence[TokenisedSide], pad_token_id: int) -> PaddedRows:
    """Pad rows on the right; their scored tokens stand one row after the other."""
    width = max(len(side.ids) for side in sides)
    input_ids_BT = torch.full((len(sides), width), pad_token_id)
    mask_BT = torch.zeros_like(input_ids_BT)
    index: list[torch.Tensor] = []
    for row, side in enumerate(sides):
        input_ids_BT[row, : len(side.ids)] = torch.tensor(side.ids)
        mask_BT[row, : len(side.ids)] = 1
        index.append(torch.arange(side.start - 1, len(side.ids) - 1) + row * width)
    index_N = torch.cat(index)
    return PaddedRows(input_ids_BT, mask_BT, index_N, input_ids_BT.flatten()[index_N + 1],
                      n_tokens=sum(len(side.ids) for side in sides))


@dataclass(frozen=True)
class TreeCollator:
    """Makes a batch of groups packed into as few trees as the budget allows; groups too big for it are split.

    Args:
        budget: Limit of one piece.
        depth_first: Keep a group that is too big whole, to be computed branch by branch.
    """

    budget: Budget
    depth_first: bool = False

    def __call__(self, units: Sequence[Unit]) -> dict[str, Any]:
        """Collate a batch."""
        groups = [unit.group for unit in units]
        whole: list[int] = []
        too_big: list[int] = []
        for number, group in enumerate(groups):
            kept_whole = self.depth_first and packed_tokens(group) > (self.budget.tokens or math.inf)
            (too_big if kept_whole else whole).append(number)
        filled = fill([groups[number] for number in whole], self.budget)
        if filled.oversized:
            raise DataError(f"a pair has {filled.oversized[0].n_tokens} tokens", where="max_pack_tokens",
                            mend="give a larger number, or oversized='depth_first'")
        # The rows of a part stand in the order of its pairs' numbers, whatever the order of the cut.
        contents = [[(whole[part.group], sorted(part.units), part.content) for part in filled_pack.parts]
                    for filled_pack in filled.packs]
        contents += [[(number, range(len(groups[number].units)), groups[number])] for number in too_big]
        slots = list(accumulate((len(unit.pairs) for unit in units), initial=0))
        pieces = [self._piece(content, units, slots, depth_first=content[0][0] in too_big) for content in contents]
        return _batch(units, pieces)

    def _piece(
        self, content: Sequence[tuple[int, Sequence[int], Group]], units: Sequence[Unit], slots: Sequence[int],
        depth_first: bool,
    ) -> Piece:
        """A piece of (number of the unit, its pairs, their rows)."""
        tree = pack([group for _, _, group in content])
        parts: list[UnitPart] = []
        first_row = 0
        for number, pairs, group in content:
            rows = tree.row_tokens[first_row : first_row + len(group.rows)]
            first_row += len(group.rows)
            is_whole = len(pairs) == len(units[number].pairs)
            parts.append(UnitPart(units[number].digest, None if is_whole else _place(rows, pairs, units[number].group)))
        return Piece(
            tree, torch.tensor([slots[number] + pair for number, pairs, _ in content for pair in pairs]),
            SideIndex.from_tensors(tree.row_tokens[0::2]), SideIndex.from_tensors(tree.row_tokens[1::2]),
            tuple(parts), depth_first)


def _place(rows: Sequence[torch.Tensor], pairs: Sequence[int], group: Group) -> torch.Tensor:
    """For each scored token of a part of a group, its number among the scored tokens of the whole group.

    Args:
        rows: Scored tokens of the part's rows, numbered in the pack.
        pairs: Which pairs of the group the part holds.
        group: The whole group.
    """
    whole = pack([group])
    first = min(int(row.min()) for row in rows)
    index_N = torch.empty(1 + max(int(row.max()) for row in rows) - first, dtype=torch.int64)
    for row, number in zip(rows, (row for pair in pairs for row in group.units[pair]), strict=True):
        index_N[row - first] = whole.row_tokens[number]
    return index_N
