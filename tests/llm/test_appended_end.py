"""Tokenizers that put an end-of-text token behind every text (`add_eos_token`): a text that goes on has no end yet."""

import asyncio
import copy
from typing import Any

import pytest
from tokenizers import processors

from lpo.llm.base import Context, Request, Sampling, ScoreRequest
from lpo.llm.transformers import TransformersLLM

REQUEST = Request(Context("The lighthouse stood"), Sampling(max_tokens=16, temperature=0), seed=0)
SCORES = ScoreRequest((Context("The lighthouse stood"), Context("Tell me")), (" at the end", " a"))


@pytest.fixture
def ending(tiny_tokenizer: Any) -> Any:
    """The tokenizer of the tests, with an end put behind every text."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    return tokenizer


def test_a_prompt_is_read_without_the_end_that_the_tokenizer_appends(
    tiny_model: Any, tiny_tokenizer: Any, ending: Any
) -> None:
    model = tiny_model()
    expected, found = (asyncio.run(TransformersLLM(model, tokenizer).generate(REQUEST))
                       for tokenizer in (tiny_tokenizer, ending))
    assert (found.text, found.logprobs, found.usage.tokens_in) == (
        expected.text, expected.logprobs, expected.usage.tokens_in)


def test_a_text_is_scored_without_the_end_that_the_tokenizer_appends(
    tiny_model: Any, tiny_tokenizer: Any, ending: Any
) -> None:
    model = tiny_model()
    expected, found = (asyncio.run(TransformersLLM(model, tokenizer).logprobs(SCORES))
                       for tokenizer in (tiny_tokenizer, ending))
    assert found.values == expected.values
