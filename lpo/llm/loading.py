"""Loading of transformers models: safe formats only, and errors that say what to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lpo.chat import load_chat_template
from lpo.config import ModelConfig
from lpo.errors import BackendError, ConfigError
from lpo.llm.demo import is_demo, resolve_model
from lpo.reward_config import RewardModelConfig

_SAMPLE_BYTES = 2**15
_WHOLE_BYTES = 2**21
_MODEL_MEND = "check the name; offline, give the path of a local folder or download the model first"


class _Hash(Protocol):
    """What `hashlib` gives."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""


@dataclass(frozen=True)
class LoadedModel:
    """What `load_model` gives.

    Args:
        model: In evaluation mode, on its device, adapter included.
        tokenizer: Its tokenizer.
        template: Jinja source of the chosen chat template; None for the tokenizer's own.
        dtype: Of the weights.
    """

    model: Any
    tokenizer: Any
    template: str | None
    dtype: torch.dtype


def load_model(config: ModelConfig, adapter: Path | None = None) -> LoadedModel:
    """Load a model for inference.

    Raises:
        BackendError: The model or the adapter is missing, unknown, in an unsafe format, or its device is not there.
        ConfigError: There is no such demo model or chat template.
    """
    template = load_chat_template(config.chat_template)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    model, tokenizer = read_weights(config, dtype)
    if adapter is not None:
        model = _with_adapter(model, adapter, dtype)
    return LoadedModel(model.to(device).eval(), tokenizer, template, dtype)


def read_weights(config: ModelConfig, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model as transformers loads it, on the CPU, and its tokenizer: what generation and training start from.

    Raises:
        BackendError: The model is missing, unknown or in an unsafe format.
        ConfigError: There is no such demo model.
    """
    model, tokenizer, _ = _read(AutoModelForCausalLM, config, dtype)
    return model, tokenizer


def load_reward_model(config: RewardModelConfig) -> tuple[Any, Any]:
    """A reward model in evaluation mode, on its device, and its tokenizer.

    Raises:
        BackendError: The model is missing, unknown or in an unsafe format, or its device is not there.
        ConfigError: Weights are missing from its files: a language model has no head that gives one number, say.
    """
    device = pick_device(config.device)
    model, tokenizer, missing = _read(AutoModelForSequenceClassification, config, pick_dtype(config.dtype, device))
    if missing:
        raise ConfigError(f"the files lack {', '.join(sorted(missing)[:3])}, which would be random", where=config.model,
                          mend="name a sequence classifier that was trained as a reward model")
    return model.to(device).eval(), tokenizer


def _read(auto_class: Any, config: ModelConfig | RewardModelConfig, dtype: torch.dtype) -> tuple[Any, Any, set[str]]:
    """A model on the CPU, its tokenizer, and the names of weights that its files lack."""
    path = resolve_model(config.model)
    if path != config.model or Path(path).is_dir():
        _refuse_pickled(Path(path), config.model)
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model, loading = auto_class.from_pretrained(path, dtype=dtype, use_safetensors=True, output_loading_info=True,
                                                    **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise BackendError(f"the model cannot be loaded: {_first_sentence(error)}", where=config.model,
                           mend=_mend(str(error))) from error
    return model, tokenizer, set(loading["missing_keys"])


def pick_device(name: str) -> torch.device:
    """The device a config means; `auto` takes an accelerator when there is one.

    Raises:
        BackendError: There is no such device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BackendError(f"no device {name!r}: {_first_sentence(error)}", where="device",
                           mend="use 'auto' or 'cpu'") from None
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype a config means; `auto` is float32 on CPU and bfloat16 elsewhere."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def model_identity(
    config: ModelConfig, tokenizer: Any, template: str | None, *, commit: str | None, dtype: torch.dtype,
    adapter: Path | None = None,
) -> dict[str, Any]:
    """What tells this model from others in a journal's key: neither its device nor where its files lie.

    Args:
        config: The model and its back end.
        tokenizer: Its tokenizer.
        template: Jinja source of the chosen chat template; None for the tokenizer's own.
        commit: Of the hub, as loaded: a tag moves, the commit it stood for when the model was loaded does not.
        dtype: Of the weights.
        adapter: Folder of a PEFT adapter.
    """
    folder = Path(config.model)
    local = not is_demo(config.model) and folder.is_dir()
    template = template or getattr(tokenizer, "chat_template", None)
    return {
        "backend": config.backend,
        "model": config.model,
        "revision": commit or config.revision,
        "weights": fingerprint_folder(folder, whole=False) if local else None,
        "template": hashlib.sha256(str(template).encode()).hexdigest()[:16] if template else None,
        "dtype": str(dtype).removeprefix("torch."),
        "adapter": fingerprint_folder(adapter, whole=True) if adapter else None,
    }


def fingerprint_folder(folder: Path, *, whole: bool) -> str:
    """A hash of what a model folder holds (weights, configuration, tokenizer), whatever the folder is called.

    Args:
        folder: The folder.
        whole: Hash every byte. Otherwise of a large file of weights its header and three samples of every tensor: a
            large model is not read twice, and whatever was trained, or merged into it, moves the tensors it touches
            almost everywhere.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".safetensors", ".json", ".jinja", ".model") or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as handle:
            if whole or path.suffix != ".safetensors" or size <= _WHOLE_BYTES:
                while block := handle.read(_WHOLE_BYTES):
                    digest.update(block)
            else:
                for start, length in _samples(handle, digest):
                    handle.seek(start)
                    digest.update(handle.read(length))
    return digest.hexdigest()[:16]


def _samples(handle: BinaryIO, digest: _Hash) -> Iterator[tuple[int, int]]:
    """Where the samples of each tensor of a safetensors file stand, as `(start, length)`; its header is hashed."""
    first = handle.read(8)
    header = handle.read(int.from_bytes(first, "little"))
    digest.update(first + header)
    for name, tensor in json.loads(header).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + len(header) + offset for offset in tensor["data_offsets"])
        for start in (begin, (begin + end - _SAMPLE_BYTES) // 2, end - _SAMPLE_BYTES):
            start = max(begin, start)
            yield start, min(_SAMPLE_BYTES, end - start)


def _with_adapter(model: Any, adapter: Path, dtype: torch.dtype) -> Any:
    weights = adapter / "adapter_model.safetensors"
    if not (adapter / "adapter_config.json").is_file() or not weights.is_file():
        raise BackendError("no adapter here (adapter_config.json and adapter_model.safetensors)", where=str(adapter),
                           mend="give the folder that training wrote, for example runs/<name>/train/final")
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise BackendError(f"the adapter does not fit the model: {_first_sentence(error)}", where=str(adapter),
                           mend="use the model the adapter was trained on") from error
    # Merged weights are faster, but in 16 bits the sum would round the adapter away.
    return adapted.merge_and_unload() if dtype is torch.float32 else adapted


def _refuse_pickled(folder: Path, name: str) -> None:
    """Weights in .bin files are pickles: loading them runs whatever code they hold."""
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise _pickled(name)


def _pickled(name: str) -> BackendError:
    return BackendError("the weights are .bin files, which can run code when they are loaded", where=name,
                        mend="use a revision with .safetensors, or convert them with model.save_pretrained(...)")


def _mend(message: str) -> str:
    if "trust_remote_code" in message:
        return "read the model's code; if you trust it, set trust_remote_code: true"
    if "safetensors" in message:
        return "use a revision with .safetensors weights, or convert them with model.save_pretrained(...)"
    return _MODEL_MEND


def _first_sentence(error: BaseException) -> str:
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
