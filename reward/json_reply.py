"""Reading a JSON judge's reply: the exact grammar that is accepted, and nothing beside it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

import json_repair
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lpo.reward.base import Principle, Unscored

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")

Weights = Annotated[list[float], Field(min_length=5, max_length=5)]


class _Reply(BaseModel):
    """Strict: a number is a number, never `true`, `"4"` or `"8/10"`; no key more, none less."""

    model_config = ConfigDict(strict=True, extra="forbid")

    analysis: str
    accuracy: Weights
    purpose: Weights
    harmless: Weights
    consistency: Weights
    breadth: Weights
    reading: Weights
    insight: Weights


JSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string"},
        **{
            principle.value: {
                "type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 5, "maxItems": 5,
            }
            for principle in Principle
        },
    },
    "required": ["analysis", *(principle.value for principle in Principle)],
    "additionalProperties": False,
}
"""For servers that can constrain a reply; the reply is validated here all the same."""


@dataclass(frozen=True)
class Verdict:
    """A reply that was understood.

    Args:
        weights: For each principle the weights of the grades 1 to 5, normalised to 1.
        analysis: The judge's words.
        repaired: Was its punctuation mended before it could be read?
    """

    weights: dict[str, list[float]]
    analysis: str
    repaired: bool


class NotAVerdict(Exception):
    """The reply gives no weights.

    Args:
        reason: The code that is recorded.
        problem: What is wrong, in words.
    """

    def __init__(self, reason: Unscored, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


def read_verdict(reply: str) -> Verdict:
    """Read a reply that was not cut.

    Accepted: one JSON object, alone or with words before and after it that hold no braces, perhaps after a closed
    thinking block. Broken punctuation is mended by json-repair as long as that leaves every number as it was; a reply
    whose object is not closed is not mended (the end of a number may be missing).

    Raises:
        NotAVerdict: The reply is anything else.
    """
    source = _object_source(reply.rpartition("</think>")[2])
    repaired = False
    try:
        values = _strict_json(source)
    except json.JSONDecodeError:
        values, repaired = _repair(source), True
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or deep nesting
        raise NotAVerdict(Unscored.UNPARSABLE, f"not usable JSON: {error}") from None
    try:
        parsed = _Reply.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise NotAVerdict(Unscored.UNPARSABLE, f"{where or 'reply'}: {first['msg']}") from None
    weights = {principle.value: _normalised(principle, getattr(parsed, principle)) for principle in Principle}
    return Verdict(weights, parsed.analysis, repaired)


def _object_source(reply: str) -> str:
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0 or end < start:
        raise NotAVerdict(Unscored.UNPARSABLE, "no JSON object, or one that is not closed")
    return reply[start:end + 1]


def _strict_json(source: str) -> Any:
    """JSON as the standard has it: Python's reader would keep the last of two equal keys and accept NaN."""
    return json.loads(source, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise NotAVerdict(Unscored.UNPARSABLE, "a key stands twice")
    return dict(pairs)


def _refuse_constant(name: str) -> float:
    raise NotAVerdict(Unscored.UNPARSABLE, f"{name} is not JSON")


def _repair(source: str) -> Any:
    try:
        mended = json_repair.repair_json(source, strict=True, ensure_ascii=False)
        values = _strict_json(str(mended))
    except (ValueError, RecursionError) as error:
        raise NotAVerdict(Unscored.UNPARSABLE, f"not JSON: {error}") from None
    # Repair drops what it does not understand: the first of two keys, a digit of another script, half a fraction.
    if _numbers(source) != _numbers(str(mended)):
        raise NotAVerdict(Unscored.UNPARSABLE, "not JSON, and mending it would change its numbers")
    return values


def _numbers(source: str) -> list[str]:
    r"""Number literals in order, `.5` and `0.5` being one. `\d` knows the digits of all scripts: they must differ."""
    return [re.sub(r"^([-+]?)\.", r"\g<1>0.", number) for number in _NUMBER.findall(source)]


def _normalised(principle: Principle, weights: list[float]) -> list[float]:
    total = sum(weights)
    if not math.isfinite(total) or min(weights) < 0:
        raise NotAVerdict(Unscored.OUT_OF_RANGE, f"{principle}: a weight is negative or not finite")
    if total <= 0:
        raise NotAVerdict(Unscored.OUT_OF_RANGE, f"{principle}: all weights are 0")
    return [weight / total for weight in weights]
