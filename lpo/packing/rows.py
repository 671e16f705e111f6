"""Rows of token ids and groups of rows: what a tree is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One token sequence, some of which is scored.

    Args:
        ids: All tokens of the row, context included, not negative.
        start: Index of the first scored token, at least 1: the first token of a row has nothing to be predicted from.
        stop: One past the last scored token; None scores to the end. An end-of-sequence token that is read but not
            scored lies at or after it.

    Raises:
        ValueError: Nothing would be scored, or the range lies outside the row.
    """

    ids: Sequence[int]
    start: int
    stop: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.start < self.end <= len(self.ids):
            raise ValueError(f"scored range {self.start}..{self.end} does not lie in a row of {len(self.ids)} tokens")

    @property
    def end(self) -> int:
        """One past the last scored token."""
        return len(self.ids) if self.stop is None else self.stop

    @property
    def n_scored(self) -> int:
        """How many tokens are scored."""
        return self.end - self.start


@dataclass(frozen=True)
class Group:
    """Rows that share beginnings, usually the pairs of one document.

    Args:
        rows: The rows, in any order, repeats allowed.
        units: Indices of rows that a split must keep together (the two sides of a pair, say); every row lies in at
            least one. Empty: every row by itself.

    Raises:
        ValueError: There are no rows, a unit is empty, or a row lies in no unit.
    """

    rows: tuple[Row, ...]
    units: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.units:
            object.__setattr__(self, "units", tuple((index,) for index in range(len(self.rows))))
        if not self.rows or not all(self.units):
            raise ValueError("a group and each of its units must hold at least one row")
        if {index for unit in self.units for index in unit} != set(range(len(self.rows))):
            raise ValueError("the units of a group must cover its rows")

    @property
    def n_row_tokens(self) -> int:
        """Tokens that row-by-row computation would read: a row of several units counts for each of them."""
        return sum(len(self.rows[index].ids) for unit in self.units for index in unit)

    def restricted(self, units: Sequence[int]) -> Group:
        """The group of some units; rows keep their order and are numbered anew."""
        kept = sorted({index for unit in units for index in self.units[unit]})
        number = {index: new for new, index in enumerate(kept)}
        return Group(tuple(self.rows[index] for index in kept),
                     tuple(tuple(number[index] for index in self.units[unit]) for unit in units))
