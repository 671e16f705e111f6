"""The memory of facts: what an answer has stated, and which candidates contradict it.

LongDPO (arXiv 2502.02095) keeps a pool of facts taken from the steps that were chosen. A candidate is cut into chunks;
for every chunk the facts it may be about are retrieved, and a model is asked whether it contradicts them. One
contradiction vetoes the candidate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from lpo.build_config import MemoryConfig
from lpo.llm.asking import Dialect, NoReplyError
from lpo.llm.base import LLM
from lpo.pair_builders.fact_questions import FactQuestions, JsonQuestions, Passage, TextQuestions
from lpo.pair_builders.notes import one_line
from lpo.records import Fact, Prompt, Veto
from lpo.retrieval import BM25Retriever, EmbeddingRetriever, Retriever, last_words, split_into_chunks
from lpo.templates import Templates

WORDS_BEFORE = 200
"""Words before a passage that are shown with it, so that "she" and "there" are understood. Not the whole prefix: a
candidate has many chunks, and each would be asked about with everything before it."""


@dataclass(frozen=True)
class Extraction:
    """What a step states.

    Args:
        facts: In the order of the text.
        failure: Why they are not known: a code of `NoReply`, and details. Then there are none.
    """

    facts: tuple[Fact, ...] = ()
    failure: str | None = None


@dataclass(frozen=True)
class Check:
    """Whether a candidate contradicts facts.

    Args:
        vetoes: Contradictions that were found, in the order of the text.
        failure: Why (part of) the candidate could not be checked; the verdict on the other parts stands.
    """

    vetoes: tuple[Veto, ...] = ()
    failure: str | None = None


class FactMemory:
    """Extracts facts from steps and checks candidates against them. It keeps none itself.

    Args:
        llm: The extractor and checker; its most probable replies are taken (temperature 0).
        config: The `memory` section.
        dialect: How the model is addressed: with `JSON` one call checks a chunk against all its facts; otherwise facts
            come as a numbered list, and a check reads the next-token probabilities of Yes and No.
        templates: The prompts.
        retriever: Finds the facts a chunk is checked against.
    """

    def __init__(self, llm: LLM, config: MemoryConfig, dialect: Dialect, templates: Templates,
                 retriever: Retriever) -> None:
        self._config = config
        self._retriever = retriever
        self._questions: FactQuestions = (
            JsonQuestions(llm, templates, config.max_tokens) if dialect is Dialect.JSON
            else TextQuestions(llm, templates, config.max_tokens, dialect)
        )

    async def extract(self, prompt: Prompt, node_id: str, prefix: str, text: str) -> Extraction:
        """The facts that a step states.

        Args:
            prompt: The writing task.
            node_id: The step's node; its facts are named after it: `0.2#1`, `0.2#2`.
            prefix: The answer before the step; it is there to be understood, nothing is taken from it.
            text: The step.

        Returns:
            Each fact once (compared without case and white space), at most `max_facts_per_step`.

        Raises:
            BackendError: The model cannot be used.
        """
        if not text.strip():
            return Extraction()
        passage = Passage(prompt.request, last_words(prefix, WORDS_BEFORE), text)
        most = self._config.max_facts_per_step
        try:
            statements = await self._questions.statements(passage, most)
        except NoReplyError as error:
            return Extraction(failure=_why(error))
        distinct: dict[str, str] = {}
        for statement in statements:
            distinct.setdefault(statement.casefold(), statement)
        facts = (Fact(id=f"{node_id}#{number}", node=node_id, text=statement)
                 for number, statement in enumerate(list(distinct.values())[:most], start=1))
        return Extraction(tuple(facts))

    async def check(self, prompt: Prompt, facts: Sequence[Fact], prefix: str, text: str) -> Check:
        """Does a candidate contradict facts? Its chunks are asked about at the same time.

        Args:
            prompt: The writing task.
            facts: What the answer has stated before.
            prefix: The answer before the candidate.
            text: The candidate.

        Returns:
            A chunk that got no usable reply is a failure, neither a veto nor a pass. No facts, no question.

        Raises:
            BackendError: The model, or the one that embeds, cannot be used.
        """
        chunks = split_into_chunks(text, self._config.chunk_words)
        distinct: dict[str, Fact] = {}
        for fact in facts:
            distinct.setdefault(one_line(fact.text), fact)
        pool = list(distinct.items())
        # Off the event loop: an embedding model computes, and is loaded by the first question.
        found = await asyncio.to_thread(self._retrieve, [statement for statement, _ in pool], chunks)
        asked = [
            (Passage(prompt.request, last_words(prefix + "".join(chunks[:place]), WORDS_BEFORE), chunk),
             [pool[index] for index in sorted(found[place])])
            for place, chunk in enumerate(chunks) if found[place]
        ]
        replies = await asyncio.gather(*(self._vetoes(passage, relevant) for passage, relevant in asked))
        vetoes = [veto for reply in replies if isinstance(reply, list) for veto in reply]
        failures = [reply for reply in replies if isinstance(reply, str)]
        failure = f"{failures[0]} (chunks without a verdict: {len(failures)} of {len(asked)})" if failures else None
        return Check(tuple(dict.fromkeys(vetoes)), failure)

    def _retrieve(self, statements: Sequence[str], chunks: Sequence[str]) -> list[list[int]]:
        """For each chunk the facts to check it against."""
        return [self._retriever.relevant(statements, chunk) if statements and chunk.strip() else [] for chunk in chunks]

    async def _vetoes(self, passage: Passage, facts: Sequence[tuple[str, Fact]]) -> list[Veto] | str:
        """Contradictions of one chunk, or why they are not known."""
        try:
            found = await self._questions.contradictions(passage, [statement for statement, _ in facts])
        except NoReplyError as error:
            return _why(error)
        return [
            Veto(fact=facts[one.fact][1].id, statement=facts[one.fact][1].text, quote=one.quote,
                 explanation=one.explanation)
            for one in found
        ]


def create_memory(llm: LLM, config: MemoryConfig, dialect: Dialect, templates: Templates) -> FactMemory:
    """The memory a configuration names.

    Args:
        llm: The extractor and checker.
        config: The `memory` section.
        dialect: How the model is addressed.
        templates: The prompts.

    Raises:
        BackendError: Facts are to be found by embeddings, and sentence-transformers is not installed.
    """
    retriever = (
        BM25Retriever(config.top_k) if config.retrieval == "bm25"
        else EmbeddingRetriever(config.embedder, similarity=config.similarity, top_k=config.top_k)
    )
    return FactMemory(llm, config, dialect, templates, retriever)


def _why(error: NoReplyError) -> str:
    return f"{error.reason}: {error.detail}" if error.detail else str(error.reason)
