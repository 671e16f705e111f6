"""Calls of one kind, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

INSTRUCTIONS = 400
"""Rough tokens of our own instructions around the texts that a judge, an extractor or a critic reads."""
DEMONSTRATIONS = 1500
"""Rough tokens of instructions with demonstrations."""
WORDS_OF_TOKENS = 0.75
"""Rough words of a token of English."""


class Role(StrEnum):
    """Whose calls they are."""

    POLICY = "policy"
    JUDGE = "judge"
    CRITIC = "critic"
    MEASURED = "measured"
    """Base and trained model in the evaluation."""


@dataclass(frozen=True)
class Load:
    """Calls of one kind.

    Args:
        role: Who answers them.
        calls: How many.
        read: Tokens read by all of them, every call counted with its whole context.
        each: Tokens that one of them writes, at most.
    """

    role: Role
    calls: int
    read: int
    each: int

    @property
    def written(self) -> int:
        """Tokens written by all of them."""
        return self.calls * self.each
