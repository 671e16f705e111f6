"""Reference log-probs on disk: computed once, one float32 array a unit, reused by every run with the same reference.

A unit is what is computed together: a group under tree packing, a pair under rows. Its array holds the log-prob of each
of its distinct scored tokens.

    <reference_cache_dir>/<digest of the key>/key.json                    the key, for people to read
                                              shard-<rank>-<digest>.safetensors
"""

from __future__ import annotations

import errno
import logging
import math
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lpo.errors import DataError, LpoError, UnsoundError
from lpo.storage import read_json, write_json
from lpo.trainers.reference_key import ReferenceKey
from lpo.trainers.reference_shards import PATTERN, BrokenShardError, Shard, versions, write_shard

log = logging.getLogger(__name__)

KEY_FILE = "key.json"
_LEFTOVER_AGE = 24 * 3600.0
"""Seconds after which a temporary file is taken for what a kill left behind."""


class ReferenceCache:
    """Reference log-probs by unit.

    Several processes may write at the same time: each writes shards of its own and sees those of the others after
    `refresh`. A shard that is torn, and an array that does not match its checksum, are reported once and count as
    missing. Objects can be sent to worker processes that read.

    Args:
        root: Folder of all caches (`reference_cache_dir`).
        key: What the numbers depend on.
        rank: Number of this process.
        shard_bytes: A shard is written when it holds so many bytes of log-probs,
        shard_seconds: or when its first unit has waited so long: at most this much work is lost by a kill.

    Raises:
        LpoError: The folder cannot be made or read.
    """

    def __init__(
        self, root: Path, key: ReferenceKey, *, rank: int = 0, shard_bytes: int = 16 * 2**20,
        shard_seconds: float = 60.0,
    ) -> None:
        self.folder = root / key.digest()
        self._digest = key.digest()
        self._rank = rank
        self._shard_bytes = shard_bytes
        self._shard_seconds = shard_seconds
        self._pending: dict[str, np.ndarray] = {}
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._shards: dict[str, Shard] = {}  # by file name
        self._places: dict[str, list[str]] = {}  # file names by unit
        self._verified: set[str] = set()
        self._warned: set[str] = set()
        try:
            _describe(root, self.folder, key)
            _remove_leftovers(self.folder)
            self.refresh()
        except OSError as error:
            raise _unusable(self.folder, error) from None
        self._found = frozenset(self._places)

    def refresh(self) -> None:
        """See shards that other processes wrote."""
        for path in sorted(self.folder.glob(PATTERN)):
            if path.name not in self._shards:
                self._open(path)

    def missing(self, units: Iterable[str]) -> list[str]:
        """Those of the units that must be computed, in their order, each once.

        What is on disk is read and compared with its checksum once a process, so nothing turns out to be broken in
        the middle of a training.
        """
        return [unit for unit in dict.fromkeys(units) if unit not in self]

    def __contains__(self, unit: str) -> bool:
        return unit in self._pending or unit in self._verified or self._load(unit) is not None

    def put(self, unit: str, logprobs_N: torch.Tensor) -> None:
        """Add the log-probs of one unit. A unit that is already there is left as it is.

        Args:
            unit: From `unit_digest`.
            logprobs_N: Log-probs [N] in nats of its distinct scored tokens, float32 or float64; stored as float32.

        Raises:
            UnsoundError: They are not finite, not of this type and shape, or of another length than those stored.
            LpoError: A shard is full and cannot be written (a full disk); what is not written stays in memory.
        """
        values_N = _as_array(unit, logprobs_N)
        stored_N = self._pending.get(unit)
        if stored_N is None:
            stored_N = self._load(unit)
        if stored_N is not None:
            _require_length(unit, stored_N, len(values_N), self.folder)
            return
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending[unit] = values_N
        self._pending_bytes += values_N.nbytes
        if (self._pending_bytes >= self._shard_bytes
                or time.monotonic() - self._pending_since >= self._shard_seconds):
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory; afterwards a kill loses none of it.

        Raises:
            LpoError: It cannot be written (a full disk); it stays in memory, so that flushing can be tried again.
        """
        if not self._pending:
            return
        try:
            path = write_shard(self.folder, self._rank, self._digest, self._pending)
        except OSError as error:
            raise _unusable(self.folder, error) from None
        self._open(path)
        self._pending, self._pending_bytes = {}, 0

    def __getitem__(self, unit: str) -> torch.Tensor:
        return self.read(unit)

    def read(self, unit: str, n_scored: int | None = None) -> torch.Tensor:
        """The log-probs of one unit, float32 [N] on the CPU, a tensor of the caller's own.

        Args:
            unit: From `unit_digest`.
            n_scored: The N that is expected; None expects nothing.

        Raises:
            UnsoundError: They are not there or not as they were written, or N is another.
        """
        values_N = self._pending.get(unit)
        values_N = self._load(unit) if values_N is None else values_N.copy()
        if values_N is None:
            raise UnsoundError(f"no reference log-probs of unit {unit}", where=str(self.folder),
                               mend="start again: what is missing is computed first")
        if n_scored is not None:
            _require_length(unit, values_N, n_scored, self.folder)
        return torch.from_numpy(values_N)

    def sample_for_check(self, units: Iterable[str], share: float = 0.01, *, seed: int) -> list[str]:
        """Units to compute again and give to `check`, drawn from those that lay on disk before this process began.

        Args:
            units: The units of this training.
            share: Part of them to draw.
            seed: Give each run another, so that in time all are drawn.

        Returns:
            At least one unit where there are any; the same ones for the same seed, whatever the order of `units`.
        """
        candidates = sorted(unit for unit in set(units) if unit in self._found and unit in self)
        return random.Random(seed).sample(candidates, math.ceil(share * len(candidates)))

    def check(self, unit: str, recomputed_N: torch.Tensor, tolerance: float) -> None:
        """Compare stored log-probs with those computed just now.

        Args:
            unit: The unit.
            recomputed_N: Its log-probs [N] by the reference at hand.
            tolerance: Largest difference allowed on a token, in nats, beyond what float32 rounds off.

        Raises:
            UnsoundError: They differ.
        """
        stored_N = self.read(unit, recomputed_N.numel()).double()
        difference_N = (stored_N - recomputed_N.detach().double().cpu()).abs()
        allowed_N = tolerance + torch.finfo(torch.float32).eps * stored_N.abs()
        if not bool((difference_N <= allowed_N).all()):  # so written, NaN is a difference
            worst = int((difference_N - allowed_N).nan_to_num(math.inf).argmax())
            raise UnsoundError(
                f"stored reference log-probs of unit {unit} differ from those of the reference at hand by "
                f"{float(difference_N[worst]):.3g} nats at scored token {worst} (allowed: {tolerance:g}); they were "
                f"written with {self._written_with(unit)}, this is {versions()}",
                where=str(self.folder), mend="delete this folder: the log-probs are then computed anew")

    def _written_with(self, unit: str) -> str:
        places = self._places.get(unit)
        return self._shards[places[0]].written_with if places else versions()

    def _open(self, path: Path) -> None:
        try:
            shard = Shard(path, self._digest)
        except BrokenShardError as error:
            self._warn(path, error)
            return
        self._shards[path.name] = shard
        for unit in shard.units:
            self._places.setdefault(unit, []).append(path.name)

    def _load(self, unit: str) -> np.ndarray | None:
        """The unit's log-probs from the first shard that holds them unharmed."""
        places = self._places.get(unit, [])
        while places:
            shard = self._shards[places[0]]
            try:
                values_N = shard.read(unit)
            except BrokenShardError as error:
                self._warn(shard.path, error)
                self._verified.discard(unit)
                del places[0]
            else:
                self._verified.add(unit)
                return values_N
        return None

    def _warn(self, path: Path, error: BrokenShardError) -> None:
        if path.name not in self._warned:
            self._warned.add(path.name)
            log.warning("%s cannot be used, its log-probs are computed again: %s", path, error)


def _describe(root: Path, folder: Path, key: ReferenceKey) -> None:
    """Write the key beside the numbers; say how it differs from the keys of other caches if this one is new."""
    path = folder / KEY_FILE
    if path.is_file() and (stored := _stored_key(path)) is not None:
        if differing := key.differences(stored):
            raise UnsoundError(f"this cache belongs to another reference: {', '.join(differing)} differ",
                               where=str(path), mend="delete this folder, or give it back the name it had")
        return
    others = [stored for other in sorted(root.glob(f"*/{KEY_FILE}")) if (stored := _stored_key(other)) is not None]
    if others:
        nearest = min((key.differences(other) for other in others), key=len)
        log.info("no stored log-probs of this reference; the nearest cache differs in: %s", ", ".join(nearest))
    write_json(path, {"key": asdict(key), "first_written_with": versions()})


def _stored_key(path: Path) -> dict[str, Any] | None:
    """The key of a cache; None if its file is broken: shards know by themselves where they belong."""
    try:
        stored = read_json(path)["key"]
    except (DataError, KeyError, TypeError):
        return None
    return stored if isinstance(stored, dict) else None


def _remove_leftovers(folder: Path) -> None:
    """Remove unfinished files of processes that were killed long ago."""
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                path.unlink()


def _as_array(unit: str, logprobs_N: torch.Tensor) -> np.ndarray:
    if logprobs_N.dtype not in (torch.float32, torch.float64) or logprobs_N.dim() != 1 or not logprobs_N.numel():
        raise UnsoundError(f"reference log-probs of type {logprobs_N.dtype} and shape {tuple(logprobs_N.shape)}: one "
                           "float32 for each scored token is needed", where=f"unit {unit}",
                           mend="half precision loses whole nats over a long text; compute log-probs in float32")
    values_N = logprobs_N.detach().cpu().float().numpy().copy()
    if not np.isfinite(values_N).all():
        raise UnsoundError(f"reference log-prob {int(np.argmin(np.isfinite(values_N)))} is not finite",
                           where=f"unit {unit}", mend="use a wider number type for the reference (bf16 for fp16)")
    return values_N


def _require_length(unit: str, values_N: np.ndarray, n_scored: int, folder: Path) -> None:
    if len(values_N) != n_scored:
        raise UnsoundError(f"unit {unit} has {n_scored} scored tokens, but {len(values_N)} reference log-probs are "
                           "stored", where=str(folder), mend="delete this folder: the log-probs are computed anew")


def _unusable(folder: Path, error: OSError) -> LpoError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return LpoError(f"no room for reference log-probs: {error.strerror}", where=str(folder),
                        mend="free space, or move the folder and set reference_cache_dir, then run again: what was "
                             "written before is kept")
    return LpoError(f"the reference cache cannot be used: {error}", where=str(folder),
                    mend="set reference_cache_dir to a folder that may be written to")
