"""Pre-training is paid once, told apart by what it depends on, and never taken damaged."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_large import SPLIT, large_images

from trainables import pretraining
from trainables.configs import TransferConfig
from trainables.pipeline import Diverged
from trainables.pretraining import Source, class_means, damaged_sources, pretrained, source_of

TINY = TransferConfig(width=2, latent=4, pretrain_batch=4, pretrain_steps=2)


def take(store: Path, config: TransferConfig = TINY, **changed) -> tuple[Source, list[str]]:
    said: list[str] = []
    asked = {"images": large_images(), "classes": SPLIT.train, "seed": 0, "store": str(store)}
    asked |= {"device": "cpu", "report": said.append}
    return pretrained(config, **(asked | changed)), said


def folders(store: Path) -> set[str]:
    return {path.name for path in store.iterdir() if path.is_dir()}


def test_the_same_is_trained_once(tmp_path, monkeypatch) -> None:
    first, _ = take(tmp_path)
    monkeypatch.setattr(pretraining, "pretrain", None)  # would raise if it were called
    again, said = take(tmp_path)
    assert said == []
    assert torch.equal(first.weights.generator, again.weights.generator)
    assert torch.equal(first.weights.critic, again.weights.critic)
    assert len(folders(tmp_path)) == 1


def test_fine_tuning_parameters_do_not_train_again(tmp_path) -> None:
    take(tmp_path)
    take(
        tmp_path,
        replace(TINY, lr=1e-4, batch=16, augment_shape=0.9, frozen_critic=2, averaging=0.0),
    )
    assert len(folders(tmp_path)) == 1


def test_fine_tuning_parameters_do_not_change_the_weights(tmp_path) -> None:
    other = replace(TINY, augmentation="layer", shared_strength=1.0, l2_source=0.1, averaging=0.0)
    one, two = take(tmp_path / "one")[0], take(tmp_path / "two", other)[0]
    assert torch.equal(one.weights.generator, two.weights.generator)
    assert torch.equal(one.weights.critic, two.weights.critic)


@pytest.mark.parametrize(
    "changed",
    [
        {"config": replace(TINY, pretrain_steps=3)},
        {"config": replace(TINY, method="cgan")},
        {"config": replace(TINY, width=4)},
        {"seed": 1},
        {"classes": (0, 1)},
        {"images": replace(large_images(), fingerprint="another")},
    ],
)
def test_what_pre_training_depends_on_trains_again(tmp_path, changed) -> None:
    take(tmp_path)
    take(tmp_path, **changed)
    assert len(folders(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["truncated", "another", "no meta", "another whole"])
def test_damage_is_said_and_trained_again(tmp_path, damage) -> None:
    whole, _ = take(tmp_path)
    (name,) = folders(tmp_path)
    weights = tmp_path / name / "weights.safetensors"
    if damage == "truncated":
        short = weights.read_bytes()[:-7]
        weights.unlink()  # tensors may still look into the old file
        weights.write_bytes(short)
    elif damage == "another":
        take(tmp_path / ".other", replace(TINY, width=4))
        (stranger,) = (tmp_path / ".other").glob("*/weights.safetensors")
        stranger.replace(weights)
    elif damage == "another whole":
        take(tmp_path / ".other", replace(TINY, pretrain_steps=3))
        (stranger,) = (tmp_path / ".other").glob("dcgan-*[!k]")
        shutil.rmtree(tmp_path / name)
        stranger.replace(tmp_path / name)
    else:
        (tmp_path / name / "meta.json").unlink()
    (line,) = damaged_sources(tmp_path)
    assert re.search(f"{name} was damaged .*: trained again", line)
    mended, said = take(tmp_path)
    assert "damaged" in said[0]
    assert torch.equal(mended.weights.generator, whole.weights.generator)
    assert list(damaged_sources(tmp_path)) == []


def _in_a_process(store: Path) -> None:
    torch.set_num_threads(1)
    take(store)


def test_a_source_of_other_nets_is_refused(tmp_path) -> None:
    """Its digest may be right: who can write one file can write both."""
    source, _ = take(tmp_path)
    held = {"generator": source.weights.generator, "critic": source.weights.critic}
    held |= {"means": source.means}
    assert torch.equal(source_of(TINY, held, len(SPLIT.train)).means, source.means)
    for name in held:
        with pytest.raises(ValueError, match="The weights must be"):
            source_of(TINY, held | {name: held[name][:1]}, len(SPLIT.train))
    with pytest.raises(ValueError, match="The weights must be"):
        source_of(replace(TINY, width=3), held, len(SPLIT.train))


def test_two_that_want_the_same_at_once_train_it_once(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_in_a_process, args=(tmp_path,)) for _ in range(2)]
    large_images()  # made before the fork
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    (name,) = folders(tmp_path)
    assert json.loads((tmp_path / name / "meta.json").read_text())["classes"] == [0, 1, 2]


def test_held_out_and_other_classes_are_not_looked_at(tmp_path) -> None:
    images = large_images()
    other = images.images.copy()
    other[images.held_out | (images.labels >= 3)] = 77
    first, _ = take(tmp_path / "a")
    again, _ = take(tmp_path / "b", images=replace(images, images=other))
    assert torch.equal(first.weights.generator, again.weights.generator)
    assert torch.equal(first.means, again.means)


def test_means_by_hand() -> None:
    images = large_images()
    rows = np.flatnonzero((images.labels == 1) & ~images.held_out)
    expected = images.images[rows].astype(np.float64).mean(0) / 127.5 - 1
    np.testing.assert_allclose(class_means(images, (0, 1))[1].numpy(), expected, atol=1e-5)


def test_divergence_is_a_failed_trial_and_stores_nothing(tmp_path) -> None:
    with pytest.raises(Diverged):
        take(tmp_path, replace(TINY, pretrain_lr=1e30, pretrain_steps=20))
    assert folders(tmp_path) == set()
