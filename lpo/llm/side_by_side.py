"""Work on many things at once, a limited number at a time, without losing what is in flight when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from lpo.errors import StoppedError

T = TypeVar("T")
R = TypeVar("R")


async def side_by_side(
    items: Iterable[T], work: Callable[[T], Awaitable[R]], *, at_once: int, stop: asyncio.Event | None = None
) -> list[R]:
    """Do work on every item, at most `at_once` items at a time; there are never more tasks than that.

    After the first failure no item is begun any more, and `stop` is set, so that models refuse new calls; work that
    has begun is waited for: its calls in flight are paid for and will be stored.

    Args:
        items: What to work on; taken one by one, in order.
        work: What to do with one of them.
        at_once: Items worked on at the same time.
        stop: Set here at the first failure, or by others: then nothing new is begun. By default nobody else's.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: The first failure. A `StoppedError` gives way to any other, whose consequence it may be.
        StoppedError: Somebody set `stop` before every item was begun.
    """
    stop = stop or asyncio.Event()
    waiting = enumerate(items)
    results: dict[int, R] = {}
    failures: list[Exception] = []

    async def worker() -> None:
        for index, item in waiting:
            try:
                if stop.is_set():
                    raise stopped_error()
                results[index] = await work(item)
            except Exception as error:
                stop.set()
                failures.append(error)
                return
            except BaseException:  # a cancellation, or Ctrl-C
                stop.set()
                raise

    await asyncio.gather(*(worker() for _ in range(at_once)))
    if failures:
        raise next((failure for failure in failures if not isinstance(failure, StoppedError)), failures[0])
    return [results[index] for index in range(len(results))]


def stopped_error() -> StoppedError:
    """What is raised instead of beginning anything new, once somebody asked to stop."""
    return StoppedError("stopped on request", mend="run the same command again to continue: finished model calls are "
                        "stored and will not be made again")
