"""From configuration sections to scorers."""

from __future__ import annotations

from lpo.config import JudgeConfig
from lpo.errors import ConfigError
from lpo.llm.base import LLM
from lpo.reward.base import Scorer
from lpo.reward.combine import ProductScorer, Weighted, WeightedScorer
from lpo.reward.coverage import CoverageScorer
from lpo.reward.expected_grade import ExpectedGradeJudge
from lpo.reward.json_judge import JsonJudge
from lpo.reward.length import LengthScorer
from lpo.reward.repetition import RepetitionScorer
from lpo.reward_config import RewardConfig
from lpo.templates import load_templates


def create_judge(config: JudgeConfig, llm: LLM, *, reworded: bool = False) -> ExpectedGradeJudge | JsonJudge:
    """The judge a configuration names.

    Args:
        config: The `judge` section.
        llm: The model behind it.
        reworded: Use the other wording of the rubric (for the rank-stability check).

    Raises:
        ConfigError: The folder of templates cannot be used.
    """
    templates = load_templates(config.templates)
    if config.method == "json":
        return JsonJudge(llm, templates, max_tokens=config.max_tokens, sampling=config.sampling, reworded=reworded)
    style = "chat" if config.method == "expected_grade_chat" else "text"
    return ExpectedGradeJudge(llm, templates, reworded=reworded, style=style)


def create_scorer(reward: RewardConfig, judge: Scorer | None, *, longreward: Scorer | None = None,
                  reward_model: Scorer | None = None) -> Scorer:
    """The scorer that ranks candidates: one scorer as it is, several as `reward.combine` says.

    Args:
        reward: Weights; 0 leaves a scorer out.
        judge: Needed when its weight is above 0, as are the two that follow.
        longreward: LongReward's scorers (`build.longreward`).
        reward_model: A reward model (`build.reward_model`).

    Raises:
        ConfigError: A scorer counts, but it is not there.
    """
    scorers = {"judge": judge, "longreward": longreward, "reward_model": reward_model, "length": LengthScorer(),
               "repetition": RepetitionScorer(), "coverage": CoverageScorer()}
    parts: list[Weighted] = []
    for name, scorer in scorers.items():
        weight: float = getattr(reward, name)
        if not weight:
            continue
        if scorer is None:
            what = name.replace("_", " ")
            raise ConfigError(f"the {what} has a weight, but there is no {what}", where=f"build.reward.{name}",
                              mend=f"configure a {what} or set the weight to 0")
        parts.append(Weighted(scorer, weight))
    if len(parts) == 1:
        return parts[0].scorer
    return ProductScorer(parts) if reward.combine == "product" else WeightedScorer(parts)
