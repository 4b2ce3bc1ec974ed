"""Users' own pictures come out as the data would have them, whatever they are photographed on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from photographs import photograph
from PIL import Image
from tiny_champion import card, drawings

from trainables.data_card import DataCard, box_of, measured
from trainables.errors import UserError
from trainables.shots import as_shot, read_shots, shot_files


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of ink [S, S], at the best of the shifts by a pixel."""
    a, b = first / 255, second / 255
    moved = (np.roll(b, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1))
    return max(float(np.minimum(a, c).sum() / np.maximum(a, c).sum()) for c in moved)


def tight(ink: np.ndarray, margin: float) -> np.ndarray:
    """A drawing cut to its ink, with `margin` of the longest side around it."""
    top, bottom, left, right = box_of(ink)
    cut = ink[top:bottom, left:right]
    height, width = cut.shape
    side = max(cut.shape)
    square = np.zeros((side, side), bool)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = cut
    return np.pad(square, round(margin * side))


@pytest.mark.parametrize(
    ("character", "taken"),
    [
        (0, {}),
        (1, {"orientation": 6}),
        (3, {"orientation": 3, "desk": True}),
        (4, {"chalk": True}),
    ],
)
def test_a_photograph_gives_the_drawing_that_was_photographed(
    character: int, taken: dict, tmp_path: Path
) -> None:
    ink = drawings(105)[character, 0] > 127
    file = tmp_path / "photo.jpg"
    file.write_bytes(photograph(ink, character, **taken))
    (shot,) = read_shots([file], card())
    # What the data would have of it, were it drawn at the usual size.
    margin = (1 / card().extent[1] - 1) / 2
    usual = Image.fromarray(tight(ink, margin).astype(np.uint8) * 255)
    expected = np.asarray(usual.resize((32, 32), Image.Resampling.BILINEAR))
    assert shot.shape == (1, 32, 32)
    assert shot.dtype == np.uint8
    assert agreement(shot[0], expected) > 0.6
    others = [agreement(shot[0], other) for other in drawings()[5:, 0]]
    assert agreement(shot[0], expected) > max(others) + 0.2
    extent, stroke = measured(shot[0][..., None])
    assert extent == pytest.approx(card().extent[1], abs=0.06)
    assert 0.8 * card().stroke[0] < stroke < 1.2 * card().stroke[2]


@pytest.mark.parametrize("form", ["as it is", "dark on white", "transparent", "in RGB"])
def test_a_picture_of_the_data_itself_is_only_resized(form: str, tmp_path: Path) -> None:
    drawing = drawings()[2, 1]
    picture = Image.fromarray(drawing if form in ("as it is", "in RGB") else 255 - drawing)
    if form == "in RGB":
        picture = picture.convert("RGB")
    if form == "transparent":
        picture = Image.new("RGBA", picture.size, "black")
        picture.putalpha(Image.fromarray(drawing))
    picture.save(tmp_path / "drawing.png")
    (shot,) = read_shots([tmp_path / "drawing.png"], card())
    assert np.abs(shot[0].astype(int) - drawing).max() <= 1


@pytest.mark.parametrize("name", ["drawing.png", "drawing.tif"])
def test_twelve_bits_in_sixteen_give_the_shot_that_eight_give(name: str, tmp_path: Path) -> None:
    drawing = drawings()[2, 1]
    Image.fromarray(drawing.astype(np.uint16) * 16).save(tmp_path / name)
    (shot,) = read_shots([tmp_path / name], card())
    assert np.abs(shot[0].astype(int) - drawing).max() <= 1


def test_a_thing_on_white_is_cut_out_and_inverted_as_such_data_is() -> None:
    """A grey box of 100 x 50 pixels, lighter on one side, far from the middle of white paper."""
    things = np.zeros((4, 6, 1, 32, 32), np.uint8)
    things[..., 2:30, 4:28] = np.linspace(120, 255, 24, dtype=np.uint8)
    own = DataCard.of("things", things[:, :4], things[:, 4:])
    assert own.style == "object"
    photo = np.full((300, 400), 245, np.uint8)
    photo[200:250, 20:120] = np.linspace(160, 40, 100, dtype=np.uint8)
    shot = as_shot(np.stack([photo] * 3, axis=-1), own)[0]
    inside = shot > 24
    top, bottom, left, right = box_of(inside)
    assert (right - left, bottom - top) == (28, 14)
    assert abs(left + right - 32) <= 1
    assert abs(top + bottom - 32) <= 1
    assert shot[16, left + 2] < shot[16, right - 3]
    assert np.median(shot[0]) == 0


def test_colours_stay_where_the_data_has_them_and_go_where_it_has_none() -> None:
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (3, 6, 3, 32, 32)).astype(np.uint8)
    coloured = DataCard.of("scenes", scenes[:, :4], scenes[:, 4:])
    assert (coloured.style, coloured.channels) == ("scene", 3)
    photo = np.zeros((60, 60, 3), np.uint8)
    photo[..., 0] = np.arange(60) * 4
    assert as_shot(photo, coloured)[0].std() > 50
    assert not as_shot(photo, coloured)[1:].any()
    assert (as_shot(photo[..., 0], coloured)[1] == as_shot(photo[..., 0], coloured)[0]).all()
    ink = np.stack([255 - drawings()[2, 1]] * 3, axis=-1)
    assert as_shot(ink, card()).shape == (1, 32, 32)


def test_what_shows_nothing_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paper = np.broadcast_to(np.linspace(120, 220, 400), (300, 400))
    noisy = (paper + rng.normal(0, 5, paper.shape)).clip(0, 255).astype(np.uint8)
    white = np.full((300, 400), 255, np.uint8)
    for name, pixels, words in (
        ("white.png", white, "is blank"),
        ("paper.jpg", noisy, "shows no ink"),
    ):
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(UserError, match=words) as caught:
            read_shots([tmp_path / name], card())
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"whole PNG, JPEG.*text\.png"):
        read_shots([tmp_path / "text.png"], card())


def test_files_or_one_folder_of_them_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(UserError, match="there is no picture"):
        shot_files([str(folder)])
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt"):
        (folder / name).touch()
    assert [path.name for path in shot_files([str(folder)])] == ["a.jpg", "b.PNG"]
    given = [str(folder / "b.PNG"), str(folder / "a.jpg")]
    assert [path.name for path in shot_files(given)] == ["b.PNG", "a.jpg"]
    for named, words in (
        ([str(folder / "c.png")], "is absent"),
        ([str(folder), given[0]], "is a folder"),
        ([given[0]] * 17, "1 to 16 pictures"),
    ):
        with pytest.raises(UserError, match=words):
            shot_files(named)


def test_a_card_survives_json_and_measures_drawings() -> None:
    own = card()
    assert own.style == "drawing"
    assert own.ground == (0,)
    assert DataCard.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    shots = drawings()[:, :4, None]
    assert DataCard.of_shots("strokes", shots).copy_distance == pytest.approx(
        own.copy_distance, rel=0.4
    )
    for wrong, error in (
        ({"size": 10**6}, ValueError),
        ({"channels": 2}, ValueError),
        ({"style": "photo"}, ValueError),
        ({"ground": [0, 0, 0]}, ValueError),
        ({"stroke": [1.0, float("nan"), 2.0]}, ValueError),
        ({"more": 1}, TypeError),
    ):
        with pytest.raises(error):
            DataCard.from_dict(own.to_dict() | wrong)
