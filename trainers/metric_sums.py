"""Averages of metrics over a logging window, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from lpo.packing import PackedTree
from lpo.trainers.batches import Piece
from lpo.trainers.losses import LossOutputs


class MetricSums:
    """Weighted sums: averages are over pairs (or tokens), not over batches, so an uneven last batch weighs less."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[torch.Tensor, float]] = {}

    def add(self, metrics: dict[str, torch.Tensor], weight: float) -> None:
        """Add a batch's averages.

        Args:
            metrics: Scalars by name.
            weight: How many pairs (or tokens) they are averages of.
        """
        for name, value in metrics.items():
            total, count = self._sums.get(name, (value.new_zeros(()), 0.0))
            self._sums[name] = (total + value.detach() * weight, count + weight)

    def drain(self, accelerator: Any) -> dict[str, float]:
        """The averages over all processes since the last call; every process must have added the same names."""
        if not self._sums:
            return {}
        names = list(self._sums)
        dtype = torch.float32 if next(iter(self._sums.values()))[0].device.type == "mps" else torch.float64
        totals = torch.stack([torch.stack((total.to(dtype), total.new_tensor(count, dtype=dtype)))
                              for total, count in self._sums.values()])
        self._sums.clear()
        totals = accelerator.reduce(totals, reduction="sum").cpu()
        return {name: (total / count).item() for name, (total, count) in zip(names, totals, strict=True)}


class PairMetrics:
    """What a training or an evaluation logs about its pairs."""

    def __init__(self) -> None:
        self.steps: set[int] = set()
        """Steps of all rows: every process must report the same metrics."""
        self._sums = MetricSums()
        self._row_tokens = 0

    def add(self, outputs: LossOutputs, piece: Piece, step_P: torch.Tensor) -> None:
        """Add the pairs of a piece.

        Args:
            outputs: Their losses and metrics. Where these are not finite, the pairs do not count: the optimiser step
                is refused or skipped.
            piece: The piece.
            step_P: [P], which step of its document each pair is.
        """
        share = {f"steps/{step}": (step_P == step).float().mean() for step in sorted(self.steps)}
        metrics = outputs.metrics | {"mean_loss": outputs.losses_P.mean()} | share
        weight = 1
        if not torch.isfinite(outputs.loss):
            metrics, weight = {name: torch.zeros_like(value) for name, value in metrics.items()}, 0
        if "kl" in metrics:
            entries = piece.chosen.token_index_M.numel() + piece.rejected.token_index_M.numel()
            self._sums.add({"kl": metrics.pop("kl")}, weight * entries)
        self._sums.add(metrics, weight * len(step_P))

    def count_tokens(self, pieces: Iterable[Piece]) -> None:
        """Count what goes through the model."""
        for piece in pieces:
            self._row_tokens += piece.tokens.n_row_tokens
            if isinstance(piece.tokens, PackedTree):
                ratio = torch.tensor(piece.tokens.sharing, device=piece.pair_slot_P.device)
                self._sums.add({"tree/sharing": ratio}, piece.tokens.n_tokens)

    def drain(self, accelerator: Any) -> dict[str, float]:
        """Averages over all processes since the last call, without shares of steps that did not occur."""
        averages = self._sums.drain(accelerator)
        return {name: value for name, value in averages.items() if value or not name.startswith("steps/")}

    def drain_tokens(self, accelerator: Any) -> int:
        """Row tokens of all processes since the last call."""
        tokens, self._row_tokens = self._row_tokens, 0
        return int(accelerator.reduce(torch.tensor(tokens, device=accelerator.device), reduction="sum"))
