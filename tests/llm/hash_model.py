"""A model in this process whose replies are a function of the request, and what the journal's tests do with it."""

import asyncio
import dataclasses
import math
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lpo.llm.base import Completion, Context, Finish, Request, Sampling, ScoreRequest, TokenLogprobs
from lpo.llm.journal import Journal, JournaledLLM
from lpo.records import Usage

IDENTITY = {"backend": "hash", "model": "one", "revision": None}
AWKWARD = (-0.1, -1e-17, -5e-324, -123456.789012345678, -0.0, -math.inf, -2 / 3)


class HashModel:
    """A model in this process whose reply is a function of the request; counts what reaches it."""

    def __init__(self, finish: Finish = Finish.STOP, **identity: Any) -> None:
        self.identity = {**IDENTITY, **identity}
        self.finish = finish
        self.reached: list[Any] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.text: Callable[[Request], str] = lambda request: f"answer to {request.seed}/{request.index} 漢字 🙂\n"

    async def _arrive(self, request: Any) -> None:
        self.reached.append(request)
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error

    async def generate(self, request: Request) -> Completion:
        await self._arrive(request)
        usage = Usage(calls=1, tokens_in=3, tokens_out=7, seconds=0.5, cost=0.25)
        return Completion(self.text(request), self.finish, AWKWARD, usage)

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        await self._arrive(request)
        values = tuple(tuple(AWKWARD[:2] for _ in request.continuations) for _ in request.contexts)
        return TokenLogprobs(values, Usage(calls=1, tokens_in=3))

    async def close(self) -> None:
        pass


def ask(seed: int = 0, **changes: Any) -> Request:
    return dataclasses.replace(Request(Context("Write."), Sampling(max_tokens=9), seed=seed), **changes)


def stored_keys(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    keys = {row[0] for row in connection.execute("SELECT key FROM replies")}
    connection.close()
    return keys


async def ask_all(llm: JournaledLLM, seeds: Iterable[int]) -> list[Completion]:
    return await asyncio.gather(*(llm.generate(ask(seed)) for seed in seeds))


def fill(path: Path, count: int) -> None:
    with Journal(path) as journal:
        asyncio.run(ask_all(JournaledLLM(HashModel(), journal), range(count)))
