"""The build stage against a local server: busy slots, our CPU time for each call, memory, replay from the journal.

    python benchmarks/build.py busy                  256 trees, 64 slots, 500 ms for each reply
    python benchmarks/build.py memory                10,000 prompts, replies at once
    python benchmarks/build.py replay                a finished build, built again from its journal

Every build is the whole stage in this process: search with memory and critiques, journal, files. The server is another
process. CPU time is this process's own clock, so other processes count little.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lpo.config import RunConfig
from lpo.run.directory import Stage
from lpo.run.pipeline import run, write_report
from lpo.run.progress import Reporter

TARGET_BUSY, TARGET_MS, TARGET_MB, TARGET_REPLAY = 0.90, 3.0, 200.0, 5.0
EDGE = 0.1
"""Share of the calls at either end that is left out of the busy slots."""


@contextmanager
def server(latency: float, slots: int) -> Iterator[int]:
    """A server process; its port."""
    script = Path(__file__).with_name("build_server.py")
    process = subprocess.Popen([sys.executable, str(script), "--latency", str(latency), "--slots", str(slots)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)


def configuration(folder: Path, port: int, prompts: int, slots: int, **build: Any) -> RunConfig:
    """A run over so many made-up prompts."""
    path = folder / f"prompts-{prompts}.jsonl"
    held_out = folder / "held-out.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{n}", "prompt": f"Write letter number {n} about a journey.",
                                        "target_words": 200}) + "\n" for n in range(prompts)))
    held_out.write_text(json.dumps({"id": "h", "prompt": "Write a report on bees.", "target_words": 200}) + "\n")
    engine = {"backend": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "max_concurrency": slots}
    return RunConfig.model_validate({
        "name": "build", "runs_dir": str(folder), "prompts": {"path": str(path), "held_out_path": str(held_out)},
        "policy": {**engine, "model": "policy"}, "judge": {**engine, "model": "judge", "method": "json"},
        "build": {"step_tokens": 64, "stability_check": False, "concurrency": 2 * slots, **build},
    })


@dataclass(frozen=True)
class Cost:
    """What a build took in this process."""

    seconds: float
    cpu: float
    calls: int
    peak_growth_mb: float


def timed(config: RunConfig) -> Cost:
    """Build, and say what it took; without the page, which is written once for each run."""
    before, start, cpu = peak_mb(), time.monotonic(), time.process_time()
    with Path("/dev/null").open("w") as quiet:
        directory = run(config, [Stage.BUILD], Reporter(quiet))
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        growth = peak_mb() - before
        start, page = time.monotonic(), time.process_time()
        write_report(directory, Reporter(quiet))
        seconds, cpu = seconds - (time.monotonic() - start), cpu - (time.process_time() - page)
    usage = json.loads((directory / "build.json").read_text())["usage"]
    return Cost(seconds, cpu, usage["calls"] or usage["cached"], growth)


def warmed_up(folder: Path, port: int, slots: int) -> None:
    """One tree, so that nothing is imported while the clock runs."""
    timed(configuration(folder, port, 1, slots).model_copy(update={"name": "warm-up"}))


def peak_mb() -> float:
    """The most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def changes(port: int, slots: int) -> list[tuple[float, int]]:
    """How many slots were at work, and since when, from the first moment that all were: without the warm-up."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/busy") as reply:
        found = json.load(reply)["changes"]
    return found[next(index for index, (_, at_work) in enumerate(found) if at_work >= slots):]


def busy_share(changes: Sequence[tuple[float, int]], slots: int) -> float:
    """Share of slot-seconds at work, between the first and the last tenth of the calls."""
    ends = [moment for (moment, now), (_, then) in zip(changes[1:], changes, strict=False) if now < then]
    low, high = ends[int(len(ends) * EDGE)], ends[int(len(ends) * (1 - EDGE)) - 1]
    worked = sum(now * max(0.0, min(later, high) - max(moment, low))
                 for (moment, now), (later, _) in pairwise(changes))
    return worked / (slots * (high - low))


def busy(folder: Path, trees: int, slots: int, latency: float) -> None:
    """Are the slots kept at work?"""
    with server(latency, slots) as port:
        warmed_up(folder, port, slots)
        cost = timed(configuration(folder, port, trees, slots))
        share = busy_share(changes(port, slots), slots)
    print(f"busy: {trees} trees, {cost.calls} calls in {cost.seconds:.1f} s; {share:.1%} of {slots} slots at work "
          f"(target {TARGET_BUSY:.0%}); {1000 * cost.cpu / cost.calls:.2f} ms of our CPU a call (target {TARGET_MS:g})")


def memory(folder: Path, prompts: int, slots: int) -> None:
    """Does memory grow with the number of prompts? A build of a tenth of them comes first."""
    plain = {"branching": 2, "depth": 1, "search": {"algorithm": "greedy"}, "critique": {"enabled": False}}
    with server(0.0, slots) as port:
        timed(configuration(folder, port, prompts // 10, slots, **plain).model_copy(update={"name": "tenth"}))
        cost = timed(configuration(folder, port, prompts, slots, **plain))
    print(f"memory: {prompts} prompts, {cost.calls} calls in {cost.seconds:.1f} s; the peak grew by "
          f"{cost.peak_growth_mb:.0f} MB over that of {prompts // 10} (target {TARGET_MB:.0f}); "
          f"{1000 * cost.cpu / cost.calls:.2f} ms of our CPU a call")


def replay(folder: Path, trees: int, slots: int) -> None:
    """How long does a build take whose every call is in the journal?"""
    with server(0.0, slots) as port:
        config = configuration(folder, port, trees, slots)
        first = timed(config)
    for name in ("manifest.json", "trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl", "build.json"):
        (config.run_dir / name).unlink()
    cost = timed(config)
    print(f"replay: {cost.calls} stored calls of {trees} trees in {cost.seconds:.2f} s "
          f"({1000 * cost.seconds / cost.calls:.2f} ms a call; target {TARGET_REPLAY:g} s for 10,000); "
          f"the build itself made {first.calls}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["busy", "memory", "replay"])
    parser.add_argument("--trees", type=int, help="256 for busy, 10,000 for memory, 130 for replay")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.what == "busy":
            busy(folder, given.trees or 256, given.slots, given.latency)
        elif given.what == "memory":
            memory(folder, given.trees or 10_000, given.slots)
        else:
            replay(folder, given.trees or 130, given.slots)


if __name__ == "__main__":
    main()
