"""Attention of a tree computed part by part: the trunk first, whose keys and values are kept, then its branches."""

from __future__ import annotations

import torch

from lpo.kernels.attention_parts import plan_parts
from lpo.kernels.segment_attention import SegmentCall, segment_attention
from lpo.kernels.tree_call import AttentionLayer, TreeCall, under_autocast
from lpo.packing import Branch

KeysAndValues = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""For each layer, keys and values [1, G, T, E] of the trunk's tokens."""


class TrunkCall(SegmentCall):
    """The forward over the trunk. Its keys and values stay with their history, so that gradients can enter there.

    Args:
        trunk: The trunk.
    """

    def __init__(self, trunk: Branch) -> None:
        super().__init__(trunk.tree)
        self.kept: KeysAndValues = {}

    def attend(
        self, layer: AttentionLayer, query_1HTE: torch.Tensor, key_1GTE: torch.Tensor, value_1GTE: torch.Tensor
    ) -> torch.Tensor:
        """See TreeCall."""
        # Gradient checkpointing comes here again in the backward; what the branches have used must stay.
        self.kept.setdefault(layer.index, (key_1GTE, value_1GTE))
        return super().attend(layer, query_1HTE, key_1GTE, value_1GTE)


class BranchCall(TreeCall):
    """The forward over a branch, whose tokens also see the trunk up to where it branches off.

    Args:
        branch: The branch.
        trunk: Keys and values of the trunk.
    """

    def __init__(self, branch: Branch, trunk: KeysAndValues) -> None:
        super().__init__(branch.tree)
        self._prefix = branch.prefix
        self._trunk = trunk

    def attend(
        self, layer: AttentionLayer, query_1HTE: torch.Tensor, key_1GTE: torch.Tensor, value_1GTE: torch.Tensor
    ) -> torch.Tensor:
        """See TreeCall."""
        keys_1GUE, values_1GUE = (
            torch.cat((trunk[:, :, : self._prefix], own), dim=2)
            for trunk, own in zip(self._trunk[layer.index], (key_1GTE, value_1GTE), strict=True))
        query, key, value = under_autocast(query_1HTE, keys_1GUE, values_1GUE)
        plan = plan_parts(self.tree.chains, layer.window, first_query=self._prefix)
        return segment_attention(query, key, value, plan, plan.band_mask(query.dtype, query.device), layer)
