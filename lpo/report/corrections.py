"""What the section on corrections shows: answers before and after, segment by segment, and what was said of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from lpo.records import Aspect, Correction, CorrectionOutcome, Judgement, Script, ScriptSegment, SearchTree
from lpo.report.charts import bar_chart
from lpo.report.data import RunData
from lpo.report.entries import REQUEST_CHARACTERS, beginning, cut_end, judged, request_of, scales
from lpo.report.fitting import fitting
from lpo.report.scores import MEASURE, Figure, percent, signed
from lpo.report.story import Count, plural
from lpo.report.tree_counts import ScriptCounts
from lpo.report.wording import compare
from lpo.words import count_words

SCRIPT_BYTES = 700_000
"""Room for scripts on the page."""

OUTCOMES: Mapping[CorrectionOutcome, str] = {
    CorrectionOutcome.ACCEPTED: "the revised segment was taken",
    CorrectionOutcome.GIVEN: "corrected by people",
    CorrectionOutcome.NOT_BETTER: "not accepted: the revised segment scores no better",
    CorrectionOutcome.UNCHANGED: "nothing to change: the critic found no fault, or the corrector left it as it was",
    CorrectionOutcome.UNSCORED: "not accepted: the segment, or its revised version, got no score",
    CorrectionOutcome.EMPTY: "not accepted: the revised segment is empty",
    CorrectionOutcome.NO_CRITIQUE: "the critic gave no usable reply",
    CorrectionOutcome.NO_REVISION: "the corrector gave no usable reply",
    CorrectionOutcome.REQUEST_REJECTED: "the server refused the request",
}
ASPECTS: Mapping[Aspect, str] = {
    Aspect.FACTUALITY: "facts", Aspect.MISSING: "missing", Aspect.COHERENCE: "coherence",
    Aspect.REPETITION: "repetition",
}


class State(StrEnum):
    """What became of a segment, all attempts together."""

    CORRECTED = "corrected"
    """By a model."""
    GIVEN = "given"
    """By people."""
    REFUSED = "refused"
    """A revised segment was there and was not taken."""
    UNCHANGED = "unchanged"
    FAILED = "failed"
    """No attempt led to a revised segment that could be compared."""
    UNTRIED = "untried"

    @classmethod
    def of(cls, segment: ScriptSegment) -> State:
        """That of a segment: what counts most among its attempts."""
        outcomes = {correction.outcome for correction in segment.corrections}
        if segment.original != segment.revised:
            return cls.GIVEN if CorrectionOutcome.GIVEN in outcomes else cls.CORRECTED
        if CorrectionOutcome.NOT_BETTER in outcomes:
            return cls.REFUSED
        if outcomes & {CorrectionOutcome.UNCHANGED, CorrectionOutcome.GIVEN, CorrectionOutcome.ACCEPTED}:
            return cls.UNCHANGED
        return cls.FAILED if outcomes else cls.UNTRIED

    @property
    def meaning(self) -> str:
        """In words, for the legend."""
        return {
            State.CORRECTED: "corrected", State.GIVEN: "corrected by people",
            State.REFUSED: "revised, not taken", State.UNCHANGED: "unchanged",
            State.FAILED: "no usable attempt", State.UNTRIED: "left alone",
        }[self]


GLYPHS: Mapping[str, str] = {
    State.CORRECTED.value: "chosen", State.GIVEN.value: "rewritten", State.REFUSED.value: "rejected",
    State.UNCHANGED.value: "set-aside", State.FAILED.value: "unscored",
}


@dataclass(frozen=True)
class CorrectionSection:
    """Everything the section on corrections shows."""

    total: int
    left_out: int
    counts: tuple[Count, ...]
    outcomes: tuple[tuple[str, str], ...]
    """Attempts by outcome: how many, and what it means."""
    figures: tuple[Figure, ...]
    entries: tuple[dict[str, Any], ...]
    """The scripts as JSON values, for the browser."""
    options: tuple[tuple[int, str], ...]
    """Number of each of these trees in the file, and the beginning of its request."""
    scales: Mapping[str, tuple[float, float]]
    states: tuple[tuple[str, str], ...] = tuple((state.value, state.meaning) for state in State)
    glyphs: Mapping[str, str] = field(default_factory=lambda: dict(GLYPHS))
    """The sign of each state that has one."""


def correction_section(run: RunData, share: float = 1.0) -> CorrectionSection | None:
    """The section on corrections, or None where nothing was corrected.

    Args:
        run: The run.
        share: Of the room that corrections usually have.
    """
    counts = run.trees.counts.scripts
    if not counts.scripts:
        return None
    entries, _ = fitting(run.trees, script_entry, round(SCRIPT_BYTES * share))
    return CorrectionSection(
        total=counts.scripts, left_out=counts.scripts - len(entries), counts=tuple(_counted(counts, run)),
        outcomes=tuple((f"{count:,}", OUTCOMES[outcome]) for outcome, count in counts.outcomes.most_common()),
        figures=tuple(_figures(counts)), **_browser(entries),
    )


def with_corrections(section: CorrectionSection, entries: Sequence[dict[str, Any]]) -> CorrectionSection:
    """The section with other answers to look at."""
    return replace(section, **_browser(entries))


def _browser(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    views = [view for entry in entries for segment in entry["segments"] for attempt in segment["attempts"]
             for view in (attempt["before"], attempt["after"]) if view is not None]
    return {"entries": tuple(entries), "scales": scales(views),
            "options": tuple((entry["number"], beginning(entry["request"])) for entry in entries)}


def _counted(counts: ScriptCounts, run: RunData) -> Iterator[Count]:
    yield Count(f"{counts.scripts:,}", "answers corrected" if counts.scripts != 1 else "answer corrected")
    moved = [f"{counts.inserted:,} inserted" if counts.inserted else "",
             f"{counts.struck_out:,} struck out" if counts.struck_out else ""]
    yield Count(f"{counts.segments:,}", "segments", ", ".join(filter(None, moved)))
    people = sum(counts.people.values())
    yield Count(f"{counts.changed:,}", "changed", f"{people:,} corrected by {_people(counts)}" if people else "")
    if counts.outcomes.total() > people:
        rate = counts.acceptance
        yield Count(percent(rate) if rate is not None else "–", "accepted",
                    f"{counts.accepted:,} of {plural(counts.revised, 'revised text')}, "
                    f"{counts.outcomes.total() - people:,} attempts")
    if counts.mean_gain is not None:
        yield Count(signed(MEASURE["judge"], counts.mean_gain), "mean gain",
                    f"in the score of {plural(counts.gained, 'accepted revision')}")
    full = run.full_length_pairs
    yield Count(f"{len(run.pairs):,}", "pairs", f"{full:,} of full length, {len(run.pairs) - full:,} of prefixes "
                "or segments" if run.pairs else "")


def _people(counts: ScriptCounts) -> str:
    return next(iter(counts.people)) if len(counts.people) == 1 else plural(len(counts.people), "person", "people")


def _figures(counts: ScriptCounts) -> Iterator[Figure]:
    if counts.faults:
        bars = [(name, float(counts.faults[aspect])) for aspect, name in ASPECTS.items()]
        yield Figure("Faults", "what the critic found, by aspect", bar_chart(
            "faults", "Faults by aspect", "; ".join(f"{name}: {count:g}" for name, count in bars), bars,
            axis_name="aspect"))


def script_entry(tree: SearchTree, number: int, limit: int) -> dict[str, Any] | None:
    """A script as JSON values, or None when the tree has none.

    Args:
        tree: Of an IterDPO run.
        number: Of the tree in the run, from 1.
        limit: Characters of a text that are kept.
    """
    script = tree.script
    if script is None or not script.segments:
        return None
    request, request_cut = cut_end(request_of(tree.prompt.prompt), REQUEST_CHARACTERS)
    return {
        "number": number, "id": tree.id, "request": request, "request_cut": request_cut,
        "target": tree.prompt.target_words, "draft": script.draft, "ends": script.ends,
        "words": [count_words(script.original), count_words(script.revised)],
        "segments": _segments(script, limit),
    }


def _segments(script: Script, limit: int) -> list[dict[str, Any]]:
    return [_segment(segment, limit) for segment in script.segments]


def _segment(segment: ScriptSegment, limit: int) -> dict[str, Any]:
    sides = _sides(segment.original, segment.revised, limit)
    stood = segment.original
    attempts: list[dict[str, Any]] = []
    for correction in segment.corrections:
        attempts.append(_attempt(correction, stood, segment, limit))
        if correction.outcome is CorrectionOutcome.ACCEPTED and correction.text is not None:
            stood = correction.text
    return {"state": State.of(segment).value, "inserted": not segment.original, "struck": not segment.revised,
            **sides, "attempts": attempts}


def _sides(original: str, revised: str, limit: int) -> dict[str, Any]:
    """Both texts cut into alternating parts (differing, shared, ...); one text where they are equal."""
    (before, cut_before), (after, cut_after) = cut_end(original, limit), cut_end(revised, limit)
    words = [count_words(original), count_words(revised)]
    if original == revised:
        return {"text": before, "cut": [cut_before, cut_after], "words": words}
    marked = compare(before, after)
    return {"parts": [marked.chosen, marked.rejected], "shared": round(marked.shared, 3),
            "cut": [cut_before, cut_after], "words": words}


def _attempt(correction: Correction, stood: str, segment: ScriptSegment, limit: int) -> dict[str, Any]:
    """One attempt; its text only where the segment's own sides do not show it."""
    shown = (stood, correction.text) == (segment.original, segment.revised)
    proposed = None
    if correction.text is not None and correction.text != stood and not shown:
        proposed = _sides(stood, correction.text, limit)
    return {
        "round": correction.round, "outcome": correction.outcome.value, "meaning": OUTCOMES[correction.outcome],
        "faults": [[ASPECTS[fault.aspect], fault.quote, fault.advice] for fault in correction.faults],
        "before": _view(correction.before), "after": _view(correction.after), "failed": correction.failed,
        "by": correction.by, "proposed": proposed,
    }


def _view(judgement: Judgement | None) -> dict[str, Any] | None:
    """A judgement's scores, or why there are none."""
    return None if judgement is None else judged(judgement) | {"unscored": judgement.unscored}
