"""From a configuration to the models of its build stage: who writes, who ranks, who is asked about facts and faults."""

from __future__ import annotations

from dataclasses import dataclass

from lpo.build_config import BuildConfig
from lpo.config import JudgeConfig, RunConfig
from lpo.errors import ConfigError
from lpo.llm.asking import Dialect
from lpo.llm.base import LLM
from lpo.pair_builders import BuilderModels
from lpo.reward import JsonJudge, ReleasedJudge, Scorer, create_judge, create_scorer
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
    """

    builder: BuilderModels
    judge: Scorer | None
    reworded: Scorer | None


def open_models(config: RunConfig, models: Models) -> BuildStageModels:
    """Load the models that a build needs, each once, and no other.

    Raises:
        ConfigError: The released method with a judge that writes no JSON; or a folder of templates cannot be used.
        BackendError: A model cannot be used.
    """
    check_released_judge(config)
    policy = models.get(config.policy)
    judging = judge_config(config)
    # A model that nobody asks is not loaded; the policy stands in its place.
    judge_llm: LLM = models.get(judging) if asks_judge(config.build) else policy
    judge = _judge(judging, judge_llm, config.build) if config.build.reward.judge else None
    return BuildStageModels(
        builder=BuilderModels(
            policy=policy, sampling=config.policy.sampling, scorer=create_scorer(config.build.reward, judge),
            judge=judge_llm, critic=_critic(config, models, policy, judge_llm), dialect=DIALECTS[judging.method],
            templates=load_templates(judging.templates),
        ),
        judge=judge, reworded=create_judge(judging, judge_llm, reworded=True) if judge is not None else None,
    )


def asks_judge(build: BuildConfig) -> bool:
    """Is the judge's model asked for anything: grades, facts, critiques or a plan?"""
    if build.reward.judge:
        return True
    if build.method != "longdpo":
        return False
    return (build.memory.enabled or (build.critique.enabled and build.critique.by == "judge")
            or (build.boundary == "sections" and build.plan.by == "judge"))


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


def _critic(config: RunConfig, models: Models, policy: LLM, judge: LLM) -> LLM:
    if config.critic is not None:
        return models.get(config.critic)
    return policy if config.build.critique.by == "policy" else judge
