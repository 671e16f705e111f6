"""Log-probabilities of given tokens from hidden states, without ever holding the logits.

Logits exist as tiles of some tokens by some of the vocabulary, in float32 whatever the dtype of the inputs: a
preference margin is a small difference of two sums over hundreds of tokens, and logits rounded to bfloat16 cost tenths
of a nat there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable


def chunked_logprobs(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
    token_chunk: int | None = None,
    vocab_chunk: int | None = None,
) -> torch.Tensor:
    """Log-probs log softmax(head(hidden))[target], differentiable for any upstream gradient.

    The head is `softcap * tanh(scale * (hidden @ weight.T + bias) / softcap) / temperature`, the soft-cap left out if
    it is None. Products, statistics and gradients are computed in float32 (float64 if an input is), under autocast too.

    When weight and bias are frozen (LoRA), the gradient of each log-prob with respect to its hidden state is gathered
    in the same pass over the vocabulary and only scaled in the backward: 4NDV floating-point operations in place of
    6NDV, for one float32 [N, D] buffer. Otherwise the tiles are computed again in the backward.

    Args:
        hidden_ND: Final hidden states [N, D] of the scored positions, any floating dtype.
        weight_VD: Head weight [V, D].
        targets_N: int64 [N], the token whose log-prob is asked at each position, in [0, V).
        bias: Head bias [V].
        softcap: Soft cap of the logits (Gemma 2: 30).
        scale: Factor on the logits (Cohere's `logit_scale`; the inverse of Granite's `logits_scaling`).
        temperature: Divisor of the final logits.
        token_chunk: Positions per tile; None chooses for the device.
        vocab_chunk: Vocabulary entries per tile; None chooses for the device.

    Returns:
        Log-probs in nats, [N], float32 (float64 if an input is).

    Raises:
        ValueError: Shapes do not fit, or a setting is not above zero.
    """
    _check_shapes(hidden_ND, weight_VD, targets_N, bias)
    default = _default_tiles(hidden_ND.device)
    head = _Head(
        scale=scale, softcap=softcap, temperature=temperature,
        token_chunk=default[0] if token_chunk is None else token_chunk,
        vocab_chunk=default[1] if vocab_chunk is None else vocab_chunk,
        dtype=torch.float64 if torch.float64 in (hidden_ND.dtype, weight_VD.dtype) else torch.float32)
    head_trains = weight_VD.requires_grad or (bias is not None and bias.requires_grad)
    keep_gradient = torch.is_grad_enabled() and hidden_ND.requires_grad and not head_trains
    return cast(torch.Tensor, _LogProbs.apply(hidden_ND, weight_VD, bias, targets_N, head, keep_gradient))


def _check_shapes(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, bias_V: torch.Tensor | None
) -> None:
    n_tokens, width = hidden_ND.shape if hidden_ND.dim() == 2 else (-1, -1)
    fits = weight_VD.dim() == 2 and weight_VD.shape[1] == width and targets_N.shape == (n_tokens,)
    if not fits or (bias_V is not None and bias_V.shape != weight_VD.shape[:1]):
        shapes = [tuple(tensor.shape) for tensor in (hidden_ND, weight_VD, targets_N, bias_V) if tensor is not None]
        raise ValueError(f"expected hidden [N, D], weight [V, D], targets [N], bias [V]; got {shapes}")


def _default_tiles(device: torch.device) -> tuple[int, int]:
    """Tokens and vocabulary entries per tile."""
    if device.type == "cpu":
        return 512, 4096
    return 4096, 16384  # 256 MiB of float32 logits


@dataclass(frozen=True)
class _Head:
    """How hidden states become logits, and in which tiles."""

    scale: float
    softcap: float | None
    temperature: float
    token_chunk: int
    vocab_chunk: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        positive = (self.scale, self.temperature, self.token_chunk, self.vocab_chunk, self.softcap or 1.0)
        if not all(value > 0 for value in positive) or self.softcap == 0:
            raise ValueError("scale, softcap, temperature and chunk sizes must be above zero")

    def token_slices(self, n_tokens: int) -> Iterator[slice]:
        return (slice(start, min(start + self.token_chunk, n_tokens)) for start in range(0, n_tokens, self.token_chunk))

    def vocab_slices(self, n_vocab: int) -> Iterator[slice]:
        return (slice(start, min(start + self.vocab_chunk, n_vocab)) for start in range(0, n_vocab, self.vocab_chunk))

    def logits(self, hidden_nD: torch.Tensor, weight_vD: torch.Tensor, bias_v: torch.Tensor | None) -> torch.Tensor:
        """One tile [n, v] of logits in the working dtype."""
        tile_nv = hidden_nD @ weight_vD.T
        if bias_v is not None:
            tile_nv += bias_v.to(self.dtype)
        if self.softcap is None:
            return tile_nv.mul_(self.scale / self.temperature)
        return tile_nv.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap / self.temperature)

    @property
    def slope_is_constant(self) -> bool:
        return self.softcap is None

    def slope(self, logits: torch.Tensor) -> torch.Tensor:
        """Derivative of the logit by (hidden @ weight.T + bias), from the logit itself."""
        slope = torch.full_like(logits, self.scale / self.temperature)
        if self.softcap is None:
            return slope
        tanh = logits * (self.temperature / self.softcap)
        return slope.addcmul_(tanh, tanh, value=-self.scale / self.temperature)


class _Statistics:
    """Running maximum, sum of exponentials and target logit of every position, over the tiles seen so far."""

    def __init__(self, targets_N: torch.Tensor, dtype: torch.dtype) -> None:
        self.targets_N = targets_N
        # The lowest finite number in place of -inf keeps a tile of nothing but -inf (masked entries) from giving nan.
        self.max_N = torch.full_like(targets_N, torch.finfo(dtype).min, dtype=dtype)
        self.sum_N = torch.zeros_like(self.max_N)
        # A target outside the vocabulary is met by no tile: its log-prob stays nan instead of looking like a number.
        self.target_N = torch.full_like(self.max_N, math.nan)

    def add(self, tokens: slice, vocab: slice, logits_nv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in a tile, which is overwritten.

        Returns:
            exp(logits - new maximum), and the factor that brings earlier sums to the new maximum.
        """
        local_n, inside_n = _local(self.targets_N[tokens], vocab)
        found_n = logits_nv.gather(1, local_n[:, None])[:, 0]
        self.target_N[tokens] = torch.where(inside_n, found_n, self.target_N[tokens])
        max_n = torch.maximum(self.max_N[tokens], logits_nv.amax(1))
        rescale_n = (self.max_N[tokens] - max_n).exp_()
        exp_nv = logits_nv.sub_(max_n[:, None]).exp_()
        self.sum_N[tokens] = self.sum_N[tokens] * rescale_n + exp_nv.sum(1)
        self.max_N[tokens] = max_n
        return exp_nv, rescale_n

    @property
    def log_normaliser_N(self) -> torch.Tensor:
        return self.max_N + self.sum_N.log()


def _local(targets_n: torch.Tensor, vocab: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Each target's column in the tile, and whether it lies there; no index of varying size, hence no device sync."""
    local_n = targets_n - vocab.start
    width = vocab.stop - vocab.start
    return local_n.clamp(0, width - 1), (local_n >= 0) & (local_n < width)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        head: _Head,
        keep_gradient: bool,
    ) -> torch.Tensor:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            statistics, unit_ND = _forward(hidden_ND, weight_VD, bias_V, targets_N, head, keep_gradient)
        ctx.head = head
        ctx.hidden_dtype = hidden_ND.dtype
        log_normaliser_N = statistics.log_normaliser_N
        if keep_gradient:
            ctx.save_for_backward(unit_ND)
        else:
            ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, log_normaliser_N)
        ctx.gradient_kept = keep_gradient
        return (statistics.target_N - log_normaliser_N).clamp_(max=0)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, upstream_N: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        with torch.autocast(upstream_N.device.type, enabled=False):
            if ctx.gradient_kept:
                (unit_ND,) = ctx.saved_tensors
                return (unit_ND * upstream_N[:, None]).to(ctx.hidden_dtype), None, None, None, None, None
            return *_backward(ctx.saved_tensors, upstream_N, ctx.head, ctx.needs_input_grad[:3]), None, None, None


def _forward(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    head: _Head,
    keep_gradient: bool,
) -> tuple[_Statistics, torch.Tensor | None]:
    """Statistics of every position and, if asked for, d log-prob / d hidden, in one pass over the vocabulary."""
    statistics = _Statistics(targets_N, head.dtype)
    hidden_ND = hidden_ND.to(head.dtype)
    expected_ND = torch.zeros_like(hidden_ND) if keep_gradient else None
    for vocab in head.vocab_slices(len(weight_VD)):  # outermost, so that each weight tile is converted once
        weight_vD = weight_VD[vocab].to(head.dtype)
        bias_v = None if bias_V is None else bias_V[vocab]
        for tokens in head.token_slices(len(hidden_ND)):
            logits_nv = head.logits(hidden_ND[tokens], weight_vD, bias_v)
            slope_nv = None if head.slope_is_constant or expected_ND is None else head.slope(logits_nv)
            exp_nv, rescale_n = statistics.add(tokens, vocab, logits_nv)
            if expected_ND is not None:
                expected_nD = expected_ND[tokens]
                expected_nD *= rescale_n[:, None]
                expected_nD.addmm_(exp_nv if slope_nv is None else exp_nv.mul_(slope_nv), weight_vD)
    if expected_ND is None:
        return statistics, None
    expected_ND /= statistics.sum_N[:, None]
    if head.slope_is_constant:
        expected_ND *= head.scale / head.temperature
    for tokens in head.token_slices(len(hidden_ND)):
        slope_n = head.slope(statistics.target_N[tokens])
        expected_ND[tokens].neg_().addcmul_(weight_VD[targets_N[tokens]].to(head.dtype), slope_n[:, None])
    return statistics, expected_ND


def _backward(
    saved: tuple[torch.Tensor, ...], upstream_N: torch.Tensor, head: _Head, needed: tuple[bool, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of hidden states, weight and bias from tiles computed again."""
    hidden_ND, weight_VD, bias_V, targets_N, log_normaliser_N = saved
    needs_hidden, needs_weight, needs_bias = needed
    wide_ND = hidden_ND.to(head.dtype)
    grad_hidden_ND = torch.zeros_like(wide_ND) if needs_hidden else None
    grad_weight_VD = torch.empty_like(weight_VD) if needs_weight else None
    grad_bias_V = torch.empty_like(bias_V) if needs_bias else None
    for vocab in head.vocab_slices(len(weight_VD)):
        weight_vD = weight_VD[vocab].to(head.dtype)
        bias_v = None if bias_V is None else bias_V[vocab]
        # A tile of the weight's gradient is complete after its tokens: summed wide, stored once in the weight's dtype.
        grad_weight_vD = torch.zeros_like(weight_vD) if needs_weight else None
        grad_bias_v = weight_vD.new_zeros(len(weight_vD)) if needs_bias else None
        for tokens in head.token_slices(len(wide_ND)):
            logits_nv = head.logits(wide_ND[tokens], weight_vD, bias_v)
            slope_nv = None if head.slope_is_constant else head.slope(logits_nv)
            grad_nv = logits_nv.sub_(log_normaliser_N[tokens, None]).exp_().neg_()
            local_n, inside_n = _local(targets_N[tokens], vocab)
            grad_nv.scatter_add_(1, local_n[:, None], inside_n[:, None].to(head.dtype))
            grad_nv *= upstream_N[tokens, None] * (head.scale / head.temperature if slope_nv is None else 1.0)
            if slope_nv is not None:
                grad_nv *= slope_nv
            if grad_hidden_ND is not None:
                grad_hidden_ND[tokens].addmm_(grad_nv, weight_vD)
            if grad_weight_vD is not None:
                grad_weight_vD.addmm_(grad_nv.T, wide_ND[tokens])
            if grad_bias_v is not None:
                grad_bias_v += grad_nv.sum(0)
        if grad_weight_VD is not None and grad_weight_vD is not None:
            grad_weight_VD[vocab] = grad_weight_vD
        if grad_bias_V is not None and grad_bias_v is not None:
            grad_bias_V[vocab] = grad_bias_v
    grad_hidden_ND = None if grad_hidden_ND is None else grad_hidden_ND.to(hidden_ND.dtype)
    return grad_hidden_ND, grad_weight_VD, grad_bias_V
