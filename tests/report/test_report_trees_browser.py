"""Search trees in a real browser: drawn, walked by pointer and keys, and read."""

from pathlib import Path

import pytest
from browsing import boxes, visit
from sample_run import ATTACKS, make_run
from sample_trees import CRITIQUE, REWRITTEN, ROLLOUT, TWELVE, WEAK

from lpo.report import write_report
from lpo.storage import read_jsonl

pytestmark = pytest.mark.browser

FOCUSED = "document.activeElement.getAttribute('aria-label')"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "quickstart"))


def node(page, name: str):
    """A node of the drawing by its id."""
    return page.locator(f'.node[aria-label^="step {name},"]')


def test_a_tree_is_drawn_with_its_scores_visits_and_states(chromium, report):
    tree = read_jsonl(report.parent / "trees.jsonl")[0]
    with visit(chromium, report) as seen:
        page = seen.page
        assert page.locator(".node").count() == len(tree["nodes"])
        assert page.locator(".edge").count() == len(tree["nodes"]) - 1
        for values in tree["nodes"][1:]:
            drawn = node(page, values["id"])
            score = (values["judgement"] or {}).get("overall")
            assert drawn.locator(".score").text_content() == ("–" if score is None else f"{score:.2f}")
            assert drawn.locator(".visits").count() == bool(values["visits"])
            if values["visits"]:
                assert drawn.locator(".visits").text_content() == f"×{values['visits']}"
            assert drawn.locator(".stop").count() == values["ends"]
            shown = set((drawn.get_attribute("class") or "").split())
            refined = values["refinement"] and values["refinement"]["outcome"]
            unscored = bool((values["judgement"] or {}).get("unscored"))
            wanted = {state for state, holds in (
                (values["role"], values["role"] != "unused"), ("vetoed", values["vetoes"]),
                ("replaced", refined == "accepted"), ("weak", refined and refined != "accepted"),
                ("rewritten", values["refines"]), ("unscored", unscored), ("set-aside", values["note"])) if holds}
            assert shown == wanted | {"node"}
            marks = drawn.locator(".glyph use").evaluate_all("all => all.map(one => one.getAttribute('href'))")
            assert set(marks) == {f"#glyph-{state}" for state in wanted}, "told by signs, not by colour alone"
        widths = page.locator(".edge.walked").evaluate_all(
            "all => all.map(one => Number(one.getAttribute('stroke-width')))")
        assert len(widths) == sum(values["visits"] > 0 for values in tree["nodes"][1:])
        assert widths == sorted(widths) and min(widths) < max(widths)
        assert page.locator(".layer").evaluate_all("all => all.map(one => one.firstChild.textContent)") == [
            "start", "1 The steps", "2 A light beyond the breakw…", "3 Going out"]


def test_a_click_opens_a_node_and_the_rewritten_text_stands_beside_the_original(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        assert not page.locator("#node").is_visible()
        node(page, "0.3.0").click()
        assert page.locator("#node-title").inner_text() == "Step 0.3.0"
        assert page.locator("#node .side.base .prose").text_content() == WEAK
        assert page.locator("#node .side.trained .prose").text_content() == REWRITTEN
        one, other = boxes(page, "#node .side.base", "#node .side.trained")
        assert one["y"] == other["y"] and one["x"] + one["width"] < other["x"]
        assert "filed a notch" in page.locator("#node .side.trained mark").first.inner_text()
        assert "accepted: the search goes on" in page.locator("#node .outcome").inner_text().lower()
        critique = page.locator("#node .critiques .used")
        assert critique.count() == 1 and CRITIQUE.analysis in critique.inner_text()
        assert CRITIQUE.suggestion in critique.inner_text() and "confidence 4.5 of 5" in critique.inner_text()
        assert page.locator("#node .principles .grades").count() == 14
        critique.locator("button").click()
        assert page.locator("#node-title").inner_text() == "Step 0.3.1"
        page.locator("#node .close").click()
        assert not page.locator("#node").is_visible()
        assert page.evaluate(FOCUSED).startswith("step 0.3.1,")


def test_a_refused_refinement_says_why(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        node(page, "0.3.0r.0").click()
        assert "the rewritten step scores no better" in page.locator("#node .outcome").inner_text()
        node(page, "0.0.0.1").click()
        assert "the critic gave no usable reply" in page.locator("#node .outcome").inner_text().lower()
        assert "insight: unparsable" in page.locator("#node").inner_text()
        node(page, "0.3.0r.1").click()
        assert "no score: unparsable" in page.locator("#node .chips").inner_text()
        node(page, "0.3.3").click()
        assert "set aside: duplicate of 0.3.1" in page.locator("#node .chips").inner_text()


def test_a_veto_shows_its_quote_and_leads_to_the_step_of_its_fact(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        node(page, "0.0.2").click()
        assert page.locator("#node .veto .statement").inner_text().startswith("Marta has come down the steps")
        assert page.locator("#node .said mark").inner_text() == "For twelve years she had come down here"
        assert page.locator("#node .said .prose").text_content() == TWELVE
        assert not page.locator("#node .fold .prose").is_visible()
        page.locator("#node .fold summary").click()
        assert page.locator("#node .fold .prose").inner_text().startswith("The harbour wakes")
        page.locator("#node .veto button").click()
        assert page.locator("#node-title").inner_text() == "Step 0.0"
        assert "The handrail is missing on the ninth step." in page.locator("#node").inner_text()
        assert node(page, "0.0").get_attribute("aria-selected") == "true"


def test_the_keyboard_walks_the_tree_opens_nodes_and_comes_back(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        page.locator("#tree-request").focus()
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED).startswith("the beginning")
        assert page.locator('.node[tabindex="0"]').count() == 1
        position = page.locator("#position").inner_text()
        for key, name in (("ArrowRight", "0.0"), ("ArrowRight", "0.0.0"), ("ArrowDown", "0.0.1"), ("ArrowLeft", "0.0"),
                          ("ArrowUp", "0.0"), ("ArrowDown", "0.1"), ("ArrowRight", "0.1"), ("ArrowDown", "0.2"),
                          ("ArrowDown", "0.3"), ("ArrowRight", "0.3.0r"), ("ArrowUp", "0.3.0")):
            page.keyboard.press(key)
            assert page.evaluate(FOCUSED).startswith(f"step {name},"), key
        ring = "getComputedStyle(document.activeElement.querySelector('.ring')).strokeWidth"
        assert page.evaluate(ring) == "3px"
        page.keyboard.press("Enter")
        assert page.locator("#node-title").inner_text() == "Step 0.3.0"
        assert page.evaluate("document.activeElement.id") == "node-title"
        page.keyboard.press("Escape")
        assert not page.locator("#node").is_visible() and page.evaluate(FOCUSED).startswith("step 0.3.0,")
        page.keyboard.press("Space")
        assert page.locator("#node").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("Home")
        assert page.evaluate(FOCUSED).startswith("the beginning")
        assert page.locator("#position").inner_text() == position, "the pair browser does not page meanwhile"
        assert page.locator('.node[tabindex="0"]').count() == 1


def test_arrows_take_an_open_panel_along(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        node(page, "0.0.0").click()
        page.keyboard.press("ArrowDown")
        assert page.locator("#node-title").inner_text() == "Step 0.0.1"
        assert page.evaluate(FOCUSED).startswith("step 0.0.1,")


def test_nodes_tell_a_screen_reader_what_they_are(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        assert page.locator('[role="tree"]').get_attribute("aria-label").startswith("Search tree of: Write the opening")
        told = node(page, "0.3.0r").get_attribute("aria-label")
        assert "2 visits" in told and "chosen" in told and "rewritten" in told and "score 0." in told
        assert node(page, "0.3.0r").get_attribute("aria-level") == "3"
        assert node(page, "0.3.0r").get_attribute("aria-posinset") == "2"
        assert node(page, "0.3.0r").get_attribute("aria-setsize") == "5"
        assert "ends the answer" in node(page, "0.3.0r.2").get_attribute("aria-label")


def test_paths_rollouts_and_the_plan_unfold(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        page.get_by_text("Paths (4)").click()
        page.get_by_text("Rollout: 41 words").click()
        assert page.locator(".tree-paths .prose").first.text_content() == ROLLOUT
        assert "no score: empty" in page.locator(".tree-paths").inner_text()
        page.get_by_text("Plan (3 sections)").click()
        assert page.locator(".tree-plan li").all_inner_texts()[1] == "A light beyond the breakwater (180 words)"
        page.locator(".tree-paths button").get_by_text("0.3.0r.2", exact=True).click()
        assert page.locator("#node-title").inner_text() == "Step 0.3.0r.2"


def test_another_tree_is_chosen_by_the_beginning_of_its_prompt(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        node(page, "0.0").click()
        page.locator("#tree-choice").select_option(label="2: 请以“茶”为题写一篇散文，三百字左右。")
        assert page.locator("#tree-request").inner_text() == "请以“茶”为题写一篇散文，三百字左右。"
        assert page.locator(".node").count() == 9 and not page.locator("#node").is_visible()
        assert not page.locator('.tree-legend [data-state="vetoed"]').is_visible()


def test_hostile_texts_in_every_field_are_shown_and_never_run(chromium, report):
    with visit(chromium, report) as seen:
        page = seen.page
        page.locator("#tree-choice").select_option("3")
        for name in ("0.0", "0.0.0", "0.0.1", "0.0.1r", "0.0.2"):
            node(page, name).click()
            assert page.locator("#trees script, #trees img, #trees iframe").count() == 0
        node(page, "0.0.1").click()
        assert page.locator("#node .veto .statement").all_inner_texts()[0] == ATTACKS[0]
        assert page.locator("#node .veto").count() == len(ATTACKS)
        assert ATTACKS[1] in page.locator("#node .suggestion").inner_text()
        assert page.locator("#node .side.trained .prose").text_content() == "\n".join(ATTACKS)
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        assert page.locator(".tree-plan li").first.inner_text() == ATTACKS[0]
        assert page.evaluate("[...document.querySelectorAll('#trees *')].every(element => "
                             "[...element.attributes].every(({ name }) => !name.startsWith('on')))")
        page.wait_for_timeout(200)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_narrow_screen_only_the_drawing_scrolls(chromium, report, scheme):
    with visit(chromium, report, width=400, scheme=scheme) as seen:
        page = seen.page
        box = page.locator("#tree-box")
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")
        for tree in range(4):
            page.locator("#tree-choice").select_option(str(tree))
            page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
            widest = page.evaluate("""() => Math.max(...[...document.querySelectorAll(".node")].map((node) => {
                node.dispatchEvent(new Event("click"));
                document.querySelectorAll("#node details").forEach((details) => { details.open = true; });
                return document.documentElement.scrollWidth;
            }))""")
            assert widest <= 400
        page.locator("#tree-choice").select_option("0")
        node(page, "0.3.0").click()
        one, other = boxes(page, "#node .side.base", "#node .side.trained")
        assert one["x"] == other["x"] and one["y"] + one["height"] < other["y"], "stacked"
        page.keyboard.press("ArrowRight")
        node(page, "0.0.0.0").focus()
        page.keyboard.press("ArrowDown")
        inside = page.evaluate("""() => {
            const box = document.getElementById("tree-box").getBoundingClientRect();
            const node = document.activeElement.getBoundingClientRect();
            return node.left >= box.left && node.right <= box.right;
        }""")
        assert inside, "the focused node is scrolled into the box"


def test_on_paper_the_drawing_fits_and_the_table_of_nodes_is_open(chromium, report):
    with visit(chromium, report, width=720) as seen:
        page = seen.page
        page.emulate_media(media="print")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#tree-box").evaluate("box => box.scrollWidth <= box.clientWidth")
        rows = page.locator(".tree-table tbody tr")
        assert rows.count() == page.locator(".node").count() - 1 and rows.last.is_visible()
        assert not page.locator("#tree-choice").is_visible() and page.locator("#tree-request").is_visible()
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")


def test_the_colour_of_a_score_follows_the_readers_setting(chromium, report):
    fills: dict[str, str] = {}
    for scheme in ("light", "dark"):
        with visit(chromium, report, scheme=scheme) as seen:
            fills[scheme] = node(seen.page, "0.0.0").locator(".shape").evaluate("shape => getComputedStyle(shape).fill")
    assert fills["light"] != fills["dark"]
