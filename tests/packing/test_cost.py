import math

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from lpo.errors import ConfigError
from lpo.packing import CostModel, Flops, Group, Row, pack, training_flops

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES = {
    "llama": {}, "qwen3": {}, "gemma": {}, "granite": {}, "olmo": {}, "olmo2": {}, "cohere": {}, "glm": {}, "glm4": {},
    "seed_oss": {}, "smollm3": {}, "ernie4_5": {}, "helium": {"head_dim": 8}, "arcee": {}, "ministral3": {},
    "mistral": {"sliding_window": 5}, "phi3": {"sliding_window": 5}, "starcoder2": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "gemma2": {"sliding_window": 5, "layer_types": MIXED}, "gemma3_text": {"sliding_window": 5, "layer_types": MIXED},
    "cohere2": {"sliding_window": 5, "layer_types": MIXED}, "olmo3": {"sliding_window": 5, "layer_types": MIXED},
    "exaone4": {"sliding_window": 5, "layer_types": MIXED}, "ministral": {"sliding_window": 5, "layer_types": MIXED},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5, "layer_types": MIXED},
    "olmoe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 4, **EXPERTS, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2},
    "qwen3_moe": {"num_experts": 4, **EXPERTS, "mlp_only_layers": [0], "decoder_sparse_step": 1},
}


def active_weights(model, config):
    """Linear weights of the layers that one token meets, counted on the model itself."""
    total = 0.0
    for name, weight in model.base_model.layers.named_parameters():
        if weight.dim() == 3:  # experts stacked
            total += weight.numel() * config.num_experts_per_tok / weight.shape[0]
        elif weight.dim() == 2 and not name.endswith("bias"):
            total += weight.numel()
    return total


def attention_seen(model):
    """Width and window of each layer, as its attention function is given them in a forward pass."""
    seen = []

    def record(module, query, key, value, attention_mask, sliding_window=None, **kwargs):
        seen.append((query.shape[1] * query.shape[3], sliding_window))
        return query.transpose(1, 2).contiguous(), None

    AttentionInterface.register("record_attention", record)
    try:
        model.set_attn_implementation("record_attention")
        model(input_ids=torch.ones(1, 3, dtype=torch.long), use_cache=False)
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["record_attention"]
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_constants_are_those_of_the_model(family):
    config = CONFIG_MAPPING[family](**{**SIZES, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config)
    cost = CostModel.of(config)
    assert cost.body_parameters == active_weights(model, config)
    assert (cost.vocab_size, cost.hidden_size) == tuple(model.get_output_embeddings().weight.shape)
    assert list(zip(cost.attention_widths, cost.windows, strict=True)) == attention_seen(model)
    if "layer_types" in FAMILIES[family]:
        assert set(cost.windows) == {None, 5}


def test_a_text_part_is_found():
    text = CONFIG_MAPPING["gemma3_text"](**{**SIZES, **FAMILIES["gemma3_text"]})
    assert CostModel.of(CONFIG_MAPPING["gemma3"](text_config=text.to_dict())) == CostModel.of(text)


@pytest.mark.parametrize("config", [
    AutoConfig.for_model("mamba"), AutoConfig.for_model("gpt2"),
    LlamaConfig(**SIZES, layer_types=["linear_attention"] * 4),
], ids=["state space", "unknown layers", "linear attention"])
def test_a_model_with_unknown_layers_is_refused_by_name(config):
    with pytest.raises(ConfigError, match=config.model_type):
        CostModel.of(config)


def document(n_tokens, n_steps, rejected=None, start_of_first=1):
    """A trunk of n_steps steps and one rejected sibling for each, as pairs."""
    trunk, step = np.arange(n_tokens), n_tokens // n_steps
    rows = []
    for begin in range(0, n_tokens, step):
        sibling = n_tokens * (1 + begin) + np.arange(rejected or step)
        scored_from = max(begin, start_of_first)
        rows += [Row(trunk[: begin + step], scored_from), Row(np.concatenate([trunk[:begin], sibling]), scored_from)]
    return Group(tuple(rows), tuple((side, side + 1) for side in range(0, len(rows), 2)))


LIKE_7B = CostModel.of(LlamaConfig(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
    intermediate_size=14336, vocab_size=152_064))
GEMMA_270M = CostModel.of(CONFIG_MAPPING["gemma3_text"](
    hidden_size=640, num_hidden_layers=18, num_attention_heads=4, num_key_value_heads=1, head_dim=256,
    intermediate_size=2048, vocab_size=262_144, sliding_window=512,
    layer_types=[*["sliding_attention"] * 5, "full_attention"] * 3))


@pytest.mark.parametrize(("model", "length", "steps", "rows_to_tree", "pairs_to_tree", "petaflops"), [
    (LIKE_7B, 8192, 8, 4.09, 2.54, 0.853), (LIKE_7B, 8192, 32, 14.73, 7.86, 0.853),
    (LIKE_7B, 16384, 16, 7.44, 4.22, 1.917), (LIKE_7B, 32768, 8, 3.84, 2.42, 4.678),
    (GEMMA_270M, 8192, 8, 2.48, 1.74, 0.030), (GEMMA_270M, 8192, 32, 7.61, 4.31, 0.030),
    (GEMMA_270M, 16384, 16, 4.33, 2.66, 0.066), (GEMMA_270M, 32768, 8, 2.63, 1.81, 0.151),
])
def test_known_limits_of_sharing(model, length, steps, rows_to_tree, pairs_to_tree, petaflops):
    """Cells of a table that was computed by itself, in closed form, to the digits it was printed with."""
    group = document(length, steps)
    tree, rows, pairs = (way([group]) for way in (model.tree, model.rows, model.pairs))
    assert rows.total / tree.total == pytest.approx(rows_to_tree, abs=0.0051)
    assert pairs.total / tree.total == pytest.approx(pairs_to_tree, abs=0.0051)
    assert 3 * tree.total / 1e15 == pytest.approx(petaflops, abs=0.00051)


SMALL = CostModel(body_parameters=7, hidden_size=3, vocab_size=5, attention_widths=(2, 4, 4), windows=(None, 3, 3))


def flops_by_hand(position_T, scored):
    """SMALL's operations token by token."""
    visible = sum(4 * (2 * (position + 1) + 4 * 2 * min(position + 1, 3)) for position in position_T)
    return Flops(2 * 7 * len(position_T), visible, 2 * 3 * 5 * scored)


def test_every_token_is_counted_where_it_is_computed():
    group = Group((Row([1, 2, 3, 4, 5, 6], 2), Row([1, 2, 3, 9], 1), Row([1, 2, 3, 4, 5], 4, 5), Row([8, 8], 1)),
                  units=((0, 1), (0, 2), (3,)))
    tree = pack([group])
    assert SMALL.tree([group]) == flops_by_hand(tree.position_ids_T.tolist(), tree.n_scored)
    assert (tree.n_tokens, tree.n_scored) == (9, 7)
    assert SMALL.pairs([group]) == (
        flops_by_hand([0, 1, 2, 3, 4, 5, 3], 6) + flops_by_hand([0, 1, 2, 3, 4, 5], 4) + flops_by_hand([0, 1], 1))
    of_each = [flops_by_hand(range(6), 4), flops_by_hand(range(4), 3), flops_by_hand(range(5), 1),
               flops_by_hand(range(2), 1)]
    assert SMALL.rows([group]) == of_each[0] + of_each[1] + of_each[0] + of_each[2] + of_each[3]
    assert SMALL.tree([group, group]) == SMALL.tree([group]) + SMALL.tree([group])


def test_training_in_units_of_the_forward_pass():
    body, attention, head = (Flops(body=1), Flops(attention=1), Flops(head=1))
    full, lora = {"reference_passes": 0}, {"reference_passes": 0, "body_trains": False, "head_trains": False}
    assert [training_flops(part, **full) for part in (body, attention, head)] == [3, 3, 4]
    assert [training_flops(part, **lora) for part in (body, attention, head)] == [2, 3, 2]
    assert [training_flops(part, **lora, checkpointing=True) for part in (body, attention, head)] == [3, 4, 2]
    assert training_flops(Flops(1, 2, 4)) == 3 * 1 + 3 * 2 + 4 * 4 + 7
    assert math.isclose(training_flops(Flops(1, 2, 4), **{**lora, "reference_passes": 0.25}), 2 + 6 + 8 + 7 / 4)
