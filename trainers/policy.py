"""The model to be trained: loaded, freed of dropout, wrapped by PEFT."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, set_seed

from lpo.errors import ConfigError
from lpo.trainers.step_dpo_config import StepDPOConfig


def load_model(model: str | PreTrainedModel | Any, args: StepDPOConfig) -> Any:
    """The model itself, or the one of this name in float32 (unless `model_init_kwargs` says otherwise).

    Raises:
        ConfigError: `model_init_kwargs` is given for a model that is already loaded.
    """
    if not isinstance(model, str):
        if args.model_init_kwargs:
            raise ConfigError("the model is already loaded", where="model_init_kwargs",
                              mend="remove it, or give the model by name")
        return model
    kwargs: dict[str, Any] = {"dtype": "float32", "trust_remote_code": args.trust_remote_code}
    return AutoModelForCausalLM.from_pretrained(model, **(kwargs | dict(args.model_init_kwargs or {})))  # pyright: ignore[reportCallIssue, reportArgumentType]


def wrap_policy(model: Any, args: StepDPOConfig, peft_config: Any) -> Any:
    """Switch off the model's dropout and put the adapter on it.

    Args:
        model: A transformers model or a PeftModel.
        args: Seed (of the adapter's weights), dropout, gradient checkpointing.
        peft_config: None trains in full, or trains the adapter of a PeftModel.

    Raises:
        ConfigError: The adapter is of a kind whose removal does not give back the starting model.
    """
    if args.disable_dropout:
        disable_dropout(model)
    _keep_4bit_differentiable(model)
    if peft_config is not None:
        from peft import get_peft_model

        if is_peft(model):
            raise ConfigError("the model already has an adapter", where="peft_config",
                              mend="leave peft_config out to train that adapter, or merge it into the model first")
        set_seed(args.seed)
        model = get_peft_model(model, peft_config)
    if is_peft(model):
        for config in model.peft_config.values():
            _require_removable(config)
        if args.gradient_checkpointing:
            model.enable_input_require_grads()  # frozen embeddings would cut checkpointed layers off the graph
    return model


def is_peft(model: Any) -> bool:
    """Is this a PeftModel? Asked without loading peft."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_of(model: Any) -> PreTrainedModel:
    """The transformers model, with or without an adapter around it."""
    return model.get_base_model() if is_peft(model) else model


def _require_removable(config: Any) -> None:
    """The reference is the model with its adapter off: that must be the model as it was before."""
    if config.is_prompt_learning:
        raise ConfigError(f"{config.peft_type} puts tokens before the prompt", where="peft_config",
                          mend="use LoRA or another adapter inside the layers")
    if getattr(config, "bias", "none") != "none":
        raise ConfigError("biases trained in place cannot be switched off for the reference", where="peft_config.bias",
                          mend="use bias='none'")


def _keep_4bit_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU.

    At the first forward in evaluation mode, bitsandbytes (seen in 0.50) brings them into a format that its backward
    does not know: from then on no gradient passes through these layers, and there is no error.
    """
    for name, module in model.named_modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            state = getattr(getattr(module, "weight", None), "quant_state", None)
            if getattr(state, "packing_format_for_cpu", False):
                raise ConfigError("4-bit weights were repacked for inference, which has no gradient", where=name,
                                  mend="load the model anew and give it to the trainer before it writes anything")
            module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to zero: dropout modules, and rates that attention layers hold as numbers."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
