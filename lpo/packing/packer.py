"""Groups in packs of limited size, and how much a data set shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lpo.packing.cost import CostModel
from lpo.packing.rows import Group
from lpo.packing.split import Budget, split_group
from lpo.packing.trie import sort_by_tokens, token_arrays


@dataclass(frozen=True)
class Part:
    """A group, or one piece of a group that had to be split, in a pack.

    Args:
        group: Number of the group among those that were packed.
        units: Numbers of the units of that group, in the order they have in `content`.
        content: The group of those units; the whole group as it was if it was not split.
        n_tokens: Packed tokens.
        cost: Forward floating-point operations; 0 without a cost model.
    """

    group: int
    units: tuple[int, ...]
    content: Group
    n_tokens: int
    cost: int


@dataclass(frozen=True)
class Pack:
    """What goes through the model at once: `pack(filled.groups)` is its tree.

    Args:
        parts: At least one, by the numbers of their groups.
    """

    parts: tuple[Part, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The content of each part."""
        return tuple(part.content for part in self.parts)

    @property
    def n_tokens(self) -> int:
        """Packed tokens of the tree."""
        return sum(part.n_tokens for part in self.parts)

    @property
    def cost(self) -> int:
        """Forward floating-point operations; 0 without a cost model."""
        return sum(part.cost for part in self.parts)


class Oversized(NamedTuple):
    """A unit that exceeds the budget by itself: number of its group, of the unit in it, and its packed tokens."""

    group: int
    unit: int
    n_tokens: int


@dataclass(frozen=True)
class Filled:
    """Packs, and what fits in none.

    Args:
        packs: By the number of their first group.
        oversized: In no pack; by group and unit.
    """

    packs: tuple[Pack, ...]
    oversized: tuple[Oversized, ...]


def fill(groups: Sequence[Group], budget: Budget, cost_model: CostModel | None = None) -> Filled:
    """Put groups into few packs within a budget; the same groups give the same packs.

    Groups stay whole unless they exceed the budget by themselves; those are split with the least recomputation
    (`split_group`). The biggest goes first into the first pack with room for it (first-fit decreasing: with one limit
    at most 11/9 of the fewest packs possible, plus one).

    Args:
        groups: Any number.
        budget: What a pack may hold at most.
        cost_model: Needed if the budget limits cost. When given, splitting minimises cost instead of tokens.

    Raises:
        ValueError: A cost is limited and there is no cost model.
    """
    limits_R = np.array(budget.limits(cost_model))
    parts: list[Part] = []
    oversized: list[Oversized] = []
    for number, group in enumerate(groups):
        whole = _part(number, range(len(group.units)), group, cost_model)
        if (_sizes(whole, cost_model) <= limits_R).all():
            parts.append(whole)
            continue
        split = split_group(group, budget, cost_model)
        parts += [_part(number, units, group.restricted(units), cost_model) for units in split.pieces]
        oversized += [Oversized(number, unit, packed_tokens(group.restricted([unit]))) for unit in split.oversized]
    packs = [Pack(tuple(parts[index] for index in bin_)) for bin_ in _first_fit_decreasing(
        np.array([_sizes(part, cost_model) for part in parts]).reshape(len(parts), len(limits_R)), limits_R)]
    return Filled(tuple(packs), tuple(oversized))


def packed_tokens(group: Group) -> int:
    """Tokens that a group packs into."""
    arrays = token_arrays(group.rows)
    _, shared = sort_by_tokens(arrays)
    return sum(map(len, arrays)) - sum(shared)


class Sharing(NamedTuple):
    """Tokens that row-by-row computation reads, and that trees compute."""

    row_tokens: int
    packed_tokens: int

    @property
    def ratio(self) -> float:
        """Row tokens per packed token: how much less a tree computes."""
        return self.row_tokens / self.packed_tokens


def sharing(groups: Iterable[Group]) -> Sharing:
    """How much the rows of a data set share, each group whole in one tree."""
    row_tokens = packed = 0
    for group in groups:
        row_tokens += group.n_row_tokens
        packed += packed_tokens(group)
    return Sharing(row_tokens, packed)


def _part(number: int, units: Sequence[int], content: Group, cost_model: CostModel | None) -> Part:
    cost = 0 if cost_model is None else cost_model.tree([content]).total
    return Part(number, tuple(units), content, packed_tokens(content), cost)


def _sizes(part: Part, cost_model: CostModel | None) -> np.ndarray:
    """The measures that a budget limits."""
    return np.array([part.n_tokens] if cost_model is None else [part.n_tokens, part.cost])


def _first_fit_decreasing(sizes_MR: np.ndarray, limits_R: np.ndarray) -> list[list[int]]:
    """Indices of what each bin holds, ascending; bins by their first index."""
    room_MR = np.tile(limits_R, (len(sizes_MR), 1))
    bins: list[list[int]] = []
    for index in np.argsort(-(sizes_MR / limits_R).max(1), kind="stable").tolist():
        # The row after the bins in use is an empty bin, in which everything fits.
        number = int(np.argmax((room_MR[: len(bins) + 1] >= sizes_MR[index]).all(1)))
        if number == len(bins):
            bins.append([])
        bins[number].append(index)
        room_MR[number] -= sizes_MR[index]
    return sorted(sorted(bin_) for bin_ in bins)
