"""Finding sets by name, falling back to stand-ins only when nothing is there, and real data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from picture_files import (
    omniglot_files,
    quiet,
    write_mnist,
    write_omniglot,
    write_pictures,
    write_zip,
)

from trainables import datasets
from trainables.datasets import (
    DATASETS,
    STAND_INS,
    DataMissingError,
    ImageSet,
    data_root_in_use,
    load,
    load_folder,
    load_or_stand_in,
    open_image_set,
)
from trainables.download import DownloadError
from trainables.errors import UserError
from trainables.tasks import make_episodes, split_classes

REAL = os.environ.get("FEWSHOT_DATA", "")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded here, and no folder of the user's is looked into."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise DownloadError("no network in tests")

    monkeypatch.setattr(datasets, "fetch", refuse)
    monkeypatch.delenv("FEWSHOT_DATA", raising=False)


def test_a_set_is_found_below_the_data_root(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    images = load("mnist", data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert images.images.shape == (110, 1, 32, 32)
    assert images.name == "mnist"
    assert not images.stand_in
    assert images.held_out.sum() == 50


def test_the_environment_names_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_omniglot(tmp_path)
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path))
    images = load_or_stand_in("omniglot", cache_dir=tmp_path / "cache", report=quiet)
    assert images.name == "omniglot"
    assert len(images.classes) == 18


def test_an_argument_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "absent"))
    assert data_root_in_use(tmp_path) == tmp_path


@pytest.mark.parametrize("value", [None, ""])
def test_without_either_it_is_the_users_cache(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("FEWSHOT_DATA", value)
    assert data_root_in_use(None) == datasets.user_cache() / "data"


def test_a_data_root_that_does_not_exist_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"data root must be a folder .*absent"):
        load_or_stand_in("mnist", data_root=tmp_path / "absent", cache_dir=tmp_path, report=quiet)
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"FEWSHOT_DATA must be a folder .*nowhere"):
        load_or_stand_in("mnist", cache_dir=tmp_path, report=quiet)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'omniglot'"):
        load("omniglt", cache_dir=tmp_path)
    with pytest.raises(UserError, match="choose one of omniglot, mnist"):
        load("xyz", cache_dir=tmp_path)


def test_an_absent_set_is_missing_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="no network in tests") as caught:
        load("omniglot", data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataMissingError, match="switched off"):
        load("mnist", data_root=tmp_path, cache_dir=tmp_path / "c", download=False, report=quiet)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_an_absent_set_is_replaced_by_its_stand_in_loudly(tmp_path: Path, name: str) -> None:
    said: list[str] = []
    images = load_or_stand_in(
        name, data_root=tmp_path, cache_dir=tmp_path / "cache", report=said.append
    )
    assert images.name == STAND_INS[name] == "digits"
    assert images.stand_in
    assert any("STAND-IN: 'digits' in place of" in line for line in said)


@pytest.mark.timeout(300)  # draws all 10,000 pictures: 5 s of a core of its own
def test_omniglots_stand_in_splits_like_omniglot(tmp_path: Path) -> None:
    images = load_or_stand_in("omniglot", data_root=tmp_path, cache_dir=tmp_path, report=quiet)
    assert (images.name, images.stand_in, len(images.classes)) == ("strokes", True, 500)
    split = split_classes(images)
    assert (len(split.train), len(split.validation), len(split.test)) == (250, 20, 20)
    assert len(make_episodes(images, split.test, seed=0)[0].reals) == 16


def test_what_is_missing_is_fetched_into_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_omniglot(tmp_path)
    (tmp_path / "omniglot-py/images_evaluation.zip").unlink()
    asked: list[list[str]] = []

    def fetch(name: str, stems: list[str], folder: Path, **_options: object) -> None:
        asked.append(stems)
        write_zip(folder / f"{stems[0]}.zip", omniglot_files(stems[0], alphabets=3))

    monkeypatch.setattr(datasets, "fetch", fetch)
    images = load("omniglot", data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert asked == [["images_evaluation"]]
    assert len(images.classes) == 18


def test_a_set_in_pieces_is_refused_and_not_replaced(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="got no 't10k-labels-idx1-ubyte'"):
        load_or_stand_in("mnist", data_root=tmp_path, cache_dir=tmp_path / "c", report=quiet)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("omniglot", "omniglot-py/images_evaluation.zip"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
    ],
)
def test_damage_is_refused_and_not_replaced(tmp_path: Path, name: str, file: str) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    write_omniglot(tmp_path)
    os.truncate(tmp_path / file, 60)
    with pytest.raises(UserError, match=Path(file).name):
        load_or_stand_in(name, data_root=tmp_path, cache_dir=tmp_path / "cache", report=quiet)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    def fingerprint() -> str:
        options = {"data_root": tmp_path, "cache_dir": tmp_path / "cache", "report": quiet}
        return load("mnist", **options).fingerprint

    write_mnist(tmp_path / "MNIST/raw")
    first = fingerprint()
    write_mnist(tmp_path / "MNIST/raw", per_class=(7, 5))
    assert fingerprint() != first


def test_the_stand_ins_need_no_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "absent"))
    images = load("digits", cache_dir=tmp_path, size=64, report=quiet)
    assert images.images.shape == (1797, 1, 64, 64)
    assert images.stand_in
    assert images.images[:, 0, :8].max() == 0  # a margin of an eighth
    assert images.images.max() == 255
    assert np.bincount(images.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_a_users_folder_is_a_set_of_its_name(tmp_path: Path) -> None:
    write_pictures(tmp_path / "runes", classes=3)
    images = load_folder(tmp_path / "runes", cache_dir=tmp_path / "cache", report=quiet)
    assert images.name == "runes"
    assert not images.stand_in
    assert images.images.shape == (24, 1, 32, 32)
    assert np.median(images.images) == 0
    split = split_classes(images)
    assert sorted(split.train + split.validation + split.test) == [0, 1, 2]
    assert len(make_episodes(images, split.test, seed=0)[0].reals) == 4


def test_every_name_has_a_loader() -> None:
    assert set(DATASETS) == {"omniglot", "mnist", "fashion_mnist", "cifar100", "strokes", "digits"}
    assert set(STAND_INS) <= set(DATASETS) >= set(STAND_INS.values())


# The published files, where the person who runs the tests has them

real_data = pytest.mark.skipif(not REAL, reason="FEWSHOT_DATA is not set: no published files")


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


def load_real(name: str, cache: Path) -> ImageSet:
    images = load(name, data_root=Path(REAL), cache_dir=cache, download=False, report=quiet)
    assert open_image_set(images.path).fingerprint == images.fingerprint
    assert not images.stand_in
    return images


@real_data
@pytest.mark.timeout(300)
def test_the_real_omniglot(real_cache: Path) -> None:
    images = load_real("omniglot", real_cache)
    assert images.images.shape == (32_460, 1, 32, 32)
    assert len(images.classes) == 964 + 659
    assert np.median(images.images) == 0
    assert images.fingerprint == "7cb06c1d5cfc9fc5"
    split = split_classes(images)
    assert (len(split.validation), len(split.test)) == (20, 20)
    kept = {images.classes[c].split("/")[1] for c in split.train}
    assert len(kept) == 25
    assert "background/Greek/character01" in images.classes


@real_data
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "mean", "fingerprint"),
    # Means of the published training parts at 28x28 are 33.3 and 72.9 (of 255).
    [("mnist", 33.5, "ba90b943d905a3bf"), ("fashion_mnist", 72.9, "9cac541b821fa690")],
)
def test_the_real_idx_sets(real_cache: Path, name: str, mean: float, fingerprint: str) -> None:
    images = load_real(name, real_cache)
    assert images.images.shape == (70_000, 1, 32, 32)
    assert images.held_out.sum() == 10_000
    assert images.images[::7].mean() == pytest.approx(mean, abs=0.7)
    assert images.fingerprint == fingerprint
    (episode,) = make_episodes(images, split_classes(images).test, reals=500, seed=0)
    assert len(episode.reals) == 500
