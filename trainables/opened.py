"""What the trials of a study share, opened once a process: actors are reused."""

from __future__ import annotations

from functools import lru_cache

from trainables.datasets import open_image_set
from trainables.evaluation import Scorer, make_scorer, scoring_episodes
from trainables.image_set import ImageSet
from trainables.pipeline import StudyContext
from trainables.published import at_hand
from trainables.tasks import Episode, Part, Split


@lru_cache(maxsize=2)
def open_images(path: str) -> ImageSet:
    """The image set of a study."""
    return open_image_set(at_hand(path))


@lru_cache(maxsize=4)
def _scorer(image_set: str, nets: str, split: Split, part: Part, seed: int) -> Scorer:
    return make_scorer(open_images(image_set), split, at_hand(nets), part=part, seed=seed)


def open_scorer(context: StudyContext, part: Part) -> Scorer:
    """The scorer of a study's validation or test classes."""
    return _scorer(
        context.image_set,
        context.scorer,
        Split.from_dict(context.split),
        part,
        context.episode_seed,
    )


def open_episodes(context: StudyContext, part: Part) -> tuple[Episode, ...]:
    """What such a scorer scores on; it costs nothing but the drawing."""
    return scoring_episodes(
        open_images(context.image_set),
        Split.from_dict(context.split),
        part=part,
        seed=context.episode_seed,
    )
