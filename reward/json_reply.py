"""Reading a JSON judge's reply: the exact grammar that is accepted, and nothing beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lpo.llm.json_object import NotJsonError, read_as
from lpo.reward.base import Principle, Unscored

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
    """Read a reply that was not cut: one JSON object, as `lpo.llm.json_object` accepts it.

    Raises:
        NotAVerdict: The reply is anything else.
    """
    try:
        parsed, repaired = read_as(reply, _Reply)
    except NotJsonError as error:
        raise NotAVerdict(Unscored.UNPARSABLE, str(error)) from None
    weights = {principle.value: _normalised(principle, getattr(parsed, principle)) for principle in Principle}
    return Verdict(weights, parsed.analysis, repaired)


def _normalised(principle: Principle, weights: list[float]) -> list[float]:
    total = sum(weights)
    if not math.isfinite(total) or min(weights) < 0:
        raise NotAVerdict(Unscored.OUT_OF_RANGE, f"{principle}: a weight is negative or not finite")
    if total <= 0:
        raise NotAVerdict(Unscored.OUT_OF_RANGE, f"{principle}: all weights are 0")
    return [weight / total for weight in weights]
