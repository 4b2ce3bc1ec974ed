"""The paper's scores against hand calculation, and what copies and odd pictures get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from picture_files import quiet, write_pictures
from tiny_scorer import prepared_in_a_folder

from trainables.datasets import load_folder
from trainables.evaluation import make_scorer, null_baselines
from trainables.metrics import Bytes
from trainables.paper_scores import brisque_model, paper_scores
from trainables.tasks import samples_wanted, split_classes

GREYS = np.array([0, 30, 90, 250], dtype=np.uint8)


def flat(values: np.typing.NDArray[np.uint8]) -> Bytes:
    """One episode of pictures of one grey each, [1, n, 1, 8, 8]."""
    return np.broadcast_to(values[None, :, None, None, None], (1, len(values), 1, 8, 8)).copy()


def noise(count: int, seed: int, *, episodes: int = 2) -> Bytes:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (episodes, count, 1, 16, 16), dtype=np.uint8)


def test_mean_squared_errors_are_those_of_hand_calculation() -> None:
    samples, shots = flat(np.array([10, 80], np.uint8)), flat(GREYS)
    reals = flat(np.array([20, 50], np.uint8))
    found = paper_scores(samples, shots, reals)
    assert found["mse"] == (10**2 + 10**2) / 2  # 10 is nearest to 0, 80 to 90
    assert found["mse_rgb_sum"] == 3 * found["mse"]
    everything = [(a - b) ** 2 for a in (10, 80) for b in (0, 30, 90, 250)]
    assert found["mse_all_shots"] == np.mean(everything)
    assert found["mse_held_out"] == (40**2 + 60**2) / 2  # 10 with 50, 80 with 20


def test_copies_win() -> None:
    shots, reals = noise(4, 0), noise(60, 1)
    copied = paper_scores(np.tile(shots, (1, 13, 1, 1, 1)), shots, reals)
    assert (copied["mse"], copied["ssim"]) == (0, 1)
    assert copied["mse_held_out"] > 0
    assert copied["ssim_held_out"] < 0.5


def test_real_pictures_are_not_compared_with_themselves() -> None:
    reals = noise(60, 1)
    assert paper_scores(reals, noise(4, 0), reals)["mse_held_out"] > 1000


@pytest.mark.parametrize("episodes", [5, 7, 11, 20])
@pytest.mark.parametrize("reals", [4, 9])
def test_fewer_real_pictures_than_samples_are_met_again(episodes: int, reals: int) -> None:
    own = np.tile(noise(1, 1, episodes=episodes), (1, reals, 1, 1, 1))  # any of them is the same
    samples = noise(16, 0, episodes=episodes)
    found = paper_scores(samples, noise(4, 2, episodes=episodes), own)
    chosen = samples[:, : -(-100 // episodes)].astype(float)
    assert found["mse_held_out"] == pytest.approx(np.square(chosen - own[:, :1]).mean())


def test_a_folder_of_the_fewest_pictures_is_scored(tmp_path: Path) -> None:
    write_pictures(tmp_path / "mine", classes=8, count=8)
    images = load_folder(tmp_path / "mine", cache_dir=tmp_path / "cache", report=quiet)
    split = split_classes(images)
    nets = prepared_in_a_folder(images, split, steps=2)
    scorer = make_scorer(images, split, nets, part="test")
    samples = np.zeros((len(scorer.shots), samples_wanted(images), 1, 32, 32), np.uint8)
    assert np.isfinite(list(scorer.score(samples).metrics.values())).all()
    assert "mse_held_out" in null_baselines(scorer)["augmented_shots"].metrics


def test_brisque_counts_what_is_beyond_its_range() -> None:
    pytest.importorskip("brisque", reason="an extra: it needs a compiler")
    shots, reals = noise(4, 0), noise(60, 1)
    black = np.zeros_like(reals)
    scores = paper_scores(black, shots, reals)
    assert scores["brisque_saturated"] == 1
    assert scores["brisque"] == 100


def test_brisque_of_the_cameraman_is_the_published_one() -> None:
    model = brisque_model()
    if model is None:
        pytest.skip("an extra: it needs a compiler")
    camera = np.repeat(skimage.data.camera()[..., None], 3, axis=-1)
    # As a second implementation (scipy, RBF sum over the same support vectors) has it.
    assert model.score(camera) == pytest.approx(-7.9, abs=0.05)
