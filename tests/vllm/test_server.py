"""A build against a real vLLM server started by `lpo serve`, killed in the middle and started again."""

import asyncio
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_lpo import environment, start_lpo, write_config, write_prompts

from lpo.config import JudgeConfig, ModelConfig
from lpo.llm.base import Context, ScoreRequest
from lpo.llm.create import create_llm
from lpo.llm.journal import Journal
from lpo.llm.journal_file import Outcome
from lpo.reward.json_reply import JSON_SCHEMA

MODEL = "demo:gemma-3-270m"
SETTINGS = ("--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "32", "--kv-cache-gb", "0.5")
START_SECONDS = 300  # on a machine that does other things too; 40 on a quiet one
BUILD_SECONDS = 600
TOLERANCE = 0.15
"""Nats, of bfloat16 on both sides."""

pytestmark = pytest.mark.timeout(1500)


class Server:
    """`lpo serve`, and what its metrics tell."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder

    def start(self) -> None:
        with (self.folder / "serve.out").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lpo", "serve", MODEL, "--port", str(self.port), *SETTINGS], stdout=output,
                stderr=output, env=environment())
        wait_for(lambda: self.answers("/health") or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, (self.folder / "serve.out").read_text()

    def answers(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
                return reply.read().decode() or "ok"
        except OSError:
            return None

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a counter over all its labels, or over those that are given."""
        rows = re.findall(rf"^{re.escape(name)}(?:{{(.*)}})? (\S+)$", self.answers("/metrics") or "", re.MULTILINE)
        return sum(float(value) for found, value in rows
                   if all(f'{label}="{wanted}"' in found for label, wanted in labels.items()))

    def texts(self) -> float:
        """Texts that were finished."""
        return self.metric("vllm:request_success_total", finished_reason="stop") \
            + self.metric("vllm:request_success_total", finished_reason="length")

    def calls(self) -> float:
        return self.metric("http_requests_total", status="2xx", method="POST")

    def members(self) -> set[int]:
        """The server and its engine's processes."""
        rows = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        leader = next(int(row.split()[0]) for row in rows.splitlines()
                      if "openai.api_server" in row and f"--port {self.port}" in row and "group_watchdog" not in row)
        rows = subprocess.run(["ps", "-eo", "pid=,pgid="], capture_output=True, text=True, check=True).stdout
        return {int(pid) for pid, group in map(str.split, rows.splitlines()) if int(group) == leader}

    def kill(self) -> None:
        """As if somebody had killed `lpo serve`: nothing of the server is left."""
        members = self.members()
        assert len(members) > 1
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not any(lives(pid) for pid in members), 60)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0


@contextmanager
def killed_at_last(process):
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing for {seconds} s"
        time.sleep(0.1)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def counts(run: Path, copy: Path):
    """What the journal of a run holds, which may be going on."""
    copy.mkdir()
    for file in run.glob("journal.sqlite*"):
        shutil.copy(file, copy)
    with Journal(copy / "journal.sqlite") as journal:
        return journal.counts()


def replies(folder: Path) -> dict[str, tuple[str, str]]:
    """Purpose and reply of every stored call, by its key."""
    with sqlite3.connect(folder / "journal.sqlite") as journal:
        return {key: (purpose, value) for key, purpose, value in
                journal.execute("SELECT key, purpose, value FROM replies")}


def written(counted) -> int:
    """Texts that came, those that were cut and asked for again included."""
    return counted.ever.get(Outcome.ANSWER, 0) + counted.ever.get(Outcome.CUT, 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(port, tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def build_config(folder: Path, port: int) -> Path:
    write_prompts(folder / "prompts.jsonl", 6)
    model = {"backend": "openai", "model": MODEL, "base_url": f"http://127.0.0.1:{port}/v1", "deadline": 600}
    return write_config(folder / "run.yaml", {
        "name": "served", "prompts": {"path": "prompts.jsonl", "limit": 2},
        "policy": {**model, "sampling": {"temperature": 0.9, "top_p": 0.95}},
        "judge": {**model, "method": "json", "max_tokens": 200, "sampling": {"temperature": 0.5}},
        "build": {"branching": 3, "depth": 2, "step_tokens": 24, "stability_check": False, "max_unscored": 0.9,
                  "reward": {"judge": 1.0, "length": 1.0, "repetition": 1.0}, "search": {"num_paths": 2},
                  "memory": {"enabled": False}, "critique": {"enabled": False}}})


@pytest.fixture(scope="module")
def build(server, tmp_path_factory):
    """A finished build whose server was killed in the middle, and what was seen meanwhile."""
    folder = tmp_path_factory.mktemp("build")
    run = folder / "runs" / "served"
    with killed_at_last(start_lpo("build", build_config(folder, server.port), cwd=folder)) as process:
        wait_for(lambda: server.texts() >= 8 or process.poll() is not None, BUILD_SECONDS)
        assert process.poll() is None, (folder / "output.log").read_text()
        server.kill()
        kept = counts(run, folder / "kept")
        assert process.poll() is None, "the build waits for its server"
        server.start()
        assert process.wait(BUILD_SECONDS) == 0, (folder / "output.log").read_text()
    return folder, run, kept


def nodes(run: Path) -> list[dict]:
    trees = [json.loads(line) for line in (run / "trees.jsonl").read_text().splitlines()]
    assert len(trees) == 2
    return [node for tree in trees for node in tree["nodes"] if node["parent"] is not None]


def test_a_server_killed_in_the_middle_loses_nothing_and_is_asked_nothing_twice(server, build):
    folder, run, kept = build
    end = counts(run, folder / "end")
    assert end.ever[Outcome.ANSWER] == end.entries > kept.entries > 0
    assert server.texts() == written(end) - written(kept), "the second server wrote what the first had not"
    assert replies(folder / "kept").items() <= replies(run).items(), "what the first had written was taken over"


def test_replies_of_the_judge_are_whole_objects(build):
    found = [json.loads(value)["text"] for purpose, value in replies(build[1]).values() if purpose == "judge"]
    assert len(found) >= 8
    for reply in found:
        assert list(json.loads(reply)) == JSON_SCHEMA["required"]
        assert not re.search(r"\s", reply.rpartition('"accuracy":')[2]), "no room for padding"
    judgements = [node["judgement"] for node in nodes(build[1]) if node.get("judgement")]
    # Seven times five weights of 0 are a whole object too, but no grade.
    assert sum(judgement["overall"] is not None for judgement in judgements) >= 0.5 * len(judgements) > 4


def test_candidates_have_the_log_probs_of_their_tokens(build):
    for node in nodes(build[1]):
        assert node["mean_logprob"] < 0 and 0 < node["tokens"] <= 24


def test_siblings_are_drawn_in_one_call_and_prefixes_are_read_from_the_cache(server, build):
    assert server.calls() < server.texts(), "several texts came of one call"
    assert server.metric("vllm:prefix_cache_hits_total") > 0
    layers: dict[str, list[str]] = {}
    for node in nodes(build[1]):
        layers.setdefault(node["parent"], []).append(node["text"])
    assert any(len(set(texts)) > 1 for texts in layers.values())


def test_next_token_scores_over_http_are_those_of_transformers(server):
    """The judge by expected grade on the server, as on the model itself."""
    story = "The keeper climbed the stairs of the lighthouse every evening. " * 20
    request = ScoreRequest((Context(story + "Is it clear? Grade (1-5):"), Context(story + "Is it long? Grade:")),
                           (" good", " bad"))

    async def score(config):
        llm = create_llm(config)
        try:
            return await llm.logprobs(request)
        finally:
            await llm.close()

    url = f"http://127.0.0.1:{server.port}/v1"
    ours = asyncio.run(score(JudgeConfig(backend="openai", model=MODEL, base_url=url)))
    theirs = asyncio.run(score(ModelConfig(model=MODEL, dtype="bfloat16")))
    for row, expected in zip(ours.values, theirs.values, strict=True):
        for values, wanted in zip(row, expected, strict=True):
            assert values == pytest.approx(wanted, abs=TOLERANCE)
