"""The general-ability guard: lm-eval on base and trained model, each in a process of its own, each only once."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lpo.config import ModelConfig
from lpo.errors import BackendError, ConfigError, DataError, ExitCode
from lpo.eval_config import GuardConfig
from lpo.evaluation.guard import Abilities, GuardScores, guard_scores
from lpo.llm.demo import is_demo, resolve_model
from lpo.llm.side_by_side import stopped_error
from lpo.records import fingerprint
from lpo.run.measuring import Subject
from lpo.run.process_group import ProcessGroup, process_environment
from lpo.storage import read_json

NOTE = "plain prompts, without a chat template, as lm-eval gives them by default"

_TICK = 0.1
_NEWS_SECONDS = 15.0
_TAIL_LINES = 12
_TAIL_BYTES = 8000


async def run_guard(
    config: GuardConfig, *, base: Subject, trained: Subject | None, folder: Path, seed: int, resamples: int,
    say: Callable[[str], None], stop: asyncio.Event | None = None,
) -> GuardScores:
    """Measure general abilities of the models with lm-eval.

    Each model is measured in a child process, which ends with this one whatever happens to it. What was found is kept
    in `<folder>/<model>.json` and used again as long as weights, tasks and settings are the same.

    Args:
        config: Tasks and settings.
        base: The base model, or the only one.
        trained: The trained model; None: there is one model only.
        folder: Where results and logs go, `eval/guard` of a run.
        seed: Of the bootstrap. lm-eval draws examples with its own seeds.
        resamples: Behind each interval.
        say: Prints a line.
        stop: Ends a measurement when set; a model that was measured already stays so.

    Raises:
        ConfigError: lm-eval is not installed, a task is unknown, or the model runs on a server.
        BackendError: There is no such device, or lm-eval failed; the error holds the end of its log.
        StoppedError: Somebody set `stop`.
        UnsoundError: The two models were not measured on the same documents.
    """
    subjects = [subject for subject in (base, trained) if subject is not None]
    for subject in subjects:
        check_guard(config, subject.config)
    found = [await _abilities(config, subject, folder, say, stop) for subject in subjects]
    return guard_scores(found[0], found[1] if trained is not None else None, limit=config.limit, seed=seed,
                        resamples=resamples, notes=(NOTE,))


def check_guard(config: GuardConfig, model: ModelConfig) -> None:
    """See that the guard can run, before hours of other work.

    Args:
        config: The section `eval.guard`.
        model: The model that is measured.

    Raises:
        ConfigError: lm-eval is not installed, a folder of tasks is missing, or the model runs on a server.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm-eval, which measures general abilities, is not installed", where="eval.guard",
                          mend="pip install 'longform-lpo[lm-eval]'")
    if model.backend == "openai":
        raise ConfigError("lm-eval measures weights on this machine, not a model behind a server", where="eval.guard",
                          mend="leave eval.guard out, or evaluate the weights: backend: transformers")
    missing = [task for task in config.tasks if _is_folder(task) and not Path(task).expanduser().is_dir()]
    if missing:
        raise ConfigError("no such folder of tasks", where=missing[0], mend="mend eval.guard.tasks")


def _is_folder(task: str) -> bool:
    """Tasks of lm-eval have no slash in their names, so a folder that happens to be called `mmlu` is not meant."""
    return "/" in task or os.sep in task


async def _abilities(config: GuardConfig, subject: Subject, folder: Path, say: Callable[[str], None],
                     stop: asyncio.Event | None) -> Abilities:
    settings = _settings(config, subject, folder)
    kept = _kept(Path(settings["result"]), settings["key"])
    if kept is not None:
        say(f"general abilities ({subject.name}) were measured before: {settings['result']}")
        return kept
    say(f"general abilities ({subject.name}): {', '.join(config.tasks)}")
    await _run(settings, say, stop)
    found = _kept(Path(settings["result"]), settings["key"])
    if found is None:
        raise BackendError("lm-eval ended well, but left no result", where=settings["result"],
                           mend=f"read its log: {settings['log']}")
    return found


def _settings(config: GuardConfig, subject: Subject, folder: Path) -> dict[str, Any]:
    """What the child process is told, and the key under which its result is kept."""
    from lpo.llm.loading import pick_device, pick_dtype

    model = subject.config
    device = pick_device(model.device)
    dtype = str(pick_dtype(model.dtype, device)).removeprefix("torch.")
    names = [task for task in config.tasks if not _is_folder(task)]
    folders = [str(Path(task).expanduser().resolve()) for task in config.tasks if _is_folder(task)]
    identity = {
        "model": model.model, "revision": model.revision, "dtype": dtype, "weights": _weights(subject),
        "trust_remote_code": model.trust_remote_code, "tasks": names, "limit": config.limit,
        "folders": [_contents(Path(one)) for one in folders], "num_fewshot": config.num_fewshot,
        "lm_eval": metadata.version("lm_eval"),
    }
    return {
        "pretrained": resolve_model(model.model), "revision": model.revision, "dtype": dtype,
        "device": str(device), "trust_remote_code": model.trust_remote_code,
        "adapter": str(subject.adapter) if subject.adapter is not None else None, "tasks": names, "folders": folders,
        "limit": config.limit, "num_fewshot": config.num_fewshot, "batch_size": config.batch_size,
        "identity": identity, "key": fingerprint(identity, 32), "result": str(folder / f"{subject.name}.json"),
        "problem": str(folder / f"{subject.name}.problem.json"), "log": str(folder / f"{subject.name}.log"),
    }


def _weights(subject: Subject) -> dict[str, str | None]:
    """Hashes of what lies in folders; a model of the hub is known by its name and revision."""
    from lpo.llm.loading import fingerprint_folder

    folder = Path(subject.config.model)
    local = not is_demo(subject.config.model) and folder.is_dir()
    return {"model": fingerprint_folder(folder, whole=False) if local else None,
            "adapter": fingerprint_folder(subject.adapter, whole=True) if subject.adapter is not None else None}


def _contents(folder: Path) -> str:
    """A hash of the files in a folder of tasks, wherever it lies."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}:".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kept(path: Path, key: str) -> Abilities | None:
    """An earlier result of the same measurement; None when there is none, or that of another."""
    try:
        stored = read_json(path)
        return Abilities.model_validate(stored["abilities"]) if stored["key"] == key else None
    except (DataError, ValidationError, KeyError, TypeError):
        return None


async def _run(settings: dict[str, Any], say: Callable[[str], None], stop: asyncio.Event | None) -> None:
    """Run the child process to its end."""
    log = Path(settings["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    problem = Path(settings["problem"])
    problem.unlink(missing_ok=True)
    command = [sys.executable, "-m", "lpo.run.guard_child", json.dumps(settings)]
    news = time.monotonic()
    with ProcessGroup(command, log=log, environment=process_environment(TOKENIZERS_PARALLELISM="false")) as group:
        while (code := group.poll()) is None:
            if stop is not None and stop.is_set():
                raise stopped_error()
            await asyncio.sleep(_TICK)
            if time.monotonic() - news >= _NEWS_SECONDS:
                news = time.monotonic()
                say(f"  {(_tail(log) or ['starting'])[-1][:120]}")
    if code == 0:
        return
    if problem.is_file():
        told = read_json(problem)
        problem.unlink()
        kind = BackendError if code == ExitCode.BACKEND else ConfigError
        raise kind(told["cause"], where=told["where"], mend=told["mend"])
    lines = "\n".join(f"    {line}" for line in _tail(log))
    raise BackendError(f"lm-eval ended with code {code}; the end of its log:\n{lines}\n ", where=str(log),
                       mend="docs/guard.md names what goes wrong")


def _tail(log: Path) -> list[str]:
    with log.open("rb") as handle:
        handle.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = handle.read().decode("utf-8", errors="replace").replace("\r", "\n")
    return [line.rstrip()[:300] for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
