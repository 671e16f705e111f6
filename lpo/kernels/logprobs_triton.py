"""The chunked log-probs on CUDA: what `logprob_tiles` does in torch, by Triton kernels.

Their numbers are checked in Triton's interpreter and their code is compiled for sm_80, sm_90 and sm_100 (matrix
instructions for 16-bit inputs, shared memory, no spills). They have never run on a GPU, and no speed is claimed.

The vocabulary is crossed in the same tiles as in torch. Logits stay in registers and in float32; what a tile leaves in
memory is one number in the inputs' dtype per token and vocabulary entry, which the next product needs. In units of
2NDV floating-point operations, the forward costs 1, or 2 with the gradient of a frozen head gathered on the way; the
backward of a trainable head costs 3 (logits again, then both products).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
import triton

from lpo.kernels.logprob_tiles import Head, HeadWeight, Statistics
from lpo.kernels.logprobs_triton_kernels import (
    LIFT,
    LN2_HIGH,
    LN2_LOW,
    LOWEST_POWER,
    gradient_kernel,
    product_kernel,
    statistics_kernel,
)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def supports(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> bool:
    """Whether the kernels take these inputs: on an NVIDIA GPU (Ampere or newer), of one dtype of at most 32 bits."""
    return (
        hidden_ND.is_cuda
        and torch.version.hip is None
        and hidden_ND.dtype == weight_VD.dtype
        and hidden_ND.dtype in _DTYPES
        and torch.cuda.get_device_capability(hidden_ND.device) >= (8, 0)
    )


@dataclass(frozen=True)
class Blocks:
    """Block sizes and launch settings of one program.

    `tokens` x `entries` of logits are gathered over steps of `depth` of the hidden size; the products make blocks of
    `rows` x `columns` over steps of `inner`, which divides `entries`.
    """

    tokens: int
    entries: int
    depth: int
    rows: int
    columns: int
    inner: int
    warps: int
    stages: int
    group: int = 8


def choose_blocks(dtype: torch.dtype, width: int, capability: tuple[int, int]) -> Blocks:
    """Blocks that compile without spills within a GPU's shared memory; chosen by that, not by timing.

    Args:
        dtype: Of the inputs.
        width: Hidden size; rows that do not begin at multiples of 16 elements need more registers for addresses.
        capability: Of the GPU.
    """
    if dtype == torch.float32:  # exact products run without matrix units: more registers, smaller blocks
        return Blocks(tokens=64, entries=64, depth=16, rows=64, columns=64, inner=16, warps=4, stages=3)
    if width % 16 != 0:
        return Blocks(tokens=128, entries=64, depth=32, rows=128, columns=64, inner=32, warps=8, stages=3)
    depth = 32 if capability < (9, 0) else 64
    return Blocks(tokens=128, entries=128, depth=depth, rows=128, columns=128, inner=depth, warps=8, stages=3)


def forward_cuda(
    hidden_ND: torch.Tensor,
    weight: HeadWeight,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    head: Head,
    keep_gradient: bool,
) -> tuple[Statistics, torch.Tensor | None]:
    """Statistics of every position and, if asked for, d log-prob / d hidden [N, D], in one pass over the vocabulary.

    Compiled and checked in the interpreter, never run on a GPU; no speed is claimed.

    Args:
        hidden_ND: Hidden states for which `supports` holds.
        weight: Head weight, of the same dtype.
        bias_V: Head bias.
        targets_N: int64, the tokens whose log-probs are asked.
        head: Scale, soft-cap, temperature and tiles; float32 statistics.
        keep_gradient: Gather the unit-row gradient (a frozen head).

    Returns:
        Statistics and unit gradients, as from `logprob_tiles.forward`.
    """
    with torch.cuda.device(hidden_ND.device):
        return forward(hidden_ND, weight, bias_V, targets_N, head, keep_gradient, _blocks_for(hidden_ND))


def backward_cuda(
    hidden_ND: torch.Tensor,
    weight: HeadWeight,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    log_normaliser_N: torch.Tensor,
    upstream_N: torch.Tensor,
    head: Head,
    needed: tuple[bool, ...],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of hidden states, weight and bias from tiles computed again.

    Compiled and checked in the interpreter, never run on a GPU; no speed is claimed.

    Args:
        hidden_ND: As in the forward.
        weight: The same.
        bias_V: The same.
        targets_N: The same.
        log_normaliser_N: From the forward's statistics.
        upstream_N: Gradient of the loss with respect to each log-prob.
        head: As in the forward.
        needed: Which of the three gradients are asked for.

    Returns:
        The gradients, None for what was not asked, as from `logprob_tiles.backward`.
    """
    with torch.cuda.device(hidden_ND.device):
        return backward(hidden_ND, weight, bias_V, targets_N, log_normaliser_N, upstream_N, head, needed,
                        _blocks_for(hidden_ND))


def _blocks_for(hidden_ND: torch.Tensor) -> Blocks:
    capability = torch.cuda.get_device_capability(hidden_ND.device)
    return choose_blocks(hidden_ND.dtype, hidden_ND.shape[1], capability)


def forward(
    hidden_ND: torch.Tensor,
    weight: HeadWeight,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    head: Head,
    keep_gradient: bool,
    blocks: Blocks,
) -> tuple[Statistics, torch.Tensor | None]:
    """As `forward_cuda`, in given blocks; in Triton's interpreter the device is the CPU."""
    launcher = _Launcher(hidden_ND, bias_V, targets_N, head, blocks)
    n_tokens, width = hidden_ND.shape
    statistics = Statistics(targets_N, torch.float32)
    statistics.target_N = launcher.empty(n_tokens).fill_(math.nan)
    power_N = torch.full_like(statistics.sum_N, LOWEST_POWER.value)
    mean_ND = launcher.empty(n_tokens, width).zero_() if keep_gradient else None
    for vocab, weight_vD in weight.tiles(launcher.input_head):
        for tokens in head.token_slices(n_tokens):
            tile = (tokens, vocab, weight_vD)
            power_bn, sum_bn, exp_nv = launcher.statistics(*tile, statistics.target_N[tokens], keep_gradient)
            power_n = torch.maximum(power_N[tokens], power_bn.amax(0))
            rescale_n = torch.exp2(power_N[tokens] - power_n)
            shift_bn = torch.exp2(power_bn - power_n)
            statistics.sum_N[tokens] = statistics.sum_N[tokens] * rescale_n + (sum_bn * shift_bn).sum(0)
            power_N[tokens] = power_n
            if mean_ND is not None and exp_nv is not None:
                launcher.add_product(mean_ND[tokens], exp_nv, weight_vD, shift=(rescale_n, shift_bn))
    unit_ND = None
    if mean_ND is not None:
        unit_ND = mean_ND.mul_((-head.gain / LIFT.value / statistics.sum_N)[:, None])
        slope_N = torch.where(statistics.target_N.isnan(), 0, head.slope(statistics.target_N))
        weight.add_rows(unit_ND, targets_N, slope_N, head)
    # The sum is relative to 2**power. What float32 does not hold of power * ln 2 goes into the sum.
    statistics.max_N = power_N * LN2_HIGH.value
    statistics.sum_N *= torch.exp(power_N * LN2_LOW.value)
    return statistics, unit_ND


def backward(
    hidden_ND: torch.Tensor,
    weight: HeadWeight,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    log_normaliser_N: torch.Tensor,
    upstream_N: torch.Tensor,
    head: Head,
    needed: tuple[bool, ...],
    blocks: Blocks,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """As `backward_cuda`, in given blocks; in Triton's interpreter the device is the CPU."""
    needs_hidden, needs_weight, needs_bias = needed
    launcher = _Launcher(hidden_ND, bias_V, targets_N, head, blocks)
    lift = _lift(upstream_N)
    lifted_N = upstream_N.to(torch.float32) * lift
    factor = head.gain / lift
    grad_hidden_ND = launcher.empty(*hidden_ND.shape).zero_() if needs_hidden else None
    grad_weight = weight.new_gradient(head) if needs_weight else None
    grad_bias_V = None if bias_V is None or not needs_bias else torch.zeros_like(bias_V, dtype=torch.float32)
    for vocab, weight_vD in weight.tiles(launcher.input_head):
        sum_vD = launcher.empty(*weight_vD.shape).zero_() if needs_weight else None
        for tokens in head.token_slices(len(hidden_ND)):
            grad_nv, grad_bias_bv = launcher.gradient(
                tokens, vocab, weight_vD, lifted_N[tokens], log_normaliser_N[tokens], grad_bias_V is not None)
            if grad_hidden_ND is not None:
                launcher.add_product(grad_hidden_ND[tokens], grad_nv, weight_vD)
            if sum_vD is not None:
                launcher.add_product(sum_vD, grad_nv.T, launcher.hidden_ND[tokens])
            if grad_bias_V is not None and grad_bias_bv is not None:
                grad_bias_V[vocab] += grad_bias_bv.sum(0)
        if grad_weight is not None and sum_vD is not None:
            grad_weight_vD = grad_weight.tile(vocab)
            grad_weight.store(vocab, torch.mul(sum_vD, factor, out=grad_weight_vD))
    if grad_hidden_ND is not None:
        grad_hidden_ND = grad_hidden_ND.mul_(factor).to(hidden_ND.dtype)
    grad_bias_V = None if grad_bias_V is None else grad_bias_V.mul_(factor)
    return grad_hidden_ND, None if grad_weight is None else grad_weight.result(), grad_bias_V


def _lift(upstream_N: torch.Tensor) -> torch.Tensor:
    """The power of two that brings the largest upstream to the top of float16's range, for the stored tiles."""
    if len(upstream_N) == 0:
        return upstream_N.new_ones((), dtype=torch.float32)
    exponent = torch.frexp(upstream_N.abs().amax().float()).exponent
    return LIFT.value * torch.exp2(-exponent.clamp(-100, 100).float())


class _Launcher:
    """Launches the kernels: all that does not change from tile to tile is filled in here."""

    def __init__(
        self, hidden_ND: torch.Tensor, bias_V: torch.Tensor | None, targets_N: torch.Tensor, head: Head, blocks: Blocks
    ) -> None:
        self.hidden_ND = hidden_ND.contiguous()
        # Tiles of the weight come in the dtype of this head: that of the inputs, not that of the statistics.
        self.input_head = dataclasses.replace(head, dtype=hidden_ND.dtype)
        self._bias_V = None if bias_V is None else bias_V.contiguous()
        self._targets_N = targets_N.contiguous()
        self._blocks = blocks
        self._factors = (head.factor, 1.0 if head.softcap is None else head.softcap / head.temperature)
        self._settings = {
            "BIASED": bias_V is not None, "SOFTCAP": head.softcap is not None,
            "BLOCK_N": blocks.tokens, "BLOCK_V": blocks.entries, "BLOCK_D": blocks.depth, "GROUP": blocks.group,
            "num_warps": blocks.warps, "num_stages": blocks.stages,
        }

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A buffer for a kernel to write to.

        Its rows begin at multiples of 16 elements, so that they are read and written in whole vectors.
        """
        *rows, columns = shape
        aligned = (*rows, triton.cdiv(columns, 16) * 16)
        return torch.empty(aligned, dtype=dtype, device=self.hidden_ND.device)[..., :columns]

    def statistics(
        self, tokens: slice, vocab: slice, weight_vD: torch.Tensor, target_n: torch.Tensor, keep_exp: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Partial statistics of a tile and, if kept, its lifted exponentials; target logits in it are stored."""
        inputs, sizes, (_, vocab_blocks), grid = self._logits(tokens, vocab, weight_vD)
        power_bn = self.empty(vocab_blocks, len(target_n))
        sum_bn = self.empty(vocab_blocks, len(target_n))
        exp_nv = self.empty(len(target_n), len(weight_vD), dtype=weight_vD.dtype) if keep_exp else None
        _launch(
            statistics_kernel, grid, *inputs, power_bn, sum_bn, target_n, exp_nv, *sizes, power_bn.stride(0),
            _stride(exp_nv), *self._factors, KEEP_EXP=keep_exp, **self._settings)
        return power_bn, sum_bn, exp_nv

    def gradient(
        self, tokens: slice, vocab: slice, weight_vD: torch.Tensor, upstream_n: torch.Tensor,
        log_normaliser_n: torch.Tensor, bias_trains: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Gradient by a tile's logits, over `gain`, and its sums over blocks of tokens if the bias trains."""
        inputs, sizes, (token_blocks, _), grid = self._logits(tokens, vocab, weight_vD)
        grad_nv = self.empty(len(upstream_n), len(weight_vD), dtype=weight_vD.dtype)
        grad_bias_bv = self.empty(token_blocks, len(weight_vD)) if bias_trains else None
        _launch(
            gradient_kernel, grid, *inputs, upstream_n, log_normaliser_n, grad_nv, grad_bias_bv, *sizes,
            grad_nv.stride(0), _stride(grad_bias_bv), *self._factors, BIAS_TRAINS=bias_trains, **self._settings)
        return grad_nv, grad_bias_bv

    def add_product(
        self, sum_md: torch.Tensor, left_mk: torch.Tensor, right_kd: torch.Tensor,
        shift: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """`sum_md += left_mk @ right_kd`; with `shift` (rescale, factor), as `product_kernel` says."""
        blocks = self._blocks
        rescale_m, factor_bm = (None, None) if shift is None else shift
        right_kd = _rows_without_gaps(right_kd)
        grid = (triton.cdiv(len(sum_md), blocks.rows) * triton.cdiv(sum_md.shape[1], blocks.columns),)
        _launch(
            product_kernel, grid, left_mk, right_kd, sum_md, factor_bm, rescale_m,
            len(sum_md), len(right_kd), sum_md.shape[1], left_mk.stride(0), left_mk.stride(1), right_kd.stride(0),
            sum_md.stride(0), _stride(factor_bm),
            SHIFTED=shift is not None, FACTOR_WIDTH=blocks.entries, BLOCK_M=blocks.rows, BLOCK_D=blocks.columns,
            BLOCK_K=blocks.inner, GROUP=blocks.group, num_warps=blocks.warps, num_stages=blocks.stages)

    def _logits(
        self, tokens: slice, vocab: slice, weight_vD: torch.Tensor
    ) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[int, int], tuple[int]]:
        """What both kernels of logits begin with: inputs, sizes, blocks by tokens and by vocabulary, grid."""
        hidden_nD, weight_vD = self.hidden_ND[tokens], _rows_without_gaps(weight_vD)
        bias_v = None if self._bias_V is None else self._bias_V[vocab]
        sizes = (len(hidden_nD), *weight_vD.shape, vocab.start, hidden_nD.stride(0), weight_vD.stride(0))
        n_blocks = (triton.cdiv(len(hidden_nD), self._blocks.tokens), triton.cdiv(len(weight_vD), self._blocks.entries))
        return (hidden_nD, weight_vD, bias_v, self._targets_N[tokens]), sizes, n_blocks, (math.prod(n_blocks),)


def _launch(kernel: Any, grid: tuple[int], *arguments: Any, **settings: Any) -> None:
    """Start a kernel. Type checkers see the signature of its Python function, not what Triton adds to it."""
    kernel[grid](*arguments, **settings)


def _rows_without_gaps(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _stride(matrix: torch.Tensor | None) -> int:
    return 0 if matrix is None else matrix.stride(0)
