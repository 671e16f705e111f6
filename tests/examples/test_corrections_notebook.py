"""The notebook about corrections runs from top to bottom on the real demo model, and its committed outputs are real."""

import json
import re

import nbformat
import pytest
from nbclient import NotebookClient
from test_notebooks import EXAMPLES, outputs


def check_corrections(text: str) -> None:
    """What every run of the notebook about IterDPO must show."""
    assert re.search(r"\d+ segments of \d+ answers\naccepted: \d+ of \d+ attempts;", text)
    assert re.search(r"--- segment \d of \d+, as written", text)
    for mode in ("prefix", "local", "full"):
        assert re.search(rf"^{mode}: \d+ pairs; dropped: ", text, re.MULTILINE)
    assert re.search(r"characters in all rows: \d+; distinct ones: at most \d+", text)
    assert re.search(r"\d+ pairs in this run, \d+ of them of full length", text)
    assert re.search(r"/script/\d+ by \['you'\] \| full length: True", text)


@pytest.mark.demo
def test_the_notebook_about_corrections_runs_and_tells_its_story(tmp_path, monkeypatch):
    monkeypatch.setenv("LPO_OVERRIDES", f"runs_dir={tmp_path} prompts.limit=1 build.answers.max_tokens=60 "
                                        "build.segments.max_words=20 build.correction.max_tokens=32 "
                                        "build.correction.segment_tokens=40")
    notebook = nbformat.read(EXAMPLES / "04_iterative_correction.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    check_corrections(outputs(notebook))
    [pair] = map(json.loads, (tmp_path / "notebook-people" / "pairs.jsonl").read_text().rstrip().split("\n"))
    assert pair["chosen"].endswith("the lamp was lit again.") and pair["provenance"]["by"] == ["you"]


def test_the_committed_notebook_about_corrections_holds_the_outputs_of_a_whole_run():
    notebook = nbformat.read(EXAMPLES / "04_iterative_correction.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run once, top to bottom"
    text = outputs(notebook)
    check_corrections(text)
    accepted = re.search(r"accepted: (\d+) of", text)
    assert accepted is not None and int(accepted[1]) > 0, "a demonstration without a correction shows nothing"
    assert re.search(r"--- the judge: 0\.\d+ as written, 0\.\d+ as revised -> accepted", text)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs), "the segments"
