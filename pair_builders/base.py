"""What a pair builder is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lpo.config_base import SamplingConfig
from lpo.llm.asking import Dialect
from lpo.llm.base import LLM
from lpo.records import Prompt, SearchTree
from lpo.reward import Scorer
from lpo.templates import Templates


@dataclass(frozen=True)
class BuilderModels:
    """The models of a build and how they are addressed.

    Args:
        policy: Writes the candidates.
        sampling: How candidates are drawn (`policy.sampling`).
        scorer: Ranks candidates.
        judge: Extracts facts, checks for contradictions; the critic too, unless another is named.
        critic: Writes critiques: the judge, the policy or a model of its own.
        dialect: How judge and critic are addressed.
        templates: The prompts for them.
    """

    policy: LLM
    sampling: SamplingConfig
    scorer: Scorer
    judge: LLM
    critic: LLM
    dialect: Dialect
    templates: Templates


class BuildEvent(StrEnum):
    """What a builder tells while it works, for a person to follow."""

    LAYER = "layer"
    """A layer of siblings was written and judged."""
    PATH = "path"
    """A walk of the search ended and was back-propagated."""
    VETO = "veto"
    """A candidate contradicts a fact."""
    REFINED = "refined"
    """A rewritten step was accepted."""
    NOT_REFINED = "not_refined"
    """A weak step stays as it was."""
    CORRECTED = "corrected"
    """A segment was corrected."""
    NOT_CORRECTED = "not_corrected"
    """A segment stays as it was."""


class PairBuilder(Protocol):
    """Works on one prompt. Which pairs (or other rows) the tree gives is decided afterwards (`deriving.rows_of`)."""

    async def build(self, prompt: Prompt, *, seed: int) -> SearchTree:
        """Build.

        Args:
            prompt: The writing task.
            seed: With the replies of the models, it determines the result; the order in which they come does not.

        Raises:
            BackendError: A model cannot be used.
        """
        ...
