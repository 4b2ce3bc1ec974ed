"""What is learned from and what is tested on: class splits and episodes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trainables.datasets import ImageSet
from trainables.errors import UserError

Part = Literal["validation", "test"]
VALIDATION_ALPHABETS = 5
EPISODES = 20  # of a part, about: where it has fewer classes, several of each
MOST_CLASSES = 20  # in validation, and in test
MOST_SHOTS = 16  # that users give a model; it is trained for 4
FEWEST_REALS = 4  # per episode, to compare with
REALS = 16  # per episode, that as many samples are compared with
COMPARED = 256  # the same of large classes, whose scores take a reference besides
REFERENCE = 500
LARGE_CLASS = REFERENCE + COMPARED  # held-out pictures
# (validation, test) by class name. Validation is near, middling and far from the test class.
FIXED_SPLITS = {
    "mnist": (("4", "7", "0"), ("9",)),
    "digits": (("4", "7", "0"), ("9",)),
    "fashion_mnist": (("7", "4", "8"), ("9",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Disjoint class indices: to train on, to search on, and to test on once.

    Validation and test classes are in drawn order, so that the first few of them are a fair
    sample; `seed` is the one they were drawn with.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        """Refuse parts that share a class, and nothing to train on or to test on."""
        parts = (self.train, self.validation, self.test)
        if not (self.train and self.test) or len(set().union(*parts)) != sum(map(len, parts)):
            raise ValueError(
                f"The parts of a split must be disjoint, training and test not empty, got {self}."
            )

    def scored_on(self, part: Part) -> tuple[int, ...]:
        """The classes of a part."""
        return self.validation if part == "validation" else self.test

    def joined(self) -> Split:
        """Return the split of a last training: the validation classes belong to it, too."""
        return Split(
            train=tuple(sorted((*self.train, *self.validation))),
            validation=(),
            test=self.test,
            seed=self.seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, JSON-able."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Split:
        """Return the split that `to_dict` or `split_record` has written down."""
        parts = {part: tuple(map(int, data[part])) for part in ("train", "validation", "test")}
        return Split(**parts, seed=int(data["seed"]))


def split_record(images: ImageSet, split: Split) -> dict[str, Any]:
    """Return the split with the set's fingerprint and the classes' names, JSON-able."""
    names = {
        part: [images.classes[index] for index in getattr(split, part)]
        for part in ("train", "validation", "test")
    }
    return {
        **split.to_dict(),
        "data": images.name,
        "fingerprint": images.fingerprint,
        "class_names": names,
    }


def split_classes(
    images: ImageSet,
    *,
    base: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    seed: int = 0,
) -> Split:
    """Split the classes of a set, the same way for the same class names and seed.

    Args:
        images: the set.
        base: names of the classes to train and to search on; all but the target's if None.
        target: names of the classes to test on; if None those of the default below.
        seed: of what is drawn.

    Sets in Omniglot's shape: 5 background alphabets leave training altogether, 20 of their
    characters are for validation, 20 evaluation characters for test (fewer where there are
    fewer). MNIST, FashionMNIST and the digits: three fixed classes for validation, class 9 for
    test. Other sets: a seeded fifth of the classes each (at least 1, at most 20).

    Raises:
        UserError: there are too few classes, or alphabets, for three parts; a class is named that
            does not exist, or is base and target.
    """
    default = _default_split(images, seed)
    if base is None and target is None:
        return default
    tested = default.test if target is None else _named(images, "target", target)
    if base is None:
        # What is learned from Omniglot stays its background part.
        rest = () if _in_alphabets(images) else default.test
        known = (*default.train, *default.validation, *rest)
        wanted = [index for index in known if index not in tested]
    else:
        wanted = list(_named(images, "base", base))
    if both := sorted(set(wanted) & set(tested)):
        raise UserError(
            f"The target must not be among the base classes, got {images.classes[both[0]]!r} as "
            "both; take it out of one."
        )
    if len(wanted) < 2:
        raise UserError(
            f"A search needs at least 2 base classes (to train on, to validate on), got "
            f"{len(wanted)}; name more."
        )
    validation = tuple(index for index in default.validation if index in wanted)
    if not validation or len(validation) == len(wanted):
        rng = np.random.default_rng([seed, 1])
        part = min(MOST_CLASSES, max(1, round(len(wanted) / 5)))
        validation = _drawn(sorted(wanted), part, rng)
    return Split(
        train=tuple(sorted(set(wanted) - set(validation))),
        validation=validation,
        test=tested,
        seed=seed,
    )


def _named(images: ImageSet, what: str, names: Sequence[str]) -> tuple[int, ...]:
    """Indices of classes by their names, each once."""
    for name in names:
        if name not in images.classes:
            near = difflib.get_close_matches(name, images.classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {_some(images.classes)}."
            raise UserError(f"{images.name} has no {what} class {name!r}: {hint}")
    return tuple(dict.fromkeys(map(images.classes.index, names)))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown}, ... ({len(names)} in all)"


def _default_split(images: ImageSet, seed: int) -> Split:
    rng = np.random.default_rng([seed, 0])
    if _in_alphabets(images):
        return _split_alphabets(images, rng, seed)
    if images.name in FIXED_SPLITS and images.classes == tuple("0123456789"):
        validation, test = (
            tuple(map(images.classes.index, names)) for names in FIXED_SPLITS[images.name]
        )
        train = tuple(c for c in range(len(images.classes)) if c not in (*validation, *test))
        return Split(train=train, validation=validation, test=test, seed=seed)
    return _split_shuffled(images, rng, seed)


def _in_alphabets(images: ImageSet) -> bool:
    """Whether classes are named as Omniglot's are: part, alphabet, character."""
    parts = [name.split("/")[0] for name in images.classes if name.count("/") == 2]
    return len(parts) == len(images.classes) and set(parts) == {"background", "evaluation"}


def _split_alphabets(images: ImageSet, rng: np.random.Generator, seed: int) -> Split:
    alphabet_of = [name.rsplit("/", 1)[0] for name in images.classes]
    alphabets = sorted({name for name in alphabet_of if name.startswith("background/")})
    if len(alphabets) <= VALIDATION_ALPHABETS:
        raise UserError(
            f"{images.name} needs at least {VALIDATION_ALPHABETS + 1} background alphabets "
            f"({VALIDATION_ALPHABETS} of them for validation), got {len(alphabets)}; use the "
            "whole set."
        )
    chosen = {alphabets[i] for i in rng.permutation(len(alphabets))[:VALIDATION_ALPHABETS]}
    indices = range(len(alphabet_of))
    candidates = [c for c in indices if alphabet_of[c] in chosen]
    unseen = [c for c in indices if alphabet_of[c].startswith("evaluation/")]
    return Split(
        train=tuple(
            c for c in indices if alphabet_of[c] in alphabets and alphabet_of[c] not in chosen
        ),
        validation=_drawn(candidates, MOST_CLASSES, rng),
        test=_drawn(unseen, MOST_CLASSES, rng),
        seed=seed,
    )


def _split_shuffled(images: ImageSet, rng: np.random.Generator, seed: int) -> Split:
    count = len(images.classes)
    if count < 3:
        raise UserError(
            f"A search needs at least 3 classes (train, validation, test), got {count} in "
            f"{images.name!r}; add class folders."
        )
    order = _drawn(range(count), count, rng)
    part = min(MOST_CLASSES, max(1, round(count / 5)))
    return Split(
        train=tuple(sorted(order[2 * part :])),
        validation=order[:part],
        test=order[part : 2 * part],
        seed=seed,
    )


def _drawn(items: Sequence[int], count: int, rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(items[i] for i in rng.permutation(len(items))[:count])


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One test of few-shot generation: rows of `ImageSet.images` of a class.

    The generator adapts to `shots`; its samples are compared with `reals`. `seed` is for
    whatever else is random in the episode, so that all generators meet the same noise.
    """

    class_index: int
    shots: tuple[int, ...]
    reals: tuple[int, ...]
    seed: int  # in [0, 2**32)


def make_episodes(
    images: ImageSet,
    classes: Sequence[int],
    *,
    shots: int = 4,
    reals: int = 16,
    seed: int,
    per_class: int = 1,
) -> tuple[Episode, ...]:
    """Draw episodes: the first of every class in the order given, then the second, and so on.

    Each is a fixed function of its class, its number within the class, and `seed`. Shots and
    reals are drawn without repeats; where a set has an official test part, the reals come from
    it and the shots from the rest. A class with fewer pictures than wanted gives fewer reals.

    Args:
        images: the set.
        classes: distinct class indices.
        shots: pictures to adapt to, at least 1.
        reals: pictures to compare with, at least 4.
        seed: at least 0.
        per_class: episodes per class, at least 1.
    Raises:
        UserError: a class has too few pictures for `shots` and 4 reals.
    """
    if shots < 1 or reals < FEWEST_REALS or per_class < 1 or len(set(classes)) != len(classes):
        raise ValueError(
            f"`shots` and `per_class` must be at least 1, `reals` at least {FEWEST_REALS}, and "
            f"`classes` distinct; got {shots}, {per_class}, {reals}, {tuple(classes)}."
        )
    rows = class_rows(images.labels)
    return tuple(
        _episode(images, index, rows[index], shots, reals, [seed, index, turn])
        for turn in range(per_class)
        for index in classes
    )


def _episode(
    images: ImageSet,
    index: int,
    rows: npt.NDArray[np.int64],
    shots: int,
    reals: int,
    entropy: list[int],
) -> Episode:
    rng = np.random.default_rng(entropy)
    own_seed = int(rng.integers(2**32))
    order = rng.permutation(rows)
    if images.held_out.any():
        held_out = images.held_out[order]
        offered, compared = order[~held_out], order[held_out]
    else:
        offered, compared = order[:shots], order[shots:]
    if len(offered) < shots or len(compared) < FEWEST_REALS:
        raise UserError(
            f"Each class needs at least {shots} pictures as shots and {FEWEST_REALS} to compare "
            f"with, got {len(offered)} and {len(compared)} of class {images.classes[index]!r} in "
            f"{images.name!r}; add pictures or lower the shots."
        )
    return Episode(
        class_index=int(index),
        shots=tuple(offered[:shots].tolist()),
        reals=tuple(compared[:reals].tolist()),
        seed=own_seed,
    )


def large_classes(images: ImageSet) -> bool:
    """Whether every class has enough held-out pictures to be compared with on its own."""
    counts = np.bincount(images.labels[images.held_out], minlength=len(images.classes))
    return bool(counts.min() >= LARGE_CLASS)


def samples_wanted(images: ImageSet) -> int:
    """Pictures that a generator draws for every scoring episode of a set."""
    return COMPARED if large_classes(images) else REALS


def class_rows(labels: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each class, ascending; entry c is for class c."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels))[:-1])
