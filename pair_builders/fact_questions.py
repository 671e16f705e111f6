"""What a model is asked about facts, in JSON and in plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lpo.errors import RequestRejectedError
from lpo.llm.asking import Dialect, NoReply, NoReplyError, ask, without_thinking
from lpo.llm.base import LLM, Sampling, ScoreRequest, TokenLogprobs
from lpo.pair_builders.fact_replies import (
    CHECK_SCHEMA,
    FACTS_SCHEMA,
    Contradiction,
    read_contradictions,
    read_fact_list,
    read_facts,
)
from lpo.templates import Templates, fence

LONGEST_LIST = 20
"""Facts in a list that a model continues, where the configuration sets no limit: a small model would go on for ever."""

NEUTRAL_PASSAGE = "It was an ordinary day, and nothing of note happened."
"""Says nothing about any fact: what the question makes a model answer by itself."""

VETO_ABOVE = 0.7
"""A higher probability of a contradiction, with the model's own leaning taken off, vetoes (`TextQuestions`): the
passage must add 0.85 nats to the log-odds. Doubt is no veto: every chunk is asked about several facts, and one veto is
enough. Gemma 3 270M hardly tells contradictions from paraphrases (30 planted pairs: area under the ROC curve 0.48,
against unrelated facts 0.70; no passage adds more than 0.44 nats), so it vetoes nothing rather than at random."""


@dataclass(frozen=True)
class Passage:
    """A piece of an answer.

    Args:
        request: What the user asked for.
        before: What stands right before it.
        text: The piece.
    """

    request: str
    before: str
    text: str


class FactQuestions(Protocol):
    """Puts the two questions of the memory to a model."""

    async def statements(self, passage: Passage, most: int | None) -> list[str]:
        """The facts that a passage states, each in one line.

        Args:
            passage: A step.
            most: The model is asked for at most this many (it may not obey); None asks for all.

        Raises:
            NoReplyError: No usable reply.
        """
        ...

    async def contradictions(self, passage: Passage, facts: Sequence[str]) -> list[Contradiction]:
        """Facts that a passage contradicts.

        Args:
            passage: A chunk of a candidate.
            facts: At least one, each in one line.

        Raises:
            NoReplyError: No usable reply.
        """
        ...


class JsonQuestions:
    """The replies are JSON; one call checks a passage against all facts.

    Args:
        llm: A chat model.
        templates: The prompts.
        max_tokens: Room for a reply.
    """

    def __init__(self, llm: LLM, templates: Templates, max_tokens: int) -> None:
        self._llm = llm
        self._templates = templates
        self._max_tokens = max_tokens

    async def statements(self, passage: Passage, most: int | None) -> list[str]:
        """See `FactQuestions`."""
        mark = _fence(passage)
        asked = self._templates.render("facts_json.jinja", **vars(passage), most=most, fence=mark)
        return read_facts(await self._ask(asked, "facts", FACTS_SCHEMA))

    async def contradictions(self, passage: Passage, facts: Sequence[str]) -> list[Contradiction]:
        """See `FactQuestions`."""
        mark = _fence(passage, *facts)
        asked = self._templates.render("check_json.jinja", **vars(passage), facts=facts, fence=mark)
        return read_contradictions(await self._ask(asked, "check", CHECK_SCHEMA), len(facts), passage.text)

    async def _ask(self, asked: str, purpose: str, schema: dict[str, Any]) -> str:
        sampling = Sampling(max_tokens=self._max_tokens, temperature=0)
        return await ask(self._llm, Dialect.JSON.question(asked, sampling, purpose, schema))


class TextQuestions:
    """Facts come as a numbered list; a check reads the probabilities of the next token.

    For each fact the model is asked whether it can be true according to the passage, and the same of a passage that
    says nothing (`NEUTRAL_PASSAGE`). The difference of the log-odds of No to Yes is what the passage adds to the
    model's own leaning (contextual calibration, Zhao et al. 2021, arXiv 2102.09690); as a probability it vetoes above
    `VETO_ABOVE`. The quote is the whole passage.

    Args:
        llm: Any model that gives log-probabilities of given texts.
        templates: The prompts.
        max_tokens: Room for a list.
        dialect: `TEXT` for base models, which continue the prompt; `CHAT` sends it as a user message.
    """

    def __init__(self, llm: LLM, templates: Templates, max_tokens: int, dialect: Dialect) -> None:
        self._llm = llm
        self._templates = templates
        self._max_tokens = max_tokens
        self._dialect = dialect
        self._yes_no = (f"{dialect.lead}Yes", f"{dialect.lead}No")

    async def statements(self, passage: Passage, most: int | None) -> list[str]:
        """See `FactQuestions`."""
        chat = self._dialect is Dialect.CHAT
        values = {"before": passage.before, "text": passage.text, "most": most, "chat": chat}
        asked = self._templates.render("facts_text.jinja", **values, fence=_fence(passage))
        stop = () if chat else ("\n\n", f"\n{(most or LONGEST_LIST) + 1}.")
        sampling = Sampling(max_tokens=self._max_tokens, temperature=0, stop=stop)
        reply = await ask(self._llm, self._dialect.question(asked, sampling, "facts"))
        # Plain text goes on after the first number, which the prompt ends with.
        return read_fact_list(without_thinking(reply) if chat else f"1. {reply.strip()}")

    async def contradictions(self, passage: Passage, facts: Sequence[str]) -> list[Contradiction]:
        """See `FactQuestions`."""
        mark = _fence(passage, *facts)
        contexts = tuple(
            self._dialect.context(self._templates.render("check_text.jinja", text=text, fact=fact, fence=mark))
            for text in (passage.text.strip(), NEUTRAL_PASSAGE) for fact in facts
        )
        try:
            answer = await self._llm.logprobs(ScoreRequest(contexts, self._yes_no, purpose="check"))
        except RequestRejectedError as error:
            raise NoReplyError(NoReply.REQUEST_REJECTED, error.cause) from None
        odds = [_log_odds(answer, context) for context in range(len(contexts))]
        added = [odds[fact] - odds[len(facts) + fact] for fact in range(len(facts))]
        shares = [1 / (1 + math.exp(-max(-700.0, min(700.0, one)))) for one in added]
        return [
            Contradiction(fact, passage.text.strip(), f"probability of a contradiction {share:.2f}")
            for fact, share in enumerate(shares) if share > VETO_ABOVE
        ]


def _log_odds(answer: TokenLogprobs, context: int) -> float:
    """Natural logarithm of P(No) / P(Yes)."""
    odds = answer.total(context, 1) - answer.total(context, 0)
    if not math.isfinite(odds):
        raise NoReplyError(NoReply.UNPARSABLE, "Yes or No has no probability")
    return odds


def _fence(passage: Passage, *facts: str) -> str:
    return fence(passage.request, passage.request, passage.before, passage.text, *facts)
