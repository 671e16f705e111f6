"""What every file of a run is read as: values of which a page shows some, and the two that most of them hold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from lpo.records import Judgement


class Stored(BaseModel):
    """A value of a run file. Fields that this version does not show are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(Stored):
    """A mean with its 95 % bootstrap interval over prompts.

    `mean` is None when nothing was scored, `low` and `high` when there are too few values for an interval.
    """

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unscored: int = 0

    @property
    def bounds(self) -> tuple[float, float, float] | None:
        """`(low, mean, high)`, or None when there is no interval."""
        if self.mean is None or self.low is None or self.high is None:
            return None
        return self.low, self.mean, self.high


class Answer(Stored):
    """One held-out answer of one model."""

    model: str
    prompt_id: str
    request: str
    kind: str | None = None
    target_words: int | None = None
    text: str
    words: int
    finish: str
    scores: dict[str, float | None] = Field(default_factory=dict)
    judgement: Judgement | None = None
