"""The model a suite asks: for grades, for yes or no, for a preference."""

from __future__ import annotations

from dataclasses import dataclass

from lpo.config import SamplingConfig
from lpo.llm.asking import Dialect
from lpo.llm.base import LLM, Sampling
from lpo.templates import Templates


@dataclass(frozen=True)
class JudgeModel:
    """A judge, however it is addressed.

    Args:
        llm: The model.
        dialect: JSON for chat models that write their verdict; CHAT and TEXT for models whose next-token probabilities
            are read.
        templates: The prompts.
        max_tokens: Room for a written reply.
        sampling: How a reply is drawn.
        name: As in scores and reports.
        at_once: Questions asked at the same time.
    """

    llm: LLM
    dialect: Dialect
    templates: Templates
    max_tokens: int
    sampling: SamplingConfig
    name: str
    at_once: int = 64

    @property
    def drawing(self) -> Sampling:
        """How a reply is drawn, with its room."""
        return Sampling(max_tokens=self.max_tokens, **self.sampling.model_dump())
