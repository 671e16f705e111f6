"""Which pair does a layer of siblings give? Pure: pairs can be derived from a stored tree again, by another rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lpo.records import Judgement, Reason, SearchNode


@dataclass(frozen=True)
class LayerPair:
    """The pair of a layer.

    Args:
        chosen: Its best-scored candidate.
        rejected: A sibling that scores lower.
        margin: By how much, on the scorer's scale.
    """

    chosen: SearchNode
    rejected: SearchNode
    margin: float


@dataclass(frozen=True)
class NoPair:
    """A layer that gives no pair.

    Args:
        reason: Why.
        detail: In words.
    """

    reason: Reason
    detail: str


def normalised(text: str) -> str:
    """A text for comparison: every run of white space is one space, none at the ends."""
    return " ".join(text.split())


def set_aside(nodes: Sequence[SearchNode]) -> list[SearchNode]:
    """Put a note on every candidate that is empty or equals an earlier one, up to white space."""
    seen: dict[str, str] = {}
    noted: list[SearchNode] = []
    for node in nodes:
        key = normalised(node.text)
        if node.note is None and not key:
            node = node.model_copy(update={"note": Reason.EMPTY.value})
        elif node.note is None and key in seen:
            node = node.model_copy(update={"note": f"duplicate of {seen[key]}"})
        elif node.note is None:
            seen[key] = node.id
        noted.append(node)
    return noted


def live(nodes: Sequence[SearchNode]) -> list[SearchNode]:
    """The candidates that were not set aside."""
    return [node for node in nodes if node.note is None]


def best_scored(nodes: Sequence[SearchNode]) -> SearchNode | None:
    """The live candidate with the highest score, the first of equals; None if none is scored."""
    ranked = _scored(live(nodes))
    return max(ranked, key=_score) if ranked else None


def choose_pair(
    nodes: Sequence[SearchNode], *, rule: Literal["random", "worst"], min_margin: float, seed: int
) -> LayerPair | NoPair:
    """The pair of a layer: the best-scored candidate against a sibling at least `min_margin` below it.

    `random` draws uniformly among all such siblings (LongDPO draws among all siblings, ties included); `worst` takes
    the lowest-scored. Of equal scores the first in the layer counts.

    Args:
        nodes: The layer's candidates, judged.
        rule: Which sibling is rejected.
        min_margin: Above 0, so that a tie is never a pair.
        seed: Of this draw alone.
    """
    nodes = set_aside(nodes)
    candidates = live(nodes)
    if len(candidates) < 2:
        return _too_few(nodes, candidates)
    ranked = _scored(candidates)
    if len(ranked) < 2:
        return NoPair(Reason.UNSCORED, f"{len(ranked)} of {len(candidates)} candidates have a score: "
                      + ", ".join(sorted({_judged(node).unscored or "" for node in candidates} - {""})))
    chosen = max(ranked, key=_score)
    rivals = [node for node in ranked if node is not chosen and _score(chosen) - _score(node) >= min_margin]
    if not rivals:
        widest = _score(chosen) - min(_score(node) for node in ranked)
        if widest == 0:
            return NoPair(Reason.TIE, f"all {len(ranked)} candidates score {_score(chosen):.4g}")
        return NoPair(Reason.SMALL_MARGIN, f"the widest margin is {widest:.4g}, below {min_margin:g}")
    rejected = min(rivals, key=_score) if rule == "worst" else rivals[seed % len(rivals)]
    return LayerPair(chosen, rejected, _score(chosen) - _score(rejected))


def _too_few(nodes: Sequence[SearchNode], candidates: Sequence[SearchNode]) -> NoPair:
    notes = [node.note for node in nodes if node.note is not None]
    detail = f"{len(candidates)} of {len(nodes)} candidates left: " + "; ".join(sorted(set(notes)))
    if notes and not candidates:
        rejected = all(note.startswith(Reason.REQUEST_REJECTED) for note in notes)
        return NoPair(Reason.REQUEST_REJECTED if rejected else Reason.EMPTY, detail)
    if notes and all(note.startswith("duplicate of ") for note in notes):
        return NoPair(Reason.EQUAL_TEXTS, detail)
    return NoPair(Reason.TOO_FEW_CANDIDATES, detail)


def _scored(nodes: Sequence[SearchNode]) -> list[SearchNode]:
    return [node for node in nodes if node.judgement is not None and node.judgement.overall is not None]


def _judged(node: SearchNode) -> Judgement:
    return node.judgement or Judgement(scorer="none", unscored="not judged")


def _score(node: SearchNode) -> float:
    score = _judged(node).overall
    assert score is not None, "only scored candidates are compared"
    return score
