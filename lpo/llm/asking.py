"""Asking a model for something other than the answer itself: a judgement, facts, a critique, a plan."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Any

from lpo.errors import RequestRejectedError
from lpo.llm.base import LLM, Context, Finish, Request, Sampling
from lpo.records import Message, fingerprint

KEPT_REPLY = 2000
"""Characters of an unusable reply that are kept, to show what went wrong."""


class Dialect(StrEnum):
    """How a model is addressed, and in what form it answers."""

    JSON = "json"
    """A user message; the reply is one JSON object (chat models)."""
    CHAT = "chat"
    """A user message; the reply is plain text."""
    TEXT = "text"
    """Plain text that is continued (base models)."""

    def context(self, text: str) -> Context:
        """What the model reads."""
        return Context(text) if self is Dialect.TEXT else Context((Message(role="user", content=text),))

    @property
    def lead(self) -> str:
        """What stands before the first word of a reply: text goes on with a space, a turn begins without one."""
        return " " if self is Dialect.TEXT else ""

    def question(self, text: str, sampling: Sampling, purpose: str,
                 json_schema: dict[str, Any] | None = None) -> Request:
        """A question as a request. Its seed is a hash of the text, so equal questions get equal replies."""
        return Request(context=self.context(text), sampling=sampling, seed=int(fingerprint(text, 7), 16),
                       purpose=purpose, json_schema=json_schema)


class NoReply(StrEnum):
    """Why a model's reply is no answer."""

    CUT = "cut"
    """It ran out of tokens, twice."""
    EMPTY = "empty"
    REFUSED = "refused"
    UNPARSABLE = "unparsable"
    REQUEST_REJECTED = "request_rejected"
    """The back end refuses this one request: it is too long, say."""


class NoReplyError(Exception):
    """A model gave no usable reply. Other requests are not affected; it never becomes a number.

    Args:
        reason: The code that is recorded.
        detail: What was wrong, in words.
        reply: The beginning of what it said.
    """

    def __init__(self, reason: NoReply, detail: str = "", reply: str = "") -> None:
        super().__init__(detail or reason.value)
        self.reason = reason
        self.detail = detail
        self.reply = reply[:KEPT_REPLY]


async def ask(llm: LLM, request: Request) -> str:
    """The text of a whole reply. One that was cut is asked for once more, with twice the room.

    Args:
        llm: The model.
        request: With a purpose other than `policy`: a cut reply is no answer.

    Raises:
        NoReplyError: There is none.
        BackendError: The model cannot be used at all.
    """
    try:
        reply = await llm.generate(request)
        if reply.finish is Finish.LENGTH:
            roomier = replace(request.sampling, max_tokens=2 * request.sampling.max_tokens)
            reply = await llm.generate(replace(request, sampling=roomier))
    except RequestRejectedError as error:
        raise NoReplyError(NoReply.REQUEST_REJECTED, error.cause) from None
    if reply.finish is Finish.LENGTH:
        raise NoReplyError(NoReply.CUT, reply=reply.text)
    if reply.finish is Finish.REFUSED:
        raise NoReplyError(NoReply.REFUSED, reply=reply.text)
    if not reply.text.strip():
        raise NoReplyError(NoReply.EMPTY)
    return reply.text


def without_thinking(reply: str) -> str:
    """A plain-text reply without the thinking block before it.

    Raises:
        NoReplyError: The block is never closed, or nothing follows it.
    """
    spoken = reply.rpartition("</think>")[2].strip()
    if "<think>" in spoken:
        raise NoReplyError(NoReply.UNPARSABLE, "the reply is all thinking: its block is never closed", reply)
    if not spoken:
        raise NoReplyError(NoReply.EMPTY, "nothing follows the thinking", reply)
    return spoken
