"""Gathering of concurrent calls into batches that run in a worker thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lpo.errors import BackendError

Job = TypeVar("Job")
Result = TypeVar("Result")
Runner = Callable[[Sequence[Job], Callable[[], bool]], Sequence[Result]]
"""Runs one batch in the worker thread; the callable tells whether everybody who asked has gone meanwhile."""

_QUIET_TURNS = 64
"""A batch is formed when this many turns of the event loop brought no new call."""


class AbandonedError(Exception):
    """Raised by a runner that stops because nobody waits for its batch any more."""


@dataclass
class _Waiting(Generic[Job]):
    job: Job
    future: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Gatherer(Generic[Job, Result]):
    """Turns many concurrent `submit` calls into few calls of `run`.

    A batch is formed when every task waits: no new call for a fixed number of turns of the event loop. Turns are
    counted, not milliseconds, so the batches of a program, and with them the rounding of its numbers, repeat.
    The batch runs in a worker thread; the loop stays free. It is taken in order of arrival, jobs of one type only.

    Args:
        run: Runs a batch and gives one result per job.
        batch_size: Jobs in a batch at most.
    """

    def __init__(self, run: Runner[Job, Result], batch_size: int) -> None:
        self._run = run
        self._batch_size = batch_size
        self._waiting: deque[_Waiting[Job]] = deque()
        self._arrivals = 0
        self._drainer: asyncio.Task[None] | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lpo-model")

    async def submit(self, job: Job) -> Result:
        """Hand in a job and wait for its result.

        Raises:
            Exception: What `run` raised for the batch.
        """
        waiting = _Waiting(job)
        self._waiting.append(waiting)
        self._arrivals += 1
        if self._drainer is None or self._drainer.done() or self._drainer.get_loop() is not waiting.future.get_loop():
            self._drainer = asyncio.create_task(self._drain())
        return await waiting.future

    def close(self) -> None:
        """Wait for the batch that runs, if any, and end the thread; later calls of `submit` fail."""
        self._executor.shutdown(wait=True)

    async def _drain(self) -> None:
        while self._waiting:
            await self._quiet()
            batch = self._take()
            if batch:
                await self._deliver(batch)

    async def _quiet(self) -> None:
        turns, arrivals = 0, self._arrivals
        while turns < _QUIET_TURNS:
            await asyncio.sleep(0)
            turns = turns + 1 if self._arrivals == arrivals else 0
            arrivals = self._arrivals

    def _take(self) -> list[_Waiting[Job]]:
        """The oldest job and those of its type, up to the batch size; jobs nobody waits for any more are dropped."""
        loop = asyncio.get_running_loop()
        alive = [waiting for waiting in self._waiting
                 if not waiting.future.done() and waiting.future.get_loop() is loop]
        batch = [waiting for waiting in alive if type(waiting.job) is type(alive[0].job)][:self._batch_size]
        taken = {id(waiting) for waiting in batch}
        self._waiting = deque(waiting for waiting in alive if id(waiting) not in taken)
        return batch

    async def _deliver(self, batch: list[_Waiting[Job]]) -> None:
        def abandoned() -> bool:
            return all(waiting.future.done() for waiting in batch)

        jobs = [waiting.job for waiting in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, jobs, abandoned)
        except asyncio.CancelledError:
            # The worker sees at its next step that nobody waits, and stops.
            for waiting in batch:
                waiting.future.cancel()
            raise
        except Exception as error:
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(_copy(error))
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)


def _copy(error: Exception) -> Exception:
    """Each waiting task raises an exception of its own: a shared one would collect all their tracebacks."""
    if isinstance(error, BackendError):
        copy: Exception = type(error)(error.cause, where=error.where, mend=error.mend)
    else:
        copy = BackendError(f"the model failed: {type(error).__name__}: {error}")
    copy.__cause__ = error
    return copy
