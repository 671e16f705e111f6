"""Exported corrections, as their readers take them."""

import pytest
from sample import BRIDGE, CHINESE, REVISED, plain, sample_trees, script_tree

from lpo.annotate import inspection, views, work
from lpo.annotate.export import export
from lpo.annotate.scripts import scripts_of
from lpo.annotate.store import Store
from lpo.build_config import BuildConfig
from lpo.pair_builders.corrections_file import load_corrections
from lpo.segment_pairs import IterMode
from lpo.storage import read_jsonl, write_jsonl
from lpo.trainers.iter_rows import expand_rows, read_segments
from lpo.writing_config import SegmentsConfig

TREES = [*sample_trees()[:3], script_tree("short", "Write one line.", plain(["One line."]))]
VOTE = "## The vote\n\nEight to three."


class Team:
    """Annotators and inspectors at work on a store, at one step a second."""

    def __init__(self, store):
        self.store, self.now = store, 1000.0

    def do(self, act, *arguments, **values):
        self.now += 1
        with self.store.writing() as db:
            return act(db, self.now, *arguments, **values)

    def view(self, script, name):
        with self.store.reading() as db:
            return views.script_view(db, script, name)

    def correct(self, name, script, texts=None, finish=True):
        for index, segment in enumerate(self.view(script, name)["segments"]):
            text = (texts or {}).get(index, segment["text"])
            self.do(work.save, work.Edit(script, index, name, text, "", True, segment["version"], f"tab-{self.now}", 1,
                                         30.0))
        if finish:
            self.do(work.finish, script, name, self.view(script, name)["version"])

    def decide(self, inspector, script, name, accept, reason=""):
        self.do(inspection.decide, inspector, script=script, annotator=name, accept=accept, reason=reason,
                version=self.view(script, name)["version"])

    def export(self, **options):
        with self.store.reading() as db:
            return export(db, **options)


@pytest.fixture
def team(tmp_path):
    store = Store(tmp_path / "annotations.sqlite")
    store.sync(scripts_of(TREES, lambda text: [text]).scripts)
    yield Team(store)
    store.close()


def test_only_finished_scripts_are_exported_and_all_are_counted(team):
    team.correct("Ann", 1, {2: VOTE, 3: ""})
    team.correct("Bob", 2, finish=False)
    made = team.export()
    assert [row["id"] for row in made.rows] == ["bridge"]
    assert made.left_out == {"are not finished": 1, "were not begun": 2}
    assert len(made.rows) + made.left_out.total() == len(TREES)
    row = made.rows[0]
    assert row["segments_original"] == BRIDGE
    assert row["segments_revised"] == [BRIDGE[0], REVISED, f"{VOTE}\n\n", "", BRIDGE[4]]
    assert (row["annotator"], row["accepted_by"], row["seconds"], row["ends"]) == ("Ann", None, 150, True)
    assert made.lines() == ["1 of 4 scripts in the export", "  left out: 2 were not begun",
                            "  left out: 1 are not finished"]


def test_of_two_versions_the_later_one_is_taken_and_the_other_counted(team):
    team.correct("Bob", 3, {0: "鲍勃。"})
    team.correct("Ann", 3, {0: "安。"})
    made = team.export()
    assert [row["annotator"] for row in made.rows] == ["Ann"] and made.other_versions == 1
    assert made.rows[0]["segments_revised"] == ["安。", *CHINESE[1:]]


def test_once_somebody_inspects_accepted_versions_alone_count(team):
    team.correct("Ann", 1)
    team.correct("Bob", 1, {0: "Bob's."})
    team.correct("Ann", 2, {0: "Ann's."})
    team.correct("Ann", 3, {0: "Ann's."})
    assert len(team.export().rows) == 3 and not team.export(accepted_only=True).rows
    team.decide("Ivy", 1, "Ann", True)
    team.decide("Ivy", 3, "Ann", False, "Try again.")
    made = team.export()
    assert [(row["id"], row["annotator"], row["accepted_by"]) for row in made.rows] == [("bridge", "Ann", "Ivy")]
    assert made.left_out == {"wait for an inspector": 1, "were sent back by an inspector": 1, "were not begun": 1}
    assert made.other_versions == 1 and made.accepted_only
    assert team.export(accepted_only=True).rows == made.rows


def test_scripts_left_as_they_are_are_exported_and_counted(team):
    team.correct("Ann", 4)
    made = team.export()
    assert made.unchanged == 1 and made.rows[0]["segments_revised"] == made.rows[0]["segments_original"]


@pytest.fixture
def exported(team, tmp_path):
    team.correct("Ann", 1, {2: VOTE, 3: ""})
    team.correct("Ann", 2, {0: "<b>harmless</b>"})
    team.correct("Bob", 3, {1: "水珠滴下来。"})
    team.correct("Bob", 4)
    write_jsonl(tmp_path / "corrections.jsonl", team.export().rows)
    return tmp_path / "corrections.jsonl"


def test_the_trainer_reads_an_export(exported):
    rows = read_jsonl(exported)
    for row in rows:
        original, revised = read_segments(row, row["id"])
        assert len(original) == len(revised)
    expansion = expand_rows(rows, IterMode.PREFIX)
    assert [(row.id, row.reason.value) for row in expansion.refused] == [("short", "equal_texts")]
    assert expansion.n_glued == 0
    ids = {row["id"].split("/")[0] for row in expansion.rows}
    assert ids == {"bridge", "attack", "market"}
    last = next(row for row in expansion.rows if row["id"] == "bridge/5")
    assert last["chosen"] == "".join([BRIDGE[0], REVISED, f"{VOTE}\n\n", BRIDGE[4]]) and last["chosen_ends"]
    assert last["rejected"] == "".join(BRIDGE)
    assert last["prompt"][1]["content"].startswith("Minutes of 1974")


def test_another_run_reads_an_export(exported):
    corrections = load_corrections(exported, SegmentsConfig())
    prompts = [tree.prompt for tree in TREES]
    assert corrections.unmatched(prompts) == []
    without_ids = [prompt.model_copy(update={"id": f"other {number}"}) for number, prompt in enumerate(prompts)]
    rows = read_jsonl(exported)
    write_jsonl(exported, [{name: value for name, value in row.items() if name != "id"} for row in rows])
    for found, asked in ((corrections, prompts), (load_corrections(exported, SegmentsConfig()), without_ids)):
        for row, prompt in zip(rows, asked, strict=True):
            script = found.script(prompt)
            assert script is not None and script.ends
            assert [one.original for one in script.segments] == row["segments_original"]
            assert [one.revised for one in script.segments] == row["segments_revised"]


def test_pairs_of_an_export_and_of_the_trainer_agree(exported):
    """Two roads from one export: through the trainer's own rows, and through the build of another run."""
    from lpo.pair_builders.deriving import rows_of

    corrections = load_corrections(exported, SegmentsConfig())
    build = BuildConfig.model_validate({"method": "iterdpo", "correction": {"by": "file", "file": str(exported)}})
    built = [(pair.chosen, pair.rejected, pair.chosen_ends) for tree in TREES for pair in rows_of(
        tree.model_copy(update={"script": corrections.script(tree.prompt), "nodes": tree.nodes[:1]}), build).pairs]
    trained = [(row["chosen"], row["rejected"], row["chosen_ends"])
               for row in expand_rows(read_jsonl(exported), IterMode.PREFIX).rows]
    assert built == trained and len(built) > 8
