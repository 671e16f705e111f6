"""Planned answers and the rows made of them on the page."""

import ast
from pathlib import Path

import pytest
from reading_runs import trees_of
from sample_methods import agent_write_run
from test_report_page import page_of

from lpo.pair_builders.plan import section_rows
from lpo.records import PlannedSection, Prompt
from lpo.report.plans import words_asked
from lpo.storage import read_jsonl
from lpo.words import count_words


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Path:
    return agent_write_run(tmp_path_factory.mktemp("runs") / "drafts")


def test_a_run_of_rows_is_not_one_that_lacks_pairs(planned):
    page = page_of(planned)
    assert "5 prompts → 8 sections → 1 SFT row." in page.text
    stations = [text for attributes, text in page.of("span") if attributes.get("class") == "name"]
    assert stations == ["prompts", "answers", "SFT row"]
    files = [text for _, text in page.of("a")]
    assert "sft.jsonl" in files and not {"pairs.jsonl", "scores.json", "metrics.jsonl"} & {
        text for attributes, text in page.of("th")}
    assert "can teach habits" not in page.text and "no scores yet" not in page.text
    assert f"lpo build {planned}/config.yaml" in page.text and "SFTTrainer" in page.text


def test_planned_words_stand_beside_written_ones_and_the_verdict_above(planned):
    page = page_of(planned)
    verdicts = [text for attributes, text in page.of("span") if (attributes.get("class") or "").startswith("chip ")]
    assert verdicts == ["kept", "off_length", "incomplete", "no_plan", "no_length"]
    tree = trees_of(planned)[0]
    amounts = [text.split()[0] for attributes, text in page.of("span") if attributes.get("class") == "amount"]
    assert amounts[:3] == [str(count_words(node.text)) for node in tree.nodes[1:]]
    lines = [attributes for attributes, _ in page.of("line") if attributes.get("class") == "target"]
    assert len(lines) == sum(section.words is not None for tree in trees_of(planned) for section in tree.plan)
    assert "words add up to 2,400, asked for 900" in page.text and "not written" in page.text


def test_the_lines_that_train_on_the_rows_name_them(planned):
    code = next(text for _, text in page_of(planned).of("code") if "load_dataset" in text)
    named = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert str(planned / "sft.jsonl") in named and "messages" in named
    assert all(row["messages"][-1]["role"] == "assistant" for row in read_jsonl(planned / "sft.jsonl"))


@pytest.mark.parametrize("words", [(60, 50, 40), (150, 150, 150, 150, 150), (None, 20, 30), (None, None)])
@pytest.mark.parametrize("target", [None, 1, 130, 2_000])
def test_the_words_asked_of_a_section_are_those_that_its_writer_was_told(words, target):
    plan = [PlannedSection(title=f"part {place}", words=count) for place, count in enumerate(words)]
    told = section_rows(Prompt(id="p", prompt="Write.", target_words=target), plan)
    asked = words_asked(plan, target)
    assert [asked.get(place) for place in range(1, len(plan) + 1)] == [row["words"] for row in told]
