"""What fits on a GPU, and how fast it is there: without one, as far as that goes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from cluster.resources import Card
from search_spaces.reptile import paper_space
from search_spaces.transfer import transfer_space
from trainables.reptile import ReptileConfig, build_gan
from trainables.transfer import TransferConfig
from tuner.cards import largest, probed, speed_beside
from tuner.experiments import find_experiment
from tuner.machine import Training


def card(peak: int) -> Card:
    return Card(total=100, overhead=1, peak=peak)


def test_the_largest_trials_of_a_space_are_found_name_by_name() -> None:
    needs: dict[ReptileConfig, int] = {}

    def measure(config: ReptileConfig) -> Card:
        gan = build_gan(config)
        copies = 4 if config.inner_optimizer == "adam" else 2
        needs[config] = (gan.generator.size + gan.critic.size) * copies * config.meta_batch
        return card(needs[config])

    found = largest(paper_space, ReptileConfig(), measure)
    assert found is not None
    assert ReptileConfig() in needs
    neediest = max(needs, key=lambda config: needs[config])
    assert found.peak == needs[neediest]
    assert (neediest.architecture, neediest.width, neediest.latent) == ("resnet", 64, 128)
    assert (neediest.meta_batch, neediest.train_shots, neediest.critic_steps) == (4, 10, 3)
    assert neediest.inner_optimizer == "adam"
    assert len(needs) < 20


def test_a_switch_is_on_and_a_list_of_numbers_at_its_end() -> None:
    tried: list[Any] = []

    def measure(config: TransferConfig) -> None:
        tried.append(config)

    assert largest(transfer_space, TransferConfig(), measure) is None
    assert [config.augmentation for config in tried[1:]] == ["fresh", "layer", "crop"]
    assert all(config.batch == 16 and config.l2_source > 0 for config in tried[1:])


def test_what_fits_on_no_card_asks_for_no_share() -> None:
    def measure(config: ReptileConfig) -> Card | None:
        return None if config.architecture == "resnet" else card(config.width)

    assert largest(paper_space, ReptileConfig(), measure) == card(64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_nothing_is_measured() -> None:
    experiment = find_experiment("reptile_omniglot")("paper")
    assert probed(experiment, episodes=5, samples=16, fast=True) is None


@pytest.mark.slow
def test_speed_is_measured_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.cards.SPEED_SECONDS", 0.5)
    tiny = Training(
        pipeline="reptile",
        config=asdict(ReptileConfig(width=2, inner_steps=1, meta_batch=1)),
        classes=835,
        device="cpu",
        threads=1,
        beside=2,
    )
    assert speed_beside(tiny) > 0
