"""From configuration sections to scorers."""

from __future__ import annotations

from lpo.config import JudgeConfig
from lpo.errors import ConfigError
from lpo.llm.base import LLM
from lpo.reward.base import Scorer
from lpo.reward.combine import Weighted, WeightedScorer
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


def create_scorer(reward: RewardConfig, judge: Scorer | None) -> Scorer:
    """The scorer that ranks candidates: one scorer as it is, several as their weighted mean.

    Args:
        reward: Weights; 0 leaves a scorer out.
        judge: Needed when its weight is above 0.

    Raises:
        ConfigError: The judge counts, but there is none.
    """
    parts: list[Weighted] = []
    if reward.judge:
        if judge is None:
            raise ConfigError("the judge has a weight, but there is no judge", where="build.reward.judge",
                              mend="configure a judge or set the weight to 0")
        parts.append(Weighted(judge, reward.judge))
    if reward.length:
        parts.append(Weighted(LengthScorer(), reward.length))
    if reward.repetition:
        parts.append(Weighted(RepetitionScorer(), reward.repetition))
    return parts[0].scorer if len(parts) == 1 else WeightedScorer(parts)
