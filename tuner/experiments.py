"""Named experiments: the name is the command, the function says what it means."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args

from search_spaces.reptile import cpu_space, paper_space
from search_spaces.transfer import transfer_space
from trainables.added_data import ADDED
from trainables.configs import ReptileConfig, TransferConfig
from trainables.datasets import DATASETS
from trainables.errors import UserError
from trainables.pipeline import load_pipeline
from trainables.registry import add
from tuner.experiment_names import ALL
from tuner.known_points import KnownPoint, Probe, check_known_point

Scale = Literal["cpu", "paper"]
DRAWS = 50  # from a space, to see whether its configs are valid


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What is searched; how much of it is the plan's.

    Attributes:
        scale: what sizes of nets the space holds.
        name: on the command line, and of the function that returns it.
        pictures: that it makes, in words.
        method: by which, in words.
        data: name of the data set.
        pipeline: its name in `PIPELINES`.
        base: config that the space starts from: a frozen dataclass of plain data, whose fields
            `size` and `channels` become those of the pictures.
        space: (trial, base) -> config, by Optuna's `trial.suggest_...`.
        known_points: settings that run first.
    """

    scale: Scale
    name: str
    pictures: str
    method: str
    data: str
    pipeline: str
    base: Any
    space: Callable[[Any, Any], Any]
    known_points: Sequence[KnownPoint] = ()


EXPERIMENTS: dict[str, Callable[[Scale], Experiment]] = {}


def experiment(build: Callable[[Scale], Experiment]) -> Callable[[Scale], Experiment]:
    """Register a builder under its own name, which is then the command's.

    Raises:
        UserError: another experiment has the name.
    """
    add(EXPERIMENTS, "experiment", build.__name__, build, taken=(ALL,))
    return build


def require_sound(name: str) -> None:
    """See to it that an experiment can be run at either scale, as far as that costs nothing.

    Raises:
        UserError: its space or a known point yields an invalid config, or something that it names
            is not there.
    """
    for scale in get_args(Scale):
        made = EXPERIMENTS[name](scale)
        if made.name != name:
            raise UserError(
                f"Experiment {name!r} must have its function's name, got {made.name!r}."
            )
        if made.data not in (known := (*DATASETS, *ADDED)):
            raise UserError(
                f"Experiment {name!r}: `data` must be one of {known}, got {made.data!r}."
            )
        _require_base(name, made.base)
        try:
            load_pipeline(made.pipeline)
            for point in made.known_points:
                check_known_point(point, made.space, made.base)
        except ValueError as error:
            raise UserError(f"Experiment {name!r}: {error}") from error
        for draw in range(DRAWS):
            _require_valid(made, Probe({}, seed=draw))


def _require_base(name: str, base: Any) -> None:
    own = {field.name for field in fields(base)} if is_dataclass(base) else set()
    if isinstance(base, type) or not {"size", "channels"} <= own:
        raise UserError(
            f"Experiment {name!r}: `base` must be a dataclass with the fields size and channels, "
            f"which the pictures decide; got {base!r}."
        )


def _require_valid(made: Experiment, trial: Probe) -> None:
    """A config of its space is valid, and stays itself as plain data."""
    try:
        config = made.space(trial, made.base)
        again = type(made.base)(**json.loads(json.dumps(asdict(config))))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"Experiment {made.name!r}: its space yields an invalid config ({error}) at "
            f"{dict(trial.params)}."
        ) from error
    if again != config:
        raise UserError(
            f"Experiment {made.name!r}: its config must be the same as JSON, and {config!r} "
            f"becomes {again!r}."
        )


def find_experiment(name: str) -> Callable[[Scale], Experiment]:
    """The builder of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
    there = f"There are: {', '.join(sorted(EXPERIMENTS))}; and those of a --plugin FILE."
    hint = f"Did you mean {near[0]!r}?" if near else there
    raise UserError(f"There is no experiment {name!r}. {hint}")


def figr_settings(scale: Scale, *, shots: int) -> KnownPoint:
    """The reference code's algorithm and settings, faults included, so that the search can never
    be worse than them; at width 16 where a CPU has to train it."""
    return KnownPoint(
        label="paper",
        reference=True,
        params={
            "architecture": "dcgan",
            "width": 64 if scale == "paper" else 16,
            "inner_optimizer": "sgd",
            "inner_lr_sgd": 1e-3,
            "critic_lr_ratio": 1.0,
            "inner_steps": 10,
            "critic_steps": 1,
            "train_shots": shots,
            "penalty": 10.0,
            "outer_optimizer": "adam",
            "outer_step_adam": 1e-4,
            "meta_batch": 1,
            "averaging": 0.0,
            "augment_place": 0.0,
            "augment_shape": 0.0,
            "augment_tone": 0.0,
            "adapt_augmentation": "fresh",
            "adapt_lr_ratio": 1.0,
            "adapt_averaging": 0.0,
        },
        # FIGR's latent size is no power of two, and its K of generation is the K of training.
        overrides={"mode": "faithful", "latent": 100, "adapt_steps": 10},
    )


def _starting_points(**changed: float) -> tuple[KnownPoint, ...]:
    """Corrected settings that ten minutes of two cores can train, one for each cheap generator.

    Args:
        changed: what they have otherwise than is good for Omniglot.
    """
    shared = {
        "width": 16,
        "latent": 64,
        "inner_optimizer": "adam",
        "critic_lr_ratio": 1.0,
        "inner_steps": 10,
        "critic_steps": 1,
        "train_shots": 5,
        "penalty": 10.0,
        "outer_optimizer": "interpolation",
        "outer_step_interpolation": 1.0,
        "meta_batch": 4,
        "averaging": 0.1,
        "augment_place": 0.2,
        "augment_shape": 0.4,
        "augment_tone": 0.2,
        "adapt_augmentation": "layer",
        "adapt_lr_ratio": 1.0,
        "adapt_steps": 400,
        "adapt_averaging": 0.3,
    }
    far = {"critic_lr_ratio": 0.5, "train_shots": 9, "outer_step_interpolation": 0.5}
    own = {
        "plane": far | {"inner_lr_adam": 1.5e-2},
        "compact": far | {"inner_lr_adam": 6e-3},
        "dense": {"inner_lr_adam": 3e-3, "meta_batch": 1},
    }
    return tuple(
        KnownPoint(label=name, params=shared | {"architecture": name} | values | changed)
        for name, values in own.items()
    )


def _reptile(
    scale: Scale, name: str, data: str, *, what: str, shots: int, **changed: float
) -> Experiment:
    return Experiment(
        scale=scale,
        name=name,
        pictures=what,
        method="meta-trained with Reptile",
        data=data,
        pipeline="reptile",
        base=ReptileConfig(),
        space=paper_space if scale == "paper" else cpu_space,
        known_points=(figr_settings(scale, shots=shots), *_starting_points(**changed)),
    )


@experiment
def reptile_omniglot(scale: Scale) -> Experiment:
    """4-shot Omniglot characters, meta-trained with Reptile (section 3.1 of the paper)."""
    return _reptile(
        scale,
        "reptile_omniglot",
        "omniglot",
        what="Omniglot characters",
        shots=8,
    )


@experiment
def reptile_mnist(scale: Scale) -> Experiment:
    """The digit 9 from 4 pictures, meta-trained on the other digits (section 3.1)."""
    return _reptile(
        scale,
        "reptile_mnist",
        "mnist",
        what="MNIST digits",
        shots=4,
        inner_lr_adam=6e-3,
        augment_shape=1.0,
        augment_tone=0.5,
    )


@experiment
def reptile_fashion_mnist(scale: Scale) -> Experiment:
    """Ankle boots from 4 pictures, meta-trained on the other classes (section 3.1)."""
    return _reptile(
        scale,
        "reptile_fashion_mnist",
        "fashion_mnist",
        what="FashionMNIST ankle boots",
        shots=4,
        inner_lr_adam=6e-3,
        augment_shape=0.3,
        augment_tone=0.6,
    )


# Steps of pre-training of 128 pictures, without a penalty, that cost what ours do.
PAPERS_PRETRAINING = {"dcgan": 1490, "cgan": 1490, "infogan": 1350}


def _papers_transfer(method: str, batch: int, lr: float) -> KnownPoint:
    """The paper's recipe: a plain GAN, 4 pictures made 300 by RandomCrop and ColorJitter, and
    nothing that would keep it from copying them. Batch and learning rate as in its code."""
    return KnownPoint(
        label="paper",
        reference=True,
        params={
            "lr": lr,
            "critic_lr_ratio": 1.0,
            "averaging": 0.0,
            "augmentation": "crop",
            "crop_strength": 0.5,
            "shared_strength": 0.0,
            "l2": False,
            "frozen_critic": 0,
            "frozen_generator": 0,
        },
        overrides={
            "batch": batch,
            "loss": "logistic",
            "penalty": 0.0,
            "beta1": 0.5,
            "pretrain_lr": 2e-4,
            "pretrain_batch": 128,
            "pretrain_steps": PAPERS_PRETRAINING[method],
        },
    )


def _transfer_start(label: str, **own: float | str) -> KnownPoint:
    """Corrected settings, the nets' augmentation a layer, but for `own`."""
    shared: dict[str, Any] = {
        "batch": 8,
        "averaging": 0.3,
        "augmentation": "layer",
        "augment_place": 0.2,
        "augment_shape": 0.3,
        "augment_tone": 0.6,
        "shared_strength": 0.0,
        "l2": False,
        "frozen_critic": 0,
        "frozen_generator": 0,
    }
    return KnownPoint(label=label, params=shared | own)


_TRANSFER_STARTS = (
    # Where the critic steps less far, both may step further; the two end about as well.
    _transfer_start("start", lr=8e-3, critic_lr_ratio=0.5),
    _transfer_start("strong", lr=4e-3, critic_lr_ratio=1.4),
    # What won searches before augmentation could be a layer; it takes thousands of steps.
    _transfer_start(
        "slow",
        lr=5.3e-4,
        critic_lr_ratio=0.74,
        batch=1,
        averaging=0.24,
        augmentation="fresh",
        augment_shape=0.5,
        shared_strength=0.87,
        frozen_critic=1,
        frozen_generator=1,
    ),
)


def _transfer(scale: Scale, method: str, title: str, *, batch: int, lr: float = 1e-4) -> Experiment:
    return Experiment(
        scale=scale,
        name=f"{method}_fashion_mnist",
        pictures="FashionMNIST ankle boots",
        method=f"{title} pre-trained on the other classes",
        data="fashion_mnist",
        pipeline="transfer",
        base=TransferConfig(method=method, width=64 if scale == "paper" else 16),  # type: ignore[arg-type]
        space=transfer_space,
        known_points=(_papers_transfer(method, batch, lr), *_TRANSFER_STARTS),
    )


@experiment
def dcgan_fashion_mnist(scale: Scale) -> Experiment:
    """Ankle boots from 4 pictures by a DCGAN of the other classes (sections 2 and 3.2)."""
    return _transfer(scale, "dcgan", "a DCGAN", batch=1)


@experiment
def cgan_fashion_mnist(scale: Scale) -> Experiment:
    """Ankle boots from 4 pictures by a conditional DCGAN of the other classes (section 3.2)."""
    return _transfer(scale, "cgan", "a conditional DCGAN", batch=32, lr=5e-4)


@experiment
def infogan_fashion_mnist(scale: Scale) -> Experiment:
    """Ankle boots from 4 pictures by an InfoGAN of the other classes (section 3.2)."""
    return _transfer(scale, "infogan", "an InfoGAN", batch=16)
