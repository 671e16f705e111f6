"""Averages of metrics over a logging window, kept on the device until they are read."""

from __future__ import annotations

from typing import Any

import torch


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
