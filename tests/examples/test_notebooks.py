"""The notebooks run from top to bottom on the real demo model, and their committed outputs are real."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
SMALL = ("build.depth=2 build.step_tokens=24 prompts.limit=2 train.eval_fraction=0.5 train.sample_prompts=0 "
         "train.args.num_train_epochs=1 eval.limit=2 eval.max_tokens=32")


def outputs(notebook: nbformat.NotebookNode) -> str:
    """Everything a reader sees printed below the cells."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "")
             for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(texts)


def check_story(text: str) -> None:
    """What every run of the quickstart notebook must show."""
    assert re.search(r"\d+ to build from, \d+ held out", text)
    assert re.search(r"--- candidate 0\.\d: (chosen|rejected|unused), score 0\.\d+", text)
    assert "expected_grade.breadth" in text
    assert re.search(r"pair \S+, margin 0\.\d+", text) and "--- chosen" in text and "--- rejected" in text
    assert re.search(r"'parameters_moved': 0\.\d+|'parameters_moved': \d\.\d+e-", text)
    assert re.search(r"length_score +[\d.]+ -> +[\d.]+ +change [+-]", text)
    assert "the judge was also the training reward: True" in text
    assert "--- before: " in text and "--- after: " in text and "report.html" in text


@pytest.mark.demo
def test_the_quickstart_notebook_runs_and_tells_its_story(tmp_path, monkeypatch):
    monkeypatch.setenv("LPO_OVERRIDES", f"runs_dir={tmp_path} {SMALL}")
    notebook = nbformat.read(EXAMPLES / "01_quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    check_story(outputs(notebook))
    pairs = [json.loads(line) for line in (tmp_path / "notebook" / "pairs.jsonl").read_text().split("\n") if line]
    assert any(pair["chosen"].strip()[:40] in outputs(notebook) for pair in pairs)


def test_the_committed_quickstart_notebook_holds_the_outputs_of_a_whole_run():
    notebook = nbformat.read(EXAMPLES / "01_quickstart.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run once, top to bottom"
    check_story(outputs(notebook))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs), "the curves"
