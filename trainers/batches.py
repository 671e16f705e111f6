"""Padded batches of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from lpo.trainers.sides import SideIndex
from lpo.trainers.tokenise import TokenisedPair


class PairDataset(Dataset[tuple[int, TokenisedPair]]):
    """Tokenised pairs, each with its number."""

    def __init__(self, pairs: Sequence[TokenisedPair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[int, TokenisedPair]:
        return index, self.pairs[index]


@dataclass(frozen=True)
class PairCollator:
    """Makes a batch of P pairs: rows 0..P-1 are the chosen sides, rows P..2P-1 the rejected ones, padded on the right.

    Args:
        pad_token_id: Fills rows up to the longest one; hidden by the attention mask.

    Returns (from a call):
        Tensors by name. `pair_index` [P] and `step` [P]; `input_ids` and `attention_mask` [2P, T]; for the N scored
        tokens, chosen sides first, `scored_index` [N] (position in the flattened [2P * T] whose hidden state predicts
        the token) and `scored_targets` [N]; and the sides as `SideIndex` takes them: `chosen_token_index`,
        `chosen_side_id`, `rejected_token_index`, `rejected_side_id`.
    """

    pad_token_id: int

    def __call__(self, items: Sequence[tuple[int, TokenisedPair]]) -> dict[str, torch.Tensor]:
        """Collate a batch."""
        pairs = [pair for _, pair in items]
        sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        width = max(len(side.ids) for side in sides)
        input_ids = torch.full((len(sides), width), self.pad_token_id)
        mask = torch.zeros_like(input_ids)
        index: list[torch.Tensor] = []
        for row, side in enumerate(sides):
            input_ids[row, : len(side.ids)] = torch.tensor(side.ids)
            mask[row, : len(side.ids)] = 1
            index.append(torch.arange(side.start - 1, len(side.ids) - 1) + row * width)
        scored_index = torch.cat(index)
        batch = {
            # First, because the trainer and accelerate take the batch size from the first tensor.
            "pair_index": torch.tensor([number for number, _ in items]),
            "step": torch.tensor([pair.step for pair in pairs]),
            "input_ids": input_ids,
            "attention_mask": mask,
            "scored_index": scored_index,
            "scored_targets": input_ids.flatten()[scored_index + 1],
        }
        start = 0
        for name, rows in (("chosen", sides[: len(pairs)]), ("rejected", sides[len(pairs):])):
            lengths = [side.n_scored for side in rows]
            index_of_sides = SideIndex.from_lengths(lengths, start=start)
            batch[f"{name}_token_index"] = index_of_sides.token_index_M
            batch[f"{name}_side_id"] = index_of_sides.side_id_M
            start += sum(lengths)
        return batch


def side_index(batch: dict[str, torch.Tensor], name: str) -> SideIndex:
    """The `chosen` or `rejected` sides of a batch."""
    return SideIndex(batch[f"{name}_token_index"], batch[f"{name}_side_id"], batch["pair_index"].numel())
