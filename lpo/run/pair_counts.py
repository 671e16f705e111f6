"""What rules make of stored trees, counted tree by tree, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lpo.build_config import BuildConfig
from lpo.pair_builders.pairs import Derived, layers_of
from lpo.run.build_counts import BuildCounts, count_rows, listed


@dataclass
class RuleCounts:
    """What a rule gives.

    Args:
        rule: Its name.
        places: Layers of all trees; where answers were corrected, trees.
        fruitful: Those that give pairs.
        rows: The pairs, their words, and what was rejected.
        margins: Sum of the margins of pairs that have one, and how many these are.
    """

    rule: str
    places: int = 0
    fruitful: int = 0
    rows: BuildCounts = field(default_factory=BuildCounts)
    margins: tuple[float, int] = (0.0, 0)

    def add(self, derived: Derived) -> None:
        """Count a tree."""
        if derived.tree.method == "iterdpo":
            self.places += 1
            self.fruitful += bool(derived.pairs)
        else:
            self.places += len(layers_of(derived.tree))
            self.fruitful += len({pair.provenance["parent"] for pair in derived.pairs})
        self.rows += count_rows(derived)
        margins = [pair.margin for pair in derived.pairs if pair.margin is not None]
        self.margins = self.margins[0] + sum(margins), self.margins[1] + len(margins)

    @property
    def mean_margin(self) -> float | None:
        """Mean margin of the pairs; None when none has one."""
        total, count = self.margins
        return total / count if count else None

    @property
    def mean_words(self) -> float | None:
        """Words that the chosen side is longer by, in the mean; None when there is no pair."""
        if not self.rows.pairs:
            return None
        return (self.rows.chosen_words - self.rows.rejected_words) / self.rows.pairs


def table(counts: Sequence[RuleCounts], build: BuildConfig) -> list[str]:
    """The counts as lines for a person.

    Args:
        counts: Of each rule.
        build: The settings that they have in common.
    """
    corrected = build.method == "iterdpo"
    rows = [("mode" if corrected else "rule", "pairs", "of trees" if corrected else "of layers", "mean margin",
             "words longer", "rejected" if corrected else "layers without a pair")]
    for one in counts:
        margin = "-" if one.mean_margin is None else f"{one.mean_margin:.4f}"
        words = "-" if one.mean_words is None else f"{one.mean_words:+.1f}"
        rows.append((one.rule, str(one.rows.pairs), f"{one.fruitful}/{one.places}", margin, words,
                     listed(one.rows.rejected) or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([f"{row[0]:<{widths[0]}}", *(f"{row[place]:>{widths[place]}}" for place in range(1, 5)), row[5]])
             for row in rows]
    return [*lines, f"{_settings(build)}; from stored trees, no call was made"]


def _settings(build: BuildConfig) -> str:
    rules = build.pairs
    per_layer = "all" if rules.per_layer is None else str(rules.per_layer)
    priced = f"per_layer {per_layer}, length_penalty {rules.length_penalty:g}"
    if build.method in ("longdpo", "longdpo_released"):
        return (f"chosen {rules.chosen} (margin: whoever), min_margin {rules.min_margin:g} (vetoed: none), {priced}, "
                f"layers {rules.layers}")
    of_answers = f"min_margin {rules.min_margin:g}, {priced}, min_scored {build.answers.min_scored}"
    if build.method == "best_of_n":
        return of_answers
    share = build.correction.full_share
    return f"full_share {'none' if share is None else f'{share:g}'} (prefix); of its answers: {rules.rejected}, " \
           f"{of_answers}"
