"""Log-probs through the replaced forward, against the model's own logits."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lpo.errors import ConfigError, UnsoundError
from lpo.trainers.scoring import attach_scoring, check_head

IDS = torch.tensor([[1, 40, 50, 60, 70, 80], [1, 45, 55, 65, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
SCORED = torch.tensor([2, 3, 4, 6, 7, 8])  # hidden states that predict the tokens after them


def oracle(model):
    logprobs = torch.stack([model(input_ids=row[None, :n]).logits[0].double().log_softmax(-1)[t, row[t + 1]]
                            for row, n, places in ((IDS[0], 6, (2, 3, 4)), (IDS[1], 4, (0, 1, 2))) for t in places])
    return logprobs


@pytest.mark.parametrize(("kind", "config"), [
    ("llama", {}), ("llama", {"attention_bias": True}), ("qwen2", {}), ("gemma3", {}),
    ("gemma3", {"final_logit_softcapping": 0.05}),
])
def test_scored_tokens_equal_one_row_at_a_time(tiny_model, kind, config):
    model = tiny_model(kind, **config)
    expected = oracle(model)
    attach_scoring(model)
    got = model(input_ids=IDS, attention_mask=MASK, scored_index=SCORED, scored_targets=IDS.flatten()[SCORED + 1])
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(model(input_ids=IDS).logits, model._plain_forward(input_ids=IDS).logits)


def scaled_model(family):
    from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig

    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    config = {"cohere": CohereConfig(**sizes, logit_scale=0.4), "granite": GraniteConfig(**sizes, logits_scaling=8.0)}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config[family], dtype=torch.float32).eval()


@pytest.mark.parametrize("family", ["cohere", "granite"])
def test_families_that_scale_their_logits(family):
    model = scaled_model(family)
    expected = oracle(model)
    attach_scoring(model)
    got = model(input_ids=IDS, attention_mask=MASK, scored_index=SCORED, scored_targets=IDS.flatten()[SCORED + 1])
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)
    check_head(model, IDS[0], 1e-4)


def test_a_head_that_transforms_its_logits_in_an_unknown_way_is_found(tiny_model):
    model = tiny_model("llama")
    plain = model.forward

    def odd(*args, **kwargs):
        output = plain(*args, **kwargs)
        output.logits = output.logits * 3
        return output

    model.forward = odd
    attach_scoring(model)
    with pytest.raises(UnsoundError, match="model's own logits"):
        check_head(model, IDS[0], 1e-3)


def test_generation_is_untouched(tiny_model):
    model = tiny_model("qwen2")
    before = model.generate(IDS[:1], max_new_tokens=6, do_sample=False)
    attach_scoring(model)
    assert torch.equal(model.generate(IDS[:1], max_new_tokens=6, do_sample=False), before)


def test_an_adapted_head_is_refused(tiny_model):
    for settings in ({"target_modules": ["lm_head", "q_proj"]}, {"target_modules": ["q_proj"],
                                                                 "modules_to_save": ["lm_head"]}):
        model = get_peft_model(tiny_model("llama"), LoraConfig(**settings))
        with pytest.raises(ConfigError, match="output head"):
            attach_scoring(model.get_base_model())


def test_a_copy_of_a_model_in_use_scores_with_its_own_weights(tiny_model):
    model = tiny_model("llama")
    attach_scoring(model)
    attach_scoring(model)
    twin = copy.deepcopy(model)
    attach_scoring(twin)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    targets = IDS.flatten()[SCORED + 1]
    assert torch.allclose(model(input_ids=IDS, scored_index=SCORED, scored_targets=targets).exp(),
                          torch.tensor(1 / 512))
    scored = twin(input_ids=IDS, attention_mask=MASK, scored_index=SCORED, scored_targets=targets)
    torch.testing.assert_close(scored.double(), oracle(twin), rtol=0, atol=1e-5)
    assert twin(input_ids=IDS).logits.abs().max() > 0
