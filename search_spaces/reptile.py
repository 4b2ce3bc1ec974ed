"""The search space of Reptile trials; parameter names are config fields."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from trainables.configs import ReptileConfig
from trainables.generators import ARCHITECTURES

if TYPE_CHECKING:
    from optuna import Trial

# Channels at the finest convolution. FIGR's nets have 64; a CPU trains no more than 16 of them.
CPU_WIDTHS = (8, 16, 32)
PAPER_WIDTHS = (16, 32, 64)


def _inner(trial: Trial) -> dict[str, Any]:
    """The inner optimiser; SGD needs ten times Adam's rate to move as far.

    Adam's are higher than FIGR's nets bear, 5e-5 to 1e-3: the cheap generators learn a new
    character within a few hundred steps from about 1e-3 on. Champions' rates: docs/results.md.
    """
    optimizer = trial.suggest_categorical("inner_optimizer", ["adam", "sgd"])
    low, high = (1e-3, 2e-2) if optimizer == "adam" else (1e-3, 3e-2)
    return {
        "inner_optimizer": optimizer,
        "inner_lr": trial.suggest_float(f"inner_lr_{optimizer}", low, high, log=True),
        "critic_lr_ratio": trial.suggest_float("critic_lr_ratio", 0.5, 4.0, log=True),
        "inner_steps": trial.suggest_int("inner_steps", 5, 20),
        "critic_steps": trial.suggest_int("critic_steps", 1, 3),
        "train_shots": trial.suggest_int("train_shots", 4, 10),
        "penalty": trial.suggest_float("penalty", 1.0, 20.0, log=True),
    }


def _outer(trial: Trial) -> dict[str, Any]:
    """The outer step: a fraction of the way, or Adam on Phi - W as in the paper."""
    optimizer = trial.suggest_categorical("outer_optimizer", ["interpolation", "adam"])
    low, high = (0.1, 1.0) if optimizer == "interpolation" else (1e-5, 1e-3)
    return {
        "outer_optimizer": optimizer,
        "outer_step": trial.suggest_float(f"outer_step_{optimizer}", low, high, log=True),
        "meta_batch": trial.suggest_int("meta_batch", 1, 4),
        "averaging": trial.suggest_float("averaging", 0.0, 0.3),
    }


def _nets(trial: Trial, widths: tuple[int, ...]) -> dict[str, Any]:
    architecture = trial.suggest_categorical("architecture", ARCHITECTURES)
    codes = architecture == "infogan"
    own = {"information": trial.suggest_float("information", 0.1, 1.0, log=True)} if codes else {}
    return own | {
        "architecture": architecture,
        "width": trial.suggest_categorical("width", widths),
        "latent": trial.suggest_categorical("latent", [16, 32, 64, 128]),
    }


def _adaptation(trial: Trial) -> dict[str, Any]:
    return {
        "augment_place": trial.suggest_float("augment_place", 0.0, 1.0),
        "augment_shape": trial.suggest_float("augment_shape", 0.0, 1.0),
        "augment_tone": trial.suggest_float("augment_tone", 0.0, 1.0),
        "adapt_augmentation": trial.suggest_categorical("adapt_augmentation", ["fresh", "layer"]),
        "adapt_lr_ratio": trial.suggest_float("adapt_lr_ratio", 0.2, 2.0, log=True),
        "adapt_steps": trial.suggest_int("adapt_steps", 20, 800, log=True),
        "adapt_averaging": trial.suggest_float("adapt_averaging", 0.0, 0.3),
    }


def _space(trial: Any, base: ReptileConfig, widths: tuple[int, ...]) -> ReptileConfig:
    asked = cast("Trial", trial)
    return replace(
        base, **_nets(asked, widths), **_inner(asked), **_outer(asked), **_adaptation(asked)
    )


def cpu_space(trial: Any, base: ReptileConfig) -> ReptileConfig:
    """What a few CPU cores can tell apart."""
    return _space(trial, base, CPU_WIDTHS)


def paper_space(trial: Any, base: ReptileConfig) -> ReptileConfig:
    """The same up to the size of FIGR's nets, for GPUs."""
    return _space(trial, base, PAPER_WIDTHS)
