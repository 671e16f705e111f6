"""The pages in a real browser, against the real server: typing, kills, two tabs, two people, inspection, attacks."""

import json
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample import ATTACKS, BRIDGE, CHINESE, REVISED, Serving, make_run

from lpo.storage import read_jsonl
from lpo.words import count_words

pytestmark = pytest.mark.browser
KEY = "canary-KEY-of-the-browser"


class Person:
    """A browser profile of its own, and everything that happened in it."""

    def __init__(self, chromium, serving, width=1400, scheme="light"):
        self.serving = serving
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.context.set_default_timeout(20_000)
        self.errors, self.requests, self.dialogs = [], [], []

    def tab(self, path=None):
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning")
                and "Failed to load resource" not in message.text else None)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.accept()))
        page.goto(self.serving.base + path if path else f"{self.serving.base}/?key={KEY}")
        return page


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    made = Serving(make_run(tmp_path_factory.mktemp("runs") / "bridges"), "--token-env", "ANNOTATE_KEY",
                   ANNOTATE_KEY=KEY)
    yield made
    made.stop()


@pytest.fixture
def person(chromium, serving):
    people = []

    def made(**options):
        people.append(Person(chromium, serving, **options))
        people[-1].tab().close()
        return people[-1]

    yield made
    for one in people:
        one.context.close()
        assert one.errors == [] and one.dialogs == []
        assert {url.split("/")[2] for url in one.requests if not url.startswith("data:")} \
            <= {f"127.0.0.1:{serving.port}"}


def stored(serving, name, segment, script=1):
    with sqlite3.connect(serving.run / "annotations.sqlite") as db:
        row = db.execute("SELECT text FROM edits WHERE script = ? AND annotator = ? AND segment = ?",
                         (script, name, segment)).fetchone()
    db.close()
    return row[0] if row else None


def saved(page):
    """Wait until the page says that everything is saved."""
    page.locator("#save-state[data-kind=saved]").wait_for()


def settled(page):
    """Wait until a page has shown its script."""
    page.locator("#segment-title:not(:empty)").wait_for()
    return page


def shows(field, value):
    """Wait until a field holds a text."""
    from playwright.sync_api import expect

    expect(field).to_have_value(value, timeout=20_000)


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_typing_is_saved_without_a_button_and_found_again(person, serving):
    page = settled(person().tab("/annotate?script=1&as=Ada"))
    assert page.locator("#box").input_value() == BRIDGE[0].rstrip()
    page.keyboard.press("Control+End")
    page.keyboard.type(" Nobody knows why.")
    saved(page)
    assert page.locator("#save-state").inner_text().startswith("Saved ")
    assert stored(serving, "Ada", 0) == f"{BRIDGE[0].rstrip()} Nobody knows why."
    assert page.locator("#words").inner_text() == f"{count_words(BRIDGE[0]) + 3} words"
    assert texts(page, "#diff ins") == [" Nobody knows why."] and page.locator("#diff del").count() == 0
    page.keyboard.press("Alt+ArrowDown")
    assert page.locator("#before").inner_text().endswith("Nobody knows why.")
    page.locator("#note").fill("Eight to three, I think.")
    page.reload()
    settled(page)
    assert page.locator("#segment-title").inner_text() == "Segment 2 of 5"
    assert page.locator("#box").input_value() == REVISED.rstrip(), "the model's revision"
    assert page.locator("#note").input_value() == "Eight to three, I think.", "sent as the page ended"
    assert texts(page, "#faults b") == ["Repetition", "Facts"] and texts(page, "#original mark")[1] == "nine to two"
    page.locator("#document-box summary").click()
    assert page.locator("#document").inner_text().startswith("Minutes of 1974")


def test_a_killed_server_comes_back_and_the_open_page_goes_on(person, serving):
    one = person()
    page = settled(one.tab("/annotate?script=1&as=Bea"))
    serving.kill()
    page.keyboard.type("First. ")
    page.locator("#save-state[data-kind=failing]").wait_for()
    page.locator("#live", has_text="Not saved").wait_for()
    assert stored(serving, "Bea", 0) is None
    page.keyboard.press("Alt+ArrowDown")
    page.keyboard.type("Second. ")
    serving.start()
    saved(page)
    assert stored(serving, "Bea", 0).startswith("First. ") and stored(serving, "Bea", 1).startswith("Second. ")
    page.locator("#live", has_text="Saved").wait_for()

    serving.kill()
    page.keyboard.type("Third. ")
    page.locator("#save-state[data-kind=failing]").wait_for()
    page.close(run_before_unload=False)
    serving.start()
    page = settled(one.tab("/annotate?script=1&as=Bea&segment=2"))
    assert "Third. " in page.locator("#box").input_value(), "kept in the browser"
    saved(page)
    assert "Third. " in stored(serving, "Bea", 1)


def test_everything_goes_by_keyboard(person, serving):
    page = settled(person().tab("/annotate?script=1&as=Cleo"))
    press, box = page.keyboard.press, page.locator("#box")
    title = page.locator("#segment-title")
    assert page.evaluate("document.activeElement.id") == "box"
    press("Alt+ArrowDown")
    assert title.inner_text() == "Segment 2 of 5" and page.evaluate("document.activeElement.id") == "box"
    press("Alt+KeyR")
    assert box.input_value() == BRIDGE[1].rstrip()
    page.locator("#undo").press("Enter")
    assert box.input_value() == REVISED.rstrip()
    press("Alt+KeyX")
    assert box.input_value() == "" and page.locator("#struck").is_visible()
    press("Alt+KeyR")
    press("Alt+KeyN")
    page.keyboard.type("Checked.")
    press("Alt+KeyT")
    assert page.evaluate("document.activeElement.id") == "box"
    press("Alt+ArrowUp")
    assert title.inner_text() == "Segment 1 of 5"
    press("Alt+KeyI")
    assert "Not done yet: 1, 2, 3, 4, 5" in page.locator("#banner").inner_text()
    press("Control+Enter")
    press("Control+Enter")
    assert title.inner_text() == "Segment 3 of 5" and page.locator("#missing").is_visible()
    page.keyboard.type("## The vote\n\nEight to three.")
    for _ in range(3):
        press("Control+Enter")
    assert page.evaluate("document.activeElement.id") == "finish" and "5 of 5" in page.locator("#count").inner_text()
    press("Enter")
    page.locator("#go-on").wait_for()
    assert "Handed in" in page.locator("#banner").inner_text() and not box.is_editable()
    assert page.evaluate("document.activeElement.id") == "go-on"
    assert stored(serving, "Cleo", 2) == "## The vote\n\nEight to three." and stored(serving, "Cleo", 3) == (
        BRIDGE[3].rstrip().replace("\r\n", "\n"))
    press("Control+Slash")
    assert len(texts(page, "#help dt")) == 9 and page.locator("#help").is_visible()
    press("Escape")
    assert not page.locator("#help").is_visible()
    page.locator("#take-back").click()
    page.locator("#box:not([readonly])").wait_for()


def test_two_people_get_two_scripts_and_keep_their_own_texts(person, serving):
    pages = []
    for name in ("Dora", "Emil"):
        page = person().tab("/")
        page.locator("#name").fill(name)
        page.locator("#who button[type=submit]").click()
        pages.append(settled(page))
    assert len({page.url.split("script=")[1].split("&")[0] for page in pages}) == 2
    for page, name in zip(pages, ("Dora", "Emil"), strict=True):
        page.goto(f"{serving.base}/annotate?script=3&as={name}")
        settled(page)
    for page, name in zip(pages, ("Dora", "Emil"), strict=True):
        page.locator("#box").fill(f"{name}的早市。")
    for page, name in zip(pages, ("Dora", "Emil"), strict=True):
        saved(page)
        assert stored(serving, name, 0, script=3) == f"{name}的早市。"
        page.reload()
        assert settled(page).locator("#box").input_value() == f"{name}的早市。"
    pages[0].goto(f"{serving.base}/")
    pages[0].locator(".chip").first.wait_for()
    assert {"begun by Dora · 0/3 · at work", "begun by Emil · 0/3 · at work"} <= set(texts(pages[0], ".chip"))


def test_two_tabs_of_one_person_ask_which_text_to_keep(person, serving):
    one = person()
    first, second = (settled(one.tab("/annotate?script=3&as=Fay")) for _ in range(2))
    first.locator("#box").fill("甲。")
    saved(first)
    second.locator("#box").fill("乙。")
    second.locator("#conflict").wait_for()
    assert (second.locator("#theirs").inner_text(), second.locator("#mine").inner_text()) == ("乙甲。", "甲乙。")
    assert texts(second, "#theirs ins") == ["甲"] and texts(second, "#mine ins") == ["乙"]
    second.keyboard.press("Escape")
    assert second.locator("#conflict").is_visible(), "a choice is due"
    second.locator("#keep-mine").click()
    saved(second)
    assert stored(serving, "Fay", 0, script=3) == "乙。"
    first.locator("#box").fill("丙。")
    first.locator("#take-theirs").click()
    assert first.locator("#box").input_value() == "乙。" and stored(serving, "Fay", 0, script=3) == "乙。"
    first.locator("#box").fill("丁。")
    saved(first)
    second.evaluate("window.dispatchEvent(new Event('focus'))")
    shows(second.locator("#box"), "丁。")


def test_an_inspector_sends_back_the_annotator_mends_and_it_is_exported(person, serving, tmp_path):
    annotator, inspector = person(), person()
    page = settled(annotator.tab("/annotate?script=4&as=Gil"))
    page.locator("#box").fill("# Bees\n\nBees danse.")
    page.locator("#note").fill("Is this right?")
    for _ in range(3):
        page.keyboard.press("Control+Enter")
    page.locator("#finish").click()
    page.locator("#go-on").wait_for()

    review = inspector.tab("/inspect?as=Ivy&script=4&annotator=Gil")
    review.locator("#segments > li").first.wait_for()
    assert texts(review, "#segments .chip") == ["changed", "unchanged", "unchanged"]
    assert texts(review, "#segments del") == ["dance"] and texts(review, "#segments ins") == ["danse"]
    assert "Note: Is this right?" in review.locator("#segments > li").first.inner_text()
    review.keyboard.press("Alt+ArrowDown")
    review.keyboard.press("Alt+KeyX")
    review.keyboard.type("It is spelt dance.")
    review.keyboard.press("Enter")
    review.locator(".remark.warning").wait_for()
    assert review.locator("#accept").is_disabled()
    review.keyboard.press("Alt+KeyB")
    review.locator("#banner", has_text="Sent back. Nothing else waits.").wait_for()

    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.locator("#rejected:not([hidden])").wait_for()
    assert page.locator("#rejected").inner_text() == "Ivy wants a change here: It is spelt dance."
    assert "Sent back by Ivy" in page.locator("#banner").inner_text()
    page.locator("#box").fill("# Bees\n\nAll bees dance.")
    page.keyboard.press("Control+Enter")
    page.locator("#finish").click()
    page.locator("#go-on").wait_for()

    review.goto(f"{serving.base}/inspect?as=Ivy&script=4&annotator=Gil")
    review.locator("#segments > li").first.wait_for()
    assert "".join(texts(review, "#segments ins")) == "All bees" and "".join(texts(review, "#segments del")) == "Bees"
    review.locator("#history-box summary").click()
    assert [line.split(" · ")[1:] for line in texts(review, "#history li")] == [
        ["Gil", "opened"], ["Gil", "handed in"], ["Ivy", "segment rejected (segment 1): It is spelt dance."],
        ["Ivy", "returned"], ["Gil", "handed in"]]
    review.keyboard.press("Control+Enter")
    review.locator("#banner", has_text="Accepted. Nothing else waits.").wait_for()

    review.goto(f"{serving.base}/?as=Ivy")
    with review.expect_download() as download:
        review.locator("a.button").click()
    download.value.save_as(tmp_path / "corrections.jsonl")
    rows = [row for row in read_jsonl(tmp_path / "corrections.jsonl") if row["id"] == "bees"]
    assert rows[0]["segments_revised"][0] == "# Bees\n\nAll bees dance.\n\n"
    assert (rows[0]["annotator"], rows[0]["accepted_by"]) == ("Gil", "Ivy")
    assert "only those that an inspector accepted" in review.locator("#export-lines").inner_text()


def test_texts_are_texts_on_every_page(person, serving):
    """Nothing a model, an annotator or an inspector writes becomes markup; `person` looks for dialogs and requests."""
    one = person()
    name = "<img src=x onerror=alert(3)>"
    page = settled(one.tab("/annotate?" + "script=2&as=" + name.replace(" ", "%20")))
    for index, attack in enumerate(ATTACKS):
        assert page.locator("#original").text_content() == attack
        assert page.locator("#faults li span").text_content().strip() == attack.strip()
        page.locator("#box").fill(attack + attack)
        page.locator("#note").fill(attack)
        assert page.locator("#diff").text_content() == attack + attack
        page.keyboard.press("Control+Enter")
        if index + 1 < len(ATTACKS):
            assert page.locator("#before").text_content().endswith((attack + attack).strip())
    page.locator("#finish").click()
    page.locator("#go-on").wait_for()
    review = one.tab("/inspect?" + "script=2&as=Ivy&annotator=" + name.replace(" ", "%20"))
    review.locator("#segments > li").first.wait_for()
    for index, attack in enumerate(ATTACKS):
        assert review.locator("#segments .diff").nth(index).text_content() == attack + attack
    review.locator("#reason").fill(ATTACKS[0])
    review.locator("#send-back").click()
    review.locator("#banner:not([hidden])").wait_for()
    overview = one.tab("/")
    overview.locator(".script").nth(1).wait_for()
    assert overview.locator(".script a").nth(1).text_content() == f"Describe {ATTACKS[0]} and {ATTACKS[1]}."
    assert f"sent back to {name}" in texts(overview, ".chip")
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.locator("#banner.warning").wait_for()
    assert ATTACKS[0] in page.locator("#banner").text_content()
    for shown in (page, review, overview):
        assert shown.evaluate("document.querySelectorAll('main script, main img, main [onload], main [x]').length") == 0


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light")])
def test_pages_fit_and_every_control_has_a_name(person, serving, width, scheme):
    one = person(width=width, scheme=scheme)
    page = one.tab("/?as=Hal")
    for path in ("/?as=Hal", "/annotate?script=1&as=Hal&segment=2", "/annotate?script=2&as=Hal",
                 "/inspect?as=Ivy&script=2&annotator=Hal"):
        page.goto(serving.base + path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        nameless = page.evaluate("""() => [...document.querySelectorAll('button, a, input, textarea, [role=region]')]
            .filter((one) => one.checkVisibility() && !(one.innerText || '').trim() && !one.getAttribute('aria-label')
                && !(one.labels && one.labels.length)).map((one) => one.outerHTML)""")
        assert nameless == [], path
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == {
        "light": "rgb(250, 248, 243)", "dark": "rgb(21, 23, 26)"}[scheme]


def test_words_are_counted_and_compared_as_in_python(person):
    page = person().tab("/")
    load = "const words = await import('/assets/words.js');"

    @settings(max_examples=5, deadline=None)
    @given(st.lists(st.tuples(*[st.text(alphabet="ab é好早_1.’- \n", max_size=25)] * 2), min_size=60, max_size=60))
    def compare(pairs):
        found = page.evaluate(f"async (pairs) => {{ {load} return pairs.map(([before, after]) => "
                              "[words.countWords(before), words.diffWords(before, after)]); }", pairs)
        for (before, after), (count, pieces) in zip(pairs, found, strict=True):
            assert count == count_words(before), json.dumps(before)
            assert "".join(one["text"] for one in pieces if one["kind"] != "ins") == before
            assert "".join(one["text"] for one in pieces if one["kind"] != "del") == after

    compare()
    bound = page.evaluate(f"async () => {{ {load} const text = 'word '.repeat(200000); "
                          "return words.diffWords(text + 'a', 'b ' + text).length; }")
    assert bound >= 2, "a long segment is compared all the same"
    assert len(CHINESE) == 3
