"""Forward passes over a growing key-value cache, by the public interface of transformers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

_FORWARD_POSITIONS = 4096
"""Tokens (rows times columns) in one forward pass: bounds the memory of attention masks and activations."""


class CachedRows:
    """Rows of tokens that a model has read, with their keys and values.

    Rows of different lengths stand flush right (padding on the left), so that all of them end in the same column: a
    sliding window then counts the same distance in columns as in positions.

    Args:
        model: A causal language model of transformers.
        rows: How many rows; they are empty at first.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self._model = model
        self._device = model.device
        self._cache = DynamicCache(config=model.config)
        self._mask_BT = torch.zeros(rows, 0, dtype=torch.long, device=self._device)
        self._length_B = torch.zeros(rows, dtype=torch.long, device=self._device)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._mask_BT.shape[0]

    def read(self, ids_BT: Tensor, mask_BT: Tensor, columns: Sequence[int]) -> Tensor:
        """Read more tokens.

        Args:
            ids_BT: Token ids, rows by new columns.
            mask_BT: 1 where there is a token, 0 where there is padding.
            columns: New columns whose next-token logits are wanted (ascending).

        Returns:
            Logits `[rows, len(columns), vocabulary]` in float32.
        """
        width = ids_BT.shape[1]
        step = max(1, _FORWARD_POSITIONS // self.rows)
        parts = [
            self._forward(ids_BT[:, start:start + step], mask_BT[:, start:start + step],
                          [column - start for column in columns if start <= column < start + step])
            for start in range(0, width, step)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _forward(self, ids_BT: Tensor, mask_BT: Tensor, columns: list[int]) -> Tensor:
        mask_BT = mask_BT.to(self._device)
        self._mask_BT = torch.cat([self._mask_BT, mask_BT], dim=1)
        counts_BT = self._length_B[:, None] + mask_BT.cumsum(1)
        self._length_B = counts_BT[:, -1]
        output = self._model(
            input_ids=ids_BT.to(self._device),
            attention_mask=self._mask_BT,
            position_ids=(counts_BT - 1).clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            # Logits of a whole long row would be larger than the model; unwanted ones are never made.
            logits_to_keep=torch.tensor(columns, dtype=torch.long, device=self._device),
        )
        return output.logits.float()

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may be named several times."""
        index_B = torch.tensor(rows, dtype=torch.long, device=self._device)
        self._cache.batch_select_indices(index_B)
        self._mask_BT = self._mask_BT[index_B]
        self._length_B = self._length_B[index_B]

    def fork(self, rows: Sequence[int]) -> CachedRows:
        """A copy of these rows that grows on its own."""
        twin = copy.copy(self)
        twin._cache = copy.deepcopy(self._cache)
        twin.select(rows)
        return twin


def pad(rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and mask of rows of different lengths.

    Args:
        rows: Token ids.
        left: Put padding before the tokens instead of after them. Padded ids are 0: they are masked everywhere.
    """
    width = max(len(row) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BT[number, place] = torch.tensor(row, dtype=torch.long)
        mask_BT[number, place] = 1
    return ids_BT, mask_BT
