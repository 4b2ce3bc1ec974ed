"""CIFAR-100 in torchvision's layout: read in colour, opened only if it is the published one."""

from __future__ import annotations

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


def test_it_is_read_in_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path)
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    images = load("cifar100", data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert images.images.shape == (70, 3, 32, 32)
    assert images.classes == tuple(NAMES)
    assert images.images[:, :, 16, 16].tolist() == [[20 * c, 0, 7] for c in images.labels]
    assert images.held_out.sum() == 20
    assert split_classes(images).test


def test_files_that_are_not_the_published_ones_are_never_opened(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    marker = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (marker,)

    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="must be the published ones"):
        load("cifar100", data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert not marker.exists()
