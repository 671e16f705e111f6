"""Token trees through real architectures, against the same model reading one row at a time."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

from lpo.errors import ConfigError, UnsoundError
from lpo.kernels import chunked_logprobs
from lpo.kernels.tree_attention import TreeBackend, enable_tree_attention, refuse_tree_positions, tree_hidden_states
from lpo.packing import Group, PackedTree, Row, pack
from tests.tiny_models import make_model

KINDS = ["llama", "qwen2", "gemma3"]


def forest(seed: int = 0) -> list[Group]:
    """Two documents with branches at several depths, single tokens, and levels; longer than the windows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(3, 500, (length,), generator=generator).tolist()

    document, other, shared = draw(90), draw(20), draw(4)
    rows = [(document, 5), (document[:40] + draw(15), 30), (document[:40] + draw(1), 40), (document[:7] + draw(30), 7),
            (document[:61] + shared + draw(6), 61), (document[:61] + shared + draw(25), 63),
            (document[:61] + shared, 62)]
    return [Group(tuple(Row(ids, start) for ids, start in rows)), Group((Row(other, 1), Row(other[:9] + draw(3), 9)))]


def weights(groups: list[Group]) -> list[torch.Tensor]:
    """How much each scored token counts, by row."""
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(row.n_scored, generator=generator, dtype=torch.float64)
            for group in groups for row in group.rows]


def by_rows(model, groups):
    """Log-probs of every row and gradients of a weighted sum of them, one row at a time, from full logits."""
    rows = [row for group in groups for row in group.rows]
    logprobs, loss = [], 0.0
    for row, weight_N in zip(rows, weights(groups), strict=True):
        logits_TV = model(input_ids=torch.tensor([row.ids])).logits[0]
        index_N = torch.arange(row.start, row.end)
        target_N = torch.tensor(row.ids)[index_N]
        logprobs.append(-F.cross_entropy(logits_TV[index_N - 1], target_N, reduction="none"))
        loss = loss + (logprobs[-1] * weight_N).sum()
    return logprobs, gradients(model, loss)


def by_tree(model, groups, backend=TreeBackend.AUTO):
    tree = pack(groups)
    hidden_TD = tree_hidden_states(model.base_model, tree, backend)
    logprobs_N = chunked_logprobs(hidden_TD[tree.hidden_index_N], model.get_output_embeddings().weight,
                                  tree.target_id_N)
    logprobs = [logprobs_N[tokens] for tokens in tree.row_tokens]
    loss = sum((row_N * weight_N).sum() for row_N, weight_N in zip(logprobs, weights(groups), strict=True))
    return logprobs, gradients(model, loss)


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_alike(ours, exact, tolerance):
    for ours_N, exact_N in zip(ours[0], exact[0], strict=True):
        assert bool((ours_N - exact_N).abs().max() <= tolerance * exact_N.abs().max())
    assert ours[1].keys() == exact[1].keys()
    for name, grad in exact[1].items():
        assert float((ours[1][name] - grad).norm()) <= tolerance * float(grad.norm()), name


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 2e-5)])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_and_all_gradients_equal_one_row_at_a_time(kind, implementation, dtype, tolerance):
    model = make_model(kind).to(dtype)
    model.set_attn_implementation(implementation)
    groups = forest()
    exact = by_rows(model, groups)
    enable_tree_attention(model)
    assert_alike(by_tree(model, groups), exact, tolerance)
    assert_alike(by_tree(model, groups, TreeBackend.DENSE), exact, tolerance)
    model.train().gradient_checkpointing_enable()
    assert_alike(by_tree(model, groups), exact, tolerance)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_forwards_without_a_tree_are_bitwise_as_before(kind, implementation):
    model = make_model(kind)
    model.set_attn_implementation(implementation)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 500, (3, 40), generator=generator)
    padded = torch.ones_like(ids)
    padded[0, :11] = padded[2, :30] = 0
    packed_positions = torch.cat([torch.arange(25), torch.arange(15)])[None].expand(3, -1)

    def answers():
        with torch.no_grad():
            return [model(input_ids=ids).logits, model(input_ids=ids, attention_mask=padded).logits,
                    model.base_model(input_ids=ids).last_hidden_state,
                    model.base_model(input_ids=ids, position_ids=packed_positions).last_hidden_state,
                    model.generate(input_ids=ids, attention_mask=padded, max_new_tokens=20, do_sample=False)]

    before = answers()
    enable_tree_attention(model)
    assert model.config._attn_implementation == f"lpo_tree_{implementation}"
    for ours, theirs in zip(answers(), before, strict=True):
        assert torch.equal(ours, theirs)


def test_enabling_twice_copying_and_peft_change_nothing():
    from peft import LoraConfig, get_peft_model

    model = make_model("gemma3")
    tree = pack(forest())
    enable_tree_attention(model)
    with torch.no_grad():
        expected_TD = tree_hidden_states(model.base_model, tree)
        enable_tree_attention(model)
        copied = copy.deepcopy(model)
        assert torch.equal(tree_hidden_states(model.base_model, tree), expected_TD)
        assert torch.equal(tree_hidden_states(copied.base_model, tree), expected_TD)
        adapted = get_peft_model(copied, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        base = adapted.get_base_model()
        enable_tree_attention(base)
        changed_TD = tree_hidden_states(base.base_model, tree)
        assert not torch.allclose(changed_TD, expected_TD, atol=1e-2)
        with adapted.disable_adapter():
            assert torch.equal(tree_hidden_states(base.base_model, tree), expected_TD)


def test_a_saved_model_knows_nothing_of_it(tmp_path):
    from transformers import AutoModelForCausalLM

    model = make_model("llama")
    enable_tree_attention(model)
    model.save_pretrained(tmp_path)
    assert all("lpo_tree" not in path.read_text() for path in tmp_path.glob("*.json"))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_autocast_computes_in_its_dtype():
    groups = forest()
    tree = pack(groups)
    model = make_model("llama")
    enable_tree_attention(model)
    with torch.no_grad():
        exact_TD = tree_hidden_states(model.base_model, tree)
        with torch.autocast("cpu", torch.bfloat16):
            ours_TD = tree_hidden_states(model.base_model, tree)
            theirs = [model.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
                      for group in groups for row in group.rows]
    ours_error = max(float((ours_TD[tree.path(row)] - exact_TD[tree.path(row)]).norm()) for row in range(len(theirs)))
    their_error = max(float((theirs[row] - exact_TD[tree.path(row)]).norm()) for row in range(len(theirs)))
    assert 0 < ours_error < 1.5 * their_error


def test_a_layer_that_does_not_read_the_tree_is_found():
    model = make_model("llama")
    tree = pack(forest())
    with pytest.raises(UnsoundError, match="layers 0, 1 did not"):
        tree_hidden_states(model.base_model, tree)
    enable_tree_attention(model)
    attention = model.model.layers[1].self_attn
    attention.config = copy.deepcopy(attention.config)
    attention.config._attn_implementation = "sdpa"
    with pytest.raises(UnsoundError, match="layers 1 did not"):
        tree_hidden_states(model.base_model, tree)


def test_attention_dropout_is_refused_while_it_is_on():
    model = make_model("llama", attention_dropout=0.1)
    enable_tree_attention(model)
    tree = pack(forest())
    tree_hidden_states(model.base_model, tree)
    with pytest.raises(UnsoundError, match="dropout"):
        tree_hidden_states(model.train().base_model, tree)


def test_a_window_that_only_the_mask_knows_is_refused():
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16,
             "shared_expert_intermediate_size": 16, "num_experts": 2, "num_experts_per_tok": 1,
             "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**sizes, use_sliding_window=True, sliding_window=8,
                                               max_window_layers=2)).eval()
    enable_tree_attention(model)
    with pytest.raises(UnsoundError, match="sliding window"):
        tree_hidden_states(model.base_model, pack(forest()))


def test_a_layer_that_makes_its_own_mask_is_refused():
    from transformers import DogeConfig, DogeForCausalLM

    model = DogeForCausalLM(DogeConfig(vocab_size=512, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                       num_attention_heads=2)).eval()
    enable_tree_attention(model)
    with pytest.raises(UnsoundError, match="mask of its own"):
        tree_hidden_states(model.base_model, pack(forest()))


def test_a_batch_of_rows_does_not_pass_as_a_tree():
    model = make_model("llama")
    enable_tree_attention(model)
    call = TreeBackend.SEGMENTS.call(pack(forest()), model)
    with pytest.raises(UnsoundError, match="a tree of"):
        model.base_model(input_ids=torch.zeros(2, 7, dtype=torch.long), tree=call, use_cache=False)


def refused():
    """Models whose tokens would see more or less than their ancestors, or that a tree would not reach."""
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        FalconH1Config,
        FalconH1ForCausalLM,
        Llama4ForCausalLM,
        Llama4TextConfig,
        MambaConfig,
        MambaForCausalLM,
        Qwen3NextConfig,
        Qwen3NextForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32,
             "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
    return {
        "linear attention": (Qwen3NextForCausalLM, Qwen3NextConfig(
            **small, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
            shared_expert_intermediate_size=16, linear_num_key_heads=2, linear_num_value_heads=2,
            linear_key_head_dim=16, linear_value_head_dim=16), "linear_attention"),
        "chunks": (Llama4ForCausalLM, Llama4TextConfig(
            **small, num_local_experts=2, intermediate_size_mlp=32), "chunked_attention"),
        "both directions": (None, None, "both directions"),
        "recurrence": (MambaForCausalLM, MambaConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=4), "linear_attention|recurrence"),
        "attention beside recurrence": (FalconH1ForCausalLM, FalconH1Config(
            **small, mamba_d_ssm=32, mamba_n_heads=2, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=8),
            "hybrid|recurrence"),
        "position bias": (BloomForCausalLM, BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2),
                          "does not let its attention"),
        "encoder": (T5ForConditionalGeneration, T5Config(
            vocab_size=64, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2), "T5"),
    }


@pytest.mark.parametrize("name", ["linear attention", "chunks", "both directions", "recurrence",
                                  "attention beside recurrence", "position bias", "encoder"])
def test_models_that_cannot_read_trees_are_refused_by_name(name):
    kind, config, cause = refused()[name]
    model = make_model("gemma3", use_bidirectional_attention=True) if kind is None else kind(config)
    before = model.config._attn_implementation
    with pytest.raises(ConfigError, match=cause) as caught:
        enable_tree_attention(model)
    assert "packing: rows" in caught.value.mend
    assert model.config._attn_implementation == before


def test_flex_attention_is_refused_on_a_cpu_before_anything_runs():
    model = make_model("llama")
    with pytest.raises(ConfigError, match="no backward on a CPU"):
        enable_tree_attention(model, "flex")
    assert model.config._attn_implementation == "sdpa"
    assert TreeBackend.AUTO.on(torch.device("cpu"), model) is TreeBackend.SEGMENTS


@pytest.mark.parametrize("positions", [
    [[0, 1, 2, 3]], [[37]], [[5, 6, 7]], [[0, 1, 2, 0, 1, 0]], [[0, 0, 0, 1, 2]], [[1, 1, 1, 0, 1, 2]],
    [[0, 1, 2, 3], [1, 1, 0, 1]], [[[0, 1, 2], [0, 1, 2]], [[0, 1, 2], [0, 1, 0]]]])
def test_positions_of_rows_pass(positions):
    refuse_tree_positions(torch.tensor(positions))


@pytest.mark.parametrize("positions", [
    [[0, 1, 2, 3, 2, 3]], [[0, 1, 2, 2]], [[0, 1, 3]], [[0, 1, 2], [0, 1, 1]], [[0, 1, 2, 0, 1, 1]]])
def test_positions_of_trees_are_refused_without_a_tree(positions):
    with pytest.raises(UnsoundError, match="position_ids jump"):
        refuse_tree_positions(torch.tensor(positions))


def test_every_packed_tree_with_a_branch_has_positions_that_are_refused():
    tree: PackedTree = pack(forest()[:1])
    with pytest.raises(UnsoundError):
        refuse_tree_positions(tree.position_ids_T[None])
