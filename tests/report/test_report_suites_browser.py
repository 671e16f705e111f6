"""Suites in a real browser: on a phone and on a desk, light and dark, by keyboard."""

from pathlib import Path

import pytest
from browsing import visit
from sample_suites import make_measured_run, make_model_run

from lpo.report import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(make_measured_run(tmp_path_factory.mktemp("runs") / "suites"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    return write_report(make_model_run(tmp_path_factory.mktemp("runs") / "alone"))


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1400, "light"), (1400, "dark")])
def test_suites_fit_every_width_and_their_curves_follow_the_theme(chromium, report, width, scheme):
    with visit(chromium, report, width=width, scheme=scheme) as seen:
        page = seen.page
        page.evaluate("document.querySelectorAll('#scores details, #samples details').forEach(d => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate("""width => [...document.querySelectorAll('#scores :is(td, th, svg)')].filter((cell) =>
             !cell.closest('.scroll') && cell.getBoundingClientRect().right > width + 1).length""", width)
        assert outside == 0
        fill = page.evaluate("getComputedStyle(document.querySelector('svg .trained.band')).fill")
        assert fill == {"light": "rgb(15, 111, 102)", "dark": "rgb(79, 195, 179)"}[scheme]


def test_a_reader_comes_from_the_list_to_a_suite_and_on_to_its_texts_by_keyboard(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        page.locator(".jump a", has_text="LongBench-Write").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("location.hash === '#suite-longbench_write'")
        link = page.locator("#suite-longbench_write a", has_text="Read some of the answers")
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_function("location.hash === '#texts-longbench_write'")
        table = page.locator("#suite-longbench_write .wide .scroll")
        page.locator("#suite-longbench_write .wide summary").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert table.evaluate("box => document.activeElement === box")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("ArrowDown")
        assert table.is_visible() and table.locator("tbody tr").count() > 20


def test_texts_of_a_suite_stand_side_by_side_on_a_desk_and_below_each_other_on_a_phone(chromium, report):
    for width in (1400, 360):
        with visit(chromium, report, width=width) as seen:
            group = seen.page.locator("#texts-longbench_write details").first
            group.evaluate("details => { details.open = true; }")
            first, second = (text.bounding_box() for text in group.locator(".text").all())
            assert (first["y"] == second["y"]) == (width == 1400)
            assert (first["x"] == second["x"]) == (width == 360)


def test_one_model_alone_is_shown_without_empty_columns(chromium, alone):
    with visit(chromium, alone, width=360) as seen:
        page = seen.page
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("#suite-longbench_write svg .trained.mark").count() > 5
        assert page.locator("#training, #pairs, #trees").count() == 0
