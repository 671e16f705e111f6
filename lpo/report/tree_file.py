"""`trees.jsonl`, read once from end to end for what is counted; single trees are read again where they stand.

Trees hold every text that a search saw, so a run of many prompts has more of them than should be in memory at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lpo.errors import DataError
from lpo.records import RefinementOutcome, SearchNode, SearchTree
from lpo.report.reading import placed_rows, record, row_of

DUPLICATE = "duplicate"
"""How the note of a node begins that was set aside because an earlier sibling has the same text."""


@dataclass
class TreeCounts:
    """What the searches of a run did, counted over all of its trees."""

    trees: int = 0
    layers: int = 0
    """Sets of siblings."""
    candidates: int = 0
    """Nodes without the roots, rewritten steps included."""
    paths: int = 0
    rollouts: int = 0
    facts: int = 0
    vetoed: int = 0
    """Candidates that contradict a fact, or several."""
    unscored: int = 0
    """Candidates that the scorer gave no score."""
    unscored_rollouts: int = 0
    refinements: Counter[RefinementOutcome] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    """Candidates by the first word of their note: `duplicate`, `empty`, ..."""
    failures: Counter[str] = field(default_factory=Counter)
    """Nodes by the call that gave nothing usable: `facts`, `check`."""
    grade_masses: int = 0
    grade_mass: float = 0.0
    """Sum over `grade_masses` grades: how much next-token probability fell on the grades."""

    @property
    def mean_grade_mass(self) -> float | None:
        """Mean share of next-token probability that fell on the grades; None when no judgement tells it."""
        return self.grade_mass / self.grade_masses if self.grade_masses else None

    def add(self, tree: SearchTree) -> None:
        """Count a tree."""
        self.trees += 1
        self.layers += len({node.parent for node in tree.nodes if node.parent is not None})
        self.paths += len(tree.paths)
        rollouts = [path.rollout for path in tree.paths if path.rollout is not None]
        self.rollouts += len(rollouts)
        self.unscored_rollouts += sum(rollout.judgement is None or rollout.judgement.overall is None
                                      for rollout in rollouts)
        for node in tree.nodes:
            self._add_node(node)

    def _add_node(self, node: SearchNode) -> None:
        self.candidates += node.parent is not None
        self.facts += len(node.facts)
        self.vetoed += bool(node.vetoes)
        self.failures.update(node.failures.keys())
        if node.note is not None:
            self.set_aside[node.note.replace(":", " ").split(" ", 1)[0]] += 1
        if node.refinement is not None:
            self.refinements[node.refinement.outcome] += 1
        if node.judgement is not None:
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


@dataclass(frozen=True)
class TreeFile:
    """The trees of a run: their counts, and each of them by its id, read when asked for.

    Args:
        path: `trees.jsonl`.
        counts: Counted over all trees.
        places: Where the line of each tree begins, in bytes, in the order of the file.
    """

    path: Path
    counts: TreeCounts
    places: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> TreeFile:
        """Go through the file; one tree is held at a time.

        Raises:
            DataError: A line is damaged, or no tree that this version reads; the error names it.
        """
        counts, places = TreeCounts(), dict[str, int]()
        for number, start, values in placed_rows(path):
            tree = record(values, SearchTree, f"{path}:{number}")
            counts.add(tree)
            places[tree.id] = start
        return cls(path, counts, places)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def get(self, identifier: str) -> SearchTree | None:
        """One tree, or None when there is none of this id.

        Raises:
            DataError: Another process has written the file anew since it was read.
        """
        if identifier not in self.places:
            return None
        changed = DataError("the file was written anew while it was being read", where=str(self.path),
                            mend="run `lpo report` again")
        try:
            with self.path.open("rb") as handle:
                handle.seek(self.places[identifier])
                tree = record(row_of(handle.readline(), str(self.path)), SearchTree, str(self.path))
        except (OSError, ValueError, DataError):
            raise changed from None
        if tree.id != identifier:
            raise changed
        return tree
