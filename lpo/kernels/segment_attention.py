"""Tree attention without a mask and without copies: part after part, put together by log-sum-exps.

Every chain attends to itself causally and to each range of ancestors as a view of the keys and values, so that the
arithmetic is that of the tree and nothing of size T * T exists. Letters: H query heads, G key heads, T queries, U keys,
E head size.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from lpo.kernels.attention_parts import Part, PartPlan, plan_parts
from lpo.kernels.part_kernels import part_kernel
from lpo.kernels.tree_call import AttentionLayer, TreeCall, under_autocast
from lpo.packing import PackedTree


class SegmentCall(TreeCall):
    """Tree attention by parts, for any device."""

    def __init__(self, tree: PackedTree) -> None:
        super().__init__(tree)
        self._plans: dict[int | None, PartPlan] = {}
        self._bands: dict[tuple[int | None, torch.dtype], torch.Tensor | None] = {}

    def attend(
        self, layer: AttentionLayer, query_1HTE: torch.Tensor, key_1GTE: torch.Tensor, value_1GTE: torch.Tensor
    ) -> torch.Tensor:
        """See TreeCall."""
        query, key, value = under_autocast(query_1HTE, key_1GTE, value_1GTE)
        if layer.window not in self._plans:
            self._plans[layer.window] = plan_parts(self.tree.chains, layer.window)
        plan = self._plans[layer.window]
        if (plan.window, query.dtype) not in self._bands:
            self._bands[plan.window, query.dtype] = plan.band_mask(query.dtype, query.device)
        return segment_attention(query, key, value, plan, self._bands[plan.window, query.dtype], layer)


def segment_attention(
    query_1HTE: torch.Tensor, key_1GUE: torch.Tensor, value_1GUE: torch.Tensor, plan: PartPlan,
    band_QC: torch.Tensor | None, layer: AttentionLayer,
) -> torch.Tensor:
    """Attention over the parts of a plan, differentiable in queries, keys, values and the layer's sinks.

    Outputs of the parts are merged in float32 (float64 for float64), and the backward runs on the merged output and
    log-sum-exp, as in ring attention (Liu et al. 2023, arXiv:2310.01889): the result is exact, not an approximation.

    Args:
        query_1HTE: Queries [1, H, T, E].
        key_1GUE: Keys [1, G, U, E]; H is a multiple of G.
        value_1GUE: Values [1, G, U, E].
        plan: What each query sees.
        band_QC: The plan's band mask in the queries' dtype.
        layer: Scaling, soft cap and sinks. Its window is the plan's.

    Returns:
        [1, T, H, E] in the queries' dtype, contiguous.
    """
    return cast(torch.Tensor, _SegmentAttention.apply(query_1HTE, key_1GUE, value_1GUE, layer.sinks_H, band_QC, plan,
                                                      layer))


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_1HTE: torch.Tensor, key_1GUE: torch.Tensor, value_1GUE: torch.Tensor,
        sinks_H: torch.Tensor | None, band_QC: torch.Tensor | None, plan: PartPlan, layer: AttentionLayer,
    ) -> torch.Tensor:
        with torch.autocast(query_1HTE.device.type, enabled=False):
            out_1THE, lse_1TH = _forward(query_1HTE, key_1GUE, value_1GUE, sinks_H, band_QC, plan, layer)
        ctx.save_for_backward(query_1HTE, key_1GUE, value_1GUE, sinks_H, band_QC, out_1THE, lse_1TH)
        ctx.plan, ctx.scale, ctx.softcap = plan, layer.scaling, layer.softcap
        return out_1THE

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_1THE: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        with torch.autocast(grad_1THE.device.type, enabled=False):
            return *_backward(grad_1THE, ctx.saved_tensors, ctx.plan, ctx.scale, ctx.softcap), None, None, None


def _forward(
    query_1HTE: torch.Tensor, key_1GUE: torch.Tensor, value_1GUE: torch.Tensor, sinks_H: torch.Tensor | None,
    band_QC: torch.Tensor | None, plan: PartPlan, layer: AttentionLayer,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [1, T, H, E] and log-sum-exp [1, T, H] over all parts and the sink."""
    kernel = part_kernel(query_1HTE, value_1GUE, layer.scaling, layer.softcap)
    _, n_heads, n_queries, _ = query_1HTE.shape
    wide = torch.promote_types(query_1HTE.dtype, torch.float32)
    out_1THE = query_1HTE.new_empty(1, n_queries, n_heads, value_1GUE.shape[-1], dtype=wide)
    lse_1TH = query_1HTE.new_empty(1, n_queries, n_heads, dtype=wide)
    out_1HTE, lse_1HT = out_1THE.transpose(1, 2), lse_1TH.transpose(1, 2)

    def attend(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        return kernel.attend(query_1HTE[:, :, part.query], key_1GUE[:, :, part.key], value_1GUE[:, :, part.key],
                             _mask(part, band_QC), part.causal)

    for part in plan.own:
        out_1HTE[:, :, part.query], lse_1HT[:, :, part.query] = attend(part)
    for part in plan.ancestors:
        _merge(out_1HTE[:, :, part.query], lse_1HT[:, :, part.query], *attend(part))
    if sinks_H is not None:
        with_sink_1TH = torch.logaddexp(lse_1TH, sinks_H.to(wide))
        out_1THE *= (lse_1TH - with_sink_1TH).exp_()[..., None]
        lse_1TH = with_sink_1TH
    return out_1THE.to(query_1HTE.dtype), lse_1TH


def _merge(out_1HtE: torch.Tensor, lse_1Ht: torch.Tensor, part_1HtE: torch.Tensor, part_lse_1Ht: torch.Tensor) -> None:
    """Take another part of the same queries into their output and log-sum-exp, in place."""
    merged_1Ht = torch.logaddexp(lse_1Ht, part_lse_1Ht)
    out_1HtE *= (lse_1Ht - merged_1Ht).exp_()[..., None]
    out_1HtE.addcmul_(part_1HtE.to(out_1HtE.dtype), (part_lse_1Ht - merged_1Ht).exp_()[..., None])
    lse_1Ht.copy_(merged_1Ht)


def _backward(
    grad_1THE: torch.Tensor, saved: tuple[torch.Tensor, ...], plan: PartPlan, scale: float, softcap: float | None
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of queries, keys, values and sinks, summed over the parts in wide buffers laid out by token."""
    query_1HTE, key_1GUE, value_1GUE, sinks_H, band_QC, out_1THE, lse_1TH = saved
    kernel = part_kernel(query_1HTE, value_1GUE, scale, softcap)
    grads = [torch.zeros_like(tensor.transpose(1, 2), dtype=lse_1TH.dtype,
                              memory_format=torch.contiguous_format).transpose(1, 2)
             for tensor in (query_1HTE, key_1GUE, value_1GUE)]
    grad_1HTE, out_1HTE, lse_1HT = (tensor.transpose(1, 2) for tensor in (grad_1THE, out_1THE, lse_1TH))
    for part in plan.parts:
        shares = kernel.gradients(
            grad_1HTE[:, :, part.query], query_1HTE[:, :, part.query], key_1GUE[:, :, part.key],
            value_1GUE[:, :, part.key], out_1HTE[:, :, part.query], lse_1HT[:, :, part.query], _mask(part, band_QC),
            part.causal)
        for grad, share, tokens in zip(grads, shares, (part.query, part.key, part.key), strict=True):
            grad[:, :, tokens] += share
    grad_sinks_H = None
    if sinks_H is not None:
        along_1TH = (grad_1THE.to(lse_1TH.dtype) * out_1THE).sum(-1)
        grad_sinks_H = -((sinks_H.to(lse_1TH.dtype) - lse_1TH).exp_() * along_1TH).sum((0, 1)).to(sinks_H.dtype)
    return *(grad.to(query_1HTE.dtype) for grad in grads), grad_sinks_H


def _mask(part: Part, band_QC: torch.Tensor | None) -> torch.Tensor | None:
    if part.band is None or band_QC is None:
        return None
    return band_QC[: part.query.stop - part.query.start, part.band]
