"""The protocol every back end speaks, and the plain values that go in and out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from lpo.records import Dialogue, Usage


@dataclass(frozen=True)
class Context:
    """What the model has read: a prompt and the part of its answer that already stands.

    Args:
        prompt: Messages (rendered by the chat template) or a string (plain text).
        prefix: The answer so far; the model continues it. The turn stays open after it.
    """

    prompt: Dialogue
    prefix: str = ""


@dataclass(frozen=True)
class Sampling:
    """How text is drawn.

    Args:
        max_tokens: At most this many new tokens.
        temperature: 0 takes the most probable token.
        top_p: Smallest set of tokens with this much probability; 1 keeps all.
        top_k: This many most probable tokens; 0 keeps all.
        repetition_penalty: Divides (or multiplies, when negative) the logits of tokens already read or written, as
            transformers does; 1 is off.
        stop: The text is cut before the first of these.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One text to be written.

    Args:
        context: What stands before it.
        sampling: How it is drawn.
        seed: Seed of this request alone: the text does not depend on what else is in the batch.
        index: Which sample of several from one context this is (part of the journal's key).
        purpose: `policy`, `judge`, ...: names the call in counts and logs. A cut reply is normal for a policy and
            is kept; for every other purpose it is no answer and is never stored.
        json_schema: Constrain the reply to this schema where the server can.
        siblings: This is request `index` of `siblings` equal ones (up to the seed) that are made at the same time; a
            back end may draw them in one call. It says how a text is made, not which: it is no part of the journal's
            key.
    """

    context: Context
    sampling: Sampling
    seed: int
    index: int = 0
    purpose: str = "policy"
    json_schema: dict[str, Any] | None = None
    siblings: int = 1


class Finish(StrEnum):
    """Why a text ended."""

    STOP = "stop"
    """The model ended its turn, or a stop string was met."""
    LENGTH = "length"
    """Cut at `max_tokens`."""
    REFUSED = "refused"
    """The server filtered the reply, or the model refused."""

    def is_answer(self, purpose: str) -> bool:
        """May this reply be used and stored as an answer for this purpose?"""
        return self is Finish.STOP or (self is Finish.LENGTH and purpose == "policy")


@dataclass(frozen=True)
class Completion:
    """A text that was written.

    Args:
        text: Without the end-of-turn token and without the stop string.
        finish: Why it ended.
        logprobs: Natural-log probability of each sampled token under the model (before temperature and cut-offs),
            the end-of-turn token included when it was sampled; None when the server gives none.
        usage: What the call took.
    """

    text: str
    finish: Finish
    logprobs: tuple[float, ...] | None
    usage: Usage


@dataclass(frozen=True)
class ScoreRequest:
    """Log-probabilities of given texts: every continuation after every context.

    One continuation is a text to be scored; several one-token continuations are the candidates for the next token.
    Contexts that begin alike (one text under several questions) are encoded once.

    Args:
        contexts: What stands before.
        continuations: What is scored.
        purpose: As in `Request`.
    """

    contexts: tuple[Context, ...]
    continuations: tuple[str, ...]
    purpose: str = "judge"


@dataclass(frozen=True)
class TokenLogprobs:
    """Answer to a `ScoreRequest`.

    Args:
        values: `values[c][k]` holds the natural-log probabilities of the tokens of continuation k after context c:
            the tokens of (context + continuation), tokenised whole, that are not also tokens of the context alone.
        usage: What the call took.
    """

    values: tuple[tuple[tuple[float, ...], ...], ...]
    usage: Usage

    def total(self, context: int, continuation: int) -> float:
        """Log-probability of one continuation after one context: the sum over its tokens, in nats."""
        return sum(self.values[context][continuation])


class LLM(Protocol):
    """A language model. One request per call; back ends gather concurrent calls into batches by themselves."""

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this model from others in the journal's key: model, revision, endpoint, template, dtype."""
        ...

    async def generate(self, request: Request) -> Completion:
        """Write one text.

        Raises:
            BackendError: The model cannot be used.
            RequestRejectedError: The server refuses this request; others are not affected.
        """
        ...

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        """Log-probabilities of given texts.

        Raises:
            BackendError: The model cannot be used, or the server gives no log-probabilities.
        """
        ...

    async def close(self) -> None:
        """Free the model or the connections."""
        ...
