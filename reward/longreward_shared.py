"""Work that several answers share, done once for all of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass
class _Entry(Generic[R]):
    work: asyncio.Future[R]
    waiting: int = 0


class Shared(Generic[K, R]):
    """Results of work by key. Who asks while the work goes on waits for the same work.

    Work that failed, or that was given up because nobody waits for it any more, is forgotten: who asks next begins
    anew. One of several who give up disturbs nobody else.

    Args:
        kept: Finished results that are kept, those asked for last; work in progress is always kept.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._entries: OrderedDict[K, _Entry[R]] = OrderedDict()

    async def get(self, key: K, work: Callable[[], Awaitable[R]]) -> R:
        """The result of the work for a key.

        Args:
            key: Names it.
            work: Does it, if nobody has done so.

        Raises:
            Exception: What the work raises, to all who wait for it.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(asyncio.ensure_future(work()))
        self._entries.move_to_end(key)
        entry.waiting += 1
        try:
            return await asyncio.shield(entry.work)
        finally:
            entry.waiting -= 1
            self._tidy(key, entry)

    def _tidy(self, key: K, entry: _Entry[R]) -> None:
        work = entry.work
        abandoned = not work.done() and not entry.waiting
        if abandoned:
            work.cancel()
        if abandoned or work.cancelled() or (work.done() and work.exception() is not None):
            if self._entries.get(key) is entry:
                del self._entries[key]
            return
        unused = [key for key, one in self._entries.items() if one.work.done() and not one.waiting]
        for old in unused[:max(0, len(unused) - self._kept)]:
            del self._entries[old]
