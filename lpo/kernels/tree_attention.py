"""Token trees through a model of transformers.

The model's attention implementation X is switched once to a registered one, `lpo_tree_X`, which does what X does
until a forward is given a tree. Nothing of the model is replaced, and nothing is remembered outside it.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch

from lpo.errors import ConfigError, UnsoundError
from lpo.kernels.dense_attention import DenseCall
from lpo.kernels.flex_attention import FlexCall, flex_obstacle
from lpo.kernels.segment_attention import SegmentCall
from lpo.kernels.tree_call import AttentionLayer, TreeCall
from lpo.kernels.tree_support import refuse_rotation_by_length, require_tree_support
from lpo.packing import PackedTree

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFIX = "lpo_tree_"
_NO_MASK = (1, 1, 1, 1)


class TreeBackend(StrEnum):
    """How tree attention is computed; each gives the same numbers."""

    AUTO = "auto"
    """FlexAttention on CUDA, where the model and the installation allow it; segments otherwise."""
    SEGMENTS = "segments"
    """Part after part (`lpo.kernels.segment_attention`)."""
    FLEX = "flex"
    """FlexAttention with a block mask (`lpo.kernels.flex_attention`)."""
    DENSE = "dense"
    """All scores and a T * T mask, for checking."""

    def on(self, device: torch.device, model: PreTrainedModel) -> TreeBackend:
        """The way this takes for a model on a device, never `AUTO`.

        Args:
            device: Where the model is trained.
            model: The model or its backbone.

        Raises:
            ConfigError: It takes none there.
        """
        if self not in (TreeBackend.AUTO, TreeBackend.FLEX):
            return self
        obstacle = flex_obstacle(device, model)
        if self is TreeBackend.AUTO:
            return TreeBackend.FLEX if device.type == "cuda" and obstacle is None else TreeBackend.SEGMENTS
        if obstacle is not None:
            raise ConfigError(obstacle, where="tree_attention", mend="set tree_attention: segments (or auto)")
        return self

    def call(self, tree: PackedTree, model: PreTrainedModel) -> TreeCall:
        """What the layers of one forward of a model over a tree ask.

        Raises:
            ConfigError: It cannot be computed where the tree lies.
        """
        backend = self.on(tree.input_ids_T.device, model)
        return {TreeBackend.SEGMENTS: SegmentCall, TreeBackend.FLEX: FlexCall, TreeBackend.DENSE: DenseCall}[backend](
            tree)


def enable_tree_attention(
    model: PreTrainedModel, backend: TreeBackend | str = TreeBackend.AUTO, device: torch.device | None = None
) -> None:
    """Let a model read token trees. Forwards without a tree stay exactly as they are.

    Args:
        model: A causal language model, not wrapped by PEFT (its base model, if it is). Doing it again is harmless.
        backend: What `tree_hidden_states` will be asked for, to learn now if it cannot be had.
        device: Where the model will be trained; None: where it is.

    Raises:
        ConfigError: The model cannot read trees, or the backend cannot be had on that device.
    """
    TreeBackend(backend).on(model.device if device is None else device, model)
    decoder = model.get_decoder()
    original = (decoder.config._attn_implementation or "eager").removeprefix(_PREFIX)
    require_tree_support(decoder, original)
    decoder.set_attn_implementation(_registered(original))


def tree_hidden_states(
    backbone: Any, tree: PackedTree | TreeCall, backend: TreeBackend | str = TreeBackend.AUTO
) -> torch.Tensor:
    """Final hidden states of a tree's tokens, each as in the rows that hold it.

    Args:
        backbone: The model without its head (`model.base_model`), after `enable_tree_attention(model)`.
        tree: The tree, on the model's device; or a call that says itself what the layers ask.
        backend: How attention over a tree is computed.

    Returns:
        Hidden states [T, D] in packed order.

    Raises:
        UnsoundError: A layer did not compute its attention over the tree, or the positions of rows would depend on
            one another.
        ConfigError: The backend cannot be had where the tree lies.
    """
    call = tree if isinstance(tree, TreeCall) else TreeBackend(backend).call(tree, backbone)
    tree = call.tree
    refuse_rotation_by_length(backbone.config.get_text_config(), tree)
    # A mask of four dimensions is handed on as it is: transformers then builds none, and guesses nothing from the
    # positions. Tree attention does not look at it.
    no_mask = torch.zeros(_NO_MASK, device=tree.input_ids_T.device)
    output = backbone(input_ids=tree.input_ids_T[None], position_ids=tree.position_ids_T[None],
                      attention_mask=no_mask, tree=call, use_cache=False)
    deaf = set(range(backbone.config.get_text_config().num_hidden_layers)) - call.layers_seen
    if deaf:
        raise UnsoundError(f"layers {', '.join(map(str, sorted(deaf)))} did not compute their attention over the tree",
                           where=type(backbone).__name__, mend="set packing: rows, and please report the architecture")
    return output.last_hidden_state[0]


def refuse_tree_positions(position_ids: torch.Tensor) -> None:
    """Refuse positions that only make sense with a tree, of which transformers would make a mask of its own.

    Args:
        position_ids: int64 [..., T]. In a row each position follows on the one before or starts again at 0; equal
            ones may stand before the first (left padding).

    Raises:
        UnsoundError: A position jumps.
    """
    step = position_ids.diff(dim=-1)
    fits = (step == 1) | (position_ids[..., 1:] == 0)
    padding = (step == 0).cummin(dim=-1).values
    if not bool((fits | padding).all()):
        raise UnsoundError("position_ids jump, as those of a token tree do, and no tree is given", where="model",
                           mend="call the model with tree=, or with rows of their own")


def _registered(original: str) -> str:
    """The name under which tree attention beside an implementation is registered in transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = _PREFIX + original
    if name not in AttentionInterface():
        def attention(
            module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
            attention_mask: torch.Tensor | None, tree: TreeCall | None = None, **arguments: Any,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            if tree is not None:
                return _attend(tree, module, query, key, value, attention_mask, arguments), None
            family: Any = sys.modules[type(module).__module__]
            plain = family.ALL_ATTENTION_FUNCTIONS.get_interface(
                original, getattr(family, "eager_attention_forward", None))
            return plain(module, query, key, value, attention_mask, **arguments)

        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    return name


def _attend(
    tree: TreeCall, module: Any, query_1HTE: torch.Tensor, key_1GTE: torch.Tensor, value_1GTE: torch.Tensor,
    attention_mask: torch.Tensor | None, arguments: dict[str, Any],
) -> torch.Tensor:
    layer = AttentionLayer.of(module, arguments)
    if attention_mask is not None and attention_mask.shape != _NO_MASK:
        raise UnsoundError("the layer makes an attention mask of its own", where=f"{type(module).__name__}, layer "
                           f"{layer.index}", mend="set packing: rows")
    n_tokens = tree.tree.n_tokens
    if query_1HTE.shape[::2] != (1, n_tokens) or key_1GTE.shape[::2] != (1, n_tokens):
        raise UnsoundError(f"a tree of {n_tokens} tokens meets queries {tuple(query_1HTE.shape)} and keys "
                           f"{tuple(key_1GTE.shape)}", where=f"layer {layer.index}",
                           mend="give the tree's tokens alone, without a cache")
    out_1THE = tree.attend(layer, query_1HTE, key_1GTE, value_1GTE)
    tree.layers_seen.add(layer.index)
    return out_1THE
