import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from function_llm import FunctionLLM
from length_cases import answers_of, measure, scores_of, write_rows

from lpo.errors import ConfigError, DataError
from lpo.eval_config import EvalConfig, LongWriteRulerConfig
from lpo.evaluation.answers import generate_answers
from lpo.evaluation.suites.longwrite_ruler import longwrite_ruler
from lpo.intervals import bootstrap_mean
from lpo.prompts import language
from lpo.words import is_chinese

LENGTHS = (1000, 2000, 5000, 10_000, 20_000, 30_000)


def test_our_tasks_are_eight_in_two_languages_each_at_every_length() -> None:
    suite = longwrite_ruler(LongWriteRulerConfig())
    assert suite.lengths == LENGTHS and suite.groups == ("1,000", "2,000", "5,000", "10,000", "20,000", "30,000")
    assert len(suite.prompts) == 48 == len({prompt.id for prompt in suite.prompts})
    for length in LENGTHS:
        asked = [prompt for prompt in suite.prompts if prompt.target_words == length]
        assert [language(prompt) for prompt in asked].count("zh") == 4 == len(asked) / 2
        for prompt in asked:
            assert re.findall(r"\d+", prompt.request) == [str(length)]
            assert is_chinese(prompt.request) == (language(prompt) == "zh")
    assert "our own" in suite.source
    assert longwrite_ruler(LongWriteRulerConfig()) == suite


def test_other_lengths_and_fewer_prompts() -> None:
    suite = longwrite_ruler(LongWriteRulerConfig(lengths=(300, 100), limit=9))
    assert suite.lengths == (100, 300)
    assert [prompt.target_words for prompt in suite.prompts] == [100] * 8 + [300]
    assert suite.notes == ("9 of 16 tasks: limit 9; compare with scores of the same tasks only",)
    assert longwrite_ruler(LongWriteRulerConfig(lengths=(300, 100), limit=8)).lengths == (100,)


@pytest.mark.parametrize("lengths", [(), (0, 100), (-5,), (100, 100)])
def test_lengths_that_are_none_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"eval\.longwrite_ruler\.lengths"):
        longwrite_ruler(LongWriteRulerConfig(lengths=lengths))


def test_the_published_form_is_read_and_lengths_choose_from_it(tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": f"Write {words} words on {name}.", "type": "t", "length": words}
                       for words in (2000, 1000, 4000) for name in ("tea", "salt")]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    suite = longwrite_ruler(LongWriteRulerConfig(path=path))
    assert (suite.lengths, len(suite.prompts)) == ((1000, 2000), 4)
    assert suite.notes == ("prompts set aside because their length is not in lengths: 2 of 6",)
    with pytest.raises(DataError, match="none of its prompts asks for one of the lengths"):
        longwrite_ruler(LongWriteRulerConfig(path=path, lengths=(7,)))
    with pytest.raises(DataError, match="asks for no length"):
        longwrite_ruler(LongWriteRulerConfig(path=write_rows(tmp_path / "b.jsonl", [{"prompt": "Write."}])))


def test_a_model_that_stops_at_forty_words_shows_on_the_curve() -> None:
    suite = longwrite_ruler(LongWriteRulerConfig(lengths=(20, 40, 80)))

    def write(request: Any) -> str:
        text = request.context.prompt[0].content
        asked = re.search(r"\d+", text)
        assert asked is not None
        return "word " * min(int(asked[0]), 40 if is_chinese(text) else 30)

    answers = asyncio.run(generate_answers(FunctionLLM(write=write), suite.prompts, EvalConfig(), seed=0,
                                           model_name="model"))
    rows = measure(suite, answers)
    scores = scores_of(suite, {"model": rows})
    longest, means = scores.curves["model"]
    assert (longest.key, means.key, longest.diagonal, means.diagonal) == ("longest", "mean_words", True, True)
    assert [(point.x, point.y.mean, point.y.low, point.y.high, point.y.n) for point in longest.points] == [
        (20, 20, None, None, 8), (40, 40, None, None, 8), (80, 40, None, None, 8)]
    assert [point.y.mean for point in means.points] == [20, 35, 35]
    assert means.points[1].y == bootstrap_mean([30.0, 40.0] * 4, seed=0, resamples=100)
    assert [scores.groups["model"][group]["length_score"].mean for group in suite.groups] == pytest.approx(
        [100, (100 + 100 * 5 / 6) / 2, (50 + 100 / 6) / 2])
    assert suite.judgements(48) == 0


def test_refused_answers_are_counted_and_make_no_point() -> None:
    suite = longwrite_ruler(LongWriteRulerConfig(lengths=(20, 40)))
    rows = measure(suite, answers_of(suite.prompts, [None] * 8 + [None, "word word"] * 4))
    longest, means = suite.curves(rows, seed=0, resamples=100)
    for curve in (longest, means):
        first, second = (point.y for point in curve.points)
        assert (first.mean, first.n, first.unscored) == (None, 0, 8)
        assert (second.mean, second.n, second.unscored) == (2, 4, 4)
