"""What the page to try a champion does, without the page: adapts, keeps every stop, packs it up.

Shapes: n pictures, C channels (1: light ink on dark; 3: colour), S pixels a side.
"""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from trainables.errors import UserError
from trainables.grid import COLUMNS, ROWS, sample_grid
from trainables.shots import as_shot
from trainables.strokes import draw_alphabets, invent_characters
from tuner.champion_folder import kept_samples
from tuner.model import Bytes, as_png

if TYPE_CHECKING:
    from trainables.data_card import DataCard
    from tuner.model import Copying, Model

SHOTS = 4  # as all scores are of four
COUNT = COLUMNS * ROWS  # pictures drawn at every stop
STOPS = 6  # of the slider, up to the steps that the study chose; as close beyond them


class Stopped(Exception):
    """Whoever watches wants no more of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stop:
    """What was drawn after so many adaptation steps.

    Attributes:
        steps: of adaptation.
        pictures: uint8 [n, C, S, S].
        copying: how near they come to the shots.
    """

    steps: int
    pictures: Bytes
    copying: Copying


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """All that one adaptation has drawn so far.

    Attributes:
        title: of the model.
        seed: of noise and augmentation.
        shots: uint8 [4, C, S, S].
        chosen: steps that the model's study found best.
        stops: by steps, ascending.
    """

    title: str
    seed: int
    shots: Bytes
    chosen: int
    stops: tuple[Stop, ...] = ()

    def nearest_to(self, steps: float) -> Stop:
        """The stop that is nearest to so many steps."""
        return min(self.stops, key=lambda stop: abs(stop.steps - steps))


def stops_of(model: Model) -> tuple[int, ...]:
    """Steps to draw at, from 0 to all that the model may take; its study's own are among them."""
    fractions = range(model.max_steps * STOPS // model.steps + 1)
    return tuple(sorted({round(part * model.steps / STOPS) for part in fractions}))


def adapt(
    model: Model, shots: Bytes, *, seed: int, is_wanted: Callable[[], bool] = lambda: True
) -> Iterator[Drawn]:
    """Adapt once; yield what there is at every stop, earlier stops included.

    Args:
        shots: uint8 [4, C, S, S].
        is_wanted: asked at every step; what was drawn until it says no remains.
    """
    drawn = Drawn(title=model.title, seed=seed, shots=shots, chosen=model.steps)

    def go_on(_done: int, _steps: int) -> None:
        if not is_wanted():
            raise Stopped

    try:
        for steps, pictures in model.draw(
            shots, count=COUNT, seed=seed, stops=stops_of(model), progress=go_on
        ):
            copying = model.scores(shots, pictures)
            stop = Stop(steps=steps, pictures=pictures, copying=copying)
            drawn = replace(drawn, stops=(*drawn.stops, stop))
            yield drawn
    except Stopped:
        return


def drawn_shots(canvases: Sequence[Image.Image | None], card: DataCard) -> Bytes:
    """Drawings as the model's data looks -> uint8 [n, C, S, S].

    Args:
        canvases: of any size, with ink on white or on nothing; None for an untouched one.
        card: of the data.
    Raises:
        UserError: some are blank; it names them all.
    """
    papers = [None if canvas is None else on_paper(canvas) for canvas in canvases]
    inked = [paper for paper in papers if paper is not None and not is_blank(paper)]
    if len(inked) < len(canvases):
        blank = [str(n) for n, p in enumerate(papers, 1) if p is None or is_blank(p)]
        be, them = ("is", "it") if len(blank) == 1 else ("are", "them")
        raise UserError(
            f"Four drawings of one character are needed, and {listed(blank)} {be} blank: draw on "
            f"{them}, too."
        )
    return np.stack([as_shot(np.asarray(paper), card) for paper in inked])


def on_paper(picture: Image.Image) -> Image.Image:
    """A drawing with transparent parts, on white."""
    drawn = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")


def is_blank(picture: Image.Image) -> bool:
    """Whether all of an RGB picture has one colour."""
    return not np.ptp(np.asarray(picture), axis=(0, 1)).any()


def listed(words: Sequence[str]) -> str:
    """["1", "2", "3"] -> "1, 2 and 3"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


# Examples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """Shots for those who have none: uint8 [4, C, S, S], and where they are from."""

    shots: Bytes
    told: str


def example(model: Model, champion: Path, number: int) -> Example:
    """Four shots of a class that the model was tested on, else generated pen strokes.

    Args:
        champion: folder in which its study may have kept the shots of its test.
        number: from 0; other numbers are other classes.
    """
    if (kept := kept_samples(champion)) is not None and len(kept.shots):
        shots = kept.shots[number % len(kept.shots)][:SHOTS]
        if shots.shape == (SHOTS, model.channels, model.size, model.size):
            return Example(shots=shots, told="From the classes that the model was tested on.")
    return _from_strokes(model, number)


def _from_strokes(model: Model, number: int) -> Example:
    character = invent_characters(number, alphabets=1)[:1]
    drawings = next(draw_alphabets(character, size=model.size, seed=number))[:SHOTS, None]
    return Example(
        shots=drawings.repeat(model.channels, axis=1),
        told="Generated pen strokes, since there is no picture of the model's study here.",
    )


# Showing


def _img(picture: Bytes, told: str) -> str:
    data = base64.b64encode(as_png(picture)).decode()
    return f'<img alt="{escape(told)}" src="data:image/png;base64,{data}">'


def shots_html(shots: Bytes) -> str:
    """The shots in a row, as the model sees them."""
    figures = (f"<figure>{_img(shot, f'shot {n}')}</figure>" for n, shot in enumerate(shots, 1))
    return f'<div class="pictures shots">{"".join(figures)}</div>'


def pictures_html(drawn: Drawn, stop: Stop, *, beside: bool) -> str:
    """What was drawn at a stop, and how far each picture is from its nearest shot.

    Args:
        beside: whether that shot stands beside it.
    """
    figures, copying = [], stop.copying
    for n, picture in enumerate(stop.pictures):
        near = int(copying.nearest[n])
        shown = _img(picture, f"new picture {n + 1}")
        if beside:
            shown += _img(drawn.shots[near], f"its nearest shot, {near + 1}")
        caption = f"{copying.distances[n]:.2f} from shot {near + 1}"
        if copying.copies[n]:
            caption = f"<b>copy</b>, {caption}"
        figures.append(f"<figure><div>{shown}</div><figcaption>{caption}</figcaption></figure>")
    kind = "pictures beside" if beside else "pictures"
    return f'<div class="{kind}">{"".join(figures)}</div>'


def label(drawn: Drawn, index: int) -> str:
    """What the slider is called at a stop, counted from 1."""
    steps = drawn.stops[index - 1].steps
    chosen = ", where its study stops" if steps == drawn.chosen else ""
    return f"After {steps} adaptation steps{chosen}"


def told(drawn: Drawn, index: int) -> str:
    """What is to be said of the pictures at a stop, counted from 1, as HTML."""
    stop, copying = drawn.stops[index - 1], drawn.stops[index - 1].copying
    copies, count = int(copying.copies.sum()), len(stop.pictures)
    return (
        f"<b>{copies} of {count}</b> {'is a copy' if copies == 1 else 'are copies'} of a shot; of "
        f"real pictures, {copying.real_copy_share:.0%} count as such. Median distance to the "
        f"nearest shot <b>{copying.distance:.2f}</b>, of real pictures "
        f"{copying.real_distance:.2f}; 0 is a copy, 1 as far off as an empty picture."
    )


def packed(drawn: Drawn, folder: Path) -> Path:
    """Write all stops' pictures, a grid of each, the shots and the scores as one zip file."""
    path = folder / "pictures.zip"
    facts = {
        "model": drawn.title,
        "seed": drawn.seed,
        "adaptation_steps_of_the_study": drawn.chosen,
        "stops": [
            {
                "adaptation_steps": stop.steps,
                "copy_share": stop.copying.copy_share,
                "copies": stop.copying.copies.tolist(),
                "distances": stop.copying.distances.round(4).tolist(),
                "nearest_shots": (stop.copying.nearest + 1).tolist(),
            }
            for stop in drawn.stops
        ],
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scores.json", json.dumps(facts, indent=2))
        for n, shot in enumerate(drawn.shots, 1):
            archive.writestr(f"shots/{n}.png", as_png(shot))
        for stop in drawn.stops:
            name = f"steps-{stop.steps:04d}"
            grid = sample_grid(drawn.shots[None], stop.pictures[None])
            archive.writestr(f"{name}/grid.png", as_png(grid.transpose(2, 0, 1)))
            for n, picture in enumerate(stop.pictures, 1):
                archive.writestr(f"{name}/{n:02d}.png", as_png(picture))
    return path
