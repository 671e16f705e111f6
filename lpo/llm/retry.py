"""The one retry layer: what is tried again, when, and for how long. The client below retries nothing itself."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from lpo.errors import BackendError

FIRST_PAUSE = 1.0
"""Seconds before the second attempt; doubled each time."""
LONGEST_PAUSE = 60.0
FIRST_CONTACT = 120.0
"""Seconds a server that has never answered may take to appear: it may be loading, or the address may be wrong."""
SPREAD = 0.5
"""After a shared pause the calls start again over this many seconds, not all at once."""
MESSAGE_LENGTH = 300

RERUN = "check that the server is well, then run the same command again: finished calls are not made twice"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class UnfinishedReplyError(Exception):
    """An attempt that brought no whole reply: it took too long, or what came cannot be read. It is tried again."""


def is_transient(error: BaseException) -> bool:
    """May the same request succeed later?

    Yes for lost connections, timeouts, unreadable replies, 408, 409, 429 and 5xx; not for 501 (never implemented), an
    exhausted quota (429 with `insufficient_quota`) and every other 4xx.
    """
    if isinstance(error, openai.APIStatusError):
        if error.code == "insufficient_quota" or error.status_code == 501:
            return False
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, UnfinishedReplyError))


def retry_after(error: BaseException) -> float | None:
    """Seconds the server asks us to wait, from `Retry-After` as seconds or as a date; None when it does not ask.

    A date is compared with the server's own clock where it sends one.
    """
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    until = _date(value)
    if until is None:
        return None
    now = _date(headers.get("date")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _date(value: str | None) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def describe(error: BaseException, secret: str | None = None) -> str:
    """An error of the client in one line, as the server words it, without the key.

    Args:
        error: What the client raised.
        secret: Replaced by `***` wherever it stands.
    """
    if isinstance(error, openai.APIStatusError):
        body = error.body
        message = body.get("message") if isinstance(body, dict) else None
        text = f"{error.status_code} {message or error.message}"
    elif isinstance(error, openai.APITimeoutError):
        text = "the connection timed out"
    elif isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        text = f"the connection failed ({type(cause).__name__}: {cause})" if cause else "the connection failed"
    else:
        text = str(error)
    if secret:  # before the text is cut: half a key is a secret too
        text = text.replace(secret, "***")
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_LENGTH else line[:MESSAGE_LENGTH] + " ..."


class Retrier:
    """Tries calls of one client until they succeed, cannot succeed, or their time is over.

    Pauses double from one second, with jitter. A server that says it is too busy (429, or any `Retry-After`) pauses
    all calls of this client.

    Args:
        where: The server, as named in errors.
        attempt_seconds: For one attempt, from the request to the last byte of the reply.
        deadline: Seconds for one call with all its attempts and pauses.
        secret: The key, kept out of every message.
    """

    def __init__(self, *, where: str, attempt_seconds: float, deadline: float, secret: str | None = None) -> None:
        self._where = where
        self._attempt_seconds = attempt_seconds
        self._deadline = deadline
        self._secret = secret
        self._paused_until = 0.0
        self._answered = False

    async def call(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call, again and again where that may help.

        Args:
            attempt: Makes one attempt.

        Raises:
            BackendError: It kept failing until the deadline.
            Exception: What `attempt` raised, when trying again cannot help.
        """
        started = time.monotonic()
        failures: list[str] = []
        begun: list[Exception] = []

        async def once() -> _T:
            try:
                return await self._attempt(attempt)
            except Exception as error:
                failures.append(describe(error, self._secret))
                raise

        async def once_more() -> _T:
            """What is tried again begins with the attempt that failed already."""
            if begun:
                raise begun.pop()
            return await once()

        def out_of_time(state: RetryCallState) -> bool:
            patience = self._deadline if self._answered else min(self._deadline, FIRST_CONTACT)
            return time.monotonic() - started + state.upcoming_sleep >= patience

        clock = asyncio.timeout(self._deadline)
        try:
            async with clock:
                try:
                    return await once()  # nearly always all there is: to set up what follows takes a tenth of a call
                except Exception as error:
                    begun.append(error)
                return await AsyncRetrying(
                    retry=retry_if_exception(is_transient), wait=self._pause, stop=out_of_time,
                    before_sleep=lambda state: self._report(state, failures[-1]), reraise=True,
                )(once_more)
        except Exception as error:
            if not (is_transient(error) or clock.expired()):
                raise
            raise self._given_up(failures, time.monotonic() - started, error) from None

    async def _attempt(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        await self._wait_for_server()
        clock = asyncio.timeout(self._attempt_seconds)
        try:
            async with clock:
                result = await attempt()
        except openai.APIStatusError:
            self._answered = True
            raise
        except TimeoutError:
            if not clock.expired():
                raise
            raise UnfinishedReplyError(f"no whole reply within {self._attempt_seconds:g} s") from None
        self._answered = True
        return result

    async def _wait_for_server(self) -> None:
        """Sit out the shared pause, which may be prolonged meanwhile."""
        while (rest := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(rest + random.uniform(0, SPREAD))

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next attempt."""
        error = _error_of(state)
        asked = retry_after(error)
        backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (state.attempt_number - 1)) * random.uniform(0.5, 1.0)
        pause = backoff if asked is None else asked
        if asked is not None or isinstance(error, openai.RateLimitError):
            self._paused_until = max(self._paused_until, time.monotonic() + pause)
            return pause + random.uniform(0, SPREAD)
        return pause

    def _report(self, state: RetryCallState, failure: str) -> None:
        _log.warning("%s: %s; attempt %d in %.1f s", self._where, failure, state.attempt_number + 1,
                     state.upcoming_sleep)

    def _given_up(self, failures: list[str], seconds: float, error: Exception) -> BackendError:
        tries = "1 attempt" if len(failures) == 1 else f"{len(failures)} attempts"
        last = failures[-1] if failures else "no attempt ended"
        asked = retry_after(error)
        if asked is not None and asked >= self._deadline:
            return BackendError(f"the server asks to wait {asked:g} s, longer than one call may take: {last}",
                                where=self._where, mend="wait that long, or raise `deadline`, then run again")
        mend = RERUN if self._answered else f"check base_url; {RERUN}"
        return BackendError(f"no reply after {tries} in {seconds:.0f} s; last: {last}", where=self._where, mend=mend)


def _error_of(state: RetryCallState) -> Any:
    return state.outcome.exception() if state.outcome else None
