"""The model's forward, taught to answer with log-probabilities of scored tokens instead of logits."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lpo.errors import ConfigError, UnsoundError
from lpo.kernels.logprobs import chunked_logprobs
from lpo.kernels.tree_attention import TreeBackend, enable_tree_attention, refuse_tree_positions, tree_hidden_states
from lpo.kernels.tree_call import TreeCall
from lpo.packing import PackedTree

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class HeadTransform:
    """What a model does to the logits after the head.

    Args:
        scale: Factor on the logits.
        softcap: Soft cap of the scaled logits; None for none.
    """

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: PretrainedConfig) -> HeadTransform:
        """Read it from a model's config; families name it differently."""
        text: Any = config.get_text_config()
        factors = [getattr(text, name, None) for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")]
        scale = next((float(factor) for factor in factors if factor is not None), 1.0)
        divisor = getattr(text, "logits_scaling", None)
        if divisor is not None:
            scale = float(divisor) if text.model_type == "hyperclovax" else 1 / float(divisor)
        return cls(scale, getattr(text, "final_logit_softcapping", None))


def attach_scoring(
    model: PreTrainedModel, tree_attention: TreeBackend | str | None = None, device: torch.device | None = None
) -> None:
    """Let the model's forward return log-probs [N] of scored tokens.

    `model(tree=PackedTree)` reads a token tree; `model(input_ids, attention_mask, scored_index=, scored_targets=)`
    reads padded rows. The instance's `forward` is replaced, as TRL's fused head does: the call still goes through the
    wrapped module (DDP, PEFT, autocast), so their hooks fire; the backbone runs once, hidden states are gathered at
    the scored positions only, and no logits are built. Any other forward is the model's own, so generation is
    untouched; but positions as only a tree has them are refused there.

    Args:
        model: A causal language model, not wrapped by PEFT (its base model, if it is).
        tree_attention: How attention over trees is computed; None: the model will read no trees.
        device: Where the model will be trained; None: where it is.

    Raises:
        ConfigError: The model's output head is not a plain linear layer, it has no separate backbone, or it cannot
            read trees.
    """
    require_plain_head(model)
    if tree_attention is not None:
        enable_tree_attention(model, tree_attention, device)
        model._tree_backend = TreeBackend(tree_attention)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    if hasattr(model, "_plain_forward"):
        return  # by an earlier trainer
    # On the model, not in the closure: a deep copy of the model then carries its own.
    model._plain_forward = model.forward  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    transform = HeadTransform.of(model.config)

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(
        self: Any, *args: Any, tree: PackedTree | TreeCall | None = None, scored_index: torch.Tensor | None = None,
        scored_targets: torch.Tensor | None = None, **kwargs: Any,
    ) -> Any:
        if tree is not None:
            hidden_TD = tree_hidden_states(self.base_model, tree, self._tree_backend)
            packed = tree.tree if isinstance(tree, TreeCall) else tree
            index_N, targets_N = packed.hidden_index_N, packed.target_id_N
        elif scored_index is not None and scored_targets is not None:
            given = {name: value for name, value in kwargs.items() if value is not None} | {"use_cache": False}
            hidden_TD = self.base_model(*args, **given).last_hidden_state.flatten(0, 1)
            index_N, targets_N = scored_index, scored_targets
        else:
            if kwargs.get("position_ids") is not None:
                refuse_tree_positions(kwargs["position_ids"])
            return self._plain_forward(*args, **kwargs)
        head = self.get_output_embeddings()
        return chunked_logprobs(hidden_TD.index_select(0, index_N), head.weight, targets_N,
                                bias=getattr(head, "bias", None), scale=transform.scale, softcap=transform.softcap)

    model.forward = types.MethodType(forward, model)


def require_plain_head(model: PreTrainedModel) -> None:
    """Check that log-probs can be computed from the head's weight.

    Raises:
        ConfigError: They cannot: the head is adapted, quantised or absent, or there is no backbone.
    """
    head = model.get_output_embeddings()
    name = type(model).__name__
    if head is None or model.base_model is model:
        raise ConfigError(f"{name} has no separate backbone and output head", where="model",
                          mend="use a causal language model of transformers")
    if not isinstance(head, torch.nn.Linear) or hasattr(head, "base_layer"):
        raise ConfigError(f"the output head of {name} is a {type(head).__module__}.{type(head).__name__}",
                          where="peft_config.target_modules",
                          mend="leave the output head (lm_head) out of target_modules and modules_to_save")
    if not head.weight.is_floating_point():
        raise ConfigError(f"the output head of {name} is quantised", where="quantization_config",
                          mend="leave lm_head out of the quantisation (llm_int8_skip_modules)")


@torch.no_grad()
def check_head(model: Any, input_ids_T: torch.Tensor, tolerance: float) -> None:
    """Compare log-probs with those of the model's own logits on the beginning of one row.

    Args:
        model: The policy, with scoring attached.
        input_ids_T: Some tokens, at least 2.
        tolerance: Largest difference allowed, in nats.

    Raises:
        UnsoundError: They differ: the model transforms its logits in a way that is not known here.
    """
    ids_1T = input_ids_T[None]
    targets_N = input_ids_T[1:]
    ours_N = model(input_ids=ids_1T, scored_index=torch.arange(len(targets_N), device=ids_1T.device),
                   scored_targets=targets_N)
    logits_NV = model(input_ids=ids_1T).logits[0, :-1].float()
    theirs_N = logits_NV.log_softmax(-1).gather(-1, targets_N[:, None])[:, 0]
    difference = float((ours_N - theirs_N).abs().max())
    if not difference <= tolerance:
        raise UnsoundError(f"log-probs differ from the model's own logits by {difference:.3g} nats", where="model",
                           mend="this architecture transforms its logits in an unknown way; please report its name")
