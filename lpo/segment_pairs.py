"""Which preference pairs an answer that was corrected segment by segment gives (LongWriter-V, arXiv 2502.14834)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class SegmentPair:
    """A pair made of the segments of one script.

    Args:
        number: The last segment it holds, from 1; None for the whole script.
        step: 0-based.
        prefix: What both sides continue.
        chosen: From the revised segments.
        rejected: From the original ones.
        ends: Do the sides finish the answer?
    """

    number: int | None
    step: int
    prefix: str
    chosen: str
    rejected: str
    ends: bool


class IterMode(StrEnum):
    """Which pairs are made of a script of N segments."""

    PREFIX = "prefix"
    """Growing prefixes: for i = 1..N, the first i revised segments against the first i original ones. LongWriter-V,
    Eq. 5."""
    LOCAL = "local"
    """One segment each: the first i - 1 revised segments are read, revised segment i is preferred to original i."""
    FULL = "full"
    """The whole revised script against the whole original one."""

    @property
    def has_open_prefixes(self) -> bool:
        """Whether pairs score a beginning of the script, after which the turn could be taken to end or not."""
        return self is IterMode.PREFIX

    def pairs(self, original: Sequence[str], revised: Sequence[str], prefixes_end: bool = False) -> list[SegmentPair]:
        """All pairs of a script, those with equal sides included.

        Args:
            original: N segments as written.
            revised: The same N segments as corrected.
            prefixes_end: Is the end of the turn scored after beginnings of the script, too?
        """
        n = len(revised)
        if self is IterMode.FULL:
            return [SegmentPair(None, 0, "", "".join(revised), "".join(original), ends=True)]
        if self is IterMode.PREFIX:
            return [SegmentPair(i, i - 1, "", "".join(revised[:i]), "".join(original[:i]), ends=prefixes_end or i == n)
                    for i in range(1, n + 1)]
        return [SegmentPair(i, i - 1, "".join(revised[: i - 1]), revised[i - 1], original[i - 1], ends=i == n)
                for i in range(1, n + 1)]
