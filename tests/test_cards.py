"""What fits on a GPU, and how fast it is there: without one, as far as that goes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cluster.resources import Card
from search_spaces.reptile import paper_space
from search_spaces.transfer import transfer_space
from trainables.reptile import ReptileConfig, build_gan
from trainables.transfer import TransferConfig
from tuner import cards
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


class Gpu:
    """A simulated card, and how often its memory was tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        self.tried = 0
        self.needs: Card | None = card(40)
        self.name = "a card"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: self.name)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda _n: SimpleNamespace(total_memory=100)
        )
        monkeypatch.setattr(cards, "user_cache", lambda: cache)
        monkeypatch.setattr(cards, "_tried", self._try)

    def _try(self, *_asked: Any) -> Card | None:
        self.tried += 1
        return self.needs


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch, tmp_path)


ASKED: dict[str, Any] = {"episodes": 5, "samples": 16, "fast": True}


def test_a_card_is_tried_once_and_known_from_then_on(gpu: Gpu) -> None:
    experiment = find_experiment("reptile_omniglot")("paper")
    assert [probed(experiment, **ASKED) for _ in range(3)] == [card(40)] * 3
    assert gpu.tried == 1


@pytest.mark.parametrize("change", ["name", "space", "base", "versions", *ASKED])
def test_what_its_figures_depend_on_is_tried_anew(
    gpu: Gpu, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, asked = find_experiment("reptile_omniglot")("paper"), dict(ASKED)
    probed(experiment, **asked)
    gpu.needs = card(50)
    if change == "name":
        gpu.name = "another card"
    elif change == "space":
        experiment = replace(experiment, space=find_experiment("reptile_omniglot")("cpu").space)
    elif change == "base":
        experiment = replace(experiment, base=replace(experiment.base, size=64))
    elif change == "versions":
        monkeypatch.setattr(cards, "installed", lambda: {"torch": "another"})
    else:
        asked[change] = False if change == "fast" else 7
    assert probed(experiment, **asked) == card(50)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"total": 1}', '{"total": -1}', "null"])
def test_a_damaged_record_is_tried_anew(gpu: Gpu, content: str, tmp_path: Path) -> None:
    experiment = find_experiment("reptile_omniglot")("paper")
    probed(experiment, **ASKED)
    (path,) = (tmp_path / "cards").iterdir()
    path.write_text(content)
    assert probed(experiment, **ASKED) == card(40)
    assert gpu.tried == 2


def test_what_fits_on_no_card_is_not_kept(gpu: Gpu, tmp_path: Path) -> None:
    gpu.needs = None
    assert probed(find_experiment("reptile_omniglot")("paper"), **ASKED) is None
    assert not (tmp_path / "cards").exists()
