"""What every pair builder gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lpo.records import PreferencePair, Prompt, RejectedRow, SearchTree


@dataclass(frozen=True)
class BuildResult:
    """What was built from one prompt. Every layer that was expanded gave one pair or one rejected row.

    Args:
        trees: Everything the search saw.
        pairs: The pairs it gave.
        rejected: Why the other layers gave none.
    """

    trees: tuple[SearchTree, ...]
    pairs: tuple[PreferencePair, ...]
    rejected: tuple[RejectedRow, ...]


class PairBuilder(Protocol):
    """Builds preference pairs from one prompt."""

    async def build(self, prompt: Prompt, *, seed: int) -> BuildResult:
        """Build.

        Args:
            prompt: The writing task.
            seed: With the replies of the models, it determines the result; the order in which they come does not.

        Raises:
            BackendError: A model cannot be used.
        """
        ...
