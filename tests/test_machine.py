"""How fast this machine trains: measured, and kept for those who only plan."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from trainables.configs import ReptileConfig, TransferConfig
from tuner import machine
from tuner.machine import Speed, Training, gpus, kept_speed, measured_speed, shared_speed

TINY = Training(
    pipeline="reptile",
    config=asdict(ReptileConfig(width=8, latent=4, inner_steps=1, meta_batch=1)),
    classes=3,
    device="cpu",
    threads=1,
)
TINY_TRANSFER = replace(
    TINY, pipeline="transfer", config=asdict(TransferConfig(width=4, latent=4, pretrain_steps=2))
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "user_cache", lambda: tmp_path)
    monkeypatch.setattr(machine, "CALIBRATION_SECONDS", 0.01)


@pytest.mark.parametrize("training", [TINY, TINY_TRANSFER])
def test_what_was_measured_is_kept_with_its_time(training: Training) -> None:
    assert kept_speed(training) is None
    measured = measured_speed(training)
    assert (measured.earlier, measured.told) == (False, "measured now")
    assert measured.flops_per_second > 0
    assert (measured.source_seconds > 0) == (training is TINY_TRANSFER)
    kept = kept_speed(training)
    assert kept == replace(measured, earlier=True)
    again = measured_speed(training)
    assert kept_speed(training) == replace(again, earlier=True)


@pytest.mark.parametrize(
    "other",
    [
        {"pipeline": "transfer"},
        {"config": {**TINY.config, "width": 16}},
        {"classes": 4},
        {"device": "cuda"},
        {"threads": 2},
    ],
)
def test_the_speed_of_another_training_is_not_taken(other: dict[str, Any]) -> None:
    measured_speed(TINY)
    assert kept_speed(replace(TINY, **other)) is None


@pytest.mark.parametrize("change", ["cpus", "processor", "installed"])
def test_nor_that_of_another_machine_or_version(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_speed(TINY)
    monkeypatch.setattr(machine, change, lambda: "another")
    assert kept_speed(TINY) is None


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"when": 1.0}', "\x00"])
def test_a_damaged_file_is_no_speed(content: str, tmp_path: Path) -> None:
    measured_speed(TINY)
    (path,) = (tmp_path / "speeds").iterdir()
    path.write_text(content)
    assert kept_speed(TINY) is None


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "speeds").write_text("in the way")
    assert measured_speed(TINY).flops_per_second > 0
    assert kept_speed(TINY) is None


def test_beside_others_on_a_card_the_kept_speed_serves_every_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = shared_speed(TINY)
    monkeypatch.setattr(machine, "measured_speed", None)  # calling it would raise
    assert shared_speed(TINY) == replace(first, earlier=True)


def test_the_speed_on_another_card_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_speed(TINY)
    monkeypatch.setattr(machine, "card_name", lambda _device: "another card")
    assert kept_speed(TINY) is None


def test_an_earlier_speed_tells_when() -> None:
    speed = Speed(flops_per_second=1.0, source_seconds=0.0, when=0.0, earlier=True)
    assert speed.told.startswith("measured before, on 19")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch is asked")
def test_torch_is_not_asked_for_gpus_where_there_is_no_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_GPU_DRIVERS", ("no such device",))
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would raise
    assert gpus() == 0.0
