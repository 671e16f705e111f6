"""What the trees of a run hold, counted over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lpo.records import (
    Aspect,
    Correction,
    CorrectionOutcome,
    Origin,
    RefinementOutcome,
    Script,
    SearchNode,
    SearchTree,
)

DUPLICATE = "duplicate"
"""How the note of a node begins that was set aside because an earlier sibling has the same text."""


@dataclass
class ScriptCounts:
    """Corrections of answers."""

    scripts: int = 0
    segments: int = 0
    changed: int = 0
    """Segments that are not as they were."""
    inserted: int = 0
    struck_out: int = 0
    outcomes: Counter[CorrectionOutcome] = field(default_factory=Counter)
    """Attempts to correct a segment."""
    revised: int = 0
    """Attempts in which a model wrote a text that was held against the segment as it stood."""
    faults: Counter[Aspect] = field(default_factory=Counter)
    people: Counter[str] = field(default_factory=Counter)
    """Segments by the person who corrected them."""
    gains: float = 0.0
    gained: int = 0
    """Accepted revisions with both scores, and `gains`, the sum of after minus before."""

    @property
    def accepted(self) -> int:
        """Revisions of models that were taken."""
        return self.outcomes[CorrectionOutcome.ACCEPTED]

    @property
    def acceptance(self) -> float | None:
        """Accepted revisions as a share of the attempts with a revised text; None when there is none."""
        return self.accepted / self.revised if self.revised else None

    @property
    def mean_gain(self) -> float | None:
        """By how much accepted revisions score higher; None when no scores tell it."""
        return self.gains / self.gained if self.gained else None

    def add(self, script: Script) -> None:
        """Count a script."""
        self.scripts += 1
        self.segments += len(script.segments)
        for segment in script.segments:
            self.changed += segment.original != segment.revised
            self.inserted += not segment.original and bool(segment.revised)
            self.struck_out += bool(segment.original) and not segment.revised
            for correction in segment.corrections:
                self._add(correction)

    def _add(self, correction: Correction) -> None:
        self.outcomes[correction.outcome] += 1
        self.faults.update(fault.aspect for fault in correction.faults)
        if correction.outcome is CorrectionOutcome.GIVEN:
            self.people.update([correction.by or "somebody"])
            return
        self.revised += correction.outcome.compared
        before, after = (judgement.overall if judgement is not None else None
                         for judgement in (correction.before, correction.after))
        if correction.outcome is CorrectionOutcome.ACCEPTED and before is not None and after is not None:
            self.gains += after - before
            self.gained += 1


@dataclass
class TreeCounts:
    """What a run did, counted over all of its trees."""

    trees: int = 0
    methods: Counter[str] = field(default_factory=Counter)
    written: int = 0
    """Trees with a text in them."""
    answered: int = 0
    """Trees with candidates."""
    layers: int = 0
    """Sets of siblings."""
    candidates: int = 0
    """Nodes without the roots and rewritten steps."""
    origins: Counter[Origin] = field(default_factory=Counter)
    """Candidates by how they came to be."""
    scored: int = 0
    """Candidates and rewritten steps with a score."""
    paths: int = 0
    rollouts: int = 0
    facts: int = 0
    vetoed: int = 0
    """Candidates that contradict a fact, or several."""
    unscored: int = 0
    """Candidates and rewritten steps that the scorer gave no score."""
    unscored_rollouts: int = 0
    refinements: Counter[RefinementOutcome] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    """Candidates by the first word of their note: `duplicate`, `empty`, ..."""
    failures: Counter[str] = field(default_factory=Counter)
    """Nodes by the call that gave nothing usable: `facts`, `check`."""
    grade_masses: int = 0
    grade_mass: float = 0.0
    """Sum over `grade_masses` grades: how much next-token probability fell on the grades."""
    scripts: ScriptCounts = field(default_factory=ScriptCounts)

    @property
    def mean_grade_mass(self) -> float | None:
        """Mean share of next-token probability that fell on the grades; None when no judgement tells it."""
        return self.grade_mass / self.grade_masses if self.grade_masses else None

    def add(self, tree: SearchTree) -> None:
        """Count a tree."""
        self.trees += 1
        self.methods[tree.method] += 1
        self.answered += any(node.parent is not None for node in tree.nodes)
        self.written += any(node.text for node in tree.nodes)
        self.layers += len({node.parent for node in tree.nodes if node.parent is not None})
        self.paths += len(tree.paths)
        # Several paths may share an end, and its rollout.
        rollouts = list({path.nodes[-1]: path.rollout for path in tree.paths if path.rollout is not None}.values())
        self.rollouts += len(rollouts)
        self.unscored_rollouts += sum(rollout.judgement is None or rollout.judgement.overall is None
                                      for rollout in rollouts)
        for node in tree.nodes:
            self._add_node(node)
        if tree.script is not None:
            self.scripts.add(tree.script)

    def _add_node(self, node: SearchNode) -> None:
        if node.parent is not None and node.refines is None:
            self.candidates += 1
            self.origins[node.origin] += 1
        self.facts += len(node.facts)
        self.vetoed += bool(node.vetoes)
        self.failures.update(node.failures.keys())
        if node.note is not None and node.refines is None:
            self.set_aside[node.note.replace(":", " ").split(" ", 1)[0]] += 1
        if node.refinement is not None:
            self.refinements[node.refinement.outcome] += 1
        if node.judgement is not None:
            self.scored += node.judgement.overall is not None
            self.unscored += node.judgement.unscored is not None
            masses = grade_masses(node.judgement.parts)
            self.grade_masses += len(masses)
            self.grade_mass += sum(masses)


def grade_masses(parts: Mapping[str, Any]) -> list[float]:
    """How much next-token probability fell on the grades, wherever the parts of a judgement hold it."""
    masses: list[float] = []
    for name, value in parts.items():
        if isinstance(value, Mapping):
            masses += value.values() if name == "grade_mass" else grade_masses(value)
    return masses
