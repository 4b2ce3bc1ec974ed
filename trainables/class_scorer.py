"""Scores where every class has hundreds of pictures that no model was given: MNIST, FashionMNIST.

Each episode is then a comparison of its own, with the pictures of its class alone, and a score is
the mean over episodes. Samples and real pictures are as many on both sides (`COMPARED`), because
two-sample scores depend on how many are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainables import metrics
from trainables.features import COPY_PERCENTILE, SHOTS, open_scoring_nets
from trainables.image_set import ImageSet
from trainables.metrics import Bytes, Floats
from trainables.paper_scores import paper_scores
from trainables.scores import FD_UNIT, HONEST_COPIES, KID_UNIT, interval_ends
from trainables.tasks import COMPARED, EPISODES, REFERENCE, Episode, Part, Split, make_episodes

NEIGHBOURS = 5
PAPERS = 16  # samples that the paper's MSE and SSIM are taken of in a search


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassScores:
    """Scores of one generator, as `scores.Scores` has them, by episode and in the mean.

    Attributes:
        metrics: means over episodes.
        by_episode: the same scores, [E] each.
    """

    metrics: dict[str, float]
    by_episode: dict[str, Floats] = field(repr=False)

    @staticmethod
    def of(by_episode: dict[str, Floats]) -> ClassScores:
        """Average over episodes."""
        means = {name: float(by_episode[name].mean()) for name in sorted(by_episode)}
        return ClassScores(metrics=means, by_episode=by_episode)

    def contributions(self, name: str) -> Floats:
        """What each episode says of a score, [E]; as `Scores.contributions`."""
        return self.by_episode[name]

    def intervals(
        self, names: Sequence[str], *, draws: int = 2000, seed: int = 0, level: float = 0.95
    ) -> dict[str, tuple[float, float]]:
        """Bootstrap scores over episodes -> their ends; as `Scores.intervals`."""
        if unknown := set(names) - set(self.metrics):
            raise ValueError(f"No score {min(unknown)!r}; there are {', '.join(self.metrics)}.")
        episodes = len(self.by_episode[names[0]])
        drawn = np.random.default_rng(seed).integers(episodes, size=(draws, episodes))
        means = {name: self.by_episode[name][drawn].mean(1) for name in names}
        return {n: interval_ends(n, means[n], self.metrics[n], level) for n in names}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Class:
    """Held-out pictures of a class: their rows in the set, ascending, their features [m, d], and
    the share of them that is recognised."""

    rows: npt.NDArray[np.int64]
    features: Floats
    recognised: float

    def features_of(self, rows: Sequence[int]) -> Floats:
        return self.features[np.searchsorted(self.rows, rows)]


class ClassScorer:
    """Scores samples on a part's episodes, which are the same for every generator.

    Attributes:
        episodes: what to adapt to; some of the first may be scored alone.
        shots: uint8 [E, 4, C, S, S].
        reals: real pictures that are not in the references, uint8 [E, `COMPARED`, C, S, S].
        copy_thresholds: of `metrics.copy_distances`, below which a sample is a copy, [E].
        seed: of the episodes.
    """

    def __init__(
        self,
        images: ImageSet,
        split: Split,
        nets: Path,
        *,
        part: Part,
        seed: int = 0,
        workers: int = 1,
    ) -> None:
        """Open the nets and embed the real pictures.

        Args:
            images: the set; every class has `REFERENCE` + `COMPARED` held-out pictures.
            split: whose `part` is scored on.
            nets: a folder of `prepare_scorer` for the same set and split.
            part: "validation" in the search, "test" once at its end.
            seed: of the episodes.
            workers: episodes scored side by side, each with the threads set for torch.
        Raises:
            UserError: the nets are absent or damaged, or a class has too few pictures.
        """
        classes = split.scored_on(part)
        self.part, self.seed, self._workers = part, seed, workers
        self.episodes = self.draw_episodes(images, classes, seed)
        self._nets = open_scoring_nets(nets)
        self._classes = np.array([episode.class_index for episode in self.episodes])
        self.shots: Bytes = np.stack([images.images[list(e.shots)] for e in self.episodes])
        self.reals: Bytes = np.stack([images.images[list(e.reals)] for e in self.episodes])
        self.reals = self.reals[:, REFERENCE:]
        known = {index: self._known(images, index) for index in classes}
        self._features = [known[e.class_index].features_of(e.reals) for e in self.episodes]
        self._real_shares = [known[e.class_index].recognised for e in self.episodes]
        self._shot_features = [self._embed(e, shots) for e, shots in enumerate(self.shots)]
        self.copy_thresholds = self._exceeded_distances()
        self._references = [self._reference(features[:REFERENCE]) for features in self._features]
        self._real_distances = self._by_class(
            [np.array([self._frechet(e, f[REFERENCE:])]) for e, f in enumerate(self._features)]
        ).mean(1)

    @staticmethod
    def draw_episodes(images: ImageSet, classes: Sequence[int], seed: int) -> tuple[Episode, ...]:
        """The episodes of a scorer of these classes."""
        return make_episodes(
            images,
            classes,
            shots=SHOTS,
            reals=REFERENCE + COMPARED,
            seed=seed,
            per_class=max(1, EPISODES // len(classes)),
        )

    def _known(self, images: ImageSet, index: int) -> _Class:
        """The held-out pictures of a class, of which its episodes draw most."""
        rows = np.flatnonzero((images.labels == index) & images.held_out)
        pictures = images.images[rows]
        return _Class(
            rows=rows,
            features=self._nets.embedding_for(index)(pictures),
            recognised=float((self._nets.classify(pictures) == index).mean()),
        )

    def _embed(self, episode: int, pictures: Bytes) -> Floats:
        return self._nets.embedding_for(int(self._classes[episode]))(pictures)

    def score(self, samples: Bytes, *, from_reals: bool = False) -> ClassScores:  # noqa: ARG002
        """Score what a generator drew for the first episodes.

        Args:
            samples: uint8 [E, `COMPARED`, C, S, S], row e for `episodes[e]`; at least 1 row.
            from_reals: the samples are `reals`; nothing has to change, since no reference holds
                them.
        Raises:
            ValueError: wrong type or shape.
        """
        expected = self.reals.shape[1:]
        if (
            samples.dtype != np.uint8
            or samples.shape[1:] != expected
            or not 1 <= len(samples) <= len(self.episodes)
        ):
            raise ValueError(
                f"`samples` must be uint8 [1 to {len(self.episodes)}, {expected}], "
                f"got {samples.dtype} {samples.shape}."
            )
        with ThreadPoolExecutor(self._workers) as pool:
            rows = list(pool.map(self._score, range(len(samples)), samples))
        scores = ClassScores.of({name: np.array([row[name] for row in rows]) for name in rows[0]})
        if self.part == "test":
            count = len(samples)
            papers = paper_scores(samples, self.shots[:count], self.reals[:count])
            scores = replace(scores, metrics=scores.metrics | papers)
        return scores

    def _score(self, episode: int, samples: Bytes) -> dict[str, float]:
        shots = self.shots[episode]
        reals = self._features[episode]
        reference, compared = reals[:REFERENCE], reals[REFERENCE:]
        features = self._embed(episode, samples)
        density, covered = metrics.density_coverage(
            features, reference, self._references[episode][2], NEIGHBOURS
        )
        copies = metrics.copy_distances(samples, shots) < self.copy_thresholds[episode]
        errors, similarity = metrics.nearest_shot(samples[:PAPERS], shots)
        rank, variance = metrics.rank_statistic(
            self._to_shots(episode, features)[None], self._to_shots(episode, compared)[None]
        )
        deviation = metrics.mean_deviation(features[None]) / metrics.mean_deviation(reference[None])
        found = {
            "recognisability": self._recognised(episode, samples),
            "recognisability_real": self._real_shares[episode],
            "diversity": float(deviation[0]),
            "copy_share": float(copies.mean()),
            "density": float(density.mean()),
            "coverage": float(covered.mean()),
            "fd": FD_UNIT * self._frechet(episode, features),
            "fd_real": FD_UNIT * float(self._real_distances[episode]),
            "kid": KID_UNIT * _kernel_distance(features, reference),
            "c_t": float(rank[0] / np.sqrt(variance[0])),
            "mse": float(errors.mean()),
            "mse_rgb_sum": 3 * float(errors.mean()),
            "ssim": float(similarity.mean()),
        }
        return found | _summary(found)

    def _reference(self, features: Floats) -> tuple[Floats, Floats, Floats]:
        """Mean, factor of the covariance, and neighbour radii of reference features [m, d]."""
        covariance = np.cov(features, rowvar=False)
        radii = metrics.neighbour_radii(features, NEIGHBOURS, np.arange(len(features)))
        return features.mean(0), metrics.cholesky(covariance), radii

    def _frechet(self, episode: int, features: Floats) -> float:
        mean, factor, _ = self._references[episode]
        covariance = np.cov(features, rowvar=False)
        return float(metrics.frechet_distance(features.mean(0), covariance, mean, factor))

    def _recognised(self, episode: int, pictures: Bytes) -> float:
        return float((self._nets.classify(pictures) == self._classes[episode]).mean())

    def _to_shots(self, episode: int, features: Floats) -> Floats:
        distances = metrics.squared_distances(features, self._shot_features[episode])
        return np.asarray(distances.min(1))

    def _exceeded_distances(self) -> Floats:
        """By episode: the distance to a shot that 99 of 100 new pictures of the class exceed."""
        distances = [
            metrics.copy_distances(*both) for both in zip(self.reals, self.shots, strict=True)
        ]
        return np.asarray(np.percentile(self._by_class(distances), COPY_PERCENTILE, axis=1))

    def _by_class(self, values: list[Floats]) -> Floats:
        """Values [n] of episodes -> [E, episodes of the class * n], those of the whole class."""
        return np.stack(
            [
                np.concatenate([v for v, c in zip(values, self._classes, strict=True) if c == own])
                for own in self._classes
            ]
        )


def _kernel_distance(features: Floats, reference: Floats) -> float:
    """The unbiased kernel distance of KID between [n, d] and [m, d]."""
    scale = np.sqrt(features.shape[1])  # the kernel divides by it too
    first, second = scale * features[None], scale * reference[None]
    distance = metrics.unbiased_mmd(
        metrics.kernel_means(first, first, same=True),
        metrics.kernel_means(second, second, same=True),
        metrics.kernel_means(first, second, same=False),
        np.ones((1, 1)),
    )
    return float(distance[0])


def _summary(found: dict[str, float]) -> dict[str, float]:
    """L and J of one episode."""
    copied = max(0.0, found["copy_share"] - HONEST_COPIES)
    missed = max(0.0, found["recognisability_real"] - found["recognisability"])
    fidelity = min(1.0, found["density"]) * found["recognisability"]
    return {
        "L": float(np.log10(max(found["fd"] / found["fd_real"], 0.01))) + copied + missed,
        "J": float(np.sqrt(fidelity * found["coverage"])) * (1 - copied),
    }
