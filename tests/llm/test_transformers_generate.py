"""Writing with the embedded back end, against transformers' own `generate` and against one request at a time."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lpo.errors import ConfigError, RequestRejectedError
from lpo.llm.base import Completion, Context, Finish, Request, Sampling, ScoreRequest
from lpo.llm.transformers import TransformersLLM
from lpo.records import Message

GREEDY = Sampling(max_tokens=24, temperature=0)
PROMPTS = (
    "The lighthouse stood",
    "Every evening the keeper climbed its stairs, and rain fell on the harbour. She wrote long letters; gulls argued.",
    "灯塔矗立在石堤的尽头。",
    "Tell me",
)


@pytest.fixture(scope="module", params=["llama", "gemma3", "qwen2"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def llm(kind: str, tiny_model: Any, tiny_tokenizer: Any) -> TransformersLLM:
    return TransformersLLM(tiny_model(kind), tiny_tokenizer)


def requests(sampling: Sampling, prompts: Sequence[str] = PROMPTS, each: int = 1) -> list[Request]:
    return [Request(Context(prompt), sampling, seed=100 + number, index=index)
            for number, prompt in enumerate(prompts) for index in range(each)]


def together(llm: TransformersLLM, asked: Sequence[Request]) -> list[Completion]:
    async def gather() -> list[Completion]:
        return await asyncio.gather(*(llm.generate(request) for request in asked))
    return asyncio.run(gather())


def alone(llm: TransformersLLM, asked: Sequence[Request]) -> list[Completion]:
    return [asyncio.run(llm.generate(request)) for request in asked]


def texts(completions: Sequence[Completion]) -> list[str]:
    return [completion.text for completion in completions]


def generated(llm: TransformersLLM, prompt: str, **options: Any) -> str:
    inputs = llm.tokenizer(prompt, return_tensors="pt")
    ids = llm.model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False,
                             **options)
    text = llm.tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
    return text.rstrip("\ufffd")  # half a character at the cut


class Forwards:
    """The shapes of the token ids of every forward pass of a model."""

    def __init__(self, model: Any) -> None:
        self.shapes: list[tuple[int, int]] = []
        model.register_forward_pre_hook(
            lambda _, args, kwargs: self.shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)


def test_greedy_text_is_that_of_generate(llm: TransformersLLM) -> None:
    # Gemma's window is 16 tokens: the second prompt alone is longer than that.
    expected = [generated(llm, prompt, max_new_tokens=40) for prompt in PROMPTS]
    assert texts(together(llm, requests(replace(GREEDY, max_tokens=40)))) == expected
    assert len(set(expected)) == len(PROMPTS)


def test_greedy_text_with_a_repetition_penalty_is_that_of_generate(llm: TransformersLLM) -> None:
    expected = [generated(llm, prompt, max_new_tokens=24, repetition_penalty=1.7) for prompt in PROMPTS]
    assert texts(together(llm, requests(replace(GREEDY, repetition_penalty=1.7)))) == expected
    assert expected != [generated(llm, prompt, max_new_tokens=24) for prompt in PROMPTS]


@pytest.mark.parametrize("sampling", [
    Sampling(max_tokens=24),
    Sampling(max_tokens=24, temperature=0.7, top_p=0.9, repetition_penalty=1.2),
    Sampling(max_tokens=24, temperature=1.3, top_k=20),
])
def test_a_text_depends_on_its_own_seed_and_not_on_its_batch(llm: TransformersLLM, sampling: Sampling) -> None:
    asked = requests(sampling, each=3)
    batched = together(llm, asked)
    assert texts(batched) == texts(alone(llm, asked))
    assert texts(together(llm, list(reversed(asked)))) == texts(batched)[::-1]
    assert len(set(texts(batched))) == len(asked), "samples of one seed differ by their index"


def test_a_small_batch_size_changes_no_text(kind: str, tiny_model: Any, tiny_tokenizer: Any) -> None:
    asked = requests(Sampling(max_tokens=24), each=3)
    one = TransformersLLM(tiny_model(kind), tiny_tokenizer, batch_size=16)
    many = TransformersLLM(tiny_model(kind), tiny_tokenizer, batch_size=5)
    assert texts(together(one, asked)) == texts(together(many, asked))


def test_twelve_branches_of_three_contexts_are_three_rows_of_one_prefill(llm: TransformersLLM) -> None:
    passes = Forwards(llm.model)
    together(llm, requests(Sampling(max_tokens=8), PROMPTS[:3], each=4))
    longest = max(len(llm.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS[:3])
    assert passes.shapes == [(3, longest)] + [(12, 1)] * 7


def test_a_long_context_is_read_in_pieces(kind: str, tiny_model: Any, tiny_tokenizer: Any,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    llm = TransformersLLM(tiny_model(kind), tiny_tokenizer)
    whole = together(llm, requests(GREEDY))
    monkeypatch.setattr("lpo.llm.kv._FORWARD_POSITIONS", 32)
    passes = Forwards(llm.model)
    assert texts(together(llm, requests(GREEDY))) == texts(whole)
    assert passes.shapes[:2] == [(4, 8), (4, 8)]


def test_logprobs_are_those_of_the_unmodified_model(llm: TransformersLLM) -> None:
    sampling = Sampling(max_tokens=16, temperature=0.6, top_k=30, repetition_penalty=1.3)
    for request, completion in zip(requests(sampling), together(llm, requests(sampling)), strict=True):
        ids = llm.tokenizer(request.context.prompt)["input_ids"]
        drawn = _drawn_ids(llm, request)
        with torch.no_grad():
            logits = llm.model(torch.tensor([ids + drawn])).logits[0].double().log_softmax(-1)
        expected = [logits[len(ids) + place - 1, token].item() for place, token in enumerate(drawn)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        assert completion.usage.tokens_in == len(ids)
        assert completion.usage.tokens_out == len(drawn)


def _drawn_ids(llm: TransformersLLM, request: Request) -> list[int]:
    """The drawn tokens, seen by a hook on the passes of a longer run of this request alone."""
    seen: list[int] = []
    handle = llm.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(int(kwargs["input_ids"][0, -1])), with_kwargs=True)
    sampling = replace(request.sampling, max_tokens=request.sampling.max_tokens + 1)
    asyncio.run(llm.generate(replace(request, sampling=sampling)))
    handle.remove()
    return seen[1:]


def test_a_row_that_ends_leaves_the_batch(llm: TransformersLLM) -> None:
    long = requests(replace(GREEDY, max_tokens=12), PROMPTS[:2])
    short = requests(replace(GREEDY, max_tokens=3), PROMPTS[2:])
    passes = Forwards(llm.model)
    answers = together(llm, [*long, *short])
    assert [shape[0] for shape in passes.shapes] == [4] * 3 + [2] * 9
    assert texts(answers) == texts(alone(llm, [*long, *short]))
    assert [len(answer.logprobs or ()) for answer in answers] == [12, 12, 3, 3]


def test_text_is_cut_before_a_stop_string_that_spans_tokens(llm: TransformersLLM) -> None:
    whole = together(llm, requests(Sampling(max_tokens=40)))
    for request, completion in zip(requests(Sampling(max_tokens=40)), whole, strict=True):
        stop = completion.text[9:15]
        assert len(llm.tokenizer(stop, add_special_tokens=False)["input_ids"]) > 1
        cut = asyncio.run(llm.generate(replace(request, sampling=Sampling(max_tokens=40, stop=("never this", stop)))))
        assert cut.text == completion.text[:completion.text.find(stop)]
        assert cut.finish is Finish.STOP
        assert cut.usage.tokens_out < completion.usage.tokens_out


def test_a_stop_string_late_in_a_long_text_is_found(tiny_model: Any, tiny_tokenizer: Any) -> None:
    llm = TransformersLLM(tiny_model("llama"), tiny_tokenizer)
    request = Request(Context("Tell me"), Sampling(max_tokens=200), seed=5)
    whole = asyncio.run(llm.generate(request)).text
    stop = next(whole[place:place + 4] for place in range(len(whole) - 4, 0, -1)
                if "\ufffd" not in whole[place:place + 4] and whole.find(whole[place:place + 4]) == place
                and place < len(whole) - 20)
    cut = asyncio.run(llm.generate(replace(request, sampling=Sampling(max_tokens=200, stop=(stop,)))))
    assert cut.text == whole[:whole.find(stop)]


def test_the_end_token_ends_a_text_and_is_not_in_it(kind: str, tiny_model: Any, tiny_tokenizer: Any) -> None:
    llm = TransformersLLM(tiny_model(kind), tiny_tokenizer)
    request = requests(Sampling(max_tokens=30))[0]
    whole = asyncio.run(llm.generate(request))
    drawn = _drawn_ids(llm, request)
    end = next(token for place, token in enumerate(drawn) if place > 5 and token not in drawn[:place])
    model = tiny_model(kind)
    model.generation_config.eos_token_id = [2, end]
    ended = asyncio.run(TransformersLLM(model, tiny_tokenizer).generate(request))
    assert ended.finish is Finish.STOP
    assert ended.usage.tokens_out == drawn.index(end) + 1 == len(ended.logprobs or ())
    assert whole.text.startswith(ended.text)
    assert whole.finish is Finish.LENGTH


CHATML = ("{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
          "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}")


def test_messages_are_rendered_by_the_template_and_its_turn_end_stops(tiny_model: Any, tiny_tokenizer: Any) -> None:
    turn_end = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = tiny_model("llama", tie_word_embeddings=True)
    with torch.no_grad():
        model.lm_head.weight[turn_end] *= 8  # likely, so that it comes up
    llm = TransformersLLM(model, tiny_tokenizer, template=CHATML)
    seen: list[list[int]] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()),
                                    with_kwargs=True)
    context = Context((Message(role="user", content="Tell me"),), prefix="The answer took")
    answers = together(llm, [Request(context, Sampling(max_tokens=60), seed=seed) for seed in range(8)])
    rendered = "<|im_start|>user\nTell me<|im_end|>\n<|im_start|>assistant\nThe answer took"
    assert seen[0] == tiny_tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert Finish.STOP in [answer.finish for answer in answers]
    # For plain text the marker of turns ends nothing.
    plain = together(llm, [Request(Context("Tell me"), Sampling(max_tokens=60), seed=seed) for seed in range(8)])
    assert {answer.finish for answer in plain} == {Finish.LENGTH}


def test_messages_without_a_template_are_a_configuration_error(tiny_model: Any, tiny_tokenizer: Any) -> None:
    llm = TransformersLLM(tiny_model("llama"), tiny_tokenizer)
    with pytest.raises(ConfigError, match="chat_template"):
        together(llm, [Request(Context((Message(role="user", content="Tell me"),)), GREEDY, seed=0)])


def test_a_refused_request_does_not_touch_its_neighbours(llm: TransformersLLM) -> None:
    good = requests(GREEDY)
    too_long = Request(Context("The keeper " * 1200), GREEDY, seed=0)
    too_many = Request(Context("Tell me"), replace(GREEDY, max_tokens=2046), seed=0)

    async def gather() -> list[Completion | BaseException]:
        return await asyncio.gather(*(llm.generate(request) for request in [too_long, *good, too_many]),
                                    return_exceptions=True)
    answers = asyncio.run(gather())
    assert isinstance(answers[0], RequestRejectedError) and isinstance(answers[-1], RequestRejectedError)
    assert [answer.text for answer in answers[1:-1] if isinstance(answer, Completion)] == texts(alone(llm, good))


def test_an_empty_prompt_is_refused_unless_the_tokenizer_begins_texts(llm: TransformersLLM) -> None:
    assert together(llm, [Request(Context(""), GREEDY, seed=0)])[0].usage.tokens_in == 1
    silent = type("NoSpecial", (), {
        "__call__": lambda self, text, add_special_tokens: {"input_ids": []}, "eos_token_id": None})()
    llm = TransformersLLM(llm.model, silent)
    with pytest.raises(RequestRejectedError, match="empty"):
        together(llm, [Request(Context(""), GREEDY, seed=0)])


def test_writing_and_scoring_at_once_work(llm: TransformersLLM) -> None:
    scored = ScoreRequest((Context(PROMPTS[0]),), (" at the end",))

    async def gather() -> Any:
        return await asyncio.gather(*(llm.generate(request) for request in requests(GREEDY)), llm.logprobs(scored))
    *answers, values = asyncio.run(gather())
    assert texts(answers) == texts(alone(llm, requests(GREEDY)))
    assert values.values == asyncio.run(llm.logprobs(scored)).values


def test_tasks_that_ask_again_and_again_stay_in_one_batch(tiny_model: Any, tiny_tokenizer: Any) -> None:
    llm = TransformersLLM(tiny_model("llama"), tiny_tokenizer)
    passes = Forwards(llm.model)

    async def branch(number: int) -> str:
        text = ""
        for step in range(3):
            for _ in range(number):  # tasks are not equally quick
                await asyncio.sleep(0)
            completion = await llm.generate(Request(Context("Tell me", text), Sampling(max_tokens=4), seed=step,
                                                    index=number))
            text += completion.text
        return text

    async def gather() -> list[str]:
        return await asyncio.gather(*(branch(number) for number in range(6)))
    first = asyncio.run(gather())
    assert [shape[0] for shape in passes.shapes if shape[1] == 1] == [6] * 9
    assert asyncio.run(gather()) == first


def test_cancelled_calls_free_the_worker(tiny_model: Any, tiny_tokenizer: Any) -> None:
    llm = TransformersLLM(tiny_model("llama"), tiny_tokenizer)
    passes = Forwards(llm.model)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm.generate(Request(Context("Tell me"), Sampling(max_tokens=1900), seed=0)), 0.3)
    asyncio.run(give_up())
    made = len(passes.shapes)
    assert 0 < made < 1900
    assert together(llm, requests(GREEDY)[:1])[0].finish is Finish.LENGTH
    assert len(passes.shapes) <= made + 1 + GREEDY.max_tokens


def test_close_frees_the_model(tiny_model: Any, tiny_tokenizer: Any) -> None:
    llm = TransformersLLM(tiny_model("llama"), tiny_tokenizer)
    together(llm, requests(GREEDY))
    asyncio.run(llm.close())
    assert llm.model is None
