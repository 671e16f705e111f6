"""Which reference is it? Fingerprints of weights, adapter, tokenizer and template, which make up its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from lpo import __version__
from lpo.errors import ConfigError
from lpo.records import fingerprint
from lpo.trainers.policy import base_of
from lpo.trainers.reference_key import CODE_VERSION, DIGEST_LENGTH, ReferenceKey

_WITHOUT_EFFECT = frozenset({
    "_commit_hash", "_name_or_path", "architectures", "auto_map", "bos_token_id", "dtype", "eos_token_id",
    "finetuning_task", "gradient_checkpointing", "id2label", "initializer_range", "label2id", "name_or_path",
    "output_attentions", "output_hidden_states", "pad_token_id", "problem_type", "return_dict", "task_specific_params",
    "tokenizer_class", "torch_dtype", "transformers_version", "use_cache",
})
"""Entries of a model's config that no log-prob depends on, or that other parts of the key say (the weights' dtype).
Dropout rates belong to them, since a reference runs without dropout."""

_ADAPTER_WITHOUT_EFFECT = frozenset({
    "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout", "peft_version", "revision",
    "task_type",
})

_WRAPPED = ("base_layer", "original_module", "token_adapter")
"""Steps on the way from PEFT's wrappers to the module they wrap."""


def reference_key(
    model: Any, tokenizer: Any, *, computation: str, template: str | None = None, adapter_off: bool = False,
    autocast: torch.dtype | None = None,
) -> ReferenceKey:
    """The key of a reference's log-probs.

    Args:
        model: The model they come from, not wrapped for several processes: a transformers model or a PeftModel.
        tokenizer: What turned text into token ids.
        computation: Packing, attention back end and head path, for instance `tree, segments, chunked`.
        template: Jinja source of the chat template; None for the tokenizer's own.
        adapter_off: The reference is the model with its adapter switched off.
        autocast: The type of autocast; None without.

    Raises:
        ConfigError: Not all weights are in this process.
    """
    base, weights = base_of(model), _base_weights(model)
    return ReferenceKey(
        weights=_digest_of_tensors(weights),
        architecture=f"{type(base).__name__} {fingerprint(_effective(base.config.to_dict()), DIGEST_LENGTH)}",
        adapter="" if adapter_off else adapter_digest(model),
        dtype=_number_types(weights.values(), autocast),
        tokenizer=tokenizer_fingerprint(tokenizer),
        template=template_fingerprint(tokenizer, template),
        computation=computation,
        code=f"{CODE_VERSION} (lpo {__version__})",
    )


def weights_digest(model: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights of a model except those of adapters.

    Names are those of the model without adapters, so the digest is the same whatever adapter lies on it. Persistent
    buffers count, and so do the scales of quantised weights.

    Raises:
        ConfigError: Not all weights are in this process.
    """
    return _digest_of_tensors(_base_weights(model))


def adapter_digest(model: Any) -> str:
    """A digest of everything in which adapters change a model's outputs: weights, settings, scaling, which are active.

    Returns:
        Empty for a model without adapters.

    Raises:
        ConfigError: Not all weights are in this process.
    """
    base = base_of(model)
    wrappers = dict(_adapter_layers(base))
    if not wrappers:
        return ""
    weights = _digest_of_tensors({name: weight for name, weight in base.state_dict(keep_vars=True).items()
                                  if _base_name(name, wrappers) is None})
    layers = {name: [list(layer.active_adapters), layer.disable_adapters, list(layer.merged_adapters),
                     getattr(layer, "scaling", {})] for name, layer in wrappers.items()}
    configs = {name: {key: value for key, value in config.to_dict().items() if key not in _ADAPTER_WITHOUT_EFFECT}
               for name, config in model.peft_config.items()}
    return fingerprint(_plain([weights, layers, configs]), DIGEST_LENGTH)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A digest of a tokenizer's vocabulary, merges, normalisation, added and special tokens.

    Neither where it was loaded from counts nor how it pads or cuts.

    Args:
        tokenizer: A transformers tokenizer, of either kind (`is_fast`).
    """
    if getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        core = {name: value for name, value in state.items() if name not in ("truncation", "padding")}
    else:
        sentencepiece = getattr(tokenizer, "sp_model", None)
        merges: dict[Any, int] = getattr(tokenizer, "bpe_ranks", {})
        core = {
            "class": type(tokenizer).__name__,
            "vocab": tokenizer.get_vocab(),
            "merges": sorted(([rank, *pair] for pair, rank in merges.items()), key=lambda merge: merge[0]),
            "model": sentencepiece and hashlib.sha256(sentencepiece.serialized_model_proto()).hexdigest(),
        }
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    added = {number: [getattr(token, flag) for flag in flags]
             for number, token in tokenizer.added_tokens_decoder.items()}
    return fingerprint(_plain([core, added, tokenizer.special_tokens_map]), DIGEST_LENGTH)


def template_fingerprint(tokenizer: Any, template: str | None = None) -> str:
    """A digest of a chat template's source.

    Args:
        tokenizer: Its own template is taken where none is given.
        template: Jinja source; None for the tokenizer's own.

    Returns:
        Empty when there is no template.
    """
    source = template if template is not None else getattr(tokenizer, "chat_template", None)
    return fingerprint(source, DIGEST_LENGTH) if source else ""


def _number_types(weights: Iterable[torch.Tensor], autocast: torch.dtype | None) -> str:
    types, devices = {weight.dtype for weight in weights}, {weight.device.type for weight in weights}
    cast = f", autocast to {_name_of(autocast)}" if autocast else ""
    reduced = _float32_products(cuda="cuda" in devices)
    return f"weights {'+'.join(sorted(map(_name_of, types)))}{cast}" + (f", float32 products in {reduced}" if reduced
                                                                        else "")


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _float32_products(*, cuda: bool) -> str:
    """The type in which float32 matrices are multiplied; empty when nothing is rounded."""
    if hasattr(torch.backends, "fp32_precision"):  # since torch 2.9, where the older query fails if this one was set
        backend: Any = torch.backends.cuda if cuda else torch.backends.mkldnn
        precision: str = backend.matmul.fp32_precision
    else:
        precision = {"high": "tf32", "medium": "bf16"}.get(torch.get_float32_matmul_precision(), "ieee")
    return "" if precision in ("none", "ieee") else precision


def _effective(settings: Any) -> Any:
    """A config's settings without those that change no number; absent and None are the same."""
    if not isinstance(settings, dict):
        return _plain(settings)
    return {str(name): _effective(value) for name, value in settings.items()
            if value is not None and name not in _WITHOUT_EFFECT and "dropout" not in str(name)}


def _adapter_layers(base: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """PEFT's wrappers inside a model, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, module in base.named_modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            yield name, module


def _base_name(name: str, wrappers: Mapping[str, Any]) -> str | None:
    """A weight's name as it is without adapters; None for a weight that certainly belongs to an adapter."""
    kept: list[str] = []
    parts = name.split(".")
    for number, part in enumerate(parts):
        wrapper = wrappers.get(".".join(parts[:number]))
        if wrapper is None:
            kept.append(part)
        elif _by_adapter(wrapper, part):
            return None
        elif part not in _WRAPPED:
            kept.append(part)
    return ".".join(kept)


def _by_adapter(wrapper: Any, part: str) -> bool:
    """Does this part of a wrapper hold something for each adapter? Whatever is not known counts as the model's own:
    then a cache may be left unused, but never used wrongly.
    """
    return (part in (*wrapper.adapter_layer_names, *wrapper.other_param_names)
            or isinstance(getattr(wrapper, part, None), (torch.nn.ModuleDict, torch.nn.ParameterDict)))


def _base_weights(model: Any) -> dict[str, torch.Tensor]:
    base = base_of(model)
    wrappers = dict(_adapter_layers(base))
    named = ((_base_name(name, wrappers), weight) for name, weight in base.state_dict(keep_vars=True).items())
    return {name: weight for name, weight in named if name is not None}


def _digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor.is_meta or hasattr(tensor, "ds_id") or hasattr(tensor, "placements"):
            raise ConfigError("the weights are sharded or offloaded, so the reference cannot be identified", where=name,
                              mend="leave reference_cache_dir out, or keep whole weights in each process")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
        digest.update(flat.cpu().numpy().data)
    return digest.hexdigest()[:DIGEST_LENGTH]


def _plain(value: Any) -> Any:
    """JSON values: sets sorted, enums and other objects by their text."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
