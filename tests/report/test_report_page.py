"""The page as a document: what stands in it for which run, and that nothing in it can act or reach out."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sample_run import ATTACKS, make_run

from lpo.errors import DataError
from lpo.records import PreferencePair
from lpo.report import write_report
from lpo.storage import read_jsonl

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Elements with their attributes and the text directly inside each."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[str] = []
        self.unbalanced: list[str] = []
        self._open: list[tuple[str, int]] = []
        self.feed(markup)
        self.close()
        self.unbalanced += [tag for tag, _ in self._open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.contents.append("")
        if tag not in VOID:
            self._open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.contents.append("")

    def handle_endtag(self, tag):
        if self._open and self._open[-1][0] == tag:
            self._open.pop()
        else:
            self.unbalanced.append(f"/{tag}")

    def handle_data(self, data):
        if self._open:
            self.contents[self._open[-1][1]] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of every element of a kind."""
        return [(attributes, text) for (name, attributes), text in zip(self.elements, self.contents, strict=True)
                if name == tag]

    @property
    def text(self) -> str:
        """All text a reader sees, spaces collapsed."""
        shown = [text for (tag, _), text in zip(self.elements, self.contents, strict=True)
                 if tag not in ("script", "style")]
        return " ".join(" ".join(shown).split())

    def data(self) -> dict:
        """What the pair browser is given."""
        return next(json.loads(text) for attributes, text in self.of("script") if attributes.get("id") == "pair-data")


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="module")
def page(run_dir) -> Page:
    return page_of(run_dir)


def test_every_element_that_opens_closes(page):
    assert page.unbalanced == []


def test_the_summary_is_made_from_the_data(page):
    assert page.of("p")[1][1] == ("4 prompts → 12 layers → 10 pairs; 24 training steps; "
                                  "length score 31 → 38.5, 95 % interval of the change [−2, +15].")


def test_sections_come_in_the_order_of_the_story(page):
    titles = [text for _, text in page.of("h2")]
    assert titles == ["The run", "Scores", "Training", "Pairs", "Search trees", "Texts", "Files"]


def test_what_was_run_is_said(page):
    for said in ("demo:gemma-3-270m", "the model itself, by expected grade", "longdpo, branching 4, depth 3",
                 "judge × 1 + length × 0.5", "LoRA r 16", "AMD EPYC 7763", "no accelerator", "torch 2.13.0",
                 "4e4b4aa9f00d with uncommitted changes", "6 min 52 s", "peak memory 2.8 GB",
                 "94 calls, 12 from the journal", "60,312 tokens read, 8,904 written"):
        assert said in page.text, said


def test_scores_stand_with_interval_n_and_unscored(page):
    rows = [text.strip() for attributes, text in page.of("td") if attributes.get("data-label") in ("n", "Unscored")]
    assert rows == ["8 / 8 / 8", "0 / 0", "7 / 8 / 7", "1 / 0", "8 / 8 / 8", "0 / 0", "8 / 8 / 8", "0 / 0",
                    "8 / 8 / 8", "0 / 0"]
    assert "[−2, +15]" in page.text and "[12.5, 49]" in page.text and "[+0.071" not in page.text


def test_every_chart_has_a_title_and_a_description(page):
    named = {attributes["id"] for tag in ("title", "desc") for attributes, _ in page.of(tag) if "id" in attributes}
    charts = [attributes for attributes, _ in page.of("svg") if attributes.get("aria-hidden") != "true"]
    assert len(charts) > 20
    for attributes in charts:
        assert attributes["role"] == "img"
        assert set((attributes["aria-labelledby"] or "").split()) <= named


def test_ids_are_unique_and_references_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "for"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
        target = attributes.get("href") or ""
        assert not target.startswith("#") or target[1:] in ids


def test_nothing_on_the_page_comes_from_outside(page, run_dir):
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base", "audio", "video"), tag
        assert "src" not in attributes and "style" not in attributes
        assert not any(name.startswith("on") for name in attributes), attributes
        if "href" in attributes and tag == "a":
            target = attributes["href"] or ""
            assert target.startswith("#") or (run_dir / target).exists(), target
        if tag == "link":
            assert (attributes["href"] or "").startswith("data:image/svg+xml,")
    style = page.of("style")[0][1]
    assert "url(" not in style and "@import" not in style


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(page):
    policy = next(attributes["content"] for attributes, _ in page.of("meta")
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    scripts = [text for attributes, text in page.of("script") if "type" not in attributes]
    assert len(scripts) == 1 and len(page.of("script")) == 3 and len(page.of("style")) == 1
    for rule, text in (("script-src", scripts[0]), ("style-src", page.of("style")[0][1])):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


def test_texts_that_look_like_markup_are_shown_as_text(page):
    attack = next(entry for entry in page.data()["entries"] if entry["id"] == "attack/1")
    shown = "".join(attack["chosen"]["parts"])
    for text in ATTACKS:
        assert text in shown
    texts = [text for _, text in page.elements and page.of("div")]
    assert any(text.startswith(ATTACKS[0]) for text in texts), "an answer's text stands in the page unescaped"
    assert any(ATTACKS[3] in text for text in texts)


def test_pairs_reach_the_page_letter_by_letter(page, run_dir):
    pairs = [PreferencePair.model_validate(row) for row in read_jsonl(run_dir / "pairs.jsonl")]
    entries = {entry["id"]: entry for entry in page.data()["entries"]}
    assert set(entries) == {pair.id for pair in pairs}
    for pair in pairs:
        entry = entries[pair.id]
        assert "".join(entry["chosen"]["parts"]) == pair.chosen
        assert "".join(entry["rejected"]["parts"]) == pair.rejected
        assert entry["prefix"] == pair.prefix
        assert (entry["chosen"]["ends"], entry["rejected"]["ends"]) == (pair.chosen_ends, pair.rejected_ends)
        assert entry["margin"] == pair.margin and entry["place"] == f"step {pair.step + 1}"


def test_each_pair_brings_its_judgement_and_its_siblings(page):
    entry = next(entry for entry in page.data()["entries"] if entry["id"] == "harbour/0")
    assert list(entry["chosen"]["scores"]) == ["expected_grade", "accuracy", "purpose", "harmless", "consistency",
                                               "breadth", "reading", "insight", "length"]
    assert all(abs(sum(weights) - 1) < 1e-3 and len(weights) == 5 for weights in entry["chosen"]["grades"].values())
    assert page.data()["scales"]["accuracy"] == [1.0, 5.0] and page.data()["scales"]["length"] == [0.0, 1.0]
    assert sorted(role for _, role in entry["siblings"]) == ["chosen", "rejected", "unused", "unused"]
    scores = {role: score for score, role in entry["siblings"]}
    assert scores["chosen"] == entry["chosen"]["overall"] and scores["rejected"] == entry["rejected"]["overall"]


def test_rejected_rows_are_counted_by_reason(page):
    reasons = [text for _, text in page.of("code") if text in ("small_margin", "too_few_candidates")]
    assert reasons == ["small_margin", "too_few_candidates"]
    assert "3 rows dropped" in page.text and "0.0041 < 0.01" in page.text


def test_texts_before_and_after_stand_side_by_side(page):
    labels = [text for attributes, text in page.of("span") if attributes.get("class") == "label"]
    assert labels[:16] == ["base", "trained"] * 8
    assert labels[16:] == ["before training", "step 8", "step 24"] * 2
    assert "78 of 500 words asked" in page.text and "cut at the token limit" in page.text
    assert "no score: no_grade" in page.text


@pytest.mark.parametrize(("stages", "absent"), [
    ((), ("Base and trained model have not been compared yet.", "Nothing has been trained yet.",
          "No pairs have been built yet.", "No tree has been searched yet.", "No texts have been written yet.")),
    (("build",), ("Base and trained model have not been compared yet.", "Nothing has been trained yet.",
                  "No texts have been written yet.")),
    (("build", "train"), ("Base and trained model have not been compared yet.",)),
])
def test_a_stage_that_has_not_run_says_what_to_run(tmp_path, stages, absent):
    folder = make_run(tmp_path / "my runs" / "part", stages=stages)
    page = page_of(folder)
    said = [text for attributes, text in page.of("p") if attributes.get("class") == "absent"]
    assert [text.split(" Run ")[0] for text in said if " Run " in text] == list(absent)
    assert f"lpo run '{folder}/config.yaml'" in page.text
    assert page.unbalanced == []


def test_an_empty_folder_and_empty_files_make_a_page(tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    assert "Nothing has been run yet." in page_of(folder).text
    for name in ("pairs.jsonl", "trees.jsonl", "rejected_rows.jsonl", "metrics.jsonl", "samples.jsonl", "build.json",
                 "scores.json", "manifest.json", "config.yaml", "eval/answers.base.jsonl", "eval/preferences.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert "Nothing has been run yet." in page_of(folder).text


def test_scores_with_nothing_scored_make_a_page(tmp_path):
    folder = make_run(tmp_path / "unscored")
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    nothing = {"mean": None, "low": None, "high": None, "n": 0, "unscored": 3}
    for values in (*scores["models"].values(), *scores["buckets"].values(), scores["difference"],
                   scores["preference_accuracy"]):
        values.update(dict.fromkeys(values, nothing))
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    page = page_of(folder)
    assert "nothing scored" in page.text and "not measured" in page.text
    assert "length score 3 (base)" in page.text.lower()


def test_means_without_intervals_are_shown_as_such(tmp_path):
    page = page_of(make_run(tmp_path / "few", few=True))
    assert page.of("p")[1][1].endswith("length score 31 → 38.5, too few answers for an interval.")
    assert "A dot without a line has too few values" in page.text
    verdicts = [text for attributes, text in page.of("span") if "verdict" in (attributes.get("class") or "").split()]
    assert verdicts == ["too few for an interval"] * 5
    assert not [attributes for attributes, _ in page.of("line") if "whisker" in (attributes.get("class") or "")]
    assert len([attributes for attributes, _ in page.of("circle") if attributes.get("cx")]) > 10


def test_a_judge_that_was_switched_off_leaves_no_row(tmp_path):
    folder = make_run(tmp_path / "no-judge")
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    for values in (*scores["models"].values(), scores["difference"]):
        values["judge"] = {"mean": None, "low": None, "high": None, "n": 0, "unscored": 0}
    scores["judge"] = None
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    rows = [text for attributes, text in page_of(folder).of("th") if attributes.get("role") == "rowheader"]
    assert rows == ["Length score", "Repetition", "Ended by itself", "Words"]


def test_a_line_being_written_is_passed_over_and_nothing_is_changed(tmp_path):
    folder = make_run(tmp_path / "busy")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"step": 25, "lo')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_report(folder)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.pop(folder / "report.html")
    assert after == before


def test_a_damaged_line_is_named_and_the_old_page_stays(tmp_path):
    folder = make_run(tmp_path / "damaged")
    old = write_report(folder).read_bytes()
    lines = (folder / "pairs.jsonl").read_text(encoding="utf-8").split("\n")
    lines[2] = lines[2][:40]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as error:
        write_report(folder)
    assert error.value.where == f"{folder / 'pairs.jsonl'}:3"
    assert (folder / "report.html").read_bytes() == old
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".tmp") == []


def test_a_row_of_another_version_is_named(tmp_path):
    folder = make_run(tmp_path / "older")
    rows = read_jsonl(folder / "pairs.jsonl")
    del rows[1]["chosen"]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match="chosen") as error:
        write_report(folder)
    assert (error.value.where or "").endswith("pairs.jsonl:2")


def test_a_missing_run_directory_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(DataError):
        write_report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_half_an_emoji_does_not_stop_the_page(tmp_path):
    folder = make_run(tmp_path / "emoji")
    rows = read_jsonl(folder / "pairs.jsonl")
    rows[0]["chosen"] = "cut \ud83d here"
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    entry = page_of(folder).data()["entries"][0]
    assert "".join(entry["chosen"]["parts"]) == "cut \ufffd here"


def test_a_large_run_stays_under_three_megabytes_and_says_what_it_leaves_out(tmp_path):
    folder = make_run(tmp_path / "large")
    pairs = read_jsonl(folder / "pairs.jsonl")
    many = [{**pairs[0], "id": f"p{index}", "group": f"g{index}", "chosen": f"茶{index}" * 4000,
             "rejected": f"<好&{index}>" * 3000} for index in range(120)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many), encoding="utf-8")
    answers = read_jsonl(folder / "eval" / "answers.base.jsonl")
    for model in ("base", "trained"):
        rows = [{**answers[0], "model": model, "prompt_id": f"q{index}", "text": "<长文>" * 9000}
                for index in range(60)]
        (folder / "eval" / f"answers.{model}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tree = read_jsonl(folder / "trees.jsonl")[0]
    nodes = [{**node, "text": "<茶>" * 1500} for node in tree["nodes"]]
    (folder / "trees.jsonl").write_text("".join(
        json.dumps({**tree, "id": f"t{index}", "nodes": nodes}) + "\n" for index in range(30)), encoding="utf-8")
    report = write_report(folder)
    assert 1_000_000 < report.stat().st_size < 3_000_000
    page = Page(report.read_text(encoding="utf-8"))
    shown = page.data()["entries"]
    numbers = [entry["number"] for entry in shown]
    assert numbers == sorted(numbers) and 5 < len(numbers) < 120
    assert max(numbers) > 100 and min(numbers) < 20, "the sample is spread over the run"
    assert f"{len(shown)} of 120 pairs" in page.text and f"{120 - len(shown)} are left out" in page.text
    found = re.search(r"(\d+) prompts, spread evenly, are shown; (\d+) more", page.text)
    assert found is not None
    shown_answers, left_out = map(int, found.groups())
    assert 0 < shown_answers < 60 and left_out == 60 - shown_answers


def luminance(colour: str) -> float:
    parts = [int(colour[index:index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_all_text_colours_are_legible_in_light_dark_and_print(page):
    style = page.of("style")[0][1]
    themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}",
                                                                                              style, re.DOTALL)]
    assert len(themes) == 3
    for theme in themes[:2]:
        for ground in ("paper", "sheet"):
            for ink in ("ink", "soft", "faint", "good", "warning", "link", "chosen", "rejected"):
                light, dark = sorted((luminance(theme[ground]), luminance(theme[ink])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground, theme[ink])
        for tint in ("chosen-tint", "rejected-tint", "wash"):
            light, dark = sorted((luminance(theme[tint]), luminance(theme["ink"])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 7, tint
