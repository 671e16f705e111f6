"""A local OpenAI-compatible server with a fixed latency and so many slots, for `build.py` and `longreward.py`.

    python benchmarks/build_server.py --latency 0.5 --slots 64     prints its port, serves until its input is closed

What it says is a function of the request: steps of a few sentences, grades, facts, critiques, statements and notes.
`GET /busy` gives how many slots were at work, and since when, for every change.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections import deque
from functools import partial
from typing import Any

WORDS = ("the", "river", "runs", "under", "narrow", "stone", "bridges", "where", "early", "ships", "carried", "letters",
         "home", "before", "winter", "closed", "every", "harbour", "along", "coast")


class Slots:
    """At most so many requests are answered at once; the others wait in line."""

    def __init__(self, slots: int, latency: float) -> None:
        self.slots, self.latency = slots, latency
        self.busy = 0
        self.served = 0
        self.changes: list[tuple[float, int]] = []
        self._waiting: deque[Any] = deque()

    def enter(self, answer: Any) -> None:
        """Answer after the latency, once a slot is free."""
        if self.busy >= self.slots:
            self._waiting.append(answer)
            return
        self._change(+1)
        asyncio.get_running_loop().call_later(self.latency, self._leave, answer)

    def _leave(self, answer: Any) -> None:
        self.served += 1
        self._change(-1)
        if self._waiting:
            self.enter(self._waiting.popleft())
        answer()

    def _change(self, by: int) -> None:
        self.busy += by
        self.changes.append((time.monotonic(), self.busy))


class Server(asyncio.Protocol):
    """Kept-alive HTTP connections."""

    slots: Slots

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
            head = bytes(self._received[:end])
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._received) < end + 4 + length:
                return
            body = bytes(self._received[end + 4:end + 4 + length])
            del self._received[:end + 4 + length]
            if b"/busy" in head.split(b"\r\n")[0]:
                self._write({"changes": self.slots.changes, "served": self.slots.served})
            else:
                self.slots.enter(partial(self._answer, json.loads(body)))

    def _answer(self, body: dict[str, Any]) -> None:
        self._write(reply_to(body))

    def _write(self, value: Any) -> None:
        payload = json.dumps(value).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                              % len(payload) + payload)


def reply_to(body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion that depends on the request alone."""
    digest = hashlib.sha256(json.dumps([body.get("messages"), body.get("seed")]).encode()).digest()
    choices = [_choice(body, random.Random(digest + bytes([index])), index) for index in range(body.get("n", 1))]
    usage = {"prompt_tokens": len(str(body.get("messages"))) // 5, "completion_tokens": 60 * len(choices)}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage}


def _choice(body: dict[str, Any], rng: random.Random, index: int) -> dict[str, Any]:
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("properties", {})
    choice: dict[str, Any] = {"index": index, "finish_reason": "stop" if schema else "length"}
    text = json.dumps(_json_reply(schema, rng)) if schema else "".join(f" {_sentence(rng)}" for _ in range(6))
    choice["message"] = {"role": "assistant", "content": text}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": word, "logprob": -3 * rng.random(), "bytes": None,
                                           "top_logprobs": []} for word in text.split()]}
    return choice


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(9)).capitalize() + "."


def _json_reply(schema: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    if "accuracy" in schema:
        grades = {name: [rng.randint(0, 4) + (k == 2) for k in range(5)] for name in schema if name != "analysis"}
        return {"analysis": "As good as any.", **grades}
    if "facts" in schema:
        return {"facts": [_sentence(rng) for _ in range(4)]}
    if "contradictions" in schema:
        return {"analysis": "Nothing contradicts.", "contradictions": []}
    if "statements" in schema:
        return {"statements": [_sentence(rng) for _ in range(rng.randint(4, 12))]}
    if "notes" in schema:
        return {"notes": [_sentence(rng) for _ in range(3)]}
    if "support" in schema:
        return {"analysis": "As it stands there.", "support": rng.choice(["full", "partial", "none"])}
    if "grade" in schema:
        return {"analysis": "As good as any.", "grade": rng.randint(0, 20) / 2}
    return {"analysis": "Flat.", "relevant": "the river", "suggestion": "Name the place and the year.", "confidence": 4}


async def serve(slots: int, latency: float) -> None:
    """Serve on a free port, whose number is printed, until standard input is closed."""
    Server.slots = Slots(slots, latency)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds before every reply")
    parser.add_argument("--slots", type=int, default=64, help="requests answered at once")
    given = parser.parse_args()
    asyncio.run(serve(given.slots, given.latency))
