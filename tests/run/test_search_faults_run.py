"""`lpo build` when the judge is down or talks nonsense for one depth of the search: exit codes, counts, going on."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from run_lpo import lpo, write_config
from scripted_model import schema_of
from scripted_roles import last_turn, role_of
from scripted_server import UNAVAILABLE, Fault, ScriptedServer, content
from scripted_story import LAYERS, REQUEST, SETTINGS, Story

RESULTS = ("trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl")


def at_depth_3(fault: Fault) -> Fault:
    """The fault, for every question to the judge about a step of the third layer."""
    return replace(fault, lasting=True, when=lambda body: role_of(schema_of(body)) == "judge" and any(
        step in last_turn(body) for step in LAYERS[2]))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(answer=Story().answer) as running:
        yield running


def story_config(folder: Path, url: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": REQUEST}) + "\n")
    (folder / "held_out.jsonl").write_text(json.dumps({"prompt": "Explain how bread is made."}) + "\n")
    model = {"backend": "openai", "model": "scripted", "base_url": url, "deadline": 2}
    return write_config(folder / "run.yaml", {
        "name": "story", "prompts": {"path": "prompts.jsonl", "held_out_path": "held_out.jsonl"}, "policy": model,
        "judge": {**model, "method": "json"}, "build": {**SETTINGS, "stability_check": False}})


def test_a_judge_that_is_down_stops_the_run_and_the_same_command_finishes_it(server, tmp_path):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert lpo("build", story_config(undisturbed, server.url), cwd=undisturbed).returncode == 0
    calls = len(server.calls)
    config = story_config(folder, server.url)
    server.misbehave(at_depth_3(UNAVAILABLE))
    result = lpo("build", config, cwd=folder)
    assert result.returncode == 5, result.stderr
    assert "overloaded" in result.stderr and "same command" in result.stderr and "Traceback" not in result.stderr
    assert not (folder / "runs" / "story" / "trees.jsonl").exists()
    assert json.loads((folder / "runs/story/manifest.json").read_text())["stages"]["build"]["status"] != "complete"
    answered = server.answered
    server.behave()
    result = lpo("build", config, cwd=folder)
    assert result.returncode == 0, result.stderr
    for name in RESULTS:
        assert (folder / "runs/story" / name).read_bytes() == (undisturbed / "runs/story" / name).read_bytes(), name
    assert server.answered - calls == calls and answered > calls, "what was answered before is not asked again"


def test_too_much_nonsense_of_the_judge_stops_the_run_and_more_may_be_allowed(server, tmp_path):
    config = story_config(tmp_path, server.url)
    server.misbehave(at_depth_3(content("9 out of 10")))
    result = lpo("build", config, cwd=tmp_path)
    assert result.returncode == 6, result.stderr
    assert "3 of 9 judgements have no score (unparsable: 3)" in result.stderr and "max_unscored" in result.stderr
    calls = len(server.calls)
    result = lpo("build", config, "build.max_unscored=0.5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(server.calls) == calls, "every reply is in the journal, however bad it was"
    counts = json.loads((tmp_path / "runs/story/build.json").read_text())
    assert counts["judgements"] == {"scored": 6, "unscored": 3, "reasons": {"unparsable": 3}}
    assert (counts["pairs"], counts["rejected"]) == (2, {"unscored": 1})
