import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lpo.chat import load_chat_template, render_context
from lpo.evaluation import SideLogprobs, preference_accuracy, preference_logprobs, preference_rows
from lpo.llm.transformers import TransformersLLM
from lpo.records import Dialogue, Message, PreferencePair

CHAT = (Message(role="user", content="Write a story of about 500 words."),)
PAIRS = (
    PreferencePair(id="p0", group="g", prompt=CHAT, chosen="The keeper climbed.", rejected="Gulls argued over fish."),
    PreferencePair(id="p1", group="g", prompt=CHAT, prefix="Rain fell on the harbour; ", chosen="she wrote letters.",
                   rejected="the answer took a whole winter.", chosen_ends=False, rejected_ends=False, step=1),
    PreferencePair(id="p2", group="h", prompt="Tell me, said the captain, ", chosen="灯塔矗立在石堤的尽头。",
                   rejected="what do you do"),
    PreferencePair(id="p3", group="h", prompt=CHAT, prefix="Tell", chosen=" me again", rejected="ing a story"),
)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def llm(request: pytest.FixtureRequest, tiny_tokenizer: Any, tiny_model: Callable[..., Any]) -> TransformersLLM:
    return TransformersLLM(tiny_model(request.param, seed=2, vocab_size=480), tiny_tokenizer,
                           template=load_chat_template("plain"), batch_size=2)


def mean_logprob(llm: TransformersLLM, prompt: Dialogue, prefix: str, text: str) -> float:
    """One row, one full forward, float64: nothing shared with the library but the chat template."""
    before = render_context(llm.tokenizer, prompt, prefix, llm.template)
    special = isinstance(prompt, str)
    context_ids, row_ids = (llm.tokenizer(part, add_special_tokens=special)["input_ids"]
                            for part in (before, before + text))
    start = next((at for at, (a, b) in enumerate(zip(context_ids, row_ids, strict=False)) if a != b),
                 min(len(context_ids), len(row_ids)))
    with torch.no_grad():
        logits = llm.model(input_ids=torch.tensor([row_ids])).logits[0].double()
    logprobs = torch.log_softmax(logits, dim=-1)
    return sum(logprobs[at - 1, row_ids[at]].item() for at in range(start, len(row_ids))) / (len(row_ids) - start)


def test_mean_logprobs_equal_a_full_forward_of_each_row(llm: TransformersLLM) -> None:
    done: list[int] = []
    sides = asyncio.run(preference_logprobs(llm, PAIRS, on_done=lambda: done.append(1)))
    assert len(done) == len(PAIRS)
    for pair, side in zip(PAIRS, sides, strict=True):
        assert side.unscored is None
        assert side.chosen == pytest.approx(mean_logprob(llm, pair.prompt, pair.prefix, pair.chosen), abs=2e-5)
        assert side.rejected == pytest.approx(mean_logprob(llm, pair.prompt, pair.prefix, pair.rejected), abs=2e-5)


def test_accuracy_is_the_share_the_direct_forward_gives(llm: TransformersLLM) -> None:
    swapped = [pair.model_copy(update={"id": f"{pair.id}s", "chosen": pair.rejected, "rejected": pair.chosen})
               for pair in PAIRS[:3]]
    pairs = [*PAIRS, *swapped]
    expected = [mean_logprob(llm, pair.prompt, pair.prefix, pair.chosen)
                > mean_logprob(llm, pair.prompt, pair.prefix, pair.rejected) for pair in pairs]
    sides = asyncio.run(preference_logprobs(llm, pairs))
    accuracy = preference_accuracy(sides, [pair.group for pair in pairs], seed=0, resamples=200)
    assert accuracy.mean == pytest.approx(sum(expected) / len(expected))
    assert 0 < sum(expected) < len(expected)
    assert (accuracy.n, accuracy.unscored) == (7, 0)


def test_pairs_that_cannot_be_scored_are_unscored_with_their_reason(llm: TransformersLLM) -> None:
    pairs = [PAIRS[0].model_copy(update={"rejected": ""}), PAIRS[0].model_copy(update={"prefix": "rain " * 3000}),
             PAIRS[0]]
    sides = asyncio.run(preference_logprobs(llm, pairs))
    assert [side.unscored for side in sides] == ["nothing_to_score", "request_rejected", None]
    assert [side.correct is None for side in sides] == [True, True, False]


def test_known_accuracy_with_ties_and_holes() -> None:
    sides = [SideLogprobs(chosen=-1.0, rejected=-2.0), SideLogprobs(chosen=-2.0, rejected=-1.0),
             SideLogprobs(chosen=-1.0, rejected=-1.0), SideLogprobs(chosen=-0.5, rejected=-3.0),
             SideLogprobs(unscored="request_rejected")]
    few = preference_accuracy(sides, ["a", "a", "b", "c", "c"], seed=0, resamples=500)
    assert (few.mean, few.low, few.n, few.unscored) == (0.5, None, 4, 1)
    many = preference_accuracy(sides * 4, [f"g{index % 8}" for index in range(20)], seed=0, resamples=500)
    assert (many.mean, many.n, many.unscored) == (0.5, 16, 4)
    assert many.low is not None and many.high is not None and many.low < 0.5 < many.high


def test_rows_hold_both_models_in_the_format_of_the_run_directory() -> None:
    base, trained = SideLogprobs(chosen=-2.0, rejected=-1.5), SideLogprobs(chosen=-1.0, rejected=-1.5)
    [row] = preference_rows(PAIRS[1:2], [base], [trained])
    assert row.to_json() == {
        "pair_id": "p1", "group": "g", "step": 1,
        "base": {"chosen": -2.0, "rejected": -1.5, "unscored": None},
        "trained": {"chosen": -1.0, "rejected": -1.5, "unscored": None},
    }
