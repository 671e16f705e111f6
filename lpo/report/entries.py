"""What the page's script is given, as JSON values: the parts that pairs and trees have in common."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from lpo.records import Dialogue, Judgement

REQUEST_CHARACTERS = 4_000
LONGREWARD = ("helpfulness", "logicality", "faithfulness", "completeness")
"""LongReward's dimensions, each on 0–10."""

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


def spread(rows: Sequence[Item]) -> list[tuple[int, Item]]:
    """Every row once, numbered, in an order whose every beginning is spread evenly over the whole."""
    golden = (math.sqrt(5) - 1) / 2
    return sorted(enumerate(rows), key=lambda item: item[0] * golden % 1)


def judged(judgement: Judgement | None) -> dict[str, Any]:
    """The scores of a judgement and, by principle, the probabilities of its grades."""
    if judgement is None:
        return {"overall": None, "scores": {}, "grades": {}}
    grades = grade_distributions(judgement.parts)
    short = {name: name.rpartition(".")[2] for name in judgement.scores}  # expected_grade.accuracy -> accuracy
    return {"overall": rounded(judgement.overall),
            "scores": {short[name] if short[name] in grades or short[name] in LONGREWARD else name: rounded(value)
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


def scales(views: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The scale of each dimension of the scores: grades run from 1 to 5, LongReward's dimensions from 0 to 10,
    everything else from 0 to 1 or 100.

    Args:
        views: What `judged` gives.
    """
    found: dict[str, tuple[float, float]] = {}
    for view in views:
        for name, value in view["scores"].items():
            low, high = found.get(name, (0.0, 1.0))
            if name in LONGREWARD:
                high = 10.0
            elif name in view["grades"] or 1 < value <= 5:
                low, high = 1.0, max(high, 5.0)
            elif value > 5:
                low, high = 0.0, max(high, 10.0 if value <= 10 else 100.0)
            found[name] = (low, high)
    return found


def request_of(prompt: Dialogue) -> str:
    """What the model is asked, as text: the string itself, or every turn that is not the model's."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(message.content for message in prompt if message.role != "assistant")


def cut_end(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text and how many characters were left out after it."""
    return text[:limit], max(0, len(text) - limit)


def beginning(text: str, limit: int = 70) -> str:
    """The first words of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit - 1].rstrip() + "…"


def rounded(value: float | None) -> float | None:
    """A score with the digits that a page needs."""
    return None if value is None else round(value, 4)
