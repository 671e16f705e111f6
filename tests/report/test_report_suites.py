"""What the page shows of suites: the numbers of the files, what groups decide, and charts drawn where they are."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_suites import make_measured_run, make_model_run
from test_report_page import Page, page_of

from lpo.report.charts import IntervalRow, interval_chart
from lpo.report.data import Interval, read_run
from lpo.report.honesty import Weight, caveats
from lpo.report.scores import Verdict, measure_of, signed, suites_of, unit
from lpo.report.story import summary
from lpo.report.suites import decided_groups, groups_of, score_section
from lpo.report.suites_charts import (
    Cloud,
    CurvePoint,
    CurveSeries,
    Shape,
    curve_chart,
    log_ticks,
    scatter_chart,
    share_bar,
)
from lpo.report.suites_data import MetricData, SuiteData
from lpo.report.suites_pairwise import preferred
from lpo.storage import read_jsonl

NASTY = '"><script>alert(1)</script>&'


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return make_measured_run(tmp_path_factory.mktemp("runs") / "suites")


@pytest.fixture(scope="module")
def page(run_dir) -> Page:
    return page_of(run_dir)


def stored(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def cells(page: Page, label: str) -> list[str]:
    """The numbers in a column of the tables of scores."""
    tags = [(tag, attributes.get("data-label")) for tag, attributes in page.elements]
    return [text for before, (tag, _), text in zip(tags, tags[1:], page.contents[1:], strict=False)
            if tag == "b" and before == ("td", label)]


def test_every_suite_has_its_table_with_the_means_of_its_answers(page, run_dir):
    titles = [text for attributes, text in page.of("h3") if (attributes.get("id") or "").startswith("suite-")]
    assert titles == ["Held-out prompts", "LongBench-Write", "LongWrite-Ruler"]
    shown = cells(page, "Base")
    for suite, keys in (("longbench_write", ("quality", "length_score", "relevance")), ("longwrite_ruler", ("words",))):
        rows = read_jsonl(run_dir / "eval" / suite / "answers.base.jsonl")
        for key in keys:
            mean = fmean(row["values"][key] for row in rows if row["values"][key] is not None)
            assert (f"{mean:,.0f}" if key == "words" else f"{mean:.1f}".removesuffix(".0")) in shown, (suite, key)


def test_differences_stand_with_interval_verdict_n_and_unscored(page, run_dir):
    difference = stored(run_dir)["suites"]["longbench_write"]["difference"]["quality"]
    low, high = (f"{difference[end]:+.1f}".removesuffix(".0").replace("-", "−") for end in ("low", "high"))
    assert f"[{low}, {high}]" in page.text
    assert "22 / 23 / 22" in page.text and "2 / 1" in page.text
    verdicts = [text for attributes, text in page.of("span") if "verdict" in (attributes.get("class") or "").split()]
    assert {"better", "worse", "changed", "covers zero"} <= set(verdicts)


def test_why_answers_were_not_scored_is_counted_as_in_the_files(page, run_dir):
    rows = read_jsonl(run_dir / "eval" / "longbench_write" / "answers.base.jsonl")
    reasons = Counter(row["unscored"]["quality"] for row in rows if "quality" in row["unscored"])
    assert reasons == {"unparsable": 1, "refused": 1}
    assert {f"S_q, base: {reason}" for reason in reasons} <= {text.strip() for _, text in page.of("li")}
    section = score_section(read_run(run_dir))
    assert section is not None
    counted = {(model, value, reason): count for suite in section.suites if suite.key == "longbench_write"
               for model, value, reason, count in suite.unscored}
    assert {reason: counted["Base", "S_q", reason] for reason in reasons} == reasons


def test_settings_judge_notes_and_versions_are_said(page):
    for said in ("Answers drawn with: temperature 0.5, max tokens 4096, seed 7.", "Judge: judge-model, json.",
                 "2 prompts ask for no length", "Measured with lpo 0.1.0, torch 2.13.0.", "arXiv 2408.07055"):
        assert said in page.text, said


def test_each_suite_has_texts_side_by_side_with_their_scores(page, run_dir):
    places = [attributes["id"] for attributes, _ in page.of("div") if (attributes.get("id") or "").startswith("texts-")]
    assert places == ["texts-held_out", "texts-longbench_write", "texts-longwrite_ruler"]
    row = read_jsonl(run_dir / "eval" / "longbench_write" / "answers.trained.jsonl")[0]
    assert any(text == row["answer"]["text"] for _, text in page.of("div"))
    assert f"S_q {row['values']['quality']:.1f}".removesuffix(".0") in page.text
    assert "S_q no score: unparsable" in page.text


def test_curves_of_both_models_stand_in_one_chart_and_in_a_table(page, run_dir):
    curves = stored(run_dir)["suites"]["longwrite_ruler"]["curves"]
    titles = [text for attributes, text in page.of("title")]
    assert titles.count("Longest answer") == 1 and titles.count("Quality along the text") == 1
    table = [text for _, text in page.of("td")]
    for model in ("base", "trained"):
        longest = next(curve for curve in curves[model] if curve["key"] == "longest")
        for point in longest["points"]:
            assert f"{point['y']['mean']:,.0f}" in table


def test_preferences_and_general_abilities_are_shown(page, run_dir):
    pairwise = stored(run_dir)["pairwise"]["longbench_write"]
    assert pairwise["win_rate"]["mean"] == pytest.approx(100 * 12.5 / 21)
    assert f"{pairwise['win_rate']['mean']:.1f} %" in page.text
    assert "11 won, 3 tied, 7 lost; no verdict on 2 (unparsable)." in page.text
    assert "which model the judge prefers is open" in page.text
    for said in ("gsm8k", "exact match, 5-shot", "4.2 %", "± 1 %", "−2.2 %", "[−3.8 %, −0.6 %]", "word perplexity",
                 "Only the first 500 documents", "Tasks inside groups (1)"):
        assert said in page.text, said
    section = score_section(read_run(run_dir))
    assert section is not None and section.guard is not None
    assert [(row.task, row.verdict) for row in (*section.guard.rows, *section.guard.subtasks)] == [
        ("arc_easy", "covers zero"), ("gsm8k", "worse"), ("wikitext", "no interval"), ("mmlu_law", "better")]


def test_what_the_page_says_before_its_numbers_covers_every_suite(run_dir):
    said = " ".join(caveat.text for caveat in caveats(read_run(run_dir)))
    assert "On 24 prompts of LongBench-Write the trained model is better" in said
    assert "n = 24: so few prompts of LongBench-Write" in said and "n = 8: so few held-out prompts" in said
    assert "None of the 64 measured prompts stands in the build set." in said
    assert summary(read_run(run_dir)).split("; ")[-1].startswith("S_l ")


def test_ids_are_unique_and_everything_closes(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and page.unbalanced == []
    for _, attributes in page.elements:
        target = attributes.get("href") or ""
        assert not target.startswith("#") or target[1:] in ids


def test_one_model_alone_makes_a_page_without_training_and_pairs(tmp_path):
    folder = make_model_run(tmp_path / "model")
    page = page_of(folder)
    assert [text for _, text in page.of("h2")] == ["The run", "Scores", "Texts", "Files"]
    assert "Report of a model that was measured" in page.text
    assert f"lpo eval {folder}" in page.text and "-again" not in page.text and "Pairs by" not in page.text
    files = [text for attributes, text in page.of("a") if (attributes.get("href") or "").startswith("eval")]
    assert files == ["eval/answers.model.jsonl", "eval/longbench_write", "eval/longwrite_ruler"]
    assert "trees.jsonl" not in page.text and "arXiv 2502.02095" not in page.text
    headers = [" ".join(text.split()) for attributes, text in page.of("th") if attributes.get("role") == "columnheader"]
    assert headers == ["Measure", "Model", "n", "Unscored"] * 3
    for absent in ("training", "pairs have been built", "base model and the trained", "not measured"):
        assert absent not in page.text.lower().replace("training reward", ""), absent
    assert re.search(r"S_l [\d.]+, 95 % interval \[[\d.]+, [\d.]+\]", summary(read_run(folder)))
    said = [caveat for caveat in caveats(read_run(folder)) if caveat.weight is not Weight.NOTE]
    assert [caveat.text.split(":")[0] for caveat in said] == ["n = 8", "n = 24"]


def interval(mean: float | None, low: float | None, high: float | None, n: int) -> Interval:
    return Interval(mean=mean, low=low, high=high, n=n)


def suite_with(difference: Interval | None, n: int) -> SuiteData:
    """A suite of one score and one group, of one model where there is no difference."""
    score = interval(50.0, *((40.0, 60.0) if n >= 6 else (None, None)), n)
    models = ("base", "trained") if difference else ("model",)
    return SuiteData(
        suite="s", title="S", metrics=(MetricData(key="m", name="M", meaning="m"),), group_name="words asked",
        models={model: {"m": score} for model in models}, difference={"m": difference} if difference else {},
        groups={model: {"[2k, 4k)": {"m": score}} for model in models},
        group_difference={"[2k, 4k)": {"m": difference}} if difference else {})


@pytest.mark.parametrize(("difference", "n", "expected"), [
    (interval(2.0, -1.0, 5.0, 12), 12, ["In the group [2k, 4k) (words asked), 12 prompts decide: the interval of the "
                                        "difference in M covers zero, [−1, +5]."]),
    (interval(2.0, 1.0, 5.0, 12), 12, []),
    (interval(-2.0, -5.0, -1.0, 12), 12, []),
    (interval(2.0, None, None, 1), 1, ["In the group [2k, 4k) (words asked), 1 prompt is too few for an interval of "
                                       "the difference in M: it decides nothing."]),
    (None, 12, []),
    (None, 3, ["In the group [2k, 4k) (words asked), 3 prompts are too few for an interval of M."]),
])
def test_what_a_group_does_not_decide_is_said_from_its_interval(difference, n, expected):
    suite = suite_with(difference, n)
    assert decided_groups(suite, [measure_of(metric) for metric in suite.metrics], groups_of(suite)) == expected


def test_groups_in_which_nothing_was_written_are_left_out(run_dir):
    run = read_run(run_dir)
    assert run.scores is not None
    bench = next(suite for suite in suites_of(run.scores) if suite.suite == "longbench_write")
    assert "[4k, 20k]" in bench.groups["base"] and groups_of(bench) == ("[0, 500)", "[500, 2k)", "[2k, 4k)")
    section = score_section(run)
    assert section is not None
    view = next(view for view in section.suites if view.key == "longbench_write")
    assert view.group_table is not None
    assert {row[0] for row in view.group_table.table} == {"[0, 500)", "[500, 2k)", "[2k, 4k)"}
    assert [figure.title for figure in view.group_figures] == [f"{name} by words asked" for name in ("S̄", "S_l", "S_q")]


@pytest.mark.parametrize(("low", "high", "said"), [
    (40.0, 60.0, "open"), (51.0, 70.0, "prefers the trained"), (10.0, 49.0, "prefers the base")])
def test_what_a_win_rate_shows_is_said_from_its_interval(low, high, said):
    assert said in preferred(interval((low + high) / 2, low, high, 20))
    assert "too few" in preferred(interval(50.0, None, None, 3))


def test_a_score_that_is_better_when_lower_is_read_so():
    measure = measure_of(MetricData(key="r", name="R", meaning="", better="down", unit="share"))
    assert measure.direction.verdict(interval(-0.1, -0.2, -0.05, 9)) is Verdict.BETTER
    assert measure.write(0.25) == "25\u202f%"


def test_what_rounds_to_nothing_has_no_sign():
    words = measure_of(MetricData(key="w", name="W", meaning="", unit="words"))
    points = measure_of(MetricData(key="p", name="P", meaning=""))
    for measure, value, text in ((words, -0.02, "0"), (words, 0.2, "+0.2"), (words, -1234.4, "−1,234"),
                                 (points, 0.04, "0"), (points, -0.04, "0"), (points, -0.06, "−0.1")):
        assert signed(measure, value) == text


def test_the_ticks_of_values_close_to_each_other_can_be_told_apart():
    rows = [IntervalRow("a", "base", 0.5131, None), IntervalRow("b", "trained", 0.51312, None)]
    chart = str(interval_chart("k", "t", "d", rows, write=unit))
    ticks = re.findall(r'class="tick"[^>]*>([\d.]+)<', chart)
    assert len(ticks) >= 2 and len(set(ticks)) == len(ticks)


# Charts

@given(st.floats(1e-3, 1e5), st.floats(1.0, 1e4))
def test_logarithmic_ticks_are_round_and_enclose_the_values(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert ticks[0] <= low * (1 + 1e-6) and ticks[-1] >= low * ratio * (1 - 1e-6)
    assert ticks == sorted(set(ticks)) and len(ticks) >= 2
    for tick in ticks:
        leading = tick / 10 ** math.floor(math.log10(tick) + 1e-9)
        assert min(abs(leading - factor) for factor in (1, 2, 5)) < 1e-6


def curve(*points: tuple[float, float, float | None, float | None], css: str = "base") -> CurveSeries:
    return CurveSeries(NASTY, css, tuple(CurvePoint(*point) for point in points))


@pytest.mark.parametrize("chart", [
    curve_chart("k", NASTY, NASTY, [curve((10, 1, 0, 2), (30, 2, 1, 3)), curve((10, 2, None, None))], x=NASTY, y=NASTY),
    curve_chart("k", NASTY, NASTY, [curve((10, 0, None, None))], x="x", y="y", reference=0.5),
    curve_chart("k", NASTY, NASTY, [curve((1000, 0, None, None), (30000, 12345, 1, 20000))], x="x", y="y",
                diagonal=True),
    curve_chart("k", NASTY, NASTY, [curve((100, 0, 0, 0))], x="x", y="y", diagonal=True),
    scatter_chart("k", NASTY, NASTY, [Cloud(NASTY, "base", ((100.0, 0.0), (30000.0, 7.0)), shape) for shape in Shape],
                  x=NASTY, y=NASTY),
    scatter_chart("k", NASTY, NASTY, [Cloud("a", "base", ((100.0, 90.0),))], x="x", y="y"),
    share_bar("k", NASTY, NASTY, [(NASTY, "better", 3), ("none", "open", 0), ("lost", "worse", 500)]),
    share_bar("k", NASTY, NASTY, []),
])
def test_charts_are_well_formed_inside_their_box_and_escape_what_they_are_given(chart):
    root = ElementTree.fromstring(str(chart))
    assert root.tag == "svg" and "script" not in {element.tag for element in root.iter()}
    assert root.find("desc") is not None
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    for element in root.iter():
        for name, most in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("y1", height),
                           ("y2", height), ("cy", height)):
            assert -0.01 <= float(element.attrib.get(name, 0)) <= most
        for x, y in re.findall(r"M([\d.]+) ([\d.]+)", element.attrib.get("d", "")):
            assert 0 <= float(x) <= width and 0 <= float(y) <= height


def drawn(chart: str, css: str) -> list[dict[str, str]]:
    return [element.attrib for element in ElementTree.fromstring(chart).iter()
            if element.attrib.get("class", "").split()[-1:] == [css]]


def test_a_curve_and_its_band_are_drawn_where_the_numbers_are():
    chart = str(curve_chart("k", "t", "d", [curve((0, 20, 10, 40), (50, 60, 50, 80), (100, 100, 90, 100))], x="x",
                            y="y"))
    marks = [(float(mark["cx"]), float(mark["cy"])) for mark in drawn(chart, "mark")]
    levels = sorted({float(line["y1"]) for line in drawn(chart, "grid")})
    top, bottom = levels[0], levels[-1]  # 100 and 0
    assert [(bottom - y) / (bottom - top) for _, y in marks] == pytest.approx([0.2, 0.6, 1.0], abs=1e-3)
    assert marks[1][0] == pytest.approx((marks[0][0] + marks[2][0]) / 2)
    [band] = drawn(chart, "band")
    heights = [float(point.split(",")[1]) for point in band["points"].split()]
    assert [(bottom - y) / (bottom - top) for y in heights] == pytest.approx([0.4, 0.8, 1.0, 0.9, 0.5, 0.1], abs=1e-3)


def test_an_answer_as_long_as_asked_lies_on_the_diagonal_of_a_logarithmic_scatter():
    points = ((100.0, 100.0), (1000.0, 1000.0), (30_000.0, 30_000.0), (1000.0, 100.0))
    chart = str(scatter_chart("k", "t", "d", [Cloud("a", "base", points)], x="x", y="y"))
    [diagonal] = drawn(chart, "reference")
    [cloud] = drawn(chart, "cloud")
    places = [(float(x) + 3, float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)", cloud["d"])]
    x1, y1, x2, y2 = (float(diagonal[name]) for name in ("x1", "y1", "x2", "y2"))
    heights = [(y1 - y) / (y1 - y2) - (x - x1) / (x2 - x1) for x, y in places]
    assert heights[:3] == pytest.approx([0, 0, 0], abs=0.01) and heights[3] < -0.2
    decades = math.log10(30_000 / 100)
    assert (places[1][0] - places[0][0]) / (places[2][0] - places[0][0]) == pytest.approx(1 / decades, abs=0.01)
