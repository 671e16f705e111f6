"""LongReward's judgements, read for the page: four dimensions, statements with their support, notes of the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lpo.records import Judgement
from lpo.report.entries import LONGREWARD, beginning, cut_end

SUPPORT = {"full": "borne out", "partial": "in part", "none": "not borne out"}


def dimensions(judgement: Judgement) -> dict[str, float]:
    """The dimensions that a judgement has, whether other scorers count as well or not."""
    found = {name: judgement.scores.get(name, judgement.scores.get(f"longreward.{name}")) for name in LONGREWARD}
    return {name: value for name, value in found.items() if value is not None}


def evidence(judgement: Judgement | None, context: str | None, limit: int) -> dict[str, Any]:
    """What the dimensions were made from.

    Args:
        judgement: Of an answer.
        context: The document that spans of passages are of.
        limit: Characters that are kept of an analysis; of a passage a tenth of it.

    Returns:
        `analyses` (dimension, words), `statements` (each with its `support`, `analysis` and `passages`) and `failed`
        (dimension, why); all empty where the judgement is none of LongReward's.
    """
    parts = _parts(judgement)
    by_name = {name: values for name in LONGREWARD if isinstance(values := parts.get(name), Mapping)}
    statements = by_name.get("faithfulness", {}).get("statements")
    return {
        "analyses": [[name, cut_end(str(values["analysis"]), limit)[0]] for name, values in by_name.items()
                     if values.get("analysis")],
        "statements": [_statement(row, context or "", limit) for row in _rows(statements)],
        "failed": [[name, beginning(str(values["failed"]), 300)] for name, values in by_name.items()
                   if values.get("failed")],
    }


def notes(judgements: Sequence[Judgement | None], limit: int) -> list[dict[str, Any]]:
    """What the document has to say about the request, chunk by chunk; the same for all answers to it."""
    for judgement in judgements:
        completeness = _parts(judgement).get("completeness")
        found = _rows(completeness.get("notes") if isinstance(completeness, Mapping) else None)
        if found:
            return [{"place": f"characters {row.get('start'):,} to {row.get('end'):,}" if _is_span(row) else "",
                     "lines": [cut_end(str(line), limit)[0] for line in row.get("notes") or ()]} for row in found]
    return []


def _parts(judgement: Judgement | None) -> Mapping[str, Any]:
    """LongReward's own, also where other scorers count as well."""
    if judgement is None:
        return {}
    inner = judgement.parts.get("longreward")
    if isinstance(inner, Mapping):
        return inner
    return judgement.parts if judgement.scorer == "longreward" else {}


def _rows(values: object) -> list[Mapping[str, Any]]:
    return [row for row in values if isinstance(row, Mapping)] if isinstance(values, list) else []


def _is_span(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("start"), int) and isinstance(row.get("end"), int)


def _statement(row: Mapping[str, Any], context: str, limit: int) -> dict[str, Any]:
    spans = [span for span in row.get("evidence") or () if isinstance(span, list) and len(span) == 2]
    support = row.get("support")
    return {
        "text": str(row.get("statement", "")), "support": support if support in SUPPORT else "unknown",
        "said": SUPPORT.get(str(support), "no verdict"), "analysis": cut_end(str(row.get("analysis") or ""), limit)[0],
        "passages": [beginning(context[start:end], max(40, limit // 10)) for start, end in spans if context],
    }
