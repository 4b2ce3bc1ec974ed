"""What the page to try a champion shows, on a model that is none."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from blends import CARD, SIZE, blends, crosses, sheet
from PIL import Image

from trainables.errors import UserError
from tuner.tryout import (
    COUNT,
    SHOTS,
    Drawn,
    adapt,
    drawn_shots,
    example,
    packed,
    pictures_html,
    stops_of,
)


def last(drawn: Iterator[Drawn]) -> Drawn:
    *_, end = drawn
    return end


def test_stops_begin_unadapted_and_hold_what_the_study_chose() -> None:
    stops = stops_of(blends())
    assert stops[0] == 0
    assert 30 in stops
    assert stops[-1] == 90
    assert len(stops) == 19


def test_one_adaptation_draws_all_stops_and_keeps_them() -> None:
    model, shots = blends(), crosses()
    seen = list(adapt(model, shots, seed=1))
    assert [len(drawn.stops) for drawn in seen] == list(range(1, 20))
    assert model.told == list(range(91))  # once
    first, end = seen[-1].stops[0], seen[-1].stops[-1]
    assert first.copying.copy_share == 0.0
    assert end.copying.copy_share == 1.0
    assert seen[-1].nearest_to(31).steps == 30


def test_what_is_stopped_keeps_what_it_has() -> None:
    model = blends()
    drawn = last(adapt(model, crosses(), seed=1, is_wanted=lambda: len(model.told) < 18))
    assert [stop.steps for stop in drawn.stops] == [0, 5, 10, 15]


def test_blank_canvases_are_named_in_one_line() -> None:
    blank, inked = sheet(ink=False), sheet(ink=True)
    with pytest.raises(UserError, match=r"and 2 and 4 are blank: draw on them, too\.$"):
        drawn_shots([inked, blank, inked, None], CARD)
    with pytest.raises(UserError, match=r"and 1 is blank: draw on it, too\.$"):
        drawn_shots([Image.new("RGB", (9, 9), "white"), inked, inked, inked], CARD)


def test_ink_on_nothing_is_as_ink_on_paper() -> None:
    clear = sheet(ink=True)
    paper = Image.new("RGB", clear.size, "white")
    paper.paste(clear, mask=clear.getchannel("A"))
    shots = drawn_shots([clear, paper], CARD)
    assert shots.shape == (2, 1, SIZE, SIZE)
    assert np.array_equal(shots[0], shots[1])
    assert shots[0, 0, 0, 0] == 0  # ink is light
    assert shots.max() > 150


@pytest.mark.parametrize("channels", [1, 3])
def test_every_picture_tells_its_distance_and_shows_its_shot_on_demand(channels: int) -> None:
    drawn = last(adapt(blends(channels=channels), crosses(channels), seed=1))
    page = pictures_html(drawn, drawn.stops[-1], beside=False)
    assert page.count("<img") == COUNT
    assert page.count("<b>copy</b>, 0.00 from shot ") == COUNT
    assert pictures_html(drawn, drawn.stops[-1], beside=True).count("<img") == 2 * COUNT
    assert "<b>copy" not in pictures_html(drawn, drawn.stops[0], beside=False)


def test_the_download_holds_pictures_grids_shots_and_scores(tmp_path: Path) -> None:
    drawn = last(adapt(blends(), crosses(), seed=7))
    with zipfile.ZipFile(packed(drawn, tmp_path)) as archive:
        names = archive.namelist()
        facts = json.loads(archive.read("scores.json"))
        with Image.open(io.BytesIO(archive.read("steps-0030/12.png"))) as picture:
            pixels = np.asarray(picture)
        with Image.open(io.BytesIO(archive.read("steps-0030/grid.png"))) as grid:
            assert grid.mode == "RGB"
    assert len(names) == 1 + SHOTS + 19 * (COUNT + 1)
    assert np.array_equal(pixels, drawn.nearest_to(30).pictures[11, 0])
    assert facts["seed"] == 7
    assert facts["adaptation_steps_of_the_study"] == 30
    assert facts["stops"][-1]["copy_share"] == 1.0
    assert sorted(set(facts["stops"][-1]["nearest_shots"])) == [1, 2, 3, 4]


def test_examples_are_the_studys_own_where_it_kept_some(tmp_path: Path) -> None:
    kept = np.stack([crosses(), 255 - crosses()])
    np.savez(tmp_path / "samples.npz", shots=kept, samples=kept)
    for number in range(3):
        shown = example(blends(), tmp_path, number)
        assert np.array_equal(shown.shots, kept[number % 2])
        assert "tested on" in shown.told


@pytest.mark.parametrize("channels", [1, 3])
def test_examples_are_strokes_that_say_so_where_there_are_none(
    tmp_path: Path, channels: int
) -> None:
    (tmp_path / "samples.npz").write_bytes(b"PK")  # damaged ones are none
    first, second = (example(blends(channels=channels), tmp_path, n) for n in (0, 1))
    assert first.shots.shape == (SHOTS, channels, SIZE, SIZE)
    assert first.shots.max() > 200
    assert not np.array_equal(first.shots, second.shots)
    assert first.told.startswith("Generated pen strokes")
