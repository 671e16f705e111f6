"""A real local HTTP server that speaks the OpenAI protocol and whose replies are a function of the request alone.

As a fixture: `with ScriptedServer() as server: ... server.url, server.log, server.misbehave(...)`.
As a program: `python tests/scripted_server.py --port 8123 --latency 0.05 --log requests.jsonl`; it may be killed and
started again, on any port: equal requests get equal replies. `GET /requests` tells how many calls it answered.

What it writes is made by `scripted_model`. Models whose name begins with `scripted` are known, others get a 404.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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

from scripted_model import Answer, reply_to


@dataclass(frozen=True)
class Fault:
    """What happens instead of a proper reply.

    Args:
        status: Answer with this status and an error body.
        headers: With these headers.
        message: With this text in the error body.
        code: With this code in the error body; default: the status.
        body: With exactly this body (status 200 when no other is given).
        reset: Send half of the reply, then reset the connection.
        trickle: Send the reply a byte at a time, with this many seconds between.
        choice: Send the reply with these fields of its choice replaced.
        index: Of the choice that is meant, where several are asked for.
        missing: Send the reply without these choices.
        backwards: Send the choices in the opposite order.
        usage: Send the reply with this usage.
        when: Only to requests for which this holds.
        lasting: Every such request meets it, until the server is told to `behave`; else only the next.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "scripted misbehaviour"
    code: str | None = None
    body: bytes | None = None
    reset: bool = False
    trickle: float = 0.0
    choice: dict[str, Any] | None = None
    index: int = 0
    missing: tuple[int, ...] = ()
    backwards: bool = False
    usage: Any = "counted"
    when: Callable[[dict[str, Any]], bool] = lambda _body: True
    lasting: bool = False


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
        answer: What the model says to a request, where not left to the hash: a function of the request.
    """

    def __init__(self, *, port: int = 0, latency: float = 0.0, api_key: str | None = None, chat_only: bool = False,
                 log_file: Path | None = None, answer: Answer | None = None) -> None:
        self.port = port
        self.latency = latency
        self.api_key = api_key
        self.chat_only = chat_only
        self.log_file = log_file
        self.answer = answer
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

    def behave(self) -> None:
        """From now on every request gets a proper reply."""
        self._faults.clear()

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
            await self._error(writer, fault.status, fault.message, fault.headers, fault.code)
            return True
        reply = reply_to(path, body, self.answer)
        if fault.choice is not None:
            reply["choices"][fault.index] |= fault.choice
        reply["choices"] = [choice for choice in reply["choices"] if choice["index"] not in fault.missing]
        reply["choices"] = reply["choices"][::-1 if fault.backwards else 1]
        if fault.usage != "counted":
            reply["usage"] = fault.usage
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
                if not fault.lasting:
                    self._faults.remove(fault)
                return fault
        return Fault()

    async def _error(self, writer: asyncio.StreamWriter, status: int, message: str,
                     headers: dict[str, str] | None = None, code: str | None = None) -> None:
        body = {"error": {"message": message, "type": "error", "code": code or status}}
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
