"""The comparison page in a real browser: it opens from file://, fits every screen, and is driven by keys alone."""

from pathlib import Path

import pytest
from browsing import visit
from sample_comparison import LONGBENCH, three_runs
from sample_run import ATTACKS, make_run

from lpo.report import write_comparison

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_of_three(tmp_path_factory) -> Path:
    folders, comparison = three_runs(tmp_path_factory.mktemp("runs"))
    return write_comparison(tmp_path_factory.mktemp("page") / "comparison.html", folders, comparison)


@pytest.fixture(scope="module")
def page_of_eight(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("eight")
    folders = [make_run(root / f"a-run-with-a-name-as-long-as-names-of-runs-become-{index}") for index in range(8)]
    names = [folder.name for folder in folders]

    def interval(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 9, "high": mean + 9, "n": 120, "unscored": 11}

    def rate(mean: float) -> dict[str, dict[str, float]]:
        return {"interval": interval(mean), "lc": interval(mean)}

    scores = {name: {"s": interval(40.5 + index)} for index, name in enumerate(names)}
    return write_comparison(root / "comparison.html", folders, {
        "runs": names, "models": dict.fromkeys(names, "trained"),
        "suites": {LONGBENCH: {
            "title": "LongBench-Write", "metrics": [{"key": "s", "name": "S", "meaning": "a score"}], "scores": scores,
            "groups": {name: dict.fromkeys(("[0, 500)", "a group with a long name"), scores[name])
                       for name in names},
            "difference": {name: {"s": {"interval": interval(12.5), "p": 0.0421}} for name in names[1:]}}},
        "win_rates": {LONGBENCH: {one: {other: rate(45 + index) for other in names if other != one}
                                  for index, one in enumerate(names)}}})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("runs", ["page_of_three", "page_of_eight"])
def test_nothing_scrolls_sideways_or_sticks_out(chromium, request, runs, scheme):
    with visit(chromium, request.getfixturevalue(runs), scheme=scheme) as seen:
        page = seen.page
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        for width in (360, 768, 1024, 1130, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            wide = page.evaluate("""() => {
                const edge = document.querySelector("main").getBoundingClientRect().right + 1;
                return [...document.querySelectorAll("main :is(table, .chart, .beside, .runs, .wins td)")]
                    .filter((part) => !part.closest(".scroll") && part.getBoundingClientRect().right > edge)
                    .map((part) => part.outerHTML.slice(0, 120));
            }""")
            assert (width, wide) == (width, [])


@pytest.mark.parametrize("width", [360, 1400])
def test_no_two_cells_of_a_row_lie_on_each_other(chromium, page_of_eight, width):
    with visit(chromium, page_of_eight, width=width) as seen:
        crossed = seen.page.evaluate("""() => {
            const bad = [];
            for (const row of document.querySelectorAll(".levels tr, .wins tr, .settings tr")) {
                const boxes = [...row.children].map((cell) => {
                    const clipped = cell.querySelector(".one-line"); // a long name ends in an ellipsis
                    if (clipped) return clipped.getBoundingClientRect();
                    const range = document.createRange();
                    range.selectNodeContents(cell);
                    return range.getBoundingClientRect();
                }).filter((box) => box.width && box.height);
                boxes.forEach((one, place) => boxes.slice(place + 1).forEach((other) => {
                    if (one.right > other.left + 1 && other.right > one.left + 1 && one.bottom > other.top + 1
                        && other.bottom > one.top + 1) bad.push(row.textContent.trim().slice(0, 80));
                }));
            }
            return bad;
        }""")
        assert crossed == []


def test_a_run_is_hidden_and_shown_by_keys_alone(chromium, page_of_three):
    with visit(chromium, page_of_three) as seen:
        page = seen.page

        def visible(run: int) -> int:
            return page.evaluate("""run => [...document.querySelectorAll(`main section:not(#wins) .run-${run}`)]
                .filter((part) => part.getClientRects().length).length""", run)

        before = [visible(run) for run in (1, 2, 3)]
        assert all(before)
        page.locator("nav a").last.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "show-2"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Space")
        assert [visible(1), visible(2), visible(3)] == [before[0], 0, before[2]]
        assert page.locator("#wins tbody td:visible").count() == 4
        page.keyboard.press("Space")
        assert [visible(run) for run in (1, 2, 3)] == before


def test_numbers_behind_a_chart_open_by_key(chromium, page_of_three):
    with visit(chromium, page_of_three) as seen:
        summary = seen.page.locator(f"#suite-{LONGBENCH} .numbers summary").first
        table = seen.page.locator(f"#suite-{LONGBENCH} .numbers table").first
        assert not table.is_visible()
        summary.focus()
        seen.page.keyboard.press("Enter")
        assert table.is_visible() and table.locator("tbody tr").count() == 12


def test_lines_and_marks_take_the_colours_of_the_theme(chromium, page_of_three):
    found: dict[str, list[str]] = {}
    for scheme in ("light", "dark"):
        with visit(chromium, page_of_three, scheme=scheme) as seen:
            found[scheme] = seen.page.evaluate("""() => [1, 2].map((run) => {
                const line = document.querySelector(`#training .chart .run-${run}.stroke`);
                return getComputedStyle(line).stroke + getComputedStyle(line).strokeDasharray;
            })""")
    assert len({*found["light"], *found["dark"]}) == 4
    assert found["light"][0].endswith("none") and "px" in found["light"][1]


def test_runs_stand_beside_each_other_or_stacked(chromium, page_of_three):
    for width, columns in ((1400, 2), (360, 1)):
        with visit(chromium, page_of_three, width=width) as seen:
            left = seen.page.locator("#texts details[open] .beside").first.locator(".text").evaluate_all(
                "texts => texts.map((text) => Math.round(text.getBoundingClientRect().left))")
            assert len(left) == 3 and len(set(left)) >= columns
            assert width > 360 or len(set(left)) == 1


def test_texts_that_attack_are_shown_and_never_run(chromium, page_of_three):
    with visit(chromium, page_of_three) as seen:
        page = seen.page
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        assert page.get_by_text(ATTACKS[0]).first.is_visible()
        assert page.locator("main script, main img").count() == 0
        page.wait_for_timeout(200)


def test_no_script_runs_even_where_markup_gets_in(chromium, page_of_three):
    page = chromium.new_page()
    try:
        page.goto(page_of_three.as_uri())
        page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "window.acted = 'script'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", `<p id="trap" onclick="window.acted = 'handler'">trap</p>`);
            document.getElementById("trap").click();
        }""")
        assert page.evaluate("window.acted") is None
    finally:
        page.close()


def test_on_paper_the_boxes_go_and_folded_parts_open(chromium, page_of_three):
    with visit(chromium, page_of_three) as seen:
        page = seen.page
        hidden = page.locator("#texts details.answer").nth(1).locator(".prose").first
        assert not hidden.is_visible()
        page.emulate_media(media="print")
        assert not page.locator(".choice").is_visible() and hidden.is_visible()


def test_parts_of_the_page_are_reached_from_its_margin(chromium, page_of_three):
    with visit(chromium, page_of_three) as seen:
        links = seen.page.locator("nav a")
        titles = [seen.page.locator(f"{links.nth(place).get_attribute('href')} h2").inner_text()
                  for place in range(links.count())]
        assert titles == ["The runs", "Longbench Write", "Longwrite Ruler", "Win-rates", "Training", "Texts",
                          "Time and cost"]
