"""Choice of the back end by its name; only the chosen one is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lpo.config import ModelConfig
from lpo.errors import ConfigError
from lpo.llm.base import LLM


def create_llm(
    config: ModelConfig, *, adapter: Path | None = None, gate: Callable[[], None] | None = None
) -> LLM:
    """Open the language model a configuration names.

    Args:
        config: Model and back end.
        adapter: Folder of a PEFT adapter; local models only.
        gate: Called when a server's call is about to be sent, after it waited for its turn; what it raises is raised
            instead. Local models begin with what they are handed: there is no later moment to ask.

    Raises:
        BackendError: The model cannot be used.
        ConfigError: An adapter is asked of a server or of vLLM.
    """
    if config.backend == "openai":
        if adapter is not None:
            raise ConfigError("an adapter cannot be put on a model behind a server", where=str(adapter),
                              mend="let the server load it, and give its name as model; or use backend: transformers")
        from lpo.llm.openai import OpenAILLM

        return OpenAILLM(config, gate=gate)
    if config.backend == "vllm":
        if adapter is not None:
            raise ConfigError("an adapter cannot be put on a model that vLLM runs", where=str(adapter),
                              mend="use backend: transformers here, or merge the adapter into the weights")
        from lpo.llm.vllm import VllmLLM

        return VllmLLM(config)
    from lpo.llm.transformers import TransformersLLM

    return TransformersLLM.load(config, adapter=adapter)
