"""LongReward against a local server: busy slots, and our CPU time for each call.

    python benchmarks/longreward.py                  30 questions with 10 answers each, 64 slots, 500 ms for each reply

It is `lpo score`, whole, in this process: documents of 6,000 words read and indexed, statements, passages, labels,
notes and grades, journal and files. The server (`build_server.py`) is another process. CPU time is this process's own
clock, so other processes count little.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scipy.stats  # noqa: F401  (the intervals need it: loaded before the clock runs)
import yaml
from build_server import WORDS

from build import TARGET_BUSY, TARGET_MS, Cost, busy_share, changes, peak_mb, server
from lpo.run.directory import RunDirectory
from lpo.run.pipeline import write_report
from lpo.run.progress import Reporter
from lpo.run.scoring import score

DOCUMENT_WORDS, ANSWER_WORDS = 6000, 250


def text(words: int, rng: random.Random) -> str:
    """Sentences of nine words."""
    sentences = (" ".join(rng.choice(WORDS) for _ in range(9)).capitalize() + "." for _ in range(words // 9))
    return " ".join(sentences)


def rows(questions: int, answers: int) -> Iterator[dict[str, Any]]:
    """Questions with their documents and answers."""
    rng = random.Random(questions)
    for number in range(questions):
        yield {"id": f"{questions}-{number}", "prompt": f"What does the report say about voyage number {number}?",
               "context": text(DOCUMENT_WORDS, rng), "answers": [text(ANSWER_WORDS, rng) for _ in range(answers)]}


def settings(folder: Path, port: int, slots: int) -> Path:
    """A configuration whose judge is the server."""
    path = folder / "judge.yaml"
    path.write_text(yaml.safe_dump({
        "name": "longreward", "runs_dir": str(folder / "runs"),
        "judge": {"backend": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "model": "judge", "method": "json",
                  "max_concurrency": slots},
        "build": {"method": "best_of_n", "answers": {"min_scored": 2}, "reward": {"judge": 0, "longreward": 1},
                  "pairs": {"rejected": "worst"}},
    }))
    return path


def timed(folder: Path, config: Path, questions: int, answers: int) -> tuple[Cost, dict[str, Any]]:
    """Score, and say what it took and what was counted; without the page, which is written once for each run."""
    name = f"scores-{questions}"
    file = folder / f"answers-{questions}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(questions, answers)))
    before, start, cpu = peak_mb(), time.monotonic(), time.process_time()
    with Path("/dev/null").open("w") as quiet:
        score(file, config=str(config), name=name, reporter=Reporter(quiet))
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        growth = peak_mb() - before
        start, page = time.monotonic(), time.process_time()
        write_report(RunDirectory(folder / "runs" / name), Reporter(quiet))
        seconds, cpu = seconds - (time.monotonic() - start), cpu - (time.process_time() - page)
    summary = json.loads((folder / "runs" / name / "score.json").read_text())
    return Cost(seconds, cpu, sum(summary["calls"].values()), growth), summary


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--answers", type=int, default=10, help="for each question")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, server(given.latency, given.slots) as port:
        folder = Path(name)
        config = settings(folder, port, given.slots)
        timed(folder, config, 1, 2)  # so that nothing is imported while the clock runs
        cost, summary = timed(folder, config, given.questions, given.answers)
        share = busy_share(changes(port, given.slots), given.slots)
    purposes = ", ".join(f"{purpose} {count}" for purpose, count in summary["calls"].items())
    print(f"longreward: {summary['scored']} of {given.questions * given.answers} answers scored, {cost.calls} calls in "
          f"{cost.seconds:.1f} s ({purposes}); {share:.1%} of {given.slots} slots at work (target {TARGET_BUSY:.0%}); "
          f"{1000 * cost.cpu / cost.calls:.2f} ms of our CPU a call (target {TARGET_MS:g}), peak +"
          f"{cost.peak_growth_mb:.0f} MB")


if __name__ == "__main__":
    main()
