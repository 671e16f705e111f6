"""Attention by parts against all scores at once, on trees of every shape."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.kernels.attention_parts import plan_parts, query_block
from lpo.kernels.dense_attention import DenseCall, dense_attention, visible
from lpo.kernels.part_kernels import FlashCpuKernel, TiledKernel
from lpo.kernels.segment_attention import SegmentCall, segment_attention
from lpo.kernels.tree_call import AttentionLayer
from lpo.packing import Group, PackedTree, Row, pack


def path(length: int, branch: int = 0) -> list[int]:
    """A document's first tokens, the last ones of their own."""
    return [(7 * depth) % 101 for depth in range(length)] + [1000 + branch]


def tree_of(*groups: list[list[int]]) -> PackedTree:
    return pack([Group(tuple(Row(ids, 1) for ids in group)) for group in groups])


def spread(*cuts: tuple[int, int]) -> list[list[int]]:
    """Rows of one document: each follows it for `cut` tokens and then goes its own way for `own` tokens."""
    return [[*path(cut)[:-1], *(5000 + 100 * number + step for step in range(own))]
            for number, (cut, own) in enumerate(cuts)]


TREES: dict[str, PackedTree] = {
    "one row": tree_of(spread((20, 10))),
    "siblings": tree_of(spread((90, 30), (20, 17), (60, 9), (60, 21))),
    "single tokens": tree_of(spread((40, 1), (12, 1), (12, 1), (39, 2), (1, 1))),
    "forest": tree_of(spread((30, 6), (10, 8)), spread((5, 44)), spread((9, 3), (9, 3), (2, 61))),
    "levels": tree_of([[*path(30)[:-1], *middle, *leaf] for middle in ([2] * 11, [3] * 25, [2] * 5 + [4] * 9)
                       for leaf in ([5] * 7, [6], [5, 6, 7])]),
    "no common root": tree_of([[1, 2, 3, 4], [9, 2, 3], [1, 2, 8]]),
    "long": tree_of(spread((300, 40), (150, 70), (290, 5))),
}
LAYERS = {"plain": {}, "softcap": {"softcap": 1.5}, "sinks": {"sinks": True}, "both": {"softcap": 2.0, "sinks": True}}


def inputs(tree, heads=4, key_heads=2, width=8, *, dtype=torch.float64, seed=0, sinks=False, softcap=None, window=None):
    """Queries, keys and values as a model hands them over (heads taken out of the last dimension), and a layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    flat = [draw(1, tree.n_tokens, count * width) for count in (heads, key_heads, key_heads)]
    layer = AttentionLayer(0, scaling=0.4, window=window, softcap=softcap, sinks_H=draw(heads) if sinks else None)
    return flat, layer, draw(1, tree.n_tokens, heads, width).detach()


def run(call, flat, layer, upstream, width=8):
    """Output and gradients of all inputs."""
    query, key, value = (tensor.view(1, tensor.shape[1], -1, width).transpose(1, 2) for tensor in flat)
    out = call.attend(layer, query, key, value)
    leaves = flat if layer.sinks_H is None else [*flat, layer.sinks_H]
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def relative_errors(ours, exact) -> list[float]:
    """Of whole tensors; absolute where the exact one is small (a token that sees itself alone has no slope)."""
    return [float((a.double() - b).norm() / b.norm().clamp(min=1)) for a, b in zip(ours, exact, strict=True)]


@pytest.mark.parametrize("window", [None, 1, 16, 40, 130])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", TREES)
def test_output_and_all_gradients_equal_all_scores_at_once(name, kind, window):
    tree = TREES[name]
    flat, layer, upstream = inputs(tree, window=window, **LAYERS[kind])
    exact = run(DenseCall(tree), flat, layer, upstream)
    assert max(relative_errors(run(SegmentCall(tree), flat, layer, upstream), exact)) < 1e-12


@pytest.mark.parametrize("heads, key_heads", [(1, 1), (4, 4), (6, 1), (6, 2), (8, 4)])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_key_heads_may_be_fewer_than_query_heads(heads, key_heads, softcap):
    tree = TREES["siblings"]
    flat, layer, upstream = inputs(tree, heads, key_heads, softcap=softcap, window=25)
    exact = run(DenseCall(tree), flat, layer, upstream)
    assert max(relative_errors(run(SegmentCall(tree), flat, layer, upstream), exact)) < 1e-12


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=6),
       doc=st.integers(0, 70), window=st.none() | st.integers(1, 90), softcap=st.sampled_from([None, 2.0]))
def test_any_tree_and_any_window(rows, doc, window, softcap):
    trunk = list(range(10, 10 + doc))
    tree = tree_of([[*trunk[: (len(row) * 13) % (doc + 1)], *row] for row in rows])
    flat, layer, upstream = inputs(tree, 2, 1, width=4, window=window, softcap=softcap, sinks=True)
    exact = run(DenseCall(tree), flat, layer, upstream, width=4)
    assert max(relative_errors(run(SegmentCall(tree), flat, layer, upstream, width=4), exact)) < 1e-12


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("window", [None, 5])
def test_gradients_are_those_of_the_function_itself(kind, window):
    tree = tree_of(spread((7, 2), (3, 3), (6, 1)), spread((4, 2)))
    flat, layer, _ = inputs(tree, 2, 1, width=2, window=window, **LAYERS[kind])
    plan = plan_parts(tree.chains, window)
    leaves = [tensor.detach().view(1, tree.n_tokens, -1, 2).transpose(1, 2).requires_grad_() for tensor in flat]

    def function(query, key, value, *sinks):
        asked = AttentionLayer(0, layer.scaling, window, layer.softcap, *sinks)
        return segment_attention(query, key, value, plan, plan.band_mask(query.dtype, query.device), asked)

    if layer.sinks_H is not None:
        leaves.append(layer.sinks_H)
    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_about_as_good_as_all_scores_at_once(kind, window, dtype):
    tree = TREES["long"]
    flat, layer, upstream = inputs(tree, dtype=dtype, window=window, **LAYERS[kind])
    wide_flat, _, _ = inputs(tree, window=window, **LAYERS[kind])
    wide_layer = AttentionLayer(0, layer.scaling, window, layer.softcap,
                                None if layer.sinks_H is None else layer.sinks_H.detach().double().requires_grad_())
    with torch.no_grad():
        for wide, narrow in zip(wide_flat, flat, strict=True):
            wide.copy_(narrow)
    exact = run(DenseCall(tree), wide_flat, wide_layer, upstream.double())
    ours = relative_errors(run(SegmentCall(tree), flat, layer, upstream), exact)
    plain = relative_errors(run(DenseCall(tree), flat, layer, upstream), exact)
    for error, allowed in zip(ours, plain, strict=True):
        assert error <= 2 * allowed + 1e-6


def test_both_kernels_of_a_part_agree_on_tiles_of_every_size():
    generator = torch.Generator().manual_seed(1)
    query, grad = (torch.randn(1, 4, 37, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    key, value = (torch.randn(1, 2, 37, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(37, 37, dtype=torch.float64).masked_fill_(
        torch.rand(37, 37, generator=generator) < 0.3, -torch.inf).fill_diagonal_(0)
    flash = FlashCpuKernel(0.3)
    for mask_tu, causal in ((None, True), (None, False), (mask, False)):
        out, lse = flash.attend(query, key, value, mask_tu, causal)
        shares = flash.gradients(grad, query, key, value, out, lse, mask_tu, causal)
        for tile in (1, 4 * 37 * 5, 10**6):
            tiled = TiledKernel(0.3, None, tile)
            torch.testing.assert_close(tiled.attend(query, key, value, mask_tu, causal), (out, lse))
            torch.testing.assert_close(tiled.gradients(grad, query, key, value, out, lse, mask_tu, causal), shares)


def test_values_may_be_narrower_than_keys():
    tree = TREES["forest"]
    generator = torch.Generator().manual_seed(2)
    leaves = [torch.randn(1, heads, tree.n_tokens, width, generator=generator, dtype=torch.float64, requires_grad=True)
              for heads, width in ((4, 8), (2, 8), (2, 5))]
    layer = AttentionLayer(0, 0.3)
    ours, exact = (call(tree).attend(layer, *leaves) for call in (SegmentCall, DenseCall))
    torch.testing.assert_close(ours, exact)
    upstream = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    for ours_grad, exact_grad in zip(*(torch.autograd.grad(out, leaves, upstream) for out in (ours, exact)),
                                     strict=True):
        torch.testing.assert_close(ours_grad, exact_grad)


@pytest.mark.parametrize("window", [None, 20])
def test_queries_may_begin_later_than_the_keys(window):
    """Queries of the last branches alone, keys of the whole tree: what a depth-first pass computes."""
    tree = TREES["levels"]
    flat, layer, upstream = inputs(tree, window=window)
    query, key, value = (tensor.detach().view(1, tree.n_tokens, -1, 8).transpose(1, 2) for tensor in flat)
    first = tree.chains[3].start
    plan = plan_parts(tree.chains[3:], window, first_query=first)
    leaves = [query[:, :, first:].clone().requires_grad_(), key.requires_grad_(), value.requires_grad_()]
    ours = segment_attention(*leaves, plan, plan.band_mask(query.dtype, query.device), layer)
    exact = dense_attention(*leaves, visible(tree, window)[first:], layer)
    torch.testing.assert_close(ours, exact)
    for ours_grad, exact_grad in zip(*(torch.autograd.grad(out, leaves, upstream[:, first:]) for out in (ours, exact)),
                                     strict=True):
        torch.testing.assert_close(ours_grad, exact_grad)


@pytest.mark.parametrize("window", [None, 1, 16, 130, 150])
@pytest.mark.parametrize("name", TREES)
def test_parts_hold_what_is_visible_once_and_little_else(name, window):
    tree = TREES[name]
    plan = plan_parts(tree.chains, window)
    band = plan.band_mask(torch.float32, torch.device("cpu"))
    seen = torch.zeros(tree.n_tokens, tree.n_tokens)
    for part in plan.parts:
        shown = seen[part.query, part.key]
        mask = torch.zeros_like(shown) if part.band is None else band[: shown.shape[0], part.band]
        visible_here = torch.isfinite(mask) & (torch.ones_like(shown).tril().bool() if part.causal else True)
        assert visible_here.any(1).all()  # a query that saw no key of a part would be nan
        shown += visible_here
    assert torch.equal(seen, visible(tree, window).float())


def test_window_work_stays_near_the_window():
    tree = tree_of([list(range(4000))])
    for window in (256, 512, 1024):
        scores = sum((part.query.stop - part.query.start) * (part.key.stop - part.key.start)
                     for part in plan_parts(tree.chains, window).parts)
        assert scores < 1.25 * window * tree.n_tokens


def test_plans_are_made_once_for_all_layers(monkeypatch):
    tree = TREES["forest"]
    call = SegmentCall(tree)
    made = []
    monkeypatch.setattr("lpo.kernels.segment_attention.plan_parts",
                        lambda chains, window: made.append(window) or plan_parts(chains, window))
    for window in itertools.islice(itertools.cycle((None, 16, 16)), 9):
        flat, layer, upstream = inputs(tree, window=window)
        run(call, flat, layer, upstream)
    assert made == [None, 16]


def test_nothing_as_large_as_the_square_of_the_tree_is_held():
    """The largest tensor of a forward and backward stays far below one T * T mask."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes = [leaf.untyped_storage().nbytes() // leaf.element_size()
                     for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            self.entries = max([self.entries, *sizes])
            return out

    tree = tree_of(spread((700, 50), (600, 40), (300, 60)))
    for window in (None, 64):
        flat, layer, upstream = inputs(tree, 2, 1, dtype=torch.float32, window=window)
        with Largest() as largest:
            run(SegmentCall(tree), flat, layer, upstream)
        assert 0 < largest.entries <= 2 * tree.n_tokens * 8 < tree.n_tokens**2 / 10
    assert query_block(64) == 32
