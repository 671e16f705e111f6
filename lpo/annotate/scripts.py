"""What people correct: the scripts of a run's trees, or their best answers cut into segments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lpo.errors import DataError
from lpo.records import CorrectionOutcome, Dialogue, Fault, Prompt, Record, ScriptSegment, SearchNode, SearchTree

_BLANK_LINES = re.compile(r"(?:[ \t]*(?:\r\n?|\n))*")
BETWEEN = "\n\n"
"""Stands between a segment that was missing and its neighbours."""
TITLE_CHARACTERS = 140


@dataclass(frozen=True)
class Edges:
    """A segment, taken apart: people edit what stands between the white space at its ends.

    Args:
        lead: Blank lines before the text.
        core: The text, its line ends all line feeds, as a text box gives them back.
        trail: White space after it.
    """

    lead: str
    core: str
    trail: str

    @classmethod
    def of(cls, text: str) -> Edges:
        """The parts of a segment."""
        until = len(text.rstrip())
        found = _BLANK_LINES.match(text, 0, until)
        start = found.end() if found is not None else 0
        return cls(text[:start], as_typed(text[start:until]), text[until:])


class AnnotatedSegment(Record):
    """A segment as it is put before people."""

    original: str
    """Empty where the writer missed it."""
    proposed: str
    """The model's accepted revision, or the original."""
    faults: tuple[Fault, ...] = ()
    """What the critic said, all rounds together."""
    outcomes: tuple[CorrectionOutcome, ...] = ()
    """What became of the model's attempts to correct it."""

    @property
    def edges(self) -> Edges:
        """The parts of what is proposed; of the original where the model struck it out."""
        return Edges.of(self.proposed or self.original)

    @property
    def prefilled(self) -> str:
        """What the text box holds at first."""
        return Edges.of(self.proposed).core


class AnnotatedScript(Record):
    """An answer that people correct."""

    id: str
    """That of its tree."""
    prompt: Prompt
    segments: tuple[AnnotatedSegment, ...]
    ends: bool
    """Had the writer finished it? Otherwise it was cut at its longest allowed length."""

    @property
    def dialogue(self) -> Dialogue:
        """What the policy read."""
        return self.prompt.dialogue

    @property
    def title(self) -> str:
        """The first line of the request, cut to fit a list."""
        line = next((line.strip() for line in self.prompt.request.split("\n") if line.strip()), self.id)
        return line if len(line) <= TITLE_CHARACTERS else line[: TITLE_CHARACTERS - 1].rstrip() + "…"


@dataclass
class Intake:
    """The scripts of a run.

    Args:
        scripts: In the order of the trees.
        skipped: Trees that hold nothing to correct, by reason.
        cut_here: How many scripts were cut into segments here, because their trees hold no script.
    """

    scripts: list[AnnotatedScript] = field(default_factory=list[AnnotatedScript])
    skipped: Counter[str] = field(default_factory=Counter[str])
    cut_here: int = 0


def scripts_of(trees: Iterable[SearchTree], cut: Callable[[str], Sequence[str]]) -> Intake:
    """The scripts of trees: those that a model has corrected, else the best answer of each tree.

    Args:
        trees: Of one run.
        cut: Cuts an answer into segments whose concatenation is the answer.

    Raises:
        DataError: Two trees have the same id.
    """
    intake = Intake()
    seen: set[str] = set()
    for tree in trees:
        if tree.id in seen:
            raise DataError("two trees have this id", where=repr(tree.id), mend="ids of prompts must be unique")
        seen.add(tree.id)
        if tree.script is not None:
            segments, ends = tuple(_corrected(segment) for segment in tree.script.segments), tree.script.ends
        else:
            answer = best_answer(tree)
            if answer is None:
                intake.skipped["no whole answer has a score"] += 1
                continue
            texts, ends = cut(text_of(tree, answer)), answer.ends
            segments = tuple(AnnotatedSegment(original=text, proposed=text) for text in texts)
        if not any(segment.original.strip() or segment.proposed.strip() for segment in segments):
            intake.skipped["the answer is empty"] += 1
            continue
        intake.cut_here += tree.script is None
        intake.scripts.append(AnnotatedScript(id=tree.id, prompt=tree.prompt, segments=segments, ends=ends))
    return intake


def best_answer(tree: SearchTree) -> SearchNode | None:
    """The last step of a tree's best whole answer: the one that scores highest, of equals the first; an only one needs
    no score.

    An answer is whole if its last step ends it, or stands in the deepest layer.
    """
    parents = {node.parent for node in tree.nodes}
    deepest = max(node.depth for node in tree.nodes)
    leaves = [node for node in tree.nodes if node.parent is not None and node.id not in parents
              and node.note is None and not node.vetoes and not node.replaced
              and (node.ends or node.depth == deepest)]
    if len(leaves) == 1:
        return leaves[0]
    scored = [(node.score, -number) for number, node in enumerate(leaves) if node.score is not None]
    return leaves[-max(scored)[1]] if scored else None


def text_of(tree: SearchTree, leaf: SearchNode) -> str:
    """The answer that ends with a step."""
    nodes = {node.id: node for node in tree.nodes}
    texts: list[str] = []
    node: SearchNode | None = leaf
    while node is not None:
        texts.append(node.text)
        node = nodes[node.parent] if node.parent is not None else None
    return "".join(reversed(texts))


def revised_segments(segments: Sequence[AnnotatedSegment], edited: Sequence[str]) -> list[str]:
    """The revised segments, white space at their ends put back.

    A segment whose text equals what was proposed, or the original, is that, letter by letter. Where the original is
    missing, blank lines set the new text off from its neighbours; these are never changed for it.

    Args:
        segments: N segments.
        edited: The N texts that people left in the box; empty for one that was struck out, or that is still missing.
    """
    revised: list[str] = []
    for number, (segment, text) in enumerate(zip(segments, edited, strict=True)):
        text = as_typed(text).rstrip()
        if not text.strip():
            revised.append(segment.original if not segment.original.strip() else "")
        elif text == Edges.of(segment.proposed).core:
            revised.append(segment.proposed)
        elif text == Edges.of(segment.original).core:
            revised.append(segment.original)
        else:
            edges = segment.edges
            lead, trail = edges.lead, edges.trail
            if not edges.core:
                before = "".join(revised)
                lead = BETWEEN if before and not before[-1].isspace() else ""
                trail = BETWEEN if any(later.strip() for later in edited[number + 1:]) else ""
            revised.append(lead + Edges.of(text).core + trail)
    return revised


def as_typed(text: str) -> str:
    """The text as a text box gives it back: every line end a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _corrected(segment: ScriptSegment) -> AnnotatedSegment:
    faults = dict.fromkeys(fault for correction in segment.corrections for fault in correction.faults)
    return AnnotatedSegment(original=segment.original, proposed=segment.revised, faults=tuple(faults),
                            outcomes=tuple(correction.outcome for correction in segment.corrections))

