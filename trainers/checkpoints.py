"""Checkpoints that exist whole or not at all.

A checkpoint is written under a hidden name, flushed to disk, given a list of its files, and only then renamed to
`checkpoint-N`. Older ones are deleted after that.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpo.errors import DataError
from lpo.storage import read_json, sync_folder, write_json

log = logging.getLogger(__name__)

MARKER = "COMPLETE.json"


def staging_folder(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it is complete."""
    return checkpoint.with_name(f".{checkpoint.name}.partial")


def clear_staging(output_dir: Path) -> None:
    """Delete what killed saves left behind."""
    for folder in output_dir.glob(".checkpoint-*.partial"):
        shutil.rmtree(folder)


def seal(checkpoint: Path) -> None:
    """Turn the staged folder into the checkpoint.

    Args:
        checkpoint: The final name; a folder that already stands there is replaced.
    """
    staged = staging_folder(checkpoint)
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    write_json(staged / MARKER, {"files": {str(path.relative_to(staged)): path.stat().st_size for path in files}})
    for folder in (path for path in staged.rglob("*") if path.is_dir()):
        sync_folder(folder)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)  # torn, or of a future that a resume from further back has given up
    os.replace(staged, checkpoint)
    sync_folder(checkpoint.parent)


def _flush(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def require_complete(checkpoint: Path) -> None:
    """Check a checkpoint against the list of its files.

    Raises:
        DataError: It is missing, was never finished, or files of it are missing or of another size.
    """
    if not checkpoint.is_dir():
        raise DataError("no such checkpoint", where=str(checkpoint), mend="name a checkpoint-N folder")
    if not (checkpoint / MARKER).is_file():
        raise DataError(f"not complete: {MARKER} is missing", where=str(checkpoint), mend="use an older checkpoint")
    for name, size in read_json(checkpoint / MARKER)["files"].items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            raise DataError(f"not complete: {name} is missing or cut", where=str(checkpoint),
                            mend="use an older checkpoint")


def latest_complete(output_dir: Path | str) -> Path | None:
    """The newest complete checkpoint of a trainer's output folder; torn ones are skipped and named in the log."""
    numbered = [(int(match[1]), path) for path in Path(output_dir).glob("checkpoint-*")
                if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))]
    for _, path in sorted(numbered, reverse=True):
        try:
            require_complete(path)
        except DataError as error:
            log.warning("skipped %s: %s", path.name, error.cause)
        else:
            return path
    return None


def checkpoint_to_resume(resume: str | bool | None, output_dir: Path) -> Path | None:
    """What `resume_from_checkpoint` means: a folder, the newest complete one (True), or none.

    Raises:
        DataError: The folder is not complete, or there is none.
    """
    if not resume:
        return None
    if resume is not True:
        require_complete(Path(resume))
        return Path(resume)
    checkpoint = latest_complete(output_dir)
    if checkpoint is None:
        raise DataError("there is no complete checkpoint", where=str(output_dir),
                        mend="train without resume_from_checkpoint")
    return checkpoint


def last_logged(history: Sequence[Mapping[str, Any]], name: str) -> int:
    """A count that a training logged last; 0 if it never did."""
    return next((logs[name] for logs in reversed(history) if name in logs), 0)


def logged_until(checkpoint: Path) -> list[dict[str, Any]]:
    """What the training of a checkpoint had logged."""
    return read_json(checkpoint / "trainer_state.json")["log_history"]
