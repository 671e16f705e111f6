"""FlexAttention over token trees: its block mask against every pair of tokens, its numbers against the dense way.

PyTorch compiles FlexAttention for training on GPUs only. On a CPU its uncompiled form computes what the kernels do,
and its backward too once PyTorch's check of the device is out of the way.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as torch_flex

from lpo.errors import ConfigError
from lpo.kernels import flex_attention
from lpo.kernels.block_mask import visible_blocks
from lpo.kernels.dense_attention import DenseCall, visible
from lpo.kernels.flex_attention import FlexCall, block_mask
from lpo.kernels.tree_attention import TreeBackend, enable_tree_attention, tree_hidden_states
from lpo.kernels.tree_call import AttentionLayer
from lpo.packing import Group, PackedTree, Row, pack
from lpo.trainers.scoring import attach_scoring
from tests.family_models import make_family
from tests.tiny_models import make_model


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None, raising=False)


def trunk_and_branches(n_trunk: int, n_branch: int, seed: int = 0) -> PackedTree:
    """Two documents; of the first, branches at several depths and a branch off a branch."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(3, 120, (length,), generator=generator).tolist()

    trunk = draw(n_trunk)
    branches = [trunk[: n_trunk * step // 5] + draw(n_branch) for step in range(1, 5)]
    branches.append(branches[-1][:-3] + draw(n_branch))
    return pack([Group(tuple(Row(ids, 1) for ids in [trunk, *branches])), Group((Row(draw(n_branch), 1),))])


@st.composite
def trees(draw) -> PackedTree:
    groups = []
    for _ in range(draw(st.integers(1, 3))):
        rows: list[list[int]] = []
        for _ in range(draw(st.integers(1, 6))):
            beginning = draw(st.sampled_from(rows)) if rows else []
            kept = draw(st.integers(0, len(beginning)))
            rows.append(beginning[:kept] + draw(st.lists(st.integers(0, 2), min_size=2, max_size=20)))
        groups.append(Group(tuple(Row(ids, 1) for ids in rows)))
    return pack(groups)


@settings(max_examples=150, deadline=None)
@given(trees(), st.one_of(st.none(), st.integers(1, 40)), st.integers(1, 50))
def test_visible_blocks_are_those_of_the_dense_mask(tree, window, size):
    n_blocks = -(-tree.n_tokens // size)
    dense = np.zeros((n_blocks * size, n_blocks * size), dtype=bool)
    dense[: tree.n_tokens, : tree.n_tokens] = visible(tree, window).numpy()
    pairs = dense.reshape(n_blocks, size, n_blocks, size)
    blocks = visible_blocks(tree.chains, window, size)
    assert np.array_equal(blocks.some_AA, pairs.any((1, 3)))
    assert np.array_equal(blocks.all_AA, pairs.all((1, 3)))


@pytest.mark.parametrize("window", [None, 50, 300])
def test_the_block_mask_is_the_one_pytorch_makes_of_all_pairs(window):
    tree = trunk_and_branches(900, 140)
    assert tree.n_tokens % flex_attention.BLOCK
    ours = block_mask(tree, window)
    theirs = torch_flex.create_block_mask(ours.mask_mod, None, None, tree.n_tokens, tree.n_tokens, device="cpu")
    assert torch.equal(torch_flex.create_mask(ours.mask_mod, None, None, tree.n_tokens, tree.n_tokens, "cpu")[0, 0],
                       visible(tree, window))
    assert ours.shape == theirs.shape
    n_full = 0
    for kind in ("kv", "full_kv", "q", "full_q"):
        n_ours, n_theirs = (getattr(mask, f"{kind}_num_blocks") for mask in (ours, theirs))
        assert torch.equal(n_ours, n_theirs)
        assert torch.equal(getattr(ours, f"{kind}_indices"), getattr(theirs, f"{kind}_indices"))
        n_full += int(n_ours.sum()) if kind == "full_kv" else 0
    assert n_full or window == 50


CASES = {
    "plain": (4, 4, AttentionLayer(0, 0.3)),
    "window and a group of heads a key head": (6, 2, AttentionLayer(0, 0.3, window=9)),
    "soft cap": (4, 1, AttentionLayer(0, 0.9, softcap=2.0)),
    "sinks and window": (4, 2, AttentionLayer(0, 0.3, window=20, sinks_H=torch.tensor([-1.0, 0.0, 1.0, 3.0]))),
}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_those_of_the_dense_way(case, dtype, tolerance):
    n_heads, n_key_heads, asked = CASES[case]
    tree = trunk_and_branches(60, 23)
    generator = torch.Generator().manual_seed(1)

    def draw(heads: int, size: int = 8) -> torch.Tensor:
        return torch.randn(1, heads, tree.n_tokens, size, generator=generator, dtype=dtype).requires_grad_()

    inputs = [draw(n_heads), draw(n_key_heads), draw(n_key_heads)]
    sinks_H = None if asked.sinks_H is None else asked.sinks_H.to(dtype).requires_grad_()
    layer = AttentionLayer(0, asked.scaling, asked.window, asked.softcap, sinks_H)
    ours, exact = (call(tree).attend(layer, *inputs) for call in (FlexCall, DenseCall))
    assert ours.is_contiguous() and ours.dtype == dtype
    upstream = torch.randn(ours.shape, generator=generator, dtype=dtype)
    wanted = inputs if sinks_H is None else [*inputs, sinks_H]
    for answer, expected in zip([ours, *torch.autograd.grad(ours, wanted, upstream)],
                                [exact, *torch.autograd.grad(exact, wanted, upstream)], strict=True):
        assert bool((answer - expected).norm() <= tolerance * expected.norm())


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "gpt_oss"])
def test_models_give_the_log_probs_and_gradients_of_the_segment_way(family):
    model = make_family(family)
    attach_scoring(model, "segments")
    tree = trunk_and_branches(60, 23)
    answers = []
    for given_tree in (tree, FlexCall(tree)):
        model.zero_grad()
        logprobs_N = model(tree=given_tree)
        (logprobs_N * torch.arange(len(logprobs_N)).sin()).sum().backward()
        answers.append([logprobs_N.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for exact, ours in zip(*answers, strict=True):
        assert bool((ours - exact).norm() <= 2e-5 * exact.norm())


def test_one_graph_serves_trees_of_all_sizes_and_windows(monkeypatch):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch_flex, "flex_attention", torch.compile(
        torch_flex.flex_attention, dynamic=True, fullgraph=True, backend=count))
    with torch.no_grad():
        for n_trunk, window, scaling in [(300, None, 0.3), (400, None, 0.3), (300, 50, 0.3), (500, 70, 0.3)]:
            tree = trunk_and_branches(n_trunk, 40)
            layer = AttentionLayer(0, scaling, window, 3.0)
            query, key, value = torch.randn(3, 1, 2, tree.n_tokens, 16)
            ours, exact = (call(tree).attend(layer, query, key, value) for call in (FlexCall, DenseCall))
            assert torch.allclose(ours, exact, atol=1e-5)
    assert len(graphs) == 2  # with a window and without
    # A number that reached a graph as a tensor on the CPU could not be read by a kernel on a GPU.
    assert not any(node.target == "item" for graph in graphs for node in graph.graph.nodes)


CUDA = torch.device("cuda")


def test_flex_is_what_auto_takes_on_cuda_unless_model_or_installation_forbid(monkeypatch):
    model, small_heads = make_model("llama"), make_family("llama")
    monkeypatch.setattr(flex_attention, "_missing", lambda: None)
    assert TreeBackend.AUTO.on(CUDA, model) is TreeBackend.FLEX.on(CUDA, model) is TreeBackend.FLEX
    assert TreeBackend.AUTO.on(torch.device("cpu"), model) is TreeBackend.SEGMENTS
    monkeypatch.setattr(flex_attention, "_missing", lambda: "no triton")
    for refused, cause in [(small_heads, "size 16"), (make_model("llama").double(), "float64"), (model, "no triton")]:
        assert TreeBackend.AUTO.on(CUDA, refused) is TreeBackend.SEGMENTS
        with pytest.raises(ConfigError, match=cause) as caught:
            enable_tree_attention(refused, "flex", CUDA)
        assert caught.value.where == "tree_attention" and "segments" in caught.value.mend
        assert refused.config._attn_implementation == "sdpa"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is missing here")
def test_a_machine_without_a_gpu_is_told_so_before_training():
    with pytest.raises(ConfigError, match="triton"):
        enable_tree_attention(make_model("llama"), "flex", CUDA)


def test_a_model_that_is_moved_to_a_gpu_later_may_be_enabled_now(monkeypatch):
    monkeypatch.setattr(flex_attention, "_missing", lambda: None)
    model = make_model("llama")
    enable_tree_attention(model, "flex", CUDA)
    with pytest.raises(ConfigError, match="no backward on a CPU"):
        tree_hidden_states(model.base_model, trunk_and_branches(20, 5), "flex")
