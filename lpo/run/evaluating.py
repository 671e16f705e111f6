"""The eval stage: base and trained model on suites and held-out pairs; or one model alone, on suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lpo import __version__
from lpo.config import JudgeConfig, ModelConfig, RunConfig
from lpo.evaluation import (
    Answer,
    JudgeNote,
    OverlapNote,
    SideLogprobs,
    decoding,
    preference_logprobs,
    preference_rows,
    summarise,
)
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.suite import Suite, SuiteScores
from lpo.evaluation.suites import create_suite
from lpo.prompts import PromptSet, overlap
from lpo.records import PreferencePair, Prompt
from lpo.reward import create_judge
from lpo.run import environment
from lpo.run.build_models import DIALECTS
from lpo.run.directory import RunDirectory
from lpo.run.measuring import Bench, Subject, SuiteResult, measure_suite, units
from lpo.run.models import Models, judge_config, texts_at_once
from lpo.run.progress import Reporter
from lpo.run.training import final_weights, load_pairs, split_groups
from lpo.storage import write_json, write_jsonl
from lpo.templates import load_templates


async def evaluate(config: RunConfig, prompts: PromptSet, directory: RunDirectory, models: Models,
                   reporter: Reporter) -> dict[str, Any]:
    """Measure base and trained model with the same prompts, seeds and judge; write answers, preferences and scores.

    Returns:
        What stands in scores.json.

    Raises:
        DataError: A suite's file is missing or damaged, or no prompt of it is left.
    """
    subjects = _subjects(config, final_weights(directory))
    _, pairs = split_groups(load_pairs(directory), config.train.eval_fraction)
    suites = _suites(config, prompts)
    with _progress(reporter, config, suites, len(subjects), 2 * len(pairs)) as on_done:
        bench = _bench(config, directory, models, subjects, on_done)
        results = [await measure_suite(bench, suite) for suite in suites]
        sides = [await _preferences(models, subject, pairs, on_done) for subject in subjects]
    rows = preference_rows(pairs, *sides)
    write_jsonl(directory / "eval" / "preferences.jsonl", (row.to_json() for row in rows))
    held_out = _answers_of("held_out", results)
    scores = summarise(
        held_out.get("base", ()), held_out.get("trained", ()), rows, judge=_judge_note(config),
        decoding=decoding(config.eval, seed=config.seed), versions=_versions(), seed=config.seed,
        resamples=config.eval.bootstrap,
        overlap=_overlap(prompts, suites),
    )
    guard = await _guard(bench, reporter)
    return _store(directory, scores.to_json() | _of_suites(results) | {"guard": guard}, results, reporter)


async def measure(config: RunConfig, prompts: PromptSet, directory: RunDirectory, models: Models,
                  reporter: Reporter) -> dict[str, Any]:
    """Measure the policy alone, whatever back end it has: `lpo eval MODEL`. As `evaluate`, without a difference.

    Raises:
        DataError: As `evaluate`.
    """
    subjects = (Subject("model", config.policy),)
    suites = _suites(config, prompts)
    with _progress(reporter, config, suites, 1, 0) as on_done:
        bench = _bench(config, directory, models, subjects, on_done)
        results = [await measure_suite(bench, suite) for suite in suites]
    note = _judge_note(config, alone=True)
    if note is not None and note.model == config.policy.model:
        reporter.say("note: the model judged its own answers; another judge: judge.model=... judge.backend=...")
    scores = {"judge": None if note is None else note.__dict__, "decoding": decoding(config.eval, seed=config.seed),
              "versions": _versions(), "guard": await _guard(bench, reporter)}
    return _store(directory, scores | _of_suites(results), results, reporter)


def _suites(config: RunConfig, prompts: PromptSet) -> list[Suite]:
    return [create_suite(name, config.eval, prompts.held_out) for name in config.eval.suites]


def _progress(reporter: Reporter, config: RunConfig, suites: Sequence[Suite], subjects: int, preferences: int
              ) -> AbstractContextManager[Callable[[], None]]:
    """The stage's bar; gives the function that is called after each unit of work."""
    total = sum(units(suite, config.eval, subjects) for suite in suites) + preferences
    return reporter.counter("eval", total, "answers, judgements and pairs")


def _bench(config: RunConfig, directory: RunDirectory, models: Models, subjects: tuple[Subject, ...],
           on_done: Callable[[], None]) -> Bench:
    if config.eval.guard is not None:
        from lpo.run.guarding import check_guard

        for subject in subjects:
            check_guard(config.eval.guard, subject.config)
    judging = judge_config(config)
    judge = judge_model(judging, models) if config.eval.judge else None
    note = _judge_note(config, alone=len(subjects) == 1)
    return Bench(
        config=config, directory=directory, models=models, subjects=subjects, judge=judge,
        scorer=create_judge(judging, models.get(judging)) if config.eval.judge else None,
        scorer_at_once=texts_at_once(judging), on_done=on_done,
        judge_note=None if note is None else {**note.__dict__, "method": judging.method, "backend": judging.backend},
    )


def judge_model(config: JudgeConfig, models: Models) -> JudgeModel:
    """The judge as suites ask it.

    Raises:
        ConfigError: The folder of templates cannot be used.
        BackendError: The model cannot be used.
    """
    return JudgeModel(
        llm=models.get(config), dialect=DIALECTS[config.method], templates=load_templates(config.templates),
        max_tokens=config.max_tokens, sampling=config.sampling, name=config.model, at_once=texts_at_once(config))


def _judge_note(config: RunConfig, *, alone: bool = False) -> JudgeNote | None:
    """Who judges. A model that is measured alone was trained on no pairs of this judge that we know of."""
    if not config.eval.judge:
        return None
    judging = judge_config(config)
    name = {"json": "json_judge"}.get(judging.method, "expected_grade")
    return JudgeNote(name=name, model=judging.model,
                     was_training_reward=not alone and config.build.reward.judge > 0)


def _versions() -> dict[str, str]:
    return {"lpo": __version__, **environment.versions()}


def _overlap(prompts: PromptSet, suites: Sequence[Suite]) -> OverlapNote:
    """Are prompts of the build among those that are measured?"""
    asked: list[Prompt] = [prompt for suite in suites for prompt in suite.prompts]
    return OverlapNote(checked=len(asked), found=len(overlap(prompts.build, asked)))


async def _preferences(models: Models, subject: Subject, pairs: Sequence[PreferencePair],
                       on_done: Callable[[], None]) -> list[SideLogprobs]:
    llm = models.get(subject.config, subject.adapter)
    return await preference_logprobs(llm, pairs, on_done=on_done, at_once=texts_at_once(subject.config),
                                     stop=models.stop)


def _subjects(config: RunConfig, weights: Path) -> tuple[Subject, Subject]:
    """Base and trained policy: the base model with the adapter, or the fully trained model in its place; or whatever
    the configuration names for them.
    """
    if config.measured is not None:
        return Subject("base", config.measured.base), Subject("trained", config.measured.trained)
    base = Subject("base", config.trained_model)
    if config.train.peft is not None:
        return base, Subject("trained", config.trained_model, weights)
    trained: ModelConfig = config.trained_model.model_copy(update={"model": str(weights), "revision": None})
    return base, Subject("trained", trained)


async def _guard(bench: Bench, reporter: Reporter) -> dict[str, Any] | None:
    """General abilities, where asked for. What was loaded is freed first: lm-eval loads the models anew."""
    settings = bench.config.eval.guard
    if settings is None:
        return None
    from lpo.run.guarding import run_guard

    await bench.models.close()
    base, *trained = bench.subjects
    scores = await run_guard(
        settings, base=base, trained=trained[0] if trained else None, folder=bench.directory / "eval" / "guard",
        seed=bench.config.seed, resamples=bench.config.eval.bootstrap, say=reporter.say, stop=bench.models.stop)
    return scores.to_json()


def _answers_of(name: str, results: Sequence[SuiteResult]) -> dict[str, Sequence[Answer]]:
    return next((dict(result.answers) for result in results if result.scores.suite == name), {})


def _of_suites(results: Sequence[SuiteResult]) -> dict[str, Any]:
    return {"suites": {result.scores.suite: result.scores.to_json() for result in results},
            "pairwise": {result.scores.suite: result.pairwise.to_json() for result in results
                         if result.pairwise is not None}}


def _store(directory: RunDirectory, scores: dict[str, Any], results: Sequence[SuiteResult], reporter: Reporter
           ) -> dict[str, Any]:
    write_json(directory / "scores.json", scores)
    for result in results:
        for line in told(result.scores):
            reporter.say(line)
        if result.pairwise is not None and result.pairwise.win_rate.mean is not None:
            rate = result.pairwise.win_rate
            reporter.say(f"{result.scores.suite}: win-rate of trained over base {rate.mean:.1f} "
                         f"({_between(rate.low, rate.high)}n = {rate.n}, {rate.unscored} unscored)")
    for line in told_of_guard(scores["guard"]) if scores["guard"] is not None else ():
        reporter.say(line)
    return scores


def told(scores: SuiteScores) -> list[str]:
    """What a person is told of a suite: a line for each score."""
    lines: list[str] = []
    for metric in scores.metrics:
        levels = [(model, of_model[metric.key]) for model, of_model in scores.models.items()]
        if all(level.mean is None for _, level in levels):
            continue
        text = " -> ".join("unscored" if level.mean is None else f"{level.mean:.3f}" for _, level in levels)
        change = scores.difference.get(metric.key)
        if change is not None and change.mean is not None:
            text += f" (change {change.mean:+.3f}, {_between(change.low, change.high)}n = {change.n})"
        elif len(levels) == 1:
            level = levels[0][1]
            text += f" ({_between(level.low, level.high)}n = {level.n}, {level.unscored} unscored)"
        lines.append(f"{scores.suite}: {metric.name}: {text}")
    return lines


def told_of_guard(guard: Mapping[str, Any]) -> list[str]:
    """What a person is told of lm-eval's tasks: a line for each measure."""
    lines: list[str] = []
    for task, measures in guard["tasks"].items():
        for name, found in measures.items():
            levels = [f"{level:.3f}" for level in (found["base"], found["trained"]) if level is not None]
            change, text = found["difference"], " -> ".join(levels)
            if change is not None and change["mean"] is not None:
                text += f" (change {change['mean']:+.3f}, {_between(change['low'], change['high'])}n = {change['n']})"
            lines.append(f"guard: {task}: {name}: {text}")
    return lines


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"95 % interval {low:.3f} to {high:.3f}, "

