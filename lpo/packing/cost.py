"""What computing a tree or its rows costs, in floating-point operations, from nothing but a model's configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lpo.errors import ConfigError
from lpo.packing.rows import Group
from lpo.packing.trie import lay_out

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward pass (a multiplication and an addition are two), by where they arise.

    Args:
        body: Linear layers of the backbone.
        attention: Products of queries with visible keys, and of weights with visible values.
        head: Logits of scored tokens.
    """

    body: int = 0
    attention: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.body + self.attention + self.head

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.body + other.body, self.attention + other.attention, self.head + other.head)


@dataclass(frozen=True)
class CostModel:
    """The constants of a decoder that decide what a forward pass costs.

    2 · body_parameters · tokens, plus for each layer 4 · (heads · head_dim) · visible pairs of tokens (a token at
    position p sees p + 1 tokens, or its window if that is fewer), plus 2 · hidden_size · vocab_size · scored tokens.
    Norms, activations, rotary embeddings and the embedding look-up are left out.

    Args:
        body_parameters: Weights of the linear layers that one token meets: all of a dense model's, the chosen experts
            of a mixture; neither the embedding nor the head.
        hidden_size: D.
        vocab_size: V.
        attention_widths: For each layer, heads · head_dim of its queries.
        windows: For each layer, how many tokens (itself included) a token sees at most; None sees all before it.
    """

    body_parameters: int
    hidden_size: int
    vocab_size: int
    attention_widths: tuple[int, ...]
    windows: tuple[int | None, ...]

    @classmethod
    def of(cls, config: PretrainedConfig) -> Self:
        """The cost model of a transformers configuration (of its text part where it has several).

        Raises:
            ConfigError: The layers of this model type are not known.
        """
        config = config.get_text_config(decoder=True)
        mlp_parameters = _MLP_PARAMETERS.get(config.model_type)
        if mlp_parameters is None or (windows := _windows(config)) is None:
            raise ConfigError(f"the cost of a layer of model type {config.model_type!r} is not known", where="model",
                              mend="limit packs by tokens instead of by cost")
        heads, hidden_size = config.num_attention_heads, config.hidden_size
        head_dim = getattr(config, "head_dim", None) or hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        attention = 2 * hidden_size * head_dim * (heads + kv_heads)  # queries and output, keys and values
        n_layers = config.num_hidden_layers
        return cls(
            body_parameters=n_layers * attention + sum(mlp_parameters(config, layer) for layer in range(n_layers)),
            hidden_size=hidden_size, vocab_size=config.vocab_size, attention_widths=(heads * head_dim,) * n_layers,
            windows=windows)

    @property
    def head_flops(self) -> int:
        """Operations of the head for one scored token."""
        return 2 * self.hidden_size * self.vocab_size

    def attention_flops(self, depth: Any) -> Any:
        """Operations of attention for the first `depth` tokens of one path (an integer, or an int64 array of them)."""
        total = 0
        for (width, window), n_layers in self._layer_kinds:
            seen = depth if window is None else np.minimum(depth, window)
            total = total + 4 * width * n_layers * (seen * (seen + 1) // 2 + (depth - seen) * seen)
        return total

    def path_flops(self, depth: Any) -> Any:
        """Operations of all layers, the head not counted, for the first `depth` tokens of one path (as above)."""
        return 2 * self.body_parameters * depth + self.attention_flops(depth)

    def tree(self, groups: Iterable[Group]) -> Flops:
        """Each group as one tree: every distinct token once, every distinct scored token once in the head."""
        total = Flops()
        for group in groups:
            layout = lay_out(group.rows)
            scored_T = np.zeros(len(layout.ids), dtype=bool)
            for row, number in zip(group.rows, layout.row_chain, strict=True):
                for start, stop in layout.chains[number].ranges(row.start, row.end):
                    scored_T[start:stop] = True
            attention = sum(int(self.attention_flops(chain.position + chain.stop - chain.start))
                            - int(self.attention_flops(chain.position)) for chain in layout.chains)
            total += Flops(2 * self.body_parameters * len(layout.ids), attention,
                           self.head_flops * int(scored_T.sum()))
        return total

    def pairs(self, groups: Iterable[Group]) -> Flops:
        """Each unit (the two sides of a pair) as one tree: what sharing within pairs alone computes."""
        return self.tree(group.restricted([unit]) for group in groups for unit in range(len(group.units)))

    def rows(self, groups: Iterable[Group]) -> Flops:
        """Each row of each unit by itself, without padding: what row-by-row computation does."""
        total = Flops()
        for group in groups:
            for row in (group.rows[index] for unit in group.units for index in unit):
                total += Flops(2 * self.body_parameters * len(row.ids), int(self.attention_flops(len(row.ids))),
                               self.head_flops * row.n_scored)
        return total

    @cached_property
    def _layer_kinds(self) -> tuple[tuple[tuple[int, int | None], int], ...]:
        """(attention width, window) and how many layers are so."""
        return tuple(Counter(zip(self.attention_widths, self.windows, strict=True)).items())


def training_flops(
    forward: Flops, *, body_trains: bool = True, head_trains: bool = True, checkpointing: bool = False,
    reference_passes: float = 1.0,
) -> float:
    """Operations of training on what `forward` counts; ratios of it are the limit that an engine can reach.

    In units of the forward pass: attention 1 forward and 2 backward; the body 1 forward, 1 backward for gradients of
    activations and 1 for those of weights; with checkpointing 1 more for both. The head, whose logits are never kept:
    frozen 2 (logits, and the gradient of hidden states gathered beside them), trainable 4 (logits, logits again, the
    gradients of hidden states and of weights). The reference is a forward pass.

    Args:
        forward: One forward pass over all rows, trees or pairs (`CostModel.rows`, `.tree`, `.pairs`).
        body_trains: Weights of the body receive gradients. False under LoRA, whose own products are left out.
        head_trains: Weights of the head receive gradients; where embeddings are tied, those of the embedding count.
        checkpointing: Layers are computed again in the backward pass.
        reference_passes: Reference forwards for each forward of the policy: 1 if it is live, 1 / epochs if it is kept
            from the first epoch, 0 if it is there already or not needed.

    Returns:
        Operations, of forward, backward and reference together.
    """
    again = int(checkpointing)
    policy = forward.body * (2 + body_trains + again) + forward.attention * (3 + again) \
        + forward.head * (4 if head_trains else 2)
    return policy + reference_passes * forward.total


def _windows(config: Any) -> tuple[int | None, ...] | None:
    """The window of each layer; None if a layer is neither full nor sliding attention."""
    kinds: Sequence[str] | None = getattr(config, "layer_types", None)
    window: int | None = getattr(config, "sliding_window", None)
    if kinds is None:
        return (window,) * config.num_hidden_layers
    if not set(kinds) <= {"full_attention", "sliding_attention"}:
        return None
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _gated(config: Any, layer: int) -> int:
    """Gate, up and down."""
    return 3 * config.hidden_size * config.intermediate_size


def _plain(config: Any, layer: int) -> int:
    """Up and down."""
    return 2 * config.hidden_size * config.intermediate_size


def _experts(config: Any, layer: int) -> int:
    """A router and the gated experts it chooses."""
    return _chosen_experts(config, config.num_local_experts, config.intermediate_size)


def _qwen_experts(config: Any, layer: int) -> int:
    """As above in the layers that have experts, with a gated expert for every token where the model has one."""
    if layer in config.mlp_only_layers or (layer + 1) % config.decoder_sparse_step:
        return _gated(config, layer)
    shared = getattr(config, "shared_expert_intermediate_size", None)
    return _chosen_experts(config, config.num_experts, config.moe_intermediate_size) \
        + (0 if shared is None else config.hidden_size * (3 * shared + 1))


def _chosen_experts(config: Any, n_experts: int, width: int) -> int:
    return config.hidden_size * (n_experts + 3 * config.num_experts_per_tok * width)


_MLP_PARAMETERS: dict[str, Callable[[Any, int], int]] = {
    **dict.fromkeys((
        "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "granite",
        "helium", "llama", "ministral", "ministral3", "mistral", "olmo", "olmo2", "olmo3", "phi3", "qwen2", "qwen3",
        "seed_oss", "smollm3"), _gated),
    **dict.fromkeys(("arcee", "starcoder2"), _plain),
    **dict.fromkeys(("gpt_oss", "mixtral", "olmoe"), _experts),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe"), _qwen_experts),
}
"""Linear weights that one token meets in a layer besides attention, by model type."""
