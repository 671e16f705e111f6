"""Which pairs does a layer of siblings give? The rules by name; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from lpo.build_config import PairsConfig
from lpo.pair_builders.length_penalty import debiased
from lpo.records import Reason, SearchNode

AllVetoed = Literal["best_score", "no_pair", "stop"]
"""What the search does where every candidate contradicts (`build.memory.all_vetoed`)."""

Draw = Callable[[SearchNode], str]
"""Puts siblings into a random order: each one's place is a hash of the tree's seed and of its own name."""


@dataclass(frozen=True)
class LayerPair:
    """A pair of a layer.

    Args:
        chosen: A scored sibling.
        rejected: Another one; scored, unless a veto is what speaks against it.
        margin: Score of chosen minus score of rejected, debiased where length is priced; None when the rejected one has
            no score.
        facts: What else is to be known of the pair, for its provenance.
    """

    chosen: SearchNode
    rejected: SearchNode
    margin: float | None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, chosen: SearchNode, rejected: SearchNode, facts: Mapping[str, Any] | None = None) -> LayerPair:
        """The pair with the margin of its scores."""
        margin = None if rejected.score is None else _score(chosen) - rejected.score
        return cls(chosen, rejected, margin, dict(facts or {}))


@dataclass(frozen=True)
class NoPair:
    """A layer that gives no pair.

    Args:
        reason: Why.
        detail: In words.
    """

    reason: Reason
    detail: str


class ChosenRule(StrEnum):
    """Which sibling is chosen (`build.pairs.chosen`)."""

    MOST_VISITED = "most_visited"
    """The one most paths went through; of equals by value, then by its own score, then the first."""
    BEST_VALUE = "best_value"
    """The highest back-propagated value; where no scored path went, the sibling's own score counts."""
    BEST_SCORE = "best_score"
    """The highest score of its own."""

    def rank(self, node: SearchNode) -> tuple[float, ...]:
        """The higher the better."""
        score = -math.inf if node.score is None else node.score  # a debiased score can be below 0
        match self:
            case ChosenRule.MOST_VISITED:
                return node.visits, -math.inf if node.value is None else node.value, score
            case ChosenRule.BEST_VALUE:
                return (score if node.value is None else node.value,)
            case ChosenRule.BEST_SCORE:
                return (score,)

    def best(self, nodes: Sequence[SearchNode]) -> SearchNode:
        """The best of at least one; the first of equals."""
        return max(nodes, key=self.rank)


class RejectedRule(StrEnum):
    """Which sibling is rejected (`build.pairs.rejected`)."""

    RANDOM_CONSISTENT = "random_consistent"
    """Any unvetoed sibling that scores at least `min_margin` lower, in random order (the paper). Where there is none,
    any vetoed one that scores as much lower; such pairs say so (`rejected_vetoed`)."""
    WORST = "worst"
    """The unvetoed siblings from the lowest score up, at least `min_margin` lower."""
    VETOED = "vetoed"
    """The vetoed siblings from the highest score down: that they contradict is what is wrong with them, so no margin is
    asked for, and the difference of scores may be negative."""
    MARGIN = "margin"
    """Any two unvetoed siblings, the widest margin first, whichever was chosen."""


def choose_pairs(siblings: Sequence[SearchNode], rules: PairsConfig, all_vetoed: AllVetoed,
                 draw: Draw) -> list[LayerPair] | NoPair:
    """The pairs of a layer, at most `per_layer` where that is given, no two the same.

    Args:
        siblings: At least two, all different, none of them set aside or replaced by a rewritten step.
        rules: The `build.pairs` section. With its `length_penalty` siblings are ranked and compared by debiased scores.
        all_vetoed: With `best_score`, the vetoed sibling that the search went on from can be chosen where all are
            vetoed; otherwise no vetoed sibling ever is.
        draw: The random order.
    """
    compared = debiased(siblings, rules.length_penalty)
    pairs = _chosen_pairs(compared, rules, all_vetoed, draw)
    if isinstance(pairs, NoPair):
        return pairs
    taken = pairs[:rules.per_layer]
    return taken if not rules.length_penalty else _with_raw_scores(taken, siblings)


def too_few_scored(siblings: Sequence[SearchNode], least: int) -> NoPair | None:
    """Refuse a layer of which fewer siblings have a score.

    Args:
        siblings: As above.
        least: How many must.
    """
    scored = len(_scored(siblings))
    if scored >= least:
        return None
    said = f"{scored} of {len(siblings)} candidates have a score, {least} are needed"
    reasons = ", ".join(_why_unscored(siblings))
    return NoPair(Reason.TOO_FEW_SCORED, f"{said}: {reasons}" if reasons else said)


def choose_released(siblings: Sequence[SearchNode], draw: Draw) -> LayerPair | NoPair:
    """What LongDPO's code does: the best score against any other sibling, ties included, and nothing where the best one
    ends the answer.

    Args:
        siblings: As above.
        draw: The random order.
    """
    scored = _scored(siblings)
    if len(scored) < 2:
        return _unscored(siblings)
    chosen = ChosenRule.BEST_SCORE.best(scored)
    if chosen.ends:
        return NoPair(Reason.NATURAL_END, f"{chosen.id} ends the answer; the released code takes no pair from it")
    rejected = min((node for node in scored if node is not chosen), key=draw)
    return LayerPair.of(chosen, rejected, {"tie": True} if rejected.score == chosen.score else {})


def _chosen_pairs(siblings: Sequence[SearchNode], rules: PairsConfig, all_vetoed: AllVetoed,
                  draw: Draw) -> list[LayerPair] | NoPair:
    """All pairs that the rule allows, the first ones first."""
    rule = RejectedRule(rules.rejected)
    if rule is RejectedRule.MARGIN:
        pairs = _widest(siblings, rules.min_margin)
    elif rule is RejectedRule.VETOED:
        pairs = _against_vetoed(siblings, ChosenRule(rules.chosen))
    else:
        chosen = _chosen(siblings, ChosenRule(rules.chosen), all_vetoed)
        if isinstance(chosen, NoPair):
            return chosen
        lower = _lower(chosen, siblings, rules.min_margin, vetoed_too=rule is RejectedRule.RANDOM_CONSISTENT)
        if isinstance(lower, NoPair):
            return lower
        order = draw if rule is RejectedRule.RANDOM_CONSISTENT else _score
        pairs = [_consistent_pair(chosen, rejected) for rejected in sorted(lower, key=order)]
    return pairs


def _with_raw_scores(pairs: Sequence[LayerPair], siblings: Sequence[SearchNode]) -> list[LayerPair]:
    """The same pairs of the siblings as they were scored, with both ways in which they compare."""
    raw = {node.id: node for node in siblings}
    found: list[LayerPair] = []
    for pair in pairs:
        plain = LayerPair.of(raw[pair.chosen.id], raw[pair.rejected.id])
        scores = {"chosen": pair.chosen.score, "rejected": pair.rejected.score}
        facts = {**pair.facts, "raw_margin": plain.margin, "debiased_scores": scores}
        found.append(LayerPair(plain.chosen, plain.rejected, pair.margin, facts))
    return found


def _chosen(siblings: Sequence[SearchNode], rule: ChosenRule, all_vetoed: AllVetoed) -> SearchNode | NoPair:
    consistent = [node for node in siblings if not node.vetoes]
    if not consistent:
        taken = [node for node in _scored(siblings) if node.visits and all_vetoed == "best_score"]
        return rule.best(taken) if taken else _all_vetoed(siblings)
    scored = _scored(consistent)
    return rule.best(scored) if scored else _unscored(consistent)


def _lower(chosen: SearchNode, siblings: Sequence[SearchNode], min_margin: float, *,
           vetoed_too: bool) -> list[SearchNode] | NoPair:
    """The siblings that score at least `min_margin` below the chosen one: unvetoed ones, or else vetoed ones."""
    others = [node for node in siblings if node is not chosen and (vetoed_too or not node.vetoes)]
    if not others:
        return _all_vetoed(siblings) if chosen.vetoes else _one_consistent(siblings)
    scored = _scored(others)
    if not scored:
        return _unscored([chosen, *others])
    lower = [node for node in scored if _score(chosen) - _score(node) >= min_margin]
    if not lower:
        return _too_close(_score(chosen) - min(_score(node) for node in scored), min_margin)
    return [node for node in lower if not node.vetoes] or lower


def _consistent_pair(chosen: SearchNode, rejected: SearchNode) -> LayerPair:
    facts: dict[str, Any] = {}
    if chosen.vetoes:
        facts["chosen_vetoed"] = True
    if rejected.vetoes:
        facts["rejected_vetoed"] = True
    return LayerPair.of(chosen, rejected, facts)


def _against_vetoed(siblings: Sequence[SearchNode], rule: ChosenRule) -> list[LayerPair] | NoPair:
    vetoed = [node for node in siblings if node.vetoes]
    if not vetoed:
        return NoPair(Reason.NO_VETO, f"none of {len(siblings)} candidates contradicts what the answer has stated")
    chosen = _chosen(siblings, rule, "no_pair")
    if isinstance(chosen, NoPair):
        return chosen
    return [
        LayerPair.of(chosen, node, {"veto": {"fact": node.vetoes[0].fact, "statement": node.vetoes[0].statement}})
        for node in sorted(vetoed, key=ChosenRule.BEST_SCORE.rank, reverse=True)
    ]


def _widest(siblings: Sequence[SearchNode], min_margin: float) -> list[LayerPair] | NoPair:
    consistent = [node for node in siblings if not node.vetoes]
    if not consistent:
        return _all_vetoed(siblings)
    if len(consistent) < 2:
        return _one_consistent(siblings)
    scored = _scored(consistent)
    if len(scored) < 2:
        return _unscored(consistent)
    pairs = [LayerPair.of(one, other) for one in scored for other in scored if _score(one) > _score(other)]
    pairs.sort(key=lambda pair: _score(pair.rejected) - _score(pair.chosen))
    wide = [pair for pair in pairs if _score(pair.chosen) - _score(pair.rejected) >= min_margin]
    if wide:
        return wide
    return _too_close(_score(pairs[0].chosen) - _score(pairs[0].rejected) if pairs else 0.0, min_margin)


def _too_close(widest: float, min_margin: float) -> NoPair:
    if widest == 0:
        return NoPair(Reason.TIE, "no sibling scores lower; the lowest score is the same")
    return NoPair(Reason.SMALL_MARGIN, f"the widest margin is {widest:.4g}, below {min_margin:g}")


def _all_vetoed(siblings: Sequence[SearchNode]) -> NoPair:
    return NoPair(Reason.VETOED, f"all {len(siblings)} candidates contradict what the answer has stated: "
                  + "; ".join(f"{node.id} contradicts {node.vetoes[0].fact}" for node in siblings))


def _one_consistent(siblings: Sequence[SearchNode]) -> NoPair:
    return NoPair(Reason.TOO_FEW_CANDIDATES, f"only 1 of {len(siblings)} candidates contradicts nothing")


def _unscored(nodes: Sequence[SearchNode]) -> NoPair:
    return NoPair(Reason.UNSCORED, f"{len(_scored(nodes))} of {len(nodes)} candidates have a score: "
                  + ", ".join(_why_unscored(nodes)))


def _why_unscored(nodes: Sequence[SearchNode]) -> list[str]:
    reasons = {node.judgement.unscored or "" if node.judgement is not None else "not judged" for node in nodes}
    return sorted(reasons - {""})


def _scored(nodes: Sequence[SearchNode]) -> list[SearchNode]:
    return [node for node in nodes if node.score is not None]


def _score(node: SearchNode) -> float:
    assert node.score is not None, "only scored siblings are compared"
    return node.score
