"""What the sections on planned answers and on the rows made of them show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lpo.records import PlannedSection, RejectedRow, SearchNode, SearchTree
from lpo.report.data import FineTuningRow, RunData
from lpo.report.entries import REQUEST_CHARACTERS, cut_end, request_of
from lpo.report.fitting import Entry, fitting
from lpo.report.pairs import RejectedReason, rejected_reasons
from lpo.report.scores import points
from lpo.report.story import Count, plural
from lpo.words import count_words

PLAN_BYTES = 1_500_000
"""Room for planned answers on the page."""


@dataclass(frozen=True)
class PlanSection:
    """Everything the section on planned answers shows."""

    total: int
    left_out: int
    entries: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class RowSection:
    """Everything the section on rows for supervised fine-tuning shows."""

    total: int
    counts: tuple[Count, ...]
    rejected: tuple[RejectedReason, ...]
    rejected_total: int


def row_section(run: RunData) -> RowSection | None:
    """The section on rows, or None before the build."""
    if run.build is None and not run.sft:
        return None
    counts = Counter(run.build.rejected if run.build else (row.reason.value for row in run.rejected))
    return RowSection(total=len(run.sft), counts=tuple(_counted(run)), rejected=rejected_reasons(counts, run.rejected),
                      rejected_total=counts.total())


def _counted(run: RunData) -> Iterator[Count]:
    words = [row.words for row in run.sft]
    scores = [row.length_score for row in run.sft if row.length_score is not None]
    yield Count(f"{len(words):,}", "rows" if len(words) != 1 else "row", f"of {plural(len(run.trees), 'answer')}")
    if words:
        yield Count(f"{sum(words):,}", "words", f"{sum(words) / len(words):,.0f} per row, at most {max(words):,}")
    if scores:
        yield Count(points(sum(scores) / len(scores)), "mean length score",
                    f"of {plural(len(scores), 'row')} with a length asked for; the lowest {points(min(scores))}")


def plan_section(run: RunData, share: float = 1.0) -> PlanSection | None:
    """The section on planned answers, or None when there are none.

    Args:
        run: The run.
        share: Of the room that plans usually have.
    """
    if not run.trees:
        return None
    entries, _ = fitting(run.trees, plan_entry_of(run), round(PLAN_BYTES * share))
    return PlanSection(len(run.trees), len(run.trees) - len(entries), tuple(entries))


def plan_entry_of(run: RunData) -> Entry:
    """What makes a planned answer's values, with what became of it in this run."""
    rows = {row.id: row for row in run.sft}
    dropped = {row.id: row for row in reversed(run.rejected) if row.stage == "build"}

    def entry(tree: SearchTree, number: int, limit: int) -> dict[str, Any]:
        row = rows.get(tree.id)
        stated = row.target_words if row is not None else None
        return plan_entry(tree, number, limit, stated) | _verdict(row, dropped.get(tree.id))

    return entry


def plan_entry(tree: SearchTree, number: int, limit: int, stated: int | None = None) -> dict[str, Any]:
    """A planned answer as plain values: each section with the words it was to have and those written.

    Args:
        tree: A single branch, a node for each section of the plan.
        number: Of the tree in the run, from 1.
        limit: Characters of a section's text that are kept.
        stated: The length that the prompt's own words ask for, where it brings none.
    """
    request, request_cut = cut_end(request_of(tree.prompt.prompt), REQUEST_CHARACTERS)
    written = {node.depth: node for node in tree.nodes if node.parent is not None}
    depth = max(len(tree.plan), *written, 0) if written else len(tree.plan)
    asked = words_asked(tree.plan, tree.prompt.target_words or stated)
    sections = [_section(tree, place, asked.get(place), written.get(place), limit) for place in range(1, depth + 1)]
    root = next((node for node in tree.nodes if node.parent is None), None)
    return {
        "number": number, "id": tree.id, "request": request, "request_cut": request_cut,
        "target": tree.prompt.target_words or stated, "words": sum(section["words"] for section in sections),
        "planned": sum(section.words or 0 for section in tree.plan), "sections": sections,
        "widest": max([1, *(max(section["words"], section["planned"] or 0) for section in sections)]),
        "failed": root.failures.get("plan") if root is not None else None,
    }


def words_asked(plan: Sequence[PlannedSection], target: int | None) -> dict[int, int]:
    """The words that each section was asked for, by its number from 1: the plan's, scaled so that they add up to the
    length of the whole where there is one. A section without words counts as the mean of the others.
    """
    known = [section.words for section in plan if section.words is not None]
    if target is None:
        return {place: section.words for place, section in enumerate(plan, start=1) if section.words is not None}
    mean = sum(known) / len(known) if known else 1.0
    weights = [section.words or mean for section in plan]
    ends = [max(1, round(target * sum(weights[:end]) / sum(weights))) for end in range(1, len(plan) + 1)]
    return {place: end - start for place, (start, end) in enumerate(zip([0, *ends], ends, strict=False), start=1)}


def _section(tree: SearchTree, place: int, asked: int | None, node: SearchNode | None, limit: int) -> dict[str, Any]:
    plan = tree.plan[place - 1] if place <= len(tree.plan) else None
    text, cut = cut_end(node.text if node is not None else "", limit)
    return {
        "number": place, "title": plan.title if plan is not None else "", "planned": asked,
        "words": count_words(node.text) if node is not None else 0, "text": text, "cut": cut,
        "note": _note(node),
    }


def _note(node: SearchNode | None) -> str | None:
    if node is None:
        return "not written"
    if "section" in node.failures:
        return f"not written: {node.failures['section']}"
    return "cut at a sentence end" if "end" in node.failures else node.note


def _verdict(row: FineTuningRow | None, dropped: RejectedRow | None) -> dict[str, Any]:
    """Was the answer kept, and if not, why?"""
    score = row.length_score if row is not None else None
    return {
        "kept": row is not None, "reason": dropped.reason.value if dropped is not None else None,
        "detail": cut_end(dropped.detail, 300)[0] if dropped is not None else "",
        "length_score": points(score) if score is not None else None,
    }
