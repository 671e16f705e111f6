"""A real local HTTP server that speaks the OpenAI protocol and whose replies are a function of the request alone.

As a fixture: `with ScriptedServer() as server: ... server.url, server.log, server.misbehave(...)`.
As a program: `python tests/scripted_server.py --port 8123 --latency 0.05 --log requests.jsonl`; it may be killed and
started again, on any port: equal requests get equal replies. `GET /requests` tells how many calls it answered.

Its "language model" is a hash. Texts are sentences of varied words; a token is a word with the white space before it.
The next-token distribution is a hash of the text before, over a small list of words and grades, so that listed and
echoed log-probabilities agree. Models whose name begins with `scripted` are known, others get a 404.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import json
import math
import random
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

SENTENCES = 40
WORDS = [
    *"the a of and to in with under beyond between morning river letter garden silence engine harbour winter".split(),
    *"teacher lantern paper stone window mountain story answer question memory colour market bridge child".split(),
    *"doctor field forest machine music number ocean planet report road science season shadow ship signal".split(),
    *"song street summer table theory train valley village voice water wheel wind world year carries finds".split(),
    *"keeps leaves opens promises remembers returns shows slowly turns waits writes quietly often never always".split(),
    *"almost perhaps because although while before after again further seven twelve bright cold deep early".split(),
    *"empty gentle heavy late long narrow old quiet small strange warm wide".split(),
]
FIRST_WORDS = "1 2 3 4 5 6 7 8 9 Yes No A B The".split()
CANDIDATES = [*FIRST_WORDS, *(f" {word}" for word in FIRST_WORDS), "\n"]


def draw(*parts: object) -> random.Random:
    """A random generator that depends on the parts alone, in every process."""
    return random.Random(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest())


# The model -----------------------------------------------------------------------------------------------------------


def tokens_of(text: str) -> list[str]:
    """Words with the white space before them; joined they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)


@functools.lru_cache(maxsize=100_000)
def next_token_logprobs(before: str) -> dict[str, float]:
    """The listed candidates hold nine tenths of the probability."""
    rng = draw("next", before)
    weights = {token: math.exp(2 * rng.gauss(0, 1)) for token in CANDIDATES}
    total = sum(weights.values())
    return {token: math.log(0.9 * weight / total) for token, weight in weights.items()}


def token_logprob(before: str, token: str) -> float:
    if token in CANDIDATES:
        return next_token_logprobs(before)[token]
    return -3 - 5 * draw("token", before, token).random()


def write_text(before: str, rng: random.Random) -> str:
    """An answer, or its rest: up to 40 sentences in paragraphs, of varied length, some with repetitions."""
    dullness = rng.random() ** 3
    sentences = [_sentence(rng) for _ in range(rng.randint(4, SENTENCES))]
    text = " " if before and not before[-1].isspace() else ""
    for index, sentence in enumerate(sentences):
        if index:
            text += "\n\n" if rng.random() < 0.2 else " "
        text += sentences[0] if rng.random() < dullness else sentence
    return text


def _sentence(rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.randint(4, 14))]
    if len(words) > 8:
        words[5] += ","
    return " ".join(words).capitalize() + rng.choice("....!?")


def value_for(schema: dict[str, Any], rng: random.Random) -> Any:
    """A JSON value that matches a simple schema."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return value_for(schema["anyOf"][0], rng)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: value_for(sub, rng) for name, sub in schema.get("properties", {}).items()}
    if kind == "array":
        count = rng.randint(schema.get("minItems", 1), max(schema.get("minItems", 1), schema.get("maxItems", 3)))
        return [value_for(schema["items"], rng) for _ in range(count)]
    low, high = schema.get("minimum", 0), schema.get("maximum", schema.get("minimum", 0) + 1)
    if kind == "integer":
        return rng.randint(int(low), int(max(high, low + 1) if "maximum" not in schema else high))
    if kind == "number":
        return round(rng.uniform(low, high), 3)
    if kind == "boolean":
        return rng.random() < 0.5
    return _sentence(rng) if kind == "string" else None


# Replies -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What the model writes for one request."""

    before: str
    text: str
    finish: str
    tokens: list[str]

    def logprobs(self) -> list[float]:
        return echo_logprobs(self.before, self.tokens)


def echo_logprobs(before: str, tokens: list[str]) -> list[float]:
    values: list[float] = []
    for token in tokens:
        values.append(token_logprob(before[-200:], token))
        before += token
    return values


def write(body: dict[str, Any]) -> Written:
    """The text for a request: a function of model, prompt, schema, and (unless greedy) the seed."""
    asked = body.get("messages") or body["prompt"]
    seed = body.get("seed", 0) if body.get("temperature", 1) > 0 else 0
    rng = draw(body["model"], asked, seed, body.get("response_format"))
    before = _standing(body)
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema:
        text = json.dumps(value_for(schema, rng))
    elif body.get("max_tokens") == 1:
        listed = next_token_logprobs(_all_text(body)[-200:])
        text = max(listed, key=lambda token: listed[token])
    else:
        text = write_text(before, rng)
    finish, tokens = "stop", tokens_of(text)
    if len(tokens) > body.get("max_tokens", 16):
        finish, tokens = "length", tokens[: body.get("max_tokens", 16)]
    text = "".join(tokens)
    for stop in body.get("stop") or []:
        if stop in text:
            text, finish = text[: text.index(stop)], "stop"
    return Written(_all_text(body), text, finish, tokens_of(text))


def _standing(body: dict[str, Any]) -> str:
    """The part of the answer that stands already."""
    if "messages" not in body:
        return body["prompt"]
    return body["messages"][-1]["content"] if body.get("continue_final_message") else ""


def _all_text(body: dict[str, Any]) -> str:
    if "messages" not in body:
        return body["prompt"]
    turns = [f"{message['role']}: {message['content']}" for message in body["messages"]]
    return "\n".join(turns) if body.get("continue_final_message") else "\n".join([*turns, "assistant:"])


def reply_to(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The whole JSON reply."""
    written = write(body)
    chat = path == "/v1/chat/completions"
    choice: dict[str, Any] = {"index": 0, "finish_reason": written.finish}
    choice |= _chat_choice(written, body) if chat else _text_choice(written, body)
    asked = len(tokens_of(_all_text(body)))
    return {
        "id": "scripted", "created": 0, "model": body["model"], "choices": [choice],
        "object": "chat.completion" if chat else "text_completion",
        "usage": {"prompt_tokens": asked, "completion_tokens": len(written.tokens),
                  "total_tokens": asked + len(written.tokens)},
    }


def _top(before: str, count: int) -> dict[str, float]:
    if not count:
        return {}
    listed = next_token_logprobs(before[-200:])
    return dict(sorted(listed.items(), key=lambda item: -item[1])[:count])


def _chat_choice(written: Written, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": written.text}}
    if body.get("logprobs"):
        before, content = written.before, []
        for token, value in zip(written.tokens, written.logprobs(), strict=True):
            top = _top(before, body.get("top_logprobs") or 0)
            content.append({"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": [
                {"token": other, "logprob": logprob, "bytes": list(other.encode())} for other, logprob in top.items()
            ]})
            before += token
        choice["logprobs"] = {"content": content}
    return choice


def _text_choice(written: Written, body: dict[str, Any]) -> dict[str, Any]:
    echoed = tokens_of(body["prompt"]) if body.get("echo") else []
    choice: dict[str, Any] = {"text": (body["prompt"] if body.get("echo") else "") + written.text}
    if body.get("logprobs") is not None:
        values: list[float | None] = [*echo_logprobs("", echoed), *written.logprobs()]
        if echoed:
            values[0] = None
        before, offsets = "" if echoed else body["prompt"], list[int]()
        for token in [*echoed, *written.tokens]:
            offsets.append(len(before))
            before += token
        tops: list[dict[str, float] | None] = [None] * len(values)
        if written.tokens:
            tops[len(echoed)] = _top(written.before, body["logprobs"])
        choice["logprobs"] = {"tokens": [*echoed, *written.tokens], "token_logprobs": values, "text_offset": offsets,
                              "top_logprobs": tops}
    return choice


# Misbehaviour --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What happens instead of a proper reply.

    Args:
        status: Answer with this status and an error body.
        headers: With these headers.
        message: With this text in the error body.
        body: With exactly this body (status 200 when no other is given).
        reset: Send half of the reply, then reset the connection.
        trickle: Send the reply a byte at a time, with this many seconds between.
        choice: Send the reply with these fields of its choice replaced.
        when: Only to requests for which this holds.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "scripted misbehaviour"
    body: bytes | None = None
    reset: bool = False
    trickle: float = 0.0
    choice: dict[str, Any] | None = None
    when: Callable[[dict[str, Any]], bool] = lambda _body: True


def rate_limited(seconds: float | str) -> Fault:
    return Fault(status=429, headers={"Retry-After": str(seconds)}, message="too many requests")


def rate_limited_until(seconds_from_now: float) -> Fault:
    """As `rate_limited`, with an HTTP date."""
    return rate_limited(formatdate(time.time() + seconds_from_now, usegmt=True))


UNAVAILABLE = Fault(status=503, message="overloaded")
RESET = Fault(reset=True)
EMPTY = Fault(choice={"message": {"role": "assistant", "content": ""}, "text": ""})
NO_CONTENT = Fault(choice={"message": {"role": "assistant", "content": None}, "text": None})
FILTERED = Fault(choice={"message": {"role": "assistant", "content": None}, "finish_reason": "content_filter"})
REFUSAL = Fault(choice={"message": {"role": "assistant", "content": None, "refusal": "I cannot help with that."}})
NO_CHOICES = Fault(body=b'{"id": "x", "object": "chat.completion", "choices": []}')
NOT_JSON = Fault(body=b'{"id": "x", "choi')
HTML = Fault(body=b"<html>It works!</html>", headers={"Content-Type": "text/html"})


def content(text: str, finish: str = "stop") -> Fault:
    """A reply with this text."""
    message = {"role": "assistant", "content": text}
    return Fault(choice={"message": message, "text": text, "finish_reason": finish, "logprobs": None})


# The server ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Logged:
    """A request as it came in."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    time: float


class ScriptedServer:
    """The server, in a thread of its own.

    Args:
        port: 0 picks a free one.
        latency: Seconds before every reply.
        api_key: Requests without it get a 401.
        chat_only: There is no `/completions`.
        log_file: One JSON line for each request that was answered in full.
    """

    def __init__(self, *, port: int = 0, latency: float = 0.0, api_key: str | None = None, chat_only: bool = False,
                 log_file: Path | None = None) -> None:
        self.port = port
        self.latency = latency
        self.api_key = api_key
        self.chat_only = chat_only
        self.log_file = log_file
        self.log: list[Logged] = []
        self.answered = 0
        self.most_at_once = 0
        self._at_once = 0
        self._faults: deque[Fault] = deque()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> list[Logged]:
        """The requests that ask for text or scores."""
        return [entry for entry in self.log if entry.path != "/v1/models"]

    def misbehave(self, *faults: Fault, times: int = 1) -> None:
        """The next requests meet these faults, in this order."""
        self._faults.extend(fault for _ in range(times) for fault in faults)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def serve(self) -> None:
        """Serve in this thread until it is killed."""
        self._run()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._request(reader, writer):
                pass
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request of a connection; False when the connection is over."""
        line = (await reader.readline()).decode()
        if not line.strip():
            return False
        path = line.split()[1]
        headers: dict[str, str] = {}
        while (header := (await reader.readline()).decode().strip()):
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        body = json.loads(raw) if raw else {}
        if path == "/requests":
            await self._send(writer, 200, json.dumps({"answered": self.answered, "received": len(self.log)}).encode())
            return True
        self.log.append(Logged(path, body, headers, time.monotonic()))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._respond(writer, path, body, headers)
        finally:
            self._at_once -= 1

    async def _respond(self, writer: asyncio.StreamWriter, path: str, body: dict[str, Any],
                       headers: dict[str, str]) -> bool:
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.api_key and headers.get("authorization") != f"Bearer {self.api_key}":
            await self._error(writer, 401, f"Incorrect API key provided: {headers.get('authorization', '')[7:]}")
            return True
        if path == "/v1/models":
            models = [{"id": "scripted", "object": "model", "created": 0, "owned_by": "tests"}]
            await self._send(writer, 200, json.dumps({"object": "list", "data": models}).encode())
            return True
        offered = ["/v1/chat/completions"] if self.chat_only else ["/v1/chat/completions", "/v1/completions"]
        if path not in offered:
            await self._error(writer, 404, f"Not Found: {path}")
            return True
        if not str(body.get("model")).startswith("scripted"):
            await self._error(writer, 404, f"The model `{body.get('model')}` does not exist.")
            return True
        return await self._misbehave_or_answer(writer, path, body)

    async def _misbehave_or_answer(self, writer: asyncio.StreamWriter, path: str, body: dict[str, Any]) -> bool:
        fault = self._next_fault(body)
        if fault.status != 200:
            await self._error(writer, fault.status, fault.message, fault.headers)
            return True
        reply = reply_to(path, body)
        if fault.choice is not None:
            reply["choices"][0] |= fault.choice
        payload = json.dumps(reply).encode() if fault.body is None else fault.body
        if fault.reset:
            await self._reset(writer, payload)
            return False
        if fault.trickle:
            await self._trickle(writer, payload, fault.trickle)
            return True
        await self._send(writer, 200, payload, fault.headers)
        self.answered += 1
        if self.log_file:
            with self.log_file.open("a") as handle:
                handle.write(json.dumps({"path": path, "body": body}) + "\n")
        return True

    def _next_fault(self, body: dict[str, Any]) -> Fault:
        for fault in self._faults:
            if fault.when(body):
                self._faults.remove(fault)
                return fault
        return Fault()

    async def _error(self, writer: asyncio.StreamWriter, status: int, message: str,
                     headers: dict[str, str] | None = None) -> None:
        body = {"error": {"message": message, "type": "error", "code": status}}
        await self._send(writer, status, json.dumps(body).encode(), headers)

    async def _send(self, writer: asyncio.StreamWriter, status: int, payload: bytes,
                    headers: dict[str, str] | None = None) -> None:
        writer.write(self._head(status, len(payload), headers or {}) + payload)
        await writer.drain()

    @staticmethod
    def _head(status: int, length: int, headers: dict[str, str]) -> bytes:
        fields = {"Content-Type": "application/json", "Content-Length": str(length), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode()

    async def _reset(self, writer: asyncio.StreamWriter, payload: bytes) -> None:
        writer.write(self._head(200, len(payload), {}) + payload[: len(payload) // 2])
        await writer.drain()
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _trickle(self, writer: asyncio.StreamWriter, payload: bytes, pause: float) -> None:
        writer.write(self._head(200, len(payload), {}))
        for index in range(len(payload)):
            writer.write(payload[index : index + 1])
            await writer.drain()
            await asyncio.sleep(pause)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every reply")
    parser.add_argument("--log", type=Path, help="file to which every answered request is appended as a JSON line")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        ScriptedServer(port=given.port, latency=given.latency, log_file=given.log).serve()


if __name__ == "__main__":
    main()
