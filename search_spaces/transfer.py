"""The search space of transfer trials; parameter names are config fields.

Pre-training is no part of it: all trials of a study start from the same weights, trained once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from trainables.configs import TransferConfig

if TYPE_CHECKING:
    from optuna import Trial

BATCHES = (1, 4, 8, 16)


def _steps(trial: Trial) -> dict[str, Any]:
    return {
        "lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        "critic_lr_ratio": trial.suggest_float("critic_lr_ratio", 0.25, 4.0, log=True),
        "batch": trial.suggest_categorical("batch", BATCHES),
        "averaging": trial.suggest_float("averaging", 0.0, 0.3),
    }


def _shots(trial: Trial) -> dict[str, Any]:
    kind = trial.suggest_categorical("augmentation", ["fresh", "layer", "crop"])
    strengths = ("place", "shape", "tone")
    names = ["crop_strength"] if kind == "crop" else [f"augment_{s}" for s in strengths]
    return {
        "augmentation": kind,
        "shared_strength": trial.suggest_float("shared_strength", 0.0, 1.0),
        **{name: trial.suggest_float(name, 0.0, 1.0) for name in names},
    }


def _closeness(trial: Trial) -> dict[str, Any]:
    """What keeps the nets near to where pre-training left them."""
    l2 = trial.suggest_categorical("l2", [False, True])
    return {
        "l2_source": trial.suggest_float("l2_source", 1e-4, 1e-1, log=True) if l2 else 0.0,
        "frozen_critic": trial.suggest_int("frozen_critic", 0, 2),
        "frozen_generator": trial.suggest_int("frozen_generator", 0, 2),
    }


def transfer_space(trial: Any, base: TransferConfig) -> TransferConfig:
    """Fine-tuning from the pre-trained nets of `base`."""
    asked = cast("Trial", trial)
    return replace(base, **_steps(asked), **_shots(asked), **_closeness(asked))
