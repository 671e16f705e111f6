"""`lpo build` by AgentWrite over a real server: what becomes of bad plans and bad sections, and of a killed build."""

import json
import os
import random
import re
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from run_lpo import lpo, start_lpo, write_config
from scripted_roles import last_turn, role_of
from scripted_server import FILTERED, ScriptedServer

from lpo.llm.journal import Journal
from lpo.llm.journal_file import Outcome

RESULTS = ("trees.jsonl", "sft.jsonl", "rejected_rows.jsonl")
PLAN = [("The keel", 20), ("The sail", 25), ("The harbour", 15)]
WORDS = ["keel", "sail", "rope", "tar", "wind", "pier", "gull", "salt", "mast", "oar", "net", "tide", "anchor", "chart"]

KEPT = {"sound", "asked_twice", "planned_twice", "labelled", "given"}
DROPPED = {
    "refuses": ("incomplete", "section 2 of 3: refused"),
    "filtered": ("incomplete", "section 2 of 3: refused"),
    "hollow": ("incomplete", "section 1 of 3: empty"),
    "nonsense": ("no_plan", "no JSON object"),
    "sixty": ("no_plan", "60 sections are more than 50"),
    "tripled": ("no_plan", "add up to 180, not to 60"),
    "short": ("off_length", "S_l"),
    "silent": ("no_length", "neither target_words"),
}


def settings(folder: Path, url: str, **agent_write: object) -> Path:
    """A configuration whose policy is behind the server."""
    folder.mkdir(exist_ok=True)
    model = {"backend": "openai", "model": "scripted", "base_url": url}
    return write_config(folder / "run.yaml", {
        "name": "written", "prompts": {"path": "prompts.jsonl", "held_out_path": "held_out.jsonl"},
        "policy": model, "judge": {**model, "method": "json"},
        "build": {"method": "agent_write", "agent_write": agent_write, "concurrency": 4}})


def write_prompts(folder: Path, names: list[str], **fields: object) -> None:
    rows = [{"id": name, "prompt": f"Write a tale called {name} of the boats" + (" in 60 words." if name != "silent"
             else "."), **(fields if name == "given" else {})} for name in names]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held_out.jsonl").write_text('{"prompt": "Something else altogether, about mountains."}\n')


def section_text(name: str, number: int, words: int) -> str:
    rng = random.Random(f"{name} {number}")
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def planned(rows) -> str:
    return json.dumps({"sections": [{"title": title, "words": words} for title, words in rows]})


class Writer:
    """Plans and writes as it is asked, but for the prompts that are named after a fault."""

    def __init__(self):
        self.asked = Counter()

    def answer(self, body, _choice):
        asked = last_turn(body)
        name = re.search(r"a tale called (\w+) of", asked)[1]
        if role_of((body.get("response_format") or {}).get("json_schema", {}).get("schema")) == "planner":
            self.asked[name, "plan"] += 1
            return self.plan(name, self.asked[name, "plan"])
        number = int(re.search(r"Now write section (\d+) of", asked)[1])
        self.asked[name, number] += 1
        return self.section(name, number, self.asked[name, number])

    def plan(self, name, time):
        if name == "nonsense" or (name == "planned_twice" and time == 1):
            return "First the keel, then the sail."
        if name == "sixty":
            return planned([(f"Board {number}", 1) for number in range(60)])
        return planned([(title, 3 * words) for title, words in PLAN] if name == "tripled" else PLAN)

    def section(self, name, number, time):
        text = section_text(name, number, PLAN[number - 1][1] // (6 if name == "short" else 1))
        if (name, number) == ("refuses", 2) or (name, number, time) == ("asked_twice", 2, 1):
            return "I'm sorry, but I can't help with that."
        if name == "hollow":
            return " "
        return f"**Section {number}:** {text}" if name == "labelled" else text


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """One build that meets every fault: its folder, what lpo printed, and the server."""
    folder = tmp_path_factory.mktemp("faulty")
    write_prompts(folder, sorted([*KEPT, *DROPPED]), meta={"plan": [title for title, _ in PLAN]})
    writer = Writer()
    with ScriptedServer(answer=writer.answer) as server:
        server.misbehave(replace(FILTERED, lasting=True, when=lambda body: "called filtered" in last_turn(body)
                                 and "Now write section 2" in last_turn(body)))
        result = lpo("build", settings(folder, server.url), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "written", result.stderr, writer, server


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_whole_answers_become_rows_and_all_others_rejected_rows_with_their_reasons(faulty):
    run, _, _, _ = faulty
    kept, dropped = rows(run / "sft.jsonl"), rows(run / "rejected_rows.jsonl")
    assert {row["id"] for row in kept} == KEPT and len(kept) == len(KEPT)
    assert {row["id"]: row["reason"] for row in dropped} == {name: reason for name, (reason, _) in DROPPED.items()}
    for row in dropped:
        assert DROPPED[row["id"]][1] in row["detail"]


def test_a_row_is_the_prompt_and_what_the_server_wrote(faulty):
    run, _, _, _ = faulty
    for row in rows(run / "sft.jsonl"):
        name = row["id"]
        answer = "\n\n".join(section_text(name, number, words) for number, (_, words) in enumerate(PLAN, start=1))
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][0]["content"] == f"Write a tale called {name} of the boats in 60 words."
        assert row["messages"][1]["content"] == answer
        assert (row["target_words"], row["words"], row["length_score"]) == (60, 60, 100)


def test_what_was_bad_was_asked_for_once_more_and_nothing_after_it(faulty):
    _, _, writer, server = faulty
    asked = writer.asked
    for name in ("nonsense", "sixty", "tripled", "planned_twice"):
        assert asked[name, "plan"] == 2
    assert asked["given", "plan"] == 0 and asked["silent", "plan"] == 0
    assert [asked["refuses", number] for number in (1, 2, 3)] == [1, 2, 0]
    assert [asked["hollow", number] for number in (1, 2, 3)] == [2, 0, 0]
    assert [asked["asked_twice", number] for number in (1, 2, 3)] == [1, 2, 1]
    twice = [call.body["seed"] for call in server.calls if "called refuses" in last_turn(call.body)
             and "Now write section 2" in last_turn(call.body)]
    assert len(set(twice)) == 2


def test_the_summary_counts_what_was_kept_and_dropped(faulty):
    run, said, writer, server = faulty
    summary = json.loads((run / "build.json").read_text())
    assert summary["sft_rows"] == len(KEPT) and sum(summary["rejected"].values()) == len(DROPPED)
    assert summary["sft_rows"] + sum(summary["rejected"].values()) == summary["prompts"]
    assert summary["usage"]["calls"] == len(server.calls)
    assert summary["usage_by_purpose"]["plan"]["calls"] == sum(
        count for (_, what), count in writer.asked.items() if what == "plan")
    assert f"{len(KEPT)} rows" in said and "no_plan: 3" in said


def steady(body, _choice):
    """Plans that hold; sections are left to the hash."""
    return planned(PLAN) if "sections" in json.dumps(body.get("response_format") or {}) else None


@pytest.mark.parametrize(("mode", "kills"), [("sequential", 2), ("parallel", 1)])
def test_killed_at_random_instants_the_build_ends_as_if_nothing_had_happened(mode, kills, tmp_path):
    names = [f"{word}_{number}" for number, word in enumerate(WORDS[:10])]
    rng = random.Random(mode)
    folders = {name: tmp_path / name for name in ("reference", "killed")}
    for folder in folders.values():
        folder.mkdir()
        write_prompts(folder, names)
    rules = {"mode": mode, "section_tokens": 60, "min_length_score": 20}
    with ScriptedServer(answer=steady) as server:
        result = lpo("build", settings(folders["reference"], server.url, **rules), cwd=folders["reference"])
        assert result.returncode == 0, result.stderr
        calls = len(server.calls)
    assert calls == 10 * 4
    with ScriptedServer(answer=steady, latency=0.05) as server:
        config = settings(folders["killed"], server.url, **rules)
        for _ in range(kills):
            target = len(server.calls) + rng.randint(4, calls // 3)
            process = start_lpo("build", config, cwd=folders["killed"])
            while process.poll() is None and len(server.calls) < target:
                time.sleep(0.005)
            assert process.poll() is None, "killed while it works"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.2)  # what was in flight reaches the server's log
        result = lpo("build", config, cwd=folders["killed"])
        assert result.returncode == 0, result.stderr
        made = len(server.calls)
    runs = {name: folder / "runs" / "written" for name, folder in folders.items()}
    for name in RESULTS:
        assert (runs["killed"] / name).read_bytes() == (runs["reference"] / name).read_bytes()
    assert rows(runs["killed"] / "sft.jsonl") and calls <= made <= calls + kills * 12
    with Journal(runs["killed"] / "journal.sqlite") as journal:
        counts = journal.counts()
        assert counts.ever[Outcome.ANSWER] == counts.entries == calls, "no finished call was made twice"
