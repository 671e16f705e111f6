"""Does the judge's ranking of a tree's first candidates survive another wording of its rubric?"""

from __future__ import annotations

from dataclasses import dataclass

from lpo.records import Judgement, SearchNode, SearchTree
from lpo.reward import Draft, Scorer


@dataclass(frozen=True)
class Rankings:
    """Scores of the same candidates under both wordings; None where there is none.

    Args:
        first: Under the wording that built the tree.
        second: Under the other one.
    """

    first: tuple[float | None, ...]
    second: tuple[float | None, ...]


async def rankings_of(tree: SearchTree, judge: str, reworded: Scorer) -> Rankings | None:
    """Judge a tree's first layer under the reworded rubric.

    Both rankings come from the judge alone, whatever else the reward mixes in.

    Args:
        tree: The tree.
        judge: Name of the judge whose judgements it holds.
        reworded: The same judge under the other wording.

    Returns:
        Both rankings; None when the layer has fewer than two judged candidates.
    """
    candidates = [node for node in tree.nodes if node.depth == 1 and node.judgement is not None
                  and node.refines is None]
    if len(candidates) < 2:
        return None
    judgements = await reworded.score([_draft(tree, node) for node in candidates])
    first = tuple(_own_score(node.judgement, judge) for node in candidates if node.judgement is not None)
    return Rankings(first, tuple(judgement.overall for judgement in judgements))


def _draft(tree: SearchTree, node: SearchNode) -> Draft:
    return Draft(prompt=tree.prompt, prefix="", text=node.text, complete=node.ends, required_words=None)


def _own_score(judgement: Judgement, judge: str) -> float | None:
    """The judge's own score, alone or as a part of a weighted one; an invented grade is none."""
    weighted = judgement.scorer != judge
    parts = judgement.parts.get(judge, {}) if weighted else judgement.parts
    if "invented" in parts:
        return None
    return judgement.scores.get(judge) if weighted else judgement.overall
