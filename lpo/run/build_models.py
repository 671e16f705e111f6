"""From a configuration to the models of its build stage: who writes, who ranks, who is asked about facts and faults."""

from __future__ import annotations

from dataclasses import dataclass

from lpo.build_config import BuildConfig
from lpo.config import JudgeConfig, RunConfig
from lpo.errors import ConfigError
from lpo.llm.asking import Dialect
from lpo.llm.base import LLM
from lpo.pair_builders import BuilderModels
from lpo.reward import (
    JsonJudge,
    LengthScorer,
    LongReward,
    LongRewardScorer,
    ReleasedJudge,
    RewardModelScorer,
    Scorer,
    create_judge,
    create_scorer,
)
from lpo.run.models import Models, judge_config
from lpo.templates import load_templates

DIALECTS = {"json": Dialect.JSON, "expected_grade_chat": Dialect.CHAT, "expected_grade": Dialect.TEXT}
"""How a model is addressed by a judge of this method."""


@dataclass(frozen=True)
class BuildStageModels:
    """The models of a build stage.

    Args:
        builder: What the builder works with.
        judge: The judge alone, whatever else the reward mixes in; None when it has no weight.
        reworded: The same judge under the other wording of its rubric.
        reward_model: A reward model in this process; None when none counts.
    """

    builder: BuilderModels
    judge: Scorer | None
    reworded: Scorer | None
    reward_model: RewardModelScorer | None

    def close(self) -> None:
        """Free what this stage alone needs."""
        if self.reward_model is not None:
            self.reward_model.close()


def open_models(config: RunConfig, models: Models) -> BuildStageModels:
    """Load the models that a build needs, each once, and no other.

    Raises:
        ConfigError: The released method with a judge that writes no JSON; or a folder of templates cannot be used.
        BackendError: A model cannot be used.
    """
    check_released_judge(config)
    build, judging = config.build, judge_config(config)
    policy = models.get(config.policy)
    # A model that nobody asks is not loaded; the policy stands in its place.
    judge_llm: LLM = models.get(judging) if asks_judge(build) else policy
    judge = _judge(judging, judge_llm, build) if build.scores and build.reward.judge else None
    reward_model = RewardModelScorer.load(build.reward_model) \
        if build.scores and build.reward.reward_model and build.reward_model is not None else None
    return BuildStageModels(
        builder=BuilderModels(
            policy=policy, sampling=config.policy.sampling, scorer=_scorer(config, judge, judge_llm, reward_model),
            judge=judge_llm, critic=_critic(config, models, policy, judge_llm), dialect=DIALECTS[judging.method],
            templates=load_templates(judging.templates),
        ),
        judge=judge, reworded=create_judge(judging, judge_llm, reworded=True) if judge is not None else None,
        reward_model=reward_model,
    )


def asks_judge(build: BuildConfig) -> bool:
    """Is the judge's model asked for anything: grades, facts, critiques, corrections or a plan?"""
    if build.scores and (build.reward.judge or build.reward.longreward):
        return True
    if build.writes_plans and build.plan.by == "judge":
        return True
    if build.method == "iterdpo":
        return build.correction.by == "judge"
    if build.method != "longdpo":
        return False
    return build.memory.enabled or (build.critique.enabled and build.critique.by == "judge")


def check_released_judge(config: RunConfig) -> None:
    """Refuse the released method without the kind of judge it is about.

    Raises:
        ConfigError: Its judge writes no JSON.
    """
    build, judging = config.build, judge_config(config)
    if build.method == "longdpo_released" and build.reward.judge and judging.method != "json":
        raise ConfigError(f"the released method invents a grade where its judge writes no readable JSON; a judge by "
                          f"{judging.method} writes nothing", where="judge.method",
                          mend="set judge.method: json, or build.method: longdpo")


def _judge(config: JudgeConfig, llm: LLM, build: BuildConfig) -> Scorer:
    judge = create_judge(config, llm)
    return ReleasedJudge(judge) if build.method == "longdpo_released" and isinstance(judge, JsonJudge) else judge


def _scorer(config: RunConfig, judge: Scorer | None, judge_llm: LLM, reward_model: Scorer | None) -> Scorer:
    """What ranks candidates. Where nothing is ranked it is never asked."""
    build, judging = config.build, judge_config(config)
    if not build.scores:
        return LengthScorer()
    longreward = LongRewardScorer(LongReward(
        judge_llm, dialect=DIALECTS[judging.method], config=build.longreward,
        templates=load_templates(judging.templates), sampling=build.longreward.sampling,
    )) if build.reward.longreward else None
    return create_scorer(build.reward, judge, longreward=longreward, reward_model=reward_model)


def _critic(config: RunConfig, models: Models, policy: LLM, judge: LLM) -> LLM:
    if config.critic is not None:
        return models.get(config.critic)
    build = config.build
    by = build.correction.by if build.method == "iterdpo" else build.critique.by
    return policy if by == "policy" else judge
