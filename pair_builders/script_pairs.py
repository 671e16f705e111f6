"""The pairs of a corrected answer (LongWriter-V's IterDPO, arXiv 2502.14834), and of the answers it was chosen from.

Pure: other pairs can be made of a stored tree without a single call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from lpo.build_config import BuildConfig
from lpo.pair_builders.answer_pairs import answer_pairs
from lpo.pair_builders.pairs import Derived
from lpo.records import (
    CorrectionOutcome,
    PairScores,
    PreferencePair,
    Reason,
    RejectedRow,
    Script,
    ScriptSegment,
    SearchTree,
    fingerprint,
)
from lpo.segment_pairs import IterMode, SegmentPair
from lpo.words import count_words


def script_pairs(tree: SearchTree, build: BuildConfig) -> Derived:
    """The pairs of one tree: those of its answers, where there are two or more (`answer_pairs`), then those of its
    script in the mode of `build.correction`.

    A script of N segments of which any was changed gives N pairs in the modes `prefix` and `local`, one in the mode
    `full`, each of them kept or rejected: sides that are equal, an empty side, or (mode `prefix`) left out so that
    full-length pairs reach `build.correction.full_share` of this tree's. One that was not changed, or that is not
    there, gives one rejected row. The end of the turn is scored after the last segment only, and only where the draft
    had ended.

    A margin is given where the judge saw both sides in the same place: the sides differ in their last segment alone.
    Of later prefixes the uncorrected beginning was never judged, and scores of growing texts do not add up.

    Args:
        tree: What `IterativeCorrection` saw.
        build: The `build` section.

    Returns:
        Pairs of the script are called `<tree>/script/<i>` (mode `full`: `<tree>/script`); their provenance says which
        segments were changed and whether they hold the whole script (`full_length`).
    """
    of_answers = Derived(tree, (), ())
    if sum(node.parent is not None for node in tree.nodes) >= 2:
        of_answers = answer_pairs(tree, build)
    pairs, rejected = _of_script(tree, IterMode(build.correction.mode))
    if build.correction.full_share:
        pairs, left_out = _leave_out(tree, pairs, len(of_answers.pairs), build.correction.full_share)
        rejected += left_out
    return Derived(of_answers.tree, (*of_answers.pairs, *pairs), (*of_answers.rejected, *rejected), of_answers.sft)


def _of_script(tree: SearchTree, mode: IterMode) -> tuple[list[PreferencePair], list[RejectedRow]]:
    """Every pair of the script, kept or rejected."""
    name, script = f"{tree.id}/script", tree.script
    if script is None:
        return [], [_missing(tree, name)]
    originals = [segment.original for segment in script.segments]
    revised = [segment.revised for segment in script.segments]
    if originals == revised:
        tried = Counter(correction.outcome.value for segment in script.segments for correction in segment.corrections)
        detail = ", ".join(f"{outcome}: {count}" for outcome, count in sorted(tried.items()))
        return [], [_reject(name, Reason.NO_CORRECTION, detail or "nothing was changed")]
    pairs: list[PreferencePair] = []
    rejected: list[RejectedRow] = []
    for pair in mode.pairs(originals, revised):
        pair_id = name if pair.number is None else f"{name}/{pair.number}"
        if pair.chosen == pair.rejected:
            rejected.append(_reject(pair_id, Reason.EQUAL_TEXTS, "nothing was changed here"))
        elif not pair.chosen.strip() or not pair.rejected.strip():
            empty = "rejected" if pair.chosen.strip() else "chosen"
            rejected.append(_reject(pair_id, Reason.EMPTY, f"the {empty} side has no text"))
        else:
            pairs.append(_pair(tree, script, pair, pair_id, mode))
    return pairs, rejected


def _pair(tree: SearchTree, script: Script, pair: SegmentPair, pair_id: str, mode: IterMode) -> PreferencePair:
    count = len(script.segments)
    upto = script.segments[:pair.number]
    changed = [number for number, segment in enumerate(upto, start=1) if segment.original != segment.revised]
    if mode is IterMode.LOCAL:
        changed = [number for number in changed if number == pair.number]
    scores = _scores(upto, pair)
    revised_ends = script.ends if script.revised_ends is None else script.revised_ends
    provenance: dict[str, Any] = {
        "tree": tree.id, "draft": script.draft, "seed": tree.seed, "rule": mode.value, "mode": mode.value,
        "segment": pair.number, "segments": count, "changed": changed,
        "full_length": mode is IterMode.FULL or (pair.number == count and (mode is IterMode.PREFIX or count == 1)),
        "words": {"chosen": count_words(pair.chosen), "rejected": count_words(pair.rejected)},
        **_made_by([upto[number - 1] for number in changed]),
    }
    return PreferencePair(
        id=pair_id, group=tree.id, prompt=tree.prompt.dialogue, prefix=pair.prefix, chosen=pair.chosen,
        rejected=pair.rejected, chosen_ends=pair.ends and revised_ends, rejected_ends=pair.ends and script.ends,
        step=pair.step, margin=_margin(scores), scores=scores, method=tree.method, provenance=provenance,
    )


def _made_by(segments: Sequence[ScriptSegment]) -> dict[str, Any]:
    """The corrections that made the changes, by outcome, and the people among those who made them."""
    taken = [correction for segment in segments for correction in segment.corrections
             if correction.outcome in (CorrectionOutcome.ACCEPTED, CorrectionOutcome.GIVEN)]
    people = sorted({correction.by for correction in taken if correction.by is not None})
    outcomes = dict(sorted(Counter(correction.outcome.value for correction in taken).items()))
    return {"corrections": outcomes, **({"by": people} if people else {})}


def _scores(segments: Sequence[ScriptSegment], pair: SegmentPair) -> PairScores | None:
    """The judgements of both sides, if they differ in the last of these segments alone: there both were judged."""
    *before, last = segments
    stands = "".join(segment.revised for segment in before)
    accepted = [one for one in last.corrections if one.outcome is CorrectionOutcome.ACCEPTED]
    if not accepted or pair.prefix + pair.rejected != stands + last.original:
        return None
    after, first = accepted[-1].after, accepted[0].before
    return PairScores(chosen=after, rejected=first) if after is not None and first is not None else None


def _margin(scores: PairScores | None) -> float | None:
    if scores is None or scores.chosen.overall is None or scores.rejected.overall is None:
        return None
    return scores.chosen.overall - scores.rejected.overall


def _leave_out(tree: SearchTree, pairs: Sequence[PreferencePair], others: int,
               share: float) -> tuple[list[PreferencePair], list[RejectedRow]]:
    """Leave out pairs of prefixes, drawn by a hash, until full-length ones are this share of the tree's.

    Args:
        tree: The tree.
        pairs: Of its script.
        others: Full-length pairs beside these.
        share: Above 0.
    """
    partial = [pair for pair in pairs if not pair.provenance["full_length"]]
    full = len(pairs) - len(partial) + others
    # The share as it is written, in decimals: 0.1 as a float would cost a pair now and then.
    most = math.floor(full * (1 / Fraction(str(share)) - 1))
    drawn = sorted(partial, key=lambda pair: fingerprint([tree.seed, tree.id, pair.step, "full_share"], 32))
    left_out = {pair.id for pair in drawn[most:]}
    rows = [_reject(pair.id, Reason.LEFT_OUT, f"{full} full-length pairs allow {most} of prefixes")
            for pair in pairs if pair.id in left_out]
    return [pair for pair in pairs if pair.id not in left_out], rows


def _missing(tree: SearchTree, name: str) -> RejectedRow:
    """Why there is no script."""
    answers = [node for node in tree.nodes if node.parent is not None]
    notes = [node.note for node in answers if node.note is not None]
    if answers and len(notes) == len(answers):
        refused = all(note.startswith(Reason.REQUEST_REJECTED) for note in notes)
        return _reject(name, Reason.REQUEST_REJECTED if refused else Reason.EMPTY,
                       "no answer to correct: " + "; ".join(sorted(set(notes))))
    return _reject(name, Reason.NO_CORRECTION, "nobody has corrected an answer to this prompt")


def _reject(row_id: str, reason: Reason, detail: str) -> RejectedRow:
    return RejectedRow(stage="build", id=row_id, reason=reason, detail=detail)
