"""Tree attention in its plainest form: all scores and a mask of size T * T. What the other ways are measured by."""

from __future__ import annotations

import torch

from lpo.kernels.tree_call import AttentionLayer, TreeCall, under_autocast
from lpo.packing import PackedTree


class DenseCall(TreeCall):
    """Tree attention with a dense mask, for small trees."""

    def attend(
        self, layer: AttentionLayer, query_1HTE: torch.Tensor, key_1GTE: torch.Tensor, value_1GTE: torch.Tensor
    ) -> torch.Tensor:
        """See TreeCall."""
        query, key, value = under_autocast(query_1HTE, key_1GTE, value_1GTE)
        return dense_attention(query, key, value, visible(self.tree, layer.window), layer)


def visible(tree: PackedTree, window: int | None = None) -> torch.Tensor:
    """Bool [T, T]: whether the token of the row sees that of the column.

    Args:
        tree: The tree.
        window: Sliding window, counted in positions; None for none.
    """
    index_T = torch.arange(tree.n_tokens, device=tree.subtree_end_T.device)
    seen_TT = (index_T <= index_T[:, None]) & (index_T[:, None] < tree.subtree_end_T)
    if window is not None:
        seen_TT &= tree.position_ids_T > tree.position_ids_T[:, None] - window
    return seen_TT


def dense_attention(
    query_1HTE: torch.Tensor, key_1GUE: torch.Tensor, value_1GUE: torch.Tensor, visible_TU: torch.Tensor,
    layer: AttentionLayer,
) -> torch.Tensor:
    """Softmax attention over the visible keys, with the layer's scaling, soft cap and sinks.

    Returns:
        [1, T, H, E].
    """
    heads_per_key = query_1HTE.shape[1] // key_1GUE.shape[1]
    key_1HUE, value_1HUE = (tensor.repeat_interleave(heads_per_key, dim=1) for tensor in (key_1GUE, value_1GUE))
    score_1HTU = query_1HTE @ key_1HUE.mT * layer.scaling
    if layer.softcap is not None:
        score_1HTU = layer.softcap * torch.tanh(score_1HTU / layer.softcap)
    score_1HTU = score_1HTU.masked_fill(~visible_TU, -torch.inf)
    if layer.sinks_H is not None:
        sink_1HT1 = layer.sinks_H.to(score_1HTU.dtype)[None, :, None, None].expand(*score_1HTU.shape[:3], 1)
        score_1HTU = torch.cat([score_1HTU, sink_1HT1], dim=-1)
    weight_1HTU = score_1HTU.softmax(-1)[..., : key_1GUE.shape[2]]
    return (weight_1HTU @ value_1HUE).transpose(1, 2).contiguous()
