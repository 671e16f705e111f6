"""What a run will take, before any call is made: rows, token lengths, calls, tokens, money, memory and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lpo.chat import load_chat_template, render_context
from lpo.config import ModelConfig, RunConfig
from lpo.evaluation import select_prompts
from lpo.prompts import load_prompts
from lpo.records import Prompt
from lpo.run.models import judge_config
from lpo.run.pipeline import check_prompts

if TYPE_CHECKING:
    import torch

JUDGE_PROMPT_TOKENS = 300
"""Rough length of the judge's own instructions."""


@dataclass(frozen=True)
class Workload:
    """Upper bounds of what a configuration asks of its models.

    Args:
        policy_calls: Texts the policy writes while building.
        judge_calls: Texts the judge scores while building.
        eval_calls: Answers written in the evaluation.
        written: Tokens written, all stages.
        read: Tokens read, every call counted with its whole context.
        decode_steps: Sequential decoding steps of the local back end, given its batch size.
        trained: Tokens in training rows, all epochs.
    """

    policy_calls: int
    judge_calls: int
    eval_calls: int
    written: int
    read: int
    decode_steps: int
    trained: int


@dataclass(frozen=True)
class Forecast:
    """What `lpo check` prints."""

    build_prompts: int
    held_out_prompts: int
    prompt_tokens: tuple[int, int, int] | None
    """Median, 90th percentile and maximum; None when the model's tokenizer is behind a server."""
    workload: Workload
    cost: float | None
    memory_gb: float | None
    seconds: float | None

    def lines(self) -> list[str]:
        """The forecast as lines for a person."""
        work = self.workload
        lines = ["configuration: no errors",
                 f"prompts: {self.build_prompts} to build from, {self.held_out_prompts} held out for evaluation"]
        if self.prompt_tokens:
            lines.append("prompt tokens: median {}, 90 % below {}, longest {}".format(*self.prompt_tokens))
        lines.append(f"calls, at most: {work.policy_calls} by the policy, {work.judge_calls} by the judge, "
                     f"{work.eval_calls} in the evaluation")
        lines.append(f"tokens, at most: {work.written:,} written, {work.read:,} read, "
                     f"{work.trained:,} in training rows")
        if self.cost is not None:
            lines.append(f"cost, at most: {self.cost:.2f} (by the configured prices)")
        if self.memory_gb is not None:
            lines.append(f"memory: roughly {self.memory_gb:.1f} GB")
        if self.seconds is not None:
            lines.append(f"time: roughly {self.seconds / 60:.0f} min here, if every step uses its whole token budget")
        return lines


def forecast(config: RunConfig) -> Forecast:
    """Work out what a run will take. Loads a tokenizer and a model's shape, never its weights.

    Raises:
        LpoError: The prompts or the model cannot be used.
    """
    prompts = load_prompts(config.prompts)
    check_prompts(prompts)
    evaluated = select_prompts(prompts.held_out, config.eval)
    count = _token_counter(config.policy)
    lengths = sorted(count(prompt) for prompt in (*prompts.build, *evaluated))
    local = config.policy.backend == "transformers"
    work = workload(config, len(prompts.build), len(evaluated), round(statistics.mean(lengths)))
    shape = _shape(config.policy) if local else None
    return Forecast(
        build_prompts=len(prompts.build), held_out_prompts=len(evaluated),
        prompt_tokens=(percentile(lengths, 0.5), percentile(lengths, 0.9), lengths[-1]) if local else None,
        workload=work, cost=_cost(config, work), memory_gb=memory_gb(config, shape) if shape else None,
        seconds=_seconds(config, work, shape) if shape else None,
    )


def workload(config: RunConfig, build_prompts: int, eval_prompts: int, prompt_tokens: int) -> Workload:
    """Upper bounds from the configuration alone."""
    build = config.build
    layers = build_prompts * build.depth
    candidates = layers * build.branching
    judged = build.reward.judge > 0
    stability = build_prompts * build.branching if judged and build.stability_check else 0
    answers = 2 * eval_prompts
    mean_prefix = prompt_tokens + build.step_tokens * (build.depth - 1) // 2
    judged_answers = answers if config.eval.judge else 0
    judge_calls = (candidates + stability) if judged else 0
    read = (candidates * mean_prefix + answers * prompt_tokens
            + judge_calls * (mean_prefix + build.step_tokens + JUDGE_PROMPT_TOKENS)
            + judged_answers * (prompt_tokens + config.eval.max_tokens + JUDGE_PROMPT_TOKENS))
    batch = config.policy.batch_size
    epochs = float(config.train.args.get("num_train_epochs", 3))
    trained = build_prompts * prompt_tokens + 2 * layers * build.step_tokens  # each distinct token once
    if config.train.args.get("packing", "tree") == "rows":
        trained = 2 * layers * (mean_prefix + build.step_tokens)
    return Workload(
        policy_calls=candidates, judge_calls=judge_calls + judged_answers, eval_calls=answers,
        written=candidates * build.step_tokens + answers * config.eval.max_tokens, read=read,
        decode_steps=build.depth * build.step_tokens * -(-build_prompts * build.branching // batch)
        + 2 * config.eval.max_tokens * -(-eval_prompts // batch),
        trained=round(trained * epochs),
    )


def _token_counter(policy: ModelConfig) -> Callable[[Prompt], int]:
    if policy.backend != "transformers":
        return lambda prompt: len(prompt.request) // 4
    from transformers import AutoTokenizer

    from lpo.llm.demo import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(policy.model), revision=policy.revision)
    template = load_chat_template(policy.chat_template)
    return lambda prompt: len(tokenizer(render_context(tokenizer, prompt.prompt, "", template)).input_ids)


@dataclass(frozen=True)
class Shape:
    """Size of a model: all parameters, those of the body without embeddings, and bytes of one token's KV cache."""

    parameters: int
    vocabulary_parameters: int
    kv_bytes: int


def _shape(policy: ModelConfig) -> Shape:
    """Build the model on the meta device: its shapes without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lpo.llm.demo import resolve_model

    config = AutoConfig.from_pretrained(resolve_model(policy.model), revision=policy.revision,
                                        trust_remote_code=policy.trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=policy.trust_remote_code)
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    head: Any = model.get_output_embeddings()
    return Shape(model.num_parameters(), head.weight.numel(), 2 * 4 * text.num_hidden_layers * heads * head_dim)


def memory_gb(config: RunConfig, shape: Shape) -> float:
    """Weights in float32, cache of one batch, and for training the gradients and Adam's two moments.

    A deliberately simple upper estimate of the larger of generation and training, plus 1.5 GB for the libraries.
    """
    weights = 4 * shape.parameters
    context = config.build.depth * config.build.step_tokens + 256
    longest = max(context, config.eval.max_tokens + 256)
    generating = weights + config.policy.batch_size * longest * shape.kv_bytes
    trainable = shape.parameters if config.train.peft is None else 0.02 * shape.parameters
    training = weights * (2 if config.train.peft is None else 1) + 12 * trainable + 2.0e9
    return max(generating, training) / 2**30 + 1.5


def _cost(config: RunConfig, work: Workload) -> float | None:
    prices = config.policy.prices or judge_config(config).prices
    return (work.read * prices.input + work.written * prices.output) / 1e6 if prices else None


def _seconds(config: RunConfig, work: Workload, shape: Shape) -> float:
    """Arithmetic and memory traffic divided by what this machine just did in a short measurement.

    A decoding step moves all weights once and computes one token for each row; reading and training are arithmetic.
    Attention is left out; training is three forward passes and a reference one.
    """
    import torch

    flops, bandwidth = measure_speed(torch.float32)
    body = shape.parameters - shape.vocabulary_parameters
    step = max(4 * shape.parameters / bandwidth, 2 * shape.parameters * config.policy.batch_size / flops)
    return work.decode_steps * step + 2 * body * work.read / flops + 4 * 2 * shape.parameters * work.trained / flops


def measure_speed(dtype: torch.dtype, size: int = 1024, seconds: float = 0.3) -> tuple[float, float]:
    """Floating-point operations and bytes per second of this machine's CPU, from a fraction of a second each."""
    import torch

    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    block = torch.randn(32 * 2**20 // 4)

    def rate(work: Callable[[], object], amount: float) -> float:
        work()
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            work()
            rounds += 1
        return amount * rounds / (time.perf_counter() - start)

    return rate(lambda: a @ b, 2.0 * size**3), rate(lambda: block.sum(), 4.0 * block.numel())


def percentile(values: Sequence[int], share: float) -> int:
    """The value below which this share of a sorted sequence lies."""
    return values[int(share * (len(values) - 1))]
