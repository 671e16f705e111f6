"""The models of a run: each is loaded once, shared by those who use it, and journaled."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lpo.config import JudgeConfig, ModelConfig, RunConfig
from lpo.llm.base import LLM, Completion, Request, ScoreRequest, TokenLogprobs
from lpo.llm.create import create_llm
from lpo.llm.journal import Journal, JournaledLLM
from lpo.llm.side_by_side import stopped_error
from lpo.records import Usage


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
            raise stopped_error()


def judge_config(config: RunConfig) -> JudgeConfig:
    """The judge as configured; by default the policy's model reads its own grades."""
    if config.judge is not None:
        return config.judge
    return JudgeConfig(**config.policy.model_dump(exclude={"sampling"}))


class Models:
    """Loads models on demand and keeps them while they are needed.

    Args:
        journal: Where finished calls are kept.
        stop: Set when the user asks the run to stop, or something failed: then no new call is made.
    """

    def __init__(self, journal: Journal, stop: asyncio.Event) -> None:
        self._journal, self.stop = journal, stop
        self._loaded: dict[str, JournaledLLM] = {}

    def get(self, config: ModelConfig, adapter: Path | None = None) -> JournaledLLM:
        """A journaled model; the same settings give the same instance."""
        engine = {name: value for name, value in config.model_dump(mode="json").items()
                  if name in ModelConfig.model_fields and name not in ("sampling", "prices")}
        key = repr((sorted(engine.items()), adapter))
        if key not in self._loaded:
            engine_llm = create_llm(config, adapter=adapter)
            self._loaded[key] = JournaledLLM(StoppableLLM(engine_llm, self.stop), self._journal)
        return self._loaded[key]

    def usage(self) -> Usage:
        """What all calls of these models took so far."""
        return sum(self.usage_by_purpose().values(), Usage())

    def usage_by_purpose(self) -> dict[str, Usage]:
        """The same, by the purposes of the requests, in the order of their names."""
        used: dict[str, Usage] = {}
        for llm in self._loaded.values():
            for purpose, usage in llm.usage.items():
                used[purpose] = used.get(purpose, Usage()) + usage
        return dict(sorted(used.items()))

    async def close(self) -> None:
        """Free every model."""
        for llm in self._loaded.values():
            await llm.close()
        self._loaded.clear()


def texts_at_once(config: ModelConfig) -> int:
    """How many texts to ask a model for at the same time: twice what it works on, so that it never waits for us."""
    return 2 * {"transformers": config.batch_size, "openai": config.max_concurrency,
                "vllm": config.max_num_seqs}[config.backend]
