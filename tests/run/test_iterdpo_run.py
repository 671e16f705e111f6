"""IterDPO through the command: by a model, and by people from a file."""

from collections import Counter
from dataclasses import replace

import pytest
from run_lpo import lpo, write_config, write_prompts
from scripted_model import schema_of
from scripted_roles import role_of
from scripted_server import ScriptedServer, content

from lpo.records import CorrectionOutcome, PreferencePair, RejectedRow, SearchTree
from lpo.storage import read_json, read_jsonl, write_jsonl

BUILD = {"method": "iterdpo", "answers": {"samples": 3, "max_tokens": 300}, "stability_check": False,
         "segments": {"by": "paragraphs", "max_words": 60}, "pairs": {"rejected": "worst"}}


def written(run):
    """The trees, pairs and rejected rows of a run, and its counts."""
    return ([SearchTree.model_validate(row) for row in read_jsonl(run / "trees.jsonl")],
            [PreferencePair.model_validate(row) for row in read_jsonl(run / "pairs.jsonl")],
            [RejectedRow.model_validate(row) for row in read_jsonl(run / "rejected_rows.jsonl")],
            read_json(run / "build.json"))


def configured(folder, url, **build):
    write_prompts(folder / "prompts.jsonl", 6, target_words=150)
    model = {"backend": "openai", "model": "scripted", "base_url": url, "deadline": 20}
    return write_config(folder / "run.yaml", {
        "name": "x", "prompts": {"path": "prompts.jsonl"}, "policy": model, "judge": {**model, "method": "json"},
        "build": {**BUILD, **build}})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A run by a model: its folder, what was printed, and the requests by role."""
    folder = tmp_path_factory.mktemp("iterdpo")
    with ScriptedServer() as server:
        result = lpo("build", configured(folder, server.url), cwd=folder)
        assert result.returncode == 0, result.stderr
        return folder, result.stderr, Counter(role_of(schema_of(call.body)) for call in server.calls)


def test_a_run_says_how_many_corrections_were_accepted(built):
    folder, said, asked = built
    trees, pairs, rejected, counts = written(folder / "runs" / "x")
    attempts = Counter(one.outcome for tree in trees for segment in tree.script.segments
                       for one in segment.corrections)
    accepted = attempts[CorrectionOutcome.ACCEPTED]
    assert accepted and attempts[CorrectionOutcome.NOT_BETTER] and attempts[CorrectionOutcome.UNCHANGED]
    revised = accepted + attempts[CorrectionOutcome.NOT_BETTER]
    assert f"accepted {accepted} of {revised} revised texts" in said and "warning" not in said
    assert f"{attempts.total()} attempts" in said
    assert counts["corrections"] == {outcome.value: count for outcome, count in sorted(attempts.items())}
    assert counts["segments"] == sum(len(tree.script.segments) for tree in trees) == asked["editor"]
    assert asked["reviser"] == accepted + attempts[CorrectionOutcome.NOT_BETTER]
    assert {purpose: used["calls"] for purpose, used in counts["usage_by_purpose"].items()} == {
        "policy": len(trees), "judge": asked["judge"], "critique": asked["editor"], "revision": asked["reviser"]}
    assert counts["pairs"] == len(pairs) and sum(counts["rejected"].values()) == len(rejected)
    assert any(pair.provenance.get("full_length", True) for pair in pairs)


def test_other_pairs_of_the_same_corrections_cost_no_call(built):
    folder, *_ = built
    trees, *_ = written(folder / "runs" / "x")
    changed = [tree for tree in trees if tree.script.original != tree.script.revised]
    with ScriptedServer() as server:
        config = configured(folder, server.url, correction={"mode": "full"})
        result = lpo("build", config, "name=full", cwd=folder)
        assert result.returncode == 0, result.stderr
    again, pairs, _, _ = written(folder / "runs" / "full")
    assert again == trees, "the mode is no matter of the trees"
    assert [pair.id for pair in pairs if "/script" in pair.id] == [f"{tree.id}/script" for tree in changed]


def test_corrections_by_people_need_neither_answers_nor_a_judge(built, tmp_path):
    folder, *_ = built
    trees, *_ = written(folder / "runs" / "x")
    rows = [{"id": tree.id, "annotator": "Ada", "original": tree.script.original,
             "revised": tree.script.original.replace(". ", ". Indeed. ", 1)} for tree in trees[:2]]
    write_jsonl(tmp_path / "people.jsonl", rows)
    with ScriptedServer() as server:
        config = configured(tmp_path, server.url, answers={"samples": 1},
                            correction={"by": "file", "file": "people.jsonl"})
        result = lpo("build", config, cwd=tmp_path)
        assert server.calls == []
    assert result.returncode == 0, result.stderr
    corrected, pairs, rejected, counts = written(tmp_path / "runs" / "x")
    assert counts["corrections"] == {"given": 2} and counts["usage"]["calls"] == 0
    assert {pair.group for pair in pairs} == {tree.id for tree in trees[:2]}
    assert Counter(row.reason.value for row in rejected)["no_correction"] == len(corrected) - 2
    write_jsonl(tmp_path / "people.jsonl", [*rows, {"id": "p", "original": "x"}])
    result = lpo("build", config, "name=y", cwd=tmp_path)
    assert result.returncode == 2 and "people.jsonl:3" in result.stderr and "Traceback" not in result.stderr


def test_a_corrector_that_never_helps_is_warned_of(tmp_path):
    with ScriptedServer() as server:
        server.misbehave(replace(content("I would rather not."), lasting=True,
                                 when=lambda body: role_of(schema_of(body)) == "reviser"))
        result = lpo("build", configured(tmp_path, server.url), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no correction was accepted" in result.stderr
    _, pairs, _, counts = written(tmp_path / "runs" / "x")
    assert set(counts["corrections"]) == {"no_revision", "unchanged"}
    assert pairs and not any("/script" in pair.id for pair in pairs), "the answers are compared all the same"
