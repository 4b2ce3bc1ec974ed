"""CIFAR-100 in torchvision's layout: read in colour, opened only if it is the published one."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from picture_files import quiet
from torchvision.datasets import CIFAR100

from trainables.datasets import load
from trainables.errors import UserError
from trainables.tasks import split_classes

NAMES = [f"thing {index}" for index in range(5)]


def write_cifar(root: Path) -> None:
    """Ten training and four test pictures of each of five classes; red is the class."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for part, count in (("train", 10), ("test", 4)):
        labels = np.tile(np.arange(5), count)
        data = np.zeros((len(labels), 3, 32, 32), np.uint8)
        data[:, 0], data[:, 2] = labels[:, None, None] * 20, 7
        entry = {"data": data.reshape(len(labels), -1), "fine_labels": labels.tolist()}
        (folder / part).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES}))


def publish(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files below `root` be the published ones."""
    folder = root / "cifar-100-python"
    md5 = {
        path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.iterdir()
    }
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "md5": md5["meta"]})


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


def test_it_is_read_in_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path)
    publish(tmp_path, monkeypatch)
    images = load("cifar100", data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert images.images.shape == (70, 3, 32, 32)
    assert images.classes == tuple(NAMES)
    assert images.images[:, :, 16, 16].tolist() == [[20 * c, 0, 7] for c in images.labels]
    assert images.held_out.sum() == 20
    assert split_classes(images).test


def test_files_that_are_not_the_published_ones_are_never_opened(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    marker = tmp_path / "opened"
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(UserError, match="must be the published ones"):
        load("cifar100", data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert not marker.exists()


def test_a_pickle_that_names_more_than_arrays_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path)
    marker = tmp_path / "opened"
    (tmp_path / "cifar-100-python" / "meta").write_bytes(pickle.dumps(Trap(marker)))
    publish(tmp_path, monkeypatch)
    with pytest.raises(pickle.UnpicklingError, match="is no array"):
        load("cifar100", data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert not marker.exists()
