"""The planted story through the command: what `lpo build` stores, counts and says, and what the report's page shows."""

import json

import pytest
from run_lpo import lpo, write_config
from scripted_server import ScriptedServer
from scripted_story import ADVICE, BETTER, BLUE, GREEN, HOME, LAMP, REQUEST, SETTINGS, WEAK, Story

from lpo.records import PreferencePair, SearchTree
from lpo.storage import read_jsonl

VALUES = {
    "name": "story", "prompts": {"path": "prompts.jsonl", "held_out_path": "held_out.jsonl"},
    "build": {**SETTINGS, "stability_check": False},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The run's folder, what was printed, and the requests."""
    folder = tmp_path_factory.mktemp("story")
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": REQUEST}) + "\n")
    (folder / "held_out.jsonl").write_text(json.dumps({"prompt": "Explain how bread is made."}) + "\n")
    with ScriptedServer(answer=Story().answer) as server:
        model = {"backend": "openai", "model": "scripted", "base_url": server.url, "deadline": 30}
        config = write_config(folder / "run.yaml", {**VALUES, "policy": model, "judge": {**model, "method": "json"}})
        result = lpo("build", config, cwd=folder)
        assert result.returncode == 0, result.stderr
        return folder / "runs" / "story", result.stderr, list(server.calls)


def test_a_run_counts_one_veto_and_one_accepted_refinement(built):
    run, said, calls = built
    counts = json.loads((run / "build.json").read_text())
    assert (counts["vetoed"], counts["refinements"], counts["pairs"]) == (1, {"accepted": 1}, 4)
    assert counts["usage"]["calls"] == len(calls)
    assert {purpose: used["calls"] for purpose, used in counts["usage_by_purpose"].items()} \
        == {"policy": 5, "judge": 13, "facts": 3, "check": 10, "critique": 1}
    assert "1 of 10 candidates vetoed" in said and "accepted: 1" in said


def test_pairs_and_trees_hold_the_refined_text_and_no_prompt_the_advice(built):
    run, _, _ = built
    pairs = [PreferencePair.model_validate(row) for row in read_jsonl(run / "pairs.jsonl")]
    assert [pair.chosen for pair in pairs] == [BLUE, LAMP, BETTER, HOME]
    assert pairs[-1].prefix == BLUE + LAMP + BETTER
    assert ADVICE not in (run / "pairs.jsonl").read_text()
    [tree] = [SearchTree.model_validate(row) for row in read_jsonl(run / "trees.jsonl")]
    assert ADVICE not in tree.prompt.model_dump_json()
    assert [node.text for node in tree.nodes if node.replaced] == [WEAK], "the original stays on record"


def test_the_page_shows_the_veto_with_its_fact_and_the_refinement_with_both_texts(built):
    run, _, _ = built
    result = lpo("report", "story", cwd=run.parent.parent)
    assert result.returncode == 0, result.stderr
    page = (run / "report.html").read_text()
    for shown in ("The house above the bay is blue.", "the green house", GREEN.strip(), WEAK.strip(), BETTER.strip(),
                  ADVICE, "Marta was sad about it"):
        assert shown in page, shown
