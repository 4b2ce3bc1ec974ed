"""The sample grid, pixel by pixel on a small case."""

from __future__ import annotations

import numpy as np

from trainables.grid import ENLARGED, GAP, LINE, LINE_GREY, sample_grid


def test_shots_are_on_top_and_samples_below() -> None:
    shots = np.zeros((2, 4, 1, 2, 2), np.uint8)
    shots[0] = np.arange(1, 5)[:, None, None, None]  # shot k of class 0 has value k
    samples = np.zeros((2, 12, 1, 2, 2), np.uint8)
    samples[0] = np.arange(11, 23)[:, None, None, None]
    grid = sample_grid(shots, samples)[::ENLARGED, ::ENLARGED, 0]
    height, width = 2 + LINE + 3 * 2, 4 * 2
    assert grid.shape == (height, 2 * width + GAP)
    assert grid[0, :8:2].tolist() == [1, 2, 3, 4]
    assert (grid[2, :width] == LINE_GREY).all()
    assert grid[3, :8:2].tolist() == [11, 12, 13, 14]
    assert grid[7, :8:2].tolist() == [19, 20, 21, 22]
    assert (grid[:2, width + GAP :] == 0).all()


def test_colour_and_rows_of_classes() -> None:
    shots = np.zeros((7, 4, 3, 2, 2), np.uint8)
    shots[:, :, 0] = 200
    grid = sample_grid(shots, np.zeros((7, 12, 3, 2, 2), np.uint8))
    assert grid.shape[2] == 3
    assert grid[0, 0].tolist() == [200, 0, 0]
    grey = sample_grid(shots[:, :, :1], np.zeros((7, 12, 1, 2, 2), np.uint8))
    assert grey.shape == grid.shape
    assert grey[0, 0].tolist() == [200, 200, 200]
