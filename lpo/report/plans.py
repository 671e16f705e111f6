"""What the sections on planned answers and on the rows made of them show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lpo.records import RejectedRow, SearchNode, SearchTree
from lpo.report.data import FineTuningRow, RunData
from lpo.report.entries import REQUEST_CHARACTERS, cut_end, request_of
from lpo.report.fitting import fitting
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


def plan_section(run: RunData) -> PlanSection | None:
    """The section on planned answers, or None when there are none."""
    if not run.trees:
        return None
    rows = {row.id: row for row in run.sft}
    dropped = {row.id: row for row in reversed(run.rejected) if row.stage == "build"}

    def entry(tree: SearchTree, number: int, limit: int) -> dict[str, Any]:
        return plan_entry(tree, number, limit) | _verdict(tree, rows, dropped)

    entries, _ = fitting(run.trees, entry, PLAN_BYTES)
    return PlanSection(len(run.trees), len(run.trees) - len(entries), tuple(entries))


def plan_entry(tree: SearchTree, number: int, limit: int) -> dict[str, Any]:
    """A planned answer as plain values: each section with the words planned and written.

    Args:
        tree: A single branch, a node for each section of the plan.
        number: Of the tree in the run, from 1.
        limit: Characters of a section's text that are kept.
    """
    request, request_cut = cut_end(request_of(tree.prompt.prompt), REQUEST_CHARACTERS)
    written = {node.depth: node for node in tree.nodes if node.parent is not None}
    depth = max(len(tree.plan), *written, 0) if written else len(tree.plan)
    sections = [_section(tree, place, written.get(place), limit) for place in range(1, depth + 1)]
    root = next((node for node in tree.nodes if node.parent is None), None)
    return {
        "number": number, "id": tree.id, "request": request, "request_cut": request_cut,
        "target": tree.prompt.target_words, "words": sum(section["words"] for section in sections),
        "planned": sum(section["planned"] or 0 for section in sections), "sections": sections,
        "widest": max([1, *(max(section["words"], section["planned"] or 0) for section in sections)]),
        "failed": root.failures.get("plan") if root is not None else None,
    }


def _section(tree: SearchTree, place: int, node: SearchNode | None, limit: int) -> dict[str, Any]:
    plan = tree.plan[place - 1] if place <= len(tree.plan) else None
    text, cut = cut_end(node.text if node is not None else "", limit)
    return {
        "number": place, "title": plan.title if plan is not None else "", "planned": plan.words if plan else None,
        "words": count_words(node.text) if node is not None else 0, "text": text, "cut": cut,
        "note": _note(node),
    }


def _note(node: SearchNode | None) -> str | None:
    if node is None:
        return "not written"
    if "section" in node.failures:
        return f"not written: {node.failures['section']}"
    return "cut at a sentence end" if "end" in node.failures else node.note


def _verdict(tree: SearchTree, rows: Mapping[str, FineTuningRow], dropped: Mapping[str, RejectedRow]) -> dict[str, Any]:
    """Was the answer kept, and if not, why?"""
    row, reason = rows.get(tree.id), dropped.get(tree.id)
    score = row.length_score if row is not None else None
    stated = row.target_words if row is not None else None  # where only the prompt's words say it
    return {
        "target": tree.prompt.target_words or stated, "kept": row is not None,
        "reason": reason.reason.value if reason is not None else None,
        "detail": cut_end(reason.detail, 300)[0] if reason is not None else "",
        "length_score": points(score) if score is not None else None,
    }
