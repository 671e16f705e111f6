"""vLLM's engine in this process, against the transformers back end on the same weights, both in float32."""

import asyncio
import json

import numba  # noqa: F401  vLLM for CPU cannot look through what it loads; the memory of facts loads it
import pytest

from lpo.config import ModelConfig
from lpo.errors import BackendError, RequestRejectedError
from lpo.llm.base import Context, Finish, Request, Sampling, ScoreRequest
from lpo.llm.create import create_llm
from lpo.records import Message

STORY = ("The lighthouse stood at the end of the stone pier, and every evening the keeper climbed its stairs. "
         "She wrote long letters to a brother who never answered. Rain fell on the harbour; gulls argued. ") * 4
ASK = (Message(role="user", content="Write about the sea."),)
GREEDY = Sampling(max_tokens=24, temperature=0)
TOLERANCE = 3e-4
"""Nats. Measured on one CPU: 6e-5 at most."""
SCHEMA = {"type": "object", "properties": {"grade": {"type": "integer"}, "word": {"enum": ["yes", "no"]}},
          "required": ["grade", "word"], "additionalProperties": False}
REQUESTS = [
    Request(Context(STORY), GREEDY, seed=1),
    Request(Context(ASK), GREEDY, seed=1),
    Request(Context(ASK, "The sea is"), GREEDY, seed=1),
    Request(Context(STORY), Sampling(max_tokens=24, temperature=0, repetition_penalty=1.3), seed=1),
    Request(Context("One, two, three,"), Sampling(max_tokens=40, temperature=0, stop=(" seven",)), seed=1),
]
SCORES = [
    ScoreRequest(tuple(Context(STORY + question) for question in ("Is it clear? Grade (1-5):", "Is it long? Grade:")),
                 tuple(f" {grade}" for grade in range(1, 6))),
    ScoreRequest((Context(ASK, "The sea is"),), (" very far from here, and nobody who came back spoke of it.",)),
    ScoreRequest((Context("A"),), ("", "B")),
]


def ask(llm, calls):
    async def gather():
        return await asyncio.gather(*(llm.generate(call) if isinstance(call, Request) else llm.logprobs(call)
                                      for call in calls), return_exceptions=True)
    return asyncio.run(gather())


@pytest.fixture(scope="module")
def engine():
    llm = create_llm(ModelConfig(backend="vllm", chat_template="plain", dtype="float32", max_model_len=2048,
                                 max_num_seqs=16, kv_cache_gb=0.25))
    yield llm
    asyncio.run(llm.close())
    with pytest.raises(BackendError, match="closed"):
        asyncio.run(llm.generate(REQUESTS[0]))


@pytest.fixture(scope="module")
def reference():
    return create_llm(ModelConfig(chat_template="plain", dtype="float32"))


def test_the_same_prompts_give_the_same_texts_and_log_probs_as_transformers(engine, reference):
    for request, ours, theirs in zip(REQUESTS, ask(engine, REQUESTS), ask(reference, REQUESTS), strict=True):
        assert (ours.text, ours.finish) == (theirs.text, theirs.finish), request
        assert (ours.usage.tokens_in, ours.usage.tokens_out) == (theirs.usage.tokens_in, theirs.usage.tokens_out)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=TOLERANCE)
    assert ask(engine, REQUESTS[4:])[0].text.endswith(" six,"), "cut before the stop string"


def test_scores_are_those_of_transformers(engine, reference):
    for ours, theirs in zip(ask(engine, SCORES), ask(reference, SCORES), strict=True):
        assert len(ours.values) == len(theirs.values)
        for row, expected in zip(ours.values, theirs.values, strict=True):
            assert [len(values) for values in row] == [len(values) for values in expected]
            for values, wanted in zip(row, expected, strict=True):
                assert values == pytest.approx(wanted, abs=TOLERANCE)
        assert ours.usage.tokens_in == theirs.usage.tokens_in


def test_a_seed_gives_one_text_alone_and_in_a_batch_and_samples_of_it_differ(engine):
    sampling = Sampling(max_tokens=8, temperature=0.9, top_p=0.95)
    samples = [Request(Context(STORY), sampling, seed=7, index=index) for index in range(3)]
    together = ask(engine, [*samples, *REQUESTS])[:3]
    assert len({completion.text for completion in together}) > 1
    assert [completion.text for completion in together] == [ask(engine, [sample])[0].text for sample in samples]
    assert ask(engine, [Request(Context(STORY), sampling, seed=8)])[0].text != together[0].text


def test_a_schema_is_kept(engine):
    request = Request(Context(ASK), Sampling(max_tokens=40, temperature=0.8), seed=3, purpose="judge",
                      json_schema=SCHEMA)
    for completion in ask(engine, [request, Request(Context(STORY), request.sampling, 4, json_schema=SCHEMA)]):
        assert completion.finish is Finish.STOP
        reply = json.loads(completion.text)
        assert isinstance(reply["grade"], int) and reply["word"] in ("yes", "no")
        assert completion.logprobs is None


def test_a_refused_request_does_not_touch_its_neighbours(engine):
    bad = [Request(Context(STORY * 20), GREEDY, seed=1), Request(Context(ASK), Sampling(max_tokens=0), seed=1),
           Request(Context(STORY), GREEDY, 1, json_schema={"type": "nonsense"}),
           ScoreRequest((Context(STORY * 20),), ("a",))]
    *refused, answer = ask(engine, [*bad, REQUESTS[0]])
    assert all(isinstance(error, RequestRejectedError) for error in refused), refused
    assert answer.text == ask(engine, REQUESTS[:1])[0].text


def test_a_call_nobody_waits_for_leaves_the_batch(engine):
    async def cancel():
        endless = Request(Context(STORY), Sampling(max_tokens=1500, temperature=0), seed=1)
        task = asyncio.create_task(engine.generate(endless))
        await asyncio.sleep(0)
        answer = await engine.generate(REQUESTS[1])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return answer, await engine.generate(REQUESTS[1])
    before, after = asyncio.run(cancel())
    assert before.text == after.text
    assert not engine._thread.engine.has_unfinished_requests()
