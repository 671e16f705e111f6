"""Any OpenAI-compatible server: vLLM, SGLang, a proxy, a vendor."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import openai

from lpo.config import ModelConfig
from lpo.errors import BackendError, ConfigError, LpoError, NotCalledError, RequestRejectedError
from lpo.llm.base import Completion, Context, Request, ScoreRequest, TokenLogprobs
from lpo.llm.connections import Connections
from lpo.llm.openai_wire import (
    JSON_JUDGE,
    Call,
    Echo,
    Reply,
    continuation_logprobs,
    echo_call,
    generation_call,
    next_token_call,
    read_completion,
    read_echo,
    read_next_tokens,
    read_reply,
    read_siblings,
    read_usage,
)
from lpo.llm.retry import RERUN, Retrier, describe
from lpo.llm.siblings import Outcome, SiblingGatherer
from lpo.records import Usage
from lpo.storage import clean_values

T = TypeVar("T")

THIS_REQUEST = frozenset({400, 413, 414, 422})
"""The server refuses what was asked, not who asks: other requests are not affected."""


_log = logging.getLogger(__name__)


class OpenAILLM:
    """A model behind an OpenAI-compatible server. Use it within one event loop, and close it.

    Messages need a server that answers `/chat/completions`; string prompts, one that answers `/completions`. Messages
    with a prefix need a server that continues the final message (vLLM, SGLang): one that ignores the request to do so
    would begin a new answer.

    Args:
        config: `base_url`, `model`, `api_key_env`, `max_concurrency`, `timeout`, `deadline`, `prices`,
            `one_call_for_siblings`.
        gate: Called when a call is about to be sent, after it waited for its turn; what it raises is what the caller
            gets instead of a reply.

    Raises:
        ConfigError: The address is not usable, or holds a password.
        BackendError: The environment variable of the key is not set.
    """

    def __init__(self, config: ModelConfig, *, gate: Callable[[], None] | None = None) -> None:
        self._config = config
        self._where = f"{config.model} at {_checked_address(config.base_url)}"
        self._key = _read_key(config.api_key_env)
        for name in ("openai", "httpx", "httpcore", "httpx2", "httpcore2"):  # one line for each request helps nobody
            logging.getLogger(name).setLevel(logging.WARNING)
        self._connections = Connections(self._open_client)
        self._retrier = Retrier(
            where=self._where, attempt_seconds=config.timeout, deadline=config.deadline, secret=self._key
        )
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._gate = gate
        self._siblings = SiblingGatherer(self._draw_together, self._draw) if config.one_call_for_siblings else None

    def _open_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self._config.base_url, api_key=self._key or "none", max_retries=0, timeout=self._config.timeout,
            default_headers=_NO_ACCOUNT,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The model as its endpoint is named. The address is left out: a server may come back on another port."""
        config = self._config
        return {"backend": "openai", "endpoint": config.endpoint or config.model, "model": config.model,
                "revision": config.revision, "api": config.api}

    async def generate(self, request: Request) -> Completion:
        """Write one text; siblings that come together are drawn in one call. See `LLM.generate`.

        The reply to a call for several texts is a function of its request, the seed of index 0, and the index.
        """
        return await (self._draw(request) if self._siblings is None else self._siblings.submit(request))

    async def _draw(self, request: Request) -> Completion:
        reply, usage = await self._send(generation_call(request))
        try:
            return read_completion(reply, usage)
        except LpoError as error:
            raise self._placed(error) from None

    async def _draw_together(self, requests: Sequence[Request]) -> list[Outcome]:
        """All siblings in one call; what the server left out is to be asked for alone."""
        count = len(requests)
        try:
            reply, usage = await self._send(generation_call(requests[0], count))
            texts = read_siblings(reply, count, usage, self._config.prices)
        except RequestRejectedError as error:
            raise self._placed(error, "if the server writes one text a call only, set one_call_for_siblings: "
                               "false") from None
        missing = texts.count(None)
        if missing:
            _log.warning("%s: %d of %d texts are missing in the reply to one call for all; they are asked for alone "
                         "(one_call_for_siblings: false, where this is the rule)", self._where, missing, count)
        return [self._placed(text) if isinstance(text, LpoError) else text for text in texts]

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        """Log-probabilities of given texts. See `LLM.logprobs`.

        Several continuations are candidates for the next token: they are looked up among the 20 most probable ones.
        After a string the others are scored exactly, each by echo; after messages, which cannot be echoed, they get
        `-inf`: less probable than all that the server lists.
        """
        try:
            values, usage = await _all([self._score(context, request) for context in request.contexts])
        except LpoError as error:
            raise self._placed(error) from None
        return TokenLogprobs(tuple(values), usage)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def _score(self, context: Context, request: ScoreRequest) -> tuple[tuple[tuple[float, ...], ...], Usage]:
        """The log-probabilities of every continuation after one context."""
        found: dict[str, tuple[float, ...]] = {}
        usage = Usage()
        candidates = len(request.continuations) > 1
        if candidates:
            reply, usage = await self._send(next_token_call(context), scoring=True)
            listed = _read(read_next_tokens, reply, usage)
            found = {text: (listed[text],) for text in request.continuations if text in listed}
        missing = [text for text in request.continuations if text not in found]
        if isinstance(context.prompt, str):
            if missing:
                before = context.prompt + context.prefix
                try:
                    echoes, used = await _all([self._echo(before + text) for text in ["", *missing]])
                except LpoError as error:
                    error.usage = (error.usage or Usage()) + usage
                    raise
                usage += used
                found |= {text: continuation_logprobs(echoes[0], echo)
                          for text, echo in zip(missing, echoes[1:], strict=True)}
        elif candidates:
            found |= dict.fromkeys(missing, (-math.inf,))
        else:
            raise BackendError("a server cannot score whole texts after messages",
                               mend="use string prompts, or backend: transformers")
        return tuple(found[text] for text in request.continuations), usage

    async def _echo(self, text: str) -> tuple[Echo, Usage]:
        reply, usage = await self._send(echo_call(text), scoring=True)
        return _read(read_echo, reply, usage), usage

    async def _send(self, call: Call, *, scoring: bool = False) -> tuple[Reply, Usage]:
        """Make one call, with as many attempts as help."""
        if call.chat and self._config.api == "completions":
            raise ConfigError("messages need the chat interface", where=self._where,
                              mend="set api: chat, or use string prompts")
        body = clean_values({"model": self._config.model, **call.body})[0]
        async with self._slots:
            if self._gate is not None:
                self._gate()
            started = time.monotonic()
            try:
                reply = await self._retrier.call(lambda: self._attempt(call.chat, body, scoring))
            except openai.APIStatusError as error:
                raise await self._refusal(error, call.chat, scoring) from None
            except BackendError as error:
                raise self._placed(error) from None
            seconds = time.monotonic() - started
        return reply, read_usage(reply, seconds, self._config.prices)

    async def _attempt(self, chat: bool, body: dict[str, Any], scoring: bool) -> Reply:
        payload = await self._connections.post("/chat/completions" if chat else "/completions", body)
        return read_reply(chat, payload, scoring=scoring)

    async def _refusal(self, error: openai.APIStatusError, chat: bool, scoring: bool) -> BackendError:
        """What a status that trying again cannot mend means for the user."""
        said = describe(error, self._key)
        if error.status_code in (401, 403):
            return self._refused_key(said)
        if error.status_code == 404:
            return await self._not_found(said, chat)
        if scoring and error.status_code in THIS_REQUEST and ("logprob" in said or "echo" in said):
            return BackendError(f"the server gives no log-probabilities: {said}", where=self._where, mend=JSON_JUDGE)
        if error.status_code in THIS_REQUEST:
            return RequestRejectedError(f"the server refuses this request: {said}", where=self._where,
                                        mend="other requests go on; if it refuses all, check the model's settings")
        mend = "the account is out of credit: raise its limit" if error.status_code in (402, 429) else RERUN
        return BackendError(f"the server refuses: {said}", where=self._where, mend=mend)

    def _refused_key(self, said: str) -> BackendError:
        name = self._config.api_key_env
        mend = (f"put a valid key into the environment variable {name}" if name else
                "name the environment variable that holds the key: api_key_env: MY_KEY")
        return BackendError(f"the server refuses the key: {said}", where=self._where, mend=mend)

    async def _not_found(self, said: str, chat: bool) -> BackendError:
        """A wrong model or a wrong path? The server's list of models tells."""
        model = self._config.model
        try:
            async with asyncio.timeout(10):
                known = await self._connections.models()
        except Exception:
            return BackendError(f"the server knows neither the model {model!r} nor a list of models: {said}",
                                where=self._where, mend="check base_url (it usually ends in /v1) and model")
        if model not in known:
            return BackendError(f"the server does not know the model {model!r}", where=self._where,
                                mend=f"use one of: {', '.join(sorted(known)[:20])}")
        path, instead = ("/chat/completions", "use string prompts") if chat else (
            "/completions", "write prompts as messages, and use judge.method: json")
        return BackendError(f"the server does not offer {path}: {said}", where=self._where, mend=instead)

    def _placed(self, error: LpoError, mend: str | None = None) -> LpoError:
        """The error with the server named."""
        if isinstance(error, NotCalledError):
            return error
        advice = "; ".join(dict.fromkeys(line for line in (error.mend, mend) if line))
        placed = type(error)(error.cause, where=error.where or self._where, mend=advice or None)
        placed.usage = error.usage
        return placed


async def _all(work: Sequence[Awaitable[tuple[T, Usage]]]) -> tuple[list[T], Usage]:
    """Do work side by side, to its end also where some of it fails.

    Raises:
        LpoError: The first failure; its usage is that of all the work.
    """
    done = await asyncio.gather(*work, return_exceptions=True)
    failures = [one for one in done if isinstance(one, BaseException)]
    finished = [one for one in done if not isinstance(one, BaseException)]
    usage = sum((used for _, used in finished), Usage())
    if not failures:
        return [value for value, _ in finished], usage
    error = failures[0]
    if isinstance(error, LpoError):
        error.usage = usage + sum((_paid(failure) for failure in failures), Usage())
    raise error


def _read(read: Callable[[Reply], T], reply: Reply, usage: Usage) -> T:
    """What a reply holds; when it is unusable the error says what it took."""
    try:
        return read(reply)
    except LpoError as error:
        error.usage = usage
        raise


def _paid(error: BaseException) -> Usage:
    """What a failed call took: nothing when it was not made, one call when nothing more is known."""
    known = error.usage if isinstance(error, LpoError) else None
    return known or Usage(calls=0 if isinstance(error, NotCalledError) else 1)


# The client would send these along from OPENAI_ORG_ID and OPENAI_PROJECT_ID, whatever server is configured.
_NO_ACCOUNT = cast("dict[str, str]", {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()})


def _checked_address(base_url: str | None) -> str:
    """The server's address, safe to be shown.

    Raises:
        ConfigError: It is no http address, or holds a user name, a password or a query.
    """
    parts = urlsplit(base_url or "")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the address holds a user name or a password", where="base_url",
                          mend="take them out; name the variable that holds the key: api_key_env: MY_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("not an http(s) address", where="base_url", mend="for example http://127.0.0.1:8000/v1")
    if parts.query or parts.fragment:
        raise ConfigError("the address goes on after its path", where="base_url",
                          mend="leave out what begins with ? or #")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _read_key(name: str | None) -> str | None:
    """The key from the environment.

    Raises:
        BackendError: The variable is not set.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise BackendError(f"the environment variable {name} is not set", where="api_key_env",
                           mend=f"export {name}=... and run again")
    return key
