"""The durable cache of finished calls: what was answered once is never asked again, whenever the process is killed.

Builders are deterministic functions of the replies and the seed, so resuming is running again: calls that finished
are answered from here, word for word. A reply is committed before anybody sees it, so nothing that was used can be
lost, and nothing that was lost was used.

Commits happen on the event loop, never on a thread: replies that finish in the same turn of the loop are committed
together in the next turn, at the price of one `fsync`, and which task runs when does not depend on the disk's speed.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import hashlib
import json
import logging
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lpo.errors import LpoError, NotCalledError, RequestRejectedError
from lpo.llm.base import LLM, Completion, Finish, Request, ScoreRequest, TokenLogprobs
from lpo.llm.journal_file import Entry, JournalFile, Outcome
from lpo.records import Message, Usage
from lpo.storage import clean_text

HIT = Usage(cached=1)

_log = logging.getLogger(__name__)
_R = TypeVar("_R", Request, ScoreRequest)
_A = TypeVar("_A", Completion, TokenLogprobs)


@dataclass(frozen=True)
class JournalCounts:
    """What the journal knows.

    Every stored reply was asked for once, so `ever[ANSWER] == entries` says that none was asked for twice, in all the
    processes that ever wrote this file. Requests are counted here, each by itself, also where a back end draws several
    siblings in one call; `spent` counts calls as they are paid.

    Args:
        entries: Replies in the file.
        calls: Requests this process passed on to a model, finished or not.
        hits: Requests this process was spared: answered from the file, or by an equal one in flight.
        ever: Finished requests since the file was made, by outcome.
        spent: What they took, also those that failed or were cut; a failure of which nothing is known is one call.
    """

    entries: int
    calls: int
    hits: int
    ever: Mapping[Outcome, int]
    spent: Usage


@dataclass(frozen=True)
class Codec(Generic[_A]):
    """How one kind of answer is stored.

    Args:
        to_json: The answer as JSON values.
        from_json: The answer again, its usage replaced by that of a hit.
        outcome: Is it an answer for this purpose?
    """

    to_json: Callable[[_A], dict[str, Any]]
    from_json: Callable[[dict[str, Any]], _A]
    outcome: Callable[[_A, str], Outcome]


def request_key(identity: Mapping[str, Any], request: Request | ScoreRequest) -> str:
    """The key of a request to a model: SHA-256 of the canonical JSON of both.

    Every field of the request takes part but `siblings`: whether a text was drawn together with others or alone, it
    answers the same question. Equal numbers are equal keys (`1` and `1.0`); the order of a schema's properties
    counts, for constrained decoding writes them in that order.

    Args:
        identity: `LLM.identity`; its order does not count.
        request: What is asked.

    Returns:
        64 hexadecimal digits.
    """
    return _key(_identity_text(identity), request)


def _identity_text(identity: Mapping[str, Any]) -> str:
    return json.dumps(_canonical(dict(identity)), sort_keys=True)


def _key(model: str, request: Request | ScoreRequest) -> str:
    asked = json.dumps([type(request).__name__, _canonical(request)])
    return hashlib.sha256(f"{model}\n{asked}".encode()).hexdigest()


def _canonical(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or value is None:
        return value
    if kind is float:
        return int(value) if value.is_integer() else value
    if kind is Message:
        return {"role": value.role, "content": value.content}
    if kind is dict:
        return {str(key): _canonical(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [_canonical(item) for item in value]
    if dataclasses.is_dataclass(kind):
        return {name: _canonical(getattr(value, name)) for name in _field_names(kind)}
    return value


@functools.cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.name != "siblings")


@dataclass(frozen=True)
class _Pending:
    """A finished call on its way to the file; `committed` is None when nobody waits for it."""

    entry: Entry
    committed: asyncio.Future[None] | None


class Journal:
    """A file of finished calls. Open it once per process, under the run directory's lock.

    A file that is corrupt or of another version is set aside as `<name>.broken-<n>` with a warning, and every reply
    in it that is provably whole is taken over.

    Args:
        path: The SQLite file; made when missing.

    Raises:
        RunLockedError: Another process writes to it.
        LpoError: The file cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = JournalFile(self.path)
        self._pending: list[_Pending] = []
        self._in_flight: dict[str, asyncio.Future[str]] = {}
        self._calls = 0
        self._hits = 0
        self._spent = self._file.spent()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what is pending and close the file."""
        self._flush()
        self._file.close()

    def counts(self) -> JournalCounts:
        """How much is stored, how many calls were made and how many were spared."""
        self._flush()
        return JournalCounts(self._file.entries(), self._calls, self._hits, self._file.calls(), self._file.spent())

    def spent(self) -> Usage:
        """What all finished calls took, in every process that ever wrote this file."""
        return self._spent

    async def answer(self, key: str, purpose: str, call: Callable[[], Awaitable[_A]], codec: Codec[_A]) -> _A:
        """The stored answer to a request, or that of an equal request in flight, or a new one, committed first.

        Args:
            key: From `request_key`.
            purpose: Of the request.
            call: Asks the model.
            codec: How this kind of answer is stored.

        Raises:
            LpoError: The answer could not be committed; or whatever `call` raises.
        """
        while True:
            stored = self._file.read(key)
            if stored is not None:
                self._hits += 1
                return codec.from_json(json.loads(stored))
            leader = self._in_flight.get(key)
            if leader is None:
                return await self._lead(key, purpose, call, codec)
            await asyncio.wait([leader])
            if not leader.cancelled():  # else its caller gave up: look again, and lead
                value = leader.result()
                self._hits += 1
                return codec.from_json(json.loads(value))

    async def _lead(self, key: str, purpose: str, call: Callable[[], Awaitable[_A]], codec: Codec[_A]) -> _A:
        """Make the call; equal requests that come meanwhile wait for its end."""
        end = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await self._call(key, purpose, call)
            value = json.dumps(codec.to_json(answer), ensure_ascii=False)
            await self._commit(Entry(key, purpose, codec.outcome(answer, purpose), answer.usage, value))
        except Exception as error:
            end.set_exception(error)
            end.exception()  # seen: nobody need be waiting
            raise
        else:
            end.set_result(value)
            return answer
        finally:
            end.cancel()  # no effect unless this task was cancelled
            del self._in_flight[key]

    async def _call(self, key: str, purpose: str, call: Callable[[], Awaitable[_A]]) -> _A:
        self._calls += 1
        try:
            return await call()
        except Exception as error:
            usage = error.usage if isinstance(error, LpoError) else None
            if isinstance(error, NotCalledError) and usage is None:
                self._calls -= 1
                raise
            outcome = Outcome.REJECTED if isinstance(error, RequestRejectedError) else Outcome.FAILED
            self._schedule(_Pending(Entry(key, purpose, outcome, usage or Usage(calls=1)), committed=None))
            raise

    async def _commit(self, entry: Entry) -> None:
        """Return once the call is in the file, together with all others that finished in this turn of the loop."""
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._schedule(_Pending(entry, committed))
        await committed

    def _schedule(self, pending: _Pending) -> None:
        self._pending.append(pending)
        self._spent += pending.entry.usage
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Commit everything pending in one transaction, then wake those who wait, in order."""
        group, self._pending = self._pending, []
        if not group:
            return
        failure: LpoError | None = None
        try:
            self._file.write([pending.entry for pending in group])
        except LpoError as error:
            failure = error
            _log.error("%s", error)
        for pending in group:
            if pending.committed is None or pending.committed.done():
                continue
            if failure:
                pending.committed.set_exception(failure)
            else:
                pending.committed.set_result(None)


class JournaledLLM:
    """A language model behind a journal: finished calls are made once.

    Args:
        inner: The model.
        journal: Several models may share one; the key tells them apart.

    Attributes:
        usage: What this process's calls took, by purpose.
    """

    def __init__(self, inner: LLM, journal: Journal) -> None:
        self.inner = inner
        self.journal = journal
        self.usage: dict[str, Usage] = {}
        self._identity_text = _identity_text(inner.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """The inner model's."""
        return self.inner.identity

    async def generate(self, request: Request) -> Completion:
        """As `LLM.generate`; a stored reply comes back word for word, its usage one cached call."""
        completion = await self._ask(request, lambda: self._generate_clean(request), COMPLETIONS)
        self._count(request.purpose, completion.usage)
        return completion

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        """As `LLM.logprobs`; stored values come back bit for bit."""
        answer = await self._ask(request, lambda: self.inner.logprobs(request), SCORES)
        self._count(request.purpose, answer.usage)
        return answer

    async def close(self) -> None:
        """Close the inner model; the journal stays open."""
        await self.inner.close()

    async def _ask(self, request: _R, call: Callable[[], Awaitable[_A]], codec: Codec[_A]) -> _A:
        return await self.journal.answer(_key(self._identity_text, request), request.purpose, call, codec)

    async def _generate_clean(self, request: Request) -> Completion:
        # Cleaned before it is stored or used, so that a hit and the first answer are the same text.
        completion = await self.inner.generate(request)
        return dataclasses.replace(completion, text=clean_text(completion.text)[0])

    def _count(self, purpose: str, usage: Usage) -> None:
        self.usage[purpose] = self.usage.get(purpose, Usage()) + usage


def _completion_to_json(completion: Completion) -> dict[str, Any]:
    logprobs = completion.logprobs
    return {"text": completion.text, "finish": completion.finish.value,
            "logprobs_float64": None if logprobs is None else _packed(logprobs), "usage": completion.usage.to_json()}


def _completion_from_json(value: dict[str, Any]) -> Completion:
    logprobs = value["logprobs_float64"]
    return Completion(text=value["text"], finish=Finish(value["finish"]),
                      logprobs=None if logprobs is None else _unpacked(logprobs), usage=HIT)


def _packed(values: Sequence[float]) -> str:
    """Floats, bit for bit, as base64 of little-endian doubles: decimal digits take 50 times as long, and more room."""
    return base64.b64encode(struct.pack(f"<{len(values)}d", *values)).decode()


def _unpacked(text: str) -> tuple[float, ...]:
    data = base64.b64decode(text)
    return struct.unpack(f"<{len(data) // 8}d", data)


def _completion_outcome(completion: Completion, purpose: str) -> Outcome:
    if completion.finish.is_answer(purpose):
        return Outcome.ANSWER
    return Outcome.CUT if completion.finish is Finish.LENGTH else Outcome.REFUSED


def _scores_to_json(scores: TokenLogprobs) -> dict[str, Any]:
    return {"values": scores.values, "usage": scores.usage.to_json()}


def _scores_from_json(value: dict[str, Any]) -> TokenLogprobs:
    return TokenLogprobs(values=tuple(tuple(tuple(item) for item in row) for row in value["values"]), usage=HIT)


COMPLETIONS = Codec(_completion_to_json, _completion_from_json, _completion_outcome)
SCORES = Codec(_scores_to_json, _scores_from_json, lambda _scores, _purpose: Outcome.ANSWER)
