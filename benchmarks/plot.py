"""Seconds against the number of steps at one length: rows grow, the tree should not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from flops import Mode
from results import Record

mpl.use("Agg")
import matplotlib.pyplot as plt

LOOK = {Mode.TREE: ("our tree", "#0b6e4f", "-", "center"), Mode.ROWS: ("our rows", "#c8553d", "-", "top"),
        Mode.TRL: ("TRL", "#6b7280", "--", "bottom")}
COLUMNS = 3


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """One SVG with a panel for each model and length that was measured with several numbers of steps.

    Returns:
        The file, or nothing where there is nothing to draw.
    """
    families: dict[str, list[Record]] = {}
    for record in records:
        families.setdefault(f"{record['model']} {record['family']}", []).append(record)
    panels = [sorted(members, key=lambda member: member["cell"]["steps"]) for members in families.values()
              if len(members) > 1]
    if not panels:
        return []
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.4 * lines), squeeze=False,
                                layout="constrained")
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            _panel(axes, panels[number])
        else:
            axes.set_axis_off()
    path = folder / "seconds_over_steps.svg"
    figure.savefig(path)
    plt.close(figure)
    return [path]


def _panel(axes: plt.Axes, members: Sequence[Record]) -> None:
    for mode, (label, colour, dashes, anchor) in LOOK.items():
        points = [(member["cell"]["steps"], member["summary"]["median_seconds"][mode]) for member in members
                  if mode in member["summary"]["median_seconds"]]
        if points:
            steps, seconds = zip(*points, strict=True)
            axes.plot(steps, seconds, dashes, color=colour, marker="o", markersize=4)
            axes.annotate(label, (steps[-1], seconds[-1]), xytext=(6, 0), textcoords="offset points", color=colour,
                          va=anchor)
    cell = members[0]["cell"]
    axes.set_title(f"{members[0]['model']}, L = {cell['tokens']:,} tokens", loc="left", fontsize=10)
    axes.set_xlabel("steps N")
    axes.set_ylabel("seconds for one optimiser step")
    axes.set_xticks([member["cell"]["steps"] for member in members])
    axes.set_ylim(bottom=0)
    axes.margins(x=0.22)
    axes.spines[["top", "right"]].set_visible(False)
