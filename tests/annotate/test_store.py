"""The data base of annotations: nobody overwrites anybody, scripts are shared out, nothing is forgotten."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from sample import plain, sample_trees, script_tree

from lpo.annotate import inspection, views, work
from lpo.annotate.scripts import scripts_of
from lpo.annotate.store import Store, history
from lpo.annotate.work import Conflict, Edit, OutdatedError, Saved
from lpo.errors import ConfigError, DataError

TREES = sample_trees()


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    made = Store(tmp_path / "annotations.sqlite", clock)
    made.sync(scripts_of(TREES, lambda text: [text]).scripts)
    yield made
    made.close()


def edit(annotator="Ann", text="New.", *, script=3, segment=0, base=0, tab="tab-one", sequence=1, done=False, note="",
         seconds=0.0):
    return Edit(script, segment, annotator, text, note, done, base, tab, sequence, seconds)


def save(store, *arguments, **values):
    with store.writing() as db:
        return work.save(db, store.clock(), edit(*arguments, **values))


def do(store, act, *arguments, **values):
    with store.writing() as db:
        return act(db, store.clock(), *arguments, **values)


def view(store, script=3, annotator="Ann"):
    with store.reading() as db:
        return views.script_view(db, script, annotator)


def hand_in(store, script=3, annotator="Ann"):
    for index, segment in enumerate(view(store, script, annotator)["segments"]):
        answer = save(store, annotator, f"{annotator} {index}", script=script, segment=index, done=True, tab="hand-in",
                      sequence=1000 + index, base=segment["version"])
        assert isinstance(answer, Saved)
    do(store, work.finish, script, annotator, view(store, script, annotator)["version"])


def test_two_annotators_have_rows_of_their_own(store):
    save(store, "Ann", "Ann's")
    save(store, "Bob", "Bob's", tab="tab-two")
    assert view(store)["segments"][0]["text"] == "Ann's"
    assert view(store, annotator="Bob")["segments"][0]["text"] == "Bob's"
    untouched = view(store, annotator="Cy")["segments"]
    assert [one["text"] for one in untouched] == [one["prefilled"] for one in untouched]


def test_the_same_annotator_in_two_tabs_cannot_overwrite_what_a_tab_has_not_seen(store):
    assert save(store, text="one", tab="tab-one", sequence=1) == Saved(1, store.clock())
    refused = save(store, text="two", tab="tab-two", sequence=1, base=0)
    assert refused == Conflict("one", "", False, 1)
    assert save(store, text="two", tab="tab-two", sequence=2, base=1) == Saved(2, store.clock())
    assert isinstance(save(store, text="one more", tab="tab-one", sequence=2, base=1), Conflict)
    assert view(store)["segments"][0]["text"] == "two"
    with store.reading() as db:
        kept = [event["text_before"] for event in history(db, 3, "Ann") if event["what"] == "edited again"]
    assert kept == ["one"], "what was replaced stays in the history"


def test_a_save_that_comes_twice_or_late_changes_nothing(store):
    save(store, text="first", sequence=5)
    save(store, text="second", sequence=7)
    assert save(store, text="second", sequence=7) == Saved(2, store.clock())
    assert save(store, text="late", sequence=6) == Saved(2, store.clock())
    assert view(store)["segments"][0]["text"] == "second"


def test_working_time_is_counted_once(store):
    save(store, sequence=1, seconds=20.0)
    save(store, sequence=1, seconds=20.0)
    save(store, sequence=2, seconds=35.0, segment=1)
    save(store, tab="tab-two", sequence=1, base=1, seconds=10.0, text="Other.")
    assert view(store)["seconds"] == 45.0


def test_scripts_are_shared_out_and_the_lease_ends(store, clock):
    assert do(store, work.next_script, "Ann") == 1
    assert do(store, work.next_script, "Bob") == 2
    assert do(store, work.next_script, "Ann") == 1, "what one began comes first"
    assert [do(store, work.next_script, name) for name in ("Cy", "Di", "Ed")] == [3, 4, None]
    clock.now += work.LEASE_SECONDS - 1
    save(store, "Ann", script=1)
    assert do(store, work.next_script, "Ed") is None
    clock.now += 2
    assert do(store, work.next_script, "Ed") == 2, "Bob gave no sign of life"
    clock.now += work.LEASE_SECONDS + 1
    assert [do(store, work.next_script, name) for name in ("Flo", "Gus", "Hal")] == [2, 3, 4]
    assert do(store, work.next_script, "Ida") == 1, "begun scripts last"


def test_what_is_handed_in_is_not_handed_out(store, clock):
    hand_in(store, 1, "Ann")
    clock.now += 10 * work.LEASE_SECONDS
    assert [do(store, work.next_script, name) for name in ("Ann", "Bob")] == [2, 3]


def test_handing_in_wants_every_segment_done_and_ends_editing(store):
    save(store, done=True)
    with pytest.raises(DataError, match="2 of 3 segments are not marked as done, the first is 2"):
        do(store, work.finish, 3, "Ann", 1)
    hand_in(store)
    with pytest.raises(OutdatedError):
        save(store, text="too late", sequence=2000)
    assert view(store)["segments"][0]["text"] == "Ann 0"
    with store.reading() as db:
        assert [event["texts"] for event in history(db, 3, "Ann") if event["what"] == "handed in"] \
            == [["Ann 0", "Ann 1", "Ann 2"]]
    do(store, work.take_back, 3, "Ann", view(store)["version"])
    assert save(store, text="in time", tab="hand-in", sequence=3000) == Saved(3, store.clock())


def test_an_inspector_sends_back_and_accepts(store):
    hand_in(store)
    version = view(store)["version"]
    names = {"script": 3, "annotator": "Ann", "version": version}
    with pytest.raises(DataError, match="with a reason"):
        do(store, inspection.decide, "Ivy", accept=False, reason=" ", **names)
    do(store, inspection.mark, "Ivy", segment=1, reason="Wrong year.", **names)
    with pytest.raises(DataError, match="1 segments are rejected"):
        do(store, inspection.decide, "Ivy", accept=True, reason="", **names)
    do(store, inspection.decide, "Ivy", accept=False, reason="", **names)
    seen = view(store)
    assert seen["state"] == "returned" and seen["editable"] and seen["decided_by"] == "Ivy"
    assert [(one["rejected"], one["done"]) for one in seen["segments"]] \
        == [(None, True), ("Wrong year.", False), (None, True)]
    assert do(store, work.next_script, "Ann") == 3, "what came back comes first"
    with pytest.raises(OutdatedError):
        do(store, inspection.decide, "Ivy", accept=True, reason="", **names)
    save(store, text="Right year.", segment=1, base=seen["segments"][1]["version"], done=True, tab="tab-new")
    do(store, work.finish, 3, "Ann", view(store)["version"])
    assert view(store)["segments"][1]["rejected"] is None
    names["version"] = view(store)["version"]
    do(store, inspection.decide, "Ivy", accept=True, reason="", **names)
    with pytest.raises(OutdatedError, match="accepted"):
        do(store, work.take_back, 3, "Ann", view(store)["version"])
    with store.reading() as db:
        told = [(event["who"], event["what"]) for event in views.inspected_script(db, 3, "Ann")["history"]]
    assert told == [("Ann", "opened"), ("Ann", "handed in"), ("Ivy", "segment rejected"), ("Ivy", "returned"),
                    ("Ann", "handed in"), ("Ivy", "accepted")]


def test_what_was_rejected_stays_hidden_until_the_script_comes_back(store):
    hand_in(store)
    do(store, inspection.mark, "Ivy", script=3, annotator="Ann", version=view(store)["version"], segment=0,
       reason="No.")
    do(store, work.take_back, 3, "Ann", view(store)["version"])
    assert view(store)["segments"][0]["rejected"] is None


def test_the_history_can_only_grow(store):
    save(store)
    with pytest.raises(sqlite3.IntegrityError, match="only ever appended"), store.writing() as db:
        db.execute("UPDATE events SET who = 'nobody'")
    with pytest.raises(sqlite3.IntegrityError, match="only ever appended"), store.writing() as db:
        db.execute("DELETE FROM events")


def test_a_transaction_that_fails_leaves_nothing_and_the_next_one_works(store):
    with pytest.raises(RuntimeError), store.writing() as db:
        work.save(db, 0.0, edit())
        raise RuntimeError
    assert view(store)["segments"][0]["version"] == 0
    assert save(store) == Saved(1, store.clock())


def test_the_progress_counts_the_furthest_version_of_a_script(store):
    hand_in(store, 3, "Ann")
    save(store, "Bob", script=3, done=True)
    save(store, "Bob", script=4, done=True)
    with store.reading() as db:
        seen = views.overview(db, store.clock())
    assert seen["progress"] == {"scripts": 4, "finished": 1, "accepted": 0, "returned": 0, "segments": 15, "done": 4}
    assert [(one["annotator"], one["state"], one["done"], one["working"]) for one in seen["scripts"][2]["works"]] \
        == [("Ann", "finished", 3, False), ("Bob", "open", 1, True)]


def test_new_trees_are_added_and_worked_on_ones_must_not_change(store):
    scripts = scripts_of(TREES, lambda text: [text]).scripts
    more = scripts_of([script_tree("new", "Write.", plain(["One."]))], lambda text: [text]).scripts
    assert store.sync([*scripts, *more]).added == 1
    assert store.sync([*scripts[1:], *more]).added == 0, "nobody has worked on the first one"
    save(store, script=3)
    changed = [script if script.id != "market" else script.model_copy(update={"segments": script.segments[:1]})
               for script in scripts]
    for other in (changed, scripts[:2]):
        with pytest.raises(ConfigError, match=r"1 annotated scripts are no longer .*'market'"):
            store.sync(other)
    assert view(store)["segments"][0]["text"] == "New."


@pytest.mark.parametrize("content", [b"no data base at all, but long enough to be looked at" * 30, None])
def test_another_file_is_not_touched(tmp_path, content):
    path = tmp_path / "annotations.sqlite"
    if content is None:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE recipes (cake TEXT)")
        db.close()
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        Store(path)
    assert "set the file aside" in str(caught.value) and path.read_bytes() == content


def test_a_newer_schema_is_refused(store):
    with store.writing() as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(DataError, match="version 99"):
        Store(store.path)


class Saving(RuleBasedStateMachine):
    """Two annotators with two tabs each, whose saves come late, twice or after somebody else's."""

    tabs = Bundle("tabs")
    sent = Bundle("sent")

    @initialize()
    def begin(self):
        self.clock = Clock()
        self.store = Store(Path(":memory:"), self.clock)
        self.store.sync(scripts_of(TREES[2:3], lambda text: [text]).scripts)
        self.text = {}  # by (annotator, segment): what the last save left
        self.writer = {}  # who wrote it: tab and sequence
        self.version = {}
        self.seen = {}  # by (tab, segment): version the tab knows
        self.count = 0

    def teardown(self):
        self.store.close()

    @rule(target=tabs, annotator=st.sampled_from(["Ann", "Bob"]))
    def open_tab(self, annotator):
        self.count += 1
        tab = (annotator, f"tab-{self.count}")
        for segment in range(2):
            self.seen[tab, segment] = self.version.get((annotator, segment), 0)
        return tab

    @rule(target=sent, tab=tabs, segment=st.integers(0, 1), text=st.sampled_from("abc"))
    def type(self, tab, segment, text):
        """A save is made now and may arrive at any time."""
        self.count += 1
        return tab, segment, text, self.count, self.seen[tab, segment]

    @rule(message=sent)
    def arrive(self, message):
        (annotator, tab), segment, text, sequence, base = message
        key = annotator, segment
        before, writer = self.text.get(key), self.writer.get(key)
        others = {other: self.text.get(other) for other in self.text if other != key}
        answer = save(self.store, annotator, text, script=1, segment=segment, base=base, tab=tab, sequence=sequence)
        if writer is not None and writer[0] == tab:
            # Its own writing stands there: nothing of anybody else's can get lost.
            assert isinstance(answer, Saved)
            expected = text if sequence > writer[1] else before
        elif base == self.version.get(key, 0):
            assert isinstance(answer, Saved)
            expected = text
        else:
            assert isinstance(answer, Saved if text == before else Conflict)
            expected = before
        if isinstance(answer, Conflict):
            assert (answer.text, answer.version) == (before, self.version[key])
        else:
            self.seen[(annotator, tab), segment] = answer.version
        stored = view(self.store, 1, annotator)["segments"][segment]
        assert stored["text"] == expected
        if expected != before or stored["version"] != self.version.get(key, 0):
            assert stored["version"] == self.version.get(key, 0) + 1
            self.writer[key] = tab, sequence
        self.text[key], self.version[key] = expected, stored["version"]
        assert {other: self.text.get(other) for other in others} == others

    @rule(tab=tabs, segment=st.integers(0, 1))
    def look(self, tab, segment):
        self.seen[tab, segment] = self.version.get((tab[0], segment), 0)

    @invariant()
    def everybody_finds_their_own(self):
        for (annotator, segment), text in self.text.items():
            assert view(self.store, 1, annotator)["segments"][segment]["text"] == text


TestSaving = Saving.TestCase
TestSaving.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
