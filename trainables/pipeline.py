"""What a trial is to the search: it steps from rung to rung, and can be stopped and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from trainables.errors import UserError
from trainables.registry import add, resolved
from trainables.tasks import Part

if TYPE_CHECKING:
    from torch import Generator, Tensor

EPISODES_AT_ONCE = 5  # adapted together: enough to share overhead, few enough for the cache


class Unfit(RuntimeError):
    """These settings cannot be trained: the trial has failed, the study goes on."""


class Diverged(Unfit):
    """Training left the finite numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContext:
    """What every trial of a study shares, as plain data that crosses processes.

    `image_set` and `scorer` are folders that `datasets.open_image_set` and
    `evaluation.Scorer` open, or addresses that `published.at_hand` copies to such folders;
    `split` is `tasks.Split.to_dict()`.
    """

    image_set: str
    scorer: str
    split: dict[str, Any]
    rungs: tuple[float, ...]  # cumulative floating-point operations of training, ascending
    episodes: tuple[int, ...]  # scoring episodes at each rung
    samples: int  # generated pictures an episode
    device: str
    store: str  # folder of pre-trained weights, which studies share
    episode_seed: int = 0  # of the scoring episodes; another one gives fresh shots
    scoring_share: float = 0.12  # of a trial's compute, at most: scoring means adapting
    fast_gpu: bool = False  # see `cuda_step`; it means nothing on CPUs
    plugins: tuple[Mapping[str, str], ...] = ()  # that the study began with: `plugins.records`


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a trial tells at a rung.

    `metrics` are finite floats. `episodes` is what each scoring episode says of L, whose mean is
    about L: the same episodes for all trials, so that differences can be paired. `losses` rows are
    (updates so far, critic's, generator's mean since the row before). `grid` is uint8 [H, W, 3]:
    shots on top, samples below.
    """

    metrics: dict[str, float]
    episodes: list[float]
    losses: list[tuple[float, float, float]]
    grid: npt.NDArray[np.uint8]


class Pipeline(Protocol):
    """One trial. Two of the same config, context and seed are the same trial, bit for bit."""

    def __init__(self, config: Mapping[str, Any], context: StudyContext, seed: int) -> None: ...

    def step(self, should_stop: Callable[[], bool]) -> Report:
        """Train up to the next rung, or until `should_stop`, and score once.

        `should_stop` is asked before every update.


        Raises:
            Diverged: a loss or a weight is no longer finite.
        """
        ...

    @property
    def least_flops(self) -> float:
        """FLOPs of the smallest piece of training there is."""
        ...

    def train(self, flops: float) -> None:
        """Train up to `flops` in all and score nothing: a last model, on other classes."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs: tensors and plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def weights(self) -> dict[str, Tensor]:
        """The model to keep, by name."""
        ...

    @staticmethod
    def sample(
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        context: StudyContext,
        *,
        part: Part,
        episodes: range,
        stops: Sequence[int],
    ) -> npt.NDArray[np.uint8]:
        """What a kept model makes of some scoring episodes -> uint8 [stops, E, samples, C, S, S].

        Args:
            config: that the model was trained with.
            weights: as `weights` gave them.
            part: whose episodes.
            episodes: which of them; the same pictures whatever range an episode comes in,
                if ranges begin at multiples of `EPISODES_AT_ONCE`.
            stops: steps of adaptation at which to draw, ascending.
        """
        ...

    @staticmethod
    def imagine(
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        shots: npt.NDArray[np.uint8],
        *,
        stops: Sequence[int],
        count: int,
        seed: int,
        device: str,
        progress: Callable[[int], None],
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """What a kept model makes of any pictures of one class -> uint8 [count, C, S, S] a stop.

        A stop's pictures do not depend on which other stops there are.

        Args:
            config: that the model was trained with.
            weights: as `weights` gave them.
            shots: the given pictures, uint8 [n, C, S, S].
            stops: steps of adaptation at which to draw, ascending, from 0: not adapted at all.
            count: pictures at each stop.
            seed: of everything random.
            device: to adapt on.
            progress: is told the number of steps done, after each.
        Raises:
            ValueError: the weights belong to other networks.
        """
        ...

    @staticmethod
    def augmented(config: Mapping[str, Any], shots: Tensor, count: int, rng: Generator) -> Tensor:
        """The shots as the nets see them when they adapt: what a generator has to be more than.

        Args:
            config: of a model.
            shots: [E, n, C, S, S] in [-1, 1].
            count: pictures an episode.
        Returns:
            [E, count, C, S, S].
        """
        ...

    @staticmethod
    def heaviest(
        config: Mapping[str, Any], device: str, *, episodes: int, samples: int, fast: bool
    ) -> None:
        """A little of whatever a trial of these settings needs the most memory for.

        Args:
            episodes: that a rung is scored on, at most.
            samples: generated pictures an episode.
            fast: as `StudyContext.fast_gpu`.
        """
        ...

    @staticmethod
    def source_seconds(
        config: Mapping[str, Any], classes: int, device: str, seconds: float
    ) -> float:
        """Time that training on `classes` base classes takes once, before any rung; measured for
        about `seconds` with the threads set now."""
        ...

    @staticmethod
    def training_speed(
        config: Mapping[str, Any], device: str, seconds: float, *, fast: bool = False
    ) -> float:
        """FLOPs of training a second, measured for about `seconds` with the threads set now.

        Args:
            fast: as `StudyContext.fast_gpu`.
        """
        ...


Kind = TypeVar("Kind", bound="type[Pipeline]")
# Named, not imported: a worker loads only the pipeline that it runs.
PIPELINES: dict[str, str | type[Pipeline]] = {
    "reptile": "trainables.reptile_trial:ReptileTrial",
    "transfer": "trainables.transfer_trial:TransferTrial",
}


def load_pipeline(name: str) -> type[Pipeline]:
    """The class that `PIPELINES` names.

    Raises:
        ValueError: there is no pipeline of that name.
    """
    if name not in PIPELINES:
        raise ValueError(f"`pipeline` must be one of {sorted(PIPELINES)}, got {name!r}.")
    return resolved(PIPELINES[name])


def register_pipeline(name: str) -> Callable[[Kind], Kind]:
    """Make a class a pipeline: `Experiment(pipeline=name)`. It has all that `Pipeline` has.

    Args:
        name: letters, digits and "_"; no other pipeline's.
    Raises:
        UserError: the name is taken, or the class lacks something of `Pipeline`; says what.
    """

    def register(kind: Kind) -> Kind:
        wanted = [member for member in vars(Pipeline) if not member.startswith("_")]
        if missing := [member for member in wanted if not hasattr(kind, member)]:
            raise UserError(f"Pipeline {kind.__name__} lacks {', '.join(missing)}.")
        add(PIPELINES, "pipeline", name, kind)
        return kind

    return register
