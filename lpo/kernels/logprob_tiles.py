"""Log-probs and their gradients in torch, tile after tile: the path of every device, and the oracle of the others.

Besides the matrix products, a tile of tokens by vocabulary entries is passed over four times in the forward (maximum,
difference, exponential, sum) and twice in the backward (difference, exponential). Factors that belong to a token or to
all logits are moved into the hidden states, which are far smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Head:
    """How hidden states become logits, and in which tiles.

    Args:
        scale: Factor on the products.
        softcap: Soft cap of the scaled products; None for none.
        temperature: Divisor of the final logits.
        token_chunk: Positions per tile.
        vocab_chunk: Vocabulary entries per tile.
        dtype: Of tiles, statistics and sums of gradients: float32 or float64.
    """

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

    @property
    def factor(self) -> float:
        """Of the products, before any soft cap: it is put into hidden states and bias."""
        return self.scale / (self.temperature if self.softcap is None else self.softcap)

    @property
    def gain(self) -> float:
        """Derivative of a logit by its product where no soft cap flattens it."""
        return self.scale / self.temperature

    def token_slices(self, n_tokens: int) -> Iterator[slice]:
        """Stretches of tokens, one for each tile."""
        return _slices(n_tokens, self.token_chunk)

    def vocab_slices(self, n_vocab: int) -> Iterator[slice]:
        """Stretches of the vocabulary, one for each tile."""
        return _slices(n_vocab, self.vocab_chunk)

    def scaled(self, tensor: torch.Tensor) -> torch.Tensor:
        """Hidden states or bias in the working dtype, times `factor`; not copied if that changes nothing."""
        wide = tensor.to(self.dtype)
        return wide if self.factor == 1.0 else wide * self.factor

    def slope(self, logits: torch.Tensor) -> torch.Tensor:
        """Derivative of the logit by (hidden @ weight.T + bias), from the logit itself."""
        if self.softcap is None:
            return torch.full_like(logits, self.gain)
        tanh = logits * (self.temperature / self.softcap)
        return self.gain * (1 - tanh * tanh)


def _slices(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, length)) for start in range(0, length, chunk))


class WeightGradient(Protocol):
    """Takes in the gradient of a head's weight, one stretch of the vocabulary after the other."""

    def tile(self, vocab: slice) -> torch.Tensor:
        """Zeros [v, D] in the working dtype to sum a stretch's gradient in."""
        ...

    def store(self, vocab: slice, tile_vD: torch.Tensor) -> None:
        """Keep what has been summed."""
        ...

    def result(self) -> torch.Tensor:
        """The whole gradient, in the form and dtype of the weight."""
        ...


class HeadWeight(Protocol):
    """A head's weight that can be crossed in stretches of the vocabulary, wherever it lies."""

    def tiles(self, head: Head) -> Iterator[tuple[slice, torch.Tensor]]:
        """Stretches of the vocabulary and their rows [v, D] in the working dtype."""
        ...

    def add_rows(self, sum_ND: torch.Tensor, targets_N: torch.Tensor, factor_N: torch.Tensor, head: Head) -> None:
        """`sum_ND += factor_N * weight[targets_N]`; targets outside the vocabulary come with a factor of zero."""
        ...

    def new_gradient(self, head: Head) -> WeightGradient:
        """An empty gradient."""
        ...


class WholeWeight:
    """A weight that lies in one piece on the device of the hidden states."""

    def __init__(self, weight_VD: torch.Tensor) -> None:
        self._weight_VD = weight_VD

    def tiles(self, head: Head) -> Iterator[tuple[slice, torch.Tensor]]:
        """Views of the weight, converted if it has another dtype."""
        return ((vocab, self._weight_VD[vocab].to(head.dtype)) for vocab in head.vocab_slices(len(self._weight_VD)))

    def add_rows(self, sum_ND: torch.Tensor, targets_N: torch.Tensor, factor_N: torch.Tensor, head: Head) -> None:
        """The target rows of some tokens at a time."""
        for tokens in head.token_slices(len(targets_N)):
            rows_nD = self._weight_VD[targets_N[tokens].clamp(0, len(self._weight_VD) - 1)].to(head.dtype)
            sum_ND[tokens].addcmul_(rows_nD, factor_N[tokens, None])

    def new_gradient(self, head: Head) -> _WholeGradient:
        """A gradient of the weight's shape, strides and dtype."""
        return _WholeGradient(self._weight_VD, head)


class _WholeGradient:
    """Summed in place if the weight has the working dtype, otherwise rounded once, when a stretch is complete."""

    def __init__(self, weight_VD: torch.Tensor, head: Head) -> None:
        self._grad_VD = torch.empty_like(weight_VD)
        self._dtype = head.dtype

    def tile(self, vocab: slice) -> torch.Tensor:
        tile_vD = self._grad_VD[vocab]
        return tile_vD.zero_() if tile_vD.dtype == self._dtype else torch.zeros_like(tile_vD, dtype=self._dtype)

    def store(self, vocab: slice, tile_vD: torch.Tensor) -> None:
        if self._grad_VD.dtype != self._dtype:
            self._grad_VD[vocab] = tile_vD

    def result(self) -> torch.Tensor:
        return self._grad_VD


class _Tile:
    """One buffer for the logits of every tile in turn, and under a soft cap one for the squares of its tanh."""

    def __init__(self, head: Head, device: torch.device, with_slope: bool) -> None:
        self._head = head
        self._logits = torch.empty(0, dtype=head.dtype, device=device)
        self._squares = torch.empty_like(self._logits) if with_slope and head.softcap is not None else None
        self._squares_nv: torch.Tensor | None = None

    def fill(self, scaled_nD: torch.Tensor, weight_vD: torch.Tensor, scaled_v: torch.Tensor | None) -> torch.Tensor:
        """Logits [n, v] of some tokens, valid until the next call, free to be overwritten."""
        shape = (len(scaled_nD), len(weight_vD))
        logits_nv = torch.mm(scaled_nD, weight_vD.T, out=_view(self._logits, shape))
        if scaled_v is not None:
            logits_nv += scaled_v
        if self._head.softcap is not None:
            logits_nv.tanh_()
            if self._squares is not None:
                self._squares_nv = torch.mul(logits_nv, logits_nv, out=_view(self._squares, shape))
            logits_nv *= self._head.softcap / self._head.temperature
        return logits_nv

    def flatten(self, values_nv: torch.Tensor) -> torch.Tensor:
        """`values_nv` times the derivative of the soft cap at the logits filled in last, in place."""
        return values_nv if self._squares_nv is None else values_nv.addcmul_(values_nv, self._squares_nv, value=-1)


def _view(buffer: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """The beginning of a buffer as a matrix without gaps; the first tile is the largest and makes it long enough."""
    if len(buffer) < math.prod(shape):
        buffer.resize_(math.prod(shape))
    return buffer[: math.prod(shape)].view(shape)


class Statistics:
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
        """Log of the sum of exponentials of all logits."""
        return self.max_N + self.sum_N.log()


def _local(targets_n: torch.Tensor, vocab: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Each target's column in the tile, and whether it lies there; no index of varying size, hence no device sync."""
    local_n = targets_n - vocab.start
    width = vocab.stop - vocab.start
    return local_n.clamp(0, width - 1), (local_n >= 0) & (local_n < width)


def forward(
    hidden_ND: torch.Tensor,
    weight: HeadWeight,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    head: Head,
    keep_gradient: bool,
) -> tuple[Statistics, torch.Tensor | None]:
    """Statistics of every position and, if asked for, d log-prob / d hidden [N, D], in one pass over the vocabulary.

    The latter is slope(target) * weight[target] minus the mean of slope * weight row under the model's distribution.
    """
    statistics = Statistics(targets_N, head.dtype)
    scaled_ND = head.scaled(hidden_ND)
    scaled_V = None if bias_V is None else head.scaled(bias_V)
    mean_ND = torch.zeros_like(hidden_ND, dtype=head.dtype) if keep_gradient else None
    tile = _Tile(head, hidden_ND.device, keep_gradient)
    for vocab, weight_vD in weight.tiles(head):  # outermost, so that each weight tile is converted once
        scaled_v = None if scaled_V is None else scaled_V[vocab]
        for tokens in head.token_slices(len(hidden_ND)):
            logits_nv = tile.fill(scaled_ND[tokens], weight_vD, scaled_v)
            exp_nv, rescale_n = statistics.add(tokens, vocab, logits_nv)
            if mean_ND is not None:
                mean_ND[tokens].mul_(rescale_n[:, None]).addmm_(tile.flatten(exp_nv), weight_vD)
    if mean_ND is None:
        return statistics, None
    unit_ND = mean_ND.mul_((-head.gain / statistics.sum_N)[:, None])
    slope_N = torch.where(statistics.target_N.isnan(), 0, head.slope(statistics.target_N))
    weight.add_rows(unit_ND, targets_N, slope_N, head)
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
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of hidden states, weight and bias from tiles computed again.

    With `surplus` the probabilities minus one at the target, times the soft cap's derivative, and u = -upstream * gain:
    dH = u * (surplus @ W), dW = surplus.T @ (u * H), db = surplus.T @ u.
    """
    needs_hidden, needs_weight, needs_bias = needed
    scaled_ND = head.scaled(hidden_ND)
    scaled_V = None if bias_V is None else head.scaled(bias_V)
    factor_N = upstream_N.to(head.dtype) * -head.gain
    grad_hidden_ND = torch.zeros_like(hidden_ND, dtype=head.dtype) if needs_hidden else None
    grad_weight = weight.new_gradient(head) if needs_weight else None
    grad_bias_V = scaled_V.new_zeros(len(scaled_V)) if scaled_V is not None and needs_bias else None
    tile = _Tile(head, hidden_ND.device, with_slope=True)
    for vocab, weight_vD in weight.tiles(head):
        scaled_v = None if scaled_V is None else scaled_V[vocab]
        grad_weight_vD = None if grad_weight is None else grad_weight.tile(vocab)
        for tokens in head.token_slices(len(hidden_ND)):
            logits_nv = tile.fill(scaled_ND[tokens], weight_vD, scaled_v)
            surplus_nv = logits_nv.sub_(log_normaliser_N[tokens, None]).exp_()
            local_n, inside_n = _local(targets_N[tokens], vocab)
            surplus_nv.scatter_add_(1, local_n[:, None], -inside_n[:, None].to(head.dtype))
            tile.flatten(surplus_nv)
            if grad_hidden_ND is not None:
                grad_hidden_ND[tokens].addmm_(surplus_nv, weight_vD)
            if grad_weight_vD is not None:
                grad_weight_vD.addmm_(surplus_nv.T, hidden_ND[tokens] * factor_N[tokens, None])
            if grad_bias_V is not None:
                grad_bias_V[vocab].addmv_(surplus_nv.T, factor_N[tokens])
        if grad_weight is not None and grad_weight_vD is not None:
            grad_weight.store(vocab, grad_weight_vD)
    if grad_hidden_ND is not None:
        grad_hidden_ND = grad_hidden_ND.mul_(factor_N[:, None]).to(hidden_ND.dtype)
    return grad_hidden_ND, None if grad_weight is None else grad_weight.result(), grad_bias_V
