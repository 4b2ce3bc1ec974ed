"""A report's figures are told apart by everybody."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from skimage.color import rgb2lab

from tuner.plots import BEST, STYLES

# What is left of linear RGB without one kind of cone: Machado, Oliveira and Fernandes 2009,
# severity 1.0, doi:10.1109/TVCG.2009.113.
SEEN = {
    "by all cones": np.eye(3),
    "in protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "in deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
APART = 12.0  # in CIELAB, where 2.3 is just seen


def seen(colour: str, matrix: np.ndarray) -> np.ndarray:
    """ "#rrggbb" as an eye has it -> CIELAB [3]."""
    own = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) / 255
    linear = np.where(own <= 0.04045, own / 12.92, ((own + 0.055) / 1.055) ** 2.4)
    left = (matrix @ linear).clip(0, 1)
    return rgb2lab(np.where(left <= 0.0031308, 12.92 * left, 1.055 * left ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("eye", SEEN)
def test_colours_of_trials_are_told_apart(eye: str) -> None:
    colours = {colour: seen(colour, SEEN[eye]) for colour, _, _ in (*STYLES.values(), BEST)}
    for one, other in combinations(colours, 2):
        assert np.linalg.norm(colours[one] - colours[other]) > APART, (one, other)


def test_red_and_green_of_one_lightness_would_not_be_told_apart() -> None:
    red, green = (seen(colour, SEEN["in deuteranopia"]) for colour in ("#d62728", "#2ca02c"))
    assert np.linalg.norm(red - green) < APART


def test_trials_are_told_apart_without_any_colour() -> None:
    looks = [style[1:] for style in (*STYLES.values(), BEST)]
    assert len(set(looks)) == len(looks)
