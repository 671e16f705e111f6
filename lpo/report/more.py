"""The pages beside the report: all pairs, trees, corrections, answers, plans and texts of a run too large for one page.

They are made like the report, and as closed: each holds what it shows, loads nothing and sends nothing. The first is
`report_more.html`; where that would get too large to open, it goes on in `report_more_2.html`, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from lpo.records import SearchTree
from lpo.report.answers import answers_entry
from lpo.report.contents import NAMES, Contents, browser_data
from lpo.report.corrections import script_entry, with_corrections
from lpo.report.data import RunData
from lpo.report.document import document
from lpo.report.fitting import TEXT_CHARACTERS, Entry
from lpo.report.pairs import pair_entry, with_pairs
from lpo.report.plans import plan_entry_of
from lpo.report.samples import Group, SuiteTexts, answer_groups, suite_titles
from lpo.report.trees import tree_entry, with_trees
from lpo.storage import write_atomic

PART_BYTES = 24_000_000
"""What one of these pages takes, about: a browser opens it at once."""
MARKED_WORDS = 400
"""Words of a side beyond which only what both share at the ends is marked: thousands of pairs are compared."""
TITLES: Mapping[str, str] = {"pairs": "Pairs", "trees": "Search trees", "corrections": "Corrections",
                             "answers": "Answers", "plans": "Planned answers", "texts": "Texts"}


@dataclass(frozen=True)
class More:
    """Pages that were written beside the report.

    Args:
        links: Where each kind of thing begins: `pairs`, `trees`, ... -> address.
        files: Names of all pages.
    """

    links: Mapping[str, str]
    files: tuple[str, ...]


@dataclass
class Part:
    """What one page holds.

    Args:
        number: From 1.
        room: Bytes that are left.
        held: Kind of thing -> its entries, in the order of their files.
        first: Kind -> number of the first of them among all, from 1.
    """

    number: int
    room: int
    held: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    first: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def name(self) -> str:
        """Of its file."""
        return name_of(self.number)


def name_of(number: int) -> str:
    """The file of a page by its number, from 1."""
    return "report_more.html" if number == 1 else f"report_more_{number}.html"


def write_more(run: RunData, shown: Contents, part_bytes: int = PART_BYTES) -> More:
    """Write the pages that hold everything of which the report leaves something out.

    Args:
        run: The run.
        shown: What the report holds.
        part_bytes: What one page takes, about.
    """
    names = [name for name in NAMES if name in shown.left_out]
    totals = {name: _total(run, shown, name) for name in names}
    links: dict[str, str] = {}
    files: list[str] = []
    entries = ((name, entry) for name in names for entry in _entries(run, name))
    for part, is_last in _with_last(_parts(entries, part_bytes)):
        for name in part.held:
            links.setdefault(name, f"{part.name}#{name}")
        files.append(part.name)
        write_atomic(run.folder / part.name, _page(run, shown, part, totals, is_last=is_last))
    return More(links, tuple(files))


def remove_more(folder: Path, *, keep: Iterable[str]) -> None:
    """Remove such pages of an earlier report.

    Args:
        folder: The run directory.
        keep: Names of those that belong to this one.
    """
    kept = set(keep)
    for path in (folder / "report_more.html", *folder.glob("report_more_[0-9]*.html")):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _parts(entries: Iterable[tuple[str, Any]], room: int) -> Iterator[Part]:
    """Entries shared out to pages in their order; each page has at least one."""
    part, counted = Part(1, room), dict[str, int]()
    for name, entry in entries:
        size = _size(entry)
        if size > part.room and part.held:
            yield part
            part = Part(part.number + 1, room)
        counted[name] = counted.get(name, 0) + 1
        part.first.setdefault(name, counted[name])
        part.held.setdefault(name, []).append(entry)
        part.room -= size
    if part.held:
        yield part


def _with_last(parts: Iterator[Part]) -> Iterator[tuple[Part, bool]]:
    """Each part, and whether none follows."""
    before = next(parts, None)
    for part in parts:
        assert before is not None
        yield before, False
        before = part
    if before is not None:
        yield before, True


def _size(entry: Any) -> int:
    if isinstance(entry, tuple):  # the answers to a prompt of a suite
        return entry[1].room
    text = json.dumps(entry, ensure_ascii=False)
    return len(text.encode()) + 5 * sum(text.count(char) for char in "<>&\'")


def _entries(run: RunData, name: str) -> Iterator[Any]:
    of_trees: Mapping[str, Callable[[], Entry]] = {
        "trees": lambda: tree_entry, "corrections": lambda: script_entry, "answers": lambda: answers_entry,
        "plans": lambda: plan_entry_of(run)}
    match name:
        case "pairs":
            yield from _pairs(run)
        case "texts":
            yield from ((suite, group) for suite in run.measured for group in answer_groups(run, suite))
        case _:
            make = of_trees[name]()
            for index, identifier in enumerate(run.trees):
                tree = run.trees.get(identifier)
                values = None if tree is None else make(tree, index + 1, TEXT_CHARACTERS[0])
                if values is not None:
                    yield values


def _pairs(run: RunData) -> Iterator[dict[str, Any]]:
    """Pairs of one tree stand together, so a tree is read once for all of them."""
    tree: SearchTree | None = None
    for index, pair in enumerate(run.pairs):
        wanted = str(pair.provenance.get("tree"))
        if tree is None or tree.id != wanted:
            tree = run.trees.get(wanted)
        yield pair_entry(pair, tree, index, MARKED_WORDS)


def _total(run: RunData, shown: Contents, name: str) -> int:
    if name == "texts":
        return sum(len({row.answer.prompt_id for rows in measured.values() for row in rows})
                   for measured in run.measured.values())
    return getattr(shown, name).total


def _page(run: RunData, shown: Contents, part: Part, totals: Mapping[str, int], *, is_last: bool) -> str:
    held = part.held
    pairs = with_pairs(shown.pairs, held["pairs"]) if shown.pairs is not None and "pairs" in held else None
    trees = with_trees(shown.trees, held["trees"]) if shown.trees is not None and "trees" in held else None
    corrections = with_corrections(shown.corrections, held["corrections"]) if (
        shown.corrections is not None and "corrections" in held) else None
    answers = replace(shown.answers, entries=tuple(held["answers"])) if (
        shown.answers is not None and "answers" in held) else None
    plans = replace(shown.plans, entries=tuple(held["plans"])) if (
        shown.plans is not None and "plans" in held) else None
    return document(
        "more.html.jinja", run=run, part=part, before=name_of(part.number - 1) if part.number > 1 else None,
        after=None if is_last else name_of(part.number + 1),
        held=tuple((name, TITLES[name], _counted(part, name, totals[name])) for name in held),
        pairs=pairs, trees=trees, corrections=corrections, answers=answers, plans=plans,
        texts=_texts(run, held.get("texts", [])), data=browser_data(pairs, trees, corrections),
        today=datetime.now().strftime("%Y-%m-%d %H:%M"))


def _counted(part: Part, name: str, total: int) -> str:
    first, count = part.first[name], len(part.held[name])
    return f"all {total:,}" if count == total else f"{first:,} to {first + count - 1:,} of {total:,}"


def _texts(run: RunData, held: list[tuple[str, Group]]) -> tuple[SuiteTexts, ...]:
    titles, by_suite = suite_titles(run), dict[str, list[Group]]()
    for suite, group in held:
        by_suite.setdefault(suite, []).append(group)
    return tuple(SuiteTexts(suite, titles.get(suite, suite), tuple(groups), 0) for suite, groups in by_suite.items())
