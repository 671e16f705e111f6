"""Search trees for tests of pairs: written by hand, and drawn at random."""

from typing import Any

from hypothesis import strategies as st

from lpo.records import (
    Judgement,
    Message,
    Prompt,
    Refinement,
    RefinementOutcome,
    SearchNode,
    SearchTree,
    Veto,
)

PROMPT = Prompt(id="p", prompt=(Message(role="user", content="Write."),))
ROOT = SearchNode(id="0", parent=None, depth=0, text="", role="root")


def veto(fact: str = "0.0#1") -> tuple[Veto, ...]:
    return (Veto(fact=fact, statement="The ship is red.", quote="blue"),)


def node(node_id: str, score: float | str | None = None, text: str | None = None, **more: Any) -> SearchNode:
    """A node by its id; its score, why it has none, or None when it was not judged."""
    judgement = None
    if isinstance(score, str):
        judgement = Judgement(scorer="s", unscored=score)
    elif score is not None:
        judgement = Judgement(scorer="s", overall=score)
    parent = node_id.rpartition(".")[0]
    return SearchNode(id=node_id, parent=parent, depth=node_id.count("."), text=f" step {node_id}." if text is None
                      else text, judgement=judgement, **more)


def refined(outcome: RefinementOutcome, by: str | None = None) -> Refinement:
    return Refinement(outcome=outcome, node=by)


def tree(*nodes: SearchNode, method: str = "longdpo", seed: int = 0, tree_id: str = "p") -> SearchTree:
    return SearchTree(id=tree_id, prompt=PROMPT, method=method, seed=seed, nodes=(ROOT, *nodes))


def layer(*scores: float | str | None) -> SearchTree:
    """A tree of one layer."""
    return tree(*(node(f"0.{index}", score) for index, score in enumerate(scores)))


SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.505, 1.0]), st.just("cut"), st.none())
TEXTS = st.sampled_from(["", " \n", "one", "one ", " one", "two", "three", "four", "five", "two\nlines", "two lines"])


@st.composite
def nodes_of_a_layer(draw: st.DrawFn, parent: str) -> list[SearchNode]:
    nodes = []
    for index in range(draw(st.integers(1, 5))):
        score = draw(SCORES)
        visits = draw(st.integers(0, 3))
        value = draw(st.none() | st.floats(0, 1)) if visits else None
        note = draw(st.sampled_from([None, None, None, None, "refused", "request_rejected: too long"]))
        nodes.append(node(
            f"{parent}.{index}", None if note else score, draw(TEXTS), visits=visits, value=value, note=note,
            ends=draw(st.booleans()), vetoes=veto() if draw(st.integers(0, 2)) == 0 else (),
        ))
    if draw(st.integers(0, 2)) == 0:
        weak = draw(st.sampled_from(nodes))
        accepted = draw(st.booleans())
        outcome = RefinementOutcome.ACCEPTED if accepted else RefinementOutcome.NOT_BETTER
        nodes[nodes.index(weak)] = weak.model_copy(update={"refinement": refined(outcome, f"{weak.id}r")})
        nodes.append(node(f"{weak.id}r", draw(SCORES), "anew", refines=weak.id, visits=int(accepted),
                          note=None if accepted else "rewritten, not_better"))
    return nodes


@st.composite
def trees(draw: st.DrawFn) -> SearchTree:
    """Any tree of up to three layers a branch."""
    nodes, frontier = [], ["0"]
    while frontier:
        parent = frontier.pop(0)
        layer_nodes = draw(nodes_of_a_layer(parent))
        nodes += layer_nodes
        if parent.count(".") < 2:
            frontier += [one.id for one in layer_nodes if draw(st.integers(0, 3)) == 0]
    return tree(*nodes, seed=draw(st.integers(0, 2**31)))
