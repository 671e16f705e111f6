"""Attention of one part with its log-sum-exp, and its gradients given those of the whole.

A part's softmax is over its own keys only. Parts are put together by their log-sum-exps. The backward is given output
and log-sum-exp of the whole, from which a flash-attention backward derives exactly the part's share of the gradients,
because it needs nothing but the normalised weights exp(score - logsumexp) and the row sums of grad * out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class PartKernel(Protocol):
    """How a part is computed. Queries [1, H, t, E], keys and values [1, G, u, E], mask [t, u] to add or None."""

    def attend(
        self, query_1HtE: torch.Tensor, key_1GuE: torch.Tensor, value_1GuE: torch.Tensor,
        mask_tu: torch.Tensor | None, causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output [1, H, t, E] and log-sum-exp [1, H, t] of the part."""
        ...

    def gradients(
        self, grad_1HtE: torch.Tensor, query_1HtE: torch.Tensor, key_1GuE: torch.Tensor, value_1GuE: torch.Tensor,
        out_1HtE: torch.Tensor, lse_1Ht: torch.Tensor, mask_tu: torch.Tensor | None, causal: bool,
    ) -> Gradients:
        """The part's share of the gradients of queries, keys and values; out and lse are those of the whole."""
        ...


def part_kernel(query: torch.Tensor, value: torch.Tensor, scale: float, softcap: float | None) -> PartKernel:
    """The fastest kernel for the tensors of a layer."""
    if query.device.type == "cpu" and softcap is None and query.shape[-1] == value.shape[-1]:
        return FlashCpuKernel(scale)
    return TiledKernel(scale, softcap, 2**20 if query.device.type == "cpu" else 2**26)


@dataclass(frozen=True)
class FlashCpuKernel:
    """PyTorch's flash attention for CPUs; fewer key heads than query heads and views cost no copies.

    Args:
        scale: Factor on the scores.
    """

    scale: float

    def attend(
        self, query_1HtE: torch.Tensor, key_1GuE: torch.Tensor, value_1GuE: torch.Tensor,
        mask_tu: torch.Tensor | None, causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See PartKernel."""
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query_1HtE, key_1GuE, value_1GuE, 0.0, causal, attn_mask=mask_tu, scale=self.scale)

    def gradients(
        self, grad_1HtE: torch.Tensor, query_1HtE: torch.Tensor, key_1GuE: torch.Tensor, value_1GuE: torch.Tensor,
        out_1HtE: torch.Tensor, lse_1Ht: torch.Tensor, mask_tu: torch.Tensor | None, causal: bool,
    ) -> Gradients:
        """See PartKernel."""
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_1HtE, query_1HtE, key_1GuE, value_1GuE, out_1HtE, lse_1Ht, 0.0, causal, attn_mask=mask_tu,
            scale=self.scale)


@dataclass(frozen=True)
class TiledKernel:
    """Plain PyTorch for any device, in float32 (float64 for float64) and in tiles of some queries by all keys.

    Args:
        scale: Factor on the products of queries and keys.
        softcap: Soft cap of the scores; None for none.
        tile: Most scores held at once.
    """

    scale: float
    softcap: float | None
    tile: int

    def attend(
        self, query_1HtE: torch.Tensor, key_1GuE: torch.Tensor, value_1GuE: torch.Tensor,
        mask_tu: torch.Tensor | None, causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See PartKernel."""
        key_GuE, value_GuE = _wide(key_1GuE[0]), _wide(value_1GuE[0])
        n_heads, n_queries = query_1HtE.shape[1:3]
        out_1tHE = key_GuE.new_empty(1, n_queries, n_heads, value_GuE.shape[-1])
        lse_1Ht = key_GuE.new_empty(1, n_heads, n_queries)
        for rows in self._tiles(n_heads, n_queries, key_GuE.shape[1]):
            n_keys = rows.stop if causal else key_GuE.shape[1]
            score_Hqu = self._scores(query_1HtE[0, :, rows], key_GuE[:, :n_keys], mask_tu, rows, causal)
            lse_Hq = score_Hqu.logsumexp(-1)
            weight_Hqu = score_Hqu.sub_(lse_Hq[..., None]).exp_()
            out_GqE = _grouped(weight_Hqu, len(value_GuE)) @ value_GuE[:, :n_keys]
            out_1tHE[0, rows] = out_GqE.view(n_heads, -1, value_GuE.shape[-1]).transpose(0, 1)
            lse_1Ht[0, :, rows] = lse_Hq
        return out_1tHE.transpose(1, 2), lse_1Ht

    def gradients(
        self, grad_1HtE: torch.Tensor, query_1HtE: torch.Tensor, key_1GuE: torch.Tensor, value_1GuE: torch.Tensor,
        out_1HtE: torch.Tensor, lse_1Ht: torch.Tensor, mask_tu: torch.Tensor | None, causal: bool,
    ) -> Gradients:
        """See PartKernel."""
        key_GuE, value_GuE = _wide(key_1GuE[0]), _wide(value_1GuE[0])
        n_key_heads = len(key_GuE)
        n_heads, n_queries = query_1HtE.shape[1:3]
        grad_query_HtE = key_GuE.new_empty(query_1HtE.shape[1:])
        grad_key_GuE, grad_value_GuE = torch.zeros_like(key_GuE), torch.zeros_like(value_GuE)
        for rows in self._tiles(n_heads, n_queries, key_GuE.shape[1]):
            keys = slice(0, rows.stop if causal else key_GuE.shape[1])
            query_HqE, grad_HqE, out_HqE = (_wide(whole[0, :, rows]) for whole in (query_1HtE, grad_1HtE, out_1HtE))
            score_Hqu = self._scores(query_HqE, key_GuE[:, keys], mask_tu, rows, causal)
            slope_Hqu = self._slope(score_Hqu)
            weight_Hqu = score_Hqu.sub_(lse_1Ht[0, :, rows, None]).exp_()
            grad_Gqe = _grouped(grad_HqE, n_key_heads)
            grad_value_GuE[:, keys] += _grouped(weight_Hqu, n_key_heads).mT @ grad_Gqe
            grad_weight_Hqu = (grad_Gqe @ value_GuE[:, keys].mT).view_as(weight_Hqu)
            grad_weight_Hqu -= (grad_HqE * out_HqE).sum(-1, keepdim=True)
            grad_score_Hqu = weight_Hqu.mul_(grad_weight_Hqu).mul_(self.scale)
            if slope_Hqu is not None:
                grad_score_Hqu *= slope_Hqu
            grad_score_Gqu = _grouped(grad_score_Hqu, n_key_heads)
            grad_query_HtE[:, rows] = (grad_score_Gqu @ key_GuE[:, keys]).view_as(query_HqE)
            grad_key_GuE[:, keys] += grad_score_Gqu.mT @ _grouped(query_HqE, n_key_heads)
        return grad_query_HtE[None], grad_key_GuE[None], grad_value_GuE[None]

    def _tiles(self, n_heads: int, n_queries: int, n_keys: int) -> Iterator[slice]:
        rows = max(1, self.tile // (n_heads * n_keys))
        return (slice(start, min(start + rows, n_queries)) for start in range(0, n_queries, rows))

    def _scores(
        self, query_HqE: torch.Tensor, key_GuE: torch.Tensor, mask_tu: torch.Tensor | None, rows: slice, causal: bool
    ) -> torch.Tensor:
        """Masked scores [H, q, u] of a tile; every key head is multiplied with all the queries it serves at once."""
        score_Gqu = _grouped(_wide(query_HqE), len(key_GuE)) @ key_GuE.mT
        score_Hqu = score_Gqu.mul_(self.scale).view(*query_HqE.shape[:2], -1)
        if self.softcap is not None:
            score_Hqu.div_(self.softcap).tanh_().mul_(self.softcap)
        if mask_tu is not None:
            score_Hqu += mask_tu[rows]
        if causal:
            later_qu = torch.ones(score_Hqu.shape[1:], dtype=torch.bool, device=score_Hqu.device).triu_(rows.start + 1)
            score_Hqu.masked_fill_(later_qu, -torch.inf)
        return score_Hqu

    def _slope(self, score_Hqu: torch.Tensor) -> torch.Tensor | None:
        """Derivative of the soft cap, from the capped scores; 0 where a mask hides the key."""
        if self.softcap is None:
            return None
        return (score_Hqu / self.softcap).square_().neg_().add_(1).clamp_(min=0)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, or as it is in float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _grouped(rows_HqX: torch.Tensor, n_key_heads: int) -> torch.Tensor:
    """[H, q, X] as [G, H / G * q, X]: the rows of all query heads that share a key head below one another."""
    return rows_HqX.reshape(n_key_heads, -1, rows_HqX.shape[-1])
