"""Parts of the tests of the reference cache: small caches, and processes of a server that has torch loaded."""

import multiprocessing
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from lpo.trainers.reference_cache import ReferenceCache
from lpo.trainers.reference_key import ReferenceKey

KEY = ReferenceKey(weights="w", architecture="LlamaForCausalLM a", adapter="", dtype="weights float32", tokenizer="t",
                   template="", computation="tree, segments, chunked", code="1 (lpo 0.1.0)")

UNITS = [f"unit-{number}" for number in range(40)]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lpo.trainers.reference_cache"])


def values(number: int) -> torch.Tensor:
    """The log-probs of a unit: another length and other numbers for each."""
    generator = torch.Generator().manual_seed(number)
    return -10 * torch.rand(200 + number % 7, generator=generator)


def filled(folder, numbers=range(40), **options):
    cache = ReferenceCache(folder, KEY, **options)
    for number in numbers:
        cache.put(f"unit-{number}", values(number))
    cache.flush()
    return cache


def holds(cache, numbers):
    return all(torch.equal(cache[f"unit-{number}"], values(number)) for number in numbers)


def shards(cache):
    return sorted(cache.folder.glob("shard-*"))


def start(target, *arguments):
    """A process, and the connection on which it tells."""
    hear, tell = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=target, args=(*arguments, tell))
    process.start()
    tell.close()
    return process, hear


def told_until_end(hear):
    """Everything a process told before it ended."""
    messages = []
    with suppress(EOFError, ConnectionResetError):
        while True:
            messages += hear.recv()
    return messages


def write(folder: Path, rank: int, count: int, pause: float, tell: Connection) -> None:
    """Put units 0 .. count - 1, those that are missing, and tell which of them are certainly on disk."""
    cache = ReferenceCache(folder, KEY, rank=rank, shard_bytes=5000)
    n_shards, put = len(list(cache.folder.glob(f"shard-{rank:05d}-*"))), []
    for unit in cache.missing([f"unit-{number}" for number in range(count)]):
        cache.put(unit, values(int(unit[5:])))
        put.append(unit)
        now = len(list(cache.folder.glob(f"shard-{rank:05d}-*")))
        if now > n_shards:
            tell.send(put)
            n_shards, put = now, []
        time.sleep(pause)
    cache.flush()
    tell.send(put)


def read(folder: Path, unit: str, tell: Connection) -> None:
    """Read one unit; tell how many bytes of memory opening and reading took, and the sum of the log-probs."""
    before = _anonymous_memory()
    cache = ReferenceCache(folder, KEY)
    total = float(cache[unit].double().sum())
    tell.send((_anonymous_memory() - before, total))


def _anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
