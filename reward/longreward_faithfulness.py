"""Faithfulness: what an answer says the document says, held against the document, statement by statement.

LongReward (arXiv 2410.21252): the judge lists the statements that come from the document; passages are looked up for
each; the judge says whether they bear it out fully (1), in part (0.5) or not (0). The score is 10 times the mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from lpo.llm.asking import NoReplyError
from lpo.reward.base import Unscored
from lpo.reward.longreward_asking import Asker, Dimension, Language, Purpose, Reply, failed
from lpo.reward.longreward_document import Passages, Piece, create_retriever
from lpo.reward.longreward_replies import STATEMENTS, SUPPORT, Support, Verdict
from lpo.reward.longreward_shared import Shared
from lpo.reward_config import LongRewardConfig

KEPT_DOCUMENTS = 64
"""Documents whose passages stay indexed."""


class Faithfulness:
    """Scores answers by the statements they take from the document: 1 call and 1 for each statement.

    Args:
        asker: Puts the questions.
        config: Size and number of passages; what an answer without statements gets.

    Raises:
        BackendError: sentence-transformers is not installed (`retrieval: embeddings`).
    """

    def __init__(self, asker: Asker, config: LongRewardConfig) -> None:
        self._asker = asker
        self._config = config
        self._retriever = create_retriever(config)
        self._documents: Shared[str, Passages] = Shared(KEPT_DOCUMENTS)

    async def score(self, query: str, answer: str, document: str, language: Language) -> Dimension:
        """Score one answer.

        Args:
            query: What the user asked for.
            answer: Not empty.
            document: Not empty.
            language: Of the prompts.

        Raises:
            BackendError: The judge or the embedding model cannot be used.
        """
        try:
            listed = await self._asker.ask(Purpose.STATEMENTS, STATEMENTS, language, query=query, answer=answer)
        except NoReplyError as error:
            return failed(error, Purpose.STATEMENTS)
        statements, parts = listed.value, {"tries": listed.tries}
        if not statements:
            return self._without_statements({**parts, "statements": []})
        evidence = await self._evidence(document, statements)
        replies = await asyncio.gather(*(
            self._check(statement, passages, language) for statement, passages in zip(statements, evidence, strict=True)
        ))
        return _judged(statements, evidence, replies, parts)

    def _without_statements(self, parts: dict[str, Any]) -> Dimension:
        if self._config.no_statements == "zero":
            return Dimension(0.0, parts)
        return Dimension(None, parts, Unscored.NO_STATEMENTS)

    async def _evidence(self, document: str, statements: Sequence[str]) -> list[list[Piece]]:
        """Looked up in a thread: indexing a long document takes a while."""
        def index() -> Passages:
            return Passages(document, self._config.passage_words, self._retriever)

        passages = await self._documents.get(document, lambda: asyncio.to_thread(index))
        return await asyncio.to_thread(passages.about, statements)

    async def _check(
        self, statement: str, passages: Sequence[Piece], language: Language
    ) -> Reply[Verdict[Support]] | NoReplyError:
        texts = [piece.text.strip() for piece in passages]
        try:
            return await self._asker.ask(Purpose.SUPPORT, SUPPORT, language, passages=texts, statement=statement)
        except NoReplyError as error:
            return error


def _judged(statements: Sequence[str], evidence: Sequence[Sequence[Piece]],
            replies: Sequence[Reply[Verdict[Support]] | NoReplyError], parts: dict[str, Any]) -> Dimension:
    """10 times the mean credit; no score when a label is missing, for it counts neither as 0 nor as the others do."""
    rows: list[dict[str, Any]] = []
    credits: list[float] = []
    failures: list[NoReplyError] = []
    for statement, pieces, reply in zip(statements, evidence, replies, strict=True):
        row = {"statement": statement, "evidence": [piece.span for piece in pieces]}
        if isinstance(reply, NoReplyError):
            failures.append(reply)
            rows.append({**row, "support": None})
        else:
            credits.append(reply.value.value.credit)
            rows.append({**row, "support": reply.value.value.value, "analysis": reply.value.analysis,
                         "tries": reply.tries})
    if failures:
        return failed(failures[0], Purpose.SUPPORT, **parts, statements=rows)
    return Dimension(10 * sum(credits) / len(credits), {**parts, "statements": rows})
