"""What one attention layer asks for, and who answers while a token tree is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from lpo.errors import UnsoundError
from lpo.packing import PackedTree


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """What a layer of a model does in its attention, apart from the mask.

    Args:
        index: Number of the layer.
        scaling: Factor on the products of queries and keys.
        window: A query at position p sees keys at positions above p - window; None for all.
        softcap: Scores become softcap * tanh(score / softcap) (Gemma 2); None for none.
        sinks_H: Logit of each head's attention sink (gpt-oss): it takes weight and gives no value; None for none.
    """

    index: int
    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks_H: torch.Tensor | None = None

    @classmethod
    def of(cls, module: Any, arguments: Mapping[str, Any]) -> Self:
        """Read it from an attention module of transformers and the arguments it hands to its attention function.

        Raises:
            UnsoundError: It asks for something that would be left out.
        """
        index = getattr(module, "layer_idx", None)
        where = f"{type(module).__name__}, layer {index}"
        if index is None:
            raise UnsoundError("an attention module does not know the number of its layer", where=where,
                               mend="set packing: rows")
        if arguments.get("dropout"):
            raise UnsoundError("attention dropout is on: shared tokens would differ from those of separate rows",
                               where=where, mend="set attention_dropout to 0, or packing: rows")
        if arguments.get("position_bias") is not None:
            raise UnsoundError("the layer adds a position bias to its scores", where=where, mend="set packing: rows")
        if arguments.get("is_causal", getattr(module, "is_causal", True)) is False:
            raise UnsoundError("the layer is not causal", where=where, mend="set packing: rows")
        scaling = arguments.get("scaling")
        return cls(index=index, scaling=module.head_dim**-0.5 if scaling is None else float(scaling),
                   window=_window(module, arguments, where), softcap=arguments.get("softcap"),
                   sinks_H=arguments.get("s_aux"))


def _window(module: Any, arguments: Mapping[str, Any], where: str) -> int | None:
    """The window a layer hands over, if the model's config agrees with it."""
    config = module.config
    window: int | None = arguments.get("sliding_window") or None
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        expected = kinds[module.layer_idx] == "sliding_attention"
    else:  # Some families put the window into the mask only; a layer that has none says so.
        silent = "sliding_window" not in arguments and getattr(config, "use_sliding_window", True)
        expected = window is not None or bool(silent and getattr(config, "sliding_window", None))
    if expected != (window is not None):
        raise UnsoundError(f"the config gives the layer {'a' if expected else 'no'} sliding window, its attention "
                           f"hands over {window}", where=where, mend="set packing: rows")
    return window


class TreeCall(ABC):
    """One forward of a model over a token tree: every layer's attention goes through it.

    Args:
        tree: The tree, on the model's device.
    """

    def __init__(self, tree: PackedTree) -> None:
        self.tree = tree
        self.layers_seen: set[int] = set()

    @abstractmethod
    def attend(
        self, layer: AttentionLayer, query_1HTE: torch.Tensor, key_1GTE: torch.Tensor, value_1GTE: torch.Tensor
    ) -> torch.Tensor:
        """Attention of every token to its ancestors and itself, within the layer's window.

        Args:
            layer: What the layer asks for.
            query_1HTE: Queries [1, query heads, T, head size], rotated already.
            key_1GTE: Keys [1, key heads, T, head size]; every key head serves H / G query heads.
            value_1GTE: Values [1, key heads, T, head size].

        Returns:
            [1, T, query heads, head size], contiguous.
        """


def under_autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors in autocast's dtype where it is on, as scaled_dot_product_attention takes them."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device) or tensors[0].dtype == torch.float64:
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)
