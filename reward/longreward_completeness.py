"""Completeness: does an answer hold what the document has to say about the request?

LongReward (arXiv 2410.21252): the judge notes what each chunk of the document says about the request, once for all
answers to it; then it grades each answer against all notes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from lpo.llm.asking import NoReplyError
from lpo.reward.longreward_asking import Asker, Dimension, Language, Purpose, failed
from lpo.reward.longreward_document import Piece, pieces
from lpo.reward.longreward_replies import GRADE, NOTES
from lpo.reward.longreward_shared import Shared
from lpo.reward_config import LongRewardConfig

KEPT_NOTES = 256
"""Requests whose notes are kept."""


@dataclass(frozen=True)
class ChunkNotes:
    """What a chunk says about the request.

    Args:
        chunk: Where it stands.
        notes: One line each; none when it says nothing about the request.
        tries: How often were they asked for?
    """

    chunk: Piece
    notes: tuple[str, ...]
    tries: int

    def to_json(self) -> dict[str, Any]:
        """Where, and what."""
        return {"start": self.chunk.start, "end": self.chunk.end, "notes": list(self.notes), "tries": self.tries}


class Completeness:
    """Scores answers against notes: 1 call for each, after 1 for each chunk of the document once per request.

    Args:
        asker: Puts the questions.
        config: Size of the chunks.
    """

    def __init__(self, asker: Asker, config: LongRewardConfig) -> None:
        self._asker = asker
        self._config = config
        self._notes: Shared[tuple[str, str, Language], tuple[ChunkNotes, ...]] = Shared(KEPT_NOTES)

    async def score(self, query: str, answer: str, document: str, language: Language) -> Dimension:
        """Score one answer.

        Args:
            query: What the user asked for.
            answer: Not empty.
            document: Not empty.
            language: Of the prompts.

        Raises:
            BackendError: The judge cannot be used.
        """
        key = (query, document, language)
        try:
            notes = await self._notes.get(key, lambda: self._extract(*key))
        except NoReplyError as error:
            return failed(error, Purpose.NOTES)
        parts: dict[str, Any] = {"notes": [chunk.to_json() for chunk in notes]}
        lines = [note for chunk in notes for note in chunk.notes]
        try:
            reply = await self._asker.ask(Purpose.COMPLETENESS, GRADE, language, query=query, notes=lines,
                                          answer=answer)
        except NoReplyError as error:
            return failed(error, Purpose.COMPLETENESS, **parts)
        return Dimension(reply.value.value, {"analysis": reply.value.analysis, "tries": reply.tries, **parts})

    async def _extract(self, query: str, document: str, language: Language) -> tuple[ChunkNotes, ...]:
        """Notes on all chunks, in the order of the document.

        Raises:
            NoReplyError: A chunk has none: an answer must not be graded against half of the document.
        """
        chunks = await asyncio.to_thread(pieces, document, self._config.note_words)
        replies = await asyncio.gather(*(self._note(query, chunk, language) for chunk in chunks))
        failures = [reply for reply in replies if isinstance(reply, NoReplyError)]
        if failures:
            raise failures[0]
        return tuple(reply for reply in replies if isinstance(reply, ChunkNotes))

    async def _note(self, query: str, chunk: Piece, language: Language) -> ChunkNotes | NoReplyError:
        try:
            reply = await self._asker.ask(Purpose.NOTES, NOTES, language, query=query, passage=chunk.text.strip())
        except NoReplyError as error:
            return error
        return ChunkNotes(chunk, tuple(reply.value), reply.tries)
