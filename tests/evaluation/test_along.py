import asyncio
import json
import math
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.config import SamplingConfig
from lpo.eval_config import AlongConfig
from lpo.evaluation.along import along_curves, along_row, measure_along, repetition_along
from lpo.evaluation.answers import Answer
from lpo.evaluation.judging import JudgeModel
from lpo.llm.asking import Dialect
from lpo.llm.base import Finish, Request
from lpo.reward import repeated_ngram_share
from lpo.segmentation.equal_parts import equal_parts
from lpo.templates import load_templates
from lpo.words import count_all_words, word_starts
from tests.function_llm import FunctionLLM

STORY = " ".join(f"On day {n} the keeper number{n} wrote letter{n} about storm{n}, and the gull{n} answered."
                 for n in range(60))


def answer(text: str, request: str = "Write about a keeper.", finish: Finish = Finish.STOP, name: str = "q0") -> Answer:
    return Answer(model="model", prompt_id=name, request=request, text=text, words=len(text.split()), finish=finish)


PIECES = st.lists(st.sampled_from([
    "The rain fell. ", "Dr. Smith said “no.” ", "word ", "words\n", "\n\n", "# Heading\n\n", "- item one\n",
    "雨落在港口上。", "海鸥", "snake_case ", "3.14, ", "don’t ",
    "...", "？！", "\r", "\ud800", "\0", "a" * 50, "```\ncode. x\n```\n", " ",
]), min_size=5, max_size=120)


@settings(max_examples=150, deadline=None)
@given(PIECES, st.integers(2, 8))
def test_parts_join_to_the_text_none_is_empty_and_each_cut_is_near_its_place(pieces, count):
    text = "".join(pieces)
    words = count_all_words(text)
    if words < 4 * count:
        with pytest.raises(ValueError, match="too few"):
            equal_parts(text, count)
        return
    parts = equal_parts(text, count)
    assert "".join(parts) == text and len(parts) == count
    starts, each = word_starts(text), words / count
    cuts = [len("".join(parts[:index])) for index in range(count + 1)]
    for start, end in pairwise(cuts):
        assert 1 <= sum(start <= word < end for word in starts) <= 2 * each + 1


@pytest.mark.parametrize("count", [2, 5, 9])
def test_cuts_are_the_sentence_ends_nearest_to_the_equal_cuts(count):
    """Against a plain search: in this text a sentence ends exactly at every full stop."""
    parts = equal_parts(STORY, count)
    starts, ends = word_starts(STORY), [match.end() for match in re.finditer(r"\.", STORY)]
    cuts = [len("".join(parts[:index])) for index in range(1, count)]
    for index, cut in enumerate(cuts, start=1):
        place = starts[round(index * len(starts) / count)]
        assert cut in ends and abs(cut - place) == min(abs(end - place) for end in ends)


def test_chinese_text_is_cut_behind_its_full_stops():
    text = "".join(f"守灯人在第{n}天写了一封很长的信。海鸥在港口上空飞过！" for n in range(40))
    parts = equal_parts(text, 5)
    assert "".join(parts) == text and all(part[-1] in "。！" for part in parts)
    sizes = [count_all_words(part) for part in parts]
    assert max(sizes) - min(sizes) <= 2 * 16


def test_without_sentences_cuts_fall_at_line_ends_and_without_lines_between_words():
    poem = "".join(f"a line of verse {n} with no stop\n" for n in range(40))
    assert all(part.endswith("\n") for part in equal_parts(poem, 5))
    words = " ".join(f"word{n}" for n in range(100))
    parts = equal_parts(words, 5)
    assert [len(part.split()) for part in parts] == [20] * 5 and parts[1].startswith("word20 ")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["the rain fell ", "on the harbour. ", "雨落在港口上。", "gulls "]), max_size=60),
       st.lists(st.integers(0, 60), max_size=5))
def test_repetition_of_the_parts_makes_up_that_of_the_whole(pieces, places):
    cuts = sorted({0, len(pieces), *(place for place in places if place < len(pieces))})
    parts = ["".join(pieces[start:end]) for start, end in pairwise(cuts)]
    found = repetition_along(parts)
    units = [re.findall(r"[\u4e00-\u9fff]|[a-z]+", "".join(parts[:index + 1])) for index in range(len(parts))]
    ngrams = [max(0, len(until) - 3) for until in units]
    repeated = [(share or 0) * (total - before)
                for share, before, total in zip(found, [0, *ngrams], ngrams, strict=False)]
    whole = repeated_ngram_share("".join(parts))
    assert sum(repeated) == pytest.approx(whole * (ngrams[-1] if ngrams else 0))


def test_repetition_by_hand():
    assert repetition_along(["one two three four five.", " One two three four six"]) == [0, pytest.approx(1 / 5)]
    assert repetition_along(["a b c", " d", " a b c d", ""]) == [None, 0, pytest.approx(1 / 4), None]


def test_drift_by_hand():
    """Two parts of 20 words: content words keeper, lamp against sailor, whale; function words do not count."""
    text = "The keeper and the lamp. " * 4 + "The sailor and the whale. " * 4
    first, second = along_row(answer(text, "keeper of the lamp, gardening"), 2).parts
    assert (first.words, second.words) == (20, 20)
    assert first.drift == pytest.approx(1 - 2 / math.sqrt(2 * 3))
    assert (second.drift, first.drift_from_start, second.drift_from_start) == (1, pytest.approx(0, abs=1e-9), 1)
    inflected, _ = along_row(answer(text.replace("lamp", "gardens"), "gardening"), 2).parts
    assert inflected.drift == pytest.approx(1 - 1 / math.sqrt(2)), "garden is the stem of both"
    text = "The keeper keeper lamp lamp lamp. " * 5 + "So it was, and so it is. " * 5
    unequal, nothing = along_row(answer(text, "lamp"), 2).parts
    weights = (1 + math.log(10), 1 + math.log(15))
    assert unequal.drift == pytest.approx(1 - weights[1] / math.hypot(*weights))
    assert nothing.drift is None, "there are function words only"


def test_a_text_that_loses_its_subject_and_loops_shows_it_along_the_way():
    keepers = [f"The keeper climbed the lighthouse stairs on evening {n} and lit lamp {n} above harbour {n}."
               for n in range(12)]
    loop = ["Money makes people happy because money is what people want."] * 18
    row = along_row(answer(" ".join(keepers + loop), "A story of a lighthouse keeper, his lamp and the harbour"), 3)
    before, _, after = row.parts
    assert before.drift is not None and after.drift is not None and after.drift > before.drift + 0.3
    assert before.repetition is not None and after.repetition is not None
    assert after.repetition > 0.9 > 0.3 > before.repetition
    chinese = along_row(answer("守灯人每天点亮灯塔的灯。" * 6 + "股票市场今天上涨很多了。" * 6,
                               "写一个守灯人和灯塔的故事"), 2)
    assert chinese.parts[0].drift is not None and chinese.parts[0].drift < 0.7
    assert chinese.parts[1].drift == 1


def grades(value: int) -> str:
    return json.dumps({"analysis": "So it is.", "relevance": value, "accuracy": value, "coherence": value,
                       "clarity": value, "breadth_depth": value, "reading_experience": value})


def judge(write) -> JudgeModel:
    return JudgeModel(FunctionLLM(write=write), Dialect.JSON, load_templates(), max_tokens=200,
                      sampling=SamplingConfig(temperature=0.0), name="test")


def asked(request: Request) -> str:
    assert not isinstance(request.context.prompt, str)
    return request.context.prompt[-1].content


def test_each_part_is_graded_in_its_place_and_failures_are_counted():
    parts = [f"Part {name} has a sentence. " + "It has many words of no weight at all in it. " * 4 for name in "abc"]
    text = "".join(parts)
    cut = equal_parts(text, 3)

    def write(request: Request) -> str:
        seen = [index for index, part in enumerate(cut) if part in asked(request)]
        assert seen == list(range(len(seen))), "a part stands behind what comes before it"
        return "no JSON" if len(seen) == 2 else grades(5 if len(seen) == 1 else 2)

    done: list[int] = []
    config = AlongConfig(parts=3, judge=True)
    rows = asyncio.run(measure_along([answer(text), answer("Too short."), answer("", finish=Finish.REFUSED)],
                                     judge(write), config, on_done=lambda: done.append(1)))
    assert len(done) == 3
    assert [row.left_out for row in rows] == [None, "short", "refused"]
    graded = [part.judgement for part in rows[0].parts]
    assert [one and one.overall for one in graded] == [100, None, 25]
    assert graded[1] is not None and graded[1].unscored == "unparsable"
    curves = {curve.key: curve for curve in along_curves(rows, config, seed=0, resamples=100)}
    assert set(curves) == {"along_repetition", "along_drift", "along_drift_from_start", "along_quality"}
    quality = curves["along_quality"].points
    assert [(point.y.mean, point.y.n, point.y.unscored) for point in quality] == [(100, 1, 2), (None, 0, 3), (25, 1, 2)]


def test_curves_are_means_over_answers_at_the_middle_of_each_part():
    texts = [" ".join(f"On day {n} keeper{n} of house {house} wrote letter{n}." for n in range(40))
             for house in range(8)]
    config = AlongConfig(parts=4)
    rows = asyncio.run(measure_along([answer(text, name=f"q{at}") for at, text in enumerate(texts)], None, config))
    curves = {curve.key: curve for curve in along_curves(rows, config, seed=0, resamples=200)}
    assert "along_quality" not in curves
    drift = curves["along_drift"]
    assert [point.x for point in drift.points] == [12.5, 37.5, 62.5, 87.5]
    assert [point.x for point in curves["along_drift_from_start"].points] == [37.5, 62.5, 87.5]
    for index, point in enumerate(drift.points):
        values = [row.parts[index].drift or 0 for row in rows]
        assert point.y.mean == pytest.approx(sum(values) / 8) and point.y.n == 8
        assert point.y.low is not None and point.y.low <= sum(values) / 8
    assert rows == [type(row).model_validate(json.loads(json.dumps(row.to_json()))) for row in rows]
