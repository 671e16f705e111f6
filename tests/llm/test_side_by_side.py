"""Work on many things at once: bounded, in order, and nothing that is in flight is lost when something fails."""

import asyncio
import gc

import pytest

from lpo.errors import BackendError, BudgetSpentError, StoppedError
from lpo.llm.side_by_side import side_by_side


def run(work, *, items=20, at_once=4, stop=None):
    async def body():
        return await side_by_side(range(items), work, at_once=at_once, stop=stop or asyncio.Event())

    return asyncio.run(body())


def test_results_are_in_the_order_of_the_items_whatever_the_order_they_finish_in():
    async def work(item):
        for _ in range((item * 7) % 11):
            await asyncio.sleep(0)
        return item * item

    assert run(work) == [item * item for item in range(20)]
    assert run(work, items=0) == []


def test_there_are_never_more_tasks_than_allowed_and_items_are_taken_one_by_one():
    taken = finished = most = 0

    def items():
        nonlocal taken
        for item in range(500):
            taken += 1
            yield item

    async def work(item):
        nonlocal finished, most
        most = max(most, taken - finished)
        tasks = len(asyncio.all_tasks())
        assert tasks <= 8 + 1, "one for each worker and the test itself"
        await asyncio.sleep(0)
        finished += 1

    async def body():
        await side_by_side(items(), work, at_once=8, stop=asyncio.Event())

    gc.collect()  # a client of openai that another test left behind makes a task in whatever loop runs when it goes
    asyncio.run(body())
    assert finished == 500 and most == 8


def test_after_a_failure_nothing_is_begun_and_what_was_begun_finishes():
    begun, finished = [], []

    async def work(item):
        begun.append(item)
        if item == 5:
            raise BackendError("broken")
        for _ in range(10):
            await asyncio.sleep(0)
        finished.append(item)

    with pytest.raises(BackendError, match="broken"):
        run(work, at_once=4)
    assert 5 in begun and len(begun) < 12
    assert sorted([*finished, 5]) == sorted(begun), "nothing that was begun is thrown away"


def test_the_failure_is_told_not_the_refusals_that_follow_from_it():
    stop = asyncio.Event()

    async def work(item):
        await asyncio.sleep(0)
        if stop.is_set():
            raise StoppedError("refused a call")
        if item == 3:
            raise BudgetSpentError("spent")

    with pytest.raises(BudgetSpentError):
        run(work, at_once=20, stop=stop)
    assert stop.is_set()


def test_stopped_by_somebody_else_it_begins_nothing_new_and_says_so():
    stop, begun = asyncio.Event(), []

    async def work(item):
        begun.append(item)
        await asyncio.sleep(0)
        if item == 4:
            stop.set()

    with pytest.raises(StoppedError, match="stopped on request"):
        run(work, at_once=2, stop=stop)
    assert begun[-1] <= 5


def test_stopped_after_everything_was_begun_it_still_finishes():
    stop = asyncio.Event()

    async def work(item):
        await asyncio.sleep(0)
        stop.set()
        return item

    assert run(work, items=3, at_once=3, stop=stop) == [0, 1, 2]


def test_a_cancellation_reaches_the_work():
    cancelled = []

    async def work(item):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    async def body():
        stop = asyncio.Event()
        task = asyncio.ensure_future(side_by_side(range(9), work, at_once=3, stop=stop))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return stop.is_set()

    assert asyncio.run(body())
    assert sorted(cancelled) == [0, 1, 2]
