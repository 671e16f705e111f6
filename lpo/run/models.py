"""The models of a run: each is loaded once, shared by those who use it, and journaled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from lpo.build_config import BudgetConfig
from lpo.config import JudgeConfig, ModelConfig, RunConfig
from lpo.llm.base import LLM, Completion, Request, ScoreRequest, TokenLogprobs
from lpo.llm.create import create_llm
from lpo.llm.journal import Journal, JournaledLLM
from lpo.llm.side_by_side import stopped_error
from lpo.records import Usage
from lpo.run.budget import Budget


class Gate:
    """Lets calls through until the run is to stop or its budget is spent; those in flight can finish.

    Args:
        stop: Set when no new call is to be made.
        budget: None: without limits.
    """

    def __init__(self, stop: asyncio.Event, budget: Budget | None) -> None:
        self._stop, self._budget = stop, budget

    def check(self) -> None:
        """May a call be asked for?

        Raises:
            StoppedError: The run is to stop.
            BudgetSpentError: Its budget is spent.
        """
        if self._stop.is_set():
            raise stopped_error()
        if self._budget is not None:
            self._budget.check()

    def start(self) -> None:
        """As `check`, for a call that is made now."""
        if self._stop.is_set():
            raise stopped_error()
        if self._budget is not None:
            self._budget.start()

    def finished(self, usage: Usage) -> None:
        """What a call took."""
        if self._budget is not None:
            self._budget.finished(usage)


class GatedLLM:
    """A model whose calls pass a gate.

    Args:
        inner: The model.
        gate: Told of every reply.
        enter: Asked before a request is handed to the model: `gate.check`, where the model asks `gate.start` itself
            when the call's turn has come, else `gate.start`.
    """

    def __init__(self, inner: LLM, gate: Gate, enter: Callable[[], None]) -> None:
        self._inner, self._gate, self._enter = inner, gate, enter

    @property
    def identity(self) -> dict[str, object]:
        """The inner model's."""
        return self._inner.identity

    async def generate(self, request: Request) -> Completion:
        """As the inner model, if the gate is open."""
        self._enter()
        completion = await self._inner.generate(request)
        self._gate.finished(completion.usage)
        return completion

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        """As the inner model, if the gate is open."""
        self._enter()
        scores = await self._inner.logprobs(request)
        self._gate.finished(scores.usage)
        return scores

    async def close(self) -> None:
        """Close the inner model."""
        await self._inner.close()


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
        budget: What the run may spend in all; None: without limits.
    """

    def __init__(self, journal: Journal, stop: asyncio.Event, budget: BudgetConfig | None = None) -> None:
        self._journal, self.stop = journal, stop
        self._budget = Budget(budget, journal.spent) if budget is not None else None
        self._gate = Gate(stop, self._budget)
        self._loaded: dict[str, JournaledLLM] = {}
        self._used_before: dict[str, Usage] = {}

    def get(self, config: ModelConfig, adapter: Path | None = None) -> JournaledLLM:
        """A journaled model; the same settings give the same instance.

        Raises:
            ConfigError: Money is limited, and the model has no prices.
            BackendError: The model cannot be used.
        """
        if self._budget is not None:
            self._budget.require_prices(config)
        engine = {name: value for name, value in config.model_dump(mode="json").items()
                  if name in ModelConfig.model_fields and name not in ("sampling", "prices")}
        key = repr((sorted(engine.items()), adapter))
        if key not in self._loaded:
            engine_llm = create_llm(config, adapter=adapter, gate=self._gate.start)
            enter = self._gate.check if config.backend == "openai" else self._gate.start
            self._loaded[key] = JournaledLLM(GatedLLM(engine_llm, self._gate, enter), self._journal)
        return self._loaded[key]

    def spent(self) -> Usage:
        """What the run ever paid for, in all its starts: calls that failed and replies that were cut are counted."""
        return self._journal.spent()

    def usage(self) -> Usage:
        """What all calls of these models took so far."""
        return sum(self.usage_by_purpose().values(), Usage())

    def usage_by_purpose(self) -> dict[str, Usage]:
        """The same, by the purposes of the requests, in the order of their names."""
        used = dict(self._used_before)
        for llm in self._loaded.values():
            for purpose, usage in llm.usage.items():
                used[purpose] = used.get(purpose, Usage()) + usage
        return dict(sorted(used.items()))

    async def close(self) -> None:
        """Free every model; one that is asked for again is loaded again."""
        self._used_before = self.usage_by_purpose()
        for llm in self._loaded.values():
            await llm.close()
        self._loaded.clear()


def texts_at_once(config: ModelConfig) -> int:
    """How many texts to ask a model for at the same time: twice what it works on, so that it never waits for us."""
    return 2 * {"transformers": config.batch_size, "openai": config.max_concurrency,
                "vllm": config.max_num_seqs}[config.backend]
