"""The build stage: prompts become trees, and these pairs or rows for supervised fine-tuning.

Trees are built side by side and put on disk as they finish; the files are written in the order of the prompts at the
end. What was asked of a model is in the journal: a build that was stopped is simply run again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lpo.config import RunConfig
from lpo.errors import NothingLeftError
from lpo.llm.side_by_side import side_by_side
from lpo.pair_builders.agent_write import check_given_plan
from lpo.pair_builders.corrections_file import load_corrections
from lpo.pair_builders.create import create_builder
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.mixing import General
from lpo.pair_builders.pairs import Derived
from lpo.pair_builders.plan import given_plan
from lpo.prompts import PromptSet
from lpo.records import PreferencePair, Prompt, RejectedRow, SearchTree
from lpo.reward import RankStability, rank_stability
from lpo.run.build_counts import ENOUGH, BuildCounts, check_failures, count_rejected, count_rows, count_tree, listed
from lpo.run.build_mixing import mixed_in, usable_general
from lpo.run.build_models import BuildStageModels, open_models
from lpo.run.build_progress import BuildProgress
from lpo.run.build_spool import Spool
from lpo.run.build_stability import Rankings, rankings_of
from lpo.run.build_summary import BuildSummary, summary_lines
from lpo.run.directory import RunDirectory
from lpo.run.models import Models
from lpo.run.progress import Reporter
from lpo.storage import json_line, open_atomic, write_json

TREES, PAIRS, REJECTED, SFT = range(4)
"""The blocks that a prompt has in the spool."""

log = logging.getLogger("lpo.run.building")


async def build(config: RunConfig, prompts: PromptSet, directory: RunDirectory, models: Models,
                reporter: Reporter) -> BuildSummary:
    """Build pairs from every prompt and write trees, pairs, rejected rows and counts.

    Raises:
        NothingLeftError: No pair was left; the reasons are listed.
        UnsoundError: Too many judgements have no score, or checks no verdict.
        NotCalledError: The user stopped the build, or its budget is spent.
    """
    _check_plans(config, prompts.build)
    _check_corrections(config, prompts.build, reporter)
    general = usable_general(config, prompts.held_out)
    stage_models = open_models(config, models)
    with closing(stage_models), Spool(directory.path, len(prompts.build), kinds=4) as spool:
        work = _Work(config, stage_models, spool)
        await work.build_all(prompts.build, models, reporter)
        check_failures(work.counts, config.build.max_unscored)
        counts = work.counts
        counts += count_rejected((*prompts.rejected, *general.rejected))
        mixed = mixed_in(config, general, counts.pairs)
        summary = BuildSummary(
            prompts=len(prompts.build), counts=counts, usage=models.usage(),
            usage_by_purpose=models.usage_by_purpose(), spent=models.spent(), stability=work.stability(),
            mixed=mixed.counts if mixed is not None else None, cleaned_characters=prompts.cleaned,
            method=config.build.method,
        )
        _write_shared(directory, spool, prompts.rejected, general)
        if config.build.gives_pairs:
            _write_rows(directory / "pairs.jsonl", spool.blocks(PAIRS), mixed.pairs if mixed is not None else ())
        else:
            _write_rows(directory / "sft.jsonl", spool.blocks(SFT))
    write_json(directory / "build.json", summary.to_json())
    for line in summary_lines(summary):
        reporter.say(line)
    _check_something_is_left(config, counts)
    return summary


def _check_something_is_left(config: RunConfig, counts: BuildCounts) -> None:
    if counts.pairs or counts.sft_rows:
        return
    build = config.build
    loosen = {
        "best_of_n": "lower build.pairs.min_margin or raise build.answers.samples",
        "iterdpo": "look at the critiques in trees.jsonl, and use a stronger judge or corrector",
        "agent_write": "look at the plans in trees.jsonl; loosen build.agent_write.tolerance or min_length_score",
    }.get(build.method, "lower build.pairs.min_margin or raise build.branching")
    raise NothingLeftError(f"no {'pair' if build.gives_pairs else 'row'} was built: "
                           f"{listed(counts.rejected) or 'nothing came in'}",
                           mend=f"rejected_rows.jsonl says why for each row; {loosen}")


def _check_plans(config: RunConfig, prompts: Sequence[Prompt]) -> None:
    """Read the plans that prompts bring along before anything is paid for.

    Raises:
        DataError: One of them cannot be used.
    """
    build = config.build
    for prompt in prompts:
        if build.method == "agent_write":
            check_given_plan(prompt, build.agent_write)
        elif build.writes_plans:
            given_plan(prompt, max_sections=build.depth)


def _check_corrections(config: RunConfig, prompts: Sequence[Prompt], reporter: Reporter) -> None:
    """Read the corrections that were made elsewhere before anything is paid for, and say which of them are of no use.

    Raises:
        DataError: The file, or one of its lines, cannot be used.
    """
    build = config.build
    if build.method != "iterdpo" or build.correction.by != "file" or build.correction.file is None:
        return
    unmatched = load_corrections(Path(build.correction.file), build.segments).unmatched(prompts)
    if unmatched:
        reporter.say(f"warning: {len(unmatched)} corrections belong to none of the prompts, first: {unmatched[0]}")


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
        self.counts += count_rows(derived)
        self._spool.put(index, (_lines([derived.tree]), _lines(derived.pairs), _lines(derived.rejected),
                                _lines(derived.sft)))
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
    for number, segment in enumerate(tree.script.segments if tree.script is not None else (), start=1):
        for correction in segment.corrections:
            if correction.failed is not None:
                log.info("%s, segment %d, %s: %s", tree.id, number, correction.outcome, correction.failed)


def _write_shared(directory: RunDirectory, spool: Spool, rejected_prompts: Iterable[RejectedRow],
                  general: General) -> None:
    """The files that every method writes, in the order of the prompts."""
    with open_atomic(directory / "trees.jsonl") as handle:
        handle.writelines(spool.blocks(TREES))
    with open_atomic(directory / "rejected_rows.jsonl") as handle:
        handle.write(_lines(rejected_prompts))
        handle.writelines(spool.blocks(REJECTED))
        handle.write(_lines(general.rejected))


def _write_rows(path: Path, blocks: Iterable[bytes], more: Iterable[PreferencePair] = ()) -> None:
    """What the method makes, in the order of the prompts, and what was mixed in."""
    with open_atomic(path) as handle:
        handle.writelines(blocks)
        handle.writelines(_lines([pair]) for pair in more)
