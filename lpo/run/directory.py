"""A run directory: its files, its lock, and which stages are complete."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from lpo.config import RunConfig, to_yaml
from lpo.errors import ConfigError, DataError, RunLockedError
from lpo.records import fingerprint
from lpo.storage import read_json, write_atomic, write_json

TUNABLE = {
    "runs_dir", "concurrency", "max_concurrency", "timeout", "deadline", "base_url", "api_key_env", "prices",
    "device", "batch_size", "one_call_for_siblings", "budget", "max_unscored",
}
"""Settings that change how fast a stage runs, what it costs or when it gives up, not what it is meant to compute."""


class Stage(StrEnum):
    """A stage with outputs of its own, in the order they run."""

    BUILD = "build"
    TRAIN = "train"
    EVAL = "eval"

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of the configuration this stage and those before it depend on."""
        build = ("seed", "prompts", "policy", "judge", "critic", "build")
        train = (*build, "train")
        return {Stage.BUILD: build, Stage.TRAIN: train, Stage.EVAL: (*train, "eval", "measured")}[self]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the stage writes, and what is derived from it, as patterns of paths in the run directory. The journal is
        no output: it is never paid twice.
        """
        return {
            Stage.BUILD: ("trees.jsonl", "pairs.jsonl", "sft.jsonl", "rejected_rows.jsonl", "build.json",
                          "scored.jsonl", "score.json", "pairs.*.jsonl", "rejected_rows.*.jsonl"),
            Stage.TRAIN: ("train", "metrics.jsonl", "samples.jsonl", "train.json"),
            Stage.EVAL: ("eval", "scores.json"),
        }[self]

    @property
    def and_later(self) -> tuple[Stage, ...]:
        """This stage and those that follow it."""
        stages = tuple(Stage)
        return stages[stages.index(self):]


class RunDirectory:
    """Paths and state of one run.

    Args:
        path: The folder; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of the run; empty before the first stage."""
        path = self / "manifest.json"
        return read_json(path) if path.exists() else {}

    def update_manifest(self, **values: Any) -> None:
        """Set top-level entries of the manifest."""
        write_json(self / "manifest.json", {**self.manifest, **values})

    def stage_entry(self, stage: Stage) -> dict[str, Any] | None:
        """What the manifest says of a stage; None when it never started."""
        return self.manifest.get("stages", {}).get(stage.value)

    def is_complete(self, stage: Stage) -> bool:
        """Has the stage finished?"""
        entry = self.stage_entry(stage)
        return entry is not None and entry["status"] == "complete"

    def mark(self, stage: Stage, **entry: Any) -> None:
        """Record a stage's state."""
        stages = {**self.manifest.get("stages", {}), stage.value: entry}
        self.update_manifest(stages=stages)

    def require(self, stage: Stage) -> None:
        """Check that a stage is complete.

        Raises:
            DataError: It is not.
        """
        if not self.is_complete(stage):
            raise DataError(f"the {stage} stage of this run is not complete", where=str(self.path),
                            mend=f"run `lpo {stage}` first, or `lpo run`, which does every stage")

    def adopt(self, config: RunConfig, prompts_hash: str, redo: Stage | None = None) -> None:
        """Take this configuration for the run, or refuse when stages already done were made with another.

        An evaluation made with other settings is simply made again; pairs and trained weights are not thrown away
        unless `redo` says so.

        Raises:
            ConfigError: A stage was made with other settings; the error lists them.
        """
        if redo is not None:
            self.discard(redo)
        for stage in Stage:
            entry = self.stage_entry(stage)
            if entry is None or entry["identity"] == identity_hash(config, prompts_hash, stage):
                continue
            if stage is Stage.EVAL:
                self.discard(stage)
                continue
            differences = _differences(self.stored_values(), config.model_dump(mode="json"), stage)
            if self.manifest.get("prompts_hash") != prompts_hash:
                differences.append("the prompts themselves changed")
            raise ConfigError(
                f"the {stage} stage was made with other settings: {'; '.join(differences)}",
                where=str(self.path),
                mend=f"choose another name=..., or make it again with --redo {stage} (finished model calls are reused)",
            )
        write_atomic(self / "config.yaml", to_yaml(config))
        self.update_manifest(name=config.name, seed=config.seed,
                             config_hash=fingerprint(config.model_dump(mode="json")), prompts_hash=prompts_hash)

    def stored_values(self) -> dict[str, Any]:
        """The configuration the run was last started with."""
        import yaml

        path = self / "config.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}

    def discard(self, stage: Stage) -> None:
        """Remove the outputs of a stage and of those after it."""
        entries = dict(self.manifest.get("stages", {}))
        for later in stage.and_later:
            entries.pop(later.value, None)
        self.update_manifest(stages=entries)
        for later in stage.and_later:
            for pattern in later.outputs:
                for target in self.path.glob(pattern):
                    shutil.rmtree(target) if target.is_dir() else target.unlink()

    @contextmanager
    def locked(self, name: str = ".lock", *, busy: str = "another process works in this run directory",
               mend: str = "wait for it, stop it, or choose another name=...") -> Iterator[None]:
        """Hold the run for this process; the operating system lets go of it however the process ends.

        Args:
            name: The file that stands for what is held; by default the stages' work.
            busy: What to say when another process holds it.
            mend: What to do then.

        Raises:
            RunLockedError: Another process holds it; the error names that process.
        """
        with (self / name).open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunLockedError(f"{busy}: {_read_owner(self / name)}", where=str(self.path), mend=mend) from None
            handle.truncate(0)
            handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(),
                                     "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
            handle.flush()
            yield


def find_run(run: str) -> RunDirectory:
    """A run by its directory, or by its name under runs/.

    Raises:
        DataError: There is none.
    """
    path = next((path for path in (Path(run), Path("runs") / run) if (path / "config.yaml").is_file()), None)
    if path is None:
        raise DataError("no such run", where=run, mend="give a run directory: it holds a config.yaml")
    return RunDirectory(path)


def _read_owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError):
        return "unknown (it has only just started)"


def identity_hash(config: RunConfig, prompts_hash: str, stage: Stage) -> str:
    """Hash of the prompts and of every setting that the results of a stage depend on."""
    values = config.model_dump(mode="json")
    sections = {section: _without_tunable(values[section]) for section in stage.sections}
    return fingerprint({"prompts": prompts_hash, **sections})


def _without_tunable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tunable(item) for key, item in value.items() if key not in TUNABLE}
    return value


def _differences(old: dict[str, Any], new: dict[str, Any], stage: Stage) -> list[str]:
    """`path: old -> new` for every identity setting that changed."""
    before, after = _flatten(old), _flatten(new)
    paths = [path for path in sorted({*before, *after})
             if path.split(".")[0] in stage.sections and not TUNABLE & set(path.split("."))]
    return [f"{path}: {before.get(path)!r} -> {after.get(path)!r}"
            for path in paths if before.get(path) != after.get(path)]


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{path}.{key}" if path else str(key))
    return flat
