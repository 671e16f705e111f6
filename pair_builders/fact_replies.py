"""Reading what a model says about facts: the exact forms that are accepted, and nothing beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lpo.llm.asking import NoReply, NoReplyError
from lpo.llm.json_object import NotJsonError, read_as
from lpo.llm.text_list import read_list
from lpo.pair_builders.notes import one_line

MAX_STATEMENT = 500
"""Characters of a fact, at most: a longer one is a passage, not an atomic statement."""

FACTS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"facts": {"type": "array", "items": {"type": "string"}}},
    "required": ["facts"],
    "additionalProperties": False,
}
"""For servers that can constrain a reply; the reply is validated here all the same."""

CHECK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string"},
        "contradictions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "fact": {"type": "integer", "minimum": 1},
                    "quote": {"type": "string"},
                    "explanation": {"type": "string"},
                },
                "required": ["fact", "quote", "explanation"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["analysis", "contradictions"],
    "additionalProperties": False,
}
"""The same for checks. One schema for any number of facts, so that a server compiles it once."""


class _Strict(BaseModel):
    """A number is a number, never `true`, `"1"` or 1.0; no key more, none less."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Facts(_Strict):
    facts: list[str]


class _Contradiction(_Strict):
    fact: Annotated[int, Field(ge=1)]
    quote: str
    explanation: str


class _Verdict(_Strict):
    analysis: str
    contradictions: list[_Contradiction]


@dataclass(frozen=True)
class Contradiction:
    """A passage and a fact that cannot both be true.

    Args:
        fact: Index of the fact among those asked about, from 0.
        quote: The words of the passage.
        explanation: Why.
    """

    fact: int
    quote: str
    explanation: str


def read_facts(reply: str) -> list[str]:
    """Read `{"facts": [...]}`; an empty list is a reply.

    Raises:
        NoReplyError: It is anything else, or a fact is empty or no single statement.
    """
    try:
        parsed, _ = read_as(reply, _Facts)
    except NotJsonError as error:
        raise _unparsable(str(error), reply) from None
    return _statements(parsed.facts, reply)


def read_fact_list(reply: str) -> list[str]:
    """Read a list with bullets or numbers (`read_list`).

    Raises:
        NoReplyError: There is none, or a fact is no single statement.
    """
    return _statements(read_list(reply), reply)


def read_contradictions(reply: str, facts: int, passage: str) -> list[Contradiction]:
    """Read `{"analysis": "...", "contradictions": [{"fact": 1, "quote": "...", "explanation": "..."}]}`.

    Args:
        reply: The whole reply.
        facts: How many facts were asked about; numbers run from 1.
        passage: Every quote must stand in it, runs of white space being one space.

    Raises:
        NoReplyError: It is anything else: a checker that quotes words that are not there has not read the passage.
    """
    try:
        verdict, _ = read_as(reply, _Verdict)
    except NotJsonError as error:
        raise _unparsable(str(error), reply) from None
    flat = one_line(passage)
    found: list[Contradiction] = []
    for number, one in enumerate(verdict.contradictions):
        quote = one_line(one.quote)
        if one.fact > facts:
            raise _unparsable(f"contradictions.{number}.fact: there are {facts} facts, and no fact {one.fact}", reply)
        if not quote or quote not in flat:
            raise _unparsable(f"contradictions.{number}.quote: does not stand in the passage", reply)
        found.append(Contradiction(one.fact - 1, quote, one_line(one.explanation)))
    return found


def _statements(items: Sequence[str], reply: str) -> list[str]:
    statements = [one_line(item) for item in items]
    for number, statement in enumerate(statements):
        if not statement or len(statement) > MAX_STATEMENT:
            raise _unparsable(f"facts.{number}: a fact has 1 to {MAX_STATEMENT} characters", reply)
    return statements


def _unparsable(detail: str, reply: str) -> NoReplyError:
    return NoReplyError(NoReply.UNPARSABLE, detail, reply)
