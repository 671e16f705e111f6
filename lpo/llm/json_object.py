"""The one JSON object of a model's reply: what is accepted as such, and nothing beside it."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import json_repair
from pydantic import BaseModel, ValidationError

from lpo.storage import clean_text, clean_values

KEPT_KEY = 80
"""Characters of a wrong key that an error names: the model may have made it up."""

_Reply = TypeVar("_Reply", bound=BaseModel)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_BRACKET = re.compile(r"[{}\[\]]")


class NotJsonError(ValueError):
    """The reply does not hold exactly one usable JSON object."""


def read_object(reply: str) -> tuple[Any, bool]:
    r"""Read a reply that was not cut.

    Accepted: one JSON object, alone or with words before and after it that hold no braces, perhaps after a closed
    thinking block; not one inside a block that stays open. Broken punctuation is mended by json-repair as long as that
    leaves every number and bracket as it was; a reply whose object is not closed is not mended (the end of a number may
    be missing). Python's own reader would keep the last of two equal keys and accept NaN: both are refused. Half
    characters (a cut `\ud83d` escape) become U+FFFD.

    Args:
        reply: The whole reply.

    Returns:
        The JSON value, and whether its punctuation was mended before it could be read.

    Raises:
        NotJsonError: The reply is anything else.
    """
    source = _object_source(_after_thinking(reply))
    try:
        return _strict_json(source), False
    except json.JSONDecodeError:
        return _repair(source), True
    except NotJsonError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or deep nesting
        raise NotJsonError(f"not usable JSON: {error}") from None


def read_as(reply: str, form: type[_Reply]) -> tuple[_Reply, bool]:
    """As `read_object`, and the object must have a form.

    Args:
        reply: The whole reply.
        form: A strict model: a number is a number, never `true` or `"4"`.

    Returns:
        The values, and whether punctuation was mended.

    Raises:
        NotJsonError: There is no such object; the message names the first key that is wrong.
    """
    values, mended = read_object(reply)
    try:
        return form.model_validate(values), mended
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:KEPT_KEY]
        raise NotJsonError(f"{where or 'reply'}: {first['msg']}") from None


def _after_thinking(reply: str) -> str:
    """The reply proper. One that begins with its object has no thinking block, whatever its strings quote."""
    if reply.lstrip().startswith("{"):
        return reply
    rest = reply.rpartition("</think>")[2]
    if "<think>" in rest.partition("{")[0]:
        raise NotJsonError("the reply is all thinking: its block is never closed")
    return rest


def _object_source(reply: str) -> str:
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0 or end < start:
        raise NotJsonError("no JSON object, or one that is not closed")
    return reply[start:end + 1]


def _strict_json(source: str) -> Any:
    values = json.loads(source, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    return clean_values(values)[0]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = {clean_text(key)[0]: value for key, value in pairs}
    if len(values) < len(pairs):
        raise NotJsonError("a key stands twice")
    return values


def _refuse_constant(name: str) -> float:
    raise NotJsonError(f"{name} is not JSON")


def _repair(source: str) -> Any:
    try:
        mended = json_repair.repair_json(source, strict=True, ensure_ascii=False)
        values = _strict_json(str(mended))
    except NotJsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJsonError(f"not JSON: {error}") from None
    # Repair drops what it does not understand: the first of two keys, a digit of another script, half a fraction.
    if _numbers(source) != _numbers(str(mended)):
        raise NotJsonError("not JSON, and mending it would change its numbers")
    # It also closes what was never closed: the end of a list that was cut after one of its objects is missing.
    if _BRACKET.findall(source) != _BRACKET.findall(str(mended)):
        raise NotJsonError("not JSON, and mending it would change its brackets")
    return values


def _numbers(source: str) -> list[str]:
    r"""Number literals in order, `.5` and `0.5` being one. `\d` knows the digits of all scripts: they must differ."""
    return [re.sub(r"^([-+]?)\.", r"\g<1>0.", number) for number in _NUMBER.findall(source)]
