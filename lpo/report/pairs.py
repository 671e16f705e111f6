"""What the pair browser shows: pairs with their difference marked, their siblings' scores, and what was rejected."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lpo.records import Dialogue, Judgement, PreferencePair, Reason, RejectedRow, SearchNode, SearchTree
from lpo.report.charts import bar_chart, nice_ticks, plain
from lpo.report.data import RunData, Stability
from lpo.report.scores import Figure, percent
from lpo.report.wording import compare
from lpo.words import count_words

PAIR_BYTES = 1_500_000
"""Room for pairs on the page."""
SIDE_CHARACTERS = 24_000
REQUEST_CHARACTERS = 4_000
PREFIX_CHARACTERS = 2_400

REASONS: Mapping[Reason, str] = {
    Reason.TIE: "no candidate was better than another",
    Reason.SMALL_MARGIN: "the scores lie closer together than build.min_margin",
    Reason.EQUAL_TEXTS: "both sides are the same text",
    Reason.EMPTY: "a side or the prompt is empty",
    Reason.TOO_FEW_CANDIDATES: "fewer than two different candidates",
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


def pair_section(run: RunData) -> PairSection | None:
    """The section on pairs, or None before the build."""
    if run.build is None and not run.pairs:
        return None
    trees = {tree.id: tree for tree in run.trees}
    entries = sample((_entry(pair, _siblings(pair, trees), index) for index, pair in _spread(run.pairs)), PAIR_BYTES)
    entries.sort(key=lambda entry: entry["number"])
    margins = [pair.margin for pair in run.pairs if pair.margin is not None]
    counts = Counter(run.build.rejected if run.build else (row.reason.value for row in run.rejected))
    return PairSection(
        total=len(run.pairs), left_out=len(run.pairs) - len(entries), entries=tuple(entries),
        prompts=tuple({entry["group"]: _beginning(entry["request"]) for entry in entries}.items()),
        scales=scales(entries), largest_margin=max(margins, default=0.0), figures=_figures(run.pairs, margins),
        stability=_stability(run.build.stability) if run.build else None,
        rejected=_rejected(counts, run.rejected), rejected_total=counts.total(),
    )


Item = TypeVar("Item")


def sample(entries: Iterable[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """Entries, in the order given, until the room is used; each counts what it takes as UTF-8 JSON inside HTML."""
    kept: list[dict[str, Any]] = []
    for entry in entries:
        text = json.dumps(entry, ensure_ascii=False)
        room -= len(text.encode()) + 5 * sum(text.count(char) for char in "<>&'")
        if room < 0:
            break
        kept.append(entry)
    return kept


def _spread(rows: Sequence[Item]) -> list[tuple[int, Item]]:
    """Every row once, numbered, in an order whose every beginning is spread evenly over the whole."""
    golden = (math.sqrt(5) - 1) / 2
    return sorted(enumerate(rows), key=lambda item: item[0] * golden % 1)


def _entry(pair: PreferencePair, siblings: Sequence[SearchNode], index: int) -> dict[str, Any]:
    request, request_cut = _cut_end(_request(pair.prompt), REQUEST_CHARACTERS)
    cut = max(0, len(pair.prefix) - PREFIX_CHARACTERS)
    sides = {"chosen": _cut_end(pair.chosen, SIDE_CHARACTERS), "rejected": _cut_end(pair.rejected, SIDE_CHARACTERS)}
    comparison = compare(sides["chosen"][0], sides["rejected"][0])
    judged = {"chosen": pair.scores.chosen, "rejected": pair.scores.rejected} if pair.scores else {}
    return {
        "number": index + 1, "id": pair.id, "group": pair.group, "step": pair.step, "margin": pair.margin,
        "method": pair.method, "request": request, "request_cut": request_cut,
        "prefix": pair.prefix[cut:], "prefix_cut": cut, "prefix_words": count_words(pair.prefix),
        "shared": round(comparison.shared, 3),
        **{side: {
            "parts": getattr(comparison, side), "cut": sides[side][1], "words": count_words(getattr(pair, side)),
            "ends": getattr(pair, f"{side}_ends"), **_judged(judged.get(side)),
        } for side in ("chosen", "rejected")},
        "siblings": [[_rounded(node.judgement.overall), _role(node, pair)] for node in siblings
                     if node.judgement is not None and node.judgement.overall is not None],
    }


def _judged(judgement: Judgement | None) -> dict[str, Any]:
    if judgement is None:
        return {"overall": None, "scores": {}, "grades": {}}
    grades = grade_distributions(judgement.parts)
    short = {name: name.rpartition(".")[2] for name in judgement.scores}  # expected_grade.accuracy -> accuracy
    return {"overall": _rounded(judgement.overall),
            "scores": {short[name] if short[name] in grades else name: _rounded(value)
                       for name, value in judgement.scores.items()},
            "grades": grades}


def grade_distributions(parts: Mapping[str, Any]) -> dict[str, list[float]]:
    """The judge's distributions over grades, wherever the parts of a judgement hold them (under `weights`).

    Returns:
        Principle to the probabilities of the grades, lowest grade first.
    """
    found: dict[str, list[float]] = {}
    for name, value in parts.items():
        if not isinstance(value, Mapping):
            continue
        if name == "weights":
            found |= {dimension: [round(float(weight), 4) for weight in weights] for dimension, weights in value.items()
                      if isinstance(weights, list) and all(isinstance(weight, (int, float)) for weight in weights)}
        else:
            found |= grade_distributions(value)
    return found


def scales(entries: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """The scale of each dimension of the scores: grades run from 1 to 5, everything else from 0 to 1 or 100."""
    found: dict[str, tuple[float, float]] = {}
    for side in (entry[side] for entry in entries for side in ("chosen", "rejected")):
        for name, value in side["scores"].items():
            low, high = found.get(name, (0.0, 1.0))
            if name in side["grades"] or 1 < value <= 5:
                low, high = 1.0, max(high, 5.0)
            elif value > 5:
                low, high = 0.0, max(high, 10.0 if value <= 10 else 100.0)
            found[name] = (low, high)
    return found


def _siblings(pair: PreferencePair, trees: Mapping[str, SearchTree]) -> list[SearchNode]:
    """The candidates of the layer a pair was taken from; none when the pair does not come from a tree."""
    tree = trees.get(str(pair.provenance.get("tree")))
    if tree is None:
        return []
    parents = {node.parent for node in tree.nodes if node.id == pair.provenance.get("chosen")}
    return [node for node in tree.nodes if node.parent is not None and node.parent in parents]


def _role(node: SearchNode, pair: PreferencePair) -> str:
    sides = {pair.provenance.get(side): side for side in ("chosen", "rejected")}
    return sides.get(node.id, "unused")


def _request(prompt: Dialogue) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(message.content for message in prompt if message.role != "assistant")


def _cut_end(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text and how many characters were left out after it."""
    return text[:limit], max(0, len(text) - limit)


def _beginning(text: str, limit: int = 70) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit - 1].rstrip() + "…"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _figures(pairs: Sequence[PreferencePair], margins: Sequence[float]) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    if margins:
        ticks = nice_ticks(0.0, max(margins), count=7)
        counts = Counter(sum(margin >= tick for tick in ticks[1:-1]) for margin in margins)
        bars = [(plain(tick), float(counts[index])) for index, tick in enumerate(ticks[:-1])]
        figures.append(Figure("Margins", "pairs by margin; a label is where its bar begins", bar_chart(
            "margins", "Margins of the pairs", "; ".join(f"from {label}: {count:g}" for label, count in bars), bars,
            axis_name="margin")))
    steps = Counter(pair.step for pair in pairs)
    if len(steps) > 1:
        bars = [(str(step + 1), float(steps[step])) for step in range(max(steps) + 1)]
        figures.append(Figure("Steps", "pairs by step of the answer", bar_chart(
            "steps", "Pairs by step", "; ".join(f"step {label}: {count:g}" for label, count in bars), bars,
            axis_name="step")))
    return tuple(figures)


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


def _rejected(counts: Counter[str], rows: Sequence[RejectedRow]) -> tuple[RejectedReason, ...]:
    meanings = {reason.value: meaning for reason, meaning in REASONS.items()}
    most = max(counts.values(), default=1)
    return tuple(RejectedReason(
        reason, meanings.get(reason, ""), count, count / most,
        tuple(row.model_copy(update={"detail": row.detail[:300]}) for row in rows if row.reason.value == reason)[:5],
    ) for reason, count in counts.most_common())
