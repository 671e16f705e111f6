"""What a run will take, before any call is made: rows, token lengths, calls, tokens, money, memory and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lpo.chat import load_chat_template, render_context
from lpo.config import ModelConfig, RunConfig
from lpo.eval_config import SuiteName
from lpo.evaluation import select_prompts
from lpo.evaluation.suites import create_suite
from lpo.prompts import load_prompts
from lpo.records import Prompt
from lpo.run.build_mixing import usable_general
from lpo.run.build_models import check_released_judge
from lpo.run.loads import Load, Role
from lpo.run.pipeline import check_prompts
from lpo.run.workload import SEARCHES, SuiteSize, Workload, cost, model_of, total, workload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Forecast:
    """What `lpo check` prints.

    Args:
        config: The run.
        build_prompts: Prompts to build from.
        held_out_prompts: Prompts that are evaluated.
        suites: What else is measured.
        general: Rows of general preference data that can be mixed in; None when nothing is.
        prompt_tokens: Median, 90th percentile and maximum; None when the model's tokenizer is behind a server.
        workload: Upper bounds of calls and tokens.
        memory_gb: Rough, of a model in this process.
        seconds: Rough, of a model in this process.
    """

    config: RunConfig
    build_prompts: int
    held_out_prompts: int
    suites: tuple[SuiteSize, ...]
    general: int | None
    prompt_tokens: tuple[int, int, int] | None
    workload: Workload
    memory_gb: float | None
    seconds: float | None

    def lines(self) -> list[str]:
        """The forecast as lines for a person."""
        work = self.workload
        lines = ["configuration: no errors",
                 f"prompts: {self.build_prompts} to build from, {self.held_out_prompts} held out for evaluation"]
        if self.suites:
            sizes = ", ".join(f"{suite.name.value} ({suite.prompts} prompts)" if suite.prompts else suite.name.value
                              for suite in self.suites)
            lines.append(f"further suites: {sizes}")
        if self.general is not None:
            lines.append(f"general preference data: {self.general} usable rows")
        if self.prompt_tokens:
            lines.append("prompt tokens: median {}, 90 % below {}, longest {}".format(*self.prompt_tokens))
        lines.append(f"calls of the build, at most: {_listed(work.build)}")
        if work.evaluation:
            lines.append(f"calls of the evaluation, at most: {_listed(work.evaluation)}")
        lines += [self._model_line(role) for role in Role if total(work.loads, role)[0]]
        lines.append(f"tokens in training rows, at most: {work.trained:,}")
        money = cost(self.config, work.loads)
        if money is not None:
            lines.append(f"cost, at most: {money:.2f} (by the configured prices)")
        lines += self._budget_lines()
        if self.memory_gb is not None:
            lines.append(f"memory: roughly {self.memory_gb:.1f} GB")
        if self.seconds is not None:
            lines.append(f"time: roughly {self.seconds / 60:.0f} min here, if every step uses its whole token budget")
        return lines

    def _model_line(self, role: Role) -> str:
        loads = [load for load in self.workload.loads if load.role is role]
        calls, read, written = total(loads)
        money = cost(self.config, loads)
        return (f"{role} ({model_of(self.config, role).model}), at most: {calls:,} calls, {read:,} tokens read, "
                f"{written:,} written" + ("" if money is None else f", cost {money:.2f}"))

    def _budget_lines(self) -> list[str]:
        """Each limit beside the most that the run can ask for."""
        budget = self.config.build.budget
        if budget is None:
            return []
        calls, read, written = total(self.workload.loads)
        money = cost(self.config, self.workload.loads)
        most = {"calls": calls, "tokens": read + written, "cost": money}
        lines: list[str] = []
        for name, limit in budget.model_dump().items():
            bound = most[name]
            if limit is not None and bound is not None:
                verdict = "covers all of it" if limit >= bound else f"{limit / bound:.0%} of the most it can take"
                lines.append(f"budget: {limit:,} {name}, {verdict}")
        return lines


def _listed(loads: Mapping[str, Load]) -> str:
    return ", ".join(f"{load.calls:,} {name}" for name, load in loads.items())


def forecast(config: RunConfig) -> Forecast:
    """Work out what a run will take. Loads a tokenizer and a model's shape, never its weights.

    Raises:
        LpoError: The prompts or the model cannot be used.
    """
    check_released_judge(config)
    prompts = load_prompts(config.prompts)
    check_prompts(prompts)
    general = usable_general(config, prompts.held_out) if config.build.mix is not None else None
    evaluated = select_prompts(prompts.held_out, config.eval) if SuiteName.HELD_OUT in config.eval.suites else ()
    suites = [create_suite(name, config.eval, ()) for name in config.eval.suites if name is not SuiteName.HELD_OUT]
    count = _token_counter(config.policy)
    asked = [prompt for suite in suites for prompt in suite.prompts]
    lengths = sorted(count(prompt) for prompt in (*prompts.build, *evaluated, *asked))
    local = config.policy.backend == "transformers"
    sizes = [SuiteSize(SuiteName.HELD_OUT, len(evaluated)),
             *(SuiteSize(suite.name, len(suite.prompts), suite.judgements(2 * len(suite.prompts) or len(suite.given)))
               for suite in suites)]
    work = workload(config, len(prompts.build), sizes, round(statistics.mean(lengths)))
    shape = _shape(config.policy) if local else None
    return Forecast(
        config=config, build_prompts=len(prompts.build), held_out_prompts=len(evaluated), suites=tuple(sizes[1:]),
        general=len(general.pairs) if general is not None else None,
        prompt_tokens=(percentile(lengths, 0.5), percentile(lengths, 0.9), lengths[-1]) if local else None,
        workload=work, memory_gb=memory_gb(config, shape) if shape else None,
        seconds=_seconds(config, work, shape) if shape else None,
    )


def _token_counter(policy: ModelConfig) -> Callable[[Prompt], int]:
    if policy.backend != "transformers":
        return lambda prompt: len(prompt.request) // 4
    from transformers import AutoTokenizer

    from lpo.llm.demo import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(policy.model), revision=policy.revision)
    template = load_chat_template(policy.chat_template)
    return lambda prompt: len(tokenizer(render_context(tokenizer, prompt.dialogue, "", template)).input_ids)


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
    build = config.build
    context = build.answers.max_tokens + 256
    if build.method in SEARCHES:
        context = build.depth * build.step_tokens + (build.search.rollout_tokens or 0) + 256
    longest = max(context, config.eval.max_tokens + 256)
    generating = weights + config.policy.batch_size * longest * shape.kv_bytes
    trainable = shape.parameters if config.train.peft is None else 0.02 * shape.parameters
    training = weights * (2 if config.train.peft is None else 1) + 12 * trainable + 2.0e9
    return max(generating, training) / 2**30 + 1.5


def _seconds(config: RunConfig, work: Workload, shape: Shape) -> float:
    """Arithmetic and memory traffic divided by what this machine just did in a short measurement.

    A decoding step moves all weights once and computes one token for each row; reading and training are arithmetic.
    Attention is left out; training is three forward passes and a reference one. Other models in this process are
    taken to be of the policy's size, models elsewhere to take no time.
    """
    import torch

    def batch_of(role: Role) -> int | None:
        model = model_of(config, role)
        return model.batch_size if model.backend == "transformers" else None

    flops, bandwidth = measure_speed(torch.float32)
    body = shape.parameters - shape.vocabulary_parameters
    step = max(4 * shape.parameters / bandwidth, 2 * shape.parameters * config.policy.batch_size / flops)
    read = sum(load.read for load in work.loads if batch_of(load.role) is not None)
    return (work.decode_steps(batch_of) * step + 2 * body * read / flops
            + 4 * 2 * shape.parameters * work.trained / flops)


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
