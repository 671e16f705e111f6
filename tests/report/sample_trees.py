"""Search trees with everything that can happen to a node: paths, facts, vetoes, refinements, rollouts, failures."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lpo.records import (
    Critique,
    Fact,
    Judgement,
    PlannedSection,
    Refinement,
    RefinementOutcome,
    Rollout,
    SearchNode,
    SearchPath,
    SearchTree,
    Veto,
)

Judge = Callable[[float, random.Random], Judgement]

LIGHT = (
    "The light beyond the breakwater was not a boat. It was a lamp on a raft, tied to a buoy, and somebody had trimmed "
    "its wick that very night. ")
WEAK = (
    "Marta looked at the light. The light was yellow. She thought about the light for a long time and then she went "
    "home because it was cold. ")
REWRITTEN = (
    "Marta looked at the light. The light was yellow, the yellow of the lamp her husband had filed a notch into so "
    "that he would know it anywhere. She went down to the ninth step and counted the flashes: three, a pause, three. ")
TWELVE = (
    "For twelve years she had come down here, and on none of those mornings had there been a light. ")
NEIGHBOUR = "Old Piet called from the quay that the fog would hold till noon, and that nothing good came out of fog. "
END = "She untied the dinghy. Whoever had lit the lamp knew the signal, and only one other person ever had."
FLAT = "She went to look. It was interesting. Then she went back. The end."
ROLLOUT = (
    "By the time the bell had counted the swell twice more she was past the breakwater.\n\nThe raft held a lamp, a tin "
    "of matches, and a handrail, newly varnished, of exactly the length that was missing on the ninth step.")
CRITIQUE = Critique(
    principle="insight", better="0.3.1", relevant="She thought about the light for a long time",
    analysis="The step says that Marta thinks and never what. The sibling lets a detail (the trimmed wick) do it.",
    suggestion="Give the light one trait that only Marta can read, and let her act upon it.", confidence=4.5, used=True)


def searched(tree: SearchTree, judge: Judge, rng: random.Random, attacks: Sequence[str]) -> SearchTree:
    """The tree as a whole search leaves it: `harbour` with all that can happen, `attack` with hostile texts everywhere.

    Args:
        tree: Layers of four siblings each, the first of which was gone on from.
        judge: Makes judgements from a quality of 0 to 1.
        rng: Draws them.
        attacks: Texts that try to become part of the page.
    """
    if tree.id.startswith("harbour"):
        return _harbour(tree, judge, rng)
    return _hostile(tree, judge, rng, attacks) if tree.id.startswith("attack") else tree


def _harbour(tree: SearchTree, judge: Judge, rng: random.Random) -> SearchTree:
    def node(identifier: str, text: str, quality: float | None, **values: Any) -> SearchNode:
        parent = identifier.rpartition(".")[0]
        return SearchNode(id=identifier, parent=parent, depth=identifier.count("."), text=text, tokens=40,
                          judgement=None if quality is None else judge(quality, rng), **values)

    facts = {"0.0": ("Marta has come down the steps every morning for thirty-one years.",
                     "The handrail is missing on the ninth step."),
             "0.3.0r": ("The lamp's light is yellow.", "Marta's husband filed a notch into his lamp.")}
    stated = {name: tuple(Fact(id=f"{name}#{number}", node=name, text=text) for number, text in enumerate(texts))
              for name, texts in facts.items()}
    twelve = Veto(fact="0.0#0", statement=facts["0.0"][0], quote="For twelve years she had come down here",
                  explanation="Twelve years are not thirty-one.")
    green = Veto(fact="0.3.0r#0", statement=facts["0.3.0r"][0], quote="a green light", explanation="")
    updates: dict[str, dict[str, Any]] = {
        "0": {"visits": 4, "value": 0.61},
        "0.0": {"visits": 2, "value": 0.66, "prior": 0.31, "mean_logprob": -0.84, "facts": stated["0.0"]},
        "0.3": {"visits": 2, "value": 0.55, "prior": 0.27, "failures": {"facts": "unparsable"}},
        "0.0.0": {"visits": 2, "value": 0.66},
        "0.0.2": {"text": TWELVE, "vetoes": (twelve,)},
        "0.0.3": {"failures": {"check": "cut"}},
        "0.0.0.0": {"visits": 1, "value": 0.7},
        "0.0.0.1": {"refinement": Refinement(outcome=RefinementOutcome.NO_CRITIQUE, failed=("insight: unparsable",))},
        "0.0.0.3": {"visits": 1, "value": 0.62},
    }
    whole = judge(0.62, rng)
    again = CRITIQUE.model_copy(update={
        "better": "0.3.2", "used": False, "confidence": 2.0, "principle": "breadth",
        "analysis": "Nobody but Marta appears.", "suggestion": "Let somebody else see the light as well.",
        "relevant": ""})
    grown = (
        node("0.3.0", WEAK, 0.2, visits=0, refinement=Refinement(
            outcome=RefinementOutcome.ACCEPTED, critiques=(CRITIQUE, again), node="0.3.0r")),
        node("0.3.1", LIGHT, 0.5, role="rejected", visits=0),
        node("0.3.2", TWELVE, 0.4, vetoes=(twelve,)),
        node("0.3.3", f"{LIGHT} ", None, note="duplicate of 0.3.1"),
        node("0.3.0r", REWRITTEN, 0.7, refines="0.3.0", role="chosen", visits=2, value=0.55, facts=stated["0.3.0r"]),
        node("0.3.0r.0", FLAT, 0.3, visits=1, value=0.41, ends=True, role="rejected", refinement=Refinement(
            outcome=RefinementOutcome.NOT_BETTER,
            critiques=(again.model_copy(update={"better": "0.3.0r.2"}),), node="0.3.0r.0r")),
        node("0.3.0r.0r", f"{FLAT} Really.", 0.2, refines="0.3.0r.0", ends=True),
        node("0.3.0r.1", NEIGHBOUR, None).model_copy(update={
            "judgement": Judgement(scorer="weighted", unscored="unparsable")}),
        node("0.3.0r.2", END, 0.85, ends=True, role="chosen", visits=1, value=0.69),
        node("0.3.0r.3", "Out of the fog came a green light, steady, for twelve years or more.", 0.45,
             vetoes=(green, twelve)),
    )
    return _with(tree, updates, grown, paths=(
        SearchPath(nodes=("0", "0.0", "0.0.0", "0.0.0.0"), value=0.7),
        SearchPath(nodes=("0", "0.3", "0.3.0r", "0.3.0r.0"), value=0.41),
        SearchPath(nodes=("0", "0.0", "0.0.0", "0.0.0.3"), value=whole.overall, rollout=Rollout(
            text=ROLLOUT, ends=True, judgement=whole)),
        SearchPath(nodes=("0", "0.3", "0.3.0r", "0.3.0r.2"), value=None, rollout=Rollout(
            text="", ends=False, judgement=Judgement(scorer="weighted", unscored="empty"))),
    ), plan=(PlannedSection(title="The steps", words=120),
             PlannedSection(title="A light beyond the breakwater", words=180), PlannedSection(title="Going out")))


def _hostile(tree: SearchTree, judge: Judge, rng: random.Random, attacks: Sequence[str]) -> SearchTree:
    stated = tuple(Fact(id=f"0.0#{number}", node="0.0", text=text) for number, text in enumerate(attacks))
    text = "\n".join(attacks)
    rewritten = SearchNode(id="0.0.1r", parent="0.0", depth=2, text=text, refines="0.0.1", judgement=judge(0.2, rng))
    critique = Critique(principle=attacks[0], better="0.0.0", analysis=text, relevant=attacks[3], suggestion=attacks[1],
                        confidence=5, used=True)
    updates: dict[str, dict[str, Any]] = {
        "0": {"visits": 1}, "0.0": {"visits": 1, "value": 0.4, "facts": stated},
        "0.0.0": {"visits": 1, "value": 0.4},
        "0.0.1": {"vetoes": tuple(Veto(fact=fact.id, statement=fact.text, quote=fact.text, explanation=fact.text)
                                  for fact in stated),
                  "failures": {attacks[0]: attacks[1]},
                  "refinement": Refinement(outcome=RefinementOutcome.NOT_BETTER, critiques=(critique,), node="0.0.1r",
                                           failed=tuple(attacks))},
        "0.0.2": {"note": attacks[0]},
    }
    return _with(tree, updates, (rewritten,), paths=(
        SearchPath(nodes=("0", "0.0", "0.0.0"), value=0.4, rollout=Rollout(text=text, ends=True)),),
        plan=tuple(PlannedSection(title=attack) for attack in attacks))


def _with(tree: SearchTree, updates: Mapping[str, Mapping[str, Any]], grown: Sequence[SearchNode], *,
          paths: tuple[SearchPath, ...], plan: tuple[PlannedSection, ...]) -> SearchTree:
    nodes = [node.model_copy(update=updates.get(node.id, {})) for node in tree.nodes]
    return tree.model_copy(update={"nodes": (*nodes, *grown), "paths": paths, "plan": plan})
