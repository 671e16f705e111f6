"""Requests and replies of the OpenAI protocol as plain values: pure functions, no connection.

A string prompt is plain text and goes to `/completions`; messages go to `/chat/completions`. A prefix is sent as a
final assistant message that stays open (`continue_final_message`, as vLLM and SGLang understand it).

Replies are read from their bytes: to build the client's typed objects, one for each log-probability, takes longer than
all the rest of a call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from lpo.config import Prices
from lpo.errors import BackendError, RequestRejectedError
from lpo.llm.base import Completion, Context, Finish, Request, Sampling
from lpo.llm.retry import UnfinishedReplyError
from lpo.records import Usage

TOP_LOGPROBS = 20
"""As many candidates for the next token as servers list."""

JSON_JUDGE = "use judge.method: json, or run the judge with backend: transformers"

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


@dataclass(frozen=True)
class Reply:
    """What came back.

    Args:
        chat: From `/chat/completions`, else from `/completions`.
        choices: The texts, as JSON values.
        usage: What the server counted, as JSON values; None when it does not say.
    """

    chat: bool
    choices: list[Any]
    usage: dict[str, Any] | None


def generation_call(request: Request, count: int = 1) -> Call:
    """The call that writes a text, or several from one context.

    Log-probabilities are asked for where they are used, with the policy's texts: some vendors refuse them.
    """
    call = _prompt_call(request.context)
    body = {**call.body, **_sampling_fields(request.sampling), "seed": request.seed}
    if count > 1:
        body["n"] = count
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


class _LogprobItem(TypedDict):
    logprob: float


class _Logprobs(TypedDict, total=False):
    content: list[_LogprobItem] | None
    token_logprobs: list[float | None] | None


class _Message(TypedDict, total=False):
    content: str | None
    refusal: str | None


class _Choice(TypedDict, total=False):
    index: int
    finish_reason: str | None
    text: str | None
    message: _Message | None
    logprobs: _Logprobs | None


class _Texts(TypedDict, total=False):
    choices: list[_Choice]
    usage: dict[str, Any] | None


_TEXTS = TypeAdapter(_Texts)
"""What is read of a reply that writes texts. Servers send each token four times over (as text, bytes, number and list
of alternatives); to build all that takes five times as long, most of it in the garbage collector."""


def read_reply(chat: bool, payload: bytes, *, scoring: bool = False) -> Reply:
    """The body of a reply.

    Args:
        chat: From `/chat/completions`.
        payload: Its bytes.
        scoring: Keep all that is said of the tokens.

    Raises:
        UnfinishedReplyError: It was cut, or holds no choices.
        BackendError: It is something else than the protocol has.
    """
    try:
        values = json.loads(payload) if scoring else _parse_texts(payload)
    except ValueError:
        if payload.strip()[:1] in (b"{", b""):
            raise UnfinishedReplyError("the reply is not valid JSON") from None
        values = None
    if not isinstance(values, dict):
        raise BackendError("the answer is not of the OpenAI protocol", mend="check base_url; it usually ends in /v1")
    fields = cast("dict[str, Any]", values)
    choices, usage = fields.get("choices"), fields.get("usage")
    if not isinstance(choices, list):
        raise UnfinishedReplyError("the reply holds no choices")
    return Reply(chat, cast("list[Any]", choices), cast("dict[str, Any]", usage) if isinstance(usage, dict) else None)


def _parse_texts(payload: bytes) -> Any:
    """The fields of `_Texts` alone; the whole reply where one of them is not as it should be."""
    try:
        return _TEXTS.validate_json(payload, strict=True)
    except ValueError:  # lone surrogates, too, which are no error
        return json.loads(payload)


def read_completion(reply: Reply, usage: Usage) -> Completion:
    """The only text of a reply; missing content is an empty text with the reason the server gives.

    Raises:
        RequestRejectedError: The reply holds no text, or ended for a reason that makes it unusable.
    """
    if not reply.choices:
        raise _no_choices(usage)
    return _read_choice(reply.chat, reply.choices[0], usage)


def read_siblings(
    reply: Reply, count: int, total: Usage, prices: Prices | None
) -> list[Completion | RequestRejectedError | None]:
    """The texts of a call that asked for several, by their index.

    A choice without a usable index, and the second one of an index, count for nothing.

    Args:
        reply: What came back.
        count: How many were asked for.
        total: What the call took. The lowest index that is there carries the call and the tokens read; the tokens
            written are shared out by the log-probabilities listed, or evenly where these do not add up to the total.
        prices: Of the model.

    Returns:
        For each index its completion, the error that concerns it alone, or None when it is missing.

    Raises:
        RequestRejectedError: There is no text at all.
    """
    choices: dict[int, Any] = {}
    for choice in reply.choices:
        index = choice.get("index") if isinstance(choice, dict) else None
        if type(index) is int and 0 <= index < count:
            choices.setdefault(index, choice)
    present = sorted(choices)
    if not present:
        raise _no_choices(total)
    shares = _shares(total, [_tokens_listed(reply.chat, choices[index]) for index in present], prices)
    outcomes: list[Completion | RequestRejectedError | None] = [None] * count
    for index, usage in zip(present, shares, strict=True):
        try:
            outcomes[index] = _read_choice(reply.chat, choices[index], usage)
        except RequestRejectedError as error:
            outcomes[index] = error
    return outcomes


def _shares(total: Usage, listed: Sequence[int | None], prices: Prices | None) -> list[Usage]:
    """The parts of a call's usage that belong to its texts; their sum is the whole."""
    known = [tokens for tokens in listed if tokens is not None]
    if len(known) < len(listed) or sum(known) != total.tokens_out:
        each, more = divmod(total.tokens_out, max(1, len(listed)))
        known = [each + (place < more) for place in range(len(listed))]
    priced = prices if total.cost is not None else None
    return [
        total.model_copy(update={"tokens_out": tokens, "cost": _cost(priced, total.tokens_in, tokens)}) if place == 0
        else Usage(tokens_out=tokens, cost=_cost(priced, 0, tokens))
        for place, tokens in enumerate(known)
    ]


def _read_choice(chat: bool, choice: Any, usage: Usage) -> Completion:
    """One text.

    Raises:
        RequestRejectedError: It cannot be used; the error says what it took.
    """
    try:
        reason = choice.get("finish_reason")
        finish = _FINISH.get(reason)
        if finish is None:
            raise RequestRejectedError(f"the server ended the reply with {reason!r}", mend="look into the server's log")
        if not chat:
            return Completion(_text(choice.get("text")), finish, _text_logprobs(choice), usage)
        message = choice["message"]
        refused = _text(message.get("refusal"))
        text = _text(message.get("content")) or refused
        return Completion(text, Finish.REFUSED if refused else finish, _chat_logprobs(choice), usage)
    except RequestRejectedError as error:
        error.usage = usage
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        error = RequestRejectedError("the reply is not of the OpenAI protocol", mend="look into the server's log")
        error.usage = usage
        raise error from None


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError
    return value


def _chat_logprobs(choice: dict[str, Any]) -> tuple[float, ...] | None:
    found = (choice.get("logprobs") or {}).get("content")
    return None if found is None else tuple([float(token["logprob"]) for token in found])


def _text_logprobs(choice: dict[str, Any]) -> tuple[float, ...] | None:
    found = (choice.get("logprobs") or {}).get("token_logprobs")
    return None if found is None or None in found else tuple(map(float, found))


def _tokens_listed(chat: bool, choice: dict[str, Any]) -> int | None:
    """How many tokens of a text have a log-probability; None when they are not listed."""
    logprobs = choice.get("logprobs")
    found = logprobs.get("content" if chat else "token_logprobs") if isinstance(logprobs, dict) else None
    return len(cast("list[Any]", found)) if isinstance(found, list) else None


def _no_choices(usage: Usage | None = None) -> RequestRejectedError:
    error = RequestRejectedError("the server gave an empty list of choices", mend="look into the server's log")
    error.usage = usage
    return error


def _only_logprobs(reply: Reply) -> dict[str, Any]:
    """The log-probabilities of the only choice; empty when the server gives none."""
    if not reply.choices:
        raise _no_choices()
    choice = reply.choices[0]
    found = cast("dict[str, Any]", choice).get("logprobs") if isinstance(choice, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def read_usage(reply: Reply, seconds: float, prices: Prices | None) -> Usage:
    """What one call took: tokens as the server counts them; prices are per million."""
    counted = reply.usage or {}
    tokens_in, tokens_out = (_count(counted.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    cost = _cost(prices, tokens_in, tokens_out) if reply.usage is not None else None
    return Usage(calls=1, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds, cost=cost)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _cost(prices: Prices | None, tokens_in: int, tokens_out: int) -> float | None:
    return (tokens_in * prices.input + tokens_out * prices.output) / 1e6 if prices else None


def read_next_tokens(reply: Reply) -> dict[str, float]:
    """The most probable next tokens and their log-probabilities, in nats.

    Raises:
        BackendError: The server lists none.
    """
    logprobs = _only_logprobs(reply)
    try:
        if reply.chat:
            tops = (logprobs.get("content") or [{}])[0].get("top_logprobs") or []
            listed = [(item["token"], float(item["logprob"])) for item in tops]
        else:
            tops = (logprobs.get("top_logprobs") or [None])[0] or {}
            listed = [(token, float(logprob)) for token, logprob in tops.items()]
    except (AttributeError, KeyError, TypeError, ValueError):
        listed = []
    if not listed:
        raise BackendError("the server lists no probabilities of the next token", mend=JSON_JUDGE)
    found: dict[str, float] = {}
    for token, logprob in listed:
        found.setdefault(token, logprob)
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


def read_echo(reply: Reply) -> Echo:
    """The echoed text, without the one token that was written after it.

    Raises:
        BackendError: The server does not echo the prompt with log-probabilities.
    """
    logprobs = _only_logprobs(reply)
    tokens: list[str] = logprobs.get("tokens") or []
    values: list[float | None] = logprobs.get("token_logprobs") or []
    # A server that ignores `echo` answers with the new token alone.
    if len(tokens) < 2 or len(tokens) != len(values):
        raise BackendError("the server gives no log-probabilities of the prompt's tokens", mend=JSON_JUDGE)
    written = _count((reply.usage or {}).get("completion_tokens")) if reply.usage else 1
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
