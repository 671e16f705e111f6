"""Which models a token tree may be read by."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from torch import nn

from lpo.errors import ConfigError, UnsoundError
from lpo.packing import PackedTree

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

PLAIN_IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")
KNOWN_LAYERS = ("full_attention", "sliding_attention")


def require_tree_support(decoder: PreTrainedModel, implementation: str) -> None:
    """Refuse a decoder in which a token could see more than its ancestors, or which the tree would not reach.

    Args:
        decoder: The text decoder.
        implementation: Its attention implementation.

    Raises:
        ConfigError: Trees cannot be used with it.
    """
    reason = _obstacle(decoder, decoder.config)
    if reason is not None:
        raise ConfigError(f"{type(decoder).__name__} {reason}; token trees cannot be used with it", where="model",
                          mend="set packing: rows")
    if implementation not in PLAIN_IMPLEMENTATIONS:
        raise ConfigError(f"token trees cannot be used beside attn_implementation {implementation!r}",
                          where="attn_implementation", mend="set attn_implementation: sdpa, or packing: rows")
    if implementation == "eager" and not hasattr(sys.modules[type(decoder).__module__], "eager_attention_forward"):
        raise ConfigError(f"{type(decoder).__name__} keeps its eager attention where it cannot be found",
                          where="attn_implementation", mend="set attn_implementation: sdpa, or packing: rows")


def refuse_rotation_by_length(config: PretrainedConfig, tree: PackedTree) -> None:
    """Refuse a tree whose longest row would change how the tokens of the shorter ones are rotated.

    Some rotary embeddings take other frequencies once the longest row passes a limit. A tree's rows share tokens, so
    they cannot each have their own.

    Args:
        config: The decoder's config.
        tree: The tree.

    Raises:
        UnsoundError: A row passes the limit.
    """
    rotation = getattr(config, "rope_parameters", None) or {}
    longest = max(chain.position + chain.stop - chain.start for chain in tree.chains)
    for kind in [rotation] if "rope_type" in rotation else rotation.values():  # by kind of layer
        if not isinstance(kind, dict) or kind.get("rope_type") not in ("dynamic", "longrope"):
            continue
        by_default = config.max_position_embeddings
        limit = by_default if kind["rope_type"] == "dynamic" else kind.get("original_max_position_embeddings",
                                                                           by_default)
        if longest > limit:
            raise UnsoundError(f"{kind['rope_type']} rotary embeddings change with the longest row beyond {limit} "
                               f"tokens, and a row of the tree has {longest}", where="model",
                               mend=f"set max_length: {limit}, or packing: rows with one row a batch")


def _obstacle(decoder: PreTrainedModel, config: PretrainedConfig) -> str | None:
    """Why a tree would be read wrongly; None if nothing is known against it."""
    def setting(name: str) -> Any:
        return getattr(config, name, None)

    strange = sorted(set(setting("layer_types") or ()) - set(KNOWN_LAYERS))
    parameters = inspect.signature(type(decoder).forward).parameters.values()
    if setting("is_encoder_decoder"):
        return "is an encoder-decoder"
    if strange:
        return f"has layers of kind {', '.join(strange)}"
    if getattr(decoder, "_is_stateful", False) or any(isinstance(module, nn.Conv1d) for module in decoder.modules()):
        return "mixes tokens by recurrence or convolution"
    if setting("use_bidirectional_attention") not in (None, False, "vision"):
        return "attends in both directions"
    if any(getattr(module, "is_causal", True) is False for module in decoder.modules()):
        return "has attention that is not causal"
    if setting("attention_chunk_size") or setting("attention_window_size"):
        return "attends within chunks"
    if setting("alibi") or setting("position_embedding_type") in ("alibi", "relative_key", "relative_key_query"):
        return "adds position biases to its attention scores"
    if setting("model_type") in ("paligemma", "git") or setting("prefix_lm"):
        return "is a prefix language model"
    if not decoder._supports_attention_backend or not decoder._can_set_attn_implementation():
        return "does not let its attention be replaced"
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return "passes no further arguments on to its attention"
    return None
