"""Corrected, ranked and planned answers in a real browser: walked by pointer and keys, on wide and narrow screens."""

from pathlib import Path

import pytest
from browsing import boxes, visit
from sample_answers import DOCUMENT, GOOD
from sample_methods import agent_write_run, best_of_n_run, iterdpo_run
from sample_run import ATTACKS, SOIL_BETTER
from sample_scripts import HARBOUR_WORSE, MILLS, OPENING, OPENING_BETTER, SPRING_BETTER

from lpo.report import write_report

pytestmark = pytest.mark.browser

FOCUSED = "document.activeElement.getAttribute('aria-label')"


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {"corrections": write_report(iterdpo_run(folder / "lectures")),
            "answers": write_report(best_of_n_run(folder / "reports", documents=1)),
            "plans": write_report(agent_write_run(folder / "drafts"))}


def tab(page, number: int):
    """A segment in the overview."""
    return page.locator(f"#segment-tab-{number - 1}")


def test_a_segment_is_opened_by_click_and_its_two_texts_stand_side_by_side(chromium, reports):
    with visit(chromium, reports["corrections"]) as seen:
        page = seen.page
        assert page.locator(".segment-tab").count() == 11
        assert tab(page, 2).get_attribute("aria-selected") == "true", "the first that was corrected is open"
        assert page.locator("#segment .side.base .prose").text_content() == OPENING
        assert page.locator("#segment .side.trained .prose").text_content() == OPENING_BETTER
        one, other = boxes(page, "#segment .side.base", "#segment .side.trained")
        assert one["y"] == other["y"] and one["x"] + one["width"] < other["x"]
        assert "in most harbours" in page.locator("#segment .side.trained mark").first.inner_text()
        faults = page.locator("#segment .faults li").all_inner_texts()
        assert "and in some places three times a day" in faults[0] and faults[1].startswith("missing")
        assert "+0." in page.locator("#segment .gain").inner_text()
        tab(page, 5).click()
        assert "Not accepted: the revised segment scores no better" in page.locator("#segment").inner_text()
        page.get_by_text("The revised text, not taken").click()
        assert page.locator("#segment .fold .side.trained .prose").text_content() == HARBOUR_WORSE
        tab(page, 8).click()
        assert "by Anna Lindqvist" in page.locator("#segment h4").inner_text()
        assert page.locator("#segment .chips").inner_text().split("\n")[:2] == ["corrected by people", "inserted"]
        assert SPRING_BETTER.strip() in (page.locator("#segment .fold .prose").text_content() or "")
        tab(page, 7).click()
        assert page.locator("#segment > .prose").text_content() == MILLS


def test_states_are_told_by_signs_and_names_and_not_by_colour_alone(chromium, reports):
    with visit(chromium, reports["corrections"]) as seen:
        page = seen.page
        labels = page.locator(".segment-tab").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
        assert labels[1].startswith("segment 2, corrected, 37 → 43 words")
        assert labels[7].startswith("segment 8, corrected by people, inserted") and "struck out" in labels[8]
        signs = page.locator(".segment-tab").evaluate_all(
            "all => all.map(one => one.querySelector('use')?.getAttribute('href') ?? '')")
        assert signs == ["", "#glyph-chosen", "#glyph-set-aside", "#glyph-chosen", "#glyph-rejected", "#glyph-unscored",
                         "#glyph-unscored", "#glyph-rewritten", "#glyph-rewritten", "#glyph-unscored",
                         "#glyph-unscored"]
        assert page.locator("#segment").get_attribute("aria-labelledby") == "segment-tab-1"


def test_the_keyboard_goes_from_segment_to_segment(chromium, reports):
    with visit(chromium, reports["corrections"]) as seen:
        page = seen.page
        page.locator("#script-request").focus()
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED).startswith("segment 2,"), "one stop for all segments"
        pair = page.locator("#position").inner_text()
        for key, number in (("ArrowRight", 3), ("ArrowRight", 4), ("ArrowLeft", 3), ("Home", 1), ("ArrowLeft", 1),
                            ("End", 11), ("ArrowRight", 11)):
            page.keyboard.press(key)
            assert page.evaluate(FOCUSED).startswith(f"segment {number},"), key
            assert page.locator("#segment-position").inner_text() == f"Segment {number} of 11"
        assert page.locator('.segment-tab[tabindex="0"]').count() == 1
        assert page.locator("#position").inner_text() == pair, "the pair browser does not page meanwhile"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.locator("#segment-position").inner_text() == "Segment 10 of 11"
        assert page.locator("#segment-next").is_enabled()


def test_hostile_corrections_are_shown_and_never_run(chromium, reports):
    with visit(chromium, reports["corrections"]) as seen:
        page = seen.page
        page.locator("#script-choice").select_option("2")
        assert page.locator("#segment .side.base .prose").text_content() == "\n".join(ATTACKS)
        assert ATTACKS[0] in page.locator("#segment h4").inner_text()
        tab(page, 2).click()
        assert page.locator("#segment .suggestion").all_inner_texts()[0].endswith(ATTACKS[0])
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        assert page.locator("main script, main img, main iframe").count() == 0
        page.wait_for_timeout(200)


def test_a_ranked_answer_unfolds_with_its_statements(chromium, reports):
    with visit(chromium, reports["answers"]) as seen:
        page = seen.page
        first = page.locator(".ranked").first
        assert not first.locator(".unfolded").is_visible()
        first.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert first.locator(".unfolded .prose").inner_text() == GOOD
        statement = first.locator(".statements li").first
        statement.locator("summary").click()
        assert statement.locator("blockquote").nth(1).inner_text() == DOCUMENT[:60].strip()
        assert first.locator(".chip.role").inner_text() == "chosen"
        widths = page.locator(".ranking").first.locator(".score .fill").evaluate_all(
            "all => all.map(one => Number(one.getAttribute('width')))")
        assert widths == sorted(widths, reverse=True) and len(widths) == 3


def test_a_planned_section_unfolds_and_its_bar_ends_where_its_words_do(chromium, reports):
    with visit(chromium, reports["plans"]) as seen:
        page = seen.page
        assert page.locator(".stations li").count() == 3 and page.locator(".stations .open").count() == 0
        section = page.locator(".planned").first
        section.locator("summary").click()
        assert section.locator(".prose").inner_text() == SOIL_BETTER
        fill, line = (float(section.locator(f".meter {shape}").get_attribute(name))
                      for shape, name in ((".fill", "width"), (".target", "x1")))
        assert fill / line == pytest.approx(57 / 52, abs=0.01), "57 words of 52, its share of 130"


@pytest.mark.parametrize("kind", ["corrections", "answers", "plans"])
def test_nothing_scrolls_sideways_on_narrow_and_wide_screens(chromium, reports, kind):
    for width, scheme in ((360, "dark"), (400, "light"), (1400, "light")):
        with visit(chromium, reports[kind], width=width, scheme=scheme) as seen:
            page = seen.page
            page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if kind == "corrections":
                widest = page.locator(".segment-tab").evaluate_all("""all => Math.max(...all.map((one) => {
                    one.click();
                    document.querySelectorAll("#segment details").forEach((details) => { details.open = true; });
                    return document.documentElement.scrollWidth;
                }))""")
                assert widest <= width
            if kind == "answers":
                assert page.locator(".chip.role").first.is_visible(), "which side an answer is on is seen at any width"


def test_on_paper_corrections_and_answers_are_whole(chromium, reports):
    with visit(chromium, reports["corrections"], width=720) as seen:
        page = seen.page
        page.emulate_media(media="print")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert not page.locator("#script-choice").is_visible() and page.locator("#segment").is_visible()
        assert page.locator(".ranked .prose").first.evaluate("text => getComputedStyle(text).maxHeight") == "none"
        assert page.locator("details:not([open]):not(.numbers)").count() == 0
