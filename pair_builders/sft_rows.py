"""Rows for supervised fine-tuning from answers that were written by a plan: pure, as pairs are."""

from __future__ import annotations

from typing import Any

from lpo.build_config import BuildConfig
from lpo.pair_builders.pairs import Derived
from lpo.pair_builders.requested_length import LengthAsked, length_asked
from lpo.records import Dialogue, Message, Reason, RejectedRow, SearchNode, SearchTree, SftRow
from lpo.reward import length_score
from lpo.words import count_words


def sft_rows(tree: SearchTree, build: BuildConfig) -> Derived:
    """The row of a planned answer, or why there is none.

    Minimum Tuning's filter (arXiv 2410.10210): the prompt asks for a length (`agent_write.explicit_length`), and the
    answer comes near it (`agent_write.min_length_score`). The length is the prompt's `target_words`; where it brings
    none, the one that its own words state.

    Args:
        tree: What AgentWrite made.
        build: The `build` section.

    Returns:
        One row or one rejected row, named like the tree; the sections of a row that is kept are `chosen`.
    """
    asked = length_asked(tree.prompt)
    sections = [node for node in tree.nodes if node.parent is not None]
    answer = "".join(node.text for node in sections)
    words = count_words(answer)
    score = length_score(required=asked.words, written=words) if asked.words is not None else None
    rejected = _missing(tree, sections, asked, build)
    if rejected is None and score is not None and score < build.agent_write.min_length_score:
        rejected = Reason.OFF_LENGTH, f"{words} words for {asked.words}: S_l {score:.1f}{_other(asked)}"
    if rejected is not None:
        reason, detail = rejected
        row = RejectedRow(stage="build", id=tree.id, reason=reason, detail=detail)
        return Derived(_with_roles(tree, "unused"), (), (row,))
    row = SftRow(
        id=tree.id, messages=(*_messages(tree.prompt.dialogue), Message(role="assistant", content=answer)),
        target_words=asked.words, words=words, length_score=score, method=tree.method,
        provenance=_provenance(tree, sections, asked),
    )
    return Derived(_with_roles(tree, "chosen"), (), (), (row,))


def _missing(tree: SearchTree, sections: list[SearchNode], asked: LengthAsked,
             build: BuildConfig) -> tuple[Reason, str] | None:
    """Why there is no whole answer, if there is none."""
    if asked.words is None and build.agent_write.explicit_length:
        return Reason.NO_LENGTH, "neither target_words nor one length in its words"
    root = tree.nodes[0]
    if "plan" in root.failures:
        return Reason.NO_PLAN, root.failures["plan"]
    if root.note is not None:
        return Reason(root.note), "it was not written: build.agent_write.explicit_length was set"
    for node in sections:
        if not node.text.strip():
            why = node.failures.get("section", Reason.EMPTY.value)
            return Reason.INCOMPLETE, f"section {node.depth} of {len(tree.plan)}: {why}"
    if not sections or len(sections) < len(tree.plan):
        return Reason.INCOMPLETE, f"{len(sections)} of {len(tree.plan)} sections"
    return None


def _other(asked: LengthAsked) -> str:
    return f"; the prompt's own words say {asked.stated}" if asked.differs else ""


def _provenance(tree: SearchTree, sections: list[SearchNode], asked: LengthAsked) -> dict[str, Any]:
    """What the row was made from; sections count from 1."""
    provenance: dict[str, Any] = {
        "tree": tree.id, "seed": tree.seed, "plan": [section.to_json() for section in tree.plan],
        "section_words": [count_words(node.text) for node in sections],
    }
    cut = [node.depth for node in sections if "end" in node.failures]
    if cut:
        provenance["cut_sections"] = cut
    if asked.differs:
        provenance["stated_words"] = asked.stated
    return provenance


def _messages(prompt: Dialogue) -> tuple[Message, ...]:
    return (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt


def _with_roles(tree: SearchTree, role: str) -> SearchTree:
    nodes = tuple(node.model_copy(update={"role": "root" if node.parent is None else role}) for node in tree.nodes)
    return tree.model_copy(update={"nodes": nodes})
