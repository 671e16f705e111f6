"""CPU time of our own process for each model call, client and journal included, against a server in another process.

    python benchmarks/calls.py
    python benchmarks/calls.py --calls 500 --resume 0 --profile calls.prof

Prompts are of about 2,000 tokens, replies of 256 tokens with log-probabilities, as vLLM writes them. The process is
measured by its own CPU clock, so other processes count little; what the kernel does for its `fsync` counts.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import openai

from lpo.config import ModelConfig, Prices
from lpo.llm.base import Completion, Context, Finish, Request, Sampling
from lpo.llm.journal import Journal, JournaledLLM
from lpo.llm.openai import OpenAILLM
from lpo.records import Message, Usage

PROMPT_TOKENS = 2000
REPLY_TOKENS = 256
WORDS = ("the", "river", "runs", "under", "narrow", "stone", "bridges", "where", "early", "ships", "carried", "letters")
TARGET_MS = 3.0
TARGET_RESUME = 5.0


# The server ----------------------------------------------------------------------------------------------------------


def make_choices(chat: bool, variants: int = 64) -> list[str]:
    """Choices as JSON without their index: texts of 256 tokens with log-probabilities."""
    made: list[str] = []
    for seed in range(variants):
        rng = random.Random(seed)
        tokens = [f" {rng.choice(WORDS)}" for _ in range(REPLY_TOKENS)]
        values = [-5 * rng.random() for _ in tokens]
        text = "".join(tokens)
        if chat:
            content = [{"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}
                       for token, value in zip(tokens, values, strict=True)]
            form = {"message": {"role": "assistant", "content": text}, "logprobs": {"content": content}}
        else:
            form = {"text": text, "logprobs": {"tokens": tokens, "token_logprobs": values, "top_logprobs": None,
                                               "text_offset": list(range(len(tokens)))}}
        made.append(json.dumps({"finish_reason": "stop", **form})[1:])
    return made


class Server(asyncio.Protocol):
    """Answers every POST of a kept-alive connection with ready-made choices."""

    choices: ClassVar = {True: make_choices(True), False: make_choices(False)}
    served = 0
    latency = 0.0

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer when a request is whole."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._received) < end + 4 + length:
                return
            body = bytes(self._received[end + 4:end + 4 + length])
            del self._received[:end + 4 + length]
            reply = self._reply(b"/chat/" in head, json.loads(body).get("n", 1))
            asyncio.get_running_loop().call_later(self.latency, self._transport.write, reply)

    @classmethod
    def _reply(cls, chat: bool, count: int) -> bytes:
        made = cls.choices[chat]
        choices = ",".join(f'{{"index": {index}, {made[(cls.served + index) % len(made)]}' for index in range(count))
        cls.served += count
        usage = json.dumps({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": count * REPLY_TOKENS})
        payload = f'{{"id": "x", "object": "x", "model": "m", "choices": [{choices}], "usage": {usage}}}'.encode()
        return (f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
                .encode() + payload)


async def serve() -> None:
    """Serve on a free port, whose number is printed, until standard input is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


# The client ----------------------------------------------------------------------------------------------------------


def make_requests(calls: int, siblings: int, chat: bool) -> list[Request]:
    """As many requests as texts are wanted, in groups of siblings; each group has a prompt of its own."""
    rng = random.Random(0)
    words = [rng.choice(WORDS) for _ in range(PROMPT_TOKENS)]
    requests: list[Request] = []
    for group in range(calls // siblings):
        text = f"Task {group}. " + " ".join(words)
        context = Context((Message(role="user", content=text),) if chat else text)
        requests += [Request(context, Sampling(max_tokens=REPLY_TOKENS), seed=group * siblings + index, index=index,
                             siblings=siblings) for index in range(siblings)]
    return requests


async def ask_all(requests: Sequence[Request], ask: Callable[[Request], Awaitable[Any]], at_once: int) -> None:
    """Ask everything, a limited number of groups at once."""
    waiting = iter(range(0, len(requests), requests[0].siblings))

    async def worker() -> None:
        for start in waiting:
            await asyncio.gather(*(ask(request) for request in requests[start:start + requests[0].siblings]))

    await asyncio.gather(*(worker() for _ in range(max(1, at_once // requests[0].siblings))))


def cpu_ms(work: Callable[[], Awaitable[Any]], calls: int, profile: Path | None = None) -> float:
    """Milliseconds of this process's CPU time for each call."""

    async def measured() -> float:
        profiler = cProfile.Profile()
        started = time.process_time()
        if profile:
            profiler.enable()
        await work()
        spent = time.process_time() - started
        if profile:
            profiler.disable()
            profiler.dump_stats(profile)
        return spent

    return 1000 * asyncio.run(measured()) / calls


class Bench:
    """One table's measurements.

    Args:
        url: Of the server.
        folder: For journals.
        calls: Texts in each measurement.
        at_once: Requests in flight.
    """

    def __init__(self, url: str, folder: Path, calls: int, at_once: int) -> None:
        self._url, self._folder, self._calls, self._at_once = url, folder, calls, at_once

    def ours(self, journal: Path, *, siblings: int = 1, chat: bool = True, profile: Path | None = None,
             calls: int | None = None) -> float:
        """Through our client and the journal; hits where the journal holds them."""
        requests = make_requests(calls or self._calls, siblings, chat)

        async def work() -> None:
            config = ModelConfig(backend="openai", base_url=self._url, model="m", prices=Prices(input=1, output=2))
            with Journal(journal) as opened:
                llm = JournaledLLM(OpenAILLM(config), opened)
                await ask_all(requests, llm.generate, self._at_once)
                await llm.close()

        return cpu_ms(work, len(requests), profile)

    def client_alone(self, *, typed: bool) -> float:
        """The client library without anything of ours; with its typed reply objects or without."""
        requests = make_requests(self._calls, 1, True)

        async def work() -> None:
            client = openai.AsyncOpenAI(base_url=self._url, api_key="none", max_retries=0)

            async def ask(request: Request) -> object:
                prompt = request.context.prompt[0]
                body = {"model": "m", "messages": [{"role": "user", "content": prompt.content}], "seed": request.seed,
                        "max_tokens": REPLY_TOKENS, "logprobs": True}
                if typed:
                    return await client.chat.completions.create(**body)
                return await client.post("/chat/completions", body=body, cast_to=bytes)

            await ask_all(requests, ask, self._at_once)
            await client.close()

        return cpu_ms(work, len(requests))

    def resume(self, calls: int) -> tuple[float, float]:
        """CPU and wall seconds to open a journal, check it, and answer every call from it."""
        path = self._folder / "resume.sqlite"
        requests = make_requests(calls, 1, True)
        choice = json.loads("{" + Server.choices[True][0])
        values = tuple(token["logprob"] for token in choice["logprobs"]["content"])
        llm = _Ready(choice["message"]["content"], values)

        async def ask() -> None:
            with Journal(path) as journal:
                await ask_all(requests, JournaledLLM(llm, journal).generate, 256)

        asyncio.run(ask())
        assert llm.calls == calls
        cpu, wall = time.process_time(), time.perf_counter()
        asyncio.run(ask())
        assert llm.calls == calls, "every call is answered from the journal"
        return time.process_time() - cpu, time.perf_counter() - wall


class _Ready:
    """A model whose reply is ready."""

    identity: ClassVar[dict[str, Any]] = {"backend": "ready", "model": "m"}

    def __init__(self, text: str, values: tuple[float, ...]) -> None:
        self._reply = Completion(text, Finish.STOP, values, Usage(calls=1, tokens_in=PROMPT_TOKENS,
                                                                  tokens_out=REPLY_TOKENS, cost=0.1))
        self.calls = 0

    async def generate(self, request: Request) -> Completion:
        self.calls += 1
        await asyncio.sleep(0)
        return self._reply

    async def logprobs(self, request: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def measure(url: str, folder: Path, given: argparse.Namespace) -> None:
    """Measure in rounds, everything in turn, and print the medians with the least and the most."""
    bench = Bench(url, folder, given.calls, given.at_once)
    bench.ours(folder / "warm.sqlite", calls=min(200, given.calls))
    kinds: dict[str, tuple[Callable[[int], float], float | None]] = {
        "new call, chat": (lambda turn: bench.ours(folder / f"chat-{turn}.sqlite"), TARGET_MS),
        "new call, plain text": (lambda turn: bench.ours(folder / f"text-{turn}.sqlite", chat=False), TARGET_MS),
        "new text, eight siblings in one call": (
            lambda turn: bench.ours(folder / f"siblings-{turn}.sqlite", siblings=8), TARGET_MS),
        "journal hit": (lambda turn: bench.ours(folder / f"chat-{turn}.sqlite"), TARGET_MS),
        "the client library alone, reply as bytes": (lambda _turn: bench.client_alone(typed=False), None),
        "the client library alone, typed reply": (lambda _turn: bench.client_alone(typed=True), None),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(given.rounds):
        for name, (run, _) in kinds.items():
            found[name].append(run(turn))
    print(f"{given.calls} texts in each of {given.rounds} rounds, {given.at_once} at once, a server that takes "
          f"{given.latency:g} s\n\n"
          "| CPU ms a text | median | least | most | target |\n|---|---|---|---|---|")
    for name, (_, target) in kinds.items():
        values = found[name]
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} | "
              f"{f'<= {target:g}' if target else ''} |")
    if given.resume:
        cpu, wall = bench.resume(given.resume)
        print(f"\nresume of {given.resume:,} calls (open, check every reply, answer all): {cpu:.2f} s CPU, "
              f"{wall:.2f} s; target <= {TARGET_RESUME:g} s")
    if given.profile:
        bench.ours(folder / "profiled.sqlite", profile=given.profile)


def main() -> None:
    """Read the arguments, start the server, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds the server takes for a call")
    parser.add_argument("--resume", type=int, default=10_000, help="calls in the journal that is resumed; 0: none")
    parser.add_argument("--profile", type=Path, help="write a cProfile of new calls to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        Server.latency = given.latency
        asyncio.run(serve())
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve", "--latency", str(given.latency)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdin and server.stdout
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        with tempfile.TemporaryDirectory() as folder:
            measure(url, Path(folder), given)
    finally:
        server.stdin.close()
        server.wait(10)


if __name__ == "__main__":
    main()
