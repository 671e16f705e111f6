"""The pure parts of the report: charts, word comparison, what is said of the numbers."""

import random
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import HARBOUR, HARBOUR_BETTER, TEA, TEA_BETTER, make_run

from lpo.report.charts import (
    IntervalRow,
    Series,
    bar_chart,
    difference_mark,
    interval_chart,
    length_bar,
    line_chart,
    nice_ticks,
    thin,
)
from lpo.report.data import Event, Interval, merge_events, read_run
from lpo.report.entries import grade_distributions
from lpo.report.honesty import Weight, caveats
from lpo.report.scores import Direction, Verdict, points
from lpo.report.story import duration, summary
from lpo.report.training import falling_chosen
from lpo.report.wording import compare

NASTY = '"><script>alert(1)</script>&'
finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(finite, finite)
def test_ticks_enclose_the_values_in_equal_round_steps(one, other):
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 12
    steps = [after - before for before, after in pairwise(ticks)]
    assert max(steps) - min(steps) <= slack


def test_ticks_of_a_plain_range_are_the_ones_a_person_would_choose():
    assert nice_ticks(0, 100) == [0, 50, 100] or nice_ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert nice_ticks(0.12, 0.49) == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_thinning_keeps_the_ends_and_every_peak():
    rng = random.Random(1)
    line = [(float(step), rng.random()) for step in range(5000)]
    line[1234] = (1234.0, 9.0)
    line[4321] = (4321.0, -9.0)
    kept = thin(line)
    assert len(kept) <= 244
    assert kept[0] == line[0] and kept[-1] == line[-1] and line[1234] in kept and line[4321] in kept
    assert list(kept) == sorted(kept)


@pytest.mark.parametrize("chart", [
    line_chart("k", NASTY, NASTY, [Series(NASTY, "trained", ((1.0, 2.0), (2.0, 3.0)))], reference=0.0),
    line_chart("k", NASTY, NASTY, [Series(NASTY, "trained", ((7.0, 0.0),))]),
    line_chart("k", NASTY, NASTY, [Series(NASTY, "trained", tuple((float(x), 1e-9 * x) for x in range(3)))]),
    interval_chart("k", NASTY, NASTY, [IntervalRow(NASTY, "base", 2.0, (1.0, 2.0, 3.0)),
                                       IntervalRow("b", "base", None, None), IntervalRow("c", "base", 7.0, None)],
                   write=points),
    interval_chart("k", NASTY, NASTY, [IntervalRow("b", "base", None, None)], write=points),
    bar_chart("k", NASTY, NASTY, [(NASTY, 3.0), ("b", 0.0)], axis_name=NASTY),
    bar_chart("k", NASTY, NASTY, [], axis_name=NASTY),
    difference_mark("k", NASTY, (-1.0, 0.0, 2.0), "better"),
    difference_mark("k", NASTY, (0.0, 0.0, 0.0), "open"),
    length_bar("k", 0, None, "base"),
    length_bar("k", 700, 500, "base"),
])
def test_charts_are_well_formed_and_escape_what_they_are_given(chart):
    root = ElementTree.fromstring(str(chart))
    assert root.tag == "svg" and "script" not in {element.tag for element in root.iter()}
    assert root.find("desc") is not None
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert -0.01 <= float(element.attrib.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert -0.01 <= float(element.attrib.get(name, 0)) <= height


def test_an_interval_is_drawn_where_its_numbers_are():
    row = IntervalRow("a", "base", 50.0, (25.0, 50.0, 75.0))
    root = ElementTree.fromstring(str(interval_chart("k", "t", "d", [row], write=points, span=(0.0, 100.0))))
    whisker = next(element for element in root.iter() if "whisker" in element.attrib.get("class", ""))
    dot = next(element for element in root.iter() if element.tag == "circle")
    ends = [float(element.attrib["x1"]) for element in root.iter() if element.attrib.get("class") == "grid"]
    share = [(float(value) - min(ends)) / (max(ends) - min(ends))
             for value in (whisker.attrib["x1"], dot.attrib["cx"], whisker.attrib["x2"])]
    assert share == pytest.approx([0.25, 0.5, 0.75], abs=1e-3)


@given(st.text(max_size=200), st.text(max_size=200))
def test_marked_parts_give_the_texts_back_and_shared_parts_are_equal(chosen, rejected):
    marked = compare(chosen, rejected)
    assert "".join(marked.chosen) == chosen and "".join(marked.rejected) == rejected
    assert marked.chosen[1::2] == marked.rejected[1::2]
    assert 0 <= marked.shared <= 1


def test_shared_passages_are_found_and_chance_words_are_not():
    marked = compare(f"{HARBOUR}{HARBOUR_BETTER}", f"{HARBOUR}She is sad.")
    assert HARBOUR.strip() in marked.chosen[1] and marked.shared > 0.5
    apart = compare("The cat sat on the mat and looked at the sea.", "A ship is on its way to the north of the bay.")
    assert apart.shared == 0
    middle = compare("One. The old man and the sea went home. Two!", "Then the old man and the sea went home? Four")
    assert "old man and the sea went home" in middle.chosen[1]
    chinese = compare(TEA + TEA_BETTER, TEA + "茶很好。")
    assert chinese.chosen[1] == TEA


def test_equal_texts_are_shared_throughout():
    assert compare("the same words", "the same words").shared == 1


def test_distributions_over_grades_are_found_wherever_a_judgement_holds_them():
    weights = {"accuracy": [0.1, 0.2, 0.3, 0.2, 0.2]}
    assert grade_distributions({"weights": weights, "grade_mass": {"accuracy": 1.0}}) == weights
    assert grade_distributions({"json": {"weight": 1.0, "weights": weights}, "length": {"weight": 0.5}}) == weights
    assert grade_distributions({"written": 3, "note": "weights"}) == {}


def events(name: str, values: list[float]) -> tuple[Event, ...]:
    return tuple(Event(step, {name: value}) for step, value in enumerate(values, start=1))


def test_a_steady_fall_of_the_chosen_sides_is_warned_of():
    rng = random.Random(2)
    falling = [-0.03 * step + rng.gauss(0, 0.05) for step in range(40)]
    warning = falling_chosen(events("rewards/chosen", falling))
    assert warning is not None and "less likely" in warning and "−" in warning
    assert falling_chosen(events("logps/chosen", [-200 - step for step in range(40)])) is not None


@pytest.mark.parametrize("values", [
    [0.02 * step for step in range(40)],
    [0.0] * 40,
    [-0.1, -0.2, -0.3],
    [random.Random(4).gauss(0, 1) for _ in range(60)],
    [],
])
def test_a_rise_noise_or_too_few_points_are_not_warned_of(values):
    assert falling_chosen(events("rewards/chosen", values)) is None


def test_the_reward_decides_over_log_probs_that_follow_lengths():
    both = tuple(Event(step, {"rewards/chosen": 0.01 * step, "logps/chosen": -100.0 - 5 * step}) for step in range(20))
    assert falling_chosen(both) is None


def test_a_step_logged_again_after_a_resume_keeps_the_last_values():
    merged = merge_events([{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}, {"step": 2, "loss": 0.5},
                           {"step": 2, "eval_loss": 0.65}, {"epoch": 1.0}])
    assert [(event.step, dict(event.values)) for event in merged] == [
        (1, {"step": 1.0, "loss": 0.7}), (2, {"step": 2.0, "loss": 0.5, "eval_loss": 0.65})]


@pytest.mark.parametrize(("direction", "interval", "verdict"), [
    (Direction.UP, (1.0, 2.0, 3.0), Verdict.BETTER),
    (Direction.UP, (-3.0, -2.0, -1.0), Verdict.WORSE),
    (Direction.DOWN, (-3.0, -2.0, -1.0), Verdict.BETTER),
    (Direction.DOWN, (1.0, 2.0, 3.0), Verdict.WORSE),
    (Direction.NEITHER, (1.0, 2.0, 3.0), Verdict.CHANGED),
    (Direction.UP, (-1.0, 2.0, 3.0), Verdict.OPEN),
    (Direction.UP, (0.0, 2.0, 3.0), Verdict.OPEN),
    (Direction.UP, (None, 2.0, None), Verdict.NO_INTERVAL),
    (Direction.DOWN, (None, -2.0, None), Verdict.NO_INTERVAL),
    (Direction.UP, (None, None, None), Verdict.NOT_MEASURED),
])
def test_an_interval_allows_one_verdict(direction, interval, verdict):
    low, mean, high = interval
    assert direction.verdict(Interval(low=low, mean=mean, high=high, n=3)) is verdict


def said(folder, weight: Weight) -> str:
    return " ".join(caveat.text for caveat in caveats(read_run(folder)) if caveat.weight is weight)


def test_the_caveats_follow_from_the_data(tmp_path):
    warnings = said(make_run(tmp_path / "open"), Weight.WARNING)
    assert "covers zero: length score [−2, +15], judge [−0.01, +0.14]" in warnings
    assert "n = 8" in warnings and "also chose the training pairs" in warnings and "Kendall's τ 0.33" in warnings
    notes = said(tmp_path / "open", Weight.NOTE)
    assert "judge 1 (base)" in notes.lower() and "2 of 46 judgements" in notes and "uncommitted changes" in notes
    assert "gemma-3-270m is a small base model" in notes and "10 pairs" in notes and "31" in notes
    assert "Length score was part of the training reward" in notes
    assert "8 of 8 (base), 0 of 8 (trained)" in notes
    good = said(tmp_path / "open", Weight.GOOD)
    assert "On these 8 prompts the trained model is better" in good and "repetition" in good
    assert "None of the 8 held-out prompts" in good


def test_a_worse_model_is_called_worse(tmp_path):
    warnings = said(make_run(tmp_path / "worse", worse=True), Weight.WARNING)
    assert "On these 8 prompts the trained model is worse" in warnings and "length score [−15, −3.2]" in warnings


def test_without_intervals_nothing_is_called_better_or_worse(tmp_path):
    folder = make_run(tmp_path / "few", few=True)
    warnings = said(folder, Weight.WARNING)
    assert "On these 3 prompts the run shows nothing about a change" in warnings
    assert "length score from n = 3" in warnings and "judge from n = 2" in warnings
    assert "better" not in said(folder, Weight.GOOD) and "worse" not in warnings


def test_without_scores_nothing_is_claimed(tmp_path):
    folder = make_run(tmp_path / "built", stages=("build",))
    assert "There are no scores yet" in said(folder, Weight.NOTE)
    assert said(folder, Weight.GOOD) == ""
    assert summary(read_run(folder)) == "4 prompts → 12 layers → 10 pairs."


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (42.0, "42 s"), (412.3, "6 min 52 s"),
                                               (3599.9, "1 h 0 min"), (7325.0, "2 h 2 min")])
def test_durations_are_written_in_the_units_that_matter(seconds, text):
    assert duration(seconds) == text
