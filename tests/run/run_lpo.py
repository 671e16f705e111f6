"""Runs the real `lpo` command in processes of its own, and makes the small things it needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def write_prompts(path: Path, count: int, target_words: int = 40) -> Path:
    """A JSONL of distinct writing tasks."""
    subjects = ["a lighthouse", "an orchard", "the night bus", "a broken clock", "the river ferry", "a paper kite",
                "an old bakery", "the mountain hut", "a lost dog", "the town library", "a storm at sea",
                "two beekeepers"]
    kinds = ["story", "report", "letter", "guide", "essay", "review"]
    rows = [{"prompt": f"Write a {kinds[i % 6]} about {subjects[i % 12]}, as seen by visitor number {'abcdefgh'[i % 8]}"
                       f"{'xyz'[i % 3]}.", "target_words": target_words} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """A configuration file."""
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    """The command line of the real program."""
    return [sys.executable, "-m", "lpo", *map(str, arguments)]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, with the checkout importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}


def lpo(*arguments: str | Path, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(command(*arguments), cwd=cwd, env=environment(**extra), capture_output=True, text=True,
                          timeout=300, check=False)


def start_lpo(*arguments: str | Path, cwd: Path, **extra: str) -> subprocess.Popen[bytes]:
    """Start it; what it prints goes to `cwd/output.log`."""
    with (cwd / "output.log").open("ab") as log:
        return subprocess.Popen(command(*arguments), cwd=cwd, env=environment(**extra), stdout=log, stderr=log)
