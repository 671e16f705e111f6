"""Pairs from trees: pure, so that other pairs can be derived from a stored tree without a single call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lpo.build_config import PairsConfig
from lpo.errors import DataError
from lpo.pair_builders.pair_rules import (
    AllVetoed,
    ChosenRule,
    Draw,
    LayerPair,
    NoPair,
    choose_pairs,
    choose_released,
    too_few_scored,
)
from lpo.records import (
    PairScores,
    PreferencePair,
    Reason,
    RejectedRow,
    SearchNode,
    SearchTree,
    SftRow,
    fingerprint,
)
from lpo.words import count_words

RELEASED = "longdpo_released"


@dataclass(frozen=True)
class Derived:
    """What a tree gives. Each of its layers gives pairs or one rejected row.

    Args:
        tree: The tree, the role of each node set.
        pairs: In the order of the layers.
        rejected: Layers without a pair, each with its reason.
        sft: Rows for supervised fine-tuning, of methods that make these.
    """

    tree: SearchTree
    pairs: tuple[PreferencePair, ...]
    rejected: tuple[RejectedRow, ...]
    sft: tuple[SftRow, ...] = ()


def derive_pairs(tree: SearchTree, rules: PairsConfig, all_vetoed: AllVetoed = "best_score", *,
                 min_scored: int = 0) -> Derived:
    """The pairs of a tree.

    A layer is the children of one node that was expanded. Several paths may cross a layer, or none after the one that
    expanded it: every layer counts, once (`layers: all`), or those along the most visited path (`best_path`). Its
    siblings continue the same prefix, so they are compared by their own scores, like for like. What the paths found
    further down decides which of them is *chosen* (visits or back-propagated value), and never the size of a margin.

    With `length_penalty` siblings are ranked and compared by their debiased scores, and so is the margin of a pair; its
    `scores` stay what the judge said, and its provenance holds `raw_margin` and `debiased_scores`.

    Siblings that were set aside, or replaced by a rewritten version of theirs, are on no side; the rewritten version
    stands for the original. A tie is never a pair, nor are equal texts, nor is a sibling without a score chosen.

    Args:
        tree: What a search saw.
        rules: The `build.pairs` section.
        all_vetoed: The search's `build.memory.all_vetoed`.
        min_scored: A layer of which fewer siblings have a score gives no pair.

    Returns:
        Pairs are called `<tree>/<parent>`, further ones of a layer `<tree>/<parent>#2` and so on.

    Raises:
        DataError: The tree hangs together wrongly.
    """
    path = most_visited_path(tree) if rules.layers == "best_path" else None

    def choose(parent: str, siblings: Sequence[SearchNode], draw: Draw) -> list[LayerPair] | NoPair:
        if path is not None and parent not in path:
            return NoPair(Reason.OFF_PATH, f"the most visited path ends with {path[-1]}")
        usable = _usable(siblings)
        if isinstance(usable, NoPair):
            return usable
        return too_few_scored(usable, min_scored) or choose_pairs(usable, rules, all_vetoed, draw)

    return _derived(tree, choose, method=tree.method, rule=rules.rejected)


def released_pairs(tree: SearchTree) -> Derived:
    """The pairs LongDPO's code takes: the best score against a random sibling, ties included, no margin asked for, and
    none from a layer whose best step ends the answer.

    Its one invention is left out: where only one distinct candidate is there, the code swaps words of it and rejects
    that; such a layer gives no pair here.

    Raises:
        DataError: The tree hangs together wrongly.
    """
    def choose(_parent: str, siblings: Sequence[SearchNode], draw: Draw) -> list[LayerPair] | NoPair:
        usable = _usable(siblings)
        pair = usable if isinstance(usable, NoPair) else choose_released(usable, draw)
        return pair if isinstance(pair, NoPair) else [pair]

    return _derived(tree, choose, method=RELEASED, rule="released")


def layers_of(tree: SearchTree) -> dict[str, list[SearchNode]]:
    """The children of every node that has any, by its id, in the order they were written."""
    layers: dict[str, list[SearchNode]] = {}
    for node in tree.nodes:
        if node.parent is not None:
            layers.setdefault(node.parent, []).append(node)
    return layers


def most_visited_path(tree: SearchTree) -> tuple[str, ...]:
    """From the root, always on to the child most paths went through: the answer the search ended up with.

    Returns:
        Ids, the root first.
    """
    layers = layers_of(tree)
    path = [node.id for node in tree.nodes if node.parent is None][:1]
    while path and path[-1] in layers:
        children = [node for node in layers[path[-1]] if node.visits]
        if not children:
            break
        path.append(ChosenRule.MOST_VISITED.best(children).id)
    return tuple(path)


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


Choose = Callable[[str, Sequence[SearchNode], Draw], list[LayerPair] | NoPair]
"""What a layer gives: its parent's id, its nodes, a random order."""


def _derived(tree: SearchTree, choose: Choose, *, method: str, rule: str) -> Derived:
    """Ask for every layer's pairs, and set the roles."""
    prefixes = _Prefixes(tree)
    pairs: list[PreferencePair] = []
    rejected = [RejectedRow(stage="build", id=f"{tree.id}/{node.id}", reason=Reason.NO_PLAN,
                            detail=node.failures["plan"]) for node in tree.nodes if "plan" in node.failures]
    chosen_ids: set[str] = set()
    rejected_ids: set[str] = set()
    for parent, siblings in layers_of(tree).items():

        def draw(node: SearchNode, parent: str = parent) -> str:
            return fingerprint([tree.seed, tree.id, parent, node.id, "rejected"], 32)

        prefix = prefixes[parent]
        found = choose(parent, siblings, draw)
        name = f"{tree.id}/{parent}"
        if isinstance(found, NoPair):
            rejected.append(RejectedRow(stage="build", id=name, reason=found.reason, detail=found.detail))
            continue
        for number, pair in enumerate(found, start=1):
            pair_id = name if number == 1 else f"{name}#{number}"
            pairs.append(_pair(tree, pair, pair_id, prefix, method=method, rule=rule))
            chosen_ids.add(pair.chosen.id)
            rejected_ids.add(pair.rejected.id)
    nodes = tuple(node.model_copy(update={"role": _role(node, chosen_ids, rejected_ids)}) for node in tree.nodes)
    return Derived(tree.model_copy(update={"nodes": nodes}), tuple(pairs), tuple(rejected))


def _role(node: SearchNode, chosen: set[str], rejected: set[str]) -> str:
    if node.parent is None:
        return "root"
    if node.id in chosen:
        return "both" if node.id in rejected else "chosen"
    return "rejected" if node.id in rejected else "unused"


def _pair(tree: SearchTree, pair: LayerPair, pair_id: str, prefix: str, *, method: str, rule: str) -> PreferencePair:
    chosen, rejected = pair.chosen, pair.rejected
    words = {"chosen": count_words(chosen.text), "rejected": count_words(rejected.text)}
    provenance: dict[str, Any] = {"tree": tree.id, "chosen": chosen.id, "rejected": rejected.id,
                                  "parent": chosen.parent, "seed": tree.seed, "rule": rule, "words": words,
                                  **pair.facts}
    if chosen.refines is not None:
        provenance["refined"] = chosen.refines
    scores = None
    if chosen.judgement is not None and rejected.judgement is not None:
        scores = PairScores(chosen=chosen.judgement, rejected=rejected.judgement)
    return PreferencePair(
        id=pair_id, group=tree.id, prompt=tree.prompt.dialogue, prefix=prefix, chosen=chosen.text,
        rejected=rejected.text, chosen_ends=chosen.ends, rejected_ends=rejected.ends, step=chosen.depth - 1,
        margin=pair.margin, scores=scores, method=method, provenance=provenance,
    )


class _Prefixes:
    """The text so far up to and including each node, by its id."""

    def __init__(self, tree: SearchTree) -> None:
        self._tree = tree
        self._nodes = {node.id: node for node in tree.nodes}
        self._texts: dict[str, str] = {}
        if len(self._nodes) != len(tree.nodes):
            raise DataError("two nodes have one id", where=f"tree {tree.id}", mend="mend or delete that line")

    def __getitem__(self, node_id: str) -> str:
        if node_id not in self._texts:
            node = self._nodes.get(node_id)
            parent = None if node is None or node.parent is None else self._nodes.get(node.parent)
            # Depths that count down by one have no cycles.
            if node is None or (node.parent is not None and (parent is None or parent.depth != node.depth - 1)):
                raise DataError(f"the node {node_id} does not hang together with the others",
                                where=f"tree {self._tree.id}", mend="mend or delete that line")
            self._texts[node_id] = node.text if parent is None else self[parent.id] + node.text
        return self._texts[node_id]


def _usable(siblings: Sequence[SearchNode]) -> list[SearchNode] | NoPair:
    """The siblings that can be in a pair, if there are two."""
    noted = set_aside([node for node in siblings if not node.replaced])
    usable = live(noted)
    if len(usable) >= 2:
        return usable
    # A rewritten step that was not taken is no candidate that failed: its original is there.
    notes = [node.note for node in noted if node.note is not None and node.refines is None]
    detail = "; ".join([f"{len(usable)} of {len(siblings)} candidates left", *sorted(set(notes))])
    if notes and not usable:
        refused = all(note.startswith(Reason.REQUEST_REJECTED) for note in notes)
        return NoPair(Reason.REQUEST_REJECTED if refused else Reason.EMPTY, detail)
    if notes and all(note.startswith("duplicate of ") for note in notes):
        return NoPair(Reason.EQUAL_TEXTS, detail)
    return NoPair(Reason.TOO_FEW_CANDIDATES, detail)
