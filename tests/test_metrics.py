"""Pure scores: by hand, by law, and against other people's code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from trainables import metrics

Floats = npt.NDArray[np.float64]


def cloud(n: int, d: int = 8, *, shift: float = 0.0, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + shift


def frechet(first: Floats, second: Floats) -> float:
    one = np.ones((1, 1))
    mean, covariance = metrics.pooled(*metrics.moments(first[None]), one, len(first))
    other, factor = metrics.pooled(*metrics.moments(second[None]), one, len(second))
    return float(metrics.frechet_distance(mean, covariance, other, metrics.cholesky(factor))[0])


def mmd(first: Floats, second: Floats) -> float:
    sums = (
        metrics.kernel_means(first[None], first[None], same=True),
        metrics.kernel_means(second[None], second[None], same=True),
        metrics.kernel_means(first[None], second[None], same=False),
    )
    return float(metrics.unbiased_mmd(*sums, np.ones((1, 1)))[0])


def test_the_frechet_distance_of_two_axis_aligned_clouds_by_hand():
    # Means (0, 0) and (3, 0); unbiased variances 2 and 8 on the first axis, 0 on the second:
    # 3^2 + 2 + 8 - 2 sqrt(2 * 8) = 11.
    first = np.array([[-1.0, 0], [1, 0]])
    second = np.array([[1.0, 0], [5, 0]])
    assert frechet(first, second) == pytest.approx(11, abs=1e-4)


def test_the_kernel_distance_of_four_points_by_hand():
    # d = 1, kernel (x y + 1)^3. Within {0, 1}: k = 1. Within {1, 2}: 3^3 = 27.
    # Between: k(0, .) = 1, 1; k(1, 1) = 8; k(1, 2) = 27; mean 37 / 4. 1 + 27 - 2 * 9.25 = 9.5.
    first, second = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert mmd(first, second) == pytest.approx(9.5)


def test_frechet_and_kernel_distance_agree_with_torch_fidelity():
    pytest.importorskip("torch_fidelity", reason="the oracle is a dev dependency")
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kernel_mmd

    first, second = cloud(160, seed=1), cloud(160, shift=0.3, seed=2)
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (first, second)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet(first, second) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert mmd(first, second) == pytest.approx(float(kernel_mmd(first, second)), rel=1e-9)


def test_density_and_coverage_agree_with_prdc():
    prdc = pytest.importorskip("prdc", reason="the oracle is a dev dependency")
    real, fake = cloud(150, seed=3), cloud(120, shift=0.2, seed=4)
    theirs = prdc.compute_prdc(real_features=real, fake_features=fake, nearest_k=5)
    radii = metrics.neighbour_radii(real, 5, np.arange(150))
    density, covered = metrics.density_coverage(fake, real, radii, 5)
    assert density.mean() == pytest.approx(theirs["density"])
    assert covered.mean() == pytest.approx(theirs["coverage"])


def test_density_and_coverage_by_hand():
    # Real 0, 1, 3; k = 1: squared radii 1, 1, 4. Samples .5 (in the first two balls) and 9 (none).
    real = np.array([[0.0], [1.0], [3.0]])
    radii = metrics.neighbour_radii(real, 1, np.arange(3))
    assert radii.tolist() == [1, 1, 4]
    density, covered = metrics.density_coverage(np.array([[0.5], [9.0]]), real, radii, 1)
    assert density.tolist() == [2, 0]
    assert covered.tolist() == [True, True, False]


def test_a_drawing_met_twice_is_not_its_own_neighbour():
    real = np.array([[0.0], [0.0], [2.0]])
    assert metrics.neighbour_radii(real, 1, np.array([7, 7, 8])).tolist() == [4, 4, 4]


def test_pooled_moments_are_those_of_the_points_themselves():
    features = np.stack([cloud(6, 3, seed=s) for s in range(4)])
    mean, covariance = metrics.pooled(*metrics.moments(features), np.ones((1, 4)), 6)
    points = features.reshape(-1, 3)
    np.testing.assert_allclose(mean[0], points.mean(0))
    np.testing.assert_allclose(covariance[0], np.cov(points.T))


def test_a_weight_of_2_is_an_episode_twice_and_0_is_none():
    features = np.stack([cloud(6, 3, seed=s) for s in range(3)])
    mean, covariance = metrics.pooled(*metrics.moments(features), np.array([[2.0, 0, 1]]), 6)
    points = features[[0, 0, 2]].reshape(-1, 3)
    np.testing.assert_allclose(mean[0], points.mean(0))
    np.testing.assert_allclose(covariance[0], np.cov(points.T))


@given(seed=st.integers(0, 999), n=st.integers(2, 12))
def test_frechet_distance_is_0_to_itself_symmetric_and_never_negative(seed, n):
    first, second = cloud(n, seed=seed), cloud(n, seed=seed + 1)  # n < 8: singular
    assert frechet(first, first) == pytest.approx(0, abs=1e-4)
    assert frechet(first, second) >= 0
    assert frechet(first, second) == pytest.approx(frechet(second, first), rel=1e-4, abs=1e-4)


def test_all_points_alike_give_finite_distances():
    same = np.ones((10, 4))
    assert frechet(same, same) == pytest.approx(0, abs=1e-9)
    assert frechet(same, cloud(10, 4)) > 0
    assert mmd(same, same) == pytest.approx(0, abs=1e-9)
    radii = metrics.neighbour_radii(same, 3, np.arange(10))
    density, covered = metrics.density_coverage(same, same, radii, 3)
    assert density.sum() == 0
    assert not covered.any()


def test_the_kernel_distance_is_0_on_average_for_equal_mixtures():
    # The plain U-statistic of the pooled points would be too low, as episodes lie far apart.
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(4, 1, 6))
    values = []
    for _ in range(400):
        first, second = (centres + 0.1 * rng.normal(size=(4, 4, 6)) for _ in range(2))
        means = (
            metrics.kernel_means(first, first, same=True),
            metrics.kernel_means(second, second, same=True),
            metrics.kernel_means(first, second, same=False),
        )
        values.append(metrics.unbiased_mmd(*means, np.ones((1, 4)))[0])
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(400)  # fails by chance 1 in 16,000


def test_nearest_supports_by_hand():
    supports = np.array([[[0.0], [10.0]], [[4.0], [5.0]]])  # two rounds, two classes
    assert metrics.nearest_supports(np.array([[1.0], [9.0]]), supports).tolist() == [[0, 1], [0, 1]]
    assert metrics.nearest_supports(np.array([[4.6]]), supports).tolist() == [[0], [1]]


def test_the_rank_statistic_agrees_with_scipy():
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    samples, reals = rng.normal(size=(2, 9)), rng.normal(size=(2, 7)) + 0.4
    statistic, variance = metrics.rank_statistic(samples, reals)
    for episode in range(2):
        u = mannwhitneyu(samples[episode], reals[episode]).statistic
        assert statistic[episode] == pytest.approx(u - 9 * 7 / 2)
    assert variance.tolist() == [9 * 7 * 17 / 12] * 2


def test_the_rank_statistic_of_ties_is_0():
    statistic, variance = metrics.rank_statistic(np.zeros((1, 3)), np.zeros((1, 4)))
    assert statistic.tolist() == [0]
    assert variance[0] > 0


def bars(*columns: int, size: int = 16) -> npt.NDArray[np.uint8]:
    """One picture with a two-pixel bar at each column."""
    pictures = np.zeros((len(columns), 1, size, size), np.uint8)
    for picture, column in zip(pictures, columns, strict=True):
        picture[0, 4:12, column : column + 2] = 255
    return pictures


@given(right=st.integers(-2, 2), down=st.integers(-2, 2), mirrored=st.booleans())
def test_shifted_and_mirrored_copies_are_at_distance_0(right, down, mirrored):
    shot = bars(4)
    copy = np.roll(shot[..., ::-1] if mirrored else shot, (down, right), axis=(2, 3))
    assert metrics.copy_distances(copy, shot)[0] == pytest.approx(0, abs=1e-5)


@given(right=st.integers(-2, 2), down=st.integers(-2, 2), mirrored=st.booleans())
def test_shifted_copies_on_white_paper_are_at_distance_0_in_colour(right, down, mirrored):
    shot = np.full((1, 3, 16, 16), 255, np.uint8)
    shot[0, :, 4:12, 4:7] = np.array([200, 30, 10])[:, None, None]
    copy = np.roll(shot[..., ::-1] if mirrored else shot, (down, right), axis=(2, 3))
    assert metrics.copy_distances(copy, shot)[0] == pytest.approx(0, abs=1e-5)


def test_copy_distances_by_hand():
    shot = bars(4)  # mirrored: columns 10 and 11
    # A bar at 7: the nearest copy moves by 2 to columns 6 and 7, so one column of 8 pixels is
    # missing and one too many: 16 of 255^2, over the shot's 16. An empty picture misses all 16.
    assert metrics.copy_distances(bars(7), shot)[0] == pytest.approx(1, abs=1e-5)
    assert metrics.copy_distances(np.zeros_like(shot), shot)[0] == pytest.approx(1, abs=1e-5)
    half = bars(4)
    half[0, 0, 4:8] = 0  # half of the ink missing
    assert metrics.copy_distances(half, shot)[0] == pytest.approx(0.5, abs=1e-5)
    assert np.isfinite(metrics.copy_distances(shot, np.zeros_like(shot))).all()


def test_the_papers_scores_are_those_of_the_nearest_shot():
    shots, sample = bars(4, 10), bars(9)
    errors, similarity = metrics.nearest_shot(sample, shots)
    # Bars at 9 and 10 differ in two columns of 8 pixels: 16 * 255^2 / 256 pixels.
    assert errors[0] == pytest.approx(255**2 / 16)
    expected = structural_similarity(sample[0, 0], shots[1, 0], data_range=255)
    assert similarity[0] == pytest.approx(expected)


def test_mean_deviation_by_hand():
    # Unbiased deviations of (0, 2) and (0, 0): sqrt 2 and 0; their mean.
    features = np.array([[[0.0, 0.0], [2.0, 0.0]]])
    assert metrics.mean_deviation(features)[0] == pytest.approx(np.sqrt(2) / 2)
