import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from length_cases import answers_of, grading, measure, scores_of, verdict, write_rows

from lpo.errors import DataError
from lpo.eval_config import LonGenConfig
from lpo.evaluation.suites.longen import longen
from lpo.evaluation.suites.longen_window import Kind, Window, count_longen_words, read_numbers
from lpo.prompts import language

ROW = {"language": "en", "range": "2-4k", "type": "about", "constraint": "about 2000 words", "query": "Write of rain."}


def suite_of(tmp_path: Path, *rows: Any, **settings: Any):
    return longen(LonGenConfig(path=write_rows(tmp_path / "rows.jsonl", rows), **settings))


@pytest.mark.parametrize(("kind", "numbers", "window"), [
    (Kind.ABOUT, (1000.0,), (800, 1200)), (Kind.RANGE, (2000.0, 3000.0), (2000, 3000)),
    (Kind.ABOVE, (2000.0,), (2000, 3000)), (Kind.BELOW, (2000.0,), (1000, 2000)),
])
def test_windows_by_hand(kind: Kind, numbers: tuple[float, ...], window: tuple[float, float]) -> None:
    assert kind.window(numbers) == Window(*window)


@pytest.mark.parametrize(("length", "score"), [
    (1000, 100), (2000, 100), (1500, 100), (999, 99.8), (750, 50), (501, 0.2), (500, 0), (499, 0), (0, 0),
    (2001, 99.9), (2500, 50), (3000, 0), (3001, 0), (90_000, 0),
])
def test_the_length_score_by_hand(length: int, score: float) -> None:
    assert Window(1000, 2000).score(length) == pytest.approx(score)


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_random_cases_agree_with_a_plain_recomputation(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        kind, n, more = rng.choice(list(Kind)), rng.randrange(1, 9000), rng.randrange(0, 3000)
        low, high = {"about": (n * 0.8, n * 1.2), "range": (n, n + more), "above": (n, 1.5 * n),
                     "below": (0.5 * n, n)}[kind.value]
        length = rng.randrange(0, 3 * n)
        under, over = max(2 * length / low - 1, 0), max(3 - 2 * length / high, 0)
        wanted = min(1, under if length < low else 1, over if length > high else 1)
        numbers = (float(n), float(n + more)) if kind is Kind.RANGE else (float(n),)
        assert kind.window(numbers).score(length) == pytest.approx(100 * wanted)


@pytest.mark.parametrize(("constraint", "numbers"), [
    ("about 2000 words", (2000,)), ("大约2000字", (2000,)), ("2000字至3000字", (2000, 3000)), ("小于2000字", (2000,)),
    ("4000-6000 words", (4000, 6000)), ("between 2,000 and 4,000 words", (2000, 4000)), ("2-4k", (2000, 4000)),
    ("2k-4k words", (2000, 4000)), ("2至4千字", (2000, 4000)), ("1.5k", (1500,)), ("１２００字", (1200,)),
    ("两千到四千字", (2000, 4000)), ("三千五百字", (3500,)), ("三千五", (3500,)), ("一万二千", (12_000,)),
    ("一万二", (12_000,)),
    ("二千零五十", (2050,)), ("二千零五", (2005,)), ("一万零五百", (10_500,)), (3000, (3000,)), (2500.0, (2500,)),
    ([2000, 3000], (2000, 3000)), (["2000字", "3000字"], (2000, 3000)), ("at length", ()),
])
def test_constraints_are_read(constraint: object, numbers: tuple[float, ...]) -> None:
    assert read_numbers(constraint) == numbers


@given(st.lists(st.sampled_from(["rain", "雨", "。", "3.14", "（", "x-y", "\u3000", " ", "\n", "Ａ"]), max_size=30))
def test_words_are_counted_as_published(pieces: list[str]) -> None:
    text = "".join(pieces)
    wide = [char for char in text if "\u4e00" <= char <= "\u9fff" or "\u3000" <= char <= "\u303f"
            or "\uff00" <= char <= "\uffef"]
    rest = "".join(" " if char in wide else char for char in text)
    assert count_longen_words(text) == len(wide) + len(rest.split())


def test_our_tasks_have_the_published_make_up() -> None:
    suite = longen(LonGenConfig())
    cells = Counter((prompt.meta["language"], prompt.meta["range"], prompt.meta["kind"]) for prompt in suite.prompts)
    assert len(cells) == 24 and set(cells.values()) == {10}
    assert len({prompt.request for prompt in suite.prompts}) == len({prompt.id for prompt in suite.prompts}) == 240
    lengthless = {re.sub(r"\d+", "", prompt.request) for prompt in suite.prompts}
    assert len(lengthless) == 240, "no two tasks differ in their length alone"
    for prompt in suite.prompts:
        numbers = [int(number) for number in re.findall(r"\d+", prompt.request)]
        low, high = {"2-4k": (2000, 4000), "4-6k": (4000, 6000), "6-8k": (6000, 8000)}[prompt.meta["range"]]
        assert all(low <= number <= high for number in numbers) and numbers == sorted(set(numbers))
        assert suite.windows[prompt.id] == Kind(prompt.meta["kind"]).window(tuple(map(float, numbers)))
        assert prompt.target_words == sum(numbers) / len(numbers)
        assert language(prompt) == ("en" if prompt.request.isascii() else "zh")
    assert longen(LonGenConfig()) == suite and "our own" in suite.source


@pytest.mark.parametrize(("kind", "read"), [
    ("about", Kind.ABOUT), ("Range", Kind.RANGE), (" above ", Kind.ABOVE), ("大约", Kind.ABOUT), ("区间", Kind.RANGE),
    ("大于", Kind.ABOVE), ("小于", Kind.BELOW), ("不超过", Kind.BELOW),
])
def test_kinds_by_their_names_in_two_languages(kind: str, read: Kind) -> None:
    assert Kind.read(kind) is read


def test_the_published_form_is_read_and_scored(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"language": "zh", "type": "below", "constraint": "小于8字", "query": "写一句话。"},
            ROW | {"type": "range", "constraint": "4-6 words", "query": "Write a line."}]
    suite = suite_of(tmp_path, *rows)
    assert [(prompt.id, prompt.target_words) for prompt in suite.prompts] == [
        ("longen-1", 2000), ("longen-2", 8), ("longen-3", 5)]
    texts = ["word " * 1600, "天下雨了，真的。", "one two 3 four five six."]
    measured = measure(suite, answers_of(suite.prompts, texts), grading(lambda prompt: verdict([2, 3, 4, 2, 3, 4])))
    assert [row.group for row in measured] == ["about", "below", "range"]
    assert [row.values["window_score"] for row in measured] == [100, 100, 100]
    assert [row.details["words_longen"] for row in measured] == [1600, 8, 6]
    assert [row.values["window_score_words"] for row in measured] == [100, 100, 100]
    assert measured[1].values["words"] == 6, "punctuation is no word to LongBench-Write"
    assert measured[1].details["window"] == [4, 8]
    assert all(row.answer.scores.length is None for row in measured), "S_l is another suite's score"
    scores = scores_of(suite, {"model": measured})
    assert scores.models["model"]["quality"].mean == 50
    assert scores.groups["model"]["above"]["window_score"].n == 0
    assert any("seven dimensions" in note for note in suite.notes)


def test_the_two_counts_give_two_scores_and_a_refusal_none(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, ROW | {"constraint": "10"}, ROW | {"constraint": "10", "query": "Again."})
    row, refused = measure(suite, answers_of(suite.prompts, ["a 1 2 3 4 5 6", None]))
    assert row.values["window_score"] == pytest.approx(75) and row.values["window_score_words"] == 0
    assert refused.unscored["window_score"] == refused.unscored["window_score_words"] == "refused"
    assert refused.details == {}


def test_tasks_of_one_language(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, ROW, ROW | {"language": "中文", "query": "Write of salt."},
                     {key: value for key, value in ROW.items() if key != "language"} | {"query": "写一篇文章"},
                     language="zh")
    assert [prompt.id for prompt in suite.prompts] == ["longen-2", "longen-3"]


@pytest.mark.parametrize(("change", "cause"), [
    ({"query": ""}, "there is no query"), ({"query": 5}, "there is no query"), ({"type": "roughly"}, "'roughly'"),
    ({"type": None}, "there is no type"), ({"constraint": None}, "there is no constraint"),
    ({"constraint": "long"}, "found 0"), ({"constraint": "2000-3000"}, "found 2"), ({"constraint": True}, "not bool"),
    ({"constraint": {"low": 1}}, "not dict"), ({"constraint": 0}, "above 0"), ({"constraint": -5}, "above 0"),
    ({"type": "range"}, "found 1"), ({"type": "range", "constraint": "4000-2000"}, "the smaller one first"),
    ({"language": "fr"}, "neither en nor zh"),
])
def test_a_row_that_cannot_be_read_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    with pytest.raises(DataError, match=re.escape(cause)) as caught:
        suite_of(tmp_path, ROW, ROW | change)
    assert str(caught.value.where).endswith("rows.jsonl:2")


def test_an_empty_file_and_filters_that_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tasks in it"):
        suite_of(tmp_path)
    with pytest.raises(DataError, match="none of the suite's 1 tasks is left"):
        suite_of(tmp_path, ROW, language="zh")
