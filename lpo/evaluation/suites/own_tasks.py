"""Tasks in a file of the user's own: every row is used, or the file is refused with the line that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lpo.errors import DataError
from lpo.evaluation.measured import Measured
from lpo.prompts import read_prompts, read_rows
from lpo.records import Prompt


@dataclass(frozen=True)
class OwnTask:
    """A row of the file.

    Args:
        prompt: What a model is asked.
        row: All its columns.
        where: `file:line`, for errors.
        category: What scores are broken down by; None when the row names none.
    """

    prompt: Prompt
    row: Mapping[str, Any]
    where: str
    category: str | None


def read_own_tasks(path: str, aliases: Mapping[str, str] = MappingProxyType({})) -> tuple[OwnTask, ...]:
    """Every row as a task, in the order of the file.

    Args:
        path: A .jsonl file or `hub:<dataset>[:split]`.
        aliases: As in `read_prompts`.

    Raises:
        DataError: The file is missing or broken, or a row is no task: it has no prompt, the prompt of another row, or a
            category that is no text. A row that was left out would be missing from the scores without a word.
        NothingLeftError: No row is a task.
    """
    prompts, rejected = read_prompts(path, aliases)
    if rejected:
        line = rejected[0].id.rpartition(":")[2]
        raise DataError(rejected[0].detail.removeprefix(f"line {line}: "), where=f"{path}:{line}",
                        mend="mend or remove the row; each needs a 'prompt' of its own")
    return tuple(_task(prompt, row, f"{path}:{line}")
                 for prompt, (line, row) in zip(prompts, read_rows(path), strict=True))


def categories(found: Mapping[str, str | None]) -> tuple[str, ...]:
    """The categories in order of appearance."""
    return tuple(dict.fromkeys(name for name in found.values() if name is not None))


def without_values(measured: Measured, keys: tuple[str, ...], reason: str) -> Measured:
    """An answer whose values of these names are missing for one reason."""
    return measured.model_copy(update={
        "values": {**measured.values, **dict.fromkeys(keys)},
        "unscored": {**measured.unscored, **dict.fromkeys(keys, reason)},
    })


def _task(prompt: Prompt, row: Mapping[str, Any], where: str) -> OwnTask:
    category = row.get("category")
    if category is not None and (not isinstance(category, str) or not category.strip()):
        raise DataError(f"'category' must be text, it is {category!r}", where=where,
                        mend="name the category in words, or leave it out")
    return OwnTask(prompt, row, where, category)
