"""The nets behind scoring: trained once, found again, never taken damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_scorer import tiny_images, tiny_nets

from trainables import features
from trainables.errors import UserError
from trainables.features import copy_threshold, open_scoring_nets, prepare_scorer
from trainables.metrics import copy_distances
from trainables.models.feature_net import FeatureNet
from trainables.tasks import Split, make_episodes, split_classes

IMAGES = tiny_images(12, 12)
SPLIT = split_classes(IMAGES)

FILES = ["embedding.safetensors", "meta.json", "recogniser.safetensors"]


@pytest.fixture(autouse=True, scope="module")
def _quick_calibration() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "CALIBRATION", 200)
        yield


def prepared(cache: Path, split: Split = SPLIT, **options: object) -> tuple[Path, list[str]]:
    said: list[str] = []
    arguments = {"threads": 1, "steps": 2, "seed": 0} | options
    folder = prepare_scorer(IMAGES, split, cache_dir=cache, report=said.append, **arguments)
    return folder, said


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".safetensors"}


def test_it_is_trained_once_and_then_found(tmp_path):
    folder, said = prepared(tmp_path)
    assert said
    assert sorted(p.name for p in folder.iterdir()) == FILES
    before = contents(folder)
    again, said = prepared(tmp_path)
    assert (again, said) == (folder, [])
    assert contents(folder) == before


def test_one_seed_is_one_result_and_the_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = prepared(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second, _ = prepared(tmp_path / "b")
    assert contents(first) == contents(second)


def test_what_would_change_the_nets_changes_the_folder(tmp_path, monkeypatch):
    other = Split(
        train=SPLIT.train[1:], validation=SPLIT.validation, test=SPLIT.test, seed=SPLIT.seed
    )
    folders = [
        prepared(tmp_path)[0],
        prepared(tmp_path, seed=1)[0],
        prepared(tmp_path, steps=3)[0],
        prepared(tmp_path, split=other)[0],
    ]
    monkeypatch.setattr(features, "VERSION", features.VERSION + 1)
    folders.append(prepared(tmp_path)[0])
    assert len(set(folders)) == len(folders)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder, not to be changed."""
    return prepared(tmp_path_factory.mktemp("whole"))[0]


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """One file of a copy of the folder."""
    copy: Path = tmp_path / whole.name
    shutil.copytree(whole, copy)
    return copy / request.param


def test_a_truncated_file_is_refused(file):
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="must be whole"):
        open_scoring_nets(file.parent)


def test_an_absent_file_is_refused(file):
    file.unlink()
    with pytest.raises(UserError, match="must be whole"):
        open_scoring_nets(file.parent)


def test_a_changed_number_is_refused(whole, tmp_path):
    copy = tmp_path / whole.name
    shutil.copytree(whole, copy)
    data = bytearray((copy / FILES[0]).read_bytes())
    data[-9] ^= 1
    (copy / FILES[0]).write_bytes(data)
    with pytest.raises(UserError, match="not what was written"):
        open_scoring_nets(copy)


def test_damage_is_said_and_mended(whole, tmp_path):
    copy = tmp_path / whole.name
    shutil.copytree(whole, copy)
    (copy / FILES[0]).write_bytes(b"")
    folder, said = prepared(tmp_path)
    assert folder == copy
    assert "damaged" in said[0]
    assert contents(folder) == contents(whole)


def test_an_interrupted_training_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path)
    assert [p for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


def test_an_unwritable_cache_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="folder must be writable") as caught:
        prepared(tmp_path / "file" / "cache")
    assert "\n" not in str(caught.value)


def test_the_threads_of_the_process_are_put_back(tmp_path):
    before = torch.get_num_threads()
    prepared(tmp_path, threads=2)
    assert torch.get_num_threads() == before


def test_features_are_standardised_and_of_length_1():
    nets, images = open_scoring_nets(tiny_nets()), tiny_images()
    pictures = images.images[np.isin(images.labels, split_classes(images).train)]
    embedded = nets.embed(pictures)
    assert embedded.shape == (len(pictures), 64)
    np.testing.assert_allclose(embedded.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(embedded.std(0), 1 / 8, rtol=0.1)
    recognised = nets.recognise(pictures[:5])
    np.testing.assert_allclose((recognised**2).sum(1), 1, rtol=1e-5)


def test_features_do_not_depend_on_the_company():
    nets, images = open_scoring_nets(tiny_nets()), tiny_images()
    together = nets.embed(images.images[:300])
    np.testing.assert_allclose(nets.embed(images.images[298:300]), together[298:], atol=1e-5)


@pytest.mark.parametrize(("channels", "size"), [(1, 64), (3, 32), (1, 28), (3, 48)])
def test_other_shapes_work_too(channels, size):
    net = FeatureNet(features.EMBEDDING, channels).eval()
    assert net.run(np.zeros((2, channels, size, size), np.uint8)).shape == (2, 64)


def test_one_real_drawing_in_a_hundred_is_under_the_copy_threshold():
    images = tiny_images()
    split = split_classes(images)
    threshold = copy_threshold(images, split, seed=0)
    episodes = make_episodes(images, split.train, seed=99)
    distances = np.concatenate(
        [
            copy_distances(images.images[list(e.reals)], images.images[list(e.shots)])
            for e in episodes
        ]
    )
    assert 0.002 < (distances < threshold).mean() < 0.03


def test_the_record_says_what_was_done(tmp_path):
    folder, _ = prepared(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["classes"] == len(SPLIT.train)
    assert 0 < meta["copy_threshold"] < 1
