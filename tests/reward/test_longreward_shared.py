import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.retrieval import BM25Retriever
from lpo.reward.longreward_document import Passages, pieces
from lpo.reward.longreward_shared import Shared

TEXTS = st.text(alphabet=st.sampled_from(list("ab 1\n.,“”她说家カé\U00020000")) | st.characters(), max_size=200)


@given(TEXTS, st.integers(1, 20))
def test_pieces_know_where_they_stand(document, words):
    found = pieces(document, words)
    assert all(document[piece.start:piece.end] == piece.text and piece.text for piece in found)
    assert all(one.end == other.start for one, other in pairwise(found))
    assert "".join(piece.text for piece in found) == document
    assert all(piece.span == [piece.start, piece.end] for piece in found)


@given(st.lists(st.sampled_from(["cat", "dog", "owl", "ant", "她", "家"]), min_size=1, max_size=60),
       st.lists(st.sampled_from(["The cat.", "An owl, a dog.", "她", ""]), max_size=3), st.integers(1, 4))
def test_evidence_is_what_the_retriever_ranks_first_in_the_order_of_the_document(words, statements, most):
    document = " ".join(words)
    found = Passages(document, 5, BM25Retriever(most)).about(statements)
    texts = [piece.text for piece in pieces(document, 5)]
    assert len(found) == len(statements)
    for statement, evidence in zip(statements, found, strict=True):
        assert [piece.start for piece in evidence] == sorted(piece.start for piece in evidence)
        ranked = BM25Retriever(most).relevant(texts, statement)
        assert {piece.text for piece in evidence} == {texts[place] for place in ranked}
        assert len(evidence) == min(most, len(texts))


class Work:
    """Counts how often it is begun; goes on when told to."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.begun = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()

    async def __call__(self):
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def started(shared, work, count, key="k"):
    return [asyncio.create_task(shared.get(key, work)) for _ in range(count)]


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


def test_work_is_done_once_for_all_who_ask():
    async def run():
        shared, work = Shared(3), Work("done")
        tasks = started(shared, work, 4)
        await turns()
        work.go_on.set()
        assert await asyncio.gather(*tasks) == ["done"] * 4
        assert await shared.get("k", work) == "done"
        assert work.begun == 1

    asyncio.run(run())


def test_a_failure_reaches_all_who_wait_and_is_forgotten():
    async def run():
        shared, work = Shared(3), Work(ValueError("bad"), "done")
        tasks = started(shared, work, 3)
        work.go_on.set()
        assert [str(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == ["bad"] * 3
        assert await shared.get("k", work) == "done"
        assert work.begun == 2

    asyncio.run(run())


@pytest.mark.parametrize("given_up", [1, 2, 3])
def test_work_is_given_up_when_the_last_who_waits_gives_up(given_up):
    async def run():
        shared, work = Shared(3), Work("done")
        tasks = started(shared, work, 3)
        await turns()
        for task in tasks[:given_up]:
            task.cancel()
        await turns()
        assert work.cancelled == (given_up == 3)
        work.go_on.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in done] == [place < given_up for place in range(3)]
        assert await shared.get("k", work) == "done"
        assert work.begun == (2 if given_up == 3 else 1)

    asyncio.run(run())


def test_who_asks_while_abandoned_work_ends_begins_anew():
    async def run():
        shared, work = Shared(3), Work("done")
        [first] = started(shared, work, 1)
        await turns()
        first.cancel()
        work.go_on.set()
        assert await shared.get("k", work) == "done"
        assert (work.begun, work.cancelled) == (2, 1) or work.begun == 1

    asyncio.run(run())


def test_the_results_asked_for_last_are_kept_and_work_in_progress_always():
    async def run():
        shared, slow = Shared(2), Work("slow")
        [waiting] = started(shared, slow, 1, "slow")
        done = Work(*"abca")
        done.go_on.set()
        for key in ("a", "b", "a", "c"):  # b was asked for longest ago
            await shared.get(key, done)
        assert done.begun == 3
        slow.go_on.set()
        assert await waiting == "slow"
        assert await shared.get("c", done) == "c" and done.begun == 3
        assert await shared.get("b", done) == "a" and done.begun == 4

    asyncio.run(run())
