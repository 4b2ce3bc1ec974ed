"""Generated characters: named like Omniglot's, the same from the same seed, told apart."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.strokes import (
    CHARACTERS,
    DRAWINGS,
    VERSION,
    Character,
    draw_alphabets,
    invent_characters,
    render,
    spline,
    strokes_source,
)


@pytest.fixture(scope="module")
def three_alphabets() -> tuple[Character, ...]:
    return invent_characters(0, alphabets=3)


@pytest.fixture(scope="module")
def drawings(three_alphabets: tuple[Character, ...]) -> np.ndarray:
    return np.stack(list(draw_alphabets(three_alphabets, size=32, seed=0)))


def test_names_follow_omniglot(three_alphabets: tuple[Character, ...]) -> None:
    assert len(three_alphabets) == 3 * CHARACTERS
    assert three_alphabets[0].name == "background/Strokes01/character01"
    assert three_alphabets[-1].name == "background/Strokes03/character10"


def test_evaluation_alphabets_come_after_the_thirty_background_ones() -> None:
    names = [character.name for character in invent_characters(0, alphabets=31)]
    assert names[299:301] == [
        "background/Strokes30/character10",
        "evaluation/Strokes31/character01",
    ]
    assert names == sorted(names)


def test_a_character_has_one_to_four_strokes_within_its_box(
    three_alphabets: tuple[Character, ...],
) -> None:
    for character in three_alphabets:
        assert 1 <= len(character.strokes) <= 4
        points = np.concatenate([stroke.points for stroke in character.strokes])
        assert np.abs(points).max() == pytest.approx(0.5)


def test_drawings_are_light_ink_on_dark_inside_the_picture(drawings: np.ndarray) -> None:
    assert drawings.shape == (3 * CHARACTERS, DRAWINGS, 32, 32)
    assert drawings.dtype == np.uint8
    assert (drawings.max(axis=(2, 3)) > 200).all()
    assert np.median(drawings) == 0
    ink = (drawings > 127).mean(axis=(2, 3))
    assert ink.min() > 0.01
    assert ink.max() < 0.35
    border = np.concatenate([drawings[..., 0, :], drawings[..., -1, :]], -1)
    assert border.max() == 0


def test_the_same_seed_draws_the_same_and_another_does_not(
    three_alphabets: tuple[Character, ...], drawings: np.ndarray
) -> None:
    again = np.stack(list(draw_alphabets(invent_characters(0, alphabets=1), size=32, seed=0)))
    np.testing.assert_array_equal(again, drawings[:CHARACTERS])
    other = np.stack(list(draw_alphabets(three_alphabets[:10], size=32, seed=1)))
    assert not np.array_equal(other, again)


def test_no_two_drawings_of_a_character_are_equal(drawings: np.ndarray) -> None:
    for character in drawings.reshape(len(drawings), DRAWINGS, -1):
        assert len(np.unique(character, axis=0)) == DRAWINGS


def test_drawings_resemble_their_own_character_most(drawings: np.ndarray) -> None:
    """Blurred, half of the drawings tell the class of the other half (chance 1 in 30)."""
    blurred = drawings.reshape(30, DRAWINGS, 8, 4, 8, 4).mean((3, 5)).reshape(30, DRAWINGS, -1)
    means = blurred[:, ::2].mean(1)
    distances = ((blurred[:, 1::2, None] - means) ** 2).sum(-1)
    recognised = (distances.argmin(-1) == np.arange(30)[:, None]).mean()
    assert recognised > 0.6


def test_the_whole_set_has_omniglots_shape() -> None:
    pictures = strokes_source().read(64, lambda _message: None)
    assert len(pictures.classes) == 500
    assert len(pictures.labels) == 10_000
    assert next(iter(pictures.pixels)).shape == (DRAWINGS, 64, 64)


def test_a_change_of_the_drawings_needs_a_new_version(
    three_alphabets: tuple[Character, ...], drawings: np.ndarray
) -> None:
    """If this fails on purpose: raise VERSION, so that cached drawings are made again."""
    points = [s.points for c in three_alphabets for s in c.strokes]
    assert (VERSION, round(float(sum((p**2).sum() for p in points)), 6)) == (1, 57.638296)
    assert drawings.mean() == pytest.approx(15.06, abs=0.05)  # the rasteriser may round differently


def test_a_spline_passes_its_points_and_turns_sharply_where_they_repeat() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    smooth, sharp = spline(points, np.array([1, 1, 1])), spline(points, np.array([1, 3, 1]))
    for curve in (smooth, sharp):
        for point in points:
            assert np.abs(curve - point).sum(1).min() < 1e-12
    # A repeated point leaves the legs straight: every point has x = 1 or y = 0.
    assert np.abs((sharp[:, 0] - 1) * sharp[:, 1]).max() < 1e-12
    assert np.abs((smooth[:, 0] - 1) * smooth[:, 1]).max() > 0.01


def test_a_pen_draws_a_line_of_its_width() -> None:
    line = render([np.array([[0.25, 0.5], [0.75, 0.5]])], 0.125, 32)
    # Width 0.125 of 32 pixels: 4 rows around the middle, from column 8 to 24 and round ends.
    assert line[:, 16].astype(int).sum() == pytest.approx(4 * 255, rel=0.1)
    assert line[16, 16] == 255
    assert line[16, 4] == line[4, 16] == 0
