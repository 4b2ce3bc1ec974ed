"""Scores as pure functions of arrays: no torch, no files, no randomness.

Legend of shapes: E episodes, n samples and m real drawings an episode, K shots, C channels,
S pixels a side, d features, B sets of episode weights. The two-sample scores are kept as sums by
episode, so that one function gives the estimate (all weights 1) and its bootstrap (resampled
weights); drawing an episode twice must not put the same point into the reference twice, because
k-nearest-neighbour radii would then collapse to 0.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

Floats = npt.NDArray[np.floating]
Bytes = npt.NDArray[np.uint8]


def moments(features: Floats) -> tuple[Floats, Floats]:
    """Return every episode's mean [E, d] and mean outer product [E, d, d] of [E, n, d]."""
    count = features.shape[1]
    return features.mean(1), features.swapaxes(1, 2) @ features / count


def pooled(first: Floats, second: Floats, weights: Floats, count: int) -> tuple[Floats, Floats]:
    """Pool the moments of equally large episodes into a mean and an unbiased covariance.

    Args:
        first, second: what `moments` returns, [E, d] and [E, d, d].
        weights: how often each episode counts, [B, E], each row positive in sum.
        count: features behind each episode's moments.
    Returns:
        means [B, d] and covariances [B, d, d], divided by N - 1 with N = weights x count.
    """
    total = weights.sum(1)
    share = weights / total[:, None]
    dimension = first.shape[1]
    mean = share @ first
    outer = (share @ second.reshape(len(second), -1)).reshape(-1, dimension, dimension)
    size = (total * count)[:, None, None]
    covariance = (outer - mean[:, :, None] * mean[:, None, :]) * size / np.maximum(size - 1, 1)
    return mean, covariance


def cholesky(covariance: Floats) -> Floats:
    """Factor covariances [..., d, d], after adding a trillionth of their mean variance.

    Pooling fewer points than dimensions, or identical points, makes a covariance singular.
    """
    dimension = covariance.shape[-1]
    variance = np.trace(covariance, axis1=-2, axis2=-1) / dimension
    ridge = np.maximum(1e-12 * variance, 1e-30)[..., None, None]
    return np.linalg.cholesky(covariance + ridge * np.eye(dimension))


def frechet_distance(
    mean: Floats, covariance: Floats, reference_mean: Floats, reference_factor: Floats
) -> Floats:
    """Fréchet distance between Gaussians; 0 is equal, no upper end.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with the last trace taken from the symmetric
    L' C1 L, where C2 = L L': its eigenvalues are those of C1 C2, without complex dust.

    Args:
        mean, covariance: [..., d] and [..., d, d].
        reference_mean, reference_factor: [..., d], and `cholesky` of the covariance.
    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500
    """
    inner = reference_factor.swapaxes(-1, -2) @ covariance @ reference_factor
    root = np.sqrt(np.maximum(np.linalg.eigvalsh(inner), 0)).sum(-1)
    traces = np.trace(covariance, axis1=-2, axis2=-1) + (reference_factor**2).sum((-1, -2))
    distance = ((mean - reference_mean) ** 2).sum(-1) + traces - 2 * root
    return np.asarray(np.maximum(distance, 0))


def kernel_means(first: Floats, second: Floats, *, same: bool) -> Floats:
    """Mean cubic kernel (x.y / d + 1)^3 between episodes, [E, E] from two [E, n, d].

    Args:
        first, second: features; may hold different numbers an episode.
        same: both are the same points, at least 2 an episode, so none is paired with itself.
    """
    episodes, count, dimension = first.shape
    dots = first.reshape(-1, dimension) @ second.reshape(-1, dimension).T
    kernel = (dots / dimension + 1) ** 3
    if same:
        np.fill_diagonal(kernel, 0)
    means = kernel.reshape(episodes, count, episodes, -1).mean((1, 3))
    if same:
        means[np.diag_indices(episodes)] *= count / (count - 1)
    return np.asarray(means)


def unbiased_mmd(within: Floats, reference: Floats, between: Floats, weights: Floats) -> Floats:
    """Squared maximum mean discrepancy of mixtures with a component an episode.

    Its mean is 0 for equal sources. With one episode it is the full U-statistic; with more, that
    would be too low, because it leaves out pairs of a point with itself, and so pairs within an
    episode, on the sides but not between them.

    Args:
        within, reference, between: `kernel_means` of samples, of real drawings (both `same`), and
            of samples with real drawings, each [E, E].
        weights: how often each episode counts, [B, E].
    Returns:
        [B].
    Source: KID of Binkowski et al. 2018, https://arxiv.org/abs/1801.01401
    """
    share = weights / weights.sum(1, keepdims=True)
    return np.asarray(np.einsum("be,ef,bf->b", share, within + reference - 2 * between, share))


def squared_distances(first: Floats, second: Floats) -> Floats:
    """Squared Euclidean distances between rows, [N, d] and [M, d] -> [N, M], never negative."""
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None, :]
    return np.asarray(np.maximum(squares - 2 * first @ second.T, 0))


def neighbour_radii(reference: Floats, k: int, identity: npt.NDArray[np.integer]) -> Floats:
    """Squared distance of every point [M, d] to its k-th nearest other point; k < M.

    Args:
        reference: the points.
        k: at least 1.
        identity: [M]; equal entries are one drawing met twice, which is no neighbour of itself.
    """
    distances = squared_distances(reference, reference)
    distances[identity[:, None] == identity[None, :]] = np.inf
    return np.asarray(np.partition(distances, k - 1, axis=1)[:, k - 1])


def density_coverage(
    samples: Floats, reference: Floats, radii: Floats, k: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """How deep samples lie among real drawings, and which real drawings they reach.

    Args:
        samples, reference: [N, d] and [M, d].
        radii: `neighbour_radii` of the reference, [M].
        k: the neighbour that gave the radii.
    Returns:
        each sample's density [N], whose mean is 1 for a perfect generator, and whether each real
        drawing has a sample within its radius, [M].
    Source: Naeem et al. 2020, https://arxiv.org/abs/2002.09797
    """
    inside = squared_distances(samples, reference) < radii
    return inside.sum(1) / k, np.asarray(inside.any(0))


def nearest_supports(queries: Floats, supports: Floats) -> npt.NDArray[np.intp]:
    """Answer one-shot questions: the nearest class of queries [Q, d] in supports [T, W, d].

    Each of the T rows of supports is one drawing of each of W classes. Returns [T, Q].
    """
    ways = supports.shape[1]
    distances = squared_distances(queries, supports.reshape(-1, supports.shape[-1]))
    return np.asarray(distances.reshape(len(queries), -1, ways).argmin(2).T)


def mean_deviation(features: Floats) -> Floats:
    """Return the unbiased standard deviation in an episode, averaged over features, [E]."""
    return np.asarray(features.std(1, ddof=1).mean(1))


def rank_statistic(samples: Floats, reals: Floats) -> tuple[Floats, Floats]:
    """Mann-Whitney U above its mean, and its variance, for every episode of [E, n] and [E, m].

    Ties count one half; the variance is that without ties, so it is never 0.
    Source: C_T of Meehan et al. 2020, https://arxiv.org/abs/2004.05675, on episodes as cells.
    """
    n, m = samples.shape[1], reals.shape[1]
    difference = samples[:, :, None] - reals[:, None, :]
    statistic = 0.5 * np.sign(difference).sum((1, 2))
    return statistic, np.full(len(samples), n * m * (n + m + 1) / 12)


def copy_distances(samples: Bytes, shots: Bytes, *, shift: int = 2) -> Floats:
    """Pixel difference of every sample to the nearest shot, [n]; see `nearest_copies`."""
    return nearest_copies(samples, shots, shift=shift)[0]


def nearest_copies(
    samples: Bytes, shots: Bytes, *, shift: int = 2
) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Pixel difference to the nearest shot, mirrored and shifted copies of it included.

    The mean squared difference is divided by the mean square of the shot. Without that, the
    classes with least ink set one threshold for all: on Omniglot 1 in 4 slightly turned copies
    is then found, and with it 3 in 4, at the same share of real drawings.

    Args:
        samples, shots: [n, C, S, S] and [K, C, S, S]; of 1 channel, 0 is the background.
        shift: pixels that a copy may be moved by, on either axis; background comes in, which in
            colour is what the edge has.
    Returns:
        differences [n], 0 a copy and 1 an empty picture; and which shot is the nearest [n].
    """
    size, pixels = shots.shape[-1], shots[0].size
    margins = ((0, 0), (0, 0), (shift, shift), (shift, shift))
    both = np.concatenate([shots, shots[..., ::-1]])
    wide = np.pad(both, margins, mode="constant" if shots.shape[1] == 1 else "edge")
    moves = list(product(range(2 * shift + 1), repeat=2))
    moved = np.concatenate([wide[..., y : y + size, x : x + size] for y, x in moves])
    copies = moved.reshape(-1, pixels).astype(np.float32) / 255
    flat = samples.reshape(-1, pixels).astype(np.float32) / 255
    ink = (shots.reshape(-1, pixels).astype(np.float32) / 255) ** 2
    each = np.tile(ink.sum(1), 2 * len(moves))  # the order of `copies`: shots, mirrors, moves
    distances = squared_distances(flat, copies) / np.maximum(each, 1)  # 1: a single white pixel
    nearest = distances.argmin(1)
    least = np.take_along_axis(distances, nearest[:, None], 1)[:, 0]
    return least, nearest % len(shots)


def nearest_shot(samples: Bytes, shots: Bytes) -> tuple[Floats, Floats]:
    """Return the paper's two scores of each sample against its nearest shot by squared difference.

    Args:
        samples, shots: [n, C, S, S] and [K, C, S, S].
    Returns:
        mean squared error on 0 to 255 [n], and SSIM of the same pair [n] (window 7, scikit-image
        defaults). Copying the shots wins both, so they are reported and never searched on.
    """
    pixels = samples[0].size
    exact = [a.reshape(len(a), pixels).astype(np.float64) for a in (samples, shots)]
    errors = squared_distances(exact[0], exact[1]) / pixels
    nearest = errors.argmin(1)
    similarity = [
        structural_similarity(sample, shots[i], data_range=255, channel_axis=0)  # type: ignore[no-untyped-call]
        for sample, i in zip(samples, nearest, strict=True)
    ]
    return errors.min(1), np.array(similarity)
