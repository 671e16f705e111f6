"""vLLM's engine in a thread of its own: calls join the running batch as they come and leave it when they are done.

The engine lives in this process, so that it ends with it, however it ends; vLLM's own asynchronous engine is a second
process, which a killed parent leaves behind.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lpo.errors import BackendError, RequestRejectedError

RERUN = "run the same command again: finished calls are stored; if it fails again, lower max_num_seqs or max_model_len"


@dataclass(frozen=True)
class Finished:
    """A request that is done.

    Args:
        output: vLLM's `RequestOutput`.
        seconds: The request's share of the engine's time.
    """

    output: Any
    seconds: float


@dataclass
class _Job:
    name: str
    prompt_ids: Sequence[int]
    params: Any
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Finished]
    seconds: float = field(default=0.0)

    def settle(self, result: Finished | Exception) -> None:
        """Wake the caller, from the engine's thread."""

        def wake() -> None:
            if self.done.done():
                return
            if isinstance(result, Exception):
                self.done.set_exception(result)
            else:
                self.done.set_result(result)

        with suppress(RuntimeError):  # the caller's loop is closed: nobody waits
            self.loop.call_soon_threadsafe(wake)


@dataclass(frozen=True)
class _Abort:
    name: str


class _Close:
    pass


_Command = _Job | _Abort | _Close


class EngineThread:
    """Opens an engine and drives it.

    Args:
        open_engine: Gives a `vllm.LLMEngine`; called in the thread, whose OpenMP settings vLLM changes.
        is_refusal: Does this exception refuse one request only?

    Raises:
        Exception: What `open_engine` raised.
    """

    def __init__(self, open_engine: Callable[[], Any], is_refusal: Callable[[Exception], bool]) -> None:
        self._is_refusal = is_refusal
        self._inbox: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._names = itertools.count()
        self._jobs: dict[str, _Job] = {}
        opened: Future[Any] = Future()
        self._thread = threading.Thread(target=self._work, args=(open_engine, opened), name="lpo-vllm", daemon=True)
        self._thread.start()
        self.engine: Any = opened.result()

    async def submit(self, prompt_ids: Sequence[int], params: Any) -> Finished:
        """Have one request done; it is taken back when the caller is cancelled.

        Args:
            prompt_ids: Token ids.
            params: `vllm.SamplingParams`.

        Raises:
            RequestRejectedError: vLLM refuses this request.
            BackendError: The engine failed.
        """
        if not self._thread.is_alive():
            raise BackendError("the engine is closed", mend="open the model again")
        loop = asyncio.get_running_loop()
        job = _Job(str(next(self._names)), prompt_ids, params, loop, loop.create_future())
        self._inbox.put(job)
        try:
            return await job.done
        except asyncio.CancelledError:
            self._inbox.put(_Abort(job.name))
            raise

    def close(self) -> None:
        """End the engine and its thread; requests that are not done fail."""
        self._inbox.put(_Close())
        self._thread.join()
        self.engine = None

    def _work(self, open_engine: Callable[[], Any], opened: Future[Any]) -> None:
        try:
            engine = open_engine()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(engine)
        failure: BackendError | None = None
        while True:
            for command in self._commands():
                if isinstance(command, _Close):
                    self._fail(BackendError("the engine was closed"))
                    engine.engine_core.shutdown()
                    return
                if failure is None:
                    failure = self._take(engine, command)
                elif isinstance(command, _Job):
                    command.settle(_copy(failure))
            if self._jobs:
                failure = failure or self._step(engine)
            if failure is not None:
                self._fail(failure)

    def _commands(self) -> list[_Command]:
        """Everything that came meanwhile; waits when there is nothing to do."""
        commands: list[_Command] = [] if self._jobs else [self._inbox.get()]
        with suppress(queue.Empty):
            while True:
                commands.append(self._inbox.get_nowait())
        return commands

    def _take(self, engine: Any, command: _Job | _Abort) -> BackendError | None:
        """Do what was asked; gives what broke the engine, if anything did."""
        from vllm.inputs import tokens_input

        try:
            if isinstance(command, _Abort):
                if self._jobs.pop(command.name, None):
                    engine.abort_request([command.name])
            else:
                engine.add_request(command.name, tokens_input(list(command.prompt_ids)), command.params)
                self._jobs[command.name] = command
        except Exception as error:
            if isinstance(command, _Job) and self._is_refusal(error):
                command.settle(RequestRejectedError(f"vLLM refuses this request: {_first_line(error)}"))
                return None
            failure = _failure(error)
            if isinstance(command, _Job):
                command.settle(_copy(failure))
            return failure
        return None

    def _step(self, engine: Any) -> BackendError | None:
        """One pass of the model for every text in the batch."""
        started = time.perf_counter()
        try:
            outputs = engine.step()
        except Exception as error:
            return _failure(error)
        share = (time.perf_counter() - started) / len(self._jobs)
        for job in self._jobs.values():
            job.seconds += share
        for output in outputs:
            if output.finished and (job := self._jobs.pop(output.request_id, None)):
                job.settle(Finished(output, job.seconds))
        return None

    def _fail(self, failure: BackendError) -> None:
        for job in self._jobs.values():
            job.settle(_copy(failure))
        self._jobs.clear()


def _failure(error: Exception) -> BackendError:
    failure = BackendError(f"vLLM's engine failed: {_first_line(error)}", mend=RERUN)
    failure.__cause__ = error
    return failure


def _copy(failure: BackendError) -> BackendError:
    """Each waiting task raises an exception of its own: a shared one would collect all their tracebacks."""
    copy = BackendError(failure.cause, where=failure.where, mend=failure.mend)
    copy.__cause__ = failure.__cause__
    return copy


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
