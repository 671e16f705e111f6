"""The page that compares runs, as a document: its numbers recomputed from the files, and that nothing in it can act."""

import json
import re
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from sample_comparison import LONGBENCH, compared, measured_only, three_runs, write_answers
from sample_run import ATTACKS, make_run
from test_report_page import Page

from lpo.errors import DataError
from lpo.report import write_comparison
from lpo.storage import read_jsonl


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[list[Path], dict[str, Any]]:
    return three_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def html(runs, tmp_path_factory) -> str:
    folders, comparison = runs
    page = write_comparison(tmp_path_factory.mktemp("page") / "comparison.html", folders, comparison)
    return page.read_text(encoding="utf-8")


def cut(html: str, start: str, end: str) -> str:
    """What stands between two marks."""
    return html.split(start, 1)[1].split(end, 1)[0]


def plain_text(markup: str) -> str:
    """The text of a piece of HTML, each element's after a space."""
    return " ".join(" ".join(Page(markup).contents).split())


def rows_of(section: str, metric: str) -> list[str]:
    """The lines of the table of scores under one metric."""
    block = next(part for part in section.split('<tr role="row" class="metric">')[1:]
                 if part.startswith(f'<th scope="rowgroup" role="rowheader" colspan="2">{metric}<small>'))
    return block.split("</tbody>")[0].split('<tr role="row" class="run-')[1:]


def answers(folder: Path, suite: str, model: str) -> dict[str, dict[str, float | None]]:
    """Prompt -> values, read from the file itself."""
    return {row["answer"]["prompt_id"]: row["values"]
            for row in read_jsonl(folder / "eval" / suite / f"answers.{model}.jsonl")}


def written(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0").replace("-", "−")


def test_every_score_and_difference_is_that_of_the_answers(runs, html):
    folders, _ = runs
    section = cut(html, f'<section id="suite-{LONGBENCH}"', "</section>")
    measured = [answers(folder, LONGBENCH, model) for folder, model in zip(folders, ("trained", "trained", "model"),
                                                                             strict=True)]
    for metric, name in (("length_score", "S_l"), ("quality", "S_q")):
        lines = rows_of(section, name)
        assert len(lines) == 3
        for line, values in zip(lines, measured, strict=True):
            scored = [row[metric] for row in values.values() if row[metric] is not None]
            assert f'<b>{written(fmean(scored))}</b>' in line
            assert re.search(rf'data-label="n">{len(scored)} <small>{len(values) - len(scored)} unscored', line)
        for line, values in zip(lines[1:], measured[1:], strict=True):
            both = [row[metric] - measured[0][prompt][metric] for prompt, row in values.items()
                    if row[metric] is not None and measured[0][prompt][metric] is not None]
            sign = "+" if fmean(both) > 0 else ""
            assert f"<b>{sign}{written(fmean(both))}</b>" in line


def test_a_verdict_follows_from_interval_and_test(runs, html):
    _, comparison = runs
    section = cut(html, f'<section id="suite-{LONGBENCH}"', "</section>")
    seen: set[str] = set()
    for metric in comparison["suites"][LONGBENCH]["metrics"]:
        for run, line in zip("bc", rows_of(section, metric["name"])[1:], strict=True):
            change = comparison["suites"][LONGBENCH]["difference"][run][metric["key"]]
            low, high, p = change["interval"]["low"], change["interval"]["high"], change["p"]
            if low <= 0 <= high:
                expected = "open: covers zero"
            elif p >= 0.05:
                expected = "open: interval and test disagree"
            elif metric["better"] == "neither":
                expected = "changed"
            else:
                expected = "better" if (low > 0) == (metric["better"] == "up") else "worse"
            assert re.search(rf'<span class="verdict \w+">{expected}</span>', line), (metric["key"], run)
            assert ("p &lt; 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}") in line
            seen.add(expected)
    assert {"better", "open: covers zero"} <= seen


def test_an_interval_without_zero_stays_open_where_the_test_disagrees(runs, tmp_path):
    folders, comparison = runs
    comparison = json.loads(json.dumps(comparison))
    change = comparison["suites"][LONGBENCH]["difference"]["b"]["length_score"]
    change["interval"] |= {"mean": 3.0, "low": 0.4, "high": 5.0}
    change["p"] = 0.08
    html = write_comparison(tmp_path / "page.html", folders, comparison).read_text(encoding="utf-8")
    line = rows_of(cut(html, f'<section id="suite-{LONGBENCH}"', "</section>"), "S_l")[1]
    assert "open: interval and test disagree" in line and ">better<" not in line


def test_groups_say_how_few_prompts_decide_them(runs, html):
    _, comparison = runs
    section = cut(html, f'<section id="suite-{LONGBENCH}"', "</section>")
    caption = plain_text(cut(section, "<strong>S_l by words asked</strong>", "</figcaption>"))
    for group in ("[0, 500)", "[500, 2k)", "[2k, 4k)", "[4k, 20k]"):
        changes = [comparison["suites"][LONGBENCH]["group_difference"][run][group]["length_score"] for run in "bc"]
        is_open = all(one["interval"]["low"] is None or one["interval"]["low"] <= 0 <= one["interval"]["high"]
                      or one["p"] >= 0.05 for one in changes)
        prompts = max(one["interval"]["n"] for one in changes)
        assert (f"{group} ({prompts} prompts)" in caption) == is_open
    table = Page(cut(section, 'aria-label="Numbers of S_l by words asked">', "</table>")).of("td")
    assert len(table) == 9 * 4 * 3


def test_marks_lie_on_their_side_of_the_line_as_long_as_asked(runs, html):
    """Both axes have one scale: a mark is nearer the top than the right exactly if more was written than asked."""
    folders, _ = runs
    chart = cut(html, f'aria-labelledby="lengths-{LONGBENCH}-title', "</svg>")
    left, bottom, right, top = map(float, re.search(
        r'<line class="reference" x1="(\S+)" y1="(\S+)" x2="(\S+)" y2="(\S+)"/>', chart).groups())
    for place, (folder, model) in enumerate(zip(folders, ("trained", "trained", "model"), strict=True), start=1):
        rows = [row["answer"] for row in read_jsonl(folder / "eval" / LONGBENCH / f"answers.{model}.jsonl")]
        asked = [(row["target_words"], row["words"]) for row in rows if row["finish"] != "refused"]
        marks = [tuple(map(float, found)) for found in
                 re.findall(rf'<path class="run-{place} dot mark" d="M(\S+) (\S+?)m', chart)]
        assert len(marks) == len(asked) == 23
        above = [(bottom - y) / (bottom - top) > (x - left) / (right - left) for x, y in marks]
        clear = [abs(words / target - 1) > 0.02 for target, words in asked]
        assert [one for one, far in zip(above, clear, strict=True) if far] == [
            words > target for (target, words), far in zip(asked, clear, strict=True) if far]


def test_training_curves_end_where_the_log_ends(runs, html):
    """The height of a line's end, read back by the chart's own labels, is the value that was logged last."""
    folders, _ = runs
    chart = cut(html, 'aria-labelledby="training-loss-loss-title', "</svg>")
    levels = [(float(y) - 4, float(label.replace("−", "-"))) for y, label in
              re.findall(r'<text class="tick" x="41\S*" y="(\S+)" text-anchor="end">([^<]+)</text>', chart)]
    (y0, low), (y1, high) = levels[0], levels[-1]
    for place, folder in enumerate(folders[:2], start=1):
        last = [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row][-1]
        mark = re.findall(rf'<path class="run-{place} mark" d="M\S+ (\S+?)m', chart)
        assert len(mark) == 1
        assert low + (float(mark[0]) - y0) / (y1 - y0) * (high - low) == pytest.approx(last, abs=0.01)
        assert len(re.findall(rf'<path class="run-{place} held-out mark"', chart)) == 3
    assert "run-3" not in chart
    for title in ("Loss", "Reward margin", "Reward accuracy", "Gradient norm", "Implicit rewards: chosen"):
        assert f"<strong>{title}</strong>" in html
    assert "do not minimise the same thing" in html and "ipo" in html


def flat(values: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {above: values}
    return {path: value for key, inner in values.items()
            for path, value in flat(inner, f"{above}.{key}" if above else key).items()}


def test_the_settings_that_differ_are_all_and_only_those(tmp_path):
    folders = [make_run(tmp_path / name, steps=steps) for name, steps in (("one", 12), ("two", 30))]
    path = folders[1] / "config.yaml"
    changed = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed["build"]["depth"], changed["train"]["peft"], changed["policy"]["temperature_note"] = 9, None, ATTACKS[0]
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    first, second = (flat(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))) for folder in folders)
    expected = {path for path in {*first, *second} if first.get(path) != second.get(path)} - {"name"}
    expected |= {"train.peft"}  # a section in the first, null in the second
    html = write_comparison(tmp_path / "page.html", folders, None).read_text(encoding="utf-8")
    shown = set(re.findall(r'<th scope="row" role="rowheader"><code>([^<]+)</code>', html))
    assert shown == expected and {"build.depth", "train.args.max_steps", "train.peft", "train.peft.r"} <= shown
    assert f"The runs differ in {len(expected)} settings" in html
    assert ATTACKS[0] not in html and "&lt;script&gt;alert(&#39;from a model&#39;)&lt;/script&gt;" in html


def test_a_run_is_not_blamed_for_settings_of_a_stage_it_has_not_gone_through(tmp_path):
    trained, alone = make_run(tmp_path / "trained"), measured_only(tmp_path / "alone", "alone")
    html = write_comparison(tmp_path / "page.html", [trained, alone], None).read_text(encoding="utf-8")
    shown = set(re.findall(r'<th scope="row" role="rowheader"><code>([^<]+)</code>', html))
    assert not any(path.startswith(("build.", "train.")) for path in shown)


@pytest.mark.parametrize(("seeds", "said"), [
    ((1, 1), "All settings are equal"), ((1, 2), "Only the seed differs"),
])
def test_what_may_be_concluded_from_equal_settings_is_said(tmp_path, seeds, said):
    folders: list[Path] = []
    for index, seed in enumerate(seeds):
        folder = make_run(tmp_path / f"run{index}")
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text(encoding="utf-8")) | {"seed": seed}),
                        encoding="utf-8")
        folders.append(folder)
    assert said in write_comparison(tmp_path / "page.html", folders, None).read_text(encoding="utf-8")


def test_win_rates_stand_in_numbers_and_words(html):
    section = cut(html, '<section id="wins"', "</section>")
    rows = section.split("<tbody")[1].split("<tr")[1:]
    a, b, _ = (plain_text(f"<tr{row}") for row in rows)
    assert "31.2 % [20.2, 42.2] not preferred LC 27.2 % [16.2, 38.2] n = 24, 1 unscored" in a
    assert "47.5 % [33.5, 61.5] open" in a
    assert "68.8 % [57.8, 79.8] preferred" in b and "71.0 % [62.0, 80.0] preferred" in b
    assert section.count('class="itself') == 3


def test_the_same_prompt_stands_side_by_side(runs, html):
    folders, _ = runs
    texts = {run: {row["answer"]["request"]: row["answer"]["text"]
                   for row in read_jsonl(folder / "eval" / LONGBENCH / f"answers.{model}.jsonl")}
             for run, folder, model in zip("ABC", folders, ("trained", "trained", "model"), strict=True)}
    section = cut(html, '<section id="texts"', "</section>")
    of_suite = section.split("Longbench Write</h3>", 1)[1].split("<h3", 1)[0]
    groups = of_suite.split('<details class="answer"')[1:]
    assert len(groups) == 5
    for group in groups:
        page = Page(f"<details {group}")
        request = next(text for attributes, text in page.of("span") if attributes.get("class") == "ask")
        for run in "ABC":
            whole = next(text for asked, text in texts[run].items() if " ".join(asked.split()) == request)
            shown = [text for attributes, text in page.of("div") if attributes.get("aria-label") == f"{run} text"]
            assert shown == ([whole[:6000]] if whole else [])
    assert "5 of 24 prompts that all runs answered" in " ".join(of_suite.split())
    assert "no answers from C" in section


def test_texts_are_left_out_before_the_page_grows_too_large(runs, tmp_path):
    """Eight runs, eight suites, long texts: the numbers stay, the texts fill what is left."""
    folders, comparison = runs
    names = [f"run{index}" for index in range(8)]
    suites = [LONGBENCH, *(f"suite{index}" for index in range(7))]
    copies: list[Path] = []
    for index, name in enumerate(names):
        folder = tmp_path / name
        shutil.copytree(folders[index % 2], folder, ignore=shutil.ignore_patterns("trees.jsonl", "pairs.jsonl"))
        for suite in suites[1:]:
            shutil.copytree(folder / "eval" / LONGBENCH, folder / "eval" / suite)
        copies.append(folder)
    found = comparison["suites"][LONGBENCH]
    of_run = {name: "ab"[index % 2] for index, name in enumerate(names)}
    spread = {key: {name: found[key][run] for name, run in of_run.items()}
              for key in ("scores", "groups", "curves", "judge", "decoding", "n")}
    changes = {key: dict.fromkeys(names[1:], found[key]["b"]) for key in ("difference", "group_difference")}
    page = write_comparison(tmp_path / "page.html", copies, {
        "runs": names, "models": dict.fromkeys(names, "trained"),
        "suites": {suite: found | spread | changes | {"title": suite} for suite in suites}, "win_rates": {}})
    html = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 3_000_000
    assert html.count('class="levels"') == 8 and html.count("lengths-") >= 8
    assert html.count('class="beside"') >= 8
    assert len(re.findall(r'class="run-\d dot mark"', html)) <= 2_400


def test_nothing_in_the_page_can_act_or_reach_out(html):
    page = Page(html)
    assert page.unbalanced == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("href", "src", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    policy = next(attributes["content"] for tag, attributes in page.elements
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    for attack in ATTACKS[:5]:
        assert attack not in html
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)


def test_runs_without_an_evaluation_say_so(tmp_path):
    folders = [make_run(tmp_path / "one", stages=("build", "train")), make_run(tmp_path / "two", stages=())]
    html = write_comparison(tmp_path / "page.html", folders, None).read_text(encoding="utf-8")
    assert "Without an evaluation, so without scores here: A (one), B (two)." in html
    assert "None of these runs has been evaluated" in html and "There is no prompt that two of these runs" in html
    assert "<strong>Loss</strong>" in html and "Without a training: B (two)." in html


def test_one_run_without_an_evaluation_stands_beside_others(runs, tmp_path):
    folders, comparison = runs
    silent = make_run(tmp_path / "silent", stages=("build",))
    html = write_comparison(tmp_path / "page.html", [*folders, silent], comparison | {
        "runs": ["a", "b", "c", "silent"]}).read_text(encoding="utf-8")
    assert "Without an evaluation, so without scores here: D (silent)." in html
    assert len(rows_of(cut(html, f'<section id="suite-{LONGBENCH}"', "</section>"), "S_l")) == 3


def test_differences_are_to_the_first_run_that_was_measured(tmp_path):
    """The first run has no answers to the suite: the second one is then what others are compared with."""
    folders = [make_run(tmp_path / "a", stages=("build",)), measured_only(tmp_path / "b", "b"),
               measured_only(tmp_path / "c", "c")]
    rows = {LONGBENCH: {name: write_answers(folder, "model", skill, prompts=12)
                        for name, folder, skill in zip("bc", folders[1:], (0.4, 0.9), strict=True)}}
    comparison = compared("abc", rows, models={"b": "model", "c": "model"}, resamples=100)
    html = write_comparison(tmp_path / "page.html", folders, comparison).read_text(encoding="utf-8")
    section = cut(html, f'<section id="suite-{LONGBENCH}"', "</section>")
    assert "differences are to\n    B," in section
    first, second = rows_of(section, "S_l")
    assert "the others are compared with it" in first and "better" in second
    assert "difference to B" in cut(html, '<p class="lead">', "</p>")


def test_time_and_cost_are_those_of_the_manifests(html):
    section = cut(html, '<section id="cost"', "</section>")
    blocks = [plain_text(part) for part in section.split('<tr role="row" class="metric">')[1:]]
    assert [block.split(" ", 1)[0] for block in blocks] == ["Build", "Training", "Evaluation", "All"]
    assert "6 min 52 s" in blocks[0] and "60,312" in blocks[0] and blocks[0].endswith("c not run")
    assert "1 min 28 s" in blocks[2]
    assert blocks[3].count("14 min 52 s") == 2


@pytest.mark.parametrize(("count", "said"), [(1, "from 2 to 8"), (9, "from 2 to 8")])
def test_too_few_or_too_many_runs_are_refused(tmp_path, count, said):
    with pytest.raises(DataError, match=said):
        write_comparison(tmp_path / "page.html", [tmp_path] * count, None)


def test_what_does_not_fit_together_is_refused(runs, tmp_path):
    folders, comparison = runs
    with pytest.raises(DataError, match="of 3 runs, but 2 directories"):
        write_comparison(tmp_path / "page.html", folders[:2], comparison)
    with pytest.raises(DataError, match="no such run directory"):
        write_comparison(tmp_path / "page.html", [folders[0], tmp_path / "gone"], None)
    with pytest.raises(DataError, match="suites"):
        write_comparison(tmp_path / "page.html", folders, comparison | {"suites": {"x": {"scores": 3}}})
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_file_is_named(runs, tmp_path):
    folders, comparison = runs
    copies = [tmp_path / folder.name for folder in folders]
    for folder, copy in zip(folders, copies, strict=True):
        shutil.copytree(folder, copy)
    damaged = copies[1] / "eval" / LONGBENCH / "answers.trained.jsonl"
    lines = damaged.read_text(encoding="utf-8").splitlines()
    damaged.write_text("\n".join([*lines[:2], "{broken", *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"answers\.trained\.jsonl:3"):
        write_comparison(tmp_path / "page.html", copies, comparison)


def test_two_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [make_run(tmp_path / place / "run", stages=("build",)) for place in ("here", "there")]
    html = write_comparison(tmp_path / "page.html", folders, None).read_text(encoding="utf-8")
    assert all(str(folder) in html for folder in folders)
