import asyncio
import math

import pytest
from longreward_cases import ANSWER, DOCUMENT, QUERY, Judge, calls

from lpo.reward import LongReward
from lpo.reward_config import LongRewardConfig

SMALL = LongRewardConfig(passage_words=20, passages=2, note_words=100)
NONSENSE = "I would say 8/10."


def test_notes_are_taken_once_for_ten_answers_at_once_and_for_those_that_come_later():
    async def both():
        longreward = LongReward(llm, config=SMALL)
        first = await asyncio.gather(*(longreward.score(QUERY, ANSWER + " " * number, DOCUMENT)
                                       for number in range(10)))
        return [*first, await longreward.score(QUERY, ANSWER, DOCUMENT)]

    llm = Judge(delay=lambda request: 5).model()
    judgements = asyncio.run(both())
    chunks = math.ceil(len(DOCUMENT.split()) / 100)
    assert calls(llm.requests)["notes"] == chunks > 1
    assert len(llm.requests) == 11 * (4 + 4) + chunks
    assert all(one.parts["completeness"]["notes"] == judgements[0].parts["completeness"]["notes"]
               for one in judgements)


def test_another_request_or_document_has_notes_of_its_own():
    async def three():
        longreward = LongReward(llm, config=SMALL)
        for query, document in [(QUERY, DOCUMENT), ("Who left?", DOCUMENT), (QUERY, "Captain Amara sang.")]:
            await longreward.score(query, ANSWER, document)

    llm = Judge().model()
    asyncio.run(three())
    chunks = math.ceil(len(DOCUMENT.split()) / 100)
    assert calls(llm.requests)["notes"] == 2 * chunks + 1


def test_notes_that_could_not_be_taken_are_asked_for_anew():
    async def twice():
        longreward = LongReward(llm, config=SMALL.model_copy(update={"note_words": 5000}))
        return [await longreward.score(QUERY, ANSWER, DOCUMENT) for _ in range(2)]

    llm = Judge(replies={"notes": [NONSENSE] * 3}).model()
    first, second = asyncio.run(twice())
    assert first.unscored == "unparsable"
    assert second.overall == (8 + 6 + 3.75 + 5) / 40


def test_giving_up_one_answer_leaves_the_notes_of_the_others():
    async def one_gives_up():
        longreward = LongReward(llm, config=SMALL)
        given_up = asyncio.create_task(longreward.score(QUERY, "Nobody wore a hat.", DOCUMENT))
        stays = asyncio.create_task(longreward.score(QUERY, ANSWER, DOCUMENT))
        while not calls(llm.requests)["notes"]:
            await asyncio.sleep(0)
        given_up.cancel()
        judgement = await stays
        assert given_up.cancelled()
        return judgement

    llm = Judge(delay=lambda request: 50).model()
    assert asyncio.run(one_gives_up()).overall == (8 + 6 + 3.75 + 5) / 40
    assert calls(llm.requests)["notes"] == math.ceil(len(DOCUMENT.split()) / 100)


def test_when_all_give_up_the_notes_are_given_up_too_and_taken_anew_by_who_asks_next():
    async def all_give_up():
        longreward = LongReward(llm, config=SMALL)
        asked = asyncio.create_task(longreward.score(QUERY, ANSWER, DOCUMENT))
        while not calls(llm.requests)["notes"]:
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "nothing goes on for nobody"
        return await longreward.score(QUERY, ANSWER, DOCUMENT)

    llm = Judge(delay=lambda request: 50).model()
    assert asyncio.run(all_give_up()).overall == (8 + 6 + 3.75 + 5) / 40


def test_an_instance_serves_one_event_loop_after_another():
    llm = Judge().model()
    longreward = LongReward(llm, config=SMALL)
    found = [asyncio.run(longreward.score(QUERY, ANSWER, DOCUMENT)) for _ in range(2)]
    assert found[0] == found[1]
    assert calls(llm.requests)["notes"] == math.ceil(len(DOCUMENT.split()) / 100)
