"""Token trees through every family that must read them, trained in every way, against one row at a time.

What is compared are log-probs from the model's own logits and the gradients of all trained parameters, summed over
rows that the plain model reads one by one.
"""

from dataclasses import replace

import pytest
import torch

from lpo.errors import UnsoundError
from lpo.kernels.segment_attention import SegmentCall
from lpo.packing import Group, Row, pack
from lpo.trainers.scoring import attach_scoring
from tests.family_models import FAMILIES, WINDOW, WINDOWED, make_family

TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-5}
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False}


def draw(length: int, generator: torch.Generator) -> list[int]:
    return torch.randint(3, 120, (length,), generator=generator).tolist()


def documents() -> list[Group]:
    """Two groups: a trunk and branches deeper than the windows, siblings, a branch off a branch, rows within rows."""
    generator = torch.Generator().manual_seed(0)
    trunk, other, shared, *rests = (draw(n, generator) for n in (45, 20, 4, 9, 1, 16, 3, 14, 3))
    assert len(trunk) > 3 * WINDOW
    rows = [(trunk, 5), (trunk[:30] + rests[0], 25), (trunk[:30] + rests[1], 30), (trunk[:7] + rests[2], 7),
            (trunk[:38] + shared + rests[3], 38), (trunk[:38] + shared + rests[4], 40), (trunk[:38] + shared, 39)]
    others = (Row(other, 1), Row(other[:9] + rests[5], 9, 11))
    return [Group(tuple(Row(ids, start) for ids, start in rows)), Group(others)]


ROWS = [row for group in documents() for row in group.rows]


def upstream() -> list[torch.Tensor]:
    """How much each scored token counts, by row."""
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(row.n_scored, generator=generator, dtype=torch.float64) for row in ROWS]


def by_rows(model):
    """Log-probs of every row and gradients of their weighted sum, by the plain model."""
    logprobs = []
    for row in ROWS:
        logprobs_TV = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        index_N = torch.arange(row.start, row.end)
        logprobs.append(logprobs_TV[index_N - 1, torch.tensor(row.ids)[index_N]])
    return logprobs, gradients(model, logprobs)


def by_tree(model, call=None):
    tree = pack(documents())
    logprobs_N = model(tree=tree if call is None else call(tree))
    logprobs = [logprobs_N[tokens] for tokens in tree.row_tokens]
    return logprobs, gradients(model, logprobs)


def gradients(model, logprobs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum((row_N * weight_N).sum() for row_N, weight_N in zip(logprobs, upstream(), strict=True)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def assert_alike(ours, exact, tolerance):
    for ours_N, exact_N in zip(ours[0], exact[0], strict=True):
        assert bool((ours_N - exact_N).norm() <= tolerance * exact_N.norm())
    assert ours[1].keys() == exact[1].keys()
    norm = torch.stack([grad.norm() for grad in exact[1].values()]).norm()
    error = torch.stack([(ours[1][name] - grad).norm() for name, grad in exact[1].items()]).norm()
    assert bool(error <= tolerance * norm)
    for name, grad in exact[1].items():
        assert bool((ours[1][name] - grad).norm() <= tolerance * torch.maximum(grad.norm(), 1e-3 * norm)), name


def in_dtype(model, dtype):
    if dtype is torch.float64 and model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # the grouped matrix product has no float64
    return model.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_all_gradients_equal_one_row_at_a_time(family, dtype):
    model = in_dtype(make_family(family), dtype)
    exact = by_rows(model)
    attach_scoring(model, "segments")
    assert_alike(by_tree(model), exact, TOLERANCES[dtype])
    model.train().gradient_checkpointing_enable()
    assert_alike(by_tree(model), exact, TOLERANCES[dtype])


class Forgetful(SegmentCall):
    """Tree attention that leaves out something the layer asked for."""

    def __init__(self, tree, forgotten):
        super().__init__(tree)
        self.forgotten = forgotten

    def attend(self, layer, query, key, value):
        return super().attend(replace(layer, **{self.forgotten: None}), query, key, value)


@pytest.mark.parametrize("family, feature", [*((family, "window") for family in WINDOWED), ("gemma2", "softcap"),
                                             ("gpt_oss", "sinks_H")])
def test_every_feature_of_attention_counts_in_these_models(family, feature):
    model = make_family(family)
    attach_scoring(model, "segments")
    with torch.no_grad():
        tree = pack(documents())
        whole_N, forgetful_N = model(tree=tree), model(tree=Forgetful(tree, feature))
    assert float((whole_N - forgetful_N).abs().max()) > 0.1


@pytest.mark.parametrize("family", ["phi3", "gpt_oss"])
def test_lora_gradients_equal_those_of_one_row_at_a_time(family):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(make_family(family), LoraConfig(**LORA))
    exact = by_rows(model)
    attach_scoring(model.get_base_model(), "segments")
    ours = by_tree(model)
    assert ours[1] and all("lora" in name for name in ours[1])
    assert_alike(ours, exact, TOLERANCES[torch.float32])
    model.train().enable_input_require_grads()
    model.gradient_checkpointing_enable()
    assert_alike(by_tree(model), exact, TOLERANCES[torch.float32])


def test_lora_gradients_on_4_bit_weights_equal_those_of_one_row_at_a_time(tmp_path):
    pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_family("gemma3").save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, device_map={"": "cpu"},
                                                 quantization_config=settings)
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    model = get_peft_model(prepare_model_for_kbit_training(
        model, gradient_checkpointing_kwargs={"use_reentrant": False}), LoraConfig(**LORA)).train()
    exact = by_rows(model)
    attach_scoring(model.get_base_model(), "segments")
    assert_alike(by_tree(model), exact, TOLERANCES[torch.float32])


@pytest.mark.parametrize("rotation, family, cause", [
    ({"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}, "phi3", "longrope"),
    ({"rope_type": "dynamic", "factor": 4.0}, "llama", "dynamic")])
def test_rows_that_would_be_rotated_by_their_length_are_refused(rotation, family, cause):
    def model_for(length):
        return make_family(family, max_position_embeddings=length, original_max_position_embeddings=length,
                           partial_rotary_factor=1.0, rope_parameters=rotation | {
                               "rope_theta": 10000.0, "original_max_position_embeddings": length})

    longest = max(len(row.ids) for row in ROWS)
    model = model_for(longest)
    exact = by_rows(model)
    attach_scoring(model, "segments")
    assert_alike(by_tree(model), exact, TOLERANCES[torch.float32])
    model = model_for(longest - 1)
    attach_scoring(model, "segments")
    with pytest.raises(UnsoundError, match=f"{cause}.* beyond {longest - 1} tokens"):
        model(tree=pack(documents()))
