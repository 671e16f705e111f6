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


def check_scores(text):
    """What every run of the notebook about LongReward must show."""
    assert re.search(r"answers x 4 \+ \d+ statements \+ notes on 1 chunk = \d+", text)
    assert text.count("=== ") == 3 and text.count("--- vague") == 3
    assert re.search(r"\d of 3 answers to 1 question have a score", text)
    assert re.search(r"characters 0 to \d+, \d+ notes:|no (reply|analysis) that could be read", text)
    assert "'faithfulness': 6.25" in text and "'faithfulness': 0.0" in text and "no_statements, overall None" in text
    assert "warning: the judge is the demo model" in text


SHORT = {
    "helpfulness": "Answer: No.\nAnalysis: It is short.\nGrade: 2\n\nAnswer: {{ answer }}\nAnalysis:",
    "logicality": "Answer: No.\nAnalysis: It is short.\nGrade: 4\n\nAnswer: {{ answer }}\nAnalysis:",
    "completeness": "Notes: {{ notes[0] if notes }}\nAnalysis: It is short.\nGrade: 4\n\nNotes: Many.\nAnalysis:",
    "statements": "Answer: {{ answer }}\nStatements:\n1.",
    "notes": "Text: {{ passage[:200] }}\nNotes:\n1.",
    "support": "Text: {{ passages[0] }}\nStatement: {{ statement }}\nAnalysis: So.\nSupport: full\n\nAnalysis:",
}
"""Prompts with a tenth of the words: what a 270M model makes of them is as good as what it makes of the real ones."""


@pytest.mark.demo
def test_the_notebook_about_longreward_runs_and_tells_its_story(tmp_path, monkeypatch):
    for purpose, prompt in SHORT.items():
        (tmp_path / f"longreward_{purpose}_en.jinja").write_text(prompt)
    monkeypatch.setenv("LPO_OVERRIDES", f"runs_dir={tmp_path} judge.templates={tmp_path} build.longreward.tries=1 "
                       "build.longreward.max_tokens=24")
    notebook = nbformat.read(EXAMPLES / "03_longreward_scoring.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    check_scores(outputs(notebook))
    rows = map(json.loads, (tmp_path / "notebook_scores" / "scored.jsonl").read_text().rstrip().split("\n"))
    assert [row["id"] for row in rows] == ["ferry-good", "ferry-invented", "ferry-vague"]
    calls = json.loads((tmp_path / "notebook_scores" / "score.json").read_text())["calls"]
    assert calls["helpfulness"] >= 3 and calls["notes"] >= 1


def test_the_committed_notebook_about_longreward_holds_the_outputs_of_a_whole_run():
    notebook = nbformat.read(EXAMPLES / "03_longreward_scoring.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run once, top to bottom"
    text = outputs(notebook)
    check_scores(text)
    assert re.search(r"\[(full|partial|none)\] ", text) and "checked against: " in text
    assert re.search(r"--- (good|invented|vague): score 0\.\d{3}", text) and re.search(r"pair \S+, margin 0\.\d+", text)
    assert "<mark" in "".join(output.get("data", {}).get("text/html", "") for cell in cells for output in cell.outputs)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs), "the chart"
