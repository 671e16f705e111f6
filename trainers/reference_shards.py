"""Shards of the reference cache: safetensors files of float32 arrays, each array with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lpo.storage import write_atomic

_FORMAT = "lpo-reference-1"
PATTERN = "shard-*.safetensors"


class BrokenShardError(Exception):
    """A shard, or an array in it, that cannot be used; the text says why."""


class Shard:
    """One shard on disk, read lazily.

    Args:
        path: The file.
        key_digest: Digest of the reference key it must belong to.

    Raises:
        BrokenShardError: It is torn, of another format, or belongs to another reference.
    """

    def __init__(self, path: Path, key_digest: str) -> None:
        self.path = path
        self._key_digest = key_digest
        try:
            metadata: dict[str, str] = self._file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise BrokenShardError(f"not of the format {_FORMAT}")
            if metadata.get("key") != key_digest:
                raise BrokenShardError("it belongs to another reference")
            self._checksums: dict[str, str] = json.loads(metadata["checksums"])
            self.written_with = metadata["written_with"]
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise BrokenShardError(str(error)) from None

    @property
    def units(self) -> tuple[str, ...]:
        """The units that are here."""
        return tuple(self._checksums)

    def read(self, unit: str) -> np.ndarray:
        """The log-probs of one unit, float32 [N], copied.

        Raises:
            BrokenShardError: They are not what was written.
        """
        try:
            values_N: np.ndarray = self._file.get_tensor(unit)
        except (OSError, SafetensorError) as error:
            raise BrokenShardError(str(error)) from None
        if values_N.dtype != np.float32 or _checksum(self._key_digest, unit, values_N) != self._checksums[unit]:
            raise BrokenShardError(f"the log-probs of unit {unit} do not match their checksum")
        return values_N

    @cached_property
    def _file(self) -> Any:
        # safetensors maps the file into memory and closes it, so many shards may be open at a time.
        return safe_open(self.path, framework="np")

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes open the file anew."""
        return {name: value for name, value in vars(self).items() if name != "_file"}


def write_shard(folder: Path, rank: int, key_digest: str, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a shard, atomically and durably.

    The name holds a digest of the content, so writers never collide and the same content lies there once.

    Args:
        folder: Of the cache.
        rank: Number of the writing process.
        key_digest: Digest of the reference key.
        arrays: Log-probs by unit, float32.

    Raises:
        OSError: It cannot be written; nothing of it is left.
    """
    checksums = {unit: _checksum(key_digest, unit, values_N) for unit, values_N in arrays.items()}
    listed = json.dumps(checksums, sort_keys=True)
    path = folder / f"shard-{rank:05d}-{hashlib.sha256(listed.encode()).hexdigest()[:16]}.safetensors"
    write_atomic(path, save(dict(arrays), metadata={
        "format": _FORMAT, "key": key_digest, "written_with": versions(), "checksums": listed}))
    return path


def versions() -> str:
    """The libraries that compute the numbers, for people to read."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))


def _checksum(key_digest: str, unit: str, values_N: np.ndarray) -> str:
    """Covers reference, unit and length as well: an array that lies in the wrong place does not match either."""
    head = f"{key_digest} {unit} {values_N.shape};".encode()
    return hashlib.sha256(head + values_N.astype("<f4", copy=False).tobytes()).hexdigest()[:32]
