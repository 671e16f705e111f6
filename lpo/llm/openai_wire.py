"""Requests and replies of the OpenAI protocol as plain values: pure functions, no connection.

A string prompt is plain text and goes to `/completions`; messages go to `/chat/completions`. A prefix is sent as a
final assistant message that stays open (`continue_final_message`, as vLLM and SGLang understand it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from openai.types import Completion as TextReply
from openai.types.chat import ChatCompletion as ChatReply

from lpo.config import Prices
from lpo.errors import BackendError, RequestRejectedError
from lpo.llm.base import Completion, Context, Finish, Request, Sampling
from lpo.llm.retry import UnfinishedReplyError
from lpo.records import Usage

TOP_LOGPROBS = 20
"""As many candidates for the next token as servers list."""

JSON_JUDGE = "use judge.method: json, or run the judge with backend: transformers"

_T = TypeVar("_T")
_FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH, "content_filter": Finish.REFUSED}


@dataclass(frozen=True)
class Call:
    """One HTTP request.

    Args:
        chat: `/chat/completions`, else `/completions`.
        body: Its JSON body, without the model.
    """

    chat: bool
    body: dict[str, Any]


def generation_call(request: Request) -> Call:
    """The call that writes a text.

    Log-probabilities are asked for where they are used, with the policy's texts: some vendors refuse them.
    """
    call = _prompt_call(request.context)
    body = {**call.body, **_sampling_fields(request.sampling), "seed": request.seed}
    if request.purpose == "policy":
        body["logprobs"] = True if call.chat else 1
    if request.json_schema is not None:
        schema = {"name": "reply", "strict": True, "schema": request.json_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return Call(call.chat, body)


def next_token_call(context: Context) -> Call:
    """The call that lists the most probable next tokens."""
    call = _prompt_call(context)
    wanted = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if call.chat else {"logprobs": TOP_LOGPROBS}
    return Call(call.chat, {**call.body, **wanted, "max_tokens": 1, "temperature": 1.0})


def echo_call(text: str) -> Call:
    """The call that gives the log-probabilities of a text's own tokens.

    One token more is asked for and dropped: not every server takes `max_tokens: 0`.
    """
    return Call(False, {"prompt": text, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 1.0})


def _prompt_call(context: Context) -> Call:
    if isinstance(context.prompt, str):
        return Call(False, {"prompt": context.prompt + context.prefix})
    messages = [message.model_dump() for message in context.prompt]
    if not context.prefix:
        return Call(True, {"messages": messages})
    messages.append({"role": "assistant", "content": context.prefix})
    return Call(True, {"messages": messages, "continue_final_message": True, "add_generation_prompt": False})


def _sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Fields of the protocol always; extensions of it (`top_k`, `repetition_penalty`) only when they do something."""
    fields: dict[str, Any] = {
        "max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
    }
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1:
        fields["repetition_penalty"] = sampling.repetition_penalty
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    return fields


def read_completion(reply: ChatReply | TextReply, usage: Usage) -> Completion:
    """A reply as a completion; missing content is an empty text with the reason the server gives.

    Raises:
        RequestRejectedError: The reply holds no text, or ended for a reason that makes it unusable.
        UnfinishedReplyError: It is not a reply at all.
    """
    choice = _only_choice(reply)
    finish = _FINISH.get(choice.finish_reason)
    if finish is None:
        raise RequestRejectedError(f"the server ended the reply with {choice.finish_reason!r}",
                                   mend="look into the server's log")
    if isinstance(reply, ChatReply):
        message = choice.message
        if message is None:
            raise UnfinishedReplyError("the reply holds no message")
        refused = getattr(message, "refusal", None)
        found = choice.logprobs.content if choice.logprobs else None
        logprobs = None if found is None else tuple(float(token.logprob) for token in found)
        return Completion(message.content or refused or "", Finish.REFUSED if refused else finish, logprobs, usage)
    found = choice.logprobs.token_logprobs if choice.logprobs else None
    known = None if found is None or None in found else tuple(float(value) for value in found)
    return Completion(choice.text or "", finish, known, usage)


def _only_choice(reply: ChatReply | TextReply) -> Any:
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list):
        raise UnfinishedReplyError("the reply holds no choices")
    if not choices:
        raise RequestRejectedError("the server gave an empty list of choices", mend="look into the server's log")
    return choices[0]


def read_usage(reply: ChatReply | TextReply, seconds: float, prices: Prices | None) -> Usage:
    """What one call took: tokens as the server counts them; prices are per million."""
    counted = getattr(reply, "usage", None)
    tokens_in = (counted.prompt_tokens or 0) if counted else 0
    tokens_out = (counted.completion_tokens or 0) if counted else 0
    cost = (tokens_in * prices.input + tokens_out * prices.output) / 1e6 if prices and counted else None
    return Usage(calls=1, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds, cost=cost)


def read_next_tokens(reply: ChatReply | TextReply) -> dict[str, float]:
    """The most probable next tokens and their log-probabilities, in nats.

    Raises:
        BackendError: The server lists none.
    """
    logprobs = _only_choice(reply).logprobs
    if isinstance(reply, ChatReply):
        first = logprobs.content[0] if logprobs and logprobs.content else None
        listed = [(item.token, item.logprob) for item in (first.top_logprobs or [])] if first else []
    else:
        tops = logprobs.top_logprobs if logprobs else None
        listed = list(tops[0].items()) if tops and tops[0] else []
    if not listed:
        raise BackendError("the server lists no probabilities of the next token", mend=JSON_JUDGE)
    found: dict[str, float] = {}
    for token, logprob in listed:
        found.setdefault(token, float(logprob))
    return found


@dataclass(frozen=True)
class Echo:
    """A text as the server tokenised it.

    Args:
        tokens: Its tokens as text.
        logprobs: Of each token given those before it, in nats; None for a first token that nothing precedes.
    """

    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]


def read_echo(reply: TextReply) -> Echo:
    """The echoed text, without the one token that was written after it.

    Raises:
        BackendError: The server does not echo the prompt with log-probabilities.
    """
    logprobs = _only_choice(reply).logprobs
    tokens = (logprobs.tokens if logprobs else None) or []
    values = (logprobs.token_logprobs if logprobs else None) or []
    # A server that ignores `echo` answers with the new token alone.
    if len(tokens) < 2 or len(tokens) != len(values):
        raise BackendError("the server gives no log-probabilities of the prompt's tokens", mend=JSON_JUDGE)
    written = reply.usage.completion_tokens if reply.usage else 1
    kept = len(tokens) - written
    return Echo(tuple(tokens[:kept]), tuple(values[:kept]))


def continuation_logprobs(context: Echo, whole: Echo) -> tuple[float, ...]:
    """The log-probabilities of the tokens of (context + continuation) that are not also tokens of the context alone.

    Tokens are compared, not text offsets: offsets are off by the begin-of-text token on some servers, and by the
    pieces of a split character on others.

    Raises:
        RequestRejectedError: One of them has no log-probability: the context is empty.
    """
    start = common_length(context.tokens, whole.tokens)
    values = tuple(value for value in whole.logprobs[start:] if value is not None)
    if len(values) != len(whole.tokens) - start:
        raise RequestRejectedError("the first token of a text has no log-probability", mend="give it a context")
    return values


def common_length(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    """How many items two sequences have in common at their beginning."""
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
