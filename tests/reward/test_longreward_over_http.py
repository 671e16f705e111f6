"""LongReward against a real server that misbehaves."""

import asyncio
import json
from dataclasses import replace

import pytest
from longreward_cases import ANSWER, DOCUMENT, QUERY, SUPPORT, dumped, sentences
from scripted_model import schema_of
from scripted_roles import last_turn, quoted
from scripted_server import (
    EMPTY,
    FILTERED,
    NO_CONTENT,
    NOT_JSON,
    REFUSAL,
    RESET,
    UNAVAILABLE,
    Fault,
    ScriptedServer,
    content,
    rate_limited,
)

from lpo.config import ModelConfig
from lpo.errors import BackendError
from lpo.llm.create import create_llm
from lpo.reward import LongReward
from lpo.reward_config import LongRewardConfig

OPENINGS = {"You grade how helpful": "helpfulness", "You grade how sound": "logicality",
            "You grade how complete": "completeness"}
CONFIG = LongRewardConfig(passage_words=20, passages=2, note_words=400)
WHOLE = (8 + 6 + 3.75 + 5) / 40
"""As worked out by hand in test_longreward.py."""

CUT = content('{"analysis": "It is', "length")
NONSENSE = content("As an assistant I would say 8/10.")


def purpose_of(body) -> str:
    key = list(schema_of(body)["properties"])[-1]
    return next((name for opening, name in OPENINGS.items() if last_turn(body).startswith(opening)), key)


def answer(body, choice) -> str:
    purpose, texts = purpose_of(body), quoted(last_turn(body))
    if purpose == "statements":
        return dumped(statements=sentences(texts[-1]))
    if purpose == "notes":
        return dumped(notes=["Captain Amara took command of the ferry."])
    if purpose == "support":
        return dumped(analysis="Read.", support=SUPPORT[texts[-1]])
    return dumped(analysis="Read.", grade={"helpfulness": 8, "logicality": 6, "completeness": 5}[purpose])


def score(*faults: Fault, latency: float = 0):
    """The judgement, and the server that was asked."""
    async def work(url):
        llm = create_llm(ModelConfig(backend="openai", model="scripted", base_url=url, deadline=20))
        try:
            return await LongReward(llm, config=CONFIG).score(QUERY, ANSWER, DOCUMENT)
        finally:
            await llm.close()

    with ScriptedServer(answer=answer, latency=latency) as server:
        server.misbehave(*faults)
        return asyncio.run(work(server.url)), server


def tries(server, purpose):
    return [call.body for call in server.calls if purpose_of(call.body) == purpose]


def test_a_whole_score_over_http():
    judgement, server = score(latency=0.2)
    assert judgement.overall == WHOLE
    assert len(server.calls) == 4 + 4 + 2
    assert server.most_at_once > 3
    body = tries(server, "helpfulness")[0]
    assert (body["temperature"], body["max_tokens"]) == (0.01, 1024)
    assert tries(server, "notes")[0]["max_tokens"] == 2048


@pytest.mark.parametrize("purpose", ["support", "notes"])
@pytest.mark.parametrize("fault", [
    rate_limited(0), UNAVAILABLE, RESET, NOT_JSON, CUT, REFUSAL, FILTERED, EMPTY, NO_CONTENT, NONSENSE,
], ids=["429", "503", "reset", "not json", "cut", "refusal", "filtered", "empty", "no content", "nonsense"])
def test_a_fault_costs_one_more_call_and_changes_nothing(purpose, fault):
    judgement, server = score(replace(fault, when=lambda body: purpose_of(body) == purpose))
    assert judgement.overall == WHOLE
    usual = {"support": 4, "notes": 2}[purpose]
    assert len(tries(server, purpose)) == usual + 1
    assert len(server.calls) == 4 + 4 + 2 + 1


@pytest.mark.parametrize(("fault", "reason"), [
    (CUT, "cut"), (REFUSAL, "refused"), (FILTERED, "refused"), (EMPTY, "empty"), (NONSENSE, "unparsable"),
    (content(json.dumps({"analysis": "x", "grade": "8/10"})), "unparsable"),
    (content(json.dumps({"analysis": "x", "grade": 11})), "unparsable"),
    (Fault(status=400, message="context length exceeded"), "request_rejected"),
], ids=["cut", "refusal", "filtered", "empty", "nonsense", "text", "eleven", "rejected"])
def test_a_lasting_fault_leaves_the_answer_unscored(fault, reason):
    lasting = replace(fault, lasting=True, when=lambda body: purpose_of(body) == "completeness")
    judgement, server = score(lasting)
    assert (judgement.unscored, judgement.overall) == (reason, None)
    assert judgement.parts["completeness"]["failed"]["reason"] == reason
    asked = tries(server, "completeness")
    assert len(asked) == {"cut": 6, "request_rejected": 1}.get(reason, 3)
    assert asked[0]["temperature"] == 0.01
    assert all(body["temperature"] == 0.95 for body in asked[2:])
    assert len({body["seed"] for body in asked}) == {"request_rejected": 1}.get(reason, 3)


def test_a_missing_key_is_an_error_and_not_a_score():
    with pytest.raises(BackendError):
        score(Fault(status=401, message="Incorrect API key provided", lasting=True))
