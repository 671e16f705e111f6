"""Search trees in the report: what is counted, where nodes are placed, what reaches the page."""

import json
import re
import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import ATTACKS, make_run
from sample_trees import REWRITTEN, TWELVE, WEAK
from test_report_page import Page, luminance, page_of

from lpo.errors import DataError
from lpo.records import RefinementOutcome, SearchTree
from lpo.report import write_report
from lpo.report.data import read_run
from lpo.report.tree_file import TreeFile
from lpo.report.tree_layout import FAMILIES_APART, SIBLINGS_APART, lay_out
from lpo.report.trees import TREE_BYTES, tree_entry, tree_section
from lpo.storage import read_jsonl, write_jsonl


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="module")
def page(run_dir) -> Page:
    return page_of(run_dir)


def trees_of(page: Page) -> list[dict]:
    """What the drawing is given."""
    stored = next(text for attributes, text in page.of("script") if attributes.get("id") == "tree-data")
    return json.loads(stored)["entries"]


@st.composite
def families(draw) -> dict[str, str | None]:
    """A tree as node to parent, siblings of one parent in order, layer after layer."""
    parents: dict[str, str | None] = {"0": None}
    layer = ["0"]
    for _ in range(draw(st.integers(0, 5))):
        layer = [f"{node}.{index}" for node in layer for index in range(draw(st.integers(0, 4)))]
        parents |= {node: node.rpartition(".")[0] for node in layer}
    return parents


@given(families())
def test_nodes_are_placed_without_touching_parents_in_the_middle_of_their_children(parents):
    places = lay_out(parents)
    assert set(places) == set(parents)
    assert min(place.row for place in places.values()) == 0
    layers: dict[int, list[str]] = {}
    for node in parents:
        assert places[node].layer == node.count(".")
        layers.setdefault(places[node].layer, []).append(node)
    for nodes in layers.values():  # in their order, so that no two edges cross
        for above, below in pairwise(nodes):
            apart = SIBLINGS_APART if parents[above] == parents[below] else FAMILIES_APART
            assert places[below].row - places[above].row >= apart - 0.01
    for node in parents:
        rows = [places[child].row for child, parent in parents.items() if parent == node]
        if rows:
            assert places[node].row == pytest.approx((min(rows) + max(rows)) / 2, abs=0.01)


def test_layers_that_one_node_each_goes_on_from_take_hardly_more_rows_than_one_layer():
    parents: dict[str, str | None] = {"0": None}
    node = "0"
    for depth in range(40):
        parents |= {f"{node}.{index}": node for index in range(4)}
        node = f"{node}.{1 + depth % 2}"
    assert max(place.row for place in lay_out(parents).values()) <= 5


def test_a_deep_tree_is_placed():
    chain = {str(depth): str(depth - 1) if depth else None for depth in range(1200)}
    assert {place.row for place in lay_out(chain).values()} == {0.0}
    assert lay_out(chain)["1199"].layer == 1199


def test_counts_are_those_of_all_trees(run_dir):
    trees = [SearchTree.model_validate(row) for row in read_jsonl(run_dir / "trees.jsonl")]
    nodes = [node for tree in trees for node in tree.nodes]
    counts = TreeFile.read(run_dir / "trees.jsonl").counts
    assert counts.trees == 4 and counts.candidates == sum(node.depth > 0 and not node.refines for node in nodes)
    assert counts.layers == len({(tree.id, node.parent) for tree in trees for node in tree.nodes if node.parent})
    assert counts.vetoed == sum(len(node.vetoes) > 0 for node in nodes) == 4
    assert counts.refinements == Counter({RefinementOutcome.ACCEPTED: 1, RefinementOutcome.NOT_BETTER: 2,
                                          RefinementOutcome.NO_CRITIQUE: 1})
    assert counts.set_aside["duplicate"] == 1 and counts.set_aside.total() == 2
    assert (counts.unscored, counts.failures["check"], counts.failures["facts"]) == (1, 1, 1)
    assert (counts.paths, counts.rollouts, counts.unscored_rollouts) == (5, 3, 2)


def test_the_counts_stand_above_the_trees(page):
    assert page.of("select")[-1][0]["id"] == "tree-choice"
    names = [text for _, text in page.of("dt")][-8:]
    values = [text for _, text in page.of("b")]
    details = [text for _, text in page.of("small")]
    assert names == ["trees", "layers", "candidates", "vetoed", "refined", "duplicates", "unscored", "failed checks"]
    start = values.index("48") - 2
    assert values[start:start + 8] == ["4", "12", "48", "4", "1", "1", "1", "1"]
    for said in ("against 11 extracted facts", "of 4 tried: 2 not better, 1 no critique",
                 "1 set aside for other reasons", "and 2 of 3 rollouts", "and 1 extraction of facts"):
        assert said in details, said
    meanings = [text for _, text in page.of("li") if "the search goes on from the rewritten step" in text]
    assert len(meanings) == 1


def test_every_node_reaches_the_page_letter_by_letter(page, run_dir):
    entries = {entry["id"]: entry for entry in trees_of(page)}
    for row in read_jsonl(run_dir / "trees.jsonl"):
        tree = SearchTree.model_validate(row)
        shown = {node["id"]: node for node in entries[tree.id]["nodes"]}
        assert set(shown) == {node.id for node in tree.nodes}
        names = [node["id"] for node in entries[tree.id]["nodes"]]
        for node in tree.nodes:
            entry = shown[node.id]
            assert entry.get("text", "") == node.text and entry.get("visits", 0) == node.visits
            assert (names[entry["parent"]] if "parent" in entry else None) == node.parent
            assert [fact for _, fact in entry.get("facts", [])] == [fact.text for fact in node.facts]
            assert [veto["quote"] for veto in entry.get("vetoes", [])] == [veto.quote for veto in node.vetoes]
            assert entry.get("failures", {}) == node.failures and entry.get("note") == node.note
        assert [[names[index] for index in path["nodes"]] for path in entries[tree.id]["paths"]] == [
            list(path.nodes) for path in tree.paths]


def test_a_veto_leads_to_the_step_its_fact_was_taken_from(page):
    tree = next(entry for entry in trees_of(page) if entry["id"] == "harbour")
    vetoed = next(node for node in tree["nodes"] if node["id"] == "0.0.2")
    assert vetoed["text"] == TWELVE
    assert tree["nodes"][vetoed["vetoes"][0]["from"]]["id"] == "0.0"


def test_a_rewritten_step_stands_below_its_original_with_the_difference_marked(page):
    tree = next(entry for entry in trees_of(page) if entry["id"] == "harbour")
    names = [node["id"] for node in tree["nodes"]]
    assert names[names.index("0.3.0") + 1] == "0.3.0r"
    original, rewritten, *lengths = tree["refined"][0]
    assert (names[original], names[rewritten]) == ("0.3.0", "0.3.0r")

    def shared(text: str, sizes: list[int]) -> list[str]:
        ends = [sum(sizes[:place + 1]) for place in range(len(sizes))]
        assert ends[-1] == len(text)
        return [text[end - size:end] for end, size in zip(ends, sizes, strict=True)][1::2]

    assert shared(WEAK, lengths[0]) == shared(REWRITTEN, lengths[1])
    assert shared(WEAK, lengths[0])[0].startswith("Marta looked at the light. The light was yellow")


def test_marks_count_as_the_pages_script_does(run_dir):
    tree = SearchTree.model_validate(read_jsonl(run_dir / "trees.jsonl")[0])
    text = "𝔘𝔫 fog 👩‍👩‍👧‍👦 came in from the sea. "
    nodes = tuple(node.model_copy(update={"text": f"{text}{node.text}"}) if node.id in ("0.3.0", "0.3.0r") else node
                  for node in tree.nodes)
    entry = tree_entry(tree.model_copy(update={"nodes": nodes}), 1, 10_000)
    for node, sizes in zip(entry["refined"][0][:2], entry["refined"][0][2:], strict=True):
        assert sum(sizes) == len(entry["nodes"][node]["text"].encode("utf-16-le")) // 2


def test_hostile_texts_are_data(page):
    tree = next(entry for entry in trees_of(page) if entry["id"] == "attack")
    assert [fact for _, fact in tree["nodes"][1]["facts"]] == list(ATTACKS)
    scripts = [attributes for attributes, _ in page.of("script")]
    assert len(scripts) == 3 and {attributes.get("id") for attributes in scripts} == {"pair-data", "tree-data", None}


def test_trees_of_an_older_version_open(tmp_path):
    folder = make_run(tmp_path / "older")
    kept = ("id", "parent", "depth", "text", "ends", "tokens", "mean_logprob", "judgement", "role", "note")
    rows = read_jsonl(folder / "trees.jsonl")
    write_jsonl(folder / "trees.jsonl", [
        {**{key: row[key] for key in ("id", "prompt", "method", "seed")},
         "nodes": [{key: node[key] for key in kept} for node in row["nodes"]]} for row in rows])
    page = page_of(folder)
    assert len(trees_of(page)) == 4 and "no step was tried" in page.text
    assert all(not entry["paths"] and not entry["refined"] for entry in trees_of(page))


@pytest.mark.parametrize("build", [
    {"prompts": 1},
    {"prompts": 1, "vetoed": 3, "refinements": {"accepted": 1}, "facts": 7, "unknown": [1]},
])
def test_a_build_summary_with_or_without_new_keys_is_read(tmp_path, build):
    folder = make_run(tmp_path / "summary")
    (folder / "build.json").write_text(json.dumps(build), encoding="utf-8")
    assert "against 11 extracted facts" in page_of(folder).text


def test_a_run_without_trees_says_so(tmp_path):
    folder = make_run(tmp_path / "given")
    (folder / "trees.jsonl").unlink()
    page = page_of(folder)
    assert "This run holds no search trees." in page.text and len(page.of("script")) == 2


def many(folder: Path, count: int, size: int) -> Path:
    """A run whose one tree is there `count` times, each step `size` characters long."""
    make_run(folder, stages=("build",))
    row = read_jsonl(folder / "trees.jsonl")[0]
    nodes = [{**node, "text": ("茶<&' " * size)[:size] if node["text"] else ""} for node in row["nodes"]]
    for name in ("pairs.jsonl", "rejected_rows.jsonl"):
        (folder / name).unlink()
    with (folder / "trees.jsonl").open("w", encoding="utf-8") as handle:
        for index in range(count):
            prompt = {**row["prompt"], "id": f"p{index}"}
            handle.write(json.dumps({**row, "id": f"p{index}", "prompt": prompt, "nodes": nodes},
                                    ensure_ascii=False) + "\n")
    return folder


def test_many_trees_are_sampled_evenly_and_counted_honestly(tmp_path):
    folder = many(tmp_path / "many", 150, 2_000)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    shown = trees_of(page)
    numbers = [entry["number"] for entry in shown]
    assert numbers == sorted(numbers) and 5 < len(numbers) < 100
    gaps = [below - above for above, below in zip([0, *numbers], [*numbers, 151], strict=True)]
    assert max(gaps) <= 3 * 150 / len(numbers)
    assert f"{len(shown)} of 150 trees" in page.text and f"{150 - len(shown)} are left out" in page.text
    assert (folder / "report.html").stat().st_size < TREE_BYTES + 200_000
    assert [int(attributes["value"] or "") for attributes, _ in page.of("option")] == list(range(len(shown)))


def test_long_texts_are_cut_before_trees_are_left_out(tmp_path):
    section = tree_section(read_run(many(tmp_path / "long", 14, 20_000)))
    assert section is not None and section.text_limit < 20_000 and len(section.entries) >= 5
    node = section.entries[0]["nodes"][1]
    assert len(node["text"]) == section.text_limit and node["cut"] == 20_000 - section.text_limit


def test_memory_does_not_grow_with_the_number_of_trees(tmp_path):
    peaks: dict[int, int] = {}
    for count in (15, 75):
        folder = many(tmp_path / str(count), count, 1_000)
        tracemalloc.start()
        tree_section(read_run(folder))
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    more = sum((tmp_path / name / "trees.jsonl").stat().st_size * sign for name, sign in (("75", 1), ("15", -1)))
    assert peaks[75] - peaks[15] < more / 8


def test_a_damaged_tree_is_named_and_one_being_written_is_passed_over(tmp_path):
    path = make_run(tmp_path / "damaged") / "trees.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "half, ')
    assert len(TreeFile.read(path)) == 4
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:50], *lines[2:]]))
    with pytest.raises(DataError) as error:
        TreeFile.read(path)
    assert error.value.where == f"{path}:2"


def test_a_file_that_is_written_anew_meanwhile_is_noticed(tmp_path):
    path = make_run(tmp_path / "rewritten") / "trees.jsonl"
    trees = TreeFile.read(path)
    assert [trees.get(name).id for name in trees] == list(trees)  # type: ignore[union-attr]
    assert trees.get("nowhere") is None
    rows = read_jsonl(path)
    write_jsonl(path, rows[::-1])
    with pytest.raises(DataError, match="written anew"):
        [trees.get(name) for name in trees]


def test_what_stands_in_a_node_is_legible_on_every_colour_of_the_scale(page):
    style = page.of("style")[0][1]
    themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in re.findall(
        r":root \{(.*?)\}", style, re.DOTALL)]
    shares = [int(share) / 100 for share in re.findall(
        r"\.level-\d \{ fill: color-mix\(in srgb, var\(--score\) (\d+)%, var\(--sheet\)", style)]
    assert len(shares) == 6 and shares == sorted(shares)
    for theme in themes[:2]:
        for share in shares:
            score, sheet = ([int(theme[name][at:at + 2], 16) for at in (1, 3, 5)] for name in ("score", "sheet"))
            fill = "#" + "".join(f"{round(one * share + other * (1 - share)):02x}"
                                 for one, other in zip(score, sheet, strict=True))
            light, dark = sorted((luminance(fill), luminance(theme["ink"])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (share, fill)
