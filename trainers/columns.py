"""Rows as users write them: our own training columns and TRL's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lpo.errors import DataError
from lpo.records import Dialogue, Message, PreferencePair, fingerprint

UNSUPPORTED = ("images", "image", "tools", "chat_template_kwargs")
"""Columns of TRL that change what the model reads and that are not supported here: never ignored."""

OPTIONAL = ("prefix", "chosen_ends", "rejected_ends", "step")


def read_pair(row: Mapping[str, Any], row_id: str) -> PreferencePair:
    """One row of a training set.

    Args:
        row: `prompt`, `chosen`, `rejected`, where the prompt is a string or messages and each side a string or (TRL)
            a list of one assistant message. Without `prompt` the sides' common beginning is it, as in TRL. Optional:
            `prefix` (""), `chosen_ends` and `rejected_ends` (true), `step` (0), `group` (hash of the prompt). Other
            columns are not read. None counts as missing.
        row_id: Used when the row has no `id` of its own.

    Raises:
        DataError: The row is not of this form.
    """
    given = {name: value for name, value in row.items() if value is not None}
    for name in UNSUPPORTED:
        if given.get(name):
            raise DataError(f"the column {name!r} is not supported")
    for name in ("chosen", "rejected"):
        if name not in given:
            raise DataError(f"no column {name!r}")
    if "prompt" not in given:
        given |= _implicit_prompt(given["chosen"], given["rejected"])
    try:
        prompt = _dialogue(given["prompt"])
        return PreferencePair(
            id=str(given.get("id", row_id)), group=str(given.get("group", fingerprint(prompt))), prompt=prompt,
            chosen=_side(given["chosen"], prompt), rejected=_side(given["rejected"], prompt),
            **{name: given[name] for name in OPTIONAL if name in given},
        )
    except ValidationError as error:
        detail = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None


def _dialogue(value: Any) -> Dialogue:
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence) or not value:
        raise DataError("the prompt is neither text nor a list of messages")
    return tuple(_message(item) for item in value)


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise DataError("a message is not an object with role and content")
    # A data set with one column type for all rows fills absent keys with None.
    return Message.model_validate({name: item for name, item in value.items() if item is not None})


def _side(value: Any, prompt: Dialogue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(prompt, str):
        raise DataError("the prompt is text but a side is a list of messages")
    if not isinstance(value, Sequence) or len(value) != 1:
        raise DataError("a side must be text or a list of one assistant message")
    message = _message(value[0])
    if message.role != "assistant":
        raise DataError(f"a side's message must be the assistant's, not the {message.role}'s")
    return message.content


def _implicit_prompt(chosen: Any, rejected: Any) -> dict[str, Any]:
    """The sides' common beginning becomes the prompt, as in TRL: a blank at its end goes to the sides."""
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    if shared is None:
        raise DataError("there is no prompt, and one side is the beginning of the other")
    if shared > 0 and chosen[shared - 1] == " ":
        shared -= 1
    if shared == 0:
        raise DataError("there is no prompt, and the sides have no common beginning")
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
