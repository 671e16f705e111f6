"""The notebook about search trees runs on the real demo model, and its committed outputs are real."""

import json
import re

import nbformat
import pytest
from nbclient import NotebookClient
from test_notebooks import EXAMPLES, outputs


def check_tree(text: str) -> None:
    """What every run of the notebook about search trees must show."""
    assert re.search(r"branching 3, depth \d, \d walks by ucb", text)
    assert re.search(r"^score( +0\.\d{4}){2,3}$", text, re.MULTILINE)
    assert re.search(r"^insight( +\d\.\d{3}){2,3}$", text, re.MULTILINE)
    walks = re.findall(r"^walk (\d): 0 -> (0\.\d)\S* .*ends with 0\.\d{4}$", text, re.MULTILINE)
    assert len(walks) >= 2
    for number, first_step in walks:  # the choice by hand is the search's own
        [line] = re.findall(rf"^walk {number} +(.*)$", text, re.MULTILINE)
        *sums, went_to = line.split()
        names = re.search(r"^ +((?:0\.\d +)+)went to$", text, re.MULTILINE)[1].split()
        totals = [sum(map(float, value.split("+"))) for value in sums]
        assert went_to.removesuffix("r") == first_step == names[totals.index(max(totals))]
    assert re.search(r"\d+ facts were written down", text) and "candidates that contradict one: none" in text
    assert re.search(r"^pair \S+, step \d, margin (0\.\d+) = 0\.\d+ - 0\.\d+$|no two siblings", text, re.MULTILINE)
    # the planted tree is the same everywhere
    assert "0.0.0 is vetoed: 'its red light' contradicts 0.0#1" in text
    assert "0.0.1 (grade 2.11, below 2.5): accepted" in text
    assert "against contradictions       0.0.1r over 0.0.0, margin -0.1750" in text
    assert "the paper                    0.0.1r over 0.0.2, margin +0.5000" in text


@pytest.mark.demo
def test_the_notebook_about_search_trees_runs_and_tells_its_story(tmp_path, monkeypatch):
    small = ("build.depth=2 build.search.num_paths=2 build.step_tokens=16 build.memory.max_tokens=24 "
             "build.critique.eta=1")
    monkeypatch.setenv("LPO_OVERRIDES", f"runs_dir={tmp_path} {small}")
    notebook = nbformat.read(EXAMPLES / "02_search_trees_and_pairs.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    text = outputs(notebook)
    check_tree(text)
    summary = json.loads((tmp_path / "search_tree" / "build.json").read_text())
    assert f"the paper: {summary['pairs']} pairs" in text, "the same rule gives the run's own pairs"
    assert f"{summary['candidates']} candidates in {summary['layers']} layers" in text


def test_the_committed_notebook_about_search_trees_holds_the_outputs_of_a_whole_run():
    notebook = nbformat.read(EXAMPLES / "02_search_trees_and_pairs.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run once, top to bottom"
    check_tree(outputs(notebook))
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) == 2, "both trees"
    shown = json.dumps([cell.outputs for cell in cells])
    assert not re.search(r"Warning|Traceback|site-packages|/home/|/root/|/tmp/", shown)
