"""Small real parts for tests: a byte-level BPE tokenizer trained here, and random models of real architectures."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ENGLISH = (
    "The lighthouse stood at the end of the stone pier, and every evening the keeper climbed its stairs.\n\n"
    "She wrote long letters to a brother who never answered. Rain fell on the harbour; gulls argued over fish.\n"
    "\"Tell me,\" said the captain, \"what do you do when nobody is watching?\" The answer took a whole winter.\n"
    "Write a story of about 500 words. Explain how a bridge is built, step by step: first the ground, then piers.\n"
)
CHINESE = (
    "灯塔矗立在石堤的尽头。每天傍晚，守灯人都会爬上楼梯，写一封长信。"
    "雨落在港口上，海鸥为鱼而争吵。请写一篇五百字的故事。\n"
)


def make_tokenizer(vocab_size: int = 480) -> Any:
    """A byte-level BPE tokenizer with beginning, end and padding tokens and the markers of ChatML and Llama 3.

    Llama-like: `<s>` is put before plain text when the tokenizer is asked for special tokens; no chat template.
    """
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
               "<|eot_id|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([ENGLISH, CHINESE] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def make_model(kind: str = "llama", seed: int = 0, vocab_size: int = 512, **overrides: Any) -> Any:
    """A random causal language model in float32 (hidden size 64), in evaluation mode.

    Args:
        kind: `llama`, `qwen2` (tied head, biases in attention) or `gemma3` (sliding and full layers, tied head).
        seed: Seed of the weights.
        vocab_size: At least the tokenizer's size.
        overrides: Further fields of the model's config.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        PretrainedConfig,
        Qwen2Config,
    )

    sizes: dict[str, Any] = {
        "vocab_size": vocab_size, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }
    config: PretrainedConfig
    if kind == "llama":
        config = LlamaConfig(**{**sizes, "tie_word_embeddings": False, **overrides})
    elif kind == "qwen2":
        config = Qwen2Config(**{**sizes, "tie_word_embeddings": True, **overrides})
    elif kind == "gemma3":
        layers = {"num_hidden_layers": 4, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16,
                  "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]}
        config = Gemma3TextConfig(**{**sizes, **layers, **overrides})
    else:
        raise ValueError(f"no tiny model of kind {kind!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()
