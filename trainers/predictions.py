"""Rewards of evaluated pairs on their way to `compute_metrics`.

The base trainer gathers, cuts and joins what was predicted by the units of a batch, so on that way the pairs of a unit
stand side by side; before anybody looks at them they are one list of pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer_utils import EvalPrediction

from lpo.trainers.batches import Batch

_PAD = -100
Metrics = Callable[[EvalPrediction], dict[str, float]]


def by_unit(rewards_P2: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and numbers of a batch's pairs, unit by unit.

    Args:
        rewards_P2: Rewards of chosen and rejected of each pair.
        batch: The batch.

    Returns:
        Rewards [U, K, 2] and pair numbers [U, K] for at most K pairs a unit, padded with -100.
    """
    sizes: list[int] = batch["unit_size"].tolist()
    return tuple(pad_sequence(list(values.split(sizes)), batch_first=True, padding_value=_PAD)  # pyright: ignore[reportReturnType]
                 for values in (rewards_P2, batch["pair_index"]))


def by_pair(rewards_UK2: Any, number_UK: Any) -> dict[str, Any]:
    """The same as rewards [P, 2] and pair numbers [P], under the names the base trainer has for them."""
    if rewards_UK2 is None:
        return {"predictions": None, "label_ids": None}
    is_pair_UK = np.asarray(number_UK) != _PAD
    return {"predictions": rewards_UK2[is_pair_UK], "label_ids": number_UK[is_pair_UK]}


def on_pairs(compute_metrics: Metrics | None) -> Metrics | None:
    """A user's `compute_metrics`, which gets pairs, for a trainer that hands over units."""
    if compute_metrics is None:
        return None
    return lambda prediction: compute_metrics(EvalPrediction(**by_pair(prediction.predictions, prediction.label_ids)))
