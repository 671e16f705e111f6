"""What the pages of all methods have in common, and where they differ."""

import json
from pathlib import Path

import pytest
from reading_runs import headings, trees_of
from sample_methods import agent_write_run, best_of_n_run, iterdpo_run, write_run
from sample_run import ATTACKS, make_run
from test_report_page import page_of

from lpo.report.tree_file import TreeFile
from lpo.run.build_counts import BuildCounts, count_tree


@pytest.fixture(scope="module")
def corrected(tmp_path_factory) -> Path:
    return iterdpo_run(tmp_path_factory.mktemp("runs") / "lectures")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory) -> Path:
    return best_of_n_run(tmp_path_factory.mktemp("runs") / "reports")


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Path:
    return agent_write_run(tmp_path_factory.mktemp("runs") / "drafts")


@pytest.mark.parametrize(("make", "sections"), [
    (iterdpo_run, ["The run", "Scores", "Training", "Pairs", "Corrections", "Answers", "Texts", "Files"]),
    (best_of_n_run, ["The run", "Scores", "Training", "Pairs", "Answers", "Texts", "Files"]),
    (agent_write_run, ["The run", "SFT rows", "Planned answers", "Files"]),
])
def test_the_sections_are_those_of_the_method_and_every_element_closes(tmp_path, make, sections):
    page = page_of(make(tmp_path / "run"))
    assert headings(page) == sections and page.unbalanced == []
    assert [text for attributes, text in page.of("a") if attributes.get("href") in {
        f"#{attributes['id']}" for attributes, _ in page.of("section")}][1:] == sections
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not any("style" in attributes or any(name.startswith("on") for name in attributes)
                   for _, attributes in page.elements)


@pytest.mark.parametrize("method", ["iterdpo", "best_of_n", "agent_write"])
def test_a_run_whose_build_has_not_ended_says_what_to_run(tmp_path, method):
    folder = write_run(tmp_path / "begun", {"method": method}, [])
    for file in folder.glob("*.json*"):
        file.unlink()
    page = page_of(folder)
    command = "lpo build" if method == "agent_write" else "lpo run"
    absent = [text for attributes, text in page.of("p") if attributes.get("class") == "absent"]
    assert absent and f"{command} {folder}/config.yaml" in page.text and page.unbalanced == []


@pytest.mark.parametrize("run", ["corrected", "ranked", "planned"])
def test_the_page_counts_what_the_build_counts(run, request):
    """Both go through the same trees; on what both tell, they must agree."""
    folder = request.getfixturevalue(run)
    built = sum((count_tree(tree) for tree in trees_of(folder)), BuildCounts())
    counts = TreeFile.read(folder / "trees.jsonl").counts
    for name in ("trees", "layers", "candidates", "paths", "rollouts", "facts", "vetoed"):
        assert getattr(counts, name) == getattr(built, name), name
    assert (counts.scripts.segments, counts.scripts.changed) == (built.segments, built.changed_segments)
    assert {outcome.value: count for outcome, count in counts.scripts.outcomes.items()} == dict(built.corrections)
    assert counts.set_aside == built.set_aside


@pytest.mark.parametrize("make", [iterdpo_run, best_of_n_run, agent_write_run])
def test_texts_that_look_like_markup_are_text_on_every_page(tmp_path, make):
    page = page_of(make(tmp_path / "run"))
    scripts = [attributes.get("id") for attributes, _ in page.of("script")]
    assert set(scripts) <= {"pair-data", "correction-data", None} and scripts.count(None) == 1
    assert {"img", "iframe"}.isdisjoint(tag for tag, _ in page.elements)
    everything = page.text + " ".join(text for _, text in page.of("script"))
    for attack in ATTACKS[:2]:
        assert attack in everything or json.dumps(attack, ensure_ascii=False)[1:-1] in everything


@pytest.mark.parametrize(("make", "said_so"), [
    (iterdpo_run, "iterdpo, 3 answers per prompt, segments by sections, corrected by the judge in 2 rounds, "
                  "pairs: prefix"),
    (best_of_n_run, "best_of_n, 4 answers per prompt, pairs: best score against worst"),
    (agent_write_run, "agent_write, sections one after the other, plans within 20\u202f% of the length asked for"),
    (make_run, "longdpo, branching 4, depth 3, steps by sentence, search ucb over 4 paths, pairs: most visited "
               "against"),
])
def test_the_facts_tell_the_settings_that_the_method_reads(tmp_path, make, said_so):
    page = page_of(make(tmp_path / "run"))
    method = [text for _, text in page.of("dd")]
    assert any(text.startswith(said_so) for text in method), method
    assert ("longreward × 1; LongReward: 5 passages by bm25" in method) == (make is best_of_n_run)
