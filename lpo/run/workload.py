"""What a configuration asks of its models, at most: plain arithmetic, before any call is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lpo.build_config import BuildConfig
from lpo.config import ModelConfig, RunConfig
from lpo.eval_config import SuiteName
from lpo.pair_builders.critique import LINE_TOKENS
from lpo.pair_builders.memory import WORDS_BEFORE
from lpo.reward import Principle
from lpo.run.answer_loads import answer_loads, longreward_loads, trained_tokens
from lpo.run.loads import INSTRUCTIONS, Load, Role
from lpo.run.measuring import suite_settings
from lpo.run.models import judge_config

SEARCHES = ("longdpo", "longdpo_released")
"""Methods that search a tree of steps; the others work on whole answers."""


@dataclass(frozen=True)
class Workload:
    """Upper bounds of everything a run asks for; a reply that was cut and is asked for once more is not counted.

    Args:
        build: Calls of the build stage, by what they are for.
        evaluation: Calls of the evaluation.
        trained: Tokens in training rows, all epochs.
    """

    build: Mapping[str, Load]
    evaluation: Mapping[str, Load]
    trained: int

    @property
    def loads(self) -> list[Load]:
        """All of them."""
        return [*self.build.values(), *self.evaluation.values()]

    def decode_steps(self, batch_of: Callable[[Role], int | None]) -> int:
        """Sequential decoding steps of models in this process.

        Args:
            batch_of: Texts such a model writes at once; None for a model elsewhere.
        """
        return sum(load.each * -(-load.calls // batch) for load in self.loads
                   if (batch := batch_of(load.role)) is not None)


@dataclass(frozen=True)
class SuiteSize:
    """What a suite asks for.

    Args:
        name: The suite.
        prompts: Its prompts; each model answers all of them.
        judgements: Calls of the judge for all answers, at most; the grades of held-out answers come by themselves.
    """

    name: SuiteName
    prompts: int
    judgements: int = 0


def total(loads: Iterable[Load], role: Role | None = None) -> tuple[int, int, int]:
    """Calls, tokens read and tokens written by one role, or by all."""
    own = [load for load in loads if role is None or load.role is role]
    return sum(load.calls for load in own), sum(load.read for load in own), sum(load.written for load in own)


def model_of(config: RunConfig, role: Role) -> ModelConfig:
    """The model behind a role."""
    if role is Role.JUDGE:
        return judge_config(config)
    if role is Role.MEASURED:
        return config.trained_model if config.measured is None else config.measured.base
    if role is Role.POLICY or (config.critic is None and config.build.critique.by == "policy"):
        return config.policy
    return config.critic or judge_config(config)


def cost(config: RunConfig, loads: Iterable[Load]) -> float | None:
    """Their price, each at its own model's; None when no model has one."""
    costs: list[float] = []
    for load in loads:
        prices = model_of(config, load.role).prices if load.calls else None
        if prices is not None:
            costs.append((load.read * prices.input + load.written * prices.output) / 1e6)
    return sum(costs) if costs else None


def workload(config: RunConfig, build_prompts: int, suites: Sequence[SuiteSize], prompt_tokens: int) -> Workload:
    """Upper bounds from the configuration alone.

    Args:
        config: The run.
        build_prompts: Prompts that are built from.
        suites: What is evaluated.
        prompt_tokens: Mean length of a prompt.
    """
    build, train = config.build, config.train
    tree = _tree(config, prompt_tokens)
    loads = {name: Load(load.role, build_prompts * load.calls, build_prompts * load.read, load.each)
             for name, load in tree.items() if load.calls}
    # A server's weights that are not named are neither trained nor measured; nor is anything where there are no pairs.
    named = config.policy.backend != "openai" or train.weights is not None or config.measured is not None
    measured = suites if named and build.gives_pairs else ()
    evaluation = {name: load for suite in measured for name, load in _suite_loads(config, suite, prompt_tokens).items()}
    rows = _tree_rows(config, prompt_tokens) if build.method in SEARCHES else trained_tokens(config, prompt_tokens)
    epochs = float(train.args.get("num_train_epochs", 3))
    return Workload(loads, evaluation, round(build_prompts * rows * epochs))


def _suite_loads(config: RunConfig, suite: SuiteSize, prompt_tokens: int) -> dict[str, Load]:
    """The calls of one suite for both models."""
    settings = suite_settings(config.eval, suite.name)
    answers, room = 2 * suite.prompts, settings.max_tokens
    held_out = suite.name is SuiteName.HELD_OUT
    of = "" if held_out else f" ({suite.name.value})"
    loads = {f"answers{of}": Load(Role.MEASURED, answers, answers * prompt_tokens, room)} if answers else {}
    text = prompt_tokens + room
    if held_out and answers and settings.judge:
        loads["grades"] = _grades(config, [text] * answers)
    if suite.judgements and settings.judge:
        loads[f"judgements{of}"] = _grades(config, [text] * suite.judgements)
    if answers and settings.along is not None and settings.along.judge:
        loads[f"grades of parts{of}"] = _grades(config, [text] * (answers * settings.along.parts))
    if answers and settings.pairwise is not None and suite.name in settings.pairwise.suites:
        loads[f"comparisons{of}"] = _grades(config, [prompt_tokens + 2 * room] * (2 * suite.prompts))
    return loads


def _tree_rows(config: RunConfig, prompt_tokens: int) -> int:
    """Tokens of the training rows of one tree: each distinct one once, or row by row."""
    build = config.build
    depths, width = layer_depths(build), build.branching
    if config.train.args.get("packing", "tree") == "rows":
        pairs = build.pairs.per_layer or width * (width - 1) // 2
        return 2 * pairs * sum(prompt_tokens + depth * build.step_tokens for depth in depths)
    sides = width if build.pairs.per_layer is None else min(width, 2 * build.pairs.per_layer)
    return prompt_tokens + sides * len(depths) * build.step_tokens


def layer_depths(build: BuildConfig) -> list[int]:
    """Depths of a tree's layers, 1 for the first, when every path leaves the others right after the first step: as many
    as there can be.
    """
    if build.method not in SEARCHES:
        return [1]
    paths = build.search.paths if build.method == "longdpo" else 1
    return [1, *(depth for depth in range(2, build.depth + 1) for _ in range(paths))]


def _tree(config: RunConfig, prompt_tokens: int) -> dict[str, Load]:
    """The calls of one tree."""
    build = config.build
    if build.method not in SEARCHES:
        loads, judged = answer_loads(config, prompt_tokens)
        first = [prompt_tokens + build.answers.max_tokens] * build.answers.samples
        return loads | _scoring(config, judged, first if judged else [], prompt_tokens)
    step = build.step_tokens
    prefixes = [prompt_tokens + (depth - 1) * step for depth in layer_depths(build) for _ in range(build.branching)]
    loads = {"candidates": Load(Role.POLICY, len(prefixes), sum(prefixes), step)}
    judged = [prefix + step for prefix in prefixes]
    if build.method == "longdpo":
        loads |= _search_extras(config, prompt_tokens, judged)
    return loads | _scoring(config, judged, [prompt_tokens + step] * build.branching, prompt_tokens)


def _scoring(config: RunConfig, judged: list[int], first: list[int], prompt_tokens: int) -> dict[str, Load]:
    """The calls that score texts of so many tokens; those of the first layer are graded under another wording too."""
    build = config.build
    if not build.scores:
        return {}
    loads: dict[str, Load] = {}
    if build.reward.judge:
        loads["grades"] = _grades(config, judged)
        if build.stability_check:
            loads["grades under another wording"] = _grades(config, first)
    if build.reward.longreward:
        loads |= longreward_loads(config, judged, prompt_tokens)
    return loads


def _search_extras(config: RunConfig, prompt_tokens: int, judged: list[int]) -> dict[str, Load]:
    """Plan, memory, critiques and rollouts of one tree; texts that are to be judged as well are added to `judged`."""
    build = config.build
    paths, depth, step = build.search.paths, build.depth, build.step_tokens
    loads: dict[str, Load] = {}
    if build.boundary == "sections":
        role = Role.POLICY if build.plan.by == "policy" else Role.JUDGE
        loads["plans"] = Load(role, 1, prompt_tokens + INSTRUCTIONS, build.plan.max_tokens)
    checked = len(judged) - build.branching
    if build.critique.enabled:
        selected = [prompt_tokens + (layer - 1) * step for layer in range(1, depth + 1) for _ in range(paths)]
        loads["rewritten steps"] = Load(Role.POLICY, len(selected), sum(selected) + len(selected) * INSTRUCTIONS, step)
        judged += [prefix + step for prefix in selected]
        checked += len(selected) - paths
        loads |= _critiques(config, selected)
    if build.memory.enabled:
        extracted = paths * (depth - 1)
        text = prompt_tokens + WORDS_BEFORE + step + INSTRUCTIONS
        loads["extractions of facts"] = Load(Role.JUDGE, extracted, extracted * text, build.memory.max_tokens)
        loads["checks against facts"] = _checks(config, prompt_tokens, checked)
    if build.search.rollout_tokens is not None and build.search.algorithm != "greedy":
        before = prompt_tokens + depth * step
        loads["rollouts"] = Load(Role.POLICY, paths, paths * before, build.search.rollout_tokens)
        judged += [before + build.search.rollout_tokens] * paths
    return loads


def _checks(config: RunConfig, prompt_tokens: int, candidates: int) -> Load:
    """One for each chunk. Without JSON it reads next-token probabilities for each fact, beside the chunk and beside
    nothing; a model elsewhere takes a call for each of these.
    """
    memory, judge = config.build.memory, judge_config(config)
    chunks = candidates * -(-config.build.step_tokens // memory.chunk_words)
    text = prompt_tokens + WORDS_BEFORE + 2 * memory.chunk_words + INSTRUCTIONS
    if judge.method == "json":
        return Load(Role.JUDGE, chunks, chunks * text, memory.max_tokens)
    questions = 2 * memory.top_k * chunks
    return Load(Role.JUDGE, chunks if judge.backend == "transformers" else questions, questions * text, 0)


def _critiques(config: RunConfig, prefixes: list[int]) -> dict[str, Load]:
    """One for each principle of each weak step; a critic that writes no JSON writes one line, and its confidence is
    read from its next-token probabilities.
    """
    calls = len(Principle) * len(prefixes)
    read = len(Principle) * sum(prefix + 2 * config.build.step_tokens + INSTRUCTIONS for prefix in prefixes)
    room = config.build.critique.max_tokens
    if judge_config(config).method == "json":
        return {"critiques": Load(Role.CRITIC, calls, read, room)}
    return {"critiques": Load(Role.CRITIC, calls, read, min(room, LINE_TOKENS)),
            "confidences": Load(Role.CRITIC, calls, read, 0)}


def _grades(config: RunConfig, texts: list[int]) -> Load:
    """Judgements of texts of so many tokens. Expected grades of a model elsewhere take a call for each principle."""
    judge = judge_config(config)
    if judge.method == "json":
        return Load(Role.JUDGE, len(texts), sum(texts) + len(texts) * INSTRUCTIONS, judge.max_tokens)
    each = 1 if judge.backend == "transformers" else len(Principle)
    return Load(Role.JUDGE, each * len(texts), each * (sum(texts) + len(texts) * INSTRUCTIONS), 0)
