"""Tasks of the suite `golden_thread`: what is to be written, and what has to stand in which block of it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import yaml

from lpo.eval_config import GoldenThreadConfig
from lpo.records import Message, Prompt, Record, fingerprint

MARK = "#*#"
"""Ends a block."""
SINGLES = 5
"""Instructions for a single block in each task; one for a range and a periodic one come on top (arXiv 2409.02076)."""


class CheckKind(StrEnum):
    """The instruction a check comes from."""

    ONCE = "once"
    """For a single block."""
    RANGE = "range"
    """For consecutive blocks: one check for each."""
    PERIODIC = "periodic"
    """For every k-th block: one check for each."""


class Check(Record):
    """Something that has to stand in a block."""

    kind: CheckKind
    unit: int
    """The number of the block, from 1."""
    item: str


class Task(Record):
    """What is checked in an answer: the `meta` of its prompt."""

    kind: str
    """The scenario."""
    heading: str
    """The word before the number in a block's heading."""
    units: int
    """Blocks that are to be written."""
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Scenario:
    """One of the four kinds of text, in our own words. Mappings are by length, `16k` or `32k`.

    Args:
        title: As people read it.
        block: What one block is, in words.
        blocks: The same in the plural.
        heading: The word before a block's number.
        units: How many blocks.
        words: At least so many words a block.
        task: The first sentence, with the place of a subject.
        about: What else to write of.
        subjects: One is drawn for each task.
        once: Items for single blocks.
        range: Items for ranges.
        periodic: Items for every k-th block.
    """

    title: str
    block: str
    blocks: str
    heading: dict[str, str]
    units: dict[str, int]
    words: dict[str, int]
    task: str
    about: str
    subjects: list[str]
    once: list[str]
    range: list[str]
    periodic: list[str]


@cache
def scenarios() -> dict[str, Scenario]:
    """The four scenarios by name, in the order they are shown."""
    file = resources.files(__package__).joinpath("golden_thread.yaml")
    values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {name: Scenario(**fields) for name, fields in values.items()}


def tasks(config: GoldenThreadConfig) -> tuple[Prompt, ...]:
    """The tasks of the suite: the same settings give the same tasks, and more tasks leave the first ones as they are.

    Scenarios take turns, so that the first n tasks hold as many of each.

    Args:
        config: Length, number, seed, limit.

    Returns:
        Prompts whose `meta` is a `Task`.
    """
    made = (_prompt(name, scenario, index, config)
            for index in range(config.per_scenario) for name, scenario in scenarios().items())
    return tuple(prompt for prompt, _ in zip(made, range(config.limit or 4 * config.per_scenario), strict=False))


def task_of(prompt: Prompt) -> Task:
    """What is checked in the answers to a prompt of `tasks`."""
    return Task.model_validate(prompt.meta)


def _prompt(name: str, scenario: Scenario, index: int, config: GoldenThreadConfig) -> Prompt:
    units = config.units or scenario.units[config.length]
    own = ["golden_thread", config.length, units, name, config.seed, index]
    draw = random.Random(int(fingerprint(own), 16))
    subject = draw.choice(scenario.subjects)
    singles = zip(sorted(draw.sample(range(1, units + 1), SINGLES)), draw.sample(scenario.once, SINGLES), strict=True)
    # A range is a stretch of the text, not the text; a period comes round four times at least, where there is room.
    length = draw.randint(2, max(2, min(7, units // 10)))
    first = draw.randint(1, units - length + 1)
    over = draw.choice(scenario.range)
    every = draw.randint(max(2, units // 12), max(3, units // 5))
    start = draw.randint(1, every)
    again = draw.choice(scenario.periodic)
    checks = (
        *(Check(kind=CheckKind.ONCE, unit=unit, item=item) for unit, item in singles),
        *(Check(kind=CheckKind.RANGE, unit=unit, item=over) for unit in range(first, first + length)),
        *(Check(kind=CheckKind.PERIODIC, unit=unit, item=again) for unit in range(start, units + 1, every)),
    )
    heading = scenario.heading[config.length]
    task = Task(kind=name, heading=heading, units=units, checks=checks)
    lines = [
        *(f"{heading} {check.unit}: {check.item}" for check in checks[:SINGLES]),
        f"From {heading} {first} to {heading} {first + length - 1}, both included, in every {scenario.block}: {over}",
        f"{heading} {start}, and every {every} {heading.lower()}s from then on up to the end: {again}",
    ]
    return Prompt(id="-".join(map(str, own)), prompt=(Message(role="user", content=_text(
        scenario, subject, task, lines, words=scenario.words[config.length])),), meta=task.to_json())


def _text(scenario: Scenario, subject: str, task: Task, lines: list[str], *, words: int) -> str:
    heading = task.heading
    numbered = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))
    return f"""{scenario.task.format(subject=subject)} There are {task.units} {scenario.blocks}, \
{heading} 1 to {heading} {task.units}.

What has to come up, and where:
{numbered}
Where several of these fall on the same {heading.lower()}, its {scenario.block} holds all of them. {scenario.about}

The form:
- Each {scenario.block} begins with a line of its own, "{heading} 1", "{heading} 2" and so on.
- Each {scenario.block} ends with a line that holds nothing but {MARK}
- Each {scenario.block} has at least {words} words.
- Write all {task.units} {scenario.blocks}, one by one and in order. Leave none out, sum none up, and do not stop \
before {heading} {task.units}."""
