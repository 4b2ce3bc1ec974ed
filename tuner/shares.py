"""What one trial gets of the hardware, and what it trains there."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial

from cluster.resources import Card, Packing, pack, share_of_card
from trainables.errors import UserError
from trainables.tasks import EPISODES, samples_wanted
from tuner.machine import Training
from tuner.plan import episode_counts
from tuner.setting import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What one trial gets.

    Attributes:
        cpus: cores.
        gpus: cards, or a share of one.
        card: what was measured for that; None if nothing was.
    """

    cpus: float
    gpus: float
    card: Card | None = None

    @property
    def device(self) -> str:
        """Of torch."""
        return "cuda" if self.gpus else "cpu"


def shares_of(setting: Setting) -> Shares:
    """What the trials of a new study get; where nobody says how many GPUs, these are tried."""
    request = setting.request
    cpus_each = 1.0 if request.cpus_per_trial is None else request.cpus_per_trial
    if request.gpus_per_trial is not None:
        return Shares(cpus=cpus_each, gpus=request.gpus_per_trial)
    gpus_each, card = _gpus_measured(setting, cpus_each)
    return Shares(cpus=cpus_each, gpus=gpus_each, card=card)


def training_of(setting: Setting, shares: Shares) -> Training:
    """What a new study trains, by which its plan is measured."""
    split = setting.split
    packing = packed(setting, shares.cpus, shares.gpus)
    return Training(
        pipeline=setting.experiment.pipeline,
        config=asdict(setting.experiment.base),
        classes=len(split.train) + len(split.validation),
        device=shares.device,
        threads=packing.threads,
        fast=shares.gpus > 0 and setting.request.fast_gpu,
        beside=min(packing.slots, math.floor(1 / shares.gpus)) if 0 < shares.gpus < 1 else 1,
    )


def validation_episodes(setting: Setting) -> int:
    classes = len(setting.split.validation)
    return max(1, EPISODES // classes) * classes


def _gpus_measured(setting: Setting, cpus_each: float) -> tuple[float, Card | None]:
    """GPUs of a trial, where nobody said how many: none at the scale of CPUs, else the share of a
    card that its largest trials need; and what was measured for that."""
    scale = setting.experiment.scale
    if scale != "paper" or not setting.gpus:
        return 0.0, None
    packed(setting, cpus_each, 1.0)  # or nobody could try it
    from tuner.cards import probed  # and with it torch

    counts = episode_counts(validation_episodes(setting), len(setting.split.validation))
    probe = partial(
        probed,
        setting.experiment,
        episodes=max(counts),
        samples=samples_wanted(setting.images),
        fast=setting.request.fast_gpu,
    )
    card = setting.where_trials_run(probe, cpus=cpus_each, gpus=1)
    if card is None:
        return 1.0, None
    # More than there are CPUs for would leave a part of the card to nobody.
    most = max(math.ceil(n.cpus / cpus_each / n.gpus) for n in setting.nodes if n.gpus)
    return share_of_card(card.trials(max(1, most))), card


def packed(setting: Setting, cpus_each: float, gpus_each: float) -> Packing:
    try:
        return pack(setting.nodes, cpus_per_trial=cpus_each, gpus_per_trial=gpus_each)
    except ValueError as error:
        raise UserError(str(error)) from error
