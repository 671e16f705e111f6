"""Log-probabilities of given tokens from hidden states, without ever holding the logits.

Logits exist as tiles of some tokens by some of the vocabulary, in float32 whatever the dtype of the inputs: a
preference margin is a small difference of two sums over hundreds of tokens, and logits rounded to bfloat16 cost tenths
of a nat there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import torch
from torch.autograd.function import once_differentiable

from lpo.errors import ConfigError
from lpo.kernels import logprob_tiles
from lpo.kernels.logprob_tiles import Head, HeadWeight, WholeWeight
from lpo.kernels.tile_sizes import tile_sizes

if TYPE_CHECKING:
    from lpo.kernels.sharded_head import ShardedWeight


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
    6NDV, for one float32 [N, D] buffer. Otherwise the tiles are computed again in the backward: 8NDV, where logits kept
    whole would take 6NDV.

    A position that predicts several tokens (a fork of a tree) appears in `hidden_ND` once for each.

    The weight may be a `DTensor` sharded by rows (FSDP2); `lpo.kernels.sharded_head` says what the processes owe each
    other then.

    Args:
        hidden_ND: Final hidden states [N, D] of the scored positions, any floating dtype.
        weight_VD: Head weight [V, D].
        targets_N: int64 [N], the token whose log-prob is asked at each position. One outside [0, V) gets nan, and a
            finite gradient, so that masking the nan masks it all.
        bias: Head bias [V].
        softcap: Soft cap of the logits (Gemma 2: 30).
        scale: Factor on the logits (Cohere's `logit_scale`; the inverse of Granite's `logits_scaling`).
        temperature: Divisor of the final logits.
        token_chunk: Positions per tile; None chooses by the device's cache or memory.
        vocab_chunk: Vocabulary entries per tile; None chooses by the device's cache or memory.

    Returns:
        Log-probs in nats, [N], float32 (float64 if an input is).

    Raises:
        ValueError: Shapes do not fit, or a setting is not above zero.
        ConfigError: The weight is spread over processes in a way that cannot be gathered here.
    """
    _check_placement(weight_VD, bias)
    _check_shapes(hidden_ND, weight_VD, targets_N, bias)
    default = tile_sizes(hidden_ND.device, *hidden_ND.shape)
    if _is_sharded(weight_VD):
        from lpo.kernels.sharded_head import sharded_vocab_chunk

        default = default[0], sharded_vocab_chunk(cast(Any, weight_VD))
    head = Head(
        scale=scale, softcap=softcap, temperature=temperature,
        token_chunk=default[0] if token_chunk is None else token_chunk,
        vocab_chunk=default[1] if vocab_chunk is None else vocab_chunk,
        dtype=torch.float64 if torch.float64 in (hidden_ND.dtype, weight_VD.dtype) else torch.float32)
    head_trains = weight_VD.requires_grad or (bias is not None and bias.requires_grad)
    keep_gradient = torch.is_grad_enabled() and hidden_ND.requires_grad and not head_trains
    return cast(torch.Tensor, LogProbs.apply(hidden_ND, weight_VD, bias, targets_N, head, keep_gradient))


class HeadOptions(TypedDict, total=False):
    """The optional arguments of `chunked_logprobs`."""

    bias: torch.Tensor | None
    softcap: float | None
    scale: float
    temperature: float
    token_chunk: int | None
    vocab_chunk: int | None


def chunked_logprob_sums(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    token_index_M: torch.Tensor,
    segment_id_M: torch.Tensor,
    n_segments: int,
    **options: Unpack[HeadOptions],
) -> torch.Tensor:
    """Log-probs of whole segments: sums of `chunked_logprobs` over the tokens of each.

    Summed in float64: a float32 sum of 8,000 log-probs is off by hundredths of a nat. A token may belong to several
    segments (a trunk of a tree belongs to all of its branches).

    Args:
        hidden_ND: As in `chunked_logprobs`.
        weight_VD: The same.
        targets_N: The same.
        token_index_M: int64 [M], which token each entry is, in [0, N).
        segment_id_M: int64 [M], which segment each entry belongs to, in [0, S).
        n_segments: Number of segments S; one without an entry gets 0.
        options: The optional arguments of `chunked_logprobs`.

    Returns:
        Sums in nats, [S], float64 (float32 on MPS, which has no other), differentiable for any upstream gradient.
    """
    logprobs_N = chunked_logprobs(hidden_ND, weight_VD, targets_N, **options)
    wide_N = logprobs_N if logprobs_N.device.type == "mps" else logprobs_N.double()
    return wide_N.new_zeros(n_segments).index_add(0, segment_id_M, wide_N[token_index_M])


def _check_placement(weight_VD: torch.Tensor, bias_V: torch.Tensor | None) -> None:
    if hasattr(weight_VD, "ds_id"):
        raise ConfigError("the output head is partitioned by DeepSpeed ZeRO-3, which is not supported",
                          where="deepspeed", mend="use ZeRO stage 2, or FSDP2")
    if bias_V is not None and _is_sharded(bias_V) != _is_sharded(weight_VD):
        raise ConfigError("only one of the output head's weight and bias is sharded", where="fsdp",
                          mend="let one `fully_shard` hold both")


def _is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor, told without the import of `torch.distributed`, which not every build has."""
    return hasattr(tensor, "placements")


def _check_shapes(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, bias_V: torch.Tensor | None
) -> None:
    n_tokens, width = hidden_ND.shape if hidden_ND.dim() == 2 else (-1, -1)
    fits = weight_VD.dim() == 2 and weight_VD.shape[1] == width and targets_N.shape == (n_tokens,)
    if not fits or (bias_V is not None and bias_V.shape != weight_VD.shape[:1]):
        shapes = [tuple(tensor.shape) for tensor in (hidden_ND, weight_VD, targets_N, bias_V) if tensor is not None]
        raise ValueError(f"expected hidden [N, D], weight [V, D], targets [N], bias [V]; got {shapes}")


class LogProbs(torch.autograd.Function):
    """The log-probs as one node of autograd. `keep_gradient` needs a frozen head; without it tiles are recomputed."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        head: Head,
        keep_gradient: bool,
    ) -> torch.Tensor:
        """Log-probs [N]."""
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
        """Gradients of hidden states, weight and bias."""
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
    head: Head,
    keep_gradient: bool,
) -> tuple[logprob_tiles.Statistics, torch.Tensor | None]:
    """Statistics (`target_N`, `log_normaliser_N`) and d log-prob / d hidden [N, D] if asked for."""
    weight = _head_weight(weight_VD, hidden_ND.device)
    forward, _ = _passes(hidden_ND, weight_VD)
    return forward(hidden_ND, weight, _whole(bias_V), targets_N, head, keep_gradient)


def _backward(
    saved: tuple[torch.Tensor, ...], upstream_N: torch.Tensor, head: Head, needed: tuple[bool, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of hidden states, weight and bias, in their dtypes; None for what is not needed.

    Args:
        saved: hidden_ND, weight_VD, bias_V, targets_N and log_normaliser_N of the forward.
        upstream_N: Gradient of the loss with respect to each log-prob.
        head: As in the forward.
        needed: Which of the three gradients are asked for.
    """
    hidden_ND, weight_VD, bias_V, targets_N, log_normaliser_N = saved
    weight = _head_weight(weight_VD, hidden_ND.device)
    _, backward = _passes(hidden_ND, weight_VD)
    grad_hidden_ND, grad_weight_VD, grad_bias_V = backward(
        hidden_ND, weight, _whole(bias_V), targets_N, log_normaliser_N, upstream_N, head, needed)
    if grad_bias_V is not None:
        sharded = _is_sharded(bias_V)
        grad_bias_V = (cast("ShardedWeight", weight).mean_bias_gradient(grad_bias_V, cast(Any, bias_V))
                       if sharded else grad_bias_V.to(bias_V.dtype))
    return grad_hidden_ND, grad_weight_VD, grad_bias_V


def _passes(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward for these inputs: by Triton on CUDA where it is installed, by torch everywhere else."""
    if hidden_ND.is_cuda and importlib.util.find_spec("triton") is not None:
        from lpo.kernels import logprobs_triton

        if logprobs_triton.supports(hidden_ND, weight_VD):
            return logprobs_triton.forward_cuda, logprobs_triton.backward_cuda
    return logprob_tiles.forward, logprob_tiles.backward


def _head_weight(weight_VD: torch.Tensor, device: torch.device) -> HeadWeight:
    if not _is_sharded(weight_VD):
        return WholeWeight(weight_VD)
    from lpo.kernels.sharded_head import ShardedWeight

    return ShardedWeight(cast(Any, weight_VD), device)


def _whole(bias_V: torch.Tensor | None) -> torch.Tensor | None:
    return bias_V if bias_V is None or not _is_sharded(bias_V) else cast(Any, bias_V).full_tensor()
