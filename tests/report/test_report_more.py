"""Runs too large for one page: the report stays small, and pages beside it hold every pair, tree and text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import visit
from sample_run import make_run, write_json, write_jsonl
from sample_suites import make_measured_run
from test_report_page import Page

from lpo.records import Usage
from lpo.report import write_report
from lpo.report.contents import contents
from lpo.report.data import Manifest, Stage, read_run
from lpo.report.more import write_more
from lpo.report.stages import stage_costs
from lpo.storage import read_jsonl

PAIRS, TREES = 5_000, 300


def multiply(folder: Path, pairs: int, trees: int) -> Path:
    """The pairs and trees of a run under other names, as many as asked for."""
    known_pairs, known_trees = read_jsonl(folder / "pairs.jsonl"), read_jsonl(folder / "trees.jsonl")
    each = -(-pairs // trees)
    write_jsonl(folder / "trees.jsonl", [{**known_trees[index % len(known_trees)], "id": f"t{index}"}
                                         for index in range(trees)])
    write_jsonl(folder / "pairs.jsonl", [
        {**pair, "id": f"p{index}", "group": f"t{index // each}", "chosen": f"Pair {index}: {pair['chosen']}",
         "provenance": {**pair["provenance"], "tree": f"t{index // each}"}}
        for index in range(pairs) for pair in [known_pairs[index % len(known_pairs)]]])
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    folder = multiply(make_run(tmp_path_factory.mktemp("runs") / "large", stages=("build",)), PAIRS, TREES)
    write_report(folder)
    return folder


def entries(page: Page, name: str) -> list[dict[str, Any]]:
    """What a browser of a page is given."""
    return [entry for attributes, text in page.of("script") if attributes.get("id") == name
            for entry in json.loads(text)["entries"]]


def linked(page: Page) -> set[str]:
    """Pages of this kind that a page leads to."""
    return {(attributes["href"] or "").partition("#")[0] for attributes, _ in page.of("a")
            if "report_more" in (attributes["href"] or "")}


def more_pages(folder: Path) -> Iterator[Page]:
    """The pages beside the report, from one to the next as a reader goes."""
    name: str | None = "report_more.html"
    while name is not None:
        page = Page((folder / name).read_text(encoding="utf-8"))
        yield page
        name = next((attributes["href"] for attributes, _ in page.of("a") if attributes.get("rel") == "next"), None)


def test_a_run_of_5000_pairs_and_300_trees_keeps_its_page_below_three_megabytes(large):
    assert (large / "report.html").stat().st_size < 3_000_000
    page = Page((large / "report.html").read_text(encoding="utf-8"))
    shown = entries(page, "pair-data")
    assert f"{len(shown)} of 5,000 pairs" in page.text and f"{PAIRS - len(shown):,} are left out" in page.text
    assert linked(page) == {"report_more.html"} and "of 300 trees" in page.text


def test_the_page_beside_it_holds_every_pair_and_every_tree_in_order(large):
    pages = list(more_pages(large))
    stored = read_jsonl(large / "pairs.jsonl")
    held = [entry for page in pages for entry in entries(page, "pair-data")]
    assert [entry["id"] for entry in held] == [pair["id"] for pair in stored]
    for entry, pair in zip(held, stored, strict=True):
        assert "".join(entry["chosen"]["parts"]) == pair["chosen"]
        assert "".join(entry["rejected"]["parts"]) == pair["rejected"]
    assert [entry["id"] for page in pages for entry in entries(page, "tree-data")] == [f"t{n}" for n in range(TREES)]
    assert len(pages) == 1 and pages[0].unbalanced == [] and "pairs (all 5,000)" in pages[0].text


@pytest.mark.browser
def test_the_page_beside_it_pages_through_from_a_file(chromium, large):
    with visit(chromium, large / "report_more.html", width=360) as seen:
        page = seen.page
        assert page.locator("#position").inner_text() == f"Pair 1 of {PAIRS}"
        page.locator("#next").click()
        assert page.locator("#chosen").text_content().startswith("Pair 1: ")
        page.locator("#pair").click()
        page.keyboard.press("ArrowRight")
        assert page.locator("#chosen").text_content().startswith("Pair 2: ")
        page.locator("#filter-prompt").select_option(f"t{TREES - 7}")
        assert page.locator("#chosen").text_content().startswith(f"Pair {(TREES - 7) * 17}: ")
        page.locator("#tree-choice").select_option(str(TREES - 1))
        assert page.locator("#tree-facts").text_content().endswith(f"t{TREES - 1}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.fixture
def small(tmp_path) -> Path:
    folder = multiply(make_measured_run(tmp_path / "small"), 60, 6)
    rows = read_jsonl(folder / "eval" / "longwrite_ruler" / "answers.base.jsonl")
    for model in ("base", "trained"):
        write_jsonl(folder / "eval" / "longwrite_ruler" / f"answers.{model}.jsonl", [
            {**row, "answer": {**row["answer"], "model": model, "prompt_id": f"q{index}",
                               "text": f"{index} <文>" * 3000}} for index, row in enumerate(rows)])
    return folder


def test_what_is_too_large_for_one_page_goes_on_in_the_next_and_nothing_is_lost(small):
    run = read_run(small)
    shown = contents(run, 0.02)
    more = write_more(run, shown, part_bytes=150_000)
    pages = list(more_pages(small))
    assert len(pages) == len(more.files) > 3
    assert [entry["id"] for page in pages for entry in entries(page, "pair-data")] == [f"p{n}" for n in range(60)]
    assert [entry["id"] for page in pages for entry in entries(page, "tree-data")] == [f"t{n}" for n in range(6)]
    requests = [text for page in pages for attributes, text in page.of("span") if attributes.get("class") == "ask"]
    assert len(requests) == sum(suite["n_prompts"] for suite in json.loads(
        (small / "scores.json").read_text(encoding="utf-8"))["suites"].values())
    for place, page in enumerate(pages):
        assert page.unbalanced == []
        back = [attributes["href"] for attributes, _ in page.of("a") if attributes.get("rel") == "prev"]
        assert back == ([more.files[place - 1]] if place else [])
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for tag, attributes in page.elements:
            assert "src" not in attributes and "style" not in attributes, tag
    assert set(more.links) == {"pairs", "trees", "texts"}
    assert {link.partition("#")[0] for link in more.links.values()} <= set(more.files)


def test_pages_of_an_earlier_report_go_when_everything_fits_again(small):
    (small / "report_more_2.html").write_text("from an earlier report", encoding="utf-8")
    (small / "report_more_notes.html").write_text("a reader's own", encoding="utf-8")
    page = Page(write_report(small).read_text(encoding="utf-8"))
    assert linked(page) == {"report_more.html"} and (small / "report_more.html").exists()
    assert not (small / "report_more_2.html").exists()
    make_run(small)  # ten pairs, four trees, and answers to held-out prompts only
    assert linked(Page(write_report(small).read_text(encoding="utf-8"))) == set()
    assert {path.name for path in small.glob("report*.html")} == {"report.html", "report_more_notes.html"}


def test_many_suites_take_room_from_pairs_and_texts_not_from_their_scores(small):
    scores = json.loads((small / "scores.json").read_text(encoding="utf-8"))
    bench = scores["suites"]["longbench_write"]
    long_notes = ["x" * 40_000]
    scores["suites"] |= {f"suite_{n}": {**bench, "suite": f"suite_{n}", "title": f"Suite {n}", "notes": long_notes}
                         for n in range(28)}
    write_json(small / "scores.json", scores)
    multiply(small, 1500, 6)
    report = write_report(small)
    assert report.stat().st_size < 3_000_000
    page = Page(report.read_text(encoding="utf-8"))
    titles = [text for attributes, text in page.of("h3") if (attributes.get("id") or "").startswith("suite-")]
    assert len(titles) == 31
    assert 0 < len(entries(page, "pair-data")) < 1500


def test_stages_are_added_up_and_columns_that_nobody_has_are_left_out():
    usage = Usage(calls=10, cached=2, tokens_in=1000, tokens_out=200, cost=1.25)
    priced = stage_costs(Manifest(stages={
        "build": Stage(status="complete", seconds=90.0, usage=usage, peak_memory_mb=2048.0),
        "train": Stage(status="complete", seconds=3600.0, peak_memory_mb=4096.0),
        "eval": Stage(status="running", seconds=30.0, usage=usage)}))
    assert [cost.name for cost in priced] == ["Build", "Training", "Evaluation", "All stages"]
    assert dict(priced[-1].values) == {
        "time": "1 h 2 min", "peak memory": "4.0 GB", "calls": "20", "from the journal": "4", "tokens read": "2,000",
        "tokens written": "400", "cost": "2.50"}
    assert dict(priced[1].values)["calls"] == "–" and priced[2].status == "running"
    free = stage_costs(Manifest(stages={"train": Stage(status="complete", seconds=5.0)}))
    assert [(cost.name, dict(cost.values)) for cost in free] == [("Training", {"time": "5.0 s"})]
    assert stage_costs(Manifest()) == ()
