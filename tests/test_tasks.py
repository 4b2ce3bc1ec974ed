"""Splits, episodes and training tasks: disjoint, seeded, and the same list every time."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from picture_files import make_set

from trainables.datasets import ImageSet
from trainables.errors import UserError
from trainables.tasks import (
    Split,
    class_rows,
    make_episodes,
    split_classes,
    split_record,
)
from trainables.tensors import sample_drawings, to_tensor, to_uint8


def omniglot(background: int = 8, evaluation: int = 4, characters: int = 6) -> ImageSet:
    names = [
        f"{part}/Alphabet{a}/character{c:02d}"
        for part, alphabets in (("background", background), ("evaluation", evaluation))
        for a in range(alphabets)
        for c in range(characters)
    ]
    return make_set("omniglot", dict.fromkeys(names, 20))


def digits(name: str, held_out: bool = False) -> ImageSet:
    names = [str(digit) for digit in range(10)]
    return make_set(name, dict.fromkeys(names, 40), tuple(names) if held_out else ())


def folder(classes: int, count: int = 12) -> ImageSet:
    return make_set("mine", {f"class{c:03d}": count for c in range(classes)})


def alphabets(images: ImageSet, classes: tuple[int, ...]) -> set[str]:
    return {images.classes[c].rsplit("/", 1)[0] for c in classes}


@given(seed=st.integers(0, 2**32 - 1))
def test_omniglot_validation_alphabets_leave_training_altogether(seed: int) -> None:
    images = omniglot()
    split = split_classes(images, seed=seed)
    assert len(split.validation) == len(split.test) == 20
    assert len(alphabets(images, split.train)) == 3
    assert len(split.train) == 3 * 6
    assert alphabets(images, split.train).isdisjoint(alphabets(images, split.validation))
    assert all(name.startswith("background/") for name in alphabets(images, split.validation))
    assert all(name.startswith("evaluation/") for name in alphabets(images, split.test))


def test_a_small_omniglot_has_fewer_characters_to_test_on() -> None:
    split = split_classes(omniglot(background=6, evaluation=1, characters=2))
    assert (len(split.train), len(split.validation), len(split.test)) == (2, 10, 2)


def test_too_few_alphabets_are_refused() -> None:
    with pytest.raises(UserError, match=r"at least 6 background alphabets .* got 5"):
        split_classes(omniglot(background=5))


@pytest.mark.parametrize(
    ("name", "validation"),
    [("mnist", (4, 7, 0)), ("digits", (4, 7, 0)), ("fashion_mnist", (7, 4, 8))],
)
def test_ten_class_sets_are_split_as_published(name: str, validation: tuple[int, ...]) -> None:
    split = split_classes(digits(name), seed=3)
    assert split.validation == validation
    assert split.test == (9,)
    assert sorted(split.train + split.validation + split.test) == list(range(10))


@given(classes=st.integers(3, 150), seed=st.integers(0, 1000))
def test_a_folder_is_split_into_disjoint_parts_that_cover_it(classes: int, seed: int) -> None:
    split = split_classes(folder(classes, count=8), seed=seed)
    assert sorted(split.train + split.validation + split.test) == list(range(classes))
    expected = min(20, max(1, round(classes / 5)))
    assert len(split.validation) == len(split.test) == expected


@pytest.mark.parametrize("images", [omniglot(), folder(30)], ids=["omniglot", "folder"])
def test_a_split_depends_on_the_seed_alone(images: ImageSet) -> None:
    assert split_classes(images, seed=1) == split_classes(images, seed=1)
    assert split_classes(images, seed=1) != split_classes(images, seed=2)


@pytest.mark.parametrize("classes", [1, 2])
def test_a_folder_with_too_few_classes_to_split_is_refused(classes: int) -> None:
    with pytest.raises(UserError, match=f"at least 3 classes .* got {classes} in 'mine'"):
        split_classes(folder(classes))


def test_a_split_is_written_down_with_names_and_read_again() -> None:
    images = digits("mnist")
    split = split_classes(images, seed=7)
    record = json.loads(json.dumps(split_record(images, split)))
    assert record["class_names"]["validation"] == ["4", "7", "0"]
    assert record["fingerprint"] == images.fingerprint
    assert Split.from_dict(record) == split
    assert Split.from_dict(json.loads(json.dumps(split.to_dict()))) == split


@pytest.mark.parametrize("test", [(), (1,)])
def test_parts_that_are_empty_or_overlap_are_refused(test: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be disjoint"):
        Split(train=(0, 1), validation=(2,), test=test, seed=0)


@given(
    shots=st.integers(1, 8),
    reals=st.integers(4, 30),
    seed=st.integers(0, 2**63),
    held_out=st.booleans(),
)
def test_shots_and_reals_are_distinct_pictures_of_the_class(
    shots: int, reals: int, seed: int, held_out: bool
) -> None:
    images = digits("mnist", held_out=held_out)
    for episode in make_episodes(images, (3, 9, 0), shots=shots, reals=reals, seed=seed):
        assert len(set(episode.shots)) == len(episode.shots) == shots
        available = 20 if held_out else 40 - shots
        assert len(set(episode.reals)) == len(episode.reals) == min(reals, available)
        assert set(episode.shots).isdisjoint(episode.reals)
        chosen = list(episode.shots + episode.reals)
        assert (images.labels[chosen] == episode.class_index).all()
        assert 0 <= episode.seed < 2**32
        if held_out:
            assert not images.held_out[list(episode.shots)].any()
            assert images.held_out[list(episode.reals)].all()


@given(seed=st.integers(0, 2**32), count=st.integers(1, 10), per_class=st.integers(1, 3))
def test_episodes_are_a_fixed_list_that_covers_the_classes_first(
    seed: int, count: int, per_class: int
) -> None:
    images = digits("mnist")
    classes = (5, 2, 9, 0, 1, 3, 4, 6, 7, 8)
    full = make_episodes(images, classes, seed=seed, per_class=per_class)
    assert full == make_episodes(images, classes, seed=seed, per_class=per_class)
    assert [episode.class_index for episode in full] == list(classes) * per_class
    assert make_episodes(images, classes[:count], seed=seed) == full[:count]
    assert len({episode.shots for episode in full}) == len(full)


def test_another_seed_is_another_list_and_more_reals_are_the_same_shots() -> None:
    images = digits("mnist")
    first = make_episodes(images, (0, 1), seed=0)
    assert first != make_episodes(images, (0, 1), seed=1)
    longer = make_episodes(images, (0, 1), seed=0, reals=20)
    assert [e.shots for e in longer] == [e.shots for e in first]
    assert [e.reals[:16] for e in longer] == [e.reals for e in first]


def test_a_small_class_gives_as_many_reals_as_it_has() -> None:
    (episode,) = make_episodes(folder(3, count=8), (1,), seed=0)
    assert len(episode.reals) == 4


def test_a_class_with_too_few_pictures_is_named() -> None:
    with pytest.raises(UserError, match="got 4 and 3 of class 'class001' in 'mine'"):
        make_episodes(folder(3, count=7), (1,), seed=0)
    with pytest.raises(UserError, match="got 20 and 20 of class '1' in 'mnist'"):
        make_episodes(digits("mnist", held_out=True), (1,), shots=21, seed=0)


@pytest.mark.parametrize("wrong", [{"shots": 0}, {"reals": 3}, {"per_class": 0}])
def test_nonsense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        make_episodes(digits("mnist"), (1,), seed=0, **wrong)
    with pytest.raises(ValueError, match="distinct"):
        make_episodes(digits("mnist"), (1, 1), seed=0)


def test_class_rows_are_the_rows_of_each_class() -> None:
    rows = class_rows(np.array([0, 0, 1, 2, 2, 2]))
    assert [r.tolist() for r in rows] == [[0, 1], [2], [3, 4, 5]]


@given(n=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_a_training_task_is_n_pictures_of_one_allowed_class(n: int, seed: int) -> None:
    images = folder(6, count=8)
    rows = class_rows(images.labels)
    drawn = sample_drawings(rows, (1, 4), n, torch.Generator().manual_seed(seed))
    assert drawn.shape == (n,)
    assert set(images.labels[drawn].tolist()) in ({1}, {4})
    assert len(set(drawn.tolist())) == n or n > 8


def test_training_tasks_come_from_all_classes_and_pictures() -> None:
    images = folder(4, count=8)
    rows, rng = class_rows(images.labels), torch.Generator().manual_seed(0)
    drawn = np.concatenate([sample_drawings(rows, (0, 1, 3), 4, rng) for _ in range(200)])
    # Each of 24 pictures is expected 800/24 = 33 times; none at all has odds of about 1e-14.
    assert set(drawn.tolist()) == set(np.concatenate([rows[0], rows[1], rows[3]]).tolist())


@given(arrays(np.uint8, (2, 1, 4, 4)))
def test_pictures_survive_the_way_to_tensors_and_back(images: np.ndarray) -> None:
    tensor = to_tensor(images)
    assert tensor.dtype == torch.float32
    assert tensor.abs().max() <= 1
    np.testing.assert_array_equal(to_uint8(tensor), images)


def test_tensors_are_scaled_rounded_and_clipped() -> None:
    # -1 -> 0, 0 -> 127.5 -> 128 (to even), 1 -> 255; 0.1 -> 140.25 -> 140; beyond: clipped; no
    # number: background.
    levels = to_uint8(torch.tensor([-1.0, 0.0, 1.0, 0.1, -3.0, 3.0, math.nan, math.inf]))
    assert levels.tolist() == [0, 128, 255, 140, 0, 255, 0, 255]
    assert to_tensor(np.array([0, 255], np.uint8)).tolist() == [-1.0, 1.0]


def test_a_read_only_map_becomes_a_tensor_of_its_own() -> None:
    images = np.zeros((1, 1, 4, 4), np.uint8)
    images.flags.writeable = False
    to_tensor(images).fill_(1)
    assert images.max() == 0


def test_a_users_folder_that_happens_to_be_called_mnist_is_split_like_a_folder() -> None:
    split = split_classes(replace(folder(10), name="mnist"))
    assert (len(split.train), len(split.validation), len(split.test)) == (6, 2, 2)


def test_named_classes_are_split() -> None:
    images = digits("mnist")
    split = split_classes(images, base=["0", "1", "2", "3", "4"], target=["8", "9"])
    assert split.test == (8, 9)
    assert split.validation == (4, 0)  # of the default's those that are left, in its order
    assert split.train == (1, 2, 3)


def test_a_target_alone_leaves_the_others_as_base() -> None:
    split = split_classes(digits("mnist"), target=["4"])
    assert split.test == (4,)
    assert split.validation == (7, 0)
    assert split.train == (1, 2, 3, 5, 6, 8, 9)
    # Of Omniglot no more than the background part is learned from.
    images = omniglot()
    tested = images.classes.index("evaluation/Alphabet1/character03")
    split = split_classes(images, target=[images.classes[tested]])
    assert split.test == (tested,)
    assert split.train == split_classes(images).train


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"base": ["0", "10"]}, r"has no base class '10': did you mean '1'\?"),
        ({"target": ["boot"]}, r"has no target class 'boot': there are '0', '1'"),
        ({"base": ["8", "9"]}, "must not be among the base classes, got '9'"),
        ({"base": ["0", "1"], "target": ["1"]}, "must not be among the base classes, got '1'"),
        ({"base": ["0"]}, "at least 2 base classes"),
    ],
)
def test_classes_that_cannot_be_split_are_refused(
    named: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        split_classes(digits("mnist"), **named)
