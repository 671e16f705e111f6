"""A language model whose replies are a plain function of the request: input for tests of what stands above models."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lpo.llm.base import Completion, Context, Finish, Request, ScoreRequest, TokenLogprobs
from lpo.records import Usage

Reply = str | Completion | Exception


def completion(text: str, finish: Finish = Finish.STOP, logprobs: Sequence[float] | None = None) -> Completion:
    return Completion(text, finish, tuple(logprobs) if logprobs is not None else None, Usage(calls=1, tokens_out=3))


@dataclass
class FunctionLLM:
    """Replies by `write(request)` and scores by `grade(context, continuation)`; remembers what it was asked.

    `delay(request)` is in turns of the event loop: it changes the order of the replies and nothing else.
    """

    write: Callable[[Request], Reply] | None = None
    grade: Callable[[Context, str], float] | None = None
    delay: Callable[[Request], int] = lambda request: 0
    requests: list[Request] = field(default_factory=list)
    score_requests: list[ScoreRequest] = field(default_factory=list)

    @property
    def identity(self):
        return {"model": "function"}

    async def generate(self, request: Request) -> Completion:
        assert self.write is not None
        self.requests.append(request)
        for _ in range(self.delay(request)):
            await asyncio.sleep(0)
        reply = self.write(request)
        if isinstance(reply, Exception):
            raise reply
        return completion(reply) if isinstance(reply, str) else reply

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        assert self.grade is not None
        self.score_requests.append(request)
        values = tuple(
            tuple((self.grade(context, continuation),) for continuation in request.continuations)
            for context in request.contexts
        )
        return TokenLogprobs(values, Usage(calls=1))

    async def close(self) -> None:
        pass
