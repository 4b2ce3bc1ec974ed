"""What trials are told: configs, which refuse nonsense. No torch, so that plans need none."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from trainables.change import NO_CHANGE, Change
from trainables.generators import architectures

METHODS = ("dcgan", "cgan", "infogan")
Augmentation = Literal["fresh", "layer", "crop"]
Loss = Literal["wasserstein", "logistic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReptileConfig:
    """How one Reptile trial learns and how its model is adapted to new shots."""

    mode: Literal["corrected", "faithful"] = "corrected"  # see `trainables.losses`
    architecture: str = "plane"  # dcgan, resnet: FIGR's; infogan: plane with codes; or a plugin's
    size: int = 32  # pixels a side
    channels: int = 1
    width: int = 16  # channels at the finest convolution
    depth: int = 4  # halvings of the resolution in FIGR's nets; the compact ones go down to 4x4
    latent: int = 64
    inner_optimizer: Literal["adam", "sgd"] = "adam"  # adam: betas (0, .9), fresh for every task
    inner_lr: float = 6e-3  # of the generator
    critic_lr_ratio: float = 1.0  # critic's learning rate / generator's
    inner_steps: int = 10  # K of training
    critic_steps: int = 1  # critic updates a generator update
    train_shots: int = 5  # pictures drawn for a training task
    penalty: float = 10.0  # weight of the gradient penalty
    information: float = 0.5  # weight of the InfoGAN's mutual information
    outer_optimizer: Literal["interpolation", "adam"] = "interpolation"
    outer_step: float = 1.0  # fraction of the way to the adapted weights, or Adam's learning rate
    meta_batch: int = 4  # tasks an outer step
    averaging: float = 0.1  # share of training that the scored weights average over; 0: the last
    augment_place: float = 0.3  # strengths of `Change.searched`, in training and adaptation
    augment_shape: float = 0.3
    augment_tone: float = 0.3
    # Of the shots, at every step; layer: of what is drawn, too, as the last layer of the generator,
    # so that the nets learn the shots alone.
    adapt_augmentation: Literal["fresh", "layer"] = "fresh"
    adapt_lr_ratio: float = 0.5  # learning rates of adaptation / those of training
    adapt_steps: int = 150  # most steps of adaptation; the best stop up to it is chosen
    adapt_averaging: float = 0.2  # share of its steps that the drawing generator averages over

    def __post_init__(self) -> None:
        if self.architecture not in (known := architectures()):
            raise ValueError(f"`architecture` must be one of {known}, got {self.architecture!r}.")
        if self.adapt_augmentation not in ("fresh", "layer"):
            raise ValueError(
                f"`adapt_augmentation` must be 'fresh' or 'layer', got {self.adapt_augmentation!r}."
            )
        positive = (
            "inner_lr", "critic_lr_ratio", "penalty", "information", "outer_step", "adapt_lr_ratio",
        )  # fmt: skip
        counts = (
            "size", "channels", "width", "depth", "latent", "inner_steps", "critic_steps",
            "train_shots", "meta_batch", "adapt_steps",
        )  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` must be positive and finite, got {value}.")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.outer_optimizer == "interpolation" and self.outer_step > 1:
            raise ValueError(f"`outer_step` must be in (0, 1], got {self.outer_step}.")
        for name in ("averaging", "adapt_averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        for name in ("augment_place", "augment_shape", "augment_tone"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")

    @property
    def faithful(self) -> bool:
        return self.mode == "faithful"

    @property
    def change(self) -> Change:
        """How the pictures of a task are augmented."""
        return Change.searched(self.augment_place, self.augment_shape, self.augment_tone)

    @property
    def layer(self) -> Change:
        """The generator's last layer in adaptation: how everything that it draws is changed."""
        return self.change if self.adapt_augmentation == "layer" else NO_CHANGE


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """How one transfer trial pre-trains and fine-tunes. `source` says what of it the pre-trained
    weights depend on."""

    method: Literal["dcgan", "cgan", "infogan"] = "dcgan"
    size: int = 32  # pixels a side
    channels: int = 1
    width: int = 16  # channels at half the full resolution
    latent: int = 64  # noise; labels and codes come on top
    loss: Loss = "wasserstein"  # logistic: the plain GAN's
    pretrain_lr: float = 1e-3
    pretrain_batch: int = 64
    pretrain_steps: int = 2000
    beta1: float = 0.0  # of Adam, in both phases
    lr: float = 1e-3  # of the generator, in fine-tuning
    critic_lr_ratio: float = 1.0
    critic_steps: int = 1  # critic updates a generator update, in both phases
    penalty: float = 10.0  # weight of the gradient penalty, in both phases; 0: none
    batch: int = 8  # pictures a fine-tuning step
    # fresh: of the shots, at every step; layer: of what is drawn, too, as the last layer of the
    # generator, so that the nets learn the shots alone; crop: 300 once, as the paper.
    augmentation: Augmentation = "fresh"
    augment_place: float = 0.3  # strengths of `Change.searched`, if fresh or layer
    augment_shape: float = 0.3
    augment_tone: float = 0.3
    crop_strength: float = 0.5  # of RandomCrop and ColorJitter, in [0, 1]
    shared_strength: float = 0.0  # of an affine change of real and fake pictures alike, in [0, 1]
    l2_source: float = 0.0  # weight of the squared way from the pre-trained weights
    frozen_critic: int = 0  # first convolutions of the critic that stay as they are
    frozen_generator: int = 0  # last convolutions of the generator that do
    averaging: float = 0.2  # share of its steps that the drawing generator averages over
    information: float = 0.5  # weight of the InfoGAN's mutual information

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}, got {self.method!r}.")
        for name, known in (("augmentation", Augmentation), ("loss", Loss)):
            if (value := getattr(self, name)) not in get_args(known):
                raise ValueError(f"`{name}` must be one of {get_args(known)}, got {value!r}.")
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"`beta1` must be in [0, 1), got {self.beta1}.")
        for name in ("pretrain_lr", "lr", "critic_lr_ratio"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` must be positive and finite, got {value}.")
        counts = ("size", "channels", "width", "latent", "pretrain_batch", "critic_steps", "batch")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        shares = (
            "augment_place", "augment_shape", "augment_tone", "crop_strength", "shared_strength",
            "averaging",
        )  # fmt: skip
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")
        amounts = (
            "penalty", "l2_source", "information", "frozen_critic", "frozen_generator",
            "pretrain_steps",
        )  # fmt: skip
        for name in amounts:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"`{name}` must be finite and not negative, got {getattr(self, name)}."
                )

    @property
    def change(self) -> Change:
        """How shots are augmented at every step, if they are."""
        return Change.searched(self.augment_place, self.augment_shape, self.augment_tone)

    @property
    def layer(self) -> Change:
        """The generator's last layer: how everything that it draws is changed."""
        return self.change if self.augmentation == "layer" else NO_CHANGE

    def source(self) -> dict[str, Any]:
        """What the pre-trained weights depend on, beside data and seed."""
        names = (
            "method", "size", "channels", "width", "latent", "loss", "pretrain_lr",
            "pretrain_batch", "pretrain_steps", "beta1", "critic_steps", "penalty", "information",
        )  # fmt: skip
        every = asdict(self)
        return {name: every[name] for name in names}
