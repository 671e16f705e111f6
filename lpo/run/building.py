"""The build stage: prompts become trees and pairs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lpo.config import RunConfig
from lpo.errors import NothingLeftError, UnsoundError
from lpo.pair_builders import BuildResult, PairBuilder, create_builder
from lpo.prompts import PromptSet
from lpo.records import Judgement, Prompt, SearchTree, Usage
from lpo.reward import Draft, Scorer, create_judge, create_scorer, rank_stability
from lpo.run.directory import RunDirectory
from lpo.run.models import Models, judge_config
from lpo.run.progress import Reporter
from lpo.storage import write_json, write_jsonl


@dataclass(frozen=True)
class BuildSummary:
    """Counts of a finished build, as stored in build.json."""

    prompts: int
    trees: int
    layers: int
    candidates: int
    pairs: int
    rejected: dict[str, int]
    usage: Usage
    judgements: dict[str, Any]
    stability: dict[str, Any] | None
    cleaned_characters: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.__dict__, "usage": self.usage.to_json()}


async def build(config: RunConfig, prompts: PromptSet, directory: RunDirectory, models: Models,
                reporter: Reporter) -> BuildSummary:
    """Build pairs from every prompt and write trees, pairs, rejected rows and counts.

    Raises:
        NothingLeftError: No pair was left; the reasons are listed.
        UnsoundError: Too many judgements have no score.
    """
    policy = models.get(config.policy)
    judging = judge_config(config)
    judge_llm = models.get(judging) if config.build.reward.judge else None
    judge = create_judge(judging, judge_llm) if judge_llm is not None else None
    scorer = create_scorer(config.build.reward, judge)
    layers_done = 0
    total_layers = len(prompts.build) * config.build.depth
    with reporter.bar("build", total_layers, "layers") as update:

        def on_layer() -> None:
            nonlocal layers_done
            layers_done += 1
            usage = models.usage()
            update(layers_done,
                   f"{usage.calls} calls, {usage.cached} from the journal, {usage.tokens_out} tokens written")

        builder = create_builder(config.build, policy, scorer, config.policy.sampling, on_layer=on_layer)
        results = await _build_all(builder, prompts.build, config, models)
        update(total_layers, "done")
    trees = [tree for result in results for tree in result.trees]
    judgements = count_judgements(trees)
    _check_unscored(judgements, config.build.max_unscored)
    stability = None
    if config.build.stability_check and judge is not None and judge_llm is not None:
        stability = await measure_stability(trees, judge, create_judge(judging, judge_llm, reworded=True))
    pairs = [pair for result in results for pair in result.pairs]
    rejected = [*prompts.rejected, *(row for result in results for row in result.rejected)]
    summary = BuildSummary(
        prompts=len(prompts.build), trees=len(trees), layers=sum(_layers(tree) for tree in trees),
        candidates=sum(len(tree.nodes) - 1 for tree in trees), pairs=len(pairs),
        rejected=dict(Counter(row.reason.value for row in rejected)), usage=models.usage(), judgements=judgements,
        stability=stability, cleaned_characters=prompts.cleaned,
    )
    write_jsonl(directory / "trees.jsonl", (tree.to_json() for tree in trees))
    write_jsonl(directory / "rejected_rows.jsonl", (row.to_json() for row in rejected))
    write_jsonl(directory / "pairs.jsonl", (pair.to_json() for pair in pairs))
    write_json(directory / "build.json", summary.to_json())
    _report(summary, reporter)
    if not pairs:
        raise NothingLeftError(f"no pair was built: {_listed(summary.rejected) or 'nothing came in'}",
                               mend="rejected_rows.jsonl says why for each row; lower build.min_margin or raise "
                                    "build.branching")
    return summary


async def _build_all(builder: PairBuilder, prompts: Sequence[Prompt], config: RunConfig,
                     models: Models) -> list[BuildResult]:
    """Build every prompt, a limited number at once. When one fails, the others finish what they have in flight."""
    slots = asyncio.Semaphore(config.build.concurrency)

    async def one(prompt: Prompt) -> BuildResult:
        async with slots:
            return await builder.build(prompt, seed=config.seed)

    return await models.gather([one(prompt) for prompt in prompts])


def count_judgements(trees: Sequence[SearchTree]) -> dict[str, Any]:
    """How many candidates were scored, and why others were not."""
    judgements = [node.judgement for tree in trees for node in tree.nodes if node.judgement is not None]
    reasons = Counter(judgement.unscored for judgement in judgements if judgement.unscored is not None)
    return {"scored": len(judgements) - reasons.total(), "unscored": reasons.total(), "reasons": dict(reasons)}


def _check_unscored(judgements: dict[str, Any], allowed: float) -> None:
    total = judgements["scored"] + judgements["unscored"]
    if total and judgements["unscored"] / total > allowed:
        raise UnsoundError(
            f"{judgements['unscored']} of {total} judgements have no score ({_listed(judgements['reasons'])}), "
            f"more than build.max_unscored = {allowed:g} allows",
            mend="look at the judge's replies (journal.sqlite), use a stronger judge, or raise build.max_unscored",
        )


async def measure_stability(trees: Sequence[SearchTree], judge: Scorer, reworded: Scorer) -> dict[str, Any] | None:
    """Judge every tree's first layer under a reworded rubric and compare the rankings.

    Both rankings come from the judge alone, whatever else the reward mixes in.

    Returns:
        Kendall's tau (mean over layers), share of layers with the same best candidate, number of layers; None when
        no layer has two scored candidates.
    """
    layers = [drafts for drafts in map(_first_layer, trees) if len(drafts) >= 2]
    original = await asyncio.gather(*(judge.score(drafts) for drafts in layers))
    other = await asyncio.gather(*(reworded.score(drafts) for drafts in layers))
    both = [_both_scored(first, second) for first, second in zip(original, other, strict=True)]
    usable = [pair for pair in both if len(pair[0]) >= 2]
    if not usable:
        return None
    result = rank_stability([first for first, _ in usable], [second for _, second in usable])
    return dict(result.__dict__)


def _first_layer(tree: SearchTree) -> list[Draft]:
    return [Draft(prompt=tree.prompt, prefix="", text=node.text, complete=node.ends, required_words=None)
            for node in tree.nodes if node.depth == 1 and node.judgement is not None]


def _both_scored(first: Sequence[Judgement], second: Sequence[Judgement]) -> tuple[list[float], list[float]]:
    pairs = [(one.overall, two.overall) for one, two in zip(first, second, strict=True)]
    scored = [(one, two) for one, two in pairs if one is not None and two is not None]
    return [one for one, _ in scored], [two for _, two in scored]


def _layers(tree: SearchTree) -> int:
    return len({node.parent for node in tree.nodes if node.parent is not None})


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _report(summary: BuildSummary, reporter: Reporter) -> None:
    usage = summary.usage
    reporter.say(f"built {summary.pairs} pairs from {summary.prompts} prompts: {summary.layers} layers, "
                 f"{summary.candidates} candidates")
    reporter.say(f"rejected: {_listed(summary.rejected) or 'none'}; unscored judgements: "
                 f"{summary.judgements['unscored']} of {summary.judgements['scored'] + summary.judgements['unscored']}")
    if summary.stability is not None and summary.stability["kendall_tau"] is not None:
        reporter.say(f"the judge's ranking under a reworded rubric: Kendall's tau "
                     f"{summary.stability['kendall_tau']:.2f}, the same best candidate in "
                     f"{summary.stability['same_best']:.0%} of {summary.stability['layers']} layers")
    cost = "" if usage.cost is None else f", cost {usage.cost:.4f}"
    reporter.say(f"calls: {usage.calls} made, {usage.cached} from the journal; tokens: {usage.tokens_in} read, "
                 f"{usage.tokens_out} written{cost}")
