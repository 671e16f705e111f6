"""A document in pieces that know where they stand: passages to check statements against, chunks to take notes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from lpo.retrieval import BM25Retriever, EmbeddingRetriever, Retriever, split_into_chunks
from lpo.reward_config import LongRewardConfig


@dataclass(frozen=True)
class Piece:
    """A stretch of a document.

    Args:
        start: Its first character.
        end: The character after its last: `document[start:end] == text`.
        text: What stands there.
    """

    start: int
    end: int
    text: str

    @property
    def span(self) -> list[int]:
        """`[start, end]`, as JSON."""
        return [self.start, self.end]


def pieces(document: str, words: int) -> list[Piece]:
    """Cut a document into pieces of so many words (Chinese: characters), without gap or overlap.

    Args:
        document: Any text.
        words: Words of a piece; the last one may have fewer.
    """
    chunks = split_into_chunks(document, words)
    ends = accumulate(map(len, chunks))
    return [Piece(end - len(chunk), end, chunk) for chunk, end in zip(chunks, ends, strict=True)]


class Passages:
    """The passages of one document, indexed once. May compute for a while: to be used from threads.

    Args:
        document: The whole text.
        words: Words of a passage.
        retriever: Finds them.
    """

    def __init__(self, document: str, words: int, retriever: Retriever) -> None:
        self._pieces = pieces(document, words)
        self._texts = [piece.text for piece in self._pieces]
        self._retriever = retriever
        # Indexes (BM25) or embeds the passages, and keeps that: answers asked about at once would all do it.
        retriever.relevant(self._texts, "")

    def about(self, statements: Sequence[str]) -> list[list[Piece]]:
        """For each statement the passages nearest to it, in the order of the document."""
        return [
            [self._pieces[place] for place in sorted(self._retriever.relevant(self._texts, statement))]
            for statement in statements
        ]


def create_retriever(config: LongRewardConfig) -> Retriever:
    """How passages are found.

    Raises:
        BackendError: sentence-transformers, which embeds them, is not installed.
    """
    if config.retrieval == "bm25":
        return BM25Retriever(top_k=config.passages)
    return EmbeddingRetriever(config.embedder, similarity=-math.inf, top_k=config.passages,
                              section="build.longreward")
