import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from lpo.chat import load_chat_template
from lpo.config import EvalConfig, JudgeConfig, SamplingConfig
from lpo.errors import BackendError, RequestRejectedError
from lpo.evaluation import Answer, decoding, generate_answers, judge_answers, score_text, select_prompts
from lpo.llm.base import LLM, Completion, Finish, Request, ScoreRequest, TokenLogprobs
from lpo.llm.transformers import TransformersLLM
from lpo.records import Message, Prompt, Usage
from lpo.reward import Draft, create_judge

CONFIG = EvalConfig(max_tokens=12, sampling=SamplingConfig(temperature=0.9, top_p=0.95))


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any, tiny_model: Callable[..., Any]) -> LLM:
    return TransformersLLM(tiny_model("llama", seed=1, vocab_size=480), tiny_tokenizer,
                           template=load_chat_template("plain"), batch_size=3)


def prompt(name: str, text: str = "Write a story of about 8 words.", words: int | None = 8, **meta: Any) -> Prompt:
    return Prompt(id=name, prompt=(Message(role="user", content=text),), target_words=words, meta=meta)


class Scripted:
    """A language model whose replies are a table from request text to reply."""

    def __init__(self, replies: dict[str, Completion | Exception]) -> None:
        self.identity = {"model": "scripted"}
        self.replies = replies
        self.finished: list[str] = []
        self.requests: list[Request] = []

    async def generate(self, request: Request) -> Completion:
        text = request.context.prompt[0].content  # type: ignore[union-attr]
        self.requests.append(request)
        await asyncio.sleep(0.01 * len(self.requests))
        self.finished.append(text)
        reply = self.replies[text]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        raise BackendError("this one only writes")

    async def close(self) -> None:
        """Nothing to close."""


def reply(text: str, finish: Finish = Finish.STOP) -> Completion:
    return Completion(text, finish, None, Usage())


def test_a_real_model_answers_every_prompt_with_its_scores(llm: LLM) -> None:
    prompts = [prompt("a", kind="story"), prompt("b", "写一篇八字的故事。", None), prompt("c", "Tell me.", 30)]
    done: list[int] = []
    answers = asyncio.run(generate_answers(llm, prompts, CONFIG, seed=3, model_name="trained",
                                           on_done=lambda: done.append(1)))
    assert len(done) == 3
    assert [answer.prompt_id for answer in answers] == ["a", "b", "c"]
    assert {answer.model for answer in answers} == {"trained"}
    assert (answers[0].kind, answers[1].kind, answers[1].target_words) == ("story", None, None)
    for answer in answers:
        assert answer.finish in (Finish.STOP, Finish.LENGTH) and answer.judgement is None
        assert answer.scores.repetition is not None and 0 <= answer.scores.repetition <= 1
        assert (answer.scores.length is None) == (answer.target_words is None)
        assert Answer.model_validate(json.loads(json.dumps(answer.to_json()))) == answer


def test_an_answer_depends_on_seed_and_prompt_alone(llm: LLM) -> None:
    prompts = [prompt(name, f"Write about {name}.") for name in ("rain", "salt", "moss", "tides")]

    def texts(chosen: list[Prompt], seed: int) -> dict[str, str]:
        answers = asyncio.run(generate_answers(llm, chosen, CONFIG, seed=seed, model_name="base"))
        return {answer.prompt_id: answer.text for answer in answers}

    everything = texts(prompts, 0)
    assert texts([prompts[2], prompts[0]], 0) == {name: everything[name] for name in ("moss", "rain")}
    assert texts(prompts, 1) != everything
    assert len(set(everything.values())) == 4


def test_requests_carry_the_configured_sampling_and_one_seed_per_prompt_for_both_models() -> None:
    config = EvalConfig(max_tokens=77, sampling=SamplingConfig(temperature=0.2, top_p=0.8, top_k=9,
                                                               repetition_penalty=1.1))
    prompts = [prompt("a", "one"), prompt("b", "two")]
    seeds: list[list[int]] = []
    for model in ("base", "trained"):
        scripted = Scripted({"one": reply("x"), "two": reply("y")})
        asyncio.run(generate_answers(scripted, prompts, config, seed=5, model_name=model))
        sampling = scripted.requests[0].sampling
        assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k,
                sampling.repetition_penalty) == (77, 0.2, 0.8, 9, 1.1)
        assert {request.purpose for request in scripted.requests} == {"policy"}
        seeds.append([request.seed for request in scripted.requests])
    assert seeds[0] == seeds[1] and seeds[0][0] != seeds[0][1]
    assert decoding(config, seed=5) == {"max_tokens": 77, "temperature": 0.2, "top_p": 0.8, "top_k": 9,
                                        "repetition_penalty": 1.1, "seed": 5}


@pytest.mark.parametrize(("text", "target", "length"), [
    ("word " * 8, 8, 100.0),
    ("word " * 16, 8, 100 * (1 - 1 / 3)),
    ("word " * 32, 8, 0.0),
    ("word " * 4, 8, 50.0),
    ("", 8, 0.0),
    ("雨落在港口上了呢", 8, 100.0),
    ("word " * 8, None, None),
])
def test_length_score_of_an_answer_is_longbench_writes(text: str, target: int | None, length: float | None) -> None:
    answer = score_text(prompt("a", words=target), text, Finish.STOP, model_name="base")
    assert answer.scores.length == (None if length is None else pytest.approx(length))


def test_repetition_of_an_answer_is_the_share_of_repeated_four_grams() -> None:
    assert score_text(prompt("a"), "a b c d a b c d", Finish.STOP, model_name="base").scores.repetition == \
        pytest.approx(1 / 5)


def test_cut_refused_and_rejected_answers_are_told_apart() -> None:
    scripted = Scripted({"cut": reply("one two", Finish.LENGTH), "filtered": reply("I", Finish.REFUSED),
                         "long": RequestRejectedError("9000 tokens are too many"), "fine": reply("one two three")})
    prompts = [prompt(name, name) for name in ("cut", "filtered", "long", "fine")]
    cut, filtered, rejected, fine = asyncio.run(
        generate_answers(scripted, prompts, CONFIG, seed=0, model_name="base"))
    assert (cut.finish, cut.words, cut.note) == (Finish.LENGTH, 2, None)
    assert (fine.finish, fine.words) == (Finish.STOP, 3)
    for answer, note in ((filtered, "the server filtered the reply"), (rejected, "9000 tokens are too many")):
        assert answer.finish is Finish.REFUSED and answer.note == note
        assert answer.scores.length is answer.scores.repetition is answer.scores.judge is None


def test_when_the_model_fails_calls_in_flight_are_finished_first() -> None:
    scripted = Scripted({"a": BackendError("the server is gone"), "b": reply("b"), "c": reply("c")})
    with pytest.raises(BackendError, match="the server is gone"):
        asyncio.run(generate_answers(scripted, [prompt(name, name) for name in "abc"], CONFIG, seed=0,
                                     model_name="base"))
    assert scripted.finished == ["a", "b", "c"]


def test_the_judge_scores_answers_as_it_scores_complete_drafts(llm: LLM) -> None:
    judge = create_judge(JudgeConfig(), llm)
    prompts = [prompt("a"), prompt("b", "Tell me about fish."), prompt("c")]
    answers = [score_text(prompts[0], "The keeper climbed its stairs.", Finish.STOP, model_name="base"),
               score_text(prompts[1], "", Finish.STOP, model_name="base"),
               score_text(prompts[2], "", Finish.REFUSED, model_name="base", note="filtered")]
    done: list[int] = []
    judged = asyncio.run(judge_answers(answers, list(reversed(prompts)), judge, on_done=lambda: done.append(1)))
    [expected] = asyncio.run(judge.score([Draft(prompts[0], "", "The keeper climbed its stairs.", True, 8)]))
    assert len(done) == 3
    assert judged[0].judgement is not None and judged[0].scores.judge == judged[0].judgement.overall
    assert judged[0].scores.judge == pytest.approx(expected.overall, abs=1e-6)
    assert judged[0].scores.length == answers[0].scores.length
    for answer, reason in ((judged[1], "empty"), (judged[2], "refused")):
        assert answer.scores.judge is None
        assert answer.judgement is not None and answer.judgement.unscored == reason


def test_select_prompts_keeps_the_first_that_fit() -> None:
    prompts = [prompt("a", words=50), prompt("b", words=None), prompt("c", words=500), prompt("d", words=100)]
    assert [p.id for p in select_prompts(prompts, EvalConfig())] == ["a", "b", "c", "d"]
    assert [p.id for p in select_prompts(prompts, EvalConfig(max_words=100))] == ["a", "d"]
    assert [p.id for p in select_prompts(prompts, EvalConfig(max_words=100, limit=1))] == ["a"]
