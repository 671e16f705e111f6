"""The one JSON object of a model's reply: what is accepted as such, and nothing beside it."""

from __future__ import annotations

import json
import re
from typing import Any

import json_repair

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class NotJsonError(ValueError):
    """The reply does not hold exactly one usable JSON object."""


def read_object(reply: str) -> tuple[Any, bool]:
    """Read a reply that was not cut.

    Accepted: one JSON object, alone or with words before and after it that hold no braces, perhaps after a closed
    thinking block. Broken punctuation is mended by json-repair as long as that leaves every number as it was; a reply
    whose object is not closed is not mended (the end of a number may be missing). Python's own reader would keep the
    last of two equal keys and accept NaN: both are refused.

    Args:
        reply: The whole reply.

    Returns:
        The JSON value, and whether its punctuation was mended before it could be read.

    Raises:
        NotJsonError: The reply is anything else.
    """
    source = _object_source(reply.rpartition("</think>")[2])
    try:
        return _strict_json(source), False
    except json.JSONDecodeError:
        return _repair(source), True
    except NotJsonError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or deep nesting
        raise NotJsonError(f"not usable JSON: {error}") from None


def _object_source(reply: str) -> str:
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0 or end < start:
        raise NotJsonError("no JSON object, or one that is not closed")
    return reply[start:end + 1]


def _strict_json(source: str) -> Any:
    return json.loads(source, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise NotJsonError("a key stands twice")
    return dict(pairs)


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
    return values


def _numbers(source: str) -> list[str]:
    r"""Number literals in order, `.5` and `0.5` being one. `\d` knows the digits of all scripts: they must differ."""
    return [re.sub(r"^([-+]?)\.", r"\g<1>0.", number) for number in _NUMBER.findall(source)]
