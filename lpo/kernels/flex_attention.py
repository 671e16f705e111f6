"""Tree attention by PyTorch's FlexAttention: one kernel over the blocks of the mask that are not empty.

Compiled where PyTorch can train with it (CUDA). What is computed is checked on a CPU, where FlexAttention runs
uncompiled; the compiled kernels have not been run by this project's tests.
"""

from __future__ import annotations

import functools
import os
import shutil
from typing import TYPE_CHECKING, Any

import torch

from lpo.kernels.block_mask import visible_blocks
from lpo.kernels.tree_call import AttentionLayer, TreeCall, under_autocast
from lpo.packing import PackedTree

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PreTrainedModel

BLOCK = 128
_SMALLEST_HEAD = 16


def flex_obstacle(device: torch.device, model: PreTrainedModel) -> str | None:
    """Why FlexAttention cannot train a model on a device; None if nothing is known against it.

    Args:
        device: Where it is trained.
        model: The model or its backbone.
    """
    if device.type not in ("cuda", "xpu"):
        return f"PyTorch's FlexAttention has no backward on {'a CPU' if device.type == 'cpu' else device.type}"
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head < _SMALLEST_HEAD:
        return f"FlexAttention needs heads of size {_SMALLEST_HEAD} or more, {type(model).__name__} has {head}"
    if model.dtype == torch.float64:
        return "FlexAttention has no float64"
    return _missing()


@functools.cache
def _missing() -> str | None:
    """What the compiler of the kernels lacks on this machine."""
    from torch.nn.attention import flex_attention
    from torch.utils._triton import has_triton

    if not hasattr(flex_attention, "AuxRequest"):
        return f"FlexAttention over token trees needs PyTorch 2.9, this is {torch.__version__}"
    if not has_triton():
        return "FlexAttention needs triton and a GPU that it compiles for"
    if not (os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang", "cc")))):
        return "FlexAttention needs a C compiler (triton builds its launchers with it)"
    return None


class FlexCall(TreeCall):
    """Tree attention with a block mask, for devices on which FlexAttention is compiled; on a CPU forward only."""

    def __init__(self, tree: PackedTree) -> None:
        super().__init__(tree)
        self._depth = max(chain.position + chain.stop - chain.start for chain in tree.chains)
        self._masks: dict[int | None, BlockMask] = {}

    def attend(
        self, layer: AttentionLayer, query_1HTE: torch.Tensor, key_1GTE: torch.Tensor, value_1GTE: torch.Tensor
    ) -> torch.Tensor:
        """See TreeCall."""
        query, key, value = under_autocast(query_1HTE, key_1GTE, value_1GTE)
        window = None if layer.window is None or layer.window >= self._depth else layer.window
        if window not in self._masks:
            self._masks[window] = block_mask(self.tree, window)
        return flex_attention(query, key, value, self._masks[window], layer)


def block_mask(tree: PackedTree, window: int | None) -> BlockMask:
    """FlexAttention's mask of a tree; nothing of size T * T is made.

    Args:
        tree: The tree, on the device of the attention.
        window: Sliding window, counted in positions; None for none.
    """
    from torch.nn.attention.flex_attention import BlockMask

    device, n_tokens = tree.subtree_end_T.device, tree.n_tokens
    blocks = visible_blocks(tree.chains, window, BLOCK)
    lists = [part.to(device) for seen_AA in (blocks.some_AA & ~blocks.all_AA, blocks.all_AA)
             for part in _by_row(torch.from_numpy(seen_AA))]
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=BLOCK, mask_mod=_visible(tree, window),
                                    seq_lengths=(n_tokens, n_tokens))


def _by_row(seen_AA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries sees, and which: their indices first, then all the others."""
    order_AA = torch.argsort(seen_AA.int(), dim=-1, descending=True, stable=True)
    return seen_AA.sum(-1, dtype=torch.int32)[None, None], order_AA.int()[None, None].contiguous()


def _visible(tree: PackedTree, window: int | None) -> Any:
    """Whether a query sees a key, for the blocks of which neither all nor nothing is seen.

    It holds tensors only: a number in it would be compiled in, and the kernels made anew for every window.
    """
    end_T = tree.subtree_end_T.int()
    if window is None:
        def visible(batch: Any, head: Any, query: Any, key: Any) -> Any:
            return (key <= query) & (query < end_T[key])

        return visible
    position_T = tree.position_ids_T.int()
    unreached_T = position_T - window

    def visible_in_window(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (key <= query) & (query < end_T[key]) & (position_T[key] > unreached_T[query])

    return visible_in_window


def flex_attention(
    query_1HTE: torch.Tensor, key_1GTE: torch.Tensor, value_1GTE: torch.Tensor, mask: BlockMask, layer: AttentionLayer
) -> torch.Tensor:
    """Softmax attention over the keys of a mask, with the layer's scaling, soft cap and sinks.

    Returns:
        [1, T, H, E], contiguous.
    """
    from torch.nn.attention import flex_attention as torch_flex

    score_mod, aux = None, None
    if layer.softcap is not None:
        score_mod = _soft_cap(layer.softcap)
    if layer.sinks_H is not None:
        aux = torch_flex.AuxRequest(lse=True)
    kernel = torch_flex.flex_attention if query_1HTE.device.type == "cpu" else _compiled()
    # Numbers are compiled in: the kernels would otherwise be given them as tensors on the CPU. A model needs one
    # kernel for each kind of layer, with and without gradients.
    with torch._dynamo.config.patch(specialize_float=True, recompile_limit=64):
        out: Any = kernel(query_1HTE, key_1GTE, value_1GTE, score_mod=score_mod, block_mask=mask, scale=layer.scaling,
                          enable_gqa=query_1HTE.shape[1] != key_1GTE.shape[1], return_aux=aux)
    if layer.sinks_H is None:
        return out.transpose(1, 2).contiguous()
    out_1HTE, lse_1HT = out[0], out[1].lse
    share_1HT = torch.sigmoid(lse_1HT - layer.sinks_H.to(lse_1HT.dtype)[:, None])  # of the weight, beside the sink's
    return (out_1HTE * share_1HT[..., None]).to(out_1HTE.dtype).transpose(1, 2).contiguous()


@functools.cache
def _compiled() -> Any:
    """One function for all trees: the number of tokens does not matter to its kernels."""
    from torch.nn.attention.flex_attention import flex_attention as uncompiled

    return torch.compile(uncompiled, dynamic=True, fullgraph=True)


def _soft_cap(cap: float) -> Any:
    def capped(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return cap * torch.tanh(score / cap)

    return capped
