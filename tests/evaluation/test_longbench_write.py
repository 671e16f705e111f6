import asyncio
import random
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from function_llm import FunctionLLM
from length_cases import answers_of, grading, judge_of, measure, scores_of, verdict, write_rows

from lpo.chat import load_chat_template
from lpo.errors import DataError
from lpo.eval_config import EvalConfig, LongBenchWriteConfig
from lpo.evaluation.answers import generate_answers
from lpo.evaluation.quality import Quality
from lpo.evaluation.suites.longbench_write import longbench_write
from lpo.llm.asking import Dialect
from lpo.llm.transformers import TransformersLLM
from lpo.records import Message, Prompt

ROWS = [
    {"prompt": "Write 100 words about rain.", "type": "News Report", "length": 100},
    {"prompt": "写一篇八百字的文章。", "type": "Popular Science", "length": 800},
    {"prompt": "Write 3000 words about tides.", "type": "Popular Science", "length": 3000},
    {"prompt": "Write 20000 words about salt.", "type": "Academic", "length": 20_000},
    {"prompt": "Write 25000 words about moss.", "type": "Academic", "length": 25_000},
]


def suite_of(tmp_path: Path, rows: list[Any] = ROWS, **settings: Any):
    return longbench_write(LongBenchWriteConfig(path=write_rows(tmp_path / "rows.jsonl", rows), **settings))


def prompts_of(targets: list[int]) -> list[Prompt]:
    return [Prompt(id=f"p{index}", prompt=(Message(role="user", content=f"Write about thing {index}."),),
                   target_words=target) for index, target in enumerate(targets)]


@pytest.mark.parametrize(("asked", "written", "score"), [
    # the published formula's test vectors
    (1000, 1000, 100), (1000, 2000, 66.67), (1000, 4000, 0), (1000, 800, 87.5), (1000, 500, 50), (1000, 333, 0),
    # worked out by hand: over by a third of itself costs a ninth, under by a third of itself a quarter
    (300, 400, 88.89), (300, 200, 75), (100, 250, 50), (100, 101, 99.67), (100, 40, 25), (2000, 7999, 0.02),
    (500, 0, 0), (500, 1, 0), (1, 1, 100), (20_000, 8000, 25),
])
def test_the_length_score_by_hand(tmp_path: Path, asked: int, written: int, score: float) -> None:
    [row] = measure(suite_of(tmp_path), answers_of(prompts_of([asked]), ["word " * written]))
    assert row.values["length_score"] == pytest.approx(score, abs=0.005)
    assert row.values["words"] == written


def some_text(rng: random.Random) -> str:
    """Words, Chinese characters, digits, kana and accents in any mixture."""
    pieces = ["rain", "Don't", "well-known", "1984", "3.14", "雨", "山川", "カナ", "naïve", "слово", ".", "\n", "x_y",
              "a雨"]
    return " ".join(rng.choice(pieces) for _ in range(rng.randrange(1, 60)))


def recount(text: str) -> int:
    """Words as published, without the regular expressions of the code under test."""
    runs = ["".join(run) for of_word, run in groupby(text, lambda char: char.isalnum() or char == "_") if of_word]
    words = sum(run.isascii() and run.isalpha() for run in runs)
    return words + sum(0x4E00 <= ord(char) <= 0x9FFF for char in text)


def test_a_thousand_random_answers_agree_with_a_plain_recomputation(tmp_path: Path) -> None:
    rng = random.Random(5)
    targets = [rng.choice([rng.randrange(1, 60), rng.randrange(1, 600), rng.randrange(1, 25_000)]) for _ in range(1000)]
    texts = [some_text(rng) for _ in targets]
    grades = {f"thing {index}.": [rng.randrange(1, 6) for _ in Quality] for index in range(1000)}
    bad = {f"thing {index}." for index in range(0, 1000, 17)}

    def reply(prompt: str) -> str:
        name = re.search(r"thing \d+\.", prompt)
        assert name is not None
        return "I would rather not." if name[0] in bad else verdict(grades[name[0]])

    suite = suite_of(tmp_path)
    rows = measure(suite, answers_of(prompts_of(targets), texts), grading(reply))
    found = scores_of(suite, {"model": rows})

    lengths: list[Fraction] = []
    for target, text in zip(targets, texts, strict=True):
        x, y = Fraction(target), Fraction(recount(text))
        lengths.append(Fraction(0) if y == 0 else 100 * max(Fraction(0), 1 - ((y / x - 1) / 3 if y > x
                                                                             else (x / y - 1) / 2)))
    for row, score in zip(rows, lengths, strict=True):
        assert row.values["length_score"] == pytest.approx(float(score))
    model = found.models["model"]
    assert model["length_score"].mean == pytest.approx(float(sum(lengths) / 1000))

    kept = [index for index in range(1000) if f"thing {index}." not in bad]
    means = [sum(grades[f"thing {index}."][place] for index in kept) / len(kept) for place in range(6)]
    for one, mean in zip(Quality, means, strict=True):
        assert model[one.value].mean == pytest.approx((mean - 1) * 25)
    s_q = sum((mean - 1) * 25 for mean in means) / 6
    assert model["quality"].mean == pytest.approx(s_q)
    assert (model["quality"].n, model["quality"].unscored) == (1000 - len(bad), len(bad))
    assert found.unscored["model"]["quality"] == {"unparsable": len(bad)}
    both = sum(float(lengths[index]) for index in kept) / len(kept)
    assert model["mean_score"].mean == pytest.approx((both + s_q) / 2)

    edges = [0, 500, 2000, 4000, 20_001]
    for name, low, end in zip(suite.groups, edges, edges[1:], strict=False):
        inside = [score for score, target in zip(lengths, targets, strict=True) if low <= target < end]
        group = found.groups["model"][name]["length_score"]
        assert group.n == len(inside) > 0
        assert group.mean == pytest.approx(float(sum(inside) / len(inside)))


def test_both_word_counts_stand_side_by_side(tmp_path: Path) -> None:
    text = "In 1984, 3 naïve men wrote 山川 and カナ."
    [row] = measure(suite_of(tmp_path), answers_of(prompts_of([10]), [text]))
    assert (row.values["words"], row.values["words_all"]) == (6, 11)  # In men wrote and 山 川; with 1984 3 naïve カ ナ


def test_the_published_file_s_columns_and_buckets(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    assert [prompt.target_words for prompt in suite.prompts] == [100, 800, 3000, 20_000, 25_000]
    assert suite.judgements(5) == 5
    rows = measure(suite, answers_of(suite.prompts, ["word"] * 5))
    assert [row.group for row in rows] == [*suite.groups, None]
    assert rows[0].answer.kind == "News Report"
    assert suite.notes == (
        "prompts that ask for more than 20,000 words: 1; they count in the whole and stand in no group",)


def test_filters_say_that_published_scores_are_of_all_prompts(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, language="en", max_words=3000, limit=2)
    assert [prompt.target_words for prompt in suite.prompts] == [100, 3000]
    assert suite.notes == (
        "2 of 5 tasks: language en, max_words 3000, limit 2; compare with scores of the same tasks only",)
    assert [prompt.target_words for prompt in suite_of(tmp_path, language="zh").prompts] == [800]
    with pytest.raises(DataError, match="none of the suite's 5 tasks is left"):
        suite_of(tmp_path, max_words=50)


def test_rows_that_cannot_be_used_and_prompts_without_a_length_are_named(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[0], {"prompt": ""}, {"prompt": "Write about fog."}]
    suite = suite_of(tmp_path, rows)
    assert suite.notes == (
        "rows of the file that cannot be used: 2, the first in line 2: the same prompt stands in line 1",
        "prompts that ask for no length: 1; they have no S_l and stand in no group")
    judge = grading(lambda prompt: verdict([5] * 6))
    found = measure(suite, answers_of(suite.prompts, ["word", "word"]), judge)
    assert found[1].unscored == {"length_score": "no_target", "mean_score": "no_target"}
    assert (found[1].values["quality"], found[1].group) == (100, None)


def test_without_a_judge_its_scores_are_absent_and_nothing_counts_as_unscored(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    found = scores_of(suite, {"model": measure(suite, answers_of(suite.prompts, ["word " * 90] * 5))})
    assert set(found.models["model"]) == {"length_score", "repetition", "ended", "words", "words_all"}
    assert found.unscored == {"model": {}}


def test_a_refused_answer_has_no_values_and_the_judge_is_not_asked(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    asked: list[str] = []

    def reply(prompt: str) -> str:
        asked.append(prompt)
        return verdict([3] * 6)

    rows = measure(suite, answers_of(suite.prompts, [None, "", "word", "word", "word"]), grading(reply))
    assert len(asked) == 3, "neither for the refused answer nor for the empty one"
    assert set(rows[0].values.values()) == {None} and set(rows[0].unscored.values()) == {"refused"}
    assert rows[1].values["length_score"] == 0 and rows[1].unscored["quality"] == "empty"
    scores = scores_of(suite, {"model": rows})
    assert scores.unscored["model"]["quality"] == {"refused": 1, "empty": 1}
    assert scores.models["model"]["length_score"].unscored == 1


def test_a_model_s_answers_through_to_paired_differences(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    rows = {}
    for name, share in (("base", 0.5), ("trained", 1.0)):
        def write(request: Any, share: float = share) -> str:
            asked = re.search(r"\d+", request.context.prompt[0].content)
            return "word " * int((int(asked[0]) if asked else 800) * share)

        answers = asyncio.run(generate_answers(FunctionLLM(write=write), suite.prompts, EvalConfig(), seed=0,
                                               model_name=name))
        rows[name] = measure(suite, answers, grading(lambda prompt: verdict([4] * 6)))
    found = scores_of(suite, rows)
    assert found.models["base"]["length_score"].mean == pytest.approx(50)
    assert found.difference["length_score"].mean == pytest.approx(50)
    assert found.difference["mean_score"].mean == pytest.approx(25)
    assert found.difference["quality"].mean == 0
    assert found.group_difference["[2k, 4k)"]["length_score"].mean == pytest.approx(50)


@pytest.mark.parametrize("dialect", [Dialect.TEXT, Dialect.CHAT])
def test_a_real_model_judges_by_its_next_token_probabilities(
    tmp_path: Path, tiny_tokenizer: Any, tiny_model: Callable[..., Any], dialect: Dialect,
) -> None:
    llm = TransformersLLM(tiny_model("llama", seed=1, vocab_size=480, max_position_embeddings=4096), tiny_tokenizer,
                          template=load_chat_template("plain"), batch_size=6)
    suite = suite_of(tmp_path)
    rows = measure(suite, answers_of(suite.prompts[:2], ["It rained.", "雨"]), judge_of(llm, dialect))
    for row in rows:
        grades = row.details["quality"]["scores"]
        assert list(grades) == list(Quality) and all(1 < grade < 5 for grade in grades.values())
        assert row.values["quality"] == pytest.approx(sum((grade - 1) * 25 for grade in grades.values()) / 6)
    assert rows[0].details != rows[1].details
