"""The eval stage: base and trained model on held-out prompts and held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lpo.config import ModelConfig, RunConfig
from lpo.errors import DataError
from lpo.evaluation import (
    Answer,
    JudgeNote,
    ModelName,
    OverlapNote,
    Scores,
    SideLogprobs,
    decoding,
    generate_answers,
    judge_answers,
    preference_logprobs,
    preference_rows,
    select_prompts,
    summarise,
)
from lpo.prompts import PromptSet, overlap
from lpo.records import PreferencePair, Prompt
from lpo.reward import create_judge
from lpo.run import environment
from lpo.run.directory import RunDirectory
from lpo.run.models import Models, judge_config, texts_at_once
from lpo.run.progress import Reporter
from lpo.run.training import final_weights, load_pairs, split_groups
from lpo.storage import write_json, write_jsonl


@dataclass(frozen=True)
class Measured:
    """What one model did: its answers to the prompts and its log-probabilities of the held-out pairs."""

    answers: list[Answer]
    preferences: list[SideLogprobs]


async def evaluate(config: RunConfig, prompts: PromptSet, directory: RunDirectory, models: Models,
                   reporter: Reporter) -> Scores:
    """Measure both models with the same prompts, seeds and judge, and write answers, preferences and scores.

    Raises:
        DataError: No held-out prompt is left.
    """
    asked = select_prompts(prompts.held_out, config.eval)
    if not asked:
        raise DataError("no held-out prompt is left", where="eval",
                        mend="check prompts.held_out_path and the filters prompts.max_words, eval.max_words")
    _, held_out_pairs = split_groups(load_pairs(directory), config.train.eval_fraction)
    weights = final_weights(directory)
    judge = create_judge(judge_config(config), models.get(judge_config(config))) if config.eval.judge else None
    total = 2 * (len(asked) * (2 if judge else 1) + len(held_out_pairs))
    done = 0
    with reporter.bar("eval", total, "answers, judgements and pairs") as update:

        def on_done() -> None:
            nonlocal done
            done += 1
            update(done, "")

        async def measure(name: ModelName, model: ModelConfig, adapter: Path | None) -> Measured:
            return await _measure(name, model, adapter, asked, held_out_pairs, config, models, on_done)

        base = await measure("base", config.trained_model, None)
        trained = await measure("trained", *_trained_model(config, weights))
        if judge is not None:
            base, trained = [
                Measured(await judge_answers(measured.answers, asked, judge, on_done=on_done, stop=models.stop,
                                             at_once=texts_at_once(judge_config(config))), measured.preferences)
                for measured in (base, trained)
            ]
    rows = preference_rows(held_out_pairs, base.preferences, trained.preferences)
    note = JudgeNote(name=judge.name, model=judge_config(config).model,
                     was_training_reward=config.build.reward.judge > 0) if judge else None
    scores = summarise(
        base.answers, trained.answers, rows, judge=note, decoding=decoding(config.eval, seed=config.seed),
        versions=environment.versions(), seed=config.seed, resamples=config.eval.bootstrap,
        overlap=OverlapNote(checked=len(asked), found=len(overlap(prompts.build, asked))),
    )
    for name, measured in (("base", base), ("trained", trained)):
        write_jsonl(directory / "eval" / f"answers.{name}.jsonl", (answer.to_json() for answer in measured.answers))
    write_jsonl(directory / "eval" / "preferences.jsonl", (row.to_json() for row in rows))
    write_json(directory / "scores.json", scores.to_json())
    _report(scores, reporter)
    return scores


async def _measure(name: ModelName, model: ModelConfig, adapter: Path | None, asked: Sequence[Prompt],
                   pairs: Sequence[PreferencePair], config: RunConfig, models: Models,
                   on_done: Callable[[], None]) -> Measured:
    llm = models.get(model, adapter)
    answers = await generate_answers(llm, asked, config.eval, seed=config.seed, model_name=name, on_done=on_done,
                                     at_once=texts_at_once(model), stop=models.stop)
    return Measured(answers, await preference_logprobs(llm, pairs, on_done=on_done, at_once=texts_at_once(model),
                                                       stop=models.stop))


def _trained_model(config: RunConfig, weights: Path) -> tuple[ModelConfig, Path | None]:
    """The trained policy: the base model with the adapter, or the fully trained model in its place."""
    if config.train.peft is not None:
        return config.trained_model, weights
    return config.trained_model.model_copy(update={"model": str(weights), "revision": None}), None


def _report(scores: Scores, reporter: Reporter) -> None:
    for metric, change in scores.difference.items():
        base, trained = scores.models["base"][metric], scores.models["trained"][metric]
        if base.mean is None or trained.mean is None or change.mean is None:
            continue
        interval = "" if change.low is None else f", 95 % interval {change.low:+.3f} to {change.high:+.3f}"
        reporter.say(f"{metric}: {base.mean:.3f} -> {trained.mean:.3f} (change {change.mean:+.3f}{interval}, "
                     f"n = {change.n})")
