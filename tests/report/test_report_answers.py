"""Ranked answers on the page, the length of the chosen side, and files that were scored."""

from pathlib import Path

import pytest
from reading_runs import headings, said, trees_of
from sample_answers import DOCUMENT, GOOD, LONG, QUESTION, SHORT, about_a_document
from sample_methods import best_of_n_run, write_run
from test_report_page import Page, page_of

from lpo.intervals import bootstrap_mean
from lpo.report import write_report
from lpo.report.data import read_run
from lpo.report.honesty import Weight
from lpo.report.kinds import RunKind
from lpo.run.score_summary import means, scored_rows
from lpo.storage import read_jsonl, write_json, write_jsonl
from lpo.words import count_words


@pytest.fixture(scope="module")
def ranked(tmp_path_factory) -> Path:
    return best_of_n_run(tmp_path_factory.mktemp("runs") / "reports")


def test_answers_stand_in_the_order_of_their_scores(ranked):
    page = page_of(ranked)
    texts = [text for attributes, text in page.of("div") if attributes.get("aria-label", "").startswith("Answer ")]
    assert texts[:5] == [GOOD, SHORT, LONG, trees_of(ranked)[0].nodes[4].text, GOOD]
    assert [text for attributes, text in page.of("span") if attributes.get("class") == "rank"][:5] == [
        "1", "2", "3", "–", "–"]
    for text in ("lengthened from 0.0", "set aside: duplicate of 0.1", "no score: unparsable",
                 "could not be lengthened"):
        assert text in page.text, text


def test_dimensions_statements_passages_and_notes_of_longreward_are_shown(ranked):
    page = page_of(ranked)
    assert [text for attributes, text in page.of("span") if attributes.get("class") == "support"][:4] == [
        "borne out", "borne out", "in part", "borne out"]
    assert "not borne out" in page.text and "no verdict" in page.text and "No score for faithfulness" in page.text
    quotes = [text for _, text in page.of("blockquote")]
    assert DOCUMENT[:60].strip() in quotes and any(DOCUMENT[140:200] in quote for quote in quotes)
    assert "The oil had been sold; the merchant was not pardoned." in page.text
    assert f"About a document of {count_words(DOCUMENT)} words." in page.text
    grades = [text for attributes, text in page.of("b")]
    assert {"8.3", "9", "3.3"} <= set(grades)
    assert page.data()["scales"]["faithfulness"] == [0.0, 10.0]


def test_a_pair_about_a_document_shows_the_question_and_not_the_document(ranked):
    entry = next(entry for entry in page_of(ranked).data()["entries"] if entry["id"] == "skagen/0")
    assert entry["request"] == QUESTION and entry["document"] == count_words(DOCUMENT)
    assert entry["place"] == "whole answers"


def test_the_length_of_the_chosen_side_is_that_of_all_pairs(ranked):
    run = read_run(ranked)
    differences = [float(count_words(pair.chosen) - count_words(pair.rejected)) for pair in run.pairs]
    oracle = bootstrap_mean(differences, seed=0, resamples=2000, groups=[pair.group for pair in run.pairs])
    assert run.length_gap is not None and run.length_gap.interval == oracle
    assert "Length, chosen − rejected" in page_of(ranked).text


@pytest.mark.parametrize(("better", "worse", "text"), [
    (LONG, SHORT, "The chosen sides are longer than the rejected ones"),
    (SHORT, LONG, "The chosen sides are shorter than the rejected ones"),
])
def test_a_systematic_difference_of_length_is_warned_of(tmp_path, better, worse, text):
    folder = best_of_n_run(tmp_path / "run")
    rows = read_jsonl(folder / "pairs.jsonl")
    pairs = [{**rows[0], "id": f"p{number}", "group": f"g{number}", "chosen": better + " and so on" * number,
              "rejected": worse} for number in range(8)]
    write_jsonl(folder / "pairs.jsonl", pairs)
    warnings = said(folder, Weight.WARNING)
    assert text in warnings and ("build.pairs.length_penalty" in warnings) == (better is LONG)
    write_jsonl(folder / "pairs.jsonl", [*pairs[:4], *({**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}
                                                       for pair in pairs[4:])])
    assert "than the rejected ones" not in said(folder, Weight.WARNING)


def test_ranked_answers_of_many_prompts_stay_small(tmp_path):
    folder = best_of_n_run(tmp_path / "many", documents=1)
    tree = trees_of(folder)[0]
    nodes = tuple(node.model_copy(update={"text": node.text * 40}) for node in tree.nodes)
    write_jsonl(folder / "trees.jsonl", [tree.model_copy(update={"id": f"t{number}", "nodes": nodes}).to_json()
                                         for number in range(150)])
    report = write_report(folder)
    page = Page(report.read_text(encoding="utf-8"))
    shown = len([1 for attributes, _ in page.of("ol") if attributes.get("class") == "ranking"])
    assert 5 < shown < 150 and report.stat().st_size < 4_000_000
    assert f"{shown} of 150 prompts" in page.text


def test_a_scored_file_has_its_means_and_neither_training_nor_scores(tmp_path):
    trees = [about_a_document(f"q{number}", given_names=True) for number in range(7)]
    folder = write_run(tmp_path / "file-scores", {"method": "best_of_n", "reward": {"judge": 0, "longreward": 1.0}},
                       trees)
    rows = [row for tree in trees_of(folder) for row in scored_rows(tree)]
    write_jsonl(folder / "scored.jsonl", rows)
    found = {name: interval.to_json() for name, interval in means(rows, seed=0, resamples=200).items()}
    write_json(folder / "score.json", {
        "file": "answers of mine.jsonl", "answers": len(rows), "questions": 7, "scored": 21, "unscored": {},
        "interval_over": "questions", "means": found, "pairs": 7})
    page = page_of(folder)
    assert read_run(folder).kind is RunKind.SCORED
    assert headings(page) == ["The run", "Answers", "Pairs", "Files"] and page.unbalanced == []
    assert f"lpo score 'answers of mine.jsonl' --config {folder}/config.yaml" in page.text
    assert "intervals of 95 % over questions" in page.text and "11-1" in page.text and "same_as" not in page.text
    cells = [text for _, text in page.of("td")]
    assert f"{found['faithfulness']['mean']:.4g}"[:4] in " ".join(cells)
    assert "not been compared" not in page.text and "trained" not in [text for _, text in page.of("dt")]
