"""Reward models: tiny real ones, made here, against transformers' own forward pass on one text at a time."""

import asyncio
import copy
import math
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ENGLISH, make_model
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, BertConfig, DebertaV2Config, LlamaConfig, Qwen2Config

from lpo.errors import BackendError, ConfigError
from lpo.records import Message, Prompt
from lpo.reward import Draft, RewardModelScorer, Unscored, create_scorer
from lpo.reward.reward_model import sigmoid
from lpo.reward_config import RewardConfig, RewardModelConfig

CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
TALK = Prompt(id="t", prompt=(Message(role="system", content="Be brief."), Message(role="user", content="A story?")),
              context="The harbour lay in the rain.")
PLAIN = Prompt(id="p", prompt="The letter:\n")
SIZES = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_labels": 1}
DECODER = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2}


def classifier(kind, **changes):
    configs = {
        "llama": (LlamaConfig, {**DECODER, "pad_token_id": 0}),
        "qwen2": (Qwen2Config, {**DECODER, "pad_token_id": 2}),  # padded with what ends its texts
        "llama, no padding": (LlamaConfig, {**DECODER, "pad_token_id": None}),
        "bert": (BertConfig, {**SIZES, "max_position_embeddings": 512, "pad_token_id": 0}),
        "deberta": (DebertaV2Config, {
            **SIZES, "max_position_embeddings": 512, "pad_token_id": 0, "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"], "position_biased_input": False, "type_vocab_size": 2,
            "pooler_hidden_size": 32,
        }),
    }
    make, values = configs[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoModelForSequenceClassification.from_config(
            make(**{**values, "initializer_range": 0.2, **changes})).eval()


@pytest.fixture(scope="module")
def chat_tokenizer(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="module")
def pair_tokenizer(tiny_tokenizer):
    """As BERT's: two segments between separators."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.sep_token = "</s>"
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def drafts(prompt, *texts):
    return [Draft(prompt, text[:7], text[7:], True, None) for text in texts]


def score(scorer, some):
    return asyncio.run(scorer.score(some))


def raws(judgements):
    return [judgement.parts["raw"] for judgement in judgements]


def alone(model, **encoded):
    """The model's own output for one text."""
    with torch.no_grad():
        return model(**{name: torch.tensor([list(ids)]) for name, ids in encoded.items()}).logits.item()


TEXTS = ["A short one.", *(ENGLISH[:length] for length in (200, 90, 330, 140)), "And the rain fell."]


# What the model reads


@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama, no padding", "bert", "deberta"])
@pytest.mark.parametrize("prompt", [TALK, PLAIN])
def test_with_a_chat_template_batches_score_as_each_conversation_alone(kind, prompt, chat_tokenizer):
    model = classifier(kind)
    turns = [("user", PLAIN.prompt)] if prompt is PLAIN else [
        ("system", "Be brief."), ("user", "The harbour lay in the rain.\n\nA story?")]
    expected = []
    for text in TEXTS:
        said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in [*turns, ("assistant", text)])
        ids = chat_tokenizer(said, add_special_tokens=False)["input_ids"]
        expected.append(alone(model, input_ids=ids))
    judgements = score(RewardModelScorer(model, chat_tokenizer, batch_size=4), drafts(prompt, *TEXTS))
    assert raws(judgements) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in expected}) == len(TEXTS)


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_an_encoder_reads_prompt_and_answer_as_two_segments(kind, pair_tokenizer):
    model = classifier(kind)
    for prompt, before in ((PLAIN, "The letter:\n"), (TALK, "Be brief.\n\nThe harbour lay in the rain.\n\nA story?")):
        expected = []
        for text in TEXTS:
            first, second = (pair_tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, text))
            ids = [1, *first, 2, *second, 2]
            expected.append(alone(model, input_ids=ids,
                                  token_type_ids=[0] * (len(first) + 2) + [1] * (len(second) + 1)))
        judgements = score(RewardModelScorer(model, pair_tokenizer, batch_size=4), drafts(prompt, *TEXTS))
        assert raws(judgements) == pytest.approx(expected, abs=1e-5)


def test_without_template_and_separator_it_reads_one_text(tiny_tokenizer):
    model = classifier("llama")
    asked = "Be brief.\n\nThe harbour lay in the rain.\n\nA story?\n\n"
    for prompt, before in ((PLAIN, "The letter:\n"), (TALK, asked)):
        expected = [alone(model, input_ids=tiny_tokenizer(before + text)["input_ids"]) for text in TEXTS]
        judgements = score(RewardModelScorer(model, tiny_tokenizer), drafts(prompt, *TEXTS))
        assert raws(judgements) == pytest.approx(expected, abs=1e-5)


# Scores


def test_the_score_is_the_sigmoid_and_the_output_stands_beside_it(chat_tokenizer):
    for judgement in score(RewardModelScorer(classifier("llama"), chat_tokenizer), drafts(TALK, *TEXTS)):
        assert judgement.scorer == "reward_model" and judgement.scores == {"reward_model": judgement.overall}
        assert judgement.overall == pytest.approx(1 / (1 + math.exp(-judgement.parts["raw"])))
        assert judgement.parts["tokens"] > 20


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_sigmoid_never_overflows_and_has_its_symmetry(value):
    assert 0 <= sigmoid(value) <= 1
    assert sigmoid(value) + sigmoid(-value) == pytest.approx(1)
    assert sigmoid(value) == pytest.approx(torch.sigmoid(torch.tensor(value, dtype=torch.float64)).item())


def test_scores_do_not_depend_on_who_else_asks(chat_tokenizer):
    scorer = RewardModelScorer(classifier("llama"), chat_tokenizer, batch_size=3)
    groups = [drafts(TALK, *TEXTS[start:]) for start in range(4)]

    async def together():
        return await asyncio.gather(*(scorer.score(group) for group in groups))

    assert asyncio.run(together()) == [score(scorer, group) for group in groups]


def test_calls_run_in_one_thread_and_the_loop_goes_on(chat_tokenizer):
    threads, turns = [], []

    class Watched(RewardModelScorer):
        def _forward(self, rows):
            threads.append(threading.current_thread())
            assert released.wait(timeout=20)
            return super()._forward(rows)

    released = threading.Event()
    scorer = Watched(classifier("llama"), chat_tokenizer, batch_size=2)

    async def work():
        calls = [asyncio.create_task(scorer.score(drafts(TALK, *TEXTS))) for _ in range(3)]
        while not threads:
            await asyncio.sleep(0.01)
        for _ in range(20):  # the model is at work all the while
            await asyncio.sleep(0)
            turns.append(sum(call.done() for call in calls))
        released.set()
        return await asyncio.gather(*calls)

    first, *others = asyncio.run(work())
    assert turns == [0] * 20
    assert len(threads) == 9 and len(set(threads)) == 1 and threads[0] is not threading.current_thread()
    assert all(other == first for other in others)
    scorer.close()
    assert not threads[0].is_alive()


def test_no_drafts_give_no_judgements(chat_tokenizer):
    assert score(RewardModelScorer(classifier("llama"), chat_tokenizer), []) == []


# What has no score


def test_a_text_that_is_too_long_is_unscored_and_never_cut(chat_tokenizer):
    model = classifier("llama")
    some = drafts(TALK, "Short.", "word " * 600, "Short, too.")
    long = len(chat_tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The harbour lay in the rain.\n\n"
         "A story?"}, {"role": "assistant", "content": "word " * 600}], return_dict=False))
    judgements = score(RewardModelScorer(model, chat_tokenizer), some)
    assert [judgement.unscored for judgement in judgements] == [None, Unscored.REQUEST_REJECTED, None]
    assert judgements[1].parts == {"tokens": long, "cause": f"{long} tokens, the model reads 512"}
    lone = score(RewardModelScorer(model, chat_tokenizer), some[::2])
    assert raws(judgements[::2]) == pytest.approx(raws(lone), abs=1e-5)
    tokens = judgements[0].parts["tokens"]
    exact = score(RewardModelScorer(model, chat_tokenizer, max_length=tokens), some[:1])
    assert exact[0].unscored is None
    short = score(RewardModelScorer(model, chat_tokenizer, max_length=tokens - 1), some[:1])
    assert short[0].unscored == Unscored.REQUEST_REJECTED


def test_the_tokenizers_limit_counts_unless_another_is_given(chat_tokenizer):
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.model_max_length = 30
    [judgement] = score(RewardModelScorer(classifier("llama"), tokenizer), drafts(TALK, TEXTS[1]))
    assert "the model reads 30" in judgement.parts["cause"]
    [judgement] = score(RewardModelScorer(classifier("llama"), tokenizer, max_length=512), drafts(TALK, TEXTS[1]))
    assert judgement.unscored is None
    with pytest.raises(ConfigError, match="reads 512 tokens, not 513"):
        RewardModelScorer(classifier("llama"), tokenizer, max_length=513)


def test_an_output_that_is_no_number_is_no_score(chat_tokenizer):
    for broken in (math.nan, math.inf, -math.inf):
        model = classifier("llama")
        with torch.no_grad():
            model.score.weight.fill_(broken)
        [judgement] = score(RewardModelScorer(model, chat_tokenizer), drafts(TALK, "Text."))
        assert (judgement.overall, judgement.unscored) == (None, Unscored.OUT_OF_RANGE)
        assert judgement.parts["raw"] in ("nan", "inf", "-inf") and judgement.to_json()


def test_an_empty_answer_and_refused_turns_are_unscored(chat_tokenizer):
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system turn') if messages[0]['role'] == 'system' }}" + CHAT
    scorer = RewardModelScorer(classifier("llama"), tokenizer)
    empty, = score(scorer, [Draft(PLAIN, " ", "\n", True, None)])
    assert empty.unscored == Unscored.EMPTY
    refused, accepted = score(scorer, [*drafts(TALK, "An answer."), *drafts(PLAIN, "An answer.")])
    assert refused.unscored == Unscored.REQUEST_REJECTED and "no system turn" in refused.parts["cause"]
    assert accepted.unscored is None


# Loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory, chat_tokenizer):
    folder = tmp_path_factory.mktemp("reward")
    classifier("llama").save_pretrained(folder)
    chat_tokenizer.save_pretrained(folder)
    return folder


def test_a_model_is_loaded_as_the_configuration_says(folder, chat_tokenizer):
    config = RewardModelConfig(model=str(folder), batch_size=2, max_length=100)
    scorer = RewardModelScorer.load(config)
    expected = score(RewardModelScorer(classifier("llama"), chat_tokenizer, max_length=100), drafts(TALK, *TEXTS))
    judgements = score(scorer, drafts(TALK, *TEXTS))
    assert [one.unscored for one in judgements] == [one.unscored for one in expected]
    scored = [(one, other) for one, other in zip(judgements, expected, strict=True) if one.unscored is None]
    assert 2 <= len(scored) < len(TEXTS)
    assert raws(one for one, _ in scored) == pytest.approx(raws(other for _, other in scored), abs=1e-5)
    halved = RewardModelScorer.load(RewardModelConfig(model=str(folder), dtype="bfloat16"))
    assert raws(score(halved, drafts(TALK, "Text."))) == pytest.approx(raws(score(scorer, drafts(TALK, "Text."))),
                                                                      abs=0.1)
    combined = create_scorer(RewardConfig(judge=0, reward_model=1, length=1), None, reward_model=scorer)
    [judgement] = score(combined, [Draft(TALK, "", "Text.", True, 1)])
    assert judgement.overall == pytest.approx((judgement.scores["reward_model"] + 1) / 2)


def test_a_model_with_several_outputs_is_refused_by_name(tmp_path, chat_tokenizer):
    classifier("llama", num_labels=3).save_pretrained(tmp_path)
    chat_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="3 outputs") as caught:
        RewardModelScorer.load(RewardModelConfig(model=str(tmp_path)))
    assert caught.value.where == str(tmp_path) and caught.value.mend


def test_a_language_model_is_refused_whose_head_would_be_random(tmp_path, tiny_tokenizer):
    make_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"score\.weight") as caught:
        RewardModelScorer.load(RewardModelConfig(model=str(tmp_path)))
    assert caught.value.where == str(tmp_path) and "reward model" in (caught.value.mend or "")


def test_what_cannot_be_loaded_is_said_with_a_mend(tmp_path, folder):
    with pytest.raises(BackendError, match="cannot be loaded") as caught:
        RewardModelScorer.load(RewardModelConfig(model=str(tmp_path / "nowhere")))
    assert caught.value.mend
    with pytest.raises(BackendError, match="no device 'cuda:9'"):
        RewardModelScorer.load(RewardModelConfig(model=str(folder), device="cuda:9"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (pickled / name).write_bytes((folder / name).read_bytes())
    torch.save(classifier("llama").state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(BackendError, match=r"\.bin"):
        RewardModelScorer.load(RewardModelConfig(model=str(pickled)))


def test_what_fails_in_the_model_is_a_backend_error(chat_tokenizer):
    model = classifier("bert")
    model.config.max_position_embeddings = 10_000  # says more than it has
    with pytest.raises(BackendError, match="the model failed"):
        score(RewardModelScorer(model, chat_tokenizer), drafts(TALK, "word " * 600))
