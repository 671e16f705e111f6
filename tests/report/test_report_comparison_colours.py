"""Eight runs can be told apart, in light and dark, and by readers who do not see all colours."""

import re
from importlib import resources
from itertools import combinations

import numpy as np
import pytest

from lpo.report.comparison_charts import SHAPES

GROUNDS = {"light": "#faf8f3", "dark": "#15171a"}
# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
SEEN = {
    "all colours": np.eye(3),
    "no red cones": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                              [-0.003882, -0.048116, 1.051998]]),
    "no green cones": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                                [-0.011820, 0.042940, 0.968881]]),
    "no blue cones": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                               [0.004733, 0.691367, 0.303900]]),
}
# Ottosson's OKLab: linear RGB -> cone responses -> lightness and two colour axes.
TO_CONES = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                     [0.0883024619, 0.2817188376, 0.6299787005]])
TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                   [0.0259040371, 0.7827717662, -0.8086757660]])


def linear(colour: str) -> np.ndarray:
    """A colour as linear RGB."""
    parts = np.array([int(colour[start:start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def palettes() -> dict[str, list[str]]:
    """The colours of the runs as the style sheet has them."""
    css = resources.files("lpo.report").joinpath("comparison.css").read_text(encoding="utf-8")
    light, dark = css.split("@media (prefers-color-scheme: dark)", 1)
    return {name: [colour for _, colour in re.findall(r"--run-(\d): (#[0-9a-f]{6})", part)]
            for name, part in (("light", light), ("dark", dark))}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_stands_out_from_the_page(theme):
    colours = palettes()[theme]
    assert len(colours) == 8
    assert min(contrast(colour, GROUNDS[theme]) for colour in colours) >= 3.0  # WCAG 1.4.11, for graphics


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("seen", SEEN)
def test_no_two_colours_look_alike(theme, seen):
    """0.02 is about the smallest difference in OKLab that is seen at all; these are five times as far apart."""
    points = [TO_LAB @ np.cbrt(TO_CONES @ np.clip(SEEN[seen] @ linear(colour), 0, 1)) for colour in palettes()[theme]]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(points, 2)) >= 0.1


def test_without_any_colour_shapes_and_dashes_are_left():
    css = resources.files("lpo.report").joinpath("comparison.css").read_text(encoding="utf-8")
    dashes = dict(re.findall(r"svg \.run-(\d)\.stroke \{ stroke-dasharray: ([^;]+);", css))
    assert len(SHAPES) == len(set(SHAPES)) == 8
    assert sorted(dashes) == list("2345678") and len(set(dashes.values())) == 7
