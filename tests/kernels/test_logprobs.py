from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from lpo.kernels import chunked_logprobs

HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "softcap": {"softcap": 2.5},
    "scale": {"scale": 0.3},
    "temperature": {"temperature": 0.6},
    "everything": {"softcap": 1.5, "scale": 0.7, "temperature": 1.8},
}


def make(n_tokens=23, vocab=101, width=17, *, seed=0, dtype=torch.float32, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(n_tokens, width, generator=generator, dtype=torch.float64)
    weight_VD = torch.randn(vocab, width, generator=generator, dtype=torch.float64) * spread
    bias_V = torch.randn(vocab, generator=generator, dtype=torch.float64)
    targets_N = torch.randint(vocab, (n_tokens,), generator=generator)
    upstream_N = torch.randn(n_tokens, generator=generator, dtype=torch.float64)
    return (hidden_ND.to(dtype).requires_grad_(), weight_VD.to(dtype).requires_grad_(),
            bias_V.to(dtype).requires_grad_(), targets_N, upstream_N)


def full_logprobs(hidden_ND, weight_VD, targets_N, bias_V=None, *, softcap=None, scale=1.0, temperature=1.0):
    """The oracle: all logits at once, in float64."""
    logits_NV = hidden_ND.double() @ weight_VD.double().T
    logits_NV = scale * (logits_NV if bias_V is None else logits_NV + bias_V.double())
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
    return torch.log_softmax(logits_NV / temperature, dim=-1).gather(1, targets_N[:, None])[:, 0]


def gradients(logprobs_N: torch.Tensor, upstream_N: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(logprobs_N, inputs, upstream_N.to(logprobs_N.dtype)))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("tiles", [(23, 101), (5, 30), (1, 7), (64, 1), (4096, 4096), (None, None)])
def test_values_and_all_gradients_equal_full_float64_logits(head, biased, tiles):
    hidden_ND, weight_VD, bias_V, targets_N, upstream_N = make()
    inputs = (hidden_ND, weight_VD, bias_V) if biased else (hidden_ND, weight_VD)
    bias = bias_V if biased else None
    expected_N = full_logprobs(hidden_ND, weight_VD, targets_N, bias, **HEADS[head])
    result_N = chunked_logprobs(hidden_ND, weight_VD, targets_N, bias=bias, token_chunk=tiles[0],
                                vocab_chunk=tiles[1], **HEADS[head])
    assert result_N.dtype == torch.float32
    torch.testing.assert_close(result_N.double(), expected_N, rtol=2e-6, atol=2e-6)
    for ours, exact in zip(gradients(result_N, upstream_N, *inputs), gradients(expected_N, upstream_N, *inputs),
                           strict=True):
        assert (ours - exact).norm() < 2e-6 * exact.norm()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("head_trains", [False, True])
def test_gradcheck_in_float64(head, head_trains):
    hidden_ND, weight_VD, bias_V, targets_N, _ = make(5, 11, 4, dtype=torch.float64)
    weight_VD.requires_grad_(head_trains)
    bias_V.requires_grad_(head_trains)

    def function(hidden_ND, weight_VD, bias_V):
        return chunked_logprobs(hidden_ND, weight_VD, targets_N, bias=bias_V, token_chunk=2, vocab_chunk=3,
                                **HEADS[head])

    assert torch.autograd.gradcheck(function, (hidden_ND, weight_VD, bias_V))


@settings(max_examples=40, deadline=None)
@given(n_tokens=st.integers(1, 9), vocab=st.integers(1, 20), width=st.integers(1, 6), token_chunk=st.integers(1, 10),
       vocab_chunk=st.integers(1, 22), seed=st.integers(0, 1000), head=st.sampled_from(sorted(HEADS)))
def test_no_shape_and_no_tile_size_changes_the_result(n_tokens, vocab, width, token_chunk, vocab_chunk, seed, head):
    hidden_ND, weight_VD, _, targets_N, upstream_N = make(n_tokens, vocab, width, seed=seed, dtype=torch.float64)
    result_N = chunked_logprobs(hidden_ND, weight_VD, targets_N, token_chunk=token_chunk, vocab_chunk=vocab_chunk,
                                **HEADS[head])
    expected_N = full_logprobs(hidden_ND, weight_VD, targets_N, **HEADS[head])
    torch.testing.assert_close(result_N, expected_N)
    for ours, exact in zip(gradients(result_N, upstream_N, hidden_ND, weight_VD),
                           gradients(expected_N, upstream_N, hidden_ND, weight_VD), strict=True):
        torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_and_trainable_head_give_the_same_hidden_gradient(head, dtype):
    results = []
    for trains in (False, True):
        hidden_ND, weight_VD, bias_V, targets_N, upstream_N = make(dtype=dtype)
        logprobs_N = chunked_logprobs(hidden_ND, weight_VD.requires_grad_(trains), targets_N,
                                      bias=bias_V.requires_grad_(trains), token_chunk=7, vocab_chunk=20, **HEADS[head])
        results.append((logprobs_N, *gradients(logprobs_N, upstream_N, hidden_ND)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=2e-5)


def test_only_the_bias_or_only_the_weight_may_train():
    hidden_ND, weight_VD, bias_V, targets_N, upstream_N = make(dtype=torch.float64)
    exact = gradients(full_logprobs(hidden_ND, weight_VD, targets_N, bias_V), upstream_N, hidden_ND, weight_VD, bias_V)
    for trained in ({"bias"}, {"weight"}, {"hidden", "bias"}, {"hidden"}):
        tensors = {"hidden": hidden_ND.detach().clone(), "weight": weight_VD.detach().clone(),
                   "bias": bias_V.detach().clone()}
        for name in trained:
            tensors[name].requires_grad_()
        result_N = chunked_logprobs(tensors["hidden"], tensors["weight"], targets_N, bias=tensors["bias"],
                                    token_chunk=7, vocab_chunk=20)
        result_N.backward(upstream_N)
        for name, expected in zip(tensors, exact, strict=True):
            if name in trained:
                torch.testing.assert_close(tensors[name].grad, expected)
            else:
                assert tensors[name].grad is None


# --- low precision ------------------------------------------------------------


def test_a_sum_over_512_bfloat16_tokens_is_right_to_a_thousandth_of_a_nat():
    hidden_ND, weight_VD, _, targets_N, _ = make(512, 20_000, 64, dtype=torch.bfloat16, spread=0.3)
    exact = full_logprobs(hidden_ND, weight_VD, targets_N).sum()
    plain = torch.log_softmax(hidden_ND @ weight_VD.T, dim=-1).gather(1, targets_N[:, None]).float().sum()
    ours = chunked_logprobs(hidden_ND, weight_VD, targets_N).double().sum()
    assert abs(ours - exact) < 1e-3
    assert abs(plain - exact) > 0.1  # what logits in bfloat16 would have cost


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_trains", [False, True])
def test_low_precision_gradients_are_no_worse_than_those_of_plain_low_precision_logits(head_trains, dtype):
    hidden_ND, weight_VD, _, targets_N, upstream_N = make(200, 1500, 64, dtype=dtype, spread=0.3)
    inputs = (hidden_ND, weight_VD) if head_trains else (hidden_ND,)
    weight_VD.requires_grad_(head_trains)
    plain_N = torch.log_softmax(hidden_ND @ weight_VD.T, dim=-1).gather(1, targets_N[:, None])[:, 0]
    plain = gradients(plain_N, upstream_N, *inputs)
    ours = gradients(chunked_logprobs(hidden_ND, weight_VD, targets_N, token_chunk=64, vocab_chunk=400), upstream_N,
                     *inputs)
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    reference_N = full_logprobs(wide[0], wide[1] if head_trains else weight_VD, targets_N)
    exact = gradients(reference_N, upstream_N, *wide)
    for our, low, true in zip(ours, plain, exact, strict=True):
        assert our.dtype == dtype
        error, plain_error = ((each.double() - true).norm() / true.norm() for each in (our, low))
        assert error <= plain_error + 1e-4
        assert error < torch.finfo(dtype).eps  # the rounding of the result itself


def test_autocast_lowers_nothing():
    hidden_ND, weight_VD, _, targets_N, upstream_N = make()
    outside_N = chunked_logprobs(hidden_ND, weight_VD, targets_N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside_N = chunked_logprobs(hidden_ND, weight_VD, targets_N)
        inside = gradients(inside_N, upstream_N, hidden_ND, weight_VD)
    assert torch.equal(inside_N, outside_N)
    for ours, expected in zip(inside, gradients(outside_N, upstream_N, hidden_ND, weight_VD), strict=True):
        assert torch.equal(ours, expected)


def test_huge_logits_and_entries_masked_by_an_infinite_bias_stay_finite():
    hidden_ND, weight_VD, _, targets_N, upstream_N = make(spread=1e4)
    bias_V = torch.zeros(101)
    bias_V[:60] = -torch.inf  # the whole first tile
    targets_N = targets_N.clamp(min=60)
    expected_N = full_logprobs(hidden_ND, weight_VD, targets_N, bias_V)
    for trains in (True, False):
        weight_VD.requires_grad_(trains)
        result_N = chunked_logprobs(hidden_ND, weight_VD, targets_N, bias=bias_V, token_chunk=6, vocab_chunk=50)
        torch.testing.assert_close(result_N.double(), expected_N, rtol=1e-5, atol=1e-2)
        assert gradients(result_N, upstream_N, hidden_ND)[0].isfinite().all()


# --- how it is called ------------------------------------------------------------


@pytest.mark.parametrize("head_trains", [False, True])
def test_no_positions_give_no_logprobs_and_zero_gradients(head_trains):
    hidden_ND, weight_VD, _, targets_N, _ = make(0)
    weight_VD.requires_grad_(head_trains)
    result_N = chunked_logprobs(hidden_ND, weight_VD, targets_N)
    assert result_N.shape == (0,)
    result_N.sum().backward()
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.shape == hidden_ND.shape
    assert not head_trains or (weight_VD.grad is not None and not weight_VD.grad.any())


def test_without_gradients_nothing_is_kept():
    hidden_ND, weight_VD, _, targets_N, _ = make()
    with torch.no_grad():
        result_N = chunked_logprobs(hidden_ND, weight_VD, targets_N)
    assert not result_N.requires_grad
    with torch.inference_mode():
        assert torch.equal(chunked_logprobs(hidden_ND, weight_VD, targets_N), result_N)


@pytest.mark.parametrize("head_trains", [False, True])
def test_under_checkpointing_the_gradients_are_the_same(head_trains):
    results = []
    for wrapped in (False, True):
        hidden_ND, weight_VD, _, targets_N, upstream_N = make()
        weight_VD.requires_grad_(head_trains)

        def run(hidden_ND, weight_VD=weight_VD, targets_N=targets_N):
            return chunked_logprobs(hidden_ND.tanh(), weight_VD, targets_N, token_chunk=6, vocab_chunk=40)

        result_N: Any = checkpoint(run, hidden_ND, use_reentrant=False) if wrapped else run(hidden_ND)
        result_N.backward(upstream_N.float())
        results.append([tensor.grad for tensor in (hidden_ND, weight_VD) if tensor.requires_grad])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_a_tied_weight_gathers_both_gradients():
    """Embedding and head are one parameter, as in Gemma and Qwen2."""
    _, weight_VD, _, targets_N, _ = make(dtype=torch.float64)
    tokens_N = targets_N.roll(1)
    for result in (chunked_logprobs(weight_VD[tokens_N], weight_VD, targets_N, vocab_chunk=33),
                   full_logprobs(weight_VD[tokens_N], weight_VD, targets_N)):
        result.sum().backward()
    assert weight_VD.grad is not None
    once = weight_VD.grad / 2
    weight_VD.grad = None
    full_logprobs(weight_VD[tokens_N], weight_VD, targets_N).sum().backward()
    torch.testing.assert_close(weight_VD.grad, once)


@pytest.mark.parametrize("head", ["plain", "everything"])
@pytest.mark.parametrize("head_trains", [False, True])
@pytest.mark.parametrize("outside", [-100, -1, 101, 2**40])
def test_a_target_outside_the_vocabulary_is_never_a_number_and_can_be_masked(outside, head_trains, head):
    hidden_ND, weight_VD, _, targets_N, upstream_N = make()
    weight_VD.requires_grad_(head_trains)
    inputs = (hidden_ND, weight_VD) if head_trains else (hidden_ND,)
    kept_N = torch.arange(23) != 3
    expected_N = full_logprobs(hidden_ND, weight_VD, targets_N, **HEADS[head])
    expected = gradients(expected_N, upstream_N * kept_N, *inputs)
    result_N = chunked_logprobs(hidden_ND, weight_VD, torch.where(kept_N, targets_N, outside), token_chunk=6,
                                vocab_chunk=40, **HEADS[head])
    assert result_N.isnan().nonzero().flatten().tolist() == [3]
    for ours, exact in zip(gradients(result_N, upstream_N * kept_N, *inputs), expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_weight_stored_by_columns_and_hidden_states_with_gaps_give_the_same(dtype):
    hidden_ND, weight_VD, bias_V, targets_N, upstream_N = make(dtype=dtype)
    odd_ND = torch.stack([hidden_ND, hidden_ND * 2], dim=2).detach()[:, :, 0].requires_grad_()
    odd_VD = weight_VD.detach().T.contiguous().T.requires_grad_()
    assert not odd_ND.is_contiguous() and not odd_VD.is_contiguous()
    results = []
    for tensors in ((hidden_ND, weight_VD, bias_V), (odd_ND, odd_VD, bias_V)):
        result_N = chunked_logprobs(*tensors[:2], targets_N, bias=bias_V, token_chunk=6, vocab_chunk=40, softcap=3.0)
        results.append([result_N, *gradients(result_N, upstream_N, *tensors)])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_shapes_that_do_not_fit_and_settings_out_of_range_are_refused():
    hidden_ND, weight_VD, bias_V, targets_N, _ = make()
    with pytest.raises(ValueError, match="expected hidden"):
        chunked_logprobs(hidden_ND[:, :5], weight_VD, targets_N)
    with pytest.raises(ValueError, match="expected hidden"):
        chunked_logprobs(hidden_ND[None], weight_VD, targets_N)
    with pytest.raises(ValueError, match="expected hidden"):
        chunked_logprobs(hidden_ND, weight_VD, targets_N[:4])
    with pytest.raises(ValueError, match="expected hidden"):
        chunked_logprobs(hidden_ND, weight_VD, targets_N, bias=bias_V[:4])
    for fields in ({"softcap": 0.0}, {"scale": 0.0}, {"temperature": -1.0}, {"token_chunk": -1}, {"vocab_chunk": 0}):
        with pytest.raises(ValueError, match="above zero"):
            chunked_logprobs(hidden_ND, weight_VD, targets_N, **fields)


# --- memory ------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *made])
        return result


@pytest.mark.parametrize("head", ["plain", "everything"])
@pytest.mark.parametrize("head_trains", [False, True])
def test_no_tensor_of_tokens_times_vocabulary_ever_exists(head, head_trains):
    n_tokens, vocab, width = 300, 700, 8
    hidden_ND, weight_VD, _, targets_N, _ = make(n_tokens, vocab, width)
    weight_VD.requires_grad_(head_trains)
    with LargestTensor() as largest:
        result_N = chunked_logprobs(hidden_ND, weight_VD, targets_N, token_chunk=40, vocab_chunk=60, **HEADS[head])
        result_N.sum().backward()
    # The weight's own gradient, or the tile of 40 x 60 and the hidden states' gradient of 300 x 8.
    assert largest.elements == (vocab * width if head_trains else 40 * 60)
    with LargestTensor() as largest:
        full_logprobs(hidden_ND, weight_VD, targets_N).sum().backward()
    assert largest.elements == n_tokens * vocab  # the check sees what it is looking for
