"""Scoring with the embedded back end, against a plain forward pass of every row alone."""

import asyncio
import random
from typing import Any

import pytest
import torch

from lpo.errors import RequestRejectedError
from lpo.llm.base import Context, ScoreRequest, TokenLogprobs
from lpo.llm.transformers import TransformersLLM
from lpo.records import Message

STORY = ("The lighthouse stood at the end of the stone pier, and every evening the keeper climbed its stairs. "
         "She wrote long letters to a brother who never answered. Rain fell on the harbour; gulls argued over fish. ")
QUESTIONS = ("Is the story clear?", "Is the story about rain?", "灯塔在哪里？",
             "Is it long? Answer with a grade from 1 to 10:")
GRADES = (" 1", " 2", " 3", " 10", "5")


@pytest.fixture(params=["llama", "gemma3", "qwen2"])
def llm(request: pytest.FixtureRequest, tiny_model: Any, tiny_tokenizer: Any) -> TransformersLLM:
    return TransformersLLM(tiny_model(request.param, initializer_range=0.1), tiny_tokenizer, batch_size=4)


def scored(llm: TransformersLLM, *requests: ScoreRequest) -> list[TokenLogprobs]:
    async def gather() -> list[TokenLogprobs]:
        return await asyncio.gather(*(llm.logprobs(request) for request in requests))
    return asyncio.run(gather())


def oracle(llm: TransformersLLM, context: str, continuation: str) -> list[float]:
    """Log-probabilities by one plain forward pass, in float64 after the logits."""
    before = llm.tokenizer(context)["input_ids"]
    row = llm.tokenizer(context + continuation)["input_ids"]
    start = next((place for place in range(len(before)) if row[place:place + 1] != before[place:place + 1]),
                 len(before))
    with torch.no_grad():
        logprobs = llm.model(torch.tensor([row])).logits[0].double().log_softmax(-1)
    return [logprobs[place - 1, row[place]].item() for place in range(start, len(row))]


def check(llm: TransformersLLM, request: ScoreRequest, answer: TokenLogprobs) -> None:
    for context, values in zip(request.contexts, answer.values, strict=True):
        assert isinstance(context.prompt, str)
        for continuation, row in zip(request.continuations, values, strict=True):
            assert list(row) == pytest.approx(oracle(llm, context.prompt + context.prefix, continuation), abs=1e-4)


def test_a_long_continuation(llm: TransformersLLM) -> None:
    request = ScoreRequest((Context("Tell me", ","),), (STORY,))
    check(llm, request, scored(llm, request)[0])
    assert len(scored(llm, request)[0].values[0][0]) > 60


def test_grades_after_questions_about_one_text(llm: TransformersLLM) -> None:
    request = ScoreRequest(tuple(Context(STORY, question) for question in QUESTIONS), GRADES)
    answer = scored(llm, request)[0]
    check(llm, request, answer)
    assert answer.total(1, 2) == pytest.approx(sum(oracle(llm, STORY + QUESTIONS[1], GRADES[2])), abs=1e-4)


def test_a_shared_text_is_read_once_and_grades_of_one_question_are_one_row(llm: TransformersLLM) -> None:
    passes: list[tuple[int, int]] = []
    hook = llm.model.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    grades = (" 1", " 2", " 3")
    questions = QUESTIONS[:1] + QUESTIONS[2:]
    answer = scored(llm, ScoreRequest(tuple(Context(STORY, question) for question in questions), grades))[0]
    hook.remove()
    # Each grade is a space, which all rows share with nothing else, and a digit: the digit is scored after the space.
    rows = [llm.tokenizer(STORY + question + " 1")["input_ids"][:-1] for question in questions]
    shared = next(place for place in range(1000) if len({row[place] for row in rows}) > 1)
    assert passes == [(1, shared), (3, max(len(row) for row in rows) - shared)]
    assert answer.usage.tokens_in == shared + sum(len(row) - shared for row in rows)


def test_siblings_of_one_prefix_share_it_across_requests(llm: TransformersLLM) -> None:
    passes: list[tuple[int, int]] = []
    hook = llm.model.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    steps = ("The captain asked nothing and went down to the stairs again, step by step.",
             "Gulls argued over the fish, and a whole winter fell on the harbour.")
    asked = [ScoreRequest(tuple(Context(STORY, step + question) for question in QUESTIONS), GRADES) for step in steps]
    answers = scored(llm, *asked)
    hook.remove()
    read = sum(rows * width for rows, width in passes)
    for request, answer in zip(asked, answers, strict=True):
        check(llm, request, answer)
    one_by_one = len(llm.tokenizer(STORY)["input_ids"]) * len(steps) * len(QUESTIONS)
    assert passes[0][0] == 1 and passes[0][1] > 60
    assert read < one_by_one, "less than the story alone in every row"


def test_a_continuation_whose_first_token_straddles_the_border_counts_from_there(llm: TransformersLLM) -> None:
    whole = llm.tokenizer(STORY)["input_ids"]
    begun = {cut: llm.tokenizer(STORY[:cut])["input_ids"] for cut in range(20, len(STORY))}
    cut = next(cut for cut, ids in begun.items() if ids[-1] != whole[len(ids) - 1])
    request = ScoreRequest((Context(STORY[:cut]),), (STORY[cut:],))
    answer = scored(llm, request)[0]
    check(llm, request, answer)
    assert len(answer.values[0][0]) > len(whole) - len(begun[cut])


def test_random_trees_of_rows(llm: TransformersLLM) -> None:
    generator = random.Random(0)
    words = STORY.split()
    for _ in range(6):
        trunk = " ".join(generator.choices(words, k=40))
        requests = []
        for _ in range(3):
            branch = trunk[:generator.randrange(20, len(trunk))] + " ".join(generator.choices(words, k=12))
            contexts = tuple(Context(branch[:generator.randrange(5, len(branch))]) for _ in range(3))
            requests.append(ScoreRequest(contexts, (branch[-20:], " ".join(generator.choices(words, k=30)), "")))
        for request, answer in zip(requests, scored(llm, *requests), strict=True):
            check(llm, request, answer)
            assert [values[2] for values in answer.values] == [()] * 3


def test_few_logits_at_once_change_nothing(llm: TransformersLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    request = ScoreRequest((Context("Tell me"), Context(STORY)), (STORY, " watching?"))
    whole = scored(llm, request)[0]
    sizes: list[int] = []
    hook = llm.model.register_forward_hook(lambda _, args, output: sizes.append(output.logits.numel()))
    monkeypatch.setattr("lpo.llm.scoring._LOGIT_ELEMENTS", 512 * 8)
    answer = scored(llm, request)[0]
    hook.remove()
    check(llm, request, answer)
    assert max(sizes) <= 512 * 8
    assert answer.total(0, 0) == pytest.approx(whole.total(0, 0), abs=1e-3)


def test_a_tall_logit_is_scored_in_float32_after_a_soft_cap(tiny_model: Any, tiny_tokenizer: Any) -> None:
    capped = TransformersLLM(tiny_model("gemma3", final_logit_softcapping=2.0, initializer_range=0.3), tiny_tokenizer)
    request = ScoreRequest((Context(STORY),), (" watching?",))
    check(capped, request, scored(capped, request)[0])


def test_messages_are_scored_after_the_rendered_turn(llm: TransformersLLM) -> None:
    template = ("{%- for m in messages -%}{{ m['role'] + ': ' + m['content'] + '</s>' }}{%- endfor -%}"
                "{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}")
    llm = TransformersLLM(llm.model, llm.tokenizer, template=template)
    context = Context((Message(role="user", content="Tell me"),), prefix="The answer")
    answer = scored(llm, ScoreRequest((context,), (" took",)))[0]
    before, row = (llm.tokenizer(f"user: Tell me</s>assistant: The answer{text}", add_special_tokens=False)["input_ids"]
                   for text in ("", " took"))
    with torch.no_grad():
        logprobs = llm.model(torch.tensor([row])).logits[0].double().log_softmax(-1)
    expected = [logprobs[place - 1, row[place]].item() for place in range(len(before), len(row))]
    assert list(answer.values[0][0]) == pytest.approx(expected, abs=1e-4)


def test_a_refused_request_does_not_touch_its_neighbours(llm: TransformersLLM) -> None:
    good = ScoreRequest((Context(STORY),), (" watching?",))

    async def gather() -> list[TokenLogprobs | BaseException]:
        return await asyncio.gather(llm.logprobs(ScoreRequest((Context(STORY * 60),), ("x",))), llm.logprobs(good),
                                    return_exceptions=True)
    refused, answer = asyncio.run(gather())
    assert isinstance(refused, RequestRejectedError)
    assert isinstance(answer, TokenLogprobs)
    check(llm, good, answer)


def test_nothing_to_score_costs_nothing(llm: TransformersLLM) -> None:
    answer = scored(llm, ScoreRequest((Context(STORY),), ("",)))[0]
    assert answer.values == (((),),)
    assert answer.usage.tokens_in == 0
