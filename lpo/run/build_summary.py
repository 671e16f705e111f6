"""What is told and stored of a finished build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lpo.records import CorrectionOutcome, Usage
from lpo.reward import RankStability
from lpo.run.build_counts import BuildCounts, listed
from lpo.run.build_mixing import Mixed


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
        method: `build.method`.
    """

    prompts: int
    counts: BuildCounts
    usage: Usage
    usage_by_purpose: dict[str, Usage]
    spent: Usage
    stability: RankStability | None
    mixed: Mixed | None
    cleaned_characters: int
    method: str = "longdpo"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        counts = self.counts.to_json()
        return {
            "method": self.method, "prompts": self.prompts, **counts,
            "judgements": {"scored": self.counts.scored, "unscored": self.counts.unscored.total(),
                           "reasons": counts["unscored"]},
            "usage": self.usage.to_json(),
            "usage_by_purpose": {purpose: usage.to_json() for purpose, usage in self.usage_by_purpose.items()},
            "spent": self.spent.to_json(),
            "stability": self.stability.__dict__ if self.stability is not None else None,
            "mixed": self.mixed.to_json() if self.mixed is not None else None,
            "cleaned_characters": self.cleaned_characters,
        }


def summary_lines(summary: BuildSummary) -> list[str]:
    """What a person is told of a finished build."""
    counts, usage = summary.counts, summary.usage
    judged = counts.scored + counts.unscored.total()
    lines = [_made(summary) + (f" (set aside: {listed(counts.set_aside)})" if counts.set_aside else ""),
             f"rejected: {listed(counts.rejected) or 'none'}"]
    if judged:
        lines[-1] += (f"; unscored judgements: {counts.unscored.total()} of {judged}"
                      + (f" ({listed(counts.unscored)})" if counts.unscored else ""))
    if counts.invented:
        lines[-1] += f"; grades invented by the released method: {counts.invented}"
    if counts.pairs:
        lines.append(f"words of a pair: chosen {counts.chosen_words / counts.pairs:.0f}, rejected "
                     f"{counts.rejected_words / counts.pairs:.0f} on average")
    lines += _correction_lines(summary)
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


def _made(summary: BuildSummary) -> str:
    """What came of it, in the method's own terms."""
    counts = summary.counts
    made = f"built {counts.pairs} pairs from {summary.prompts} prompts: "
    match summary.method:
        case "best_of_n":
            return f"{made}{counts.candidates} answers"
        case "iterdpo":
            return f"{made}{counts.candidates} answers, {counts.segments} segments of those that were corrected"
        case "agent_write":
            return f"wrote {counts.sft_rows} rows for fine-tuning from {summary.prompts} prompts: " \
                   f"{counts.candidates} sections"
        case _:
            return f"{made}{counts.paths} paths, {counts.layers} layers, {counts.candidates} candidates"


def _correction_lines(summary: BuildSummary) -> list[str]:
    counts = summary.counts
    if not counts.segments:
        return []
    tried = counts.corrections.total() - counts.corrections[CorrectionOutcome.GIVEN]
    accepted = counts.corrections[CorrectionOutcome.ACCEPTED]
    revised = sum(counts.corrections[outcome] for outcome in CorrectionOutcome if outcome.compared)
    rate = f"; accepted {accepted} of {revised} revised texts ({accepted / revised:.0%}), {tried} attempts" \
        if revised else f"; {tried} attempts, no revised text" if tried else ""
    lines = [f"segments: {counts.changed_segments} of {counts.segments} changed{rate} ({listed(counts.corrections)})"]
    if tried and not accepted:
        lines.append("warning: no correction was accepted; the pairs, if any, say nothing about correcting")
    if counts.pairs and counts.prefix_pairs == counts.pairs and summary.mixed is None:
        lines.append("warning: no pair has the full length of an answer; prefix pairs alone made the paper's model "
                     "stop early: raise build.answers.samples, or mix full-length pairs in (build.mix)")
    return lines


def _tokens(usage: Usage) -> str:
    cost = "" if usage.cost is None else f", cost {usage.cost:,.4f}"
    return f"tokens: {usage.tokens_in} read, {usage.tokens_out} written{cost}"
