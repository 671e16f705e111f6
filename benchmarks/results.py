"""Results: one JSON file for each cell and model, what they amount to, and how that is printed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flops import Mode, Work

from lpo.storage import read_json

SHARE_OF_LIMIT = 0.80
"""The part of the modelled gain of the tree over rows that is aimed at."""
SAME_GRADIENT = 1e-3
"""Relative difference of gradient norms that counts as rounding."""
FLATNESS = 0.15
"""How far the tree's time may vary with the number of steps at one length."""

Record = dict[str, Any]


def scaled_seconds(
    seconds: float, micro_batches: Sequence[tuple[int, float]], lengths: Sequence[int], flops: Sequence[float]
) -> float:
    """Seconds for all pairs of a document, from a sample of them that was timed pair by pair.

    The seconds per modelled operation of each sampled pair are interpolated linearly over the length of the rows; what
    is not part of a pair (making the trainer, the optimiser) counts once, as it was.

    Args:
        seconds: Of the sampled run, in whole.
        micro_batches: Row length and seconds of each sampled pair.
        lengths: Row lengths of all pairs.
        flops: Modelled operations of all pairs.
    """
    flops_of = dict(zip(lengths, flops, strict=True))
    sampled = sorted({length for length, _ in micro_batches})
    rates = [statistics.mean(taken for length, taken in micro_batches if length == one) / flops_of[one]
             for one in sampled]
    pairs = float(np.interp(lengths, sampled, rates) @ np.asarray(flops))
    return seconds - sum(taken for _, taken in micro_batches) + pairs


def summarise(record: Record) -> dict[str, Any]:
    """Medians over the repeats, ratios, and whether the targets are met.

    A ratio is the median of the ratios of the repeats, whose runs lie close together in time.
    """
    by_mode = {mode: [run for run in record["runs"] if run["mode"] == mode] for mode in record["work"]}
    by_mode = {mode: runs for mode, runs in by_mode.items() if runs}
    summary: dict[str, Any] = {
        "median_seconds": {mode: statistics.median(_scaled(runs)) for mode, runs in by_mode.items()},
        "peak_mb": {mode: statistics.median(run["peak_mb"] for run in runs) for mode, runs in by_mode.items()},
        "gigaflops_per_second": {
            mode: record["work"][mode]["flops"] / statistics.median(_scaled(runs)) / 1e9
            for mode, runs in by_mode.items()},
        "limit": {f"{a}/{b}": record["work"][a]["flops"] / record["work"][b]["flops"] for a, b in _RATIOS},
        "ratio": {f"{a}/{b}": _paired_ratio(by_mode[a], by_mode[b])
                  for a, b in _RATIOS if a in by_mode and b in by_mode},
        "gradients_differ_by": _gradient_difference(record["runs"]),
    }
    summary["targets"] = _targets(summary)
    return summary


_RATIOS = ((Mode.ROWS, Mode.TREE), (Mode.TRL, Mode.ROWS), (Mode.TRL, Mode.TREE))


def _scaled(runs: Iterable[Record]) -> list[float]:
    return [run["scaled_seconds"] for run in runs]


def _paired_ratio(above: list[Record], below: list[Record]) -> float:
    """Median over the repeats that both have."""
    of_repeat = {run["repeat"]: run["scaled_seconds"] for run in below}
    return statistics.median(run["scaled_seconds"] / of_repeat[run["repeat"]] for run in above
                             if run["repeat"] in of_repeat)


def _gradient_difference(runs: list[Record]) -> float | None:
    """Largest relative difference of gradient norms among ways of training that took the same pairs."""
    norms: dict[tuple[int, ...], list[float]] = {}
    for run in runs:
        norms.setdefault(tuple(run["pairs"]), []).append(run["grad_norm"])
    spreads = [max(values) / min(values) - 1 for values in norms.values() if len(values) > 1]
    return max(spreads, default=None)


def _targets(summary: dict[str, Any]) -> dict[str, bool]:
    ratio, peak = summary["ratio"], summary["peak_mb"]
    targets: dict[str, bool] = {}
    if summary["gradients_differ_by"] is not None:
        targets["equal gradients"] = summary["gradients_differ_by"] <= SAME_GRADIENT
    if "rows/tree" in ratio:
        targets["rows/tree >= 80 % of its limit"] = ratio["rows/tree"] >= SHARE_OF_LIMIT * summary["limit"]["rows/tree"]
        targets["memory: tree <= rows"] = peak["tree"] <= peak["rows"]
    if "trl/tree" in ratio and "rows/tree" in ratio:
        # Equal but for the medians of three ratios.
        targets["trl/tree >= rows/tree x trl/rows"] = ratio["trl/tree"] >= 0.99 * ratio["rows/tree"] * ratio["trl/rows"]
    return targets


def flatness(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For each model and length measured with several numbers of steps: how far the tree's time varies."""
    families: dict[str, list[Record]] = {}
    for record in records:
        if Mode.TREE in record["summary"]["median_seconds"]:
            families.setdefault(f"{record['model']} {record['family']}", []).append(record)
    found: list[dict[str, Any]] = []
    for members in families.values():
        if len(members) > 1:
            seconds = [member["summary"]["median_seconds"][Mode.TREE] for member in members]
            spread = max(seconds) / min(seconds) - 1
            found.append({"model": members[0]["model"], "cells": [member["cell"]["name"] for member in members],
                          "spread": spread, "met": spread <= FLATNESS})
    return found


def load(folder: Path) -> list[Record]:
    """All results that have been begun, by model and cell; other files of the folder are left alone."""
    records = [read_json(path) for path in folder.glob("*.json")]
    return sorted((record for record in records if record.get("runs")),
                  key=lambda record: (record["model"], record["cell"]["name"]))


def table(records: Sequence[Record]) -> str:
    """Everything that was measured, as Markdown."""
    lines = ["| cell | model | tree s | rows s | TRL s | rows/tree (limit) | of limit | TRL/rows | TRL/tree | "
             "peak MB tree / rows / TRL | targets missed |", "|" + "---|" * 11]
    for record in records:
        summary = record["summary"]
        ratio, limit = summary["ratio"], summary["limit"]
        share = ratio["rows/tree"] / limit["rows/tree"] if "rows/tree" in ratio else None
        missed = [name for name, met in summary["targets"].items() if not met]
        lines.append("| " + " | ".join([
            record["cell"]["name"], record["model"], *(_seconds(record, mode) for mode in Mode),
            f"{_number(ratio.get('rows/tree'), 2)} ({limit['rows/tree']:.2f})",
            "-" if share is None else f"{share:.0%}", _number(ratio.get("trl/rows"), 2),
            _number(ratio.get("trl/tree"), 2),
            " / ".join(_number(summary["peak_mb"].get(mode), 0) for mode in Mode),
            ", ".join(missed) or ("none" if summary["targets"] else "-")]) + " |")
    for family in flatness(records):
        lines.append(f"\n{family['model']}, {', '.join(family['cells'])}: the tree's time varies by "
                     f"{family['spread']:.0%} (target {FLATNESS:.0%}: {'met' if family['met'] else 'missed'})")
    return "\n".join(lines)


def _seconds(record: Record, mode: Mode) -> str:
    runs = [run for run in record["runs"] if run["mode"] == mode]
    if not runs:
        return "-"
    sample = min(len(run["pairs"]) for run in runs)
    note = f" (sampled: {sample} of {record['n_pairs']})" if sample < record["n_pairs"] else ""
    return f"{statistics.median(_scaled(runs)):.1f}{note}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


WORK_HEAD = ("| cell | model | checkpointing | tokens tree / rows | scored tree / rows / TRL | limit rows/tree | "
             "80 % of it | TRL/rows | TRL/tree | minutes |\n" + "|" + "---|" * 10)


def work_line(cell: str, model: str, checkpointing: bool, work: dict[Mode, Work], minutes: str) -> str:
    """Limits of a shape that need not have been run, as a row of Markdown."""
    tree, rows, trl = (work[mode] for mode in Mode)
    gain = rows.flops / tree.flops
    return " | ".join([
        f"| {cell}", model, "on" if checkpointing else "off", f"{tree.tokens:,} / {rows.tokens:,}",
        f"{tree.scored:,} / {rows.scored:,} / {trl.scored:,}", f"{gain:.2f}", f"{SHARE_OF_LIMIT * gain:.2f}",
        f"{trl.flops / rows.flops:.2f}", f"{trl.flops / tree.flops:.2f}", f"{minutes} |"])
