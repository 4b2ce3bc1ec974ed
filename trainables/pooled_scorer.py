"""Scores where a class has a few pictures only, as in Omniglot: all episodes are compared as one.

Two-sample scores depend on how many are compared, so all compare as many samples with as many
real drawings: half an episode's. Real drawings, half against half, then have the same sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainables import metrics
from trainables.features import SHOTS, open_scoring_nets
from trainables.image_set import ImageSet
from trainables.metrics import Bytes, Floats
from trainables.paper_scores import paper_scores
from trainables.scores import Distances, Kernels, Moments, Scores, Tally, real_distance
from trainables.tasks import EPISODES, REALS, Episode, Part, Split, class_rows, make_episodes

Rows = npt.NDArray[np.int64]

WAYS = 20  # of the one-shot question; training classes fill up a smaller part
NEIGHBOURS = 3  # of a half of 8: a perfect generator then covers .93, and is told from others
HALVINGS = 4  # of the real drawings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Half:
    """Half the real drawings of every episode, as a reference."""

    positions: Rows  # among an episode's real drawings, [h]
    features: Floats  # [E, h, d]
    radii: Floats  # [E h]
    neighbours: int  # that gave the radii


class PooledScorer:
    """Scores samples on a part's episodes, which are the same for every generator.

    Attributes:
        episodes: what to adapt to; some of the first may be scored alone.
        shots: uint8 [E, 4, C, S, S].
        reals: what samples are compared with, uint8 [E, m, C, S, S].
        copy_thresholds: of `metrics.copy_distances`, below which a sample is a copy, [E].
        seed: of the episodes.
    """

    def __init__(
        self, images: ImageSet, split: Split, nets: Path, *, part: Part, seed: int = 0
    ) -> None:
        """Open the nets and embed the real drawings: under a second for 20 characters.

        Args:
            images: the set.
            split: whose `part` is scored on.
            nets: a folder of `prepare_scorer` for the same set and split.
            part: "validation" in the search, "test" once at its end.
            seed: of the episodes.
        Raises:
            UserError: the nets are absent or damaged, or a class has too few pictures.
        """
        classes = split.scored_on(part)
        self.part, self.seed = part, seed
        self.episodes = self.draw_episodes(images, classes, seed)
        self._nets = open_scoring_nets(nets)
        count = min(len(episode.reals) for episode in self.episodes)
        self.copy_thresholds: Floats = np.full(len(self.episodes), self._nets.copy_threshold)
        self._rows = np.array([episode.reals[:count] for episode in self.episodes])
        self.shots: Bytes = np.stack([images.images[list(e.shots)] for e in self.episodes])
        self.reals: Bytes = np.stack([images.images[rows] for rows in self._rows])
        self._shot_features = _by_episode(self._nets.embed, self.shots)
        self._real_features = _by_episode(self._nets.embed, self.reals)
        self._halves = self._halved(count)
        self._support_rows = self._supports(images, split, classes, count)
        self._support_features = _by_episode(
            self._nets.recognise, images.images[self._support_rows]
        )
        ways = {index: way for way, index in enumerate(classes)}
        self._way = np.array([ways[episode.class_index] for episode in self.episodes])
        self._recognised_real = self._recognised(self.reals, self._rows)
        self._moments = tuple(metrics.moments(half.features) for half in self._halves)
        self._whole = real_distance(self._moments, len(self._halves[0].positions))

    @staticmethod
    def draw_episodes(images: ImageSet, classes: Sequence[int], seed: int) -> tuple[Episode, ...]:
        """The episodes of a scorer of these classes."""
        per_class = max(1, EPISODES // len(classes))
        return make_episodes(
            images, classes, shots=SHOTS, reals=REALS, seed=seed, per_class=per_class
        )

    def score(self, samples: Bytes, *, from_reals: bool = False) -> Scores:
        """Score what a generator drew for the first episodes.

        Args:
            samples: uint8 [E, n, C, S, S], row e for `episodes[e]`; at least 1 row, and at least
                half as many samples as there are real drawings.
            from_reals: sample i of an episode is real drawing i or was made of it (null
                baselines, tests), so it is compared with the other half only.
        Raises:
            ValueError: wrong type or shape.
        """
        self._check(samples, from_reals)
        count = len(samples)
        shots, reals = self.shots[:count], self._real_features[:count]
        features = _by_episode(self._nets.embed, samples)
        groups, pairs = self._paired(features, from_reals)
        density, covered = self._neighbours(groups, pairs)
        rank, rank_variance = metrics.rank_statistic(
            self._to_shots(features), self._to_shots(reals)
        )
        nearest = [metrics.nearest_shot(*both) for both in zip(samples, shots, strict=True)]
        copies = [metrics.copy_distances(*both) for both in zip(samples, shots, strict=True)]
        tally = Tally(
            copies=np.array([(d < self._nets.copy_threshold).mean() for d in copies]),
            recognised=self._recognised(samples, self._rows[:count] if from_reals else None),
            recognised_real=self._recognised_real[:count],
            deviation=metrics.mean_deviation(features),
            deviation_real=metrics.mean_deviation(reals),
            density=density,
            covered=covered,
            rank=rank,
            rank_variance=rank_variance,
            mse=np.array([errors.mean() for errors, _ in nearest]),
            ssim=np.array([similarity.mean() for _, similarity in nearest]),
            kernels=self._kernels(features, groups, pairs, from_reals),
            distances=self._distances(tuple(map(metrics.moments, groups)), pairs, count),
        )
        scores = Scores.of(tally)
        if self.part == "test":
            papers = paper_scores(samples, shots, self.reals[:count])
            scores = replace(scores, metrics=scores.metrics | papers)
        return scores

    def _check(self, samples: Bytes, from_reals: bool) -> None:
        most, reals = self.reals.shape[:2]
        pictures = self.reals.shape[2:]
        counts = (reals, reals) if from_reals else (max(2, reals // 2), np.inf)
        if (
            samples.dtype != np.uint8
            or samples.ndim != 5
            or not 1 <= len(samples) <= most
            or not counts[0] <= samples.shape[1] <= counts[1]
            or samples.shape[2:] != pictures
        ):
            raise ValueError(
                f"`samples` must be uint8 [1 to {most}, {counts[0]} to {counts[1]}, {pictures}], "
                f"got {samples.dtype} {samples.shape}."
            )

    def _halved(self, count: int) -> tuple[_Half, ...]:
        """Halve the real drawings in several ways; halves 2 s and 2 s + 1 share no drawing."""
        rng = np.random.default_rng(self.seed)
        halves = []
        for _ in range(HALVINGS):
            order = rng.permutation(count)
            for positions in (order[: count // 2], order[count // 2 : count // 2 * 2]):
                features = self._real_features[:, positions]
                points, rows = _flat(features), self._rows[:, positions].ravel()
                k = min(NEIGHBOURS, len(set(rows.tolist())) - 1)
                radii = metrics.neighbour_radii(points, k, rows)
                half = _Half(positions=positions, features=features, radii=radii, neighbours=k)
                halves.append(half)
        return tuple(halves)

    def _supports(
        self, images: ImageSet, split: Split, classes: tuple[int, ...], count: int
    ) -> Rows:
        """Rows of the one-shot supports, [m, ways]: always all classes of the part."""
        own = self._rows[: len(classes)]  # the first episode of each class
        rng = np.random.default_rng([self.seed, 1])
        rows = class_rows(images.labels)
        others = rng.permutation(split.train)[: max(0, WAYS - len(classes))]
        fill = [
            rng.choice(rows[index], count, replace=len(rows[index]) < count) for index in others
        ]
        return np.stack([*own, *fill], axis=1)

    def _recognised(self, samples: Bytes, own_rows: Rows | None) -> Floats:
        """Share of one-shot questions answered rightly, [E], each drawing being support in turn.

        Args:
            samples: uint8 [E, n, C, S, S].
            own_rows: [E, n], where the samples are (made of) real drawings: a drawing is not
                asked about with itself as the support.
        """
        count, n = samples.shape[:2]
        queries = _flat(_by_episode(self._nets.recognise, samples))
        answers = metrics.nearest_supports(queries, self._support_features)
        way = self._way[:count]
        right = answers.reshape(-1, count, n) == way[:, None]
        if own_rows is None:
            return np.asarray(right.mean((0, 2)))
        asked = self._support_rows[:, way][:, :, None] != own_rows
        return np.asarray((right & asked).sum((0, 2)) / np.maximum(asked.sum((0, 2)), 1))

    def _paired(
        self, features: Floats, from_reals: bool
    ) -> tuple[list[Floats], tuple[tuple[int, int], ...]]:
        """Cut samples into groups of a half's size -> groups [E, h, d], (group, half) pairs."""
        numbers = range(len(self._halves))
        if from_reals:  # half i of the samples with the other half of the real drawings
            groups = [features[:, half.positions] for half in self._halves]
            return groups, tuple((half ^ 1, half) for half in numbers)
        size = len(self._halves[0].positions)
        starts = range(0, features.shape[1] - size + 1, size)
        groups = [features[:, start : start + size] for start in starts]
        return groups, tuple((group, half) for half in numbers for group in range(len(groups)))

    def _neighbours(
        self, groups: list[Floats], pairs: tuple[tuple[int, int], ...]
    ) -> tuple[Floats, Floats]:
        """Mean density of samples and coverage of real drawings, [E] each.

        The reference is all of the part's drawings even where few episodes are scored, so that
        neither score depends on how many are.
        """
        densities, coverages = [], []
        for group, number in pairs:
            half, count = self._halves[number], len(groups[group])
            density, covered = metrics.density_coverage(
                _flat(groups[group]), _flat(half.features), half.radii, half.neighbours
            )
            densities.append(density.reshape(count, -1).mean(1))
            coverages.append(covered.reshape(len(self.episodes), -1)[:count].mean(1))
        return np.mean(densities, axis=0), np.mean(coverages, axis=0)

    def _to_shots(self, features: Floats) -> Floats:
        """Squared feature distance to the episode's nearest shot, [E, n, d] -> [E, n]."""
        both = zip(features, self._shot_features[: len(features)], strict=True)
        return np.stack([metrics.squared_distances(*pair).min(1) for pair in both])

    def _kernels(
        self,
        features: Floats,
        groups: list[Floats],
        pairs: tuple[tuple[int, int], ...],
        from_reals: bool,
    ) -> tuple[Kernels, ...]:
        """What the kernel distance needs. It has no bias, so all are compared where they may be."""
        count, scale = len(features), math.sqrt(features.shape[-1])  # the kernel divides by it too
        compared = [(features, self._real_features[:count])]
        if from_reals:
            compared = [(groups[g], self._halves[h].features[:count]) for g, h in pairs]
        compared = [(scale * first, scale * second) for first, second in compared]
        return tuple(
            Kernels(
                within=metrics.kernel_means(first, first, same=True),
                reference=metrics.kernel_means(second, second, same=True),
                between=metrics.kernel_means(first, second, same=False),
            )
            for first, second in compared
        )

    def _distances(
        self, groups: tuple[Moments, ...], pairs: tuple[tuple[int, int], ...], count: int
    ) -> Distances:
        return Distances(
            groups=groups,
            halves=tuple((first[:count], second[:count]) for first, second in self._moments),
            pairs=pairs,
            size=len(self._halves[0].positions),
            whole=self._whole,
        )


def _by_episode(net: Callable[[Bytes], Floats], pictures: Bytes) -> Floats:
    """Run a net on [E, n, C, S, S] -> [E, n, d]."""
    features = net(pictures.reshape(-1, *pictures.shape[2:]))
    return features.reshape(*pictures.shape[:2], -1)


def _flat(features: Floats) -> Floats:
    return features.reshape(-1, features.shape[-1])
