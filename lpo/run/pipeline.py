"""Front to back: load the configuration, take the run directory, do the stages that are not complete."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lpo.build_config import BudgetConfig
from lpo.config import RunConfig, TrainConfig, raise_issues, read_yaml, validate
from lpo.errors import ConfigError, DataError
from lpo.llm.journal import Journal
from lpo.prompts import PromptSet, load_prompts, overlap
from lpo.records import Usage
from lpo.run import environment
from lpo.run.directory import RunDirectory, Stage, identity_hash
from lpo.run.logs import log_to
from lpo.run.models import Models
from lpo.run.progress import Reporter

Result = TypeVar("Result")
Work = Callable[[RunConfig, PromptSet, RunDirectory, Reporter], Usage | None]
"""What a stage does; and what its calls took, where it makes any."""

log = logging.getLogger("lpo.run")


def load_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a configuration; every error at once. Checking `train.args`, when there are any, loads torch.

    Args:
        source: A YAML file, or the name of a shipped recipe.
        overrides: `key.sub=value`.

    Raises:
        ConfigError: Something is wrong; the message lists all of it.
    """
    from lpo.configs import recipe_path

    path = recipe_path(source) or Path(source)
    values = read_yaml(path, overrides)
    config, issues = validate(values)
    arguments = _training_arguments(values)
    if arguments:
        from lpo.run.training import check_arguments

        issues += check_arguments(TrainConfig(args=arguments))
    raise_issues(issues, str(path))
    assert config is not None
    return config


def _training_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """`train.args` as written, even where other parts of the configuration are wrong."""
    train = values.get("train")
    arguments = train.get("args") if isinstance(train, dict) else None
    return {str(name): value for name, value in arguments.items()} if isinstance(arguments, dict) else {}


def run(config: RunConfig, stages: Sequence[Stage], reporter: Reporter, *, redo: Stage | None = None) -> RunDirectory:
    """Do the given stages, skipping those that are complete, and write the report.

    Raises:
        LpoError: With the exit code that fits.
    """
    if Stage.TRAIN in stages:
        check_trainable(config)  # wrong settings are told before anything is paid for
    prompts = load_prompts(config.prompts)
    check_prompts(prompts)
    return run_over(prompts, config, {stage: _WORK[stage] for stage in stages}, reporter, redo=redo)


def measure_model(config: RunConfig, reporter: Reporter, *, redo: Stage | None = None) -> RunDirectory:
    """Measure the policy of a configuration by itself: no training comes before it.

    Raises:
        LpoError: With the exit code that fits.
    """
    return run_over(load_prompts(config.prompts), config, {Stage.EVAL: _measure}, reporter, redo=redo, kind="measured")


def run_over(prompts: PromptSet, config: RunConfig, work: Mapping[Stage, Work], reporter: Reporter, *,
             redo: Stage | None = None, kind: str | None = None) -> RunDirectory:
    """As `run`, over prompts that were read already: the work of each stage that is not complete.

    Args:
        prompts: The prompts.
        config: The run.
        work: What each stage does.
        reporter: Told how it goes.
        redo: Make this stage and those after it again.
        kind: What the directory holds, in its manifest, where it is no ordinary run.

    Raises:
        LpoError: With the exit code that fits.
    """
    directory = RunDirectory(config.run_dir)
    with directory.locked(), log_to(directory / "log.jsonl", config):
        directory.adopt(config, prompts_hash(prompts), redo)
        directory.update_manifest(kind=kind, **environment.describe())
        _say_prompts(prompts, reporter)
        for stage, do in work.items():
            _do(stage, do, config, prompts, directory, reporter)
        write_report(directory, reporter)
    return directory


def check_trainable(config: RunConfig) -> None:
    """Refuse to train where that cannot be.

    Raises:
        ConfigError: The method makes no pairs, or the policy's weights are not named.
    """
    if not config.build.gives_pairs:
        raise ConfigError(f"method {config.build.method!r} makes rows for supervised fine-tuning, no pairs to train on",
                          where="build.method", mend="use `lpo build`, and TRL's SFTTrainer on the run's sft.jsonl")
    _ = config.trained_model


def prompts_hash(prompts: PromptSet) -> str:
    """`fingerprint` of the list of all prompts, worked out one prompt at a time."""
    digest = hashlib.sha256(b"[")
    for number, prompt in enumerate((*prompts.build, *prompts.held_out)):
        row = json.dumps(prompt.to_json(), sort_keys=True, ensure_ascii=False)
        digest.update(f"{', ' if number else ''}{row}".encode())
    digest.update(b"]")
    return digest.hexdigest()[:16]


def _say_prompts(prompts: PromptSet, reporter: Reporter) -> None:
    aside = ", ".join(f"{name} {count}" for name, count in prompts.filtered.items())
    reporter.say(f"prompts: {len(prompts.build)} to build from, {len(prompts.held_out)} held out, "
                 f"{len(prompts.rejected)} rejected" + (f"; set aside by filters: {aside}" if aside else ""))


def check_prompts(prompts: PromptSet) -> None:
    """Refuse to measure on what is built from.

    Raises:
        DataError: A prompt stands in both parts.
    """
    shared = overlap(prompts.build, prompts.held_out)
    if shared:
        raise DataError(f"{len(shared)} prompts stand in both the build and the held-out part, first: {shared[0]}",
                        where="prompts", mend="remove them from one of the two")


def write_report(directory: RunDirectory, reporter: Reporter) -> Path:
    """Write the page of a run from whatever stages are there."""
    from lpo.report import write_report as write_page

    page = write_page(directory.path)
    reporter.say(f"report: {page}")
    return page


def _do(stage: Stage, work: Work, config: RunConfig, prompts: PromptSet, directory: RunDirectory,
        reporter: Reporter) -> None:
    if directory.is_complete(stage):
        reporter.say(f"{stage}: already complete")
        return
    identity = identity_hash(config, directory.manifest["prompts_hash"], stage)
    attempts = (directory.stage_entry(stage) or {}).get("attempts", 0) + 1
    directory.mark(stage, status="started", identity=identity, attempts=attempts)
    log.info("%s started", stage)
    start = time.monotonic()
    usage = work(config, prompts, directory, reporter)
    directory.mark(stage, status="complete", identity=identity, attempts=attempts,
                   finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"), seconds=round(time.monotonic() - start, 1),
                   peak_memory_mb=environment.peak_memory_mb(), usage=usage.to_json() if usage else None)
    directory.update_manifest(hardware=environment.hardware())
    log.info("%s complete", stage)


def _build(config: RunConfig, prompts: PromptSet, directory: RunDirectory, reporter: Reporter) -> Usage:
    from lpo.run.build_summary import BuildSummary
    from lpo.run.building import build

    def work(models: Models) -> Coroutine[Any, Any, BuildSummary]:
        return build(config, prompts, directory, models, reporter)

    return with_models(directory, reporter, work, config.build.budget).usage


def _train(config: RunConfig, prompts: PromptSet, directory: RunDirectory, reporter: Reporter) -> None:
    from lpo.run.training import train

    directory.require(Stage.BUILD)
    train(config, prompts.held_out, directory, reporter)


def _evaluate(config: RunConfig, prompts: PromptSet, directory: RunDirectory, reporter: Reporter) -> Usage:
    from lpo.run.evaluating import evaluate

    async def work(models: Models) -> Usage:
        await evaluate(config, prompts, directory, models, reporter)
        return models.usage()

    directory.require(Stage.TRAIN)
    return with_models(directory, reporter, work, config.build.budget)


def _measure(config: RunConfig, prompts: PromptSet, directory: RunDirectory, reporter: Reporter) -> Usage:
    from lpo.run.evaluating import measure

    async def work(models: Models) -> Usage:
        await measure(config, prompts, directory, models, reporter)
        return models.usage()

    return with_models(directory, reporter, work, config.build.budget)


_WORK: dict[Stage, Work] = {Stage.BUILD: _build, Stage.TRAIN: _train, Stage.EVAL: _evaluate}


def with_models(
    directory: RunDirectory, reporter: Reporter, work: Callable[[Models], Coroutine[Any, Any, Result]],
    budget: BudgetConfig | None = None,
) -> Result:
    """Run asynchronous work over the run's models and journal, within the budget of the run.

    The first Ctrl-C lets calls in flight finish and be stored; the second one ends the process.
    """

    async def body() -> Result:
        stop = asyncio.Event()
        with Journal(directory / "journal.sqlite") as journal, _draining_interrupt(stop, reporter):
            models = Models(journal, stop, budget)
            try:
                return await work(models)
            finally:
                await models.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(body())
    with ThreadPoolExecutor(max_workers=1) as thread:  # a notebook's own loop is running here
        return thread.submit(asyncio.run, body()).result()


@contextmanager
def _draining_interrupt(stop: asyncio.Event, reporter: Reporter) -> Iterator[None]:
    """Turn the first Ctrl-C into a request to stop; signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def on_interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        reporter.say("stopping: waiting for the calls in flight (Ctrl-C again to stop at once)")
        stop.set()

    loop.add_signal_handler(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
