import re
from pathlib import Path
from typing import Any

import pytest
from length_cases import grading, measure, scores_of, verdict, write_rows

from lpo.errors import DataError
from lpo.eval_config import MMLongBenchWriteConfig
from lpo.evaluation.suites.mmlongbench_write import mmlongbench_write
from lpo.llm.base import Finish

ROW = {"id": "a", "question": "Write 10 words on the picture.", "L": 10, "prediction": "word " * 20, "task": "story"}


def suite_of(tmp_path: Path, *rows: Any, **settings: Any):
    return mmlongbench_write(MMLongBenchWriteConfig(path=write_rows(tmp_path / "rows.jsonl", rows), **settings))


def test_given_outputs_are_answers(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, ROW, {"question": "写。", "L": 1500.0, "prediction": "雨" * 500, "images": ["x.png"]})
    first, second = suite.given
    assert suite.prompts == () and suite.judgements(2) == 2
    assert (first.prompt_id, first.request, first.kind, first.target_words, first.words, first.model) == (
        "a", ROW["question"], "story", 10, 20, "model")
    assert (second.prompt_id, second.kind, second.target_words, second.words) == ("output-2", None, 1500, 500)
    assert len(suite.notes) == 1 and "images" in suite.notes[0]


def test_too_long_and_too_short_are_not_swapped(tmp_path: Path) -> None:
    """Twice too long costs a third, twice too short a half, as the paper's equation says; its code has it reversed."""
    suite = suite_of(tmp_path, ROW, ROW | {"id": "b", "prediction": "word " * 5})
    rows = measure(suite, suite.given)
    assert [row.values["length_score"] for row in rows] == pytest.approx([200 / 3, 50])


def test_quality_means_and_buckets(tmp_path: Path) -> None:
    asked = [1499, 1500, 1999, 2000, 2999, 3000, 9000]
    suite = suite_of(tmp_path, *(ROW | {"id": str(words), "L": words, "question": f"Write {words} words.",
                                        "prediction": "word " * words} for words in asked))
    grades = {1499: [5, 4, 3, 2, 1, 5], 1500: [1] * 6}

    def reply(prompt: str) -> str:
        found = re.search(r"Write (\d+) words", prompt)
        assert found is not None
        return "no" if found[1] == "9000" else verdict(grades.get(int(found[1]), [4] * 6))

    rows = measure(suite, suite.given, grading(reply))
    assert [row.group for row in rows] == [
        "[0, 1500)", "[1500, 2k)", "[1500, 2k)", "[2k, 3k)", "[2k, 3k)", "[3k, ...)", "[3k, ...)"]
    assert rows[0].values["quality"] == pytest.approx((20 - 6) * 25 / 6)
    assert rows[0].values["mean_score"] == pytest.approx((100 + (20 - 6) * 25 / 6) / 2)
    scores = scores_of(suite, {"model": rows})
    assert scores.models["model"]["quality"].mean == pytest.approx((350 / 6 + 0 + 4 * 75) / 6)
    assert scores.unscored["model"]["quality"] == {"unparsable": 1}
    assert scores.groups["model"]["[3k, ...)"]["quality"].n == 1
    assert "ended" not in scores.models["model"], "nobody knows how a given output ended"


def test_refusals_are_left_out_of_means_and_counted(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, ROW, ROW | {"id": "b", "prediction": None}, ROW | {"id": "c", "prediction": ""})
    assert suite.given[1].finish is Finish.REFUSED and suite.given[1].note == "the row has no prediction"
    assert suite.notes[1] == "rows without a prediction: 1 of 3; they are unscored"
    scores = scores_of(suite, {"model": measure(suite, suite.given, grading(lambda prompt: verdict([3] * 6)))})
    model = scores.models["model"]
    assert (model["quality"].mean, model["quality"].n, model["quality"].unscored) == (50, 1, 2)
    assert scores.unscored["model"]["quality"] == {"refused": 1, "empty": 1}
    assert (model["length_score"].n, model["length_score"].mean) == (2, pytest.approx(100 / 3))


def test_only_the_first_rows(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, ROW, ROW | {"id": "b"}, limit=1)
    assert len(suite.given) == 1 and suite.notes[1] == "the first 1 rows at most: limit"


@pytest.mark.parametrize(("change", "cause"), [
    ({"question": " "}, "there is no question"), ({"question": None}, "there is no question"),
    ({"prediction": 7}, "the prediction is not text"), ({"L": None}, "L must be"), ({"L": "500"}, "L must be"),
    ({"L": 0}, "L must be"), ({"L": 2.5}, "L must be"), ({"L": True}, "L must be"), ({"id": "a"}, "stands in line 1"),
    ({"id": 2.5}, "the id is"),
])
def test_a_row_that_cannot_be_read_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    with pytest.raises(DataError, match=re.escape(cause)) as caught:
        suite_of(tmp_path, ROW, ROW | {"id": "b"} | change)
    assert str(caught.value.where).endswith("rows.jsonl:2")


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no outputs in it"):
        suite_of(tmp_path)
