"""The page in a real browser: Debian's Chromium, driven by Playwright over pipes; the page opens from file://."""

import http.server
import threading
from pathlib import Path
from typing import Any

import pytest
from browsing import visit
from sample_run import ATTACKS, make_run

from lpo.report import write_report
from lpo.storage import read_jsonl

pytestmark = pytest.mark.browser

@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "quickstart")
    write_report(folder)
    return folder


def test_the_page_opens_from_a_file_without_errors_requests_or_dialogs(chromium, run_dir):
    with visit(chromium, run_dir / "report.html") as seen:
        seen.page.wait_for_timeout(300)
        assert seen.page.title() == "quickstart – lpo report"
        assert seen.page.locator("#browser").is_visible()


def test_pairs_are_paged_by_click_and_by_key(chromium, run_dir):
    pairs = read_jsonl(run_dir / "pairs.jsonl")
    with visit(chromium, run_dir / "report.html") as seen:
        page = seen.page
        position, chosen = page.locator("#position"), page.locator("#chosen")
        assert position.inner_text() == f"Pair 1 of {len(pairs)}"
        assert page.locator("#previous").is_disabled()
        page.locator("#next").click()
        assert position.inner_text() == f"Pair 2 of {len(pairs)}"
        assert chosen.text_content() == pairs[1]["chosen"]
        assert page.locator("#rejected").text_content() == pairs[1]["rejected"]
        assert page.locator("#prefix").text_content() == pairs[1]["prefix"]
        page.locator("#pair").click()
        page.keyboard.press("ArrowRight")
        assert chosen.text_content() == pairs[2]["chosen"]
        page.keyboard.press("ArrowLeft")
        assert position.inner_text() == f"Pair 2 of {len(pairs)}"
        for _ in range(len(pairs) + 3):
            page.keyboard.press("ArrowRight")
        assert position.inner_text() == f"Pair {len(pairs)} of {len(pairs)}"
        assert page.locator("#next").is_disabled()


def test_arrow_keys_do_nothing_while_the_pairs_are_out_of_view(chromium, run_dir):
    with visit(chromium, run_dir / "report.html") as seen:
        seen.page.evaluate("window.scrollTo(0, 0)")
        seen.page.keyboard.press("ArrowRight")
        assert seen.page.locator("#position").inner_text().startswith("Pair 1 of")


def test_filters_by_prompt_and_margin_keep_what_they_should(chromium, run_dir):
    pairs = read_jsonl(run_dir / "pairs.jsonl")
    soil = [pair for pair in pairs if pair["group"] == "soil"]
    margins = sorted(pair["margin"] for pair in soil)
    with visit(chromium, run_dir / "report.html") as seen:
        page = seen.page
        page.locator("#filter-prompt").select_option("soil")
        assert page.locator("#position").inner_text() == f"Pair 1 of {len(soil)}"
        assert page.locator("#chosen").text_content() == soil[0]["chosen"]
        least = (margins[0] + margins[1]) / 2
        page.locator("#filter-margin").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", least)
        assert page.locator("#position").inner_text() == f"Pair 1 of {len(soil) - 1}"
        page.locator("#filter-margin").evaluate(
            "slider => { slider.value = slider.max; slider.dispatchEvent(new Event('input')); }")
        if margins[-1] < max(pair["margin"] for pair in pairs):
            assert page.locator("#nothing").is_visible() and not page.locator("#pair").is_visible()
            assert page.locator("#position").inner_text() == "No pair"


def test_texts_that_attack_are_shown_and_never_run(chromium, run_dir):
    with visit(chromium, run_dir / "report.html") as seen:
        page = seen.page
        page.locator("#filter-prompt").select_option("attack")
        page.locator("#next").click()
        shown = page.locator("#chosen").text_content()
        for text in ATTACKS:
            assert text in shown
        assert ATTACKS[0] in page.locator("#request").inner_text()
        assert page.locator("#chosen").is_visible() and page.locator("#chosen script, #chosen img").count() == 0
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        assert page.get_by_text(ATTACKS[3]).first.is_visible()
        assert page.locator("main script, main img").count() == 0
        page.wait_for_timeout(300)


def test_the_judgement_of_a_pair_is_drawn(chromium, run_dir):
    with visit(chromium, run_dir / "report.html") as seen:
        page = seen.page
        names = page.locator("#principles th").all_inner_texts()
        assert [name.lower() for name in names] == ["expected grade", "accuracy", "purpose", "harmless", "consistency",
                                                    "breadth", "reading", "insight", "length"]
        assert page.locator("#principles .score-bar").count() == 18
        assert page.locator("#principles .grades").count() == 14
        assert page.locator("#siblings circle").count() == 4
        assert page.locator("#pair-facts .margin").inner_text().startswith("margin +0.")
        assert "the answer goes on" in page.locator("#chosen-facts").inner_text()
        page.keyboard.press("Tab")
        page.locator("#filter-prompt").select_option("harbour")
        page.locator("#next").click()
        page.locator("#next").click()
        assert "ends the answer here" in page.locator("#chosen-facts").inner_text()
        assert page.locator("#chosen mark").count() >= 1 and page.locator("#chosen .shared").count() >= 1
        assert page.locator("#chosen .shared").first.inner_text().startswith("And so it went on.")


@pytest.mark.parametrize("width", [360, 768, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways(chromium, run_dir, width, scheme):
    with visit(chromium, run_dir / "report.html", width=width, scheme=scheme) as seen:
        page = seen.page
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        pairs = int(page.locator("#position").inner_text().split()[-1])
        for _ in range(pairs):
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width
            page.evaluate("document.getElementById('next').click()")


def test_dark_follows_the_readers_setting(chromium, run_dir):
    grounds: dict[str, str] = {}
    for scheme in ("light", "dark"):
        with visit(chromium, run_dir / "report.html", scheme=scheme) as seen:
            grounds[scheme] = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
            stroke = seen.page.evaluate("getComputedStyle(document.querySelector('svg .trained.stroke')).stroke")
            assert stroke == {"light": "rgb(15, 111, 102)", "dark": "rgb(79, 195, 179)"}[scheme]
    assert grounds["light"] != grounds["dark"]


def test_the_keyboard_reaches_the_pager_and_focus_is_visible(chromium, run_dir):
    with visit(chromium, run_dir / "report.html") as seen:
        page = seen.page
        page.locator("#filter-margin").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "next"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert page.locator("#position").inner_text().startswith("Pair 2 of")


def test_on_paper_controls_go_and_texts_are_whole(chromium, run_dir):
    with visit(chromium, run_dir / "report.html") as seen:
        page = seen.page
        page.emulate_media(media="print")
        assert not page.locator(".controls").is_visible() and not page.locator("nav").is_visible()
        assert page.locator("#chosen").evaluate("text => getComputedStyle(text).maxHeight") == "none"
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details.answer:not([open])").count() == 0
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.locator("details.answer:not([open])").count() == 8


@pytest.mark.parametrize("stages", [(), ("build",), ("build", "train")])
def test_an_unfinished_run_opens_without_errors(chromium, tmp_path, stages):
    report = write_report(make_run(tmp_path / "part", stages=stages))
    with visit(chromium, report, width=360) as seen:
        assert seen.page.get_by_text("it does what is left").first.is_visible()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_policy_holds_even_against_markup_that_gets_in(chromium, run_dir):
    """Were the escaping ever to fail, an inline script, an event handler and an image must still do nothing."""
    hits: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"reached")

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    page = chromium.new_page()
    try:
        page.goto((run_dir / "report.html").as_uri())
        page.evaluate("""address => {
            const script = document.createElement("script");
            script.textContent = "window.acted = 'script'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", `<img src="${address}/image.png">
                <p id="trap" onclick="window.acted = 'handler'">trap</p><iframe src="${address}/frame"></iframe>`);
            document.getElementById("trap").click();
            fetch(`${address}/fetch`).catch(() => {});
        }""", address)
        page.wait_for_timeout(500)
        assert page.evaluate("window.acted") is None
        assert hits == []
        page.goto(f"{address}/reachable")
        assert "/reachable" in hits, "the server could not be reached at all, so the test shows nothing"
    finally:
        page.close()
        server.shutdown()
        server.server_close()
