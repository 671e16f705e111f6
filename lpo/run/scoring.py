"""Scoring answers that are there already: they stand in for sampled ones in a build by best-of-N, which does the rest.
What it costs, how it is stopped and goes on, and what is stored is as in any build.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lpo import __version__
from lpo.config import ModelConfig, PromptsConfig, RunConfig
from lpo.errors import ConfigError, NothingLeftError
from lpo.given_answers import AnswerFile, read_answers
from lpo.llm.demo import is_demo
from lpo.prompts import PromptSet
from lpo.records import RejectedRow, Usage
from lpo.run import environment
from lpo.run.build_models import asks_judge
from lpo.run.building import build
from lpo.run.directory import RunDirectory, Stage
from lpo.run.models import Models, judge_config
from lpo.run.pipeline import load_config, run_over, with_models
from lpo.run.progress import Reporter
from lpo.run.score_summary import (
    extra_words,
    means,
    questions,
    resampled,
    scored_rows,
    summary_lines,
    unscored_reasons,
)
from lpo.run.trees import read_trees
from lpo.storage import iter_jsonl, json_line, open_atomic, read_json, read_jsonl, write_json
from lpo.words import count_words
from lpo.writing_config import AnswersConfig

DEFAULT_CONFIG = "longreward_demo"
READ = ("name", "runs_dir", "seed", "judge", "build.reward", "build.longreward", "build.reward_model",
        "build.answers.min_scored", "build.pairs", "build.max_unscored", "build.stability_check", "build.concurrency",
        "build.budget", "eval.bootstrap")
"""The settings that scoring reads; another one on the command line would do nothing."""


def score(file: Path, overrides: Sequence[str] = (), *, config: str = DEFAULT_CONFIG, contexts: Path | None = None,
          name: str | None = None, reporter: Reporter | None = None, redo: Stage | None = None) -> list[str]:
    """Score the answers of a file, into a run directory.

    Args:
        file: JSON lines; see `lpo.given_answers`.
        overrides: `key.sub=value`.
        config: A YAML file or the name of a recipe; its method is best-of-N.
        contexts: Documents for answers that have none in their row.
        name: Of the run; default: the file's with `-scores` after it.
        reporter: Told how it goes; default: standard error.
        redo: `build` scores again; finished model calls are reused.

    Returns:
        What came of it, as lines for a person.

    Raises:
        LpoError: With the exit code that fits.
    """
    if redo not in (None, Stage.BUILD):
        raise ConfigError(f"scoring has no stage {redo}", where="--redo", mend="--redo build scores again")
    reporter = reporter or Reporter()
    settings = score_config(file, overrides, config=config, name=name)
    answers = read_answers(file, contexts)
    for line in _remarks(settings, answers):
        reporter.say(line)
    prompts = PromptSet(answers.prompts, (), answers.rejected, answers.cleaned)
    directory = run_over(prompts, settings, {Stage.BUILD: _score}, reporter, redo=redo)
    lines = summary_lines(read_json(directory / "score.json"), read_jsonl(directory / "scored.jsonl"))
    return [*lines, f"written: {directory / 'scored.jsonl'}", *_demo_remark(settings)]


def score_config(file: Path, overrides: Sequence[str], *, config: str, name: str | None) -> RunConfig:
    """The configuration of a run that scores: what only sampling, training and evaluation read is left out.

    Raises:
        ConfigError: It is wrong, its method is another one, or scoring does not read one of the overrides.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == read or key.startswith(f"{read}.") for read in READ):
            raise ConfigError(f"scoring does not read {key}", where="command line",
                              mend=f"leave it out; what it reads: {', '.join(READ)}")
    named = [f"name={name}"] if name is not None else []
    if not named and not any(override.startswith("name=") for override in overrides):
        named = [f"name={re.sub(r'[^A-Za-z0-9._-]+', '-', file.stem).strip('.-_') or 'answers'}-scores"]
    found = load_config(config, [*overrides, *named])
    if found.build.method != "best_of_n":
        raise ConfigError(f"answers are scored by a configuration of method best_of_n, this one's is "
                          f"{found.build.method}", where=config, mend="give --config longreward, or set build.method")
    judge = judge_config(found)
    answers = AnswersConfig(min_scored=found.build.answers.min_scored)
    # No answer is sampled: the judge's model stands where a build loads its policy, so that no other is loaded.
    policy = ModelConfig(**judge.model_dump(include=set(ModelConfig.model_fields) - {"sampling"}))
    return found.model_copy(update={
        "prompts": PromptsConfig(path=str(file)), "policy": policy, "judge": judge, "critic": None,
        "build": found.build.model_copy(update={"answers": answers, "mix": None}),
    })


def _score(config: RunConfig, prompts: PromptSet, directory: RunDirectory, reporter: Reporter) -> Usage:
    """The work of the stage."""
    async def work(models: Models) -> Usage:
        with suppress(NothingLeftError):  # no pair came of it: the scores are there all the same
            await build(config, prompts, directory, models, reporter)
        return models.usage()

    usage = with_models(directory, reporter, work, config.build.budget)
    rows: list[dict[str, Any]] = []
    with open_atomic(directory / "scored.jsonl") as handle:
        for tree in read_trees(directory / "trees.jsonl"):
            of_tree = scored_rows(tree)
            handle.writelines(json_line(row).encode() for row in of_tree)
            rows += of_tree
    write_json(directory / "score.json", _summary(config, prompts, directory, rows))
    return usage


def _summary(config: RunConfig, prompts: PromptSet, directory: RunDirectory, rows: list[dict[str, Any]]
             ) -> dict[str, Any]:
    """score.json. Every value is a function of answers, settings and replies: however often the work was interrupted,
    it is the same.
    """
    draws = {"seed": config.seed, "resamples": config.eval.bootstrap}
    pairs = [(str(row["group"]), count_words(row["chosen"]) - count_words(row["rejected"]))
             for _, row in iter_jsonl(directory / "pairs.jsonl")]
    refused = (RejectedRow.model_validate(row) for _, row in iter_jsonl(directory / "rejected_rows.jsonl"))
    without_pair = Counter(row.reason.value for row in refused if row.stage == "build")
    used = read_json(directory / "build.json")["usage_by_purpose"]
    return {
        "file": config.prompts.path, "answers": len(rows), "questions": len(prompts.build),
        "rejected": dict(sorted(Counter(row.reason.value for row in prompts.rejected).items())),
        "scored": sum(row["overall"] is not None for row in rows), "unscored": unscored_reasons(rows),
        "interval_over": resampled(rows),
        "means": {name: interval.to_json() for name, interval in means(rows, **draws).items()},
        "pairs": len(pairs), "without_pair": dict(sorted(without_pair.items())),
        "chosen_minus_rejected_words": extra_words(pairs, **draws).to_json(),
        "calls": {purpose: usage["calls"] + usage["cached"] for purpose, usage in used.items()},
        "reward": config.build.reward.model_dump(mode="json"), "judge": _judge(config),
        "versions": {"lpo": __version__, **environment.versions()},
    }


def _judge(config: RunConfig) -> dict[str, Any] | None:
    """Who judged; None when nobody was asked."""
    judge = judge_config(config)
    return judge.model_dump(mode="json", include={"backend", "model", "revision", "method", "templates"}) \
        if asks_judge(config.build) else None


def _remarks(config: RunConfig, answers: AnswerFile) -> list[str]:
    """What to know before it begins."""
    lines = [f"answers: {answers.answers} to {questions(len(answers.prompts))}, {len(answers.rejected)} rejected"]
    without = sum(prompt.context is None for prompt in answers.prompts)
    if without and config.build.reward.longreward:
        lines.append(f"warning: no document for {without} of {questions(len(answers.prompts))}; their answers are "
                     "scored for helpfulness and logicality alone (--contexts FILE names the documents)")
    return [*lines, *_demo_remark(config)]


def _demo_remark(config: RunConfig) -> list[str]:
    if not asks_judge(config.build) or not is_demo(judge_config(config).model):
        return []
    return ["warning: the judge is the demo model, a base model of 270 million parameters: its scores mean nothing; a "
            "real judge: --config longreward judge.base_url=http://... judge.model=NAME"]
