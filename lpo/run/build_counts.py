"""What happened in a build, counted tree by tree: sums of pure functions, whatever the order the trees finish in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from lpo.errors import UnsoundError
from lpo.pair_builders.pairs import Derived
from lpo.records import Judgement, RejectedRow, SearchNode, SearchTree
from lpo.words import count_words

ENOUGH = 50
"""From so many judgements on, their failures are judged before the build is over."""


def _counter() -> Counter[str]:
    return Counter()


@dataclass
class BuildCounts:
    """Counts of one tree, or of many: the fields of build.json that trees and pairs decide."""

    trees: int = 0
    layers: int = 0
    candidates: int = 0
    """Steps that were sampled, rewritten ones not counted."""
    set_aside: Counter[str] = field(default_factory=_counter)
    """Candidates that were not judged, by reason: `duplicate`, `empty`, `refused`, `request_rejected`."""
    paths: int = 0
    rollouts: int = 0
    """Ends of paths that were written on to the end of the answer."""
    failed_rollouts: Counter[str] = field(default_factory=_counter)
    """Those for which the policy wrote nothing, by reason."""
    scored: int = 0
    """Judgements with a score, those of rewritten steps and rollouts counted."""
    unscored: Counter[str] = field(default_factory=_counter)
    """Judgements without one, by reason."""
    invented: int = 0
    """Judgements with a grade that the released method made up; they count as scored."""
    continued: int = 0
    """Steps that a path went on from; their facts are extracted when the memory is on."""
    facts: int = 0
    failed_extractions: Counter[str] = field(default_factory=_counter)
    """Steps whose facts could not be extracted, by reason."""
    checked: int = 0
    """Candidates that were checked against facts."""
    vetoed: int = 0
    """Candidates that contradict one."""
    failed_checks: Counter[str] = field(default_factory=_counter)
    """Candidates for which a check gave no verdict, by reason."""
    failed_plans: Counter[str] = field(default_factory=_counter)
    refinements: Counter[str] = field(default_factory=_counter)
    """Attempts to refine a step, by outcome."""
    critiques: int = 0
    failed_critiques: int = 0
    segments: int = 0
    """Segments of the answers that were corrected or could have been."""
    changed_segments: int = 0
    """Those that are not as they were."""
    corrections: Counter[str] = field(default_factory=_counter)
    """Attempts to correct a segment, by outcome."""
    pairs: int = 0
    prefix_pairs: int = 0
    """Those of them whose sides are beginnings or single segments of an answer, not its whole length."""
    chosen_words: int = 0
    rejected_words: int = 0
    """Words on either side of all pairs."""
    sft_rows: int = 0
    """Rows for supervised fine-tuning."""
    pairs_by_rule: Counter[str] = field(default_factory=_counter)
    rejected: Counter[str] = field(default_factory=_counter)
    """Layers and rows that gave no pair, by reason."""

    def __add__(self, other: BuildCounts) -> BuildCounts:
        names = [entry.name for entry in fields(self)]
        return BuildCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def to_json(self) -> dict[str, Any]:
        """As JSON values; reasons in the order of their names."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: dict(sorted(value.items())) if isinstance(value, Counter) else value
                for name, value in values.items()}


def count_tree(tree: SearchTree) -> BuildCounts:
    """What a search did."""
    steps = [node for node in tree.nodes if node.parent is not None]
    # Several paths may share an end, and its rollout.
    rollouts = list({path.nodes[-1]: path.rollout for path in tree.paths if path.rollout is not None}.values())
    segments = tree.script.segments if tree.script is not None else ()
    corrections = [correction for segment in segments for correction in segment.corrections]
    judgements = [judgement for judgement in (
        *(owner.judgement for owner in (*steps, *rollouts)),
        *(judgement for correction in corrections for judgement in (correction.before, correction.after)),
    ) if judgement is not None]
    refinements = [node.refinement for node in steps if node.refinement is not None]
    parents = {node.parent for node in steps}
    root_failures = [node.failures["plan"] for node in tree.nodes if "plan" in node.failures]
    return BuildCounts(
        trees=1, layers=len(parents),
        candidates=sum(node.refines is None for node in steps),
        set_aside=Counter(_kind(node.note) for node in steps if node.note is not None and node.refines is None),
        paths=len(tree.paths), rollouts=len(rollouts),
        failed_rollouts=Counter(_kind(rollout.note) for rollout in rollouts if rollout.note is not None),
        scored=sum(judgement.unscored is None for judgement in judgements),
        unscored=Counter(judgement.unscored for judgement in judgements if judgement.unscored is not None),
        invented=sum(_is_invented(judgement) for judgement in judgements),
        continued=sum(node.id in parents for node in steps),
        facts=sum(len(node.facts) for node in steps),
        failed_extractions=_failures(steps, "facts"),
        checked=_checked(tree),
        vetoed=sum(bool(node.vetoes) for node in steps),
        failed_checks=_failures(steps, "check"),
        failed_plans=Counter(_kind(failure) for failure in root_failures),
        refinements=Counter(refinement.outcome.value for refinement in refinements),
        critiques=sum(len(refinement.critiques) for refinement in refinements),
        failed_critiques=sum(len(refinement.failed) for refinement in refinements),
        segments=len(segments),
        changed_segments=sum(segment.original != segment.revised for segment in segments),
        corrections=Counter(correction.outcome.value for correction in corrections),
    )


def count_rows(derived: Derived) -> BuildCounts:
    """What became of the layers of a tree."""
    pairs = derived.pairs
    return BuildCounts(
        pairs=len(pairs), pairs_by_rule=Counter(str(pair.provenance.get("rule", pair.method)) for pair in pairs),
        prefix_pairs=sum(not pair.provenance.get("full_length", True) for pair in pairs),
        chosen_words=sum(count_words(pair.chosen) for pair in pairs),
        rejected_words=sum(count_words(pair.rejected) for pair in pairs),
        sft_rows=len(derived.sft),
    ) + count_rejected(derived.rejected)


def count_rejected(rows: Iterable[RejectedRow]) -> BuildCounts:
    """Rows that were dropped, by reason."""
    return BuildCounts(rejected=Counter(row.reason.value for row in rows))


def _is_invented(judgement: Judgement) -> bool:
    """Also as a part of a weighted score."""
    inner = judgement.parts.values()
    return "invented" in judgement.parts or any(isinstance(part, dict) and "invented" in part for part in inner)


def _failures(steps: Iterable[SearchNode], kind: str) -> Counter[str]:
    return Counter(_kind(node.failures[kind]) for node in steps if kind in node.failures)


def _kind(note: str) -> str:
    """`duplicate of 0.1` -> duplicate, `request_rejected: too long` -> request_rejected."""
    return note.partition(":")[0].partition(" ")[0]


def _checked(tree: SearchTree) -> int:
    """Candidates that were judged after a text with facts: exactly these are checked against them."""
    count = 0
    with_facts: dict[str, bool] = {}
    for node in tree.nodes:  # parents stand before their children
        stated = node.parent is not None and with_facts[node.parent]
        count += stated and node.judgement is not None
        with_facts[node.id] = stated or bool(node.facts)
    return count


@dataclass(frozen=True)
class Failing:
    """Model calls of one kind, and how many gave nothing usable.

    Args:
        what: In words.
        total: How many there were.
        reasons: Those that failed, by reason.
        advice: What to look at.
    """

    what: str
    total: int
    reasons: Counter[str]
    advice: str

    def check(self, allowed: float, enough: int) -> None:
        """Stop when too many failed.

        Args:
            allowed: The largest share that may fail.
            enough: Below this total nothing is said.

        Raises:
            UnsoundError: A larger share failed.
        """
        failed = self.reasons.total()
        if failed and self.total >= enough and failed / self.total > allowed:
            raise UnsoundError(
                f"{failed} of {self.total} {self.what} ({listed(self.reasons)}), more than build.max_unscored = "
                f"{allowed:g} allows", mend=self.advice)


def check_failures(counts: BuildCounts, allowed: float, *, enough: int = 1) -> None:
    """Stop when too large a share of judgements, checks for contradictions or extractions of facts failed.

    Args:
        counts: Of the trees so far.
        allowed: `build.max_unscored`, for each of them by itself.
        enough: How many there must be before anything is said.

    Raises:
        UnsoundError: One of the shares is larger.
    """
    replies = "look at the replies (log.jsonl), use a stronger "
    either = " or raise build.max_unscored"
    for failing in (
        Failing("judgements have no score", counts.scored + counts.unscored.total(), counts.unscored,
                f"{replies}judge,{either}"),
        Failing("checks for contradictions gave no verdict", counts.checked, counts.failed_checks,
                f"{replies}judge, turn the memory off (build.memory.enabled),{either}"),
        Failing("extractions of facts gave nothing usable", counts.continued, counts.failed_extractions,
                f"{replies}judge, turn the memory off (build.memory.enabled),{either}"),
    ):
        failing.check(allowed, enough)


def listed(counts: Counter[str] | dict[str, int]) -> str:
    """`tie: 3, empty: 1`, the most frequent first."""
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
