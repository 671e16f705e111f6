"""Which tokens are context and which are scored, on many templates."""

import copy

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lpo.chat import load_chat_template, render_context
from lpo.records import Message, Reason, RejectedRow
from lpo.trainers import TokenisedPair, Tokeniser

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last and '</think>' not in m['content'] %}"
    "<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<start>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
R1 = (  # the generation prompt opens a reasoning block that whole answers do not have
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | upper }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASK = [{"role": "user", "content": "Tell me."}]
FIRST, SECOND = "She wrote.\n\n", "Rain fell."

USER_ML = "<|im_start|>user\nTell me.<|im_end|>\n<|im_start|>assistant\n"
USER_L3 = ("<s><|start_header_id|>user<|end_header_id|>\n\nTell me.<|eot_id|>"
           "<|start_header_id|>assistant<|end_header_id|>\n\n")
USER_GEMMA = "<s><start>user\nTell me.<end>\n<start>model\n"
USER_PLAIN = "<s>Task:\nTell me.\n\nText:\n"


def tokeniser_for(tiny_tokenizer, template, **settings):
    if template == "plain":
        return Tokeniser(tiny_tokenizer, load_chat_template("plain"), **settings)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = template
    return Tokeniser(tokenizer, None, **settings)


def split(tokeniser, side):
    ids = list(side.ids)
    return tokeniser.tokenizer.decode(ids[: side.start]), tokeniser.tokenizer.decode(ids[side.start:])


CASES = {  # template: (context and scored text of) a whole answer, a first step, a middle step, a last step
    "chatml": (CHATML, [
        (USER_ML, "Rain fell.<|im_end|>\n"),
        (USER_ML, "She wrote.\n\n"),
        (USER_ML + "She wrote.\n\n", "Rain fell."),
        (USER_ML + "She wrote.\n\n", "Rain fell.<|im_end|>\n"),
    ]),
    "llama3": (LLAMA3, [
        (USER_L3, "Rain fell.<|eot_id|>"),
        (USER_L3, "She wrote.\n\n"),
        (USER_L3 + "She wrote.\n\n", "Rain fell."),
        (USER_L3 + "She wrote.\n\n", "Rain fell.<|eot_id|>"),
    ]),
    "qwen3": (QWEN3, [
        (USER_ML, "<think>\n\n</think>\n\nRain fell.<|im_end|>\n"),
        (USER_ML, "<think>\n\n</think>\n\nShe wrote.\n\n"),
        (USER_ML + "<think>\n\n</think>\n\nShe wrote.\n\n", "Rain fell."),
        (USER_ML + "<think>\n\n</think>\n\nShe wrote.\n\n", "Rain fell.<|im_end|>\n"),
    ]),
    "gemma": (GEMMA, [
        (USER_GEMMA, "Rain fell.<end>\n"),
        (USER_GEMMA, "She wrote.\n\n"),
        (USER_GEMMA + "She wrote.\n\n", "Rain fell."),
        (USER_GEMMA + "She wrote.\n\n", "Rain fell.<end>\n"),
    ]),
    "mistral": (MISTRAL, [
        ("<s>[INST] Tell me. [/INST]", " Rain fell.</s>"),
        ("<s>[INST] Tell me. [/INST]", " She wrote.\n\n"),
        ("<s>[INST] Tell me. [/INST] She wrote.\n\n", "Rain fell."),
        ("<s>[INST] Tell me. [/INST] She wrote.\n\n", "Rain fell.</s>"),
    ]),
    "plain": ("plain", [
        (USER_PLAIN, "Rain fell.</s>"),
        (USER_PLAIN, "She wrote.\n\n"),
        (USER_PLAIN + "She wrote.\n\n", "Rain fell."),
        (USER_PLAIN + "She wrote.\n\n", "Rain fell.</s>"),
    ]),
}
STEPS = [("", SECOND, True), ("", FIRST, False), (FIRST, SECOND, False), (FIRST, SECOND, True)]


@pytest.mark.parametrize("template_name", CASES)
@pytest.mark.parametrize("case", range(4), ids=["whole", "first_step", "middle_step", "last_step"])
def test_context_is_masked_and_the_end_is_scored_only_where_it_is(tiny_tokenizer, template_name, case):
    template, expected = CASES[template_name]
    prefix, text, ends = STEPS[case]
    tokeniser = tokeniser_for(tiny_tokenizer, template)
    row = {"prompt": ASK, "prefix": prefix, "chosen": text, "rejected": "Gulls argued over fish.",
           "chosen_ends": ends, "rejected_ends": not ends}
    pair = tokeniser.row(row, "row 0")
    assert isinstance(pair, TokenisedPair), pair
    assert split(tokeniser, pair.chosen) == expected[case]
    closing = expected[0][1].rpartition("Rain fell.")[2]
    assert split(tokeniser, pair.rejected)[1].endswith("fish." if ends else "fish." + closing)


@pytest.mark.parametrize("template_name", CASES)
@pytest.mark.parametrize("prefix", ["", FIRST, "\n", "\n\nShe", "The assistant said: user", "灯塔矗立在"])
def test_context_tokens_are_what_generation_reads(tiny_tokenizer, template_name, prefix):
    tokeniser = tokeniser_for(tiny_tokenizer, CASES[template_name][0])
    row = {"prompt": ASK, "prefix": prefix, "chosen": " Rain fell.", "rejected": " Gulls argued.", "chosen_ends": False}
    pair = tokeniser.row(row, "row 0")
    assert isinstance(pair, TokenisedPair), pair
    message = (Message(role="user", content="Tell me."),)
    context = render_context(tokeniser.tokenizer, message, prefix, tokeniser.template)
    read = tokeniser.tokenizer(context, add_special_tokens=False)["input_ids"]
    for side in (pair.chosen, pair.rejected):
        assert not side.straddles
        assert list(side.ids)[: side.start] == read


def test_plain_text_gets_the_tokenizers_own_special_tokens(tiny_tokenizer):
    tokeniser = Tokeniser(tiny_tokenizer)
    pair = tokeniser.row({"prompt": "Tell me.", "prefix": " She wrote.", "chosen": " Rain fell.", "rejected": " Gulls.",
                          "rejected_ends": False}, "row 0")
    assert split(tokeniser, pair.chosen) == ("<s>Tell me. She wrote.", " Rain fell.</s>")
    assert split(tokeniser, pair.rejected) == ("<s>Tell me. She wrote.", " Gulls.")


def literal_tokenizer(*, ends_by_itself=False):
    """Characters and three merges, written out: H=3 e=4 l=5 o=6 .=7 ll=8 he... so that ids can be literal."""
    vocab = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "H", "e", "l", "o", ".", "ll", "lo", "a"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("l", "l"), ("l", "o")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if ends_by_itself:
        from tokenizers.processors import TemplateProcessing

        fast.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return fast


def test_literal_ids_with_a_token_that_straddles_the_boundary():
    tokeniser = Tokeniser(literal_tokenizer())
    pair = tokeniser.row({"prompt": "He", "prefix": "l", "chosen": "lo.", "rejected": "o."}, "row 0")
    # alone: H e l; chosen: H e ll o . </s>: the token `ll` holds the prefix's l and belongs to the side
    assert list(pair.chosen.ids) == [3, 4, 8, 6, 7, 2]
    assert (pair.chosen.start, pair.chosen.straddles) == (2, True)
    assert list(pair.rejected.ids) == [3, 4, 9, 7, 2]
    assert (pair.rejected.start, pair.rejected.straddles) == (2, True)
    assert tokeniser.rows([{"prompt": "H", "chosen": "e", "rejected": "o"},
                           {"prompt": "Hel", "chosen": "l", "rejected": "."}]).straddling == 0.25


def test_literal_ids_where_nothing_straddles():
    pair = Tokeniser(literal_tokenizer()).row(
        {"prompt": "He", "chosen": "llo", "rejected": ".", "rejected_ends": False}, "row 0")
    assert (list(pair.chosen.ids), pair.chosen.start) == ([3, 4, 8, 6, 2], 2)
    assert (list(pair.rejected.ids), pair.rejected.start) == ([3, 4, 7], 2)


def test_an_end_token_the_tokenizer_adds_by_itself_is_not_scored_on_open_sides():
    pair = Tokeniser(literal_tokenizer(ends_by_itself=True)).row(
        {"prompt": "He", "chosen": "llo", "rejected": ".", "rejected_ends": False}, "row 0")
    assert (list(pair.chosen.ids), pair.chosen.start) == ([1, 3, 4, 8, 6, 2], 3)
    assert (list(pair.rejected.ids), pair.rejected.start) == ([1, 3, 4, 7], 3)


def test_without_a_first_token_the_first_one_is_not_scored():
    pair = Tokeniser(literal_tokenizer()).row({"prompt": "", "chosen": "He", "rejected": "oo"}, "row 0")
    assert (list(pair.chosen.ids), pair.chosen.start) == ([3, 4, 2], 1)


def test_a_trimming_template_leaves_steps_as_they_are_and_trims_whole_answers(tiny_tokenizer):
    tokeniser = tokeniser_for(tiny_tokenizer, LLAMA3)
    whole = tokeniser.row({"prompt": ASK, "chosen": "\n\nRain fell. ", "rejected": "Gulls."}, "row 0")
    assert split(tokeniser, whole.chosen) == (USER_L3, "Rain fell.<|eot_id|>")
    step = tokeniser.row({"prompt": ASK, "chosen": "\n\nRain fell. ", "rejected": "Gulls.", "chosen_ends": False}, "")
    assert "".join(split(tokeniser, step.chosen)) == USER_L3 + "\n\nRain fell. "


def test_an_answer_with_its_own_reasoning_is_not_given_an_empty_one(tiny_tokenizer):
    tokeniser = tokeniser_for(tiny_tokenizer, QWEN3)
    text = "<think>\nRain?\n</think>\n\nRain fell. "
    pair = tokeniser.row({"prompt": ASK, "prefix": text, "chosen": "Gulls", "rejected": "She"}, "row 0")
    assert split(tokeniser, pair.chosen)[0] == USER_ML + text.rstrip() + " "


@pytest.mark.parametrize(("template", "row", "words"), [
    (R1, {"prompt": ASK, "chosen": "Rain.", "rejected": "Gulls."}, "not the beginning"),
    (GEMMA, {"prompt": [{"role": "system", "content": "Be brief."}, *ASK], "chosen": "Rain.", "rejected": "Gulls."},
     "System role not supported"),
    (REWRITING, {"prompt": ASK, "prefix": "She", "chosen": " Rain.", "rejected": " Gulls."}, "rewrites"),
])
def test_a_template_that_does_not_fit_rejects_the_row_by_name(tiny_tokenizer, template, row, words):
    result = tokeniser_for(tiny_tokenizer, template).row({"id": "pair-7", **row}, "row 0")
    assert isinstance(result, RejectedRow)
    assert (result.id, result.reason) == ("pair-7", Reason.TEMPLATE)
    assert words in result.detail
