"""What the section on whole answers shows: the answers to each prompt, ranked, with what the scores were made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lpo.intervals import bootstrap_mean
from lpo.records import Judgement, Origin, SearchNode, SearchTree
from lpo.report.charts import IntervalRow, interval_chart, plain
from lpo.report.data import Interval, RunData, ScoredAnswers
from lpo.report.entries import LONGREWARD, REQUEST_CHARACTERS, cut_end, request_of
from lpo.report.fitting import fitting
from lpo.report.kinds import RunKind
from lpo.report.longreward import dimensions, evidence, notes
from lpo.report.scores import MEASURE, Figure, points
from lpo.report.story import Count
from lpo.report.tree_counts import DUPLICATE
from lpo.words import count_words

ANSWER_BYTES = 700_000
"""Room for answers on the page; half of it where corrections stand there too."""
RESAMPLES = 2_000

ORIGINS = {Origin.SAMPLED: "sampled", Origin.EXTENDED: "lengthened", Origin.GIVEN: "given"}


@dataclass(frozen=True)
class AnswerSection:
    """Everything the section on answers shows."""

    total: int
    left_out: int
    counts: tuple[Count, ...]
    entries: tuple[dict[str, Any], ...]
    """The prompts as plain values, each with its answers in the order of their rank."""
    figures: tuple[Figure, ...]
    means: Figure | None
    """Of a file that was scored."""
    penalty: float
    """`build.pairs.length_penalty`."""


def answer_section(run: RunData, share: float = 1.0) -> AnswerSection | None:
    """The section on answers, or None when there are none.

    Args:
        run: The run.
        share: Of the room that answers usually have.
    """
    if not run.trees.counts.candidates:
        return None
    room = ANSWER_BYTES // 2 if run.kind is RunKind.SCRIPTS else ANSWER_BYTES
    entries, _ = fitting(run.trees, answers_entry, round(room * share))
    answered = run.trees.counts.answered
    return AnswerSection(
        total=answered, left_out=answered - len(entries), counts=tuple(_counted(run)),
        entries=tuple(entries), figures=tuple(filter(None, [_by_dimension(run)])),
        means=_means(run.scored) if run.scored is not None else None,
        penalty=run.setting("build", "pairs", "length_penalty") or 0.0,
    )


def _counted(run: RunData) -> Iterator[Count]:
    counts = run.trees.counts
    origins = [f"{count:,} {ORIGINS.get(origin, origin.value)}" for origin, count in counts.origins.most_common()]
    yield Count(f"{counts.answered:,}", "prompts" if counts.answered != 1 else "prompt")
    yield Count(f"{counts.candidates:,}", "answers", ", ".join(origins) if len(origins) > 1 else "all " + origins[0])
    yield Count(f"{counts.scored:,}", "with a score", f"{counts.unscored:,} unscored" if counts.unscored else "")
    others = counts.set_aside.total() - counts.set_aside[DUPLICATE]
    if counts.set_aside:
        yield Count(f"{counts.set_aside.total():,}", "set aside", f"{counts.set_aside[DUPLICATE]:,} as duplicates"
                    + (f", {others:,} for other reasons" if others else ""))


def answers_entry(tree: SearchTree, number: int, limit: int) -> dict[str, Any] | None:
    """The answers to a prompt as plain values, or None when it has none.

    Args:
        tree: Of one layer.
        number: Of the tree in the run, from 1.
        limit: Characters of a text that are kept.
    """
    nodes = sorted((node for node in tree.nodes if node.parent is not None), key=_rank)
    if not nodes:
        return None
    request, request_cut = cut_end(request_of(tree.prompt.prompt), REQUEST_CHARACTERS)
    longest = max(count_words(node.text) for node in nodes)
    names = _names(tree)
    return {
        "number": number, "id": tree.id, "request": request, "request_cut": request_cut,
        "target": tree.prompt.target_words, "context_words": count_words(tree.prompt.context or ""),
        "longest": max(longest, tree.prompt.target_words or 0, 1),
        "range": _range(nodes),
        "notes": notes([node.judgement for node in nodes], limit),
        "answers": [_answer(node, place, names, tree.prompt.context, limit)
                    for place, node in enumerate(nodes, start=1)],
    }


def _rank(node: SearchNode) -> tuple[int, float]:
    """The best score first; then answers without one, then those that were set aside."""
    if node.score is not None:
        return 0, -node.score
    return (1, 0.0) if node.note is None else (2, 0.0)


def _range(nodes: Sequence[SearchNode]) -> str:
    """The lowest and the highest score."""
    scores = [node.score for node in nodes if node.score is not None]
    write = MEASURE["judge"].write
    return f"{write(min(scores))}–{write(max(scores))}" if scores else "no score"


def _names(tree: SearchTree) -> dict[str, str]:
    """What the answers were called where they came from."""
    given = tree.prompt.meta.get("answer_ids")
    nodes = [node.id for node in tree.nodes if node.parent is not None]
    if not isinstance(given, (list, tuple)) or len(given) != len(nodes):
        return {}
    return dict(zip(nodes, map(str, given), strict=True))


def _answer(node: SearchNode, place: int, names: dict[str, str], context: str | None, limit: int) -> dict[str, Any]:
    text, cut = cut_end(node.text, limit)
    judgement = node.judgement
    found = dimensions(judgement) if judgement is not None else {}
    return {
        "rank": place if node.score is not None else None, "id": names.get(node.id, node.id), "role": node.role,
        "origin": _origin(node, names), "words": count_words(node.text), "ends": node.ends, "text": text, "cut": cut,
        "score": node.score, "score_text": None if node.score is None else MEASURE["judge"].write(node.score),
        "why": _why_unscored(node), "dimensions": [[name, value, points(value)] for name, value in found.items()],
        "scores": [] if found or judgement is None else _other_scores(judgement),
        "extend": node.failures.get("extend"), **evidence(judgement, context, max(200, limit // 10)),
    }


def _origin(node: SearchNode, names: dict[str, str]) -> str:
    name = ORIGINS.get(node.origin, node.origin.value)
    return f"{name} from {names.get(node.extends, node.extends)}" if node.extends else name


def _why_unscored(node: SearchNode) -> str | None:
    if node.note is not None:
        return f"set aside: {node.note}"
    if node.judgement is None:
        return "not judged"
    return None if node.judgement.unscored is None else f"no score: {node.judgement.unscored}"


def _other_scores(judgement: Judgement) -> list[tuple[str, str]]:
    """What other scorers say, without the judge's single principles where there are many."""
    named = {name: value for name, value in judgement.scores.items() if "." not in name} or judgement.scores
    return [(name.replace("_", " "), f"{value:.3g}") for name, value in named.items()]


def _means(scored: ScoredAnswers) -> Figure | None:
    """The means of `score.json`, in a table with their intervals; drawn where they are LongReward's dimensions."""
    table = tuple((name.rpartition(".")[2].replace("_", " "), plain(round(mean.mean, 3)), _ends(mean), str(mean.n),
                   str(mean.unscored)) for name, mean in scored.means.items() if mean.mean is not None)
    rows = [IntervalRow(name.rpartition(".")[2], "trained", mean.mean, mean.bounds)
            for name, mean in scored.means.items() if name.rpartition(".")[2] in LONGREWARD and mean.mean is not None]
    if not table:
        return None
    chart = interval_chart("means", "LongReward's dimensions", "; ".join(" ".join(row) for row in table), rows,
                           write=points, span=(0.0, 10.0)) if rows else Markup("")
    return Figure("Means", f"over all answers with a score; intervals of 95 % over {scored.interval_over}", chart,
                  ("score", "mean", "interval", "answers", "unscored"), table)


def _ends(interval: Interval) -> str:
    if interval.bounds is None:
        return ""
    low, _, high = interval.bounds
    return f"[{plain(round(low, 3))}, {plain(round(high, 3))}]"


def _by_dimension(run: RunData) -> Figure | None:
    """LongReward's dimensions on both sides of the pairs."""
    sides: dict[str, list[tuple[str, dict[str, float]]]] = {"chosen": [], "rejected": []}
    for pair in run.pairs:
        if pair.scores is not None:
            for side, judgement in (("chosen", pair.scores.chosen), ("rejected", pair.scores.rejected)):
                if found := dimensions(judgement):
                    sides[side].append((pair.group, found))
    rows: list[IntervalRow] = []
    table: list[tuple[str, ...]] = []
    for name in LONGREWARD:
        for side, judged in sides.items():
            values = [(group, found[name]) for group, found in judged if name in found]
            if values:
                rows.append(_interval(name, side, values))
                table.append((name, side, points(rows[-1].mean or 0.0), str(len(values))))
    if not rows:
        return None
    return Figure(
        "LongReward's dimensions", "mean over the pairs, 0–10; the first line of each is the chosen side",
        interval_chart("dimensions", "LongReward's dimensions by side", "; ".join(" ".join(row) for row in table), rows,
                       write=points, span=(0.0, 10.0)), ("dimension", "side", "mean", "pairs"), tuple(table))


def _interval(name: str, side: str, values: Sequence[tuple[str, float]]) -> IntervalRow:
    found = bootstrap_mean([value for _, value in values], seed=0, resamples=RESAMPLES,
                           groups=[group for group, _ in values])
    bounds = None
    if found.mean is not None and found.low is not None and found.high is not None:
        bounds = (found.low, found.mean, found.high)
    return IntervalRow(name if side == "chosen" else "", side, found.mean, bounds)
