"""Kill -9 while building: the same command continues, no finished call is made again, the result is the same."""

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from run_lpo import lpo, start_lpo, write_config, write_prompts
from scripted_server import ScriptedServer

from lpo.llm.journal import Journal
from lpo.llm.journal_file import Outcome

KEY = "sk-planted-canary-9f3b"
RESULTS = ("trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl")


def build_config(folder: Path, url: str, **build: object) -> Path:
    """A configuration whose policy and judge are behind the server."""
    folder.mkdir(exist_ok=True)
    write_prompts(folder / "prompts.jsonl", 10)
    model = {"backend": "openai", "model": "scripted", "base_url": url, "api_key_env": "LPO_TEST_KEY"}
    return write_config(folder / "run.yaml", {
        "name": "killed", "prompts": {"path": "prompts.jsonl"},
        "policy": model, "judge": {**model, "method": "json", "max_concurrency": 8},
        "build": {"branching": 3, "depth": 3, "step_tokens": 60, "concurrency": 4, "search": {"num_paths": 2},
                  "critique": {"enabled": False}, "memory": {"enabled": False}, **build}})


def texts(server: ScriptedServer) -> int:
    """How many texts were asked for: siblings come in one call."""
    return sum(call.body.get("n", 1) for call in server.calls)


def summary(folder: Path) -> dict:
    return json.loads((folder / "runs" / "killed" / "build.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One build that nobody disturbs: its folder, and how many calls and texts the server was asked for."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with ScriptedServer(api_key=KEY) as server:
        result = lpo("build", build_config(folder, server.url), cwd=folder, LPO_TEST_KEY=KEY)
        assert result.returncode == 0, result.stderr
        return folder, len(server.calls), texts(server)


def test_every_layer_is_a_pair_or_a_rejected_row(uninterrupted):
    counts = summary(uninterrupted[0])
    assert counts["pairs"] > 5
    assert counts["pairs"] + sum(counts["rejected"].values()) == counts["layers"]


def test_killed_at_random_instants_the_build_ends_as_if_nothing_had_happened(uninterrupted, tmp_path):
    reference, calls, written = uninterrupted
    rng = random.Random(4)
    kills, in_flight = 0, 0
    with ScriptedServer(latency=0.03, api_key=KEY) as server:
        config = build_config(tmp_path, server.url)
        while True:
            process = start_lpo("build", config, cwd=tmp_path, LPO_TEST_KEY=KEY)
            target = len(server.calls) + rng.randint(5, calls // 4)
            while process.poll() is None and len(server.calls) < target:
                time.sleep(0.005)
            if kills == 3:
                assert process.wait(120) == 0, (tmp_path / "output.log").read_text()
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.1)  # what was in flight reaches the server's log
            kills += 1
            in_flight += 16
        made = len(server.calls)
    for name in RESULTS:
        assert (tmp_path / "runs" / "killed" / name).read_bytes() == (reference / "runs" / "killed" / name).read_bytes()
    assert calls <= made <= calls + in_flight, "only calls in flight at a kill may be made again"
    with Journal(tmp_path / "runs" / "killed" / "journal.sqlite") as journal:
        counts = journal.counts()
        assert counts.ever[Outcome.ANSWER] == counts.entries == written, "no finished call was made twice"


def test_the_same_command_on_a_complete_build_makes_no_call(uninterrupted):
    folder, _, _ = uninterrupted
    before = (folder / "runs" / "killed" / "pairs.jsonl").read_bytes()
    with ScriptedServer(api_key=KEY) as server:
        result = lpo("build", folder / "run.yaml", f"policy.base_url={server.url}", f"judge.base_url={server.url}",
                     cwd=folder, LPO_TEST_KEY=KEY)
        assert result.returncode == 0, result.stderr
        assert not server.log, "another address of the server is no other configuration"
    assert "already complete" in result.stderr
    assert (folder / "runs" / "killed" / "pairs.jsonl").read_bytes() == before


def test_made_again_on_request_it_takes_every_reply_from_the_journal(uninterrupted):
    folder, calls, _ = uninterrupted
    before = (folder / "runs" / "killed" / "pairs.jsonl").read_bytes()
    with ScriptedServer(api_key=KEY) as server:
        result = lpo("build", folder / "run.yaml", f"policy.base_url={server.url}", f"judge.base_url={server.url}",
                     "--redo", "build", cwd=folder, LPO_TEST_KEY=KEY)
        assert result.returncode == 0, result.stderr
        assert not server.log
    assert summary(folder)["usage"]["calls"] == 0
    assert summary(folder)["usage"]["cached"] >= calls
    assert (folder / "runs" / "killed" / "pairs.jsonl").read_bytes() == before


def test_other_settings_on_a_finished_build_are_refused_and_named(uninterrupted):
    folder, _, _ = uninterrupted
    result = lpo("build", folder / "run.yaml", "build.depth=2", cwd=folder, LPO_TEST_KEY=KEY)
    assert result.returncode == 2
    assert "build.depth: 3 -> 2" in result.stderr and "--redo build" in result.stderr


def test_the_key_stands_in_no_file_of_the_run(uninterrupted):
    folder, _, _ = uninterrupted
    holding = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not holding


def test_a_wrong_key_stops_the_run_at_once_and_is_not_printed(tmp_path):
    with ScriptedServer(api_key="another") as server:
        result = lpo("build", build_config(tmp_path, server.url), cwd=tmp_path, LPO_TEST_KEY=KEY)
        assert len(server.calls) < 40, "the first refusal stops the others"
    assert result.returncode == 5 and "LPO_TEST_KEY" in result.stderr and KEY not in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_second_process_is_refused_and_told_who_works_there(tmp_path):
    with ScriptedServer(latency=0.5, api_key=KEY) as server:
        config = build_config(tmp_path, server.url)
        first = start_lpo("build", config, cwd=tmp_path, LPO_TEST_KEY=KEY)
        try:
            while not server.calls:
                assert first.poll() is None, (tmp_path / "output.log").read_text()
                time.sleep(0.05)
            second = lpo("build", config, cwd=tmp_path, LPO_TEST_KEY=KEY)
        finally:
            first.kill()
            first.wait()
    assert second.returncode == 4
    assert f"process {first.pid} on" in second.stderr


def test_the_first_interrupt_lets_calls_in_flight_finish_and_keeps_them(tmp_path):
    with ScriptedServer(latency=0.4, api_key=KEY) as server:
        config = build_config(tmp_path, server.url)
        process = start_lpo("build", config, cwd=tmp_path, LPO_TEST_KEY=KEY)
        while len(server.calls) < 6:
            assert process.poll() is None, (tmp_path / "output.log").read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        received = texts(server)
    with Journal(tmp_path / "runs" / "killed" / "journal.sqlite") as journal:
        assert journal.counts().entries == received, "every call that was sent is stored"
    said = (tmp_path / "output.log").read_text()
    assert "run the same command again" in said and re.search(r"\d of \d trees are done", said)


def test_when_every_layer_is_rejected_the_reasons_are_counted_and_the_exit_code_is_3(tmp_path):
    with ScriptedServer(api_key=KEY) as server:
        config = build_config(tmp_path, server.url, pairs={"min_margin": 0.99})
        result = lpo("build", config, cwd=tmp_path, LPO_TEST_KEY=KEY)
    assert result.returncode == 3
    counts = summary(tmp_path)
    assert counts["pairs"] == 0 and sum(counts["rejected"].values()) == counts["layers"] > 0
    assert f"small_margin: {counts['rejected']['small_margin']}" in result.stderr
    assert subprocess.run(["grep", "-c", "small_margin", tmp_path / "runs/killed/rejected_rows.jsonl"],
                          capture_output=True, text=True, check=True).stdout.strip() == str(counts["layers"])
