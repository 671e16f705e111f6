"""What the section on search trees shows: counts over all of them, and some of them whole, for the page to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lpo.records import Critique, Judgement, Refinement, RefinementOutcome, SearchNode, SearchPath, SearchTree
from lpo.report.data import RunData
from lpo.report.entries import (
    REQUEST_CHARACTERS,
    beginning,
    cut_end,
    judged,
    request_of,
    rounded,
    scales,
)
from lpo.report.fitting import fitting
from lpo.report.story import Count, plural
from lpo.report.tree_counts import DUPLICATE, TreeCounts
from lpo.report.tree_layout import lay_out
from lpo.report.wording import compare
from lpo.words import count_words

TREE_BYTES = 1_150_000
"""Room for trees on the page."""

OUTCOMES: Mapping[RefinementOutcome, str] = {
    RefinementOutcome.ACCEPTED: "accepted: the search goes on from the rewritten step",
    RefinementOutcome.NOT_BETTER: "not accepted: the rewritten step scores no better",
    RefinementOutcome.UNSCORED: "not accepted: the rewritten step got no score",
    RefinementOutcome.VETOED: "not accepted: the rewritten step contradicts a fact",
    RefinementOutcome.EQUAL: "not accepted: the rewritten step is empty or equals a candidate that was there already",
    RefinementOutcome.REQUEST_REJECTED: "the server refused the request to write the step anew",
    RefinementOutcome.NO_BETTER_SIBLING: "no sibling is better by any principle, so the critic had nothing to show",
    RefinementOutcome.NO_CRITIQUE: "the critic gave no usable reply",
}


@dataclass(frozen=True)
class TreeSection:
    """Everything the section on search trees shows."""

    total: int
    left_out: int
    counts: tuple[Count, ...]
    outcomes: tuple[tuple[str, str], ...]
    """Refinements by outcome: how many, and what it means."""
    entries: tuple[dict[str, Any], ...]
    """The trees as JSON values, for the drawing."""
    options: tuple[tuple[int, str], ...]
    """Number of each of these trees in the file, and the beginning of its request."""
    scales: Mapping[str, tuple[float, float]]
    text_limit: int
    """Characters of a step's text that are on the page at most."""


def tree_section(run: RunData, share: float = 1.0) -> TreeSection | None:
    """The section on search trees, or None when there is none.

    Args:
        run: The run.
        share: Of the room that trees usually have.
    """
    if not run.trees:
        return None
    entries, limit = fitting(run.trees, tree_entry, round(TREE_BYTES * share))
    counts = run.trees.counts
    return TreeSection(
        total=len(run.trees), left_out=len(run.trees) - len(entries), counts=tuple(_counted(counts)),
        outcomes=tuple((f"{count:,}", OUTCOMES[outcome]) for outcome, count in counts.refinements.most_common()),
        text_limit=limit, **_browser(entries),
    )


def with_trees(section: TreeSection, entries: Sequence[dict[str, Any]]) -> TreeSection:
    """The section with other trees to look at."""
    return replace(section, **_browser(entries))


def _browser(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"entries": tuple(entries),
            "options": tuple((entry["number"], beginning(entry["request"])) for entry in entries),
            "scales": scales(node["judged"] for entry in entries for node in entry["nodes"] if "judged" in node)}


def _counted(counts: TreeCounts) -> Iterator[Count]:
    yield Count(f"{counts.trees:,}", "trees", plural(counts.paths, "path") if counts.paths else "")
    yield Count(f"{counts.layers:,}", "layers", "sets of siblings")
    yield Count(f"{counts.candidates:,}", "candidates")
    yield Count(f"{counts.vetoed:,}", "vetoed",
                f"against {plural(counts.facts, 'extracted fact')}" if counts.facts else "")
    yield Count(f"{counts.refinements[RefinementOutcome.ACCEPTED]:,}", "refined", _tried(counts))
    others = counts.set_aside.total() - counts.set_aside[DUPLICATE]
    yield Count(f"{counts.set_aside[DUPLICATE]:,}", "duplicates",
                f"{others:,} set aside for other reasons" if others else "")
    yield Count(f"{counts.unscored:,}", "unscored",
                f"and {counts.unscored_rollouts:,} of {counts.rollouts:,} rollouts" if counts.unscored_rollouts else "")
    yield Count(f"{counts.failures['check']:,}", "failed checks",
                f"and {plural(counts.failures['facts'], 'extraction')} of facts" if counts.failures["facts"] else "")


def _tried(counts: TreeCounts) -> str:
    tried = counts.refinements
    if not tried.total():
        return "no step was tried"
    shown = {RefinementOutcome.NOT_BETTER: "not better", RefinementOutcome.NO_CRITIQUE: "no critique"}
    rest = tried.total() - sum(tried[outcome] for outcome in (RefinementOutcome.ACCEPTED, *shown))
    parts = [f"{tried[outcome]:,} {name}" for outcome, name in shown.items()] + ([f"{rest:,} other"] if rest else [])
    return f"of {tried.total():,} tried: {', '.join(parts)}"


def tree_entry(tree: SearchTree, number: int, limit: int) -> dict[str, Any] | None:
    """A tree as JSON values; nodes are named by their place in the list, those that are not in the tree by None.

    Args:
        tree: Of the run; None comes of one without a node.
        number: Of the tree in the run, from 1.
        limit: Characters of a text that are kept.
    """
    if not tree.nodes:
        return None
    nodes = _ordered(tree.nodes)
    index = {node.id: place for place, node in enumerate(nodes)}
    places = lay_out({node.id: node.parent for node in nodes})
    request, request_cut = cut_end(request_of(tree.prompt.prompt), REQUEST_CHARACTERS)
    return {
        "number": number, "id": tree.id, "method": tree.method, "seed": tree.seed, "request": request,
        "request_cut": request_cut, "target": tree.prompt.target_words,
        "plan": [[section.title, section.words] for section in tree.plan],
        "nodes": [_node(node, index, limit) | {"layer": places[node.id].layer, "row": places[node.id].row}
                  for node in nodes],
        "refined": [[index[original.id], index[rewritten.id], *_marks(original, rewritten, limit)]
                    for rewritten in nodes for original in nodes if original.id == rewritten.refines],
        "paths": [_path(path, index, limit) for path in tree.paths],
    }


def _ordered(nodes: Sequence[SearchNode]) -> list[SearchNode]:
    """Parents before children, and every rewritten step right below the one it was made from."""
    rewritten: dict[str, list[SearchNode]] = {}
    known = {node.id for node in nodes}
    for node in nodes:
        if node.refines in known:
            rewritten.setdefault(str(node.refines), []).append(node)
    ordered: list[SearchNode] = []
    waiting = [node for node in sorted(nodes, key=lambda node: node.depth)[::-1] if node.refines not in known]
    while waiting:
        node = waiting.pop()
        ordered.append(node)
        waiting += reversed(rewritten.get(node.id, []))
    return ordered


def _node(node: SearchNode, index: Mapping[str, int], limit: int) -> dict[str, Any]:
    text, cut = cut_end(node.text, limit)
    judgement = node.judgement
    values: dict[str, Any] = {
        "id": node.id, "parent": index.get(node.parent or ""), "text": text, "cut": cut,
        "words": count_words(node.text), "role": node.role, "ends": node.ends, "tokens": node.tokens,
        "logprob": rounded(node.mean_logprob),
        "prior": rounded(node.prior), "visits": node.visits, "value": rounded(node.value),
        "judged": None if judgement is None else judged(judgement),
        "unscored": None if judgement is None else judgement.unscored,
        "facts": [[fact.id, fact.text] for fact in node.facts],
        "vetoes": [{"fact": veto.fact, "from": index.get(veto.fact.partition("#")[0]), "statement": veto.statement,
                    "quote": veto.quote, "explanation": veto.explanation} for veto in node.vetoes],
        "failures": node.failures, "note": node.note, "refines": index.get(node.refines or ""),
        "refinement": None if node.refinement is None else _refinement(node.refinement, index),
    }
    return {name: value for name, value in values.items() if value or type(value) in (int, float)}


def _refinement(refinement: Refinement, index: Mapping[str, int]) -> dict[str, Any]:
    return {"outcome": refinement.outcome.value, "meaning": OUTCOMES[refinement.outcome],
            "node": index.get(refinement.node or ""), "failed": refinement.failed,
            "critiques": [_critique(critique, index) for critique in refinement.critiques]}


def _critique(critique: Critique, index: Mapping[str, int]) -> dict[str, Any]:
    return critique.to_json() | {"better": index.get(critique.better)}


def _marks(original: SearchNode, rewritten: SearchNode, limit: int) -> list[list[int]]:
    """Both texts cut into alternating parts (differing, shared, differing, ...): lengths in UTF-16 units, which are
    what the page's script counts in.
    """
    marked = compare(original.text[:limit], rewritten.text[:limit])
    return [[len(part.encode("utf-16-le")) // 2 for part in parts] for parts in (marked.chosen, marked.rejected)]


def _path(path: SearchPath, index: Mapping[str, int], limit: int) -> dict[str, Any]:
    values: dict[str, Any] = {"nodes": [index[node] for node in path.nodes if node in index],
                              "value": rounded(path.value)}
    if path.rollout is not None:
        text, cut = cut_end(path.rollout.text, limit)
        values["rollout"] = {"text": text, "cut": cut, "words": count_words(path.rollout.text),
                             "ends": path.rollout.ends, **_overall(path.rollout.judgement)}
    return values


def _overall(judgement: Judgement | None) -> dict[str, Any]:
    if judgement is None:
        return {"score": None, "unscored": "not judged"}
    return {"score": rounded(judgement.overall), "unscored": judgement.unscored}
