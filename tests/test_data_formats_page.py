"""Every example on the page of data formats is what the code reads and writes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lpo.build_config import PairsConfig
from lpo.config import PromptsConfig
from lpo.eval_config import SuiteName
from lpo.evaluation import Answer, PreferenceRow
from lpo.evaluation.along import AlongRow
from lpo.evaluation.measured import Measured
from lpo.evaluation.pairwise import Preference
from lpo.evaluation.scores import METRICS
from lpo.given_answers import ANSWER_IDS
from lpo.pair_builders.corrections_file import load_corrections
from lpo.pair_builders.mixing import read_general
from lpo.pair_builders.pairs import derive_pairs
from lpo.prompts import load_prompts
from lpo.records import (
    CorrectionOutcome,
    Judgement,
    Origin,
    PreferencePair,
    Prompt,
    Reason,
    RejectedRow,
    Script,
    SearchNode,
    SearchTree,
    SftRow,
    Usage,
)
from lpo.report.data import Build, Manifest, Sample, Scores
from lpo.reward import length_score
from lpo.run.build_counts import BuildCounts
from lpo.run.build_summary import BuildSummary
from lpo.run.directory import Stage
from lpo.run.score_summary import scored_rows
from lpo.run.training import TrainSummary
from lpo.trainers.columns import read_pair
from lpo.words import count_words
from lpo.writing_config import SegmentsConfig

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "data-formats.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```json (\w+)\n(.+)\n```$", PAGE, flags=re.MULTILINE)


def examples(kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for name, line in EXAMPLES if name == kind]
    assert found, kind
    return found


def test_every_prompt_example_is_usable(tmp_path: Path) -> None:
    path, other = tmp_path / "prompts.jsonl", tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in examples("prompts")), encoding="utf-8")
    other.write_text('{"prompt": "Something else."}\n', encoding="utf-8")
    prompts = load_prompts(PromptsConfig(path=str(path), held_out_path=str(other)))
    assert [prompt.target_words for prompt in prompts.build] == [120, 300, 100] and not prompts.rejected
    assert prompts.build[1].meta["kind"] == "Literature and Creative Writing"


def test_the_pair_example_is_what_the_tree_example_gives() -> None:
    [tree], [pair] = examples("tree"), examples("pair")
    derived = derive_pairs(SearchTree.model_validate(tree), PairsConfig())
    assert derived.tree.to_json() == tree
    [found] = derived.pairs
    assert found.margin == pytest.approx(pair["margin"])
    assert found.to_json() == {**pair, "margin": found.margin}


def test_the_general_data_example_is_usable(tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in examples("general")), encoding="utf-8")
    general = read_general(str(path))
    assert [pair.chosen for pair in general.pairs] == ["Indigo, madder and weld."] and not general.rejected


def test_the_corrections_example_is_cut_and_aligned(tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in examples("corrections")), encoding="utf-8")
    segments = SegmentsConfig(by="separator", separator="\n\n")
    script = load_corrections(path, segments).script(Prompt(id="tides", prompt="?"))
    assert script is not None and [segment.original != segment.revised for segment in script.segments] == [True, False]
    assert script.segments[0].corrections[0].by == "anna"


def test_the_row_for_fine_tuning_says_of_itself_what_is_true() -> None:
    [row] = examples("sft")
    answer = row["messages"][-1]["content"]
    assert row["words"] == count_words(answer) == sum(row["provenance"]["section_words"])
    score = length_score(required=row["target_words"], written=row["words"])
    assert row["length_score"] == pytest.approx(score, abs=0.1)


def test_the_scored_example_has_the_stored_fields() -> None:
    [row] = examples("scored")
    judgement = Judgement(scorer="longreward", overall=row["overall"], scores=row["scores"])
    tree = SearchTree(id=row["question"], prompt=Prompt(id="q", prompt=row["query"], meta={ANSWER_IDS: [row["id"]]}),
                      method="best_of_n", seed=0, nodes=(
                          SearchNode(id="0", parent=None, depth=0, text=""),
                          SearchNode(id="0.0", parent="0", depth=1, text="word " * row["words"], role=row["role"],
                                     judgement=judgement)))
    assert scored_rows(tree) == [row]


def test_the_training_columns_example_is_read_whole() -> None:
    [row] = examples("columns")
    assert read_pair(row, "x").model_dump(mode="json", include=set(row)) == row


@pytest.mark.parametrize(("kind", "record"), [
    ("tree", SearchTree), ("script", Script), ("sft", SftRow), ("pair", PreferencePair), ("rejected", RejectedRow),
    ("answer", Answer), ("preference", PreferenceRow), ("measured", Measured), ("along", AlongRow),
    ("pairwise", Preference),
])
def test_examples_of_records_have_exactly_the_records_fields(kind: str, record: Any) -> None:
    [row] = examples(kind)
    assert record.model_validate(row).to_json() == row


@pytest.mark.parametrize(("kind", "record"), [
    ("manifest", Manifest), ("build", Build), ("sample", Sample), ("scores", Scores),
])
def test_the_other_examples_have_every_field_the_report_reads(kind: str, record: Any) -> None:
    [row] = examples(kind)
    record.model_validate(row)
    assert set(record.model_fields) <= set(row)


def test_summaries_of_stages_have_exactly_the_stored_fields() -> None:
    built = BuildSummary(0, BuildCounts(), Usage(), {}, Usage(), None, None, 0).to_json()
    assert set(examples("build")[0]) == set(built)
    assert set(examples("train")[0]) == set(TrainSummary.__dataclass_fields__)


def test_the_page_names_every_file_reason_and_metric() -> None:
    for stage in Stage:
        assert all(f"`{name}" in PAGE for name in stage.outputs), stage
    for names in (Reason, Origin, CorrectionOutcome, SuiteName):
        assert all(f"`{name.value}`" in PAGE for name in names)
    assert all(f"`{metric.key}`" in PAGE for metric in METRICS)
