"""Tiny random models of the families that token trees must read, with every feature of their attention switched on."""

from collections.abc import Callable
from typing import Any

WINDOW = 12
SCORE_CAP = 3.0
LOGIT_CAP = 4.0
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
_SIZES: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}


def _llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**_SIZES)


def _qwen2() -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(**_SIZES | {"tie_word_embeddings": True}, use_sliding_window=True, sliding_window=WINDOW,
                       max_window_layers=2)


def _qwen3() -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**_SIZES)


def _mistral() -> Any:
    from transformers import MistralConfig

    return MistralConfig(**_SIZES, sliding_window=WINDOW)


def _gemma2() -> Any:
    from transformers import Gemma2Config

    return Gemma2Config(**_SIZES | {"tie_word_embeddings": True}, sliding_window=WINDOW, query_pre_attn_scalar=6,
                        layer_types=_ALTERNATING, attn_logit_softcapping=SCORE_CAP, final_logit_softcapping=LOGIT_CAP)


def _gemma3() -> Any:
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(**_SIZES | {"tie_word_embeddings": True}, sliding_window=WINDOW, query_pre_attn_scalar=6,
                            layer_types=_ALTERNATING)


def _phi3() -> Any:
    from transformers import Phi3Config

    return Phi3Config(**_SIZES, sliding_window=WINDOW, partial_rotary_factor=0.5)


def _gpt_oss() -> Any:
    from transformers import GptOssConfig

    return GptOssConfig(**_SIZES | {"max_position_embeddings": 131072}, sliding_window=WINDOW,
                        layer_types=_ALTERNATING, num_local_experts=4, num_experts_per_tok=2)


def _qwen3_moe() -> Any:
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(**_SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
                          norm_topk_prob=True)


def _mixtral() -> Any:
    from transformers import MixtralConfig

    return MixtralConfig(**_SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "mistral": _mistral, "gemma2": _gemma2, "gemma3": _gemma3,
    "phi3": _phi3, "gpt_oss": _gpt_oss, "qwen3_moe": _qwen3_moe, "mixtral": _mixtral,
}
WINDOWED = ("qwen2", "mistral", "gemma2", "gemma3", "phi3", "gpt_oss", "mixtral")
"""Those whose attention has a sliding window here."""


def make_family(name: str, seed: int = 0, **overrides: Any) -> Any:
    """A random model of a family in float32, in evaluation mode.

    The weights of transformers' own initialisation give attention that is all but uniform, norms, biases and sinks
    that do nothing, and experts chosen by near ties. These are wide enough for all of them to matter.

    Args:
        name: One of `FAMILIES`.
        seed: Seed of the weights.
        overrides: Fields of the config to change.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = FAMILIES[name]()
    config.update(overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Attention is what transformers takes by itself: eager for soft caps and sinks, SDPA for the others.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
                else:
                    parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5)
    return model.eval()
