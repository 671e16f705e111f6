"""Kill -9 twenty times in a row over one build with the whole method: the result is that of an undisturbed build.

Policy, judge, extractor, checker and critic are behind a server that is a process of its own.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_lpo import ROOT, environment, lpo, start_lpo, write_config, write_prompts

from lpo.llm.journal import Journal
from lpo.llm.journal_file import Outcome

KILLS = 20
AT_ONCE = 4
"""Calls in flight to each of the two models, at most."""
RESULTS = ("trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl")


class Server:
    """A scripted server in a process of its own."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"

    def calls(self, kind: str = "received") -> int:
        """Calls so far: `received`, or `answered` in full."""
        with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/requests", timeout=10) as reply:
            return json.load(reply)[kind]


@contextmanager
def scripted_server(latency: float) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, str(ROOT / "tests" / "scripted_server.py"), "--port", str(port)]
    process = subprocess.Popen([*program, "--latency", str(latency)], env=environment())
    server = Server(port)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                server.calls()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        yield server
    finally:
        process.kill()
        process.wait()


def search_config(folder: Path, url: str) -> Path:
    """Memory, critiques, four walks; eta lies where the scripted judge's grades lie."""
    write_prompts(folder / "prompts.jsonl", 7)
    model = {"backend": "openai", "model": "scripted", "base_url": url, "max_concurrency": AT_ONCE}
    return write_config(folder / "run.yaml", {
        "name": "killed", "prompts": {"path": "prompts.jsonl"}, "policy": model,
        "judge": {**model, "model": "scripted-judge", "method": "json"},
        "build": {"branching": 3, "depth": 3, "step_tokens": 60, "concurrency": 3, "search": {"num_paths": 4},
                  "critique": {"eta": 3.1}}})


def journal_counts(folder: Path):
    with Journal(folder / "runs" / "killed" / "journal.sqlite") as journal:
        return journal.counts()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One build that nobody disturbs: its folder, and the calls the server answered."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with scripted_server(latency=0) as server:
        result = lpo("build", search_config(folder, server.url), cwd=folder)
        assert result.returncode == 0, result.stderr
        return folder, server.calls("answered")


def test_the_build_that_is_killed_vetoes_and_refines(undisturbed):
    folder, calls = undisturbed
    counts = json.loads((folder / "runs" / "killed" / "build.json").read_text())
    assert counts["vetoed"] > 0 and counts["refinements"]["accepted"] > 0 and counts["refinements"]["not_better"] > 0
    assert counts["paths"] == 4 * counts["trees"] > 12
    assert counts["pairs"] > 12 and counts["usage"]["calls"] == calls


def test_killed_twenty_times_it_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    reference, calls = undisturbed
    rng = random.Random(20)
    with scripted_server(latency=0.1) as server:
        config = search_config(tmp_path, server.url)
        for kill in range(KILLS):
            process = start_lpo("build", config, cwd=tmp_path)
            made = server.calls()
            target = made + rng.randint(0, 2 * max(0, calls - made) // (KILLS - kill + 2))  # some are left at the end
            while process.poll() is None and server.calls() < target:
                time.sleep(0.02)
            assert process.poll() is None, (tmp_path / "output.log").read_text()
            time.sleep(rng.uniform(0, 0.03))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        result = lpo("build", config, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        made = server.calls("answered")
    for name in RESULTS:
        assert (tmp_path / "runs/killed" / name).read_bytes() == (reference / "runs/killed" / name).read_bytes(), name
    assert calls <= made <= calls + KILLS * 2 * AT_ONCE, "only calls in flight at a kill may be made again"
    counts, alone = journal_counts(tmp_path), journal_counts(reference)
    assert counts.entries == alone.entries == counts.ever[Outcome.ANSWER], "no finished call was made twice"
    assert counts.spent.calls == alone.spent.calls == calls
