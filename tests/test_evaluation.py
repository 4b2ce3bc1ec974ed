"""The protocol of scoring, on made-up characters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_scorer import (
    FROM_REALS,
    known_failures,
    other_characters,
    prepared_in_a_folder,
    tiny_images,
    tiny_nets,
    tiny_scorer,
)

from trainables.errors import UserError
from trainables.evaluation import (
    augmented_shots,
    nearest_class,
    null_baselines,
    scoring_episodes,
    strongly,
)
from trainables.pooled_scorer import PooledScorer
from trainables.scores import Scores
from trainables.tasks import split_classes

KEYS = {
    *("L", "J", "recognisability", "recognisability_real", "diversity", "copy_share", "density"),
    *("coverage", "fd", "fd_real", "kid", "c_t", "mse", "mse_rgb_sum", "ssim"),
}
TESTS_ALONE = ("mse_all", "ssim_all", "mse_held", "ssim_held", "brisque")


@pytest.fixture(scope="module")
def scorer() -> PooledScorer:
    return tiny_scorer()


@pytest.fixture(scope="module")
def nulls(scorer: PooledScorer) -> dict[str, Scores]:
    return null_baselines(scorer)


def test_real_drawings_are_scored_as_good(scorer, nulls):
    real = nulls["real"].metrics
    assert {name for name in real if not name.startswith(TESTS_ALONE)} == KEYS
    assert abs(real["L"]) < 0.05
    assert real["fd"] == pytest.approx(real["fd_real"])
    assert real["J"] > 0.8
    assert real["density"] == pytest.approx(1, abs=0.15)
    assert real["coverage"] > 0.85
    assert real["diversity"] == pytest.approx(1)
    assert real["copy_share"] < 0.03
    assert real["c_t"] == 0
    assert abs(real["kid"]) < 10
    assert real["recognisability"] == real["recognisability_real"] > 0.85


def test_copied_shots_are_caught_though_they_win_the_papers_scores(nulls):
    copied, real = nulls["copied_shots"].metrics, nulls["real"].metrics
    assert copied["copy_share"] == 1
    assert copied["J"] < 0.02
    assert copied["c_t"] < -3
    assert (copied["mse"], copied["ssim"]) == (0, 1)
    assert copied["mse"] < real["mse"]
    assert copied["ssim"] > real["ssim"]
    assert copied["L"] > 0.9


def test_the_objective_and_the_report_are_what_their_formulas_say(nulls):
    for scores in nulls.values():
        m = scores.metrics
        excess = max(0, m["copy_share"] - 0.01)
        missed = max(0, m["recognisability_real"] - m["recognisability"])
        assert m["L"] == pytest.approx(math.log10(m["fd"] / m["fd_real"]) + excess + missed)
        quality = min(1, m["density"]) * m["recognisability"] * m["coverage"]
        assert m["J"] == pytest.approx(math.sqrt(quality) * (1 - excess))
        assert m["mse_rgb_sum"] == pytest.approx(3 * m["mse"])


def test_the_nearest_class_is_real_and_another(scorer):
    images = tiny_images()
    others = split_classes(images).train
    scores = nearest_class(scorer, images, others).metrics
    assert scores["copy_share"] < 0.05
    assert scores["recognisability"] < 0.5
    assert scores == nearest_class(scorer, images, others).metrics


def test_an_augmentation_that_does_nothing_copies_the_shots(scorer, nulls):
    def copied(shots, count, _generator):
        return shots[:, torch.arange(count) % shots.shape[1]]

    assert augmented_shots(scorer, copied).metrics == nulls["copied_shots"].metrics
    assert augmented_shots(scorer, strongly).metrics == nulls["augmented_shots"].metrics


def test_the_same_samples_score_the_same_and_so_does_a_reopened_scorer(scorer, nulls):
    again = null_baselines(scorer)
    assert all(again[name].metrics == nulls[name].metrics for name in nulls)
    images = tiny_images()
    reopened = PooledScorer(images, split_classes(images), tiny_nets(), part="test")
    assert reopened.episodes == scorer.episodes
    assert scoring_episodes(images, split_classes(images), part="test") == scorer.episodes
    assert null_baselines(reopened)["augmented_shots"].metrics == nulls["augmented_shots"].metrics


def test_the_parts_are_different_and_every_seed_has_its_episodes(scorer):
    images = tiny_images()
    split = split_classes(images)
    validation = PooledScorer(images, split, tiny_nets(), part="validation")
    assert {e.class_index for e in validation.episodes} == set(split.validation)
    other = PooledScorer(images, split, tiny_nets(), part="test", seed=1)
    assert {e.class_index for e in other.episodes} == {e.class_index for e in scorer.episodes}
    assert other.episodes != scorer.episodes


def test_samples_are_not_told_apart_by_their_order(scorer):
    copies = scorer.shots[:, np.arange(16) % 4]
    turned = copies[:, ::-1]
    first, second = scorer.score(copies).metrics, scorer.score(turned).metrics
    assert first["copy_share"] == second["copy_share"]
    assert first["recognisability"] == pytest.approx(second["recognisability"])
    assert first["L"] == pytest.approx(second["L"], abs=0.02)


@pytest.mark.parametrize(
    "degenerate",
    ["black", "white", "one picture", "one shot", "checkerboard"],
)
@pytest.mark.parametrize("episodes", [1, 2, 16])
def test_degenerate_generators_get_finite_scores(scorer, degenerate, episodes):
    samples = np.zeros_like(scorer.reals[:episodes])
    if degenerate == "white":
        samples[:] = 255
    elif degenerate == "one picture":
        samples[:] = scorer.reals[0, 0]
    elif degenerate == "one shot":
        samples[:] = scorer.shots[:episodes, :1]
    elif degenerate == "checkerboard":
        samples[..., ::2, 1::2] = 255
    scores = scorer.score(samples)
    assert all(math.isfinite(v) for v in scores.metrics.values())
    assert scores.metrics["L"] > 0.2
    for name in ("L", "J", "kid"):
        assert all(math.isfinite(v) for v in scores.intervals([name], draws=20)[name])


@pytest.mark.parametrize("count", [8, 9, 16, 40])
def test_any_number_of_samples_from_half_the_reals_is_scored(scorer, count):
    rng = np.random.default_rng(0)
    samples = scorer.reals[:, rng.integers(0, 16, count)]
    assert all(math.isfinite(v) for v in scorer.score(samples).metrics.values())


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 16, 1, 32, 32), np.float32),
        np.zeros((2, 7, 1, 32, 32), np.uint8),
        np.zeros((2, 16, 1, 28, 28), np.uint8),
        np.zeros((0, 16, 1, 32, 32), np.uint8),
        np.zeros((99, 16, 1, 32, 32), np.uint8),
        np.zeros((16, 1, 32, 32), np.uint8),
    ],
    ids=lambda a: f"{a.dtype} {a.shape}",
)
def test_other_shapes_are_refused(scorer, wrong):
    with pytest.raises(ValueError, match="`samples` must be uint8"):
        scorer.score(wrong)


def test_damaged_nets_are_one_line(tmp_path):
    images = tiny_images()
    with pytest.raises(UserError, match="must be whole"):
        PooledScorer(images, split_classes(images), tmp_path, part="test")


def test_a_class_or_two_are_filled_up_with_ways_and_episodes():
    # Ten drawings give six to compare with; one test class gives all twenty episodes.
    images = tiny_images(5, 10)
    split = split_classes(images)
    nets = prepared_in_a_folder(images, split, steps=2)
    scorer = PooledScorer(images, split, nets, part="test")
    assert len(split.test) == 1
    assert len(scorer.episodes) == 20
    assert scorer.reals.shape[1] == 6
    scores = null_baselines(scorer)
    assert all(math.isfinite(v) for s in scores.values() for v in s.metrics.values())
    black = scorer.score(np.zeros_like(scorer.reals)).metrics
    assert black["recognisability"] < 1  # the training classes are ways, so it can be wrong


@pytest.mark.parametrize("name", ["real", "copied_shots", "augmented_shots"])
def test_intervals_hold_the_estimate_and_are_repeatable(nulls, name):
    scores = nulls[name]
    for key in sorted(KEYS):
        low, high = scores.intervals([key], draws=100)[key]
        assert low <= scores.metrics[key] <= high
        assert scores.intervals([key], draws=100)[key] == (low, high)
    assert (
        scores.intervals(["J"], draws=100, seed=1)["J"] != scores.intervals(["J"], draws=100)["J"]
    )
    assert 0 <= scores.intervals(["J"])["J"][0] < scores.intervals(["J"])["J"][1] <= 1


def test_more_confidence_is_a_wider_interval(nulls):
    scores = nulls["augmented_shots"]
    low, high = scores.intervals(["L"], draws=300, level=0.5)["L"]
    lower, higher = scores.intervals(["L"], draws=300, level=0.95)["L"]
    assert lower < low < high < higher
    assert 0.02 < higher - lower < 0.8


def test_an_unknown_score_has_no_interval(nulls):
    with pytest.raises(ValueError, match="No score 'loss'"):
        nulls["real"].intervals(["loss"])["loss"]


@pytest.mark.parametrize("name", ["real", "strong augmentation", "copies", "pixel mix", "black"])
def test_few_episodes_tell_the_objective_without_a_bias(scorer, name):
    """A quarter and half of the episodes against all: near enough to compare rungs.

    Without allowing for the number compared, a quarter of the episodes hides a third to a half
    of log10(FD / FD_real) of whatever is wrong everywhere.
    """
    images = tiny_images()
    other = other_characters(images, split_classes(images), scorer.reals)
    samples = known_failures(scorer.shots, scorer.reals, other)[name]
    made = name in FROM_REALS
    whole = scorer.score(samples, from_reals=made).metrics["L"]
    for count, tolerance in ((len(samples) // 4, 0.35), (len(samples) // 2, 0.2)):
        part = scorer.score(samples[:count], from_reals=made).metrics["L"]
        assert part == pytest.approx(whole, abs=0.1 if name == "real" else tolerance)


def test_density_and_coverage_do_not_depend_on_how_many_episodes_are_scored(scorer):
    copies = scorer.shots[:, np.arange(16) % 4]
    alone, whole = scorer.score(copies[:1]).tally, scorer.score(copies).tally
    # The first episode's contribution is the same alone and in company, but for strangers.
    assert alone.density[0] == pytest.approx(whole.density[0], abs=0.02)
    assert alone.covered[0] <= whole.covered[0] + 1e-9
    assert alone.recognised[0] == whole.recognised[0]
