"""The build stage over models that are plain functions: order, memory, failures, mixing; its own words as a process."""

import asyncio
import io
import json
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from function_llm import FunctionLLM, completion
from run_lpo import lpo, write_config, write_prompts
from scripted_server import ScriptedServer, content

from lpo.config import validate
from lpo.errors import BackendError, NothingLeftError, StoppedError, UnsoundError
from lpo.llm.base import Finish
from lpo.llm.journal import Journal, JournaledLLM
from lpo.prompts import PromptSet
from lpo.records import Prompt, Reason, RejectedRow
from lpo.reward import Principle
from lpo.run.building import build
from lpo.run.directory import RunDirectory
from lpo.run.models import Models
from lpo.run.progress import Reporter
from lpo.storage import read_json, read_jsonl, write_jsonl

SERVER = {"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
RESULTS = ("trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl")


def grades(number):
    """A JSON judge's reply whose grades all are 1 + number / 25."""
    share = number / 100
    return json.dumps({"analysis": "", **{principle: [1 - share, 0, 0, 0, share] for principle in Principle}})


def write(request):
    """The policy writes numbered sentences, the judge grades by the seed of what it is asked."""
    if request.purpose == "judge":
        return grades(request.seed % 101)
    return completion(f"One sentence more is here. It has number {request.seed}. And th", Finish.LENGTH, [-1.0] * 20)


class GivenModels(Models):
    """The run's models, each replaced by one function."""

    def __init__(self, journal, stop, llm):
        super().__init__(journal, stop)
        self.llm = JournaledLLM(llm, journal)
        self._loaded["given"] = self.llm

    def get(self, config, adapter=None):
        return self.llm


def run_config(**settings):
    config, issues = validate({
        "name": "x", "policy": SERVER, "judge": {**SERVER, "method": "json"},
        "build": {"branching": 3, "depth": 2, "step_tokens": 20, "search": {"algorithm": "greedy"},
                  "memory": {"enabled": False}, "critique": {"enabled": False}, **settings}})
    assert config is not None, issues
    return config


def prompts(count, rejected=()):
    return PromptSet(tuple(Prompt(id=f"p{i:04}", prompt=f"Write text {i}.") for i in range(count)), (),
                     tuple(rejected), 0)


def build_in(folder, config, prompt_set, llm, *, stop_after=None):
    """The stage, in this process; what it says goes into the second value."""
    stream = io.StringIO()

    async def body():
        stop = asyncio.Event()
        with Journal(folder / "journal.sqlite") as journal:
            models = GivenModels(journal, stop, llm)
            if stop_after is not None:
                inner = llm.write
                llm.write = lambda request: (len(llm.requests) >= stop_after and stop.set()) or inner(request)
            return await build(config, prompt_set, RunDirectory(folder), models, Reporter(stream))

    folder.mkdir(exist_ok=True)
    try:
        return asyncio.run(body()), stream.getvalue()
    except BaseException as error:
        error.add_note(stream.getvalue())
        raise


def test_files_are_in_the_order_of_the_prompts_whatever_finishes_first(tmp_path):
    rng = random.Random(1)
    rejected = [RejectedRow(stage="prompts", id="prompts.jsonl:3", reason=Reason.EMPTY)]
    for name, concurrency, delay in (("alone", 1, lambda _: 0), ("many", 16, lambda _: rng.randrange(60))):
        llm = FunctionLLM(write=write, delay=delay)
        build_in(tmp_path / name, run_config(concurrency=concurrency), prompts(40, rejected), llm)
    for name in RESULTS:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    assert [tree["id"] for tree in read_jsonl(tmp_path / "many" / "trees.jsonl")] == [f"p{i:04}" for i in range(40)]
    groups = [pair["group"] for pair in read_jsonl(tmp_path / "many" / "pairs.jsonl")]
    assert groups == sorted(groups) and len(groups) > 40
    rows = read_jsonl(tmp_path / "many" / "rejected_rows.jsonl")
    assert rows[0]["id"] == "prompts.jsonl:3"
    counts = read_json(tmp_path / "many" / "build.json")
    assert counts["pairs"] == len(groups) and counts["layers"] == 80
    assert len(groups) + len(rows) == counts["layers"] + 1, "kept + rejected = input"
    assert counts["rejected"]["empty"] == 1 and sum(counts["rejected"].values()) == len(rows)
    assert counts["judgements"] == {"scored": 240, "unscored": 0, "reasons": {}}
    assert counts["usage_by_purpose"].keys() == {"judge", "policy"}
    assert counts["stability"]["layers"] == 40
    assert {entry.name for entry in (tmp_path / "many").iterdir()} == {*RESULTS, "build.json", "journal.sqlite"}


class Forgets(list):
    """A log of requests that keeps none."""

    def append(self, _request):
        pass


def write_long(request):
    """Some 10 kB a step."""
    return completion("One sentence more is here. " * (400 + request.seed % 50) + f"It has number {request.seed}.",
                      Finish.LENGTH)


def test_trees_do_not_stay_in_memory(tmp_path):
    config = run_config(stability_check=False, concurrency=4, reward={"judge": 0, "repetition": 1},
                        pairs={"min_margin": 1e-9})
    peaks, sizes = [], []
    for count in (6, 46):
        tracemalloc.start()
        build_in(tmp_path / str(count), config, prompts(count), FunctionLLM(write=write_long, requests=Forgets()))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append((tmp_path / str(count) / "trees.jsonl").stat().st_size)
    assert sizes[1] - sizes[0] > 2_000_000, "so much more was written"
    assert peaks[1] - peaks[0] < 0.1 * (sizes[1] - sizes[0])


def test_a_judge_that_fails_too_often_ends_the_build_early(tmp_path):
    def mostly_nonsense(request):
        return "nonsense" if request.purpose == "judge" and request.seed % 3 else write(request)

    llm = FunctionLLM(write=mostly_nonsense)
    with pytest.raises(UnsoundError, match=r"judgements have no score \(unparsable: \d+\)") as caught:
        build_in(tmp_path / "early", run_config(concurrency=2), prompts(200), llm)
    asked = sum(request.purpose == "judge" for request in llm.requests)
    assert 50 <= asked < 110, "50 judgements are enough to see it; the reworded ones are no judgements of the build"
    assert "of 200 trees are done" in caught.value.__notes__[0]
    assert not (tmp_path / "early" / "trees.jsonl").exists()
    with pytest.raises(UnsoundError):  # too few to say so before the end
        build_in(tmp_path / "few", run_config(), prompts(3), FunctionLLM(write=mostly_nonsense))
    build_in(tmp_path / "allowed", run_config(max_unscored=1), prompts(30), FunctionLLM(write=mostly_nonsense))
    reasons = read_json(tmp_path / "allowed" / "build.json")["judgements"]["reasons"]
    assert reasons.keys() == {"unparsable"} and reasons["unparsable"] > 60


def test_checks_and_extractions_that_fail_too_often_end_it_too(tmp_path):
    def no_facts(request):
        return "nonsense" if request.purpose == "facts" else write(request)

    def no_checks(request):
        if request.purpose == "facts":
            return json.dumps({"facts": ["The keeper is blind."]})
        return "nonsense" if request.purpose == "check" else write(request)

    config = run_config(memory={"enabled": True}, concurrency=2)
    for reply, what in ((no_facts, "extractions of facts gave nothing"), (no_checks, "checks for contradictions")):
        llm = FunctionLLM(write=reply)
        with pytest.raises(UnsoundError, match=what):
            build_in(tmp_path / what.split()[0], config, prompts(300), llm)
        assert sum(request.purpose == "policy" for request in llm.requests) < 600, "stopped early"


def test_the_first_failure_is_told_and_the_trees_that_are_done_are_counted(tmp_path):
    llm = FunctionLLM()

    def breaks(request):
        return BackendError("the server is gone") if len(llm.requests) > 60 else write(request)

    llm.write = breaks
    with pytest.raises(BackendError, match="the server is gone") as caught:
        build_in(tmp_path, run_config(concurrency=4), prompts(50), llm)
    assert len(llm.requests) < 90
    done = caught.value.__notes__[0].strip().splitlines()[-1]
    assert done.endswith("trees are done; every reply that came is kept, and the same command goes on from there")
    assert 0 < int(done.split(" of ")[0]) < 20


def test_stopped_and_started_again_it_asks_for_the_rest_only(tmp_path):
    reference = FunctionLLM(write=write)
    build_in(tmp_path / "whole", run_config(concurrency=3), prompts(12), reference)
    first, second = FunctionLLM(write=write), FunctionLLM(write=write)
    with pytest.raises(StoppedError):
        build_in(tmp_path / "stopped", run_config(concurrency=3), prompts(12), first, stop_after=40)
    build_in(tmp_path / "stopped", run_config(concurrency=5), prompts(12), second)
    assert len(first.requests) + len(second.requests) == len(reference.requests)
    for name in RESULTS:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    counts = read_json(tmp_path / "stopped" / "build.json")
    assert counts["usage"]["calls"] == len(second.requests) and counts["spent"]["calls"] == len(reference.requests)


def test_the_released_method_counts_the_grades_it_invents(tmp_path):
    def half_nonsense(request):
        return "nonsense" if request.purpose == "judge" and request.seed % 2 else write(request)

    plain, _ = validate({"name": "x", "policy": SERVER, "judge": {**SERVER, "method": "json"}, "build": {
        "method": "longdpo_released", "branching": 3, "depth": 2, "step_tokens": 20}})
    summary, said = build_in(tmp_path, plain, prompts(10), FunctionLLM(write=half_nonsense))
    invented = [node["id"] for tree in read_jsonl(tmp_path / "trees.jsonl") for node in tree["nodes"]
                if node["judgement"] and node["judgement"]["parts"].get("invented") == 2.5]
    assert summary.counts.invented == len(invented) > 10 and not summary.counts.unscored
    assert f"grades invented by the released method: {len(invented)}" in said
    assert summary.counts.pairs_by_rule == {"released": summary.counts.pairs}
    assert {tree["method"] for tree in read_jsonl(tmp_path / "trees.jsonl")} == {"longdpo_released"}


def test_outcomes_are_trees_of_one_layer(tmp_path):
    config, _ = validate({"name": "x", "policy": SERVER, "judge": {**SERVER, "method": "json"}, "build": {
        "method": "best_of_n", "answers": {"samples": 5, "max_tokens": 40}}})
    summary, said = build_in(tmp_path, config, prompts(4), FunctionLLM(write=write))
    assert (summary.counts.layers, summary.counts.candidates, summary.stability.layers) == (4, 20, 4)
    assert summary.counts.pairs + sum(summary.counts.rejected.values()) == 4 and "4/4 trees" in said


def test_when_nothing_is_left_the_files_say_why(tmp_path):
    with pytest.raises(NothingLeftError, match="tie: 8"):
        build_in(tmp_path, run_config(), prompts(4), FunctionLLM(
            write=lambda request: grades(50) if request.purpose == "judge" else write(request)))
    assert read_json(tmp_path / "build.json")["pairs"] == 0
    assert {row["reason"] for row in read_jsonl(tmp_path / "rejected_rows.jsonl")} == {"tie"}


def test_general_pairs_stand_after_those_that_were_built(tmp_path):
    rows = [{"prompt": f"Say {'abcdefghijklmnop'[i]}.", "chosen": "Yes.", "rejected": "No."} for i in range(16)]
    write_jsonl(tmp_path / "general.jsonl", [*rows, {"prompt": "no sides"}])
    config = run_config(mix={"path": str(tmp_path / "general.jsonl"), "ratio": 0.2})
    _, said = build_in(tmp_path / "run", config, prompts(20), FunctionLLM(write=write))
    methods = [pair["method"] for pair in read_jsonl(tmp_path / "run" / "pairs.jsonl")]
    built, mixed = methods.count("longdpo"), methods.count("general")
    assert methods == ["longdpo"] * built + ["general"] * mixed and mixed == round(0.25 * built)
    counts = read_json(tmp_path / "run" / "build.json")
    assert counts["pairs"] == built and counts["mixed"] == {
        "source": str(tmp_path / "general.jsonl"), "usable": 16, "taken": mixed, "ratio": mixed / (mixed + built),
        "cleaned_characters": 0}
    assert counts["rejected"]["malformed"] == 1
    assert read_jsonl(tmp_path / "run" / "rejected_rows.jsonl")[-1]["id"] == "general.jsonl:17"
    assert f"mixed in: {mixed} of 16 general pairs" in said


def server_config(folder: Path, url: str, **build: object) -> Path:
    model = {"backend": "openai", "model": "scripted", "base_url": url, "prices": {"input": 1, "output": 2}}
    write_prompts(folder / "prompts.jsonl", 20)
    return write_config(folder / "run.yaml", {
        "name": "x", "prompts": {"path": "prompts.jsonl"}, "policy": model, "judge": {**model, "method": "json"},
        "build": {"branching": 3, "depth": 2, "step_tokens": 60, "concurrency": 4, "search": {"num_paths": 2},
                  **build}})


def test_the_command_tells_of_a_judge_that_cannot_be_used_and_logs_what_it_said(tmp_path):
    with ScriptedServer() as server:
        nonsense = replace(content("I would say four."), when=lambda body: "accuracy" in json.dumps(body))
        server.misbehave(nonsense, times=1000)
        result = lpo("build", server_config(tmp_path, server.url), cwd=tmp_path)
        calls = len(server.calls)
    assert result.returncode == 6, result.stderr
    assert "judgements have no score (unparsable: " in result.stderr and "-> look at the replies (log.jsonl)" in \
        result.stderr
    assert calls < 300, "it stopped early"
    log = (tmp_path / "runs" / "x" / "log.jsonl").read_text()
    assert "has no score: unparsable" in log and "I would say four." in log


def test_the_command_tells_how_far_it_is_and_what_it_took(tmp_path):
    with ScriptedServer() as server:
        config = server_config(tmp_path, server.url, budget={"calls": 100_000}, critique={"eta": 3.1})
        result = lpo("build", config, "prompts.limit=6", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert "\x1b" not in result.stderr
    progress = [line for line in lines if line.startswith("build: ")]
    assert progress[-1].startswith("build: 6/6 trees in ")
    for part in (" layers, ", " calls, ", " tokens, ", " weak steps refined, ", "cost 0.", " of the budget"):
        assert part in progress[-1]
    counts = read_json(tmp_path / "runs" / "x" / "build.json")
    assert counts["paths"] == 12 and counts["refinements"] and counts["facts"] and counts["usage"]["cost"] > 0
    assert counts["usage_by_purpose"].keys() == {"check", "critique", "facts", "judge", "policy"}
    assert sum(usage["calls"] for usage in counts["usage_by_purpose"].values()) == counts["usage"]["calls"]
    text = "\n".join(lines)
    for part in (f"built {counts['pairs']} pairs from 6 prompts: 12 paths", f"memory: {counts['facts']} facts",
                 "weak steps: ", f"calls: {counts['usage']['calls']} made, 0 from the journal (check "):
        assert part in text
