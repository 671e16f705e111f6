"""Reading what stands on the page of a run, and in the run itself."""

import json
from pathlib import Path
from typing import Any

from test_report_page import Page

from lpo.records import SearchTree
from lpo.report.data import read_run
from lpo.report.honesty import Weight, caveats
from lpo.storage import read_jsonl


def trees_of(folder: Path) -> list[SearchTree]:
    """The trees of a run."""
    return [SearchTree.model_validate(row) for row in read_jsonl(folder / "trees.jsonl")]


def scripts_on(page: Page) -> list[dict[str, Any]]:
    """What the browser of corrections is given."""
    stored = next(text for attributes, text in page.of("script") if attributes.get("id") == "correction-data")
    return json.loads(stored)["entries"]


def said(folder: Path, weight: Weight) -> str:
    """The caveats of a weight."""
    return " ".join(caveat.text for caveat in caveats(read_run(folder)) if caveat.weight is weight)


def headings(page: Page) -> list[str]:
    """The titles of the sections."""
    return [text for _, text in page.of("h2")]
