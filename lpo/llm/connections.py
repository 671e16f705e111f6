"""Connections to one server, in small groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import openai

PER_CLIENT = 8
"""Calls in flight through one client. A client looks at all of its idle connections before every request: with 32 of
them that is a fifth of what a call costs, with hundreds most of it."""


@dataclass
class _Lane:
    """A client with its connections."""

    client: openai.AsyncOpenAI
    in_flight: int = 0


class Connections:
    """As many clients as calls in flight need, each with a few connections of its own.

    Args:
        open_client: Makes a client.
    """

    def __init__(self, open_client: Callable[[], openai.AsyncOpenAI]) -> None:
        self._open_client = open_client
        self._lanes: list[_Lane] = [_Lane(open_client())]

    async def post(self, path: str, body: Mapping[str, object]) -> bytes:
        """Send one request; the reply's body as it came.

        Raises:
            openai.OpenAIError: There is none.
        """
        lane = next((lane for lane in self._lanes if lane.in_flight < PER_CLIENT), None)
        if lane is None:
            lane = _Lane(self._open_client())
            self._lanes.append(lane)
        lane.in_flight += 1
        try:
            return await lane.client.post(path, body=body, cast_to=bytes)
        finally:
            lane.in_flight -= 1

    async def models(self) -> list[str]:
        """The models that the server says it knows."""
        return [str(entry.id) for entry in (await self._lanes[0].client.models.list()).data or []]

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(lane.client.close() for lane in self._lanes))
