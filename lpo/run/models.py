"""The models of a run: each is loaded once, shared by those who use it, and journaled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

from lpo.config import JudgeConfig, ModelConfig, RunConfig
from lpo.errors import StoppedError
from lpo.llm.base import LLM, Completion, Request, ScoreRequest, TokenLogprobs
from lpo.llm.create import create_llm
from lpo.llm.journal import Journal, JournaledLLM
from lpo.records import Usage

T = TypeVar("T")


class StoppableLLM:
    """Passes calls on until `stop` is set; then refuses new ones, so that those in flight can finish."""

    def __init__(self, inner: LLM, stop: asyncio.Event) -> None:
        self._inner, self._stop = inner, stop

    @property
    def identity(self) -> dict[str, object]:
        """The inner model's."""
        return self._inner.identity

    async def generate(self, request: Request) -> Completion:
        """As the inner model, unless stopped."""
        self._check()
        return await self._inner.generate(request)

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        """As the inner model, unless stopped."""
        self._check()
        return await self._inner.logprobs(request)

    async def close(self) -> None:
        """Close the inner model."""
        await self._inner.close()

    def _check(self) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped on request", mend="run the same command again to continue: "
                               "finished model calls are stored and will not be made again")


def judge_config(config: RunConfig) -> JudgeConfig:
    """The judge as configured; by default the policy's model reads its own grades."""
    if config.judge is not None:
        return config.judge
    return JudgeConfig(**config.policy.model_dump(exclude={"sampling"}))


class Models:
    """Loads models on demand and keeps them while they are needed.

    Args:
        journal: Where finished calls are kept.
        stop: Set when the user asks the run to stop.
    """

    def __init__(self, journal: Journal, stop: asyncio.Event) -> None:
        self._journal, self._stop = journal, stop
        self._loaded: dict[str, JournaledLLM] = {}

    def get(self, config: ModelConfig, adapter: Path | None = None) -> JournaledLLM:
        """A journaled model; the same settings give the same instance."""
        engine = {name: value for name, value in config.model_dump(mode="json").items()
                  if name in ModelConfig.model_fields and name not in ("sampling", "prices")}
        key = repr((sorted(engine.items()), adapter))
        if key not in self._loaded:
            engine_llm = create_llm(config, adapter=adapter)
            self._loaded[key] = JournaledLLM(StoppableLLM(engine_llm, self._stop), self._journal)
        return self._loaded[key]

    async def gather(self, work: Sequence[Awaitable[T]]) -> list[T]:
        """Run work side by side. The first failure stops new calls, those in flight finish and are stored.

        Raises:
            BaseException: The first failure, or `StoppedError` when the user asked to stop.
        """

        async def guarded(item: Awaitable[T]) -> T:
            try:
                return await item
            except BaseException:
                self._stop.set()
                raise

        results = await asyncio.gather(*(guarded(item) for item in work), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            raise next((failure for failure in failures if not isinstance(failure, StoppedError)), failures[0])
        return [result for result in results if not isinstance(result, BaseException)]

    def usage(self) -> Usage:
        """What all calls of these models took so far."""
        total = Usage()
        for llm in self._loaded.values():
            for usage in llm.usage.values():
                total = total + usage
        return total

    async def close(self) -> None:
        """Free every model."""
        for llm in self._loaded.values():
            await llm.close()
        self._loaded.clear()
