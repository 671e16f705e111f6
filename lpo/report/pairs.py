"""What the pair browser shows: pairs with their difference marked, their siblings' scores, and what was rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lpo.records import PreferencePair, Reason, RejectedRow, SearchNode, SearchTree
from lpo.report.charts import bar_chart, nice_ticks, plain
from lpo.report.data import RunData, Stability
from lpo.report.entries import (
    REQUEST_CHARACTERS,
    beginning,
    cut_end,
    judged,
    request_of,
    rounded,
    sample,
    scales,
    spread,
)
from lpo.report.kinds import RunKind
from lpo.report.pair_lengths import LengthGap
from lpo.report.scores import Figure, percent
from lpo.report.wording import LONGEST, compare
from lpo.words import count_words

PAIR_BYTES = 800_000
"""Room for pairs on the page."""
SIDE_CHARACTERS = 24_000
PREFIX_CHARACTERS = 2_400

REASONS: Mapping[Reason, str] = {
    Reason.TIE: "no candidate was better than another",
    Reason.SMALL_MARGIN: "the scores lie closer together than build.pairs.min_margin",
    Reason.EQUAL_TEXTS: "both sides are the same text",
    Reason.DUPLICATE: "the same prompt stands earlier in the file",
    Reason.EMPTY: "a side or the prompt is empty",
    Reason.TOO_FEW_CANDIDATES: "fewer than two different candidates",
    Reason.VETOED: "every candidate contradicts what the answer has stated",
    Reason.NO_VETO: "the rule wants a candidate that contradicts a fact, and there is none",
    Reason.NO_PLAN: "no usable plan came, so there were no steps",
    Reason.TOO_FEW_SCORED: "fewer answers have a score than build.answers.min_scored",
    Reason.NO_CORRECTION: "no segment was changed, so there is nothing to prefer",
    Reason.LEFT_OUT: "more pairs of prefixes than build.correction.full_share allows",
    Reason.NO_LENGTH: "the prompt asks for no length (build.agent_write.explicit_length)",
    Reason.OFF_LENGTH: "too far from the length asked for (build.agent_write.min_length_score)",
    Reason.INCOMPLETE: "a section of the plan was not written",
    Reason.NATURAL_END: "the best step ends the answer; the released code takes no pair from it",
    Reason.HELD_OUT: "the same prompt is held out for the evaluation",
    Reason.OFF_PATH: "the layer does not lie on the path that pairs are taken from",
    Reason.UNSCORED: "the judge gave no score; a failed judgement is never a number",
    Reason.REQUEST_REJECTED: "the server refused the request",
    Reason.TOO_LONG: "longer than the model can read",
    Reason.NOTHING_TO_SCORE: "no token of the answer is left to score",
    Reason.TEMPLATE: "the chat template does not keep the prompt as the beginning of the row",
    Reason.MALFORMED: "the row is not what it should be",
}


@dataclass(frozen=True)
class RejectedReason:
    """How many rows were dropped for one reason."""

    reason: str
    meaning: str
    count: int
    share: float
    examples: tuple[RejectedRow, ...]


@dataclass(frozen=True)
class PairSection:
    """Everything the section on pairs shows."""

    total: int
    left_out: int
    entries: tuple[dict[str, Any], ...]
    """The pairs as JSON values, for the browser."""
    prompts: tuple[tuple[str, str], ...]
    """`(group, beginning of the request)` for the filter."""
    scales: Mapping[str, tuple[float, float]]
    largest_margin: float
    figures: tuple[Figure, ...]
    stability: str | None
    rejected: tuple[RejectedReason, ...]
    rejected_total: int
    intro: str


INTRO: Mapping[RunKind, str] = {
    RunKind.STEPS: "What the model was taught: after the same beginning, one continuation was scored above another.",
    RunKind.ANSWERS: "What a model is taught: of two whole answers to one request, one was scored above the other.",
    RunKind.SCRIPTS: "What the model was taught: the corrected text above the one that was written first, and of whole "
                     "answers one above another where several were sampled.",
    RunKind.SCORED: "What the scores would teach a model: of two answers to one question, one was scored above the "
                    "other.",
    RunKind.PLANS: "",
}


def pair_section(run: RunData, share: float = 1.0) -> PairSection | None:
    """The section on pairs, or None before the build.

    Args:
        run: The run.
        share: Of the room that pairs usually have.
    """
    if run.build is None and not run.pairs:
        return None
    entries = sample((pair_entry(pair, run.trees.get(str(pair.provenance.get("tree"))), index)
                      for index, pair in spread(run.pairs)), round(PAIR_BYTES * share))
    entries.sort(key=lambda entry: entry["number"])
    margins = [pair.margin for pair in run.pairs if pair.margin is not None]
    counts = Counter(run.build.rejected if run.build else (row.reason.value for row in run.rejected))
    return PairSection(
        total=len(run.pairs), left_out=len(run.pairs) - len(entries), **_browser(entries),
        largest_margin=max(margins, default=0.0), figures=_figures(run, margins),
        stability=_stability(run.build.stability) if run.build else None,
        rejected=rejected_reasons(counts, run.rejected), rejected_total=counts.total(),
        intro=INTRO[run.kind],
    )


def with_pairs(section: PairSection, entries: Sequence[dict[str, Any]]) -> PairSection:
    """The section with other pairs to look at."""
    return replace(section, **_browser(entries))


def _browser(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"entries": tuple(entries),
            "prompts": tuple({entry["group"]: beginning(entry["request"]) for entry in entries}.items()),
            "scales": scales(entry[side] for entry in entries for side in ("chosen", "rejected"))}


def pair_entry(pair: PreferencePair, tree: SearchTree | None, index: int, longest: int = LONGEST) -> dict[str, Any]:
    """A pair as JSON values.

    Args:
        pair: The pair.
        tree: That it comes from, where there is one.
        index: Its place in the file, from 0.
        longest: Words of a side beyond which only what both share at the ends is marked.
    """
    # The prompt of a pair begins with the document it is about; that of the tree holds what is asked alone.
    request, request_cut = cut_end(request_of(pair.prompt if tree is None else tree.prompt.prompt), REQUEST_CHARACTERS)
    cut = max(0, len(pair.prefix) - PREFIX_CHARACTERS)
    sides = {"chosen": cut_end(pair.chosen, SIDE_CHARACTERS), "rejected": cut_end(pair.rejected, SIDE_CHARACTERS)}
    comparison = compare(sides["chosen"][0], sides["rejected"][0], longest)
    judgements = {"chosen": pair.scores.chosen, "rejected": pair.scores.rejected} if pair.scores else {}
    return {
        "number": index + 1, "id": pair.id, "group": pair.group, "place": _place(pair), "margin": pair.margin,
        "method": pair.method, "request": request, "request_cut": request_cut,
        "document": count_words(tree.prompt.context or "") if tree is not None else 0,
        "prefix": pair.prefix[cut:], "prefix_cut": cut, "prefix_words": count_words(pair.prefix),
        "shared": round(comparison.shared, 3),
        **{side: {
            "parts": getattr(comparison, side), "cut": sides[side][1], "words": count_words(getattr(pair, side)),
            "ends": getattr(pair, f"{side}_ends"), **judged(judgements.get(side)),
        } for side in ("chosen", "rejected")},
        "siblings": [[rounded(node.judgement.overall), _role(node, pair)] for node in _siblings(pair, tree)
                     if node.judgement is not None and node.judgement.overall is not None],
    }


def _place(pair: PreferencePair) -> str:
    """Which part of an answer the sides are."""
    number, segments = pair.provenance.get("segment"), pair.provenance.get("segments")
    if pair.method in ("best_of_n", "general") or pair.provenance.get("mode") == "full":
        return "whole answers"
    if pair.method != "iterdpo":
        return f"step {pair.step + 1}"
    if number is None:
        return "whole answers"
    of = f" of {segments}" if segments else ""
    grows = pair.provenance.get("mode") == "prefix" and number > 1
    return f"{f'segments 1–{number}' if grows else f'segment {number}'}{of}"


def _siblings(pair: PreferencePair, tree: SearchTree | None) -> list[SearchNode]:
    """The candidates of the layer a pair was taken from; none when the pair does not come from a tree."""
    if tree is None:
        return []
    parents = {node.parent for node in tree.nodes if node.id == pair.provenance.get("chosen")}
    return [node for node in tree.nodes if node.parent is not None and node.parent in parents]


def _role(node: SearchNode, pair: PreferencePair) -> str:
    sides = {pair.provenance.get(side): side for side in ("chosen", "rejected")}
    return sides.get(node.id, "unused")


def _figures(run: RunData, margins: Sequence[float]) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    if margins:
        ticks = nice_ticks(0.0, max(margins), count=7)
        counts = Counter(sum(margin >= tick for tick in ticks[1:-1]) for margin in margins)
        bars = [(plain(tick), float(counts[index])) for index, tick in enumerate(ticks[:-1])]
        figures.append(Figure("Margins", "pairs by margin; a label is where its bar begins", bar_chart(
            "margins", "Margins of the pairs", "; ".join(f"from {label}: {count:g}" for label, count in bars), bars,
            axis_name="margin")))
    if run.length_gap is not None:
        figures.append(_length_figure(run.length_gap))
    steps = Counter(pair.step for pair in run.pairs)
    if len(steps) > 1:
        name = "segment" if run.kind is RunKind.SCRIPTS else "step"
        bars = [(str(step + 1), float(steps[step])) for step in range(max(steps) + 1)]
        figures.append(Figure(f"{name.capitalize()}s", f"pairs by {name} of the answer", bar_chart(
            "steps", f"Pairs by {name}", "; ".join(f"{name} {label}: {count:g}" for label, count in bars), bars,
            axis_name=name)))
    return tuple(figures)


def _length_figure(gap: LengthGap) -> Figure:
    """A histogram of the differences."""
    ticks = nice_ticks(min(0, *gap.differences), max(0, *gap.differences), count=6)
    counts = Counter(sum(difference >= tick for tick in ticks[1:-1]) for difference in gap.differences)
    bars = [(plain(tick), float(counts[index])) for index, tick in enumerate(ticks[:-1])]
    described = "; ".join(f"from {label}: {count:g}" for label, count in bars)
    return Figure("Length, chosen − rejected", f"pairs by words; mean {gap.bracket}; a label is where its bar begins",
                  bar_chart("lengths", "Words of chosen minus words of rejected", described, bars, axis_name="words"))


def _stability(stability: Stability | None) -> str | None:
    """How far the ranking depends on the wording of the rubric, in a sentence."""
    if stability is None:
        return None
    layers = f"{stability.layers} layer{'' if stability.layers == 1 else 's'}"
    parts = [f"The judge ranked the candidates of {layers} once more under a reworded rubric."]
    if stability.kendall_tau is not None:
        parts.append(f"Kendall's τ between the two rankings is {plain(round(stability.kendall_tau, 2))} "
                     "(1: the same order, 0: unrelated).")
    if stability.same_best is not None:
        parts.append(f"The same candidate was best in {percent(stability.same_best)} of them.")
    return " ".join(parts)


def rejected_reasons(counts: Counter[str], rows: Sequence[RejectedRow]) -> tuple[RejectedReason, ...]:
    """Rows that were dropped, by reason, the most frequent first."""
    meanings = {reason.value: meaning for reason, meaning in REASONS.items()}
    most = max(counts.values(), default=1)
    return tuple(RejectedReason(
        reason, meanings.get(reason, ""), count, count / most,
        tuple(row.model_copy(update={"detail": row.detail[:300]}) for row in rows if row.reason.value == reason)[:5],
    ) for reason, count in counts.most_common())
