"""The contract of everything that finds facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Retriever(Protocol):
    """Says which facts a chunk of text may be about."""

    def relevant(self, facts: Sequence[str], chunk: str) -> list[int]:
        """Find facts. May compute for a while and is called from threads: it waits for no event loop.

        Args:
            facts: All that are known.
            chunk: A piece of text.

        Returns:
            Indices into `facts`, the nearest first; a function of the arguments alone.
        """
        ...
