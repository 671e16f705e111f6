"""Answers written by a plan, as AgentWrite leaves them: kept, too short, cut off, and one without a plan."""

from collections.abc import Sequence

from lpo.records import Message, Origin, PlannedSection, Prompt, SearchNode, SearchTree


def planned(identifier: str, request: str, sections: Sequence[tuple[str, int | None, str | None]],
            target: int | None = None) -> SearchTree:
    """A single branch.

    Args:
        identifier: Of the tree.
        request: What is asked for.
        sections: Title, words planned, and the text; None for a section that was not written.
        target: Words asked for.
    """
    nodes = [SearchNode(id="0", parent=None, depth=0, text="", role="root")]
    written = [text for _, _, text in sections if text is not None]
    for depth, text in enumerate(written, start=1):
        nodes.append(SearchNode(id=f"{nodes[-1].id}.0", parent=nodes[-1].id, depth=depth, text=text,
                                ends=depth == len(sections), origin=Origin.PLANNED, tokens=60))
    return SearchTree(
        id=identifier, prompt=Prompt(id=identifier, prompt=(Message(role="user", content=request),),
                                     target_words=target),
        method="agent_write", seed=7, nodes=tuple(nodes),
        plan=tuple(PlannedSection(title=title, words=words) for title, words, _ in sections))


def without_plan(identifier: str, request: str) -> SearchTree:
    """Nothing usable came from the planner."""
    return SearchTree(
        id=identifier, prompt=Prompt(id=identifier, prompt=(Message(role="user", content=request),), target_words=900),
        method="agent_write", seed=7,
        nodes=(SearchNode(id="0", parent=None, depth=0, text="", role="root",
                          failures={"plan": "words add up to 2,400, asked for 900"}),))
