"""What became of given answers: one row for each, means with their intervals, and what a person is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lpo.given_answers import ANSWER_IDS
from lpo.intervals import Interval, bootstrap_mean
from lpo.records import Reason, SearchNode, SearchTree
from lpo.run.build_counts import listed
from lpo.words import count_words

LONGREWARD = ("helpfulness", "logicality", "faithfulness", "completeness")
"""LongReward's dimensions: their sum, on 0–40, is the total that its own code stores."""

SHOWN = 20
"""So many answers are shown one by one."""

NAMES_OF_SCORERS = "longreward."
"""Stands before LongReward's dimensions where other scorers count as well."""


def scored_rows(tree: SearchTree) -> list[dict[str, Any]]:
    """The rows of scored.jsonl for the answers to one question, in the order they were given.

    An answer that equals an earlier one, up to white space, was not judged again: `unscored` says `duplicate`, and
    `same_as` of which.
    """
    nodes = [node for node in tree.nodes if node.parent is not None]
    names = {node.id: name for node, name in zip(nodes, tree.prompt.meta[ANSWER_IDS], strict=True)}
    return [_row(tree, node, names) for node in nodes]


def _row(tree: SearchTree, node: SearchNode, names: Mapping[str, str]) -> dict[str, Any]:
    judgement = node.judgement
    row: dict[str, Any] = {"id": names[node.id], "question": tree.id, "query": tree.prompt.request}
    if judgement is None:
        kind, _, other = (node.note or "").partition(" of ")
        row |= {"scores": {}, "total": None, "overall": None, "unscored": kind}
        if kind == Reason.DUPLICATE:
            row["same_as"] = names[other]
    else:
        row |= {"scores": judgement.scores, "total": _total(judgement.scores), "overall": judgement.overall,
                "unscored": judgement.unscored}
    return {**row, "words": count_words(node.text), "role": node.role}


def _total(scores: Mapping[str, float]) -> float | None:
    """The sum of LongReward's four dimensions; None where one is missing."""
    four = [scores.get(name, scores.get(f"{NAMES_OF_SCORERS}{name}")) for name in LONGREWARD]
    known = [score for score in four if score is not None]
    return sum(known) if len(known) == len(four) else None


def means(rows: Sequence[Mapping[str, Any]], *, seed: int, resamples: int) -> dict[str, Interval]:
    """The mean of every dimension, of the total, of `overall` and of the words, with 95 % intervals.

    What is resampled are questions, each with all its answers, which are not independent; of one question alone, the
    answers. Answers without a score are counted, and are in no mean but that of the words.
    """
    groups = [row["question"] for row in rows] if resampled(rows) == "questions" else None
    dimensions = dict.fromkeys(name for row in rows for name in row["scores"])
    columns = {name: [row["scores"].get(name) for row in rows] for name in dimensions}
    columns |= {name: [row[name] for row in rows] for name in ("total", "overall", "words")}
    if all(value is None for value in columns["total"]):
        del columns["total"]
    return {name: bootstrap_mean(values, seed=seed, resamples=resamples, groups=groups)
            for name, values in columns.items()}


def resampled(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the intervals are over: `questions`, or `answers` where there is but one question."""
    return "questions" if len({row["question"] for row in rows}) > 1 else "answers"


def extra_words(pairs: Sequence[tuple[str, int]], *, seed: int, resamples: int) -> Interval:
    """By how many words the chosen side of a pair is longer than the rejected one: scorers tend to like length.

    Args:
        pairs: The question of each, and by how many words.
        seed: Of the resampling.
        resamples: How many.
    """
    return bootstrap_mean([float(words) for _, words in pairs], seed=seed, resamples=resamples,
                          groups=[question for question, _ in pairs])


def questions(count: int) -> str:
    """So many, in words."""
    return "1 question" if count == 1 else f"{count} questions"


def unscored_reasons(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many answers have no score, by reason."""
    return dict(sorted(Counter(row["unscored"] for row in rows if row["unscored"] is not None).items()))


def summary_lines(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a person is told: the answers, where they are few, and the means."""
    lines = _table(rows) if len(rows) <= SHOWN else []
    over = summary["interval_over"]
    lines.append(f"{summary['scored']} of {summary['answers']} answers to {questions(summary['questions'])} have a "
                 f"score" + (f"; not: {listed(summary['unscored'])}" if summary["unscored"] else "")
                 + (f"; rows that could not be read: {listed(summary['rejected'])}" if summary["rejected"] else ""))
    lines += [f"{name:<24} {_mean(interval)}" for name, interval in summary["means"].items()
              if interval["mean"] is not None]
    if any(interval["low"] is not None for interval in summary["means"].values()):
        lines.append(f"(means; in brackets 95 % intervals, bootstrap over {over})")
    else:
        lines.append(f"(means; too few {over} for intervals)")
    return [*lines, _pairs_line(summary), f"calls: {_counts(summary['calls']) or 'none'}"]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each answer."""
    dimensions = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    header = ["answer", *(name.removeprefix(NAMES_OF_SCORERS) for name in dimensions), "overall", "words", ""]
    table = [header]
    for row in rows:
        why = "" if row["unscored"] is None else f"no score: {row['unscored']}"
        if "same_as" in row:
            why += f" of {row['same_as']}"
        scores = [f"{row['scores'][name]:.1f}" if name in row["scores"] else "-" for name in dimensions]
        overall = "-" if row["overall"] is None else f"{row['overall']:.3f}"
        table.append([row["id"], *scores, overall, str(row["words"]),
                      why or (row["role"] if row["role"] != "unused" else "")])
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) if column in (0, len(header) - 1) else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
            for line in table]


def _mean(interval: Mapping[str, Any]) -> str:
    bounds = "" if interval["low"] is None else f"  [{interval['low']:.3f}, {interval['high']:.3f}]"
    return f"{interval['mean']:9.3f}{bounds}"


def _pairs_line(summary: Mapping[str, Any]) -> str:
    words = summary["chosen_minus_rejected_words"]
    if words["mean"] is None:
        return f"pairs: none ({listed(summary['without_pair'])})"
    bounds = "" if words["low"] is None else f" [{words['low']:+.0f}, {words['high']:+.0f}]"
    return f"pairs: {summary['pairs']}; chosen minus rejected: {words['mean']:+.0f} words{bounds}" + \
        (f"; questions without a pair: {listed(summary['without_pair'])}" if summary["without_pair"] else "")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
