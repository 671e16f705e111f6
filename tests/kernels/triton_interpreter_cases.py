"""Run by `test_logprobs_triton_interpreter.py`, with TRITON_INTERPRET=1 set before Triton is imported.

The interpreter computes wrong numbers for bfloat16, so float32 and float16 stand for it. It checks no bounds either:
every buffer a kernel writes to lies amid numbers that must not change, and what it reads lies amid nan.
"""

import functools
import math
from dataclasses import dataclass

import pytest
import torch

from lpo.kernels import chunked_logprobs, logprob_tiles, logprobs, logprobs_triton
from lpo.kernels.logprob_tiles import Head, WholeWeight
from lpo.kernels.logprobs_triton import Blocks

HEADS = {
    "plain": {},
    "scale and temperature": {"scale": 0.7, "temperature": 1.8},
    "softcap": {"softcap": 2.5},
    "everything": {"softcap": 1.5, "scale": 0.7, "temperature": 0.6},
}
BLOCKS = Blocks(tokens=16, entries=32, depth=32, rows=16, columns=32, inner=16, warps=4, stages=2, group=2)
MARGIN = 40
FENCE = -77.0


@pytest.fixture(autouse=True)
def guarded(monkeypatch):
    """Lay every buffer of the launcher, full of nan, amid a number, and see after the test if that still stands."""
    surroundings = []

    def empty(self, *shape, dtype=torch.float32):
        around = torch.full([size + 2 * MARGIN for size in shape], FENCE, dtype=dtype)
        surroundings.append((around, shape))
        return inner(around, shape).fill_(math.nan)

    monkeypatch.setattr(logprobs_triton._Launcher, "empty", empty)
    yield
    for around, shape in surroundings:
        inner(around, shape).fill_(FENCE)
        assert around.eq(FENCE).all(), f"a kernel wrote outside a buffer of {shape}"


def amid_nan(tensor):
    """The same numbers with nan around them; a matrix keeps nan behind each row too."""
    around = tensor.new_full([size + 2 * MARGIN for size in tensor.shape], math.nan)
    return inner(around, tensor.shape).copy_(tensor)


def inner(around, shape):
    return around[tuple(slice(MARGIN, MARGIN + size) for size in shape)]


@dataclass(frozen=True)
class Problem:
    hidden_ND: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    targets_N: torch.Tensor
    upstream_N: torch.Tensor
    head: Head

    def forward(self, *, keep_gradient=False):
        """Log-probs, log-normalisers and unit gradients of the Triton path."""
        statistics, unit_ND = logprobs_triton.forward(*self._inputs, self.head, keep_gradient, BLOCKS)
        log_normaliser_N = statistics.log_normaliser_N
        return statistics.target_N - log_normaliser_N, log_normaliser_N, unit_ND

    def backward(self, log_normaliser_N, needed=(True, True, True)):
        return logprobs_triton.backward(*self._inputs, log_normaliser_N, amid_nan(self.upstream_N), self.head, needed,
                                        BLOCKS)

    @property
    def _inputs(self):
        bias_V = None if self.bias_V is None else amid_nan(self.bias_V)
        return self.hidden_ND, WholeWeight(amid_nan(self.weight_VD)), bias_V, self.targets_N

    def differentiate(self, dtype):
        """Log-probs and the gradients of hidden states, weight and bias by autograd through whole logits in `dtype`."""
        leaves = [tensor.to(dtype, copy=True).requires_grad_()
                  for tensor in (self.hidden_ND, self.weight_VD, self.bias_V) if tensor is not None]
        head = self.head
        logits_NV = leaves[0] @ leaves[1].T
        logits_NV = head.scale * (logits_NV if self.bias_V is None else logits_NV + leaves[2])
        if head.softcap is not None:
            logits_NV = head.softcap * torch.tanh(logits_NV / head.softcap)
        logprobs_N = torch.log_softmax(logits_NV / head.temperature, -1).gather(1, self.targets_N[:, None])[:, 0]
        return logprobs_N.detach(), torch.autograd.grad(logprobs_N, leaves, self.upstream_N.to(dtype))


def make(n_tokens=21, vocab=75, width=43, *, head="plain", biased=True, dtype=torch.float32, tiles=(18, 50)):
    generator = torch.Generator().manual_seed(0)
    random = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    targets_N = torch.randint(vocab, (n_tokens,), generator=generator)
    return Problem(random(n_tokens, width).to(dtype), random(vocab, width).mul(0.4).to(dtype),
                   random(vocab).to(dtype) if biased else None, targets_N, random(n_tokens).float(),
                   make_head(head, tiles))


def make_head(name, tiles):
    settings = {"scale": 1.0, "softcap": None, "temperature": 1.0, **HEADS[name]}
    return Head(**settings, token_chunk=tiles[0], vocab_chunk=tiles[1], dtype=torch.float32)


def distance(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


def assert_no_worse(ours, plain, exact):
    """Error against float64 at most that of whole logits in the inputs' dtype, but for a few units of float32."""
    assert ours.isfinite().all()
    assert distance(ours, exact) <= distance(plain, exact) + 5e-7


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_log_probs_and_all_gradients_against_float64(head, dtype):
    problem = make(head=head, dtype=dtype)
    exact_N, exact_gradients = problem.differentiate(torch.float64)
    _, plain_gradients = problem.differentiate(dtype)
    logprobs_N, log_normaliser_N, unit_ND = problem.forward(keep_gradient=True)
    # Logits never leave float32: the log-probs of 16-bit inputs are as exact as those of any.
    torch.testing.assert_close(logprobs_N.double(), exact_N, rtol=2e-6, atol=2e-6)
    frozen_ND = unit_ND * problem.upstream_N[:, None]
    assert_no_worse(frozen_ND, plain_gradients[0], exact_gradients[0])
    for ours, plain, exact in zip(problem.backward(log_normaliser_N), plain_gradients, exact_gradients, strict=True):
        assert_no_worse(ours, plain, exact)


@pytest.mark.parametrize("shape, tiles", [
    ((1, 75, 43), (20, 50)),      # one token
    ((5, 3, 2), (20, 50)),        # all smaller than any block
    ((17, 33, 65), (17, 33)),     # one more than a block everywhere
    ((16, 64, 32), (16, 64)),     # whole blocks
    ((9, 51, 8), (4, 50)),        # a last tile of one token, of one vocabulary entry
])
@pytest.mark.parametrize("biased", [False, True])
def test_ragged_shapes_equal_torch(shape, tiles, biased):
    problem = make(*shape, head="everything", tiles=tiles, biased=biased)
    needed = (True, True, biased)
    inputs = (problem.hidden_ND, WholeWeight(problem.weight_VD), problem.bias_V, problem.targets_N)
    twin, twin_ND = logprob_tiles.forward(*inputs, problem.head, True)
    twin_gradients = logprob_tiles.backward(*inputs, twin.log_normaliser_N, problem.upstream_N, problem.head, needed)
    logprobs_N, log_normaliser_N, unit_ND = problem.forward(keep_gradient=True)
    gradients = problem.backward(log_normaliser_N, needed)
    expected = (twin.target_N - twin.log_normaliser_N, twin.log_normaliser_N, twin_ND, *twin_gradients)
    torch.testing.assert_close((logprobs_N, log_normaliser_N, unit_ND, *gradients), expected, rtol=2e-6, atol=2e-6)


def test_forward_without_gradient_gives_the_same_statistics():
    problem = make(dtype=torch.float16)
    assert torch.equal(problem.forward()[0], problem.forward(keep_gradient=True)[0])


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_needed_gradients(needed):
    problem = make(9)
    log_normaliser_N = problem.forward()[1]
    every = problem.backward(log_normaliser_N)
    for wanted, ours, expected in zip(needed, problem.backward(log_normaliser_N, needed), every, strict=True):
        assert torch.equal(ours, expected) if wanted else ours is None


def test_a_target_outside_the_vocabulary_gets_nan_and_spoils_nothing_else():
    problem = make(5)
    whole_N, _, whole_ND = problem.forward(keep_gradient=True)
    problem.targets_N[1], problem.targets_N[3] = -100, 75
    logprobs_N, log_normaliser_N, unit_ND = problem.forward(keep_gradient=True)
    assert logprobs_N.isnan().tolist() == [False, True, False, True, False]
    assert torch.equal(logprobs_N[::2], whole_N[::2])
    assert torch.equal(unit_ND[::2], whole_ND[::2])
    assert unit_ND.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in problem.backward(log_normaliser_N))


def test_masked_entries_have_no_probability_and_no_gradient():
    problem = make(7, 140, tiles=(20, 140))
    problem.bias_V[32:70] = -math.inf  # a whole block, and a part of the next
    problem.targets_N.clamp_(max=31)
    exact_N, (exact_ND, _, _) = problem.differentiate(torch.float64)
    logprobs_N, log_normaliser_N, unit_ND = problem.forward(keep_gradient=True)
    torch.testing.assert_close(logprobs_N.double(), exact_N, rtol=2e-6, atol=2e-6)
    assert distance(unit_ND * problem.upstream_N[:, None], exact_ND) < 1e-6
    _, grad_weight_VD, _ = problem.backward(log_normaliser_N)
    assert grad_weight_VD[32:70].eq(0).all()


@pytest.mark.parametrize("offset", [-3e4, 1e3, 3e4])
def test_logits_far_from_zero_neither_overflow_nor_lose_the_gradient(offset):
    problem = make(7, 140, 4)
    problem.bias_V[:] = offset + 20 * problem.bias_V.sign()
    exact_N, exact_gradients = problem.differentiate(torch.float64)
    logprobs_N, log_normaliser_N, unit_ND = problem.forward(keep_gradient=True)
    rounding = abs(offset) * torch.finfo(torch.float32).eps
    torch.testing.assert_close(logprobs_N.double(), exact_N, rtol=2e-6, atol=2 * rounding)
    assert distance(unit_ND * problem.upstream_N[:, None], exact_gradients[0]) < 4 * rounding
    for ours, exact in zip(problem.backward(log_normaliser_N), exact_gradients, strict=True):
        assert distance(ours, exact) < 4 * rounding


def test_probabilities_below_float16_are_not_lost():
    """The whole gradient comes from entries that are each less likely than float16's smallest number."""
    vocab = 451
    problem = make(4, vocab, 8, dtype=torch.float16, tiles=(4, 300))
    problem.hidden_ND.fill_(0.5)
    problem.weight_VD.fill_(1.0).narrow(0, 0, 1).zero_()
    problem.bias_V.fill_(-22.0).narrow(0, 0, 1).zero_()  # logits of -18 beside one of 0: 450 times 1.5e-8
    problem.targets_N.zero_()
    exact_N, (exact_ND, exact_VD, exact_V) = problem.differentiate(torch.float64)
    logprobs_N, log_normaliser_N, unit_ND = problem.forward(keep_gradient=True)
    assert distance(unit_ND * problem.upstream_N[:, None], exact_ND) < 1e-3
    # The log-prob itself, -7e-6, is the difference of a logit of 0 and a normaliser rounded beside 1.
    torch.testing.assert_close(logprobs_N.double(), exact_N, rtol=0, atol=2e-7)
    problem.upstream_N.mul_(1e-3)
    wide_gradients = logprobs_triton.backward(
        problem.hidden_ND, Float32Gradient(problem.weight_VD), problem.bias_V, problem.targets_N, log_normaliser_N,
        problem.upstream_N, problem.head, (False, True, True), BLOCKS)
    assert distance(wide_gradients[1] * 1e3, exact_VD) < 1e-3
    assert distance(wide_gradients[2] * 1e3, exact_V) < 1e-3


class Float32Gradient(WholeWeight):
    """A float16 weight whose gradient is kept in float32."""

    def new_gradient(self, head):
        return WholeWeight(self._weight_VD.float()).new_gradient(head)


@pytest.mark.parametrize("size", [1e-12, 1e12, 0.0])
def test_upstream_of_any_size(size):
    problem = make(9, dtype=torch.float32)
    log_normaliser_N = problem.forward()[1]
    expected = problem.backward(log_normaliser_N)
    problem.upstream_N.mul_(size)
    for ours, unscaled in zip(problem.backward(log_normaliser_N), expected, strict=True):
        torch.testing.assert_close(ours, unscaled * size, rtol=1e-5, atol=1e-6 * size)


def test_no_tokens():
    problem = make(0)
    logprobs_N, log_normaliser_N, unit_ND = problem.forward(keep_gradient=True)
    assert logprobs_N.shape == (0,) and unit_ND.shape == (0, 43)
    grad_hidden_ND, grad_weight_VD, grad_bias_V = problem.backward(log_normaliser_N)
    assert grad_hidden_ND.shape == (0, 43)
    assert grad_weight_VD.eq(0).all() and grad_bias_V.eq(0).all()


@pytest.mark.parametrize("head_trains", [False, True])
def test_through_the_public_function(head_trains, monkeypatch):
    problem = make(9, dtype=torch.float16)
    exact_N, exact_gradients = problem.differentiate(torch.float64)
    passes = (functools.partial(logprobs_triton.forward, blocks=BLOCKS),
              functools.partial(logprobs_triton.backward, blocks=BLOCKS))
    monkeypatch.setattr(logprobs, "_passes", lambda hidden_ND, weight_VD: passes)
    leaves = [problem.hidden_ND, problem.weight_VD, problem.bias_V]
    for leaf in leaves if head_trains else leaves[:1]:
        leaf.requires_grad_()
    logprobs_N = chunked_logprobs(problem.hidden_ND, problem.weight_VD.T.contiguous().T, problem.targets_N,
                                  bias=problem.bias_V, token_chunk=5, vocab_chunk=60)
    logprobs_N.backward(problem.upstream_N)
    torch.testing.assert_close(logprobs_N.double(), exact_N, rtol=2e-6, atol=2e-6)
    for leaf, exact in zip(leaves if head_trains else leaves[:1], exact_gradients, strict=False):
        assert leaf.grad.dtype == torch.float16
        assert distance(leaf.grad, exact) < torch.finfo(torch.float16).eps


def test_cpu_tensors_are_not_taken():
    problem = make(3)
    assert not logprobs_triton.supports(problem.hidden_ND, problem.weight_VD)
    assert logprobs._passes(problem.hidden_ND, problem.weight_VD) == (logprob_tiles.forward, logprob_tiles.backward)
