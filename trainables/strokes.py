"""Generated pen-stroke characters in Omniglot's shape: a stand-in that needs no download.

A character is a short program of strokes, each a spline through control points that starts on,
ends on, crosses or stands beside an earlier stroke; an alphabet has its own small inventory of
strokes. A drawing is the program carried out by one of the alphabet's writers, who has a size,
a slant, a pen and an unsteady hand. The structure follows Bayesian Program Learning (Lake,
Salakhutdinov, Tenenbaum, Science 350, 2015); the distributions are made up, not fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from trainables.built_once import Report
from trainables.image_set import Pictures, Source

VERSION = 1  # raise it whenever the drawings change, so that cached ones are not taken for new
BACKGROUND_ALPHABETS, EVALUATION_ALPHABETS = 30, 20
CHARACTERS, DRAWINGS = 10, 20  # in an alphabet; of a character
INVENTORY = 6  # stroke shapes that an alphabet uses again and again
MOST_ALIKE = 0.80  # correlation of two characters' blurred drawings above which one is dropped
MOST_INK = 4.2  # length of all strokes, in character sizes
FINE = 4  # drawn at so many times the size, then averaged down
STEPS = 6  # points per spline segment

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stroke:
    """One movement of the pen: control points [P, 2] as (x, y), y downwards.

    A control point repeated three times is a corner; the spline is smooth at the others.
    """

    points: Floats
    repeats: npt.NDArray[np.int64]


Shape = Callable[[np.random.Generator], Stroke]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Character:
    """A named program of strokes around the origin, its longer side 1."""

    name: str
    strokes: tuple[Stroke, ...]


def strokes_source(seed: int = 0) -> Source:
    """Return the source of all drawings: 50 alphabets of 10 characters, 20 drawings each."""
    return Source(
        name="strokes",
        stand_in=True,
        key={"version": VERSION, "seed": seed},
        read=lambda size, report: _read(size, report, seed),
    )


def _read(size: int, report: Report, seed: int) -> Pictures:
    report("strokes: inventing pen-stroke characters")
    characters = invent_characters(seed)
    return Pictures(
        classes=tuple(character.name for character in characters),
        labels=np.repeat(np.arange(len(characters)), DRAWINGS),
        held_out=np.zeros(len(characters) * DRAWINGS, np.bool_),
        pixels=draw_alphabets(characters, size=size, seed=seed),
    )


def invent_characters(
    seed: int, alphabets: int = BACKGROUND_ALPHABETS + EVALUATION_ALPHABETS
) -> tuple[Character, ...]:
    """Invent distinguishable characters, 10 per alphabet, named in Omniglot's manner.

    The first 30 alphabets are "background/Strokes01/character01" and so on, later ones
    "evaluation/...". Fewer `alphabets` give the beginning of the same list.
    """
    characters: list[Character] = []
    seen = np.empty((0, 16 * 16))
    for alphabet in range(alphabets):
        rng = np.random.default_rng([seed, alphabet, 0])
        part = "background" if alphabet < BACKGROUND_ALPHABETS else "evaluation"
        style = _invent_style(rng)
        number = 0
        while number < CHARACTERS:
            strokes = _invent_strokes(style, rng)
            look = _look(strokes)
            if len(seen) and (seen @ look).max() > MOST_ALIKE:
                continue
            number += 1
            seen = np.vstack([seen, look])
            name = f"{part}/Strokes{alphabet + 1:02d}/character{number:02d}"
            characters.append(Character(name=name, strokes=strokes))
    return tuple(characters)


def draw_alphabets(
    characters: tuple[Character, ...], *, size: int, seed: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the 20 drawings of each character, uint8 [20, size, size], light on dark."""
    for index, character in enumerate(characters):
        alphabet, number = divmod(index, CHARACTERS)
        # Drawing k of every character of an alphabet is by writer k, as in Omniglot.
        writers = _Writers(np.random.default_rng([seed, alphabet, 1]))
        rng = np.random.default_rng([seed, alphabet, 2 + number])
        yield np.stack(
            [render(curves, width, size) for curves, width in writers.draw(character, rng)]
        )


# Inventing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Style:
    """What the characters of an alphabet have in common."""

    inventory: tuple[Stroke, ...]
    angles: Floats  # preferred directions, radians
    more_strokes: float  # 0 for mostly one or two strokes, 1 for mostly three or four


def _invent_style(rng: np.random.Generator) -> _Style:
    curved = rng.uniform(0.15, 0.85)
    shapes: list[Shape] = [_line]
    for _ in range(INVENTORY - 1):
        kinds = CURVED if rng.random() < curved else ANGULAR
        shapes.append(kinds[rng.integers(len(kinds))])
    return _Style(
        inventory=tuple(shape(rng) for shape in shapes),
        angles=rng.normal(0, 0.12) + np.linspace(0, 1.5 * math.pi, 4),
        more_strokes=rng.uniform(0, 1),
    )


def _smooth(points: Floats) -> Stroke:
    return Stroke(points=points, repeats=np.ones(len(points), np.int64))


def _angular(corners: Floats) -> Stroke:
    """Straight legs between `corners`; a point half-way lets an unsteady hand bend them."""
    points = np.empty((2 * len(corners) - 1, 2))
    points[::2] = corners
    points[1::2] = (corners[1:] + corners[:-1]) / 2
    repeats = np.where(np.arange(len(points)) % 2 == 0, 3, 1)
    return Stroke(points=points, repeats=repeats)


def _line(_rng: np.random.Generator) -> Stroke:
    return _angular(np.array([[0.0, 0.0], [1.0, 0.0]]))


def _corner(rng: np.random.Generator) -> Stroke:
    turn, leg = rng.uniform(0.3, 0.75) * math.pi, rng.uniform(0.4, 1.0)
    end = [1 + leg * math.cos(turn), leg * math.sin(turn)]
    return _angular(np.array([[0.0, 0.0], [1.0, 0.0], end]))


def _zigzag(rng: np.random.Generator) -> Stroke:
    legs = int(rng.integers(3, 5))
    x = np.linspace(0, 1, legs + 1)
    y = np.where(np.arange(legs + 1) % 2 == 0, 0.0, rng.uniform(0.35, 0.8))
    return _angular(np.stack([x, y], 1))


def _arc(rng: np.random.Generator) -> Stroke:
    sweep, squash = rng.uniform(0.5, 1.5) * math.pi, rng.uniform(0.6, 1.0)
    angle = np.linspace(0, sweep, 7)
    return _smooth(np.stack([0.5 * np.sin(angle), squash * 0.5 * (1 - np.cos(angle))], 1))


def _hook(rng: np.random.Generator) -> Stroke:
    radius, sweep = rng.uniform(0.15, 0.3), rng.uniform(0.6, 1.3) * math.pi
    angle = np.linspace(0, sweep, 6)
    bend = np.stack([1 + radius * np.sin(angle), radius * (1 - np.cos(angle))], 1)
    return _smooth(np.vstack([[[0.0, 0.0], [0.5, 0.0]], bend]))


def _wave(rng: np.random.Generator) -> Stroke:
    x = np.linspace(0, 1, 9)
    y = rng.uniform(0.15, 0.3) * np.sin(2 * math.pi * rng.uniform(0.8, 1.4) * x)
    return _smooth(np.stack([x, y], 1))


def _loop(rng: np.random.Generator) -> Stroke:
    radius, squash = rng.uniform(0.25, 0.4), rng.uniform(0.7, 1.2)
    angle = np.linspace(0, rng.uniform(1.85, 2.1) * math.pi, 10)
    ring = np.stack([radius * np.sin(angle), squash * radius * (1 - np.cos(angle))], 1)
    tail = rng.uniform(0.0, 0.7)
    return _smooth(np.vstack([ring, [[tail, rng.uniform(-0.2, 0.2)]]]) if tail > 0.25 else ring)


CURVED: tuple[Shape, ...] = (_arc, _hook, _wave, _loop)
ANGULAR: tuple[Shape, ...] = (_line, _line, _corner, _corner, _zigzag)


def _invent_strokes(style: _Style, rng: np.random.Generator) -> tuple[Stroke, ...]:
    few, many = np.array([0.3, 0.45, 0.2, 0.05]), np.array([0.05, 0.3, 0.4, 0.25])
    chances = few + style.more_strokes * (many - few)
    placed: list[Stroke] = []
    while True:
        for _ in range(int(rng.choice(4, p=chances)) + 1):
            shape = style.inventory[rng.integers(len(style.inventory))]
            placed.append(_place(shape, placed, style, rng))
        points = np.concatenate([stroke.points for stroke in placed])
        low, high = points.min(0), points.max(0)
        longer = float((high - low).max())
        spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
        ink = sum(np.hypot(*np.diff(s.points, axis=0).T).sum() for s in placed) / longer
        if spread[1] > 0.25 * spread[0] and ink < MOST_INK:
            break  # else it is a bare line or a tangle, like many others
        placed.clear()
    return tuple(
        Stroke(points=(s.points - (low + high) / 2) / longer, repeats=s.repeats) for s in placed
    )


def _place(shape: Stroke, placed: list[Stroke], style: _Style, rng: np.random.Generator) -> Stroke:
    """Turn, scale and mirror a shape of the inventory, and put it where it meets the others."""
    angle = style.angles[rng.integers(4)] + rng.choice([0.0, math.pi / 4], p=[0.75, 0.25])
    mirror = rng.choice([-1.0, 1.0])
    points = shape.points * [rng.uniform(0.75, 1.1), mirror * rng.uniform(0.8, 1.1)]
    scale = rng.uniform(0.75, 1.1) if not placed else rng.uniform(0.35, 0.95)
    points = scale * points @ _rotation(angle)
    if placed:
        other = placed[rng.integers(len(placed))].points
        relation = int(rng.choice(4, p=[0.3, 0.3, 0.3, 0.1]))  # start, end, along, apart
        touched = other[(0, -1, int(rng.integers(len(other))), -1)[relation]]
        held = points[0] if relation < 2 or rng.random() < 0.5 else points[len(points) // 2]
        apart = rng.uniform(-0.45, 0.45, 2) if relation == 3 else 0.0
        points = points - held + touched + apart
    return Stroke(points=points, repeats=shape.repeats)


def _rotation(angle: float) -> Floats:
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _look(strokes: tuple[Stroke, ...]) -> Floats:
    """Return a blurred, centred, normalised drawing [256]; dot products are correlations."""
    curves = [0.5 + 0.8 * spline(stroke.points, stroke.repeats) for stroke in strokes]
    blurred = render(curves, 0.14, 16).astype(np.float64).ravel()
    blurred -= blurred.mean()
    normalised: Floats = blurred / np.linalg.norm(blurred)
    return normalised


# Drawing


class _Writers:
    """The 20 people who write an alphabet, each with a constant hand."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.size = rng.normal(0.64, 0.09, DRAWINGS).clip(0.42, 0.84)
        self.slant = rng.normal(0.0, 0.13, DRAWINGS)
        self.wide = np.exp(rng.normal(0.0, 0.12, DRAWINGS))
        self.turn = rng.normal(0.0, 0.05, DRAWINGS)
        self.wobble = rng.uniform(0.008, 0.03, DRAWINGS)  # of control points, character sizes
        self.pen = rng.uniform(0.036, 0.050, DRAWINGS)  # width, picture sizes

    def draw(
        self, character: Character, rng: np.random.Generator
    ) -> Iterator[tuple[list[Floats], float]]:
        """Yield the curves [any, 2] in the unit square and the pen's width, writer by writer."""
        for k in range(DRAWINGS):
            curves = [self._unsteady(stroke, k, rng) for stroke in character.strokes]
            angle = self.turn[k] + rng.normal(0, 0.05)
            shear = np.array([[self.wide[k], 0.0], [self.slant[k], 1 / self.wide[k]]])
            scale = self.size[k] * math.exp(rng.normal(0, 0.06))
            placed = [scale * curve @ shear @ _rotation(angle) for curve in curves]
            yield _within(placed, centre=rng.normal(0.5, 0.035, 2)), float(self.pen[k])

    def _unsteady(self, stroke: Stroke, k: int, rng: np.random.Generator) -> Floats:
        points, wobble = stroke.points, self.wobble[k]
        middle = points.mean(0)
        grown = (points - middle) * np.exp(rng.normal(0, 0.07, 2)) @ _rotation(rng.normal(0, 0.06))
        moved = grown + middle + rng.normal(0, wobble, 2)
        return spline(moved + rng.normal(0, wobble, points.shape), stroke.repeats)


def _within(curves: list[Floats], *, centre: Floats, margin: float = 0.07) -> list[Floats]:
    """Put the curves' box around `centre`, smaller or moved where it would leave the picture."""
    points = np.concatenate(curves)
    low, high = points.min(0), points.max(0)
    scale = min(1.0, (1 - 2 * margin) / float((high - low).max()))
    half = scale * (high - low) / 2
    centre = centre.clip(margin + half, 1 - margin - half)
    return [scale * (curve - (low + high) / 2) + centre for curve in curves]


def _spline_basis() -> Floats:
    t = np.linspace(0, 1, STEPS, endpoint=False)[:, None]
    return 0.5 * np.hstack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    )


SPLINE_BASIS = _spline_basis()  # [STEPS, 4]


def spline(points: Floats, repeats: npt.NDArray[np.int64]) -> Floats:
    """Return a uniform Catmull-Rom spline through control points: [P, 2] -> [any, 2]."""
    knots = np.repeat(points, repeats, axis=0)
    knots = np.vstack([knots[:1], knots, knots[-1:]])
    windows = np.stack([knots[i : len(knots) - 3 + i] for i in range(4)], 1)  # [segments, 4, 2]
    return np.vstack([(SPLINE_BASIS @ windows).reshape(-1, 2), knots[-1:]])


def render(curves: list[Floats], width: float, size: int) -> npt.NDArray[np.uint8]:
    """Draw curves in the unit square with a round pen, antialiased -> uint8 [size, size]."""
    side = FINE * size
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    thick = width * side
    for curve in curves:
        pixels = curve * side
        pen.line(pixels.ravel().tolist(), fill=255, width=round(thick))
        for x, y in pixels[::STEPS].tolist():  # round ends and corners: both lie on knots
            pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=255)
    return np.asarray(canvas.reduce(FINE))
