"""The build stage: prompts become trees and pairs.

Trees are built side by side and put on disk as they finish; the files are written in the order of the prompts at the
end. What was asked of a model is in the journal: a build that was stopped is simply run again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lpo.config import RunConfig
from lpo.errors import NothingLeftError
from lpo.llm.side_by_side import side_by_side
from lpo.pair_builders.create import create_builder
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.mixing import General
from lpo.pair_builders.pairs import Derived
from lpo.pair_builders.plan import given_plan
from lpo.prompts import PromptSet
from lpo.records import Prompt, RejectedRow, SearchTree, Usage
from lpo.reward import RankStability, rank_stability
from lpo.run.build_counts import ENOUGH, BuildCounts, check_failures, count_pairs, count_tree, listed
from lpo.run.build_mixing import Mixed, mixed_in, usable_general
from lpo.run.build_models import BuildStageModels, open_models
from lpo.run.build_progress import BuildProgress
from lpo.run.build_spool import Spool
from lpo.run.build_stability import Rankings, rankings_of
from lpo.run.directory import RunDirectory
from lpo.run.models import Models
from lpo.run.progress import Reporter
from lpo.storage import json_line, open_atomic, write_json

TREES, PAIRS, REJECTED = range(3)
"""The blocks that a prompt has in the spool."""

log = logging.getLogger("lpo.run.building")


@dataclass(frozen=True)
class BuildSummary:
    """A finished build, as stored in build.json.

    Args:
        prompts: Prompts that were built from.
        counts: What happened, rejected prompts and what was mixed in counted.
        usage: What model calls of this start took.
        usage_by_purpose: The same, by what was asked.
        spent: What all starts of the run paid for.
        stability: Whether the judge's ranking survives another wording; None when it was not looked at.
        mixed: General preference data; None when nothing is mixed in.
        cleaned_characters: Characters of the prompts that were replaced or dropped.
    """

    prompts: int
    counts: BuildCounts
    usage: Usage
    usage_by_purpose: dict[str, Usage]
    spent: Usage
    stability: RankStability | None
    mixed: Mixed | None
    cleaned_characters: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        counts = self.counts.to_json()
        return {
            "prompts": self.prompts, **counts,
            "judgements": {"scored": self.counts.scored, "unscored": self.counts.unscored.total(),
                           "reasons": counts["unscored"]},
            "usage": self.usage.to_json(),
            "usage_by_purpose": {purpose: usage.to_json() for purpose, usage in self.usage_by_purpose.items()},
            "spent": self.spent.to_json(),
            "stability": self.stability.__dict__ if self.stability is not None else None,
            "mixed": self.mixed.to_json() if self.mixed is not None else None,
            "cleaned_characters": self.cleaned_characters,
        }


async def build(config: RunConfig, prompts: PromptSet, directory: RunDirectory, models: Models,
                reporter: Reporter) -> BuildSummary:
    """Build pairs from every prompt and write trees, pairs, rejected rows and counts.

    Raises:
        NothingLeftError: No pair was left; the reasons are listed.
        UnsoundError: Too many judgements have no score, or checks no verdict.
        NotCalledError: The user stopped the build, or its budget is spent.
    """
    _check_plans(config, prompts.build)
    general = usable_general(config, prompts.held_out)
    stage_models = open_models(config, models)
    with Spool(directory.path, len(prompts.build), kinds=3) as spool:
        work = _Work(config, stage_models, spool)
        await work.build_all(prompts.build, models, reporter)
        check_failures(work.counts, config.build.max_unscored)
        counts = work.counts
        counts += count_pairs((), (*prompts.rejected, *general.rejected))
        mixed = mixed_in(config, general, counts.pairs)
        summary = BuildSummary(
            prompts=len(prompts.build), counts=counts, usage=models.usage(),
            usage_by_purpose=models.usage_by_purpose(), spent=models.spent(), stability=work.stability(),
            mixed=mixed.counts if mixed is not None else None, cleaned_characters=prompts.cleaned,
        )
        _write(directory, spool, prompts.rejected, general, mixed.pairs if mixed is not None else ())
    write_json(directory / "build.json", summary.to_json())
    for line in summary_lines(summary):
        reporter.say(line)
    if not counts.pairs:
        raise NothingLeftError(f"no pair was built: {listed(counts.rejected) or 'nothing came in'}",
                               mend="rejected_rows.jsonl says why for each row; lower build.pairs.min_margin or raise "
                                    "build.branching")
    return summary


def _check_plans(config: RunConfig, prompts: Sequence[Prompt]) -> None:
    """Read the plans that prompts bring along before anything is paid for.

    Raises:
        DataError: One of them cannot be used.
    """
    if config.build.method == "longdpo" and config.build.boundary == "sections":
        for prompt in prompts:
            given_plan(prompt, max_sections=config.build.depth)


class _Work:
    """Builds trees, counts what happened, and puts them into the spool.

    Args:
        config: The run.
        models: Of the stage.
        spool: Takes trees, pairs and rejected rows.
    """

    def __init__(self, config: RunConfig, models: BuildStageModels, spool: Spool) -> None:
        self._config, self._models, self._spool = config, models, spool
        self._rankings: dict[int, Rankings] = {}
        self.counts = BuildCounts()

    async def build_all(self, prompts: tuple[Prompt, ...], models: Models, reporter: Reporter) -> None:
        """Build every prompt, a limited number at once."""
        try:
            await self._build_all(prompts, models, reporter)
        except BaseException:
            reporter.say(f"{self.counts.trees} of {len(prompts)} trees are done; every reply that came is kept, and "
                         "the same command goes on from there")
            raise

    async def _build_all(self, prompts: tuple[Prompt, ...], models: Models, reporter: Reporter) -> None:
        build = self._config.build
        with reporter.bar("build", len(prompts), "trees") as update:
            progress = BuildProgress(build, len(prompts), models.usage, models.spent, update)
            builder = create_builder(build, self._models.builder, progress.on_event)

            async def work(item: tuple[int, Prompt]) -> None:
                index, prompt = item
                tree = await builder.build(prompt, seed=self._config.seed)
                await self._rank_again(index, tree)
                self._finish(index, rows_of(tree, build))
                progress.tree_done(tree)
                check_failures(self.counts, build.max_unscored, enough=ENOUGH)

            try:
                await side_by_side(enumerate(prompts), work, at_once=build.concurrency, stop=models.stop)
            finally:
                progress.show(now=True)

    def stability(self) -> RankStability | None:
        """How far the judge's two rankings agree, over all trees; None when no layer could be compared."""
        if not self._rankings:
            return None
        both = [rankings for _, rankings in sorted(self._rankings.items())]
        return rank_stability([rankings.first for rankings in both], [rankings.second for rankings in both])

    async def _rank_again(self, index: int, tree: SearchTree) -> None:
        judge, reworded = self._models.judge, self._models.reworded
        if not self._config.build.stability_check or judge is None or reworded is None:
            return
        rankings = await rankings_of(tree, judge.name, reworded)
        if rankings is not None:
            self._rankings[index] = rankings

    def _finish(self, index: int, derived: Derived) -> None:
        self.counts += count_tree(derived.tree)
        self.counts += count_pairs(derived.pairs, derived.rejected)
        self._spool.put(index, (_lines([derived.tree]), _lines(derived.pairs), _lines(derived.rejected)))
        _log_failures(derived.tree)


def _lines(records: Iterable[Any]) -> bytes:
    return "".join(json_line(record.to_json()) for record in records).encode()


def _log_failures(tree: SearchTree) -> None:
    """What models said that could not be used, for those who look why."""
    for node in tree.nodes:
        if node.judgement is not None and node.judgement.unscored is not None:
            log.info("%s/%s has no score: %s %s", tree.id, node.id, node.judgement.unscored, node.judgement.parts)
        for kind, why in node.failures.items():
            log.info("%s/%s: %s failed: %s", tree.id, node.id, kind, why)


def _write(directory: RunDirectory, spool: Spool, rejected_prompts: Iterable[RejectedRow], general: General,
           mixed: Iterable[Any]) -> None:
    """The files of the stage, in the order of the prompts."""
    with open_atomic(directory / "trees.jsonl") as handle:
        handle.writelines(spool.blocks(TREES))
    with open_atomic(directory / "rejected_rows.jsonl") as handle:
        handle.write(_lines(rejected_prompts))
        handle.writelines(spool.blocks(REJECTED))
        handle.write(_lines(general.rejected))
    with open_atomic(directory / "pairs.jsonl") as handle:
        handle.writelines(spool.blocks(PAIRS))
        handle.writelines(_lines([pair]) for pair in mixed)


def summary_lines(summary: BuildSummary) -> list[str]:
    """What a person is told of a finished build."""
    counts, usage = summary.counts, summary.usage
    judged = counts.scored + counts.unscored.total()
    lines = [
        f"built {counts.pairs} pairs from {summary.prompts} prompts: {counts.paths} paths, {counts.layers} layers, "
        f"{counts.candidates} candidates" + (f" (set aside: {listed(counts.set_aside)})" if counts.set_aside else ""),
        f"rejected: {listed(counts.rejected) or 'none'}; unscored judgements: {counts.unscored.total()} of {judged}"
        + (f" ({listed(counts.unscored)})" if counts.unscored else "")
        + (f"; grades invented by the released method: {counts.invented}" if counts.invented else ""),
    ]
    if counts.facts or counts.failed_extractions:
        failed = [f"{reasons.total()} {what} ({listed(reasons)})" for what, reasons in (
            ("extractions", counts.failed_extractions), ("checks", counts.failed_checks)) if reasons]
        lines.append(f"memory: {counts.facts} facts of {counts.continued} steps, {counts.vetoed} of {counts.checked} "
                     f"candidates vetoed" + (f"; failed: {', '.join(failed)}" if failed else ""))
        if counts.checked and "check" not in summary.usage_by_purpose:
            lines.append("memory: no fact was near enough to a candidate to be checked; with retrieval: embeddings "
                         "lower build.memory.similarity or build.memory.chunk_words")
    if counts.refinements:
        lines.append(f"weak steps: {counts.refinements.total()}, {listed(counts.refinements)}")
    stability = summary.stability
    if stability is not None and stability.kendall_tau is not None:
        lines.append(f"the judge's ranking under a reworded rubric: Kendall's tau {stability.kendall_tau:.2f}, the "
                     f"same best candidate in {stability.same_best:.0%} of {stability.layers} layers")
    if summary.mixed is not None:
        lines.append(str(summary.mixed))
    purposes = ", ".join(f"{purpose} {used.calls + used.cached}" for purpose, used in summary.usage_by_purpose.items())
    lines.append(f"calls: {usage.calls} made, {usage.cached} from the journal ({purposes}); {_tokens(usage)}")
    if summary.spent.calls > usage.calls:
        lines.append(f"all starts of this run: {summary.spent.calls} calls; {_tokens(summary.spent)}")
    return lines


def _tokens(usage: Usage) -> str:
    cost = "" if usage.cost is None else f", cost {usage.cost:,.4f}"
    return f"tokens: {usage.tokens_in} read, {usage.tokens_out} written{cost}"
