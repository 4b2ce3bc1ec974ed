"""The champion's folder: whole whenever a kill comes, and damaged pictures are none."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import safetensors.torch
import torch

from tuner.champion_folder import SAMPLES, kept_samples, save_champion


def test_pictures_of_the_test_come_back(tmp_path: Path) -> None:
    keep(tmp_path / "champion", 8)
    kept = kept_samples(tmp_path / "champion")
    assert kept is not None
    assert kept.shots.shape == kept.samples.shape == (1, 4, 1, 16, 16)
    assert (kept.samples == 8).all()
    assert kept.copy_thresholds is not None
    assert kept.copy_thresholds.tolist() == [1]


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"PK", None])
def test_pictures_of_a_champion_that_are_damaged_count_as_gone(
    tmp_path: Path, damage: Callable[[bytes], bytes] | None
) -> None:
    path = tmp_path / SAMPLES
    if damage is not None:
        pictures = np.zeros((1, 4, 1, 8, 8), np.uint8)
        np.savez_compressed(path, shots=pictures, samples=pictures)
        path.write_bytes(damage(path.read_bytes()))
    assert kept_samples(tmp_path) is None


def test_a_small_file_of_very_many_pictures_is_not_unfolded(tmp_path: Path) -> None:
    pictures = np.zeros((1, 4, 1, 8, 8), np.uint8)
    blank = np.zeros((1, 20_000, 1, 64, 64), np.uint8)
    np.savez_compressed(tmp_path / SAMPLES, shots=pictures, samples=blank)
    assert (tmp_path / SAMPLES).stat().st_size < blank.size / 500
    tracemalloc.start()
    try:
        assert kept_samples(tmp_path) is None
        assert tracemalloc.get_traced_memory()[1] < blank.size / 10
    finally:
        tracemalloc.stop()


def test_blank_pictures_are_kept_however_small_their_file_is(tmp_path: Path) -> None:
    blank = np.zeros((20, 272, 1, 32, 32), np.uint8)
    np.savez_compressed(tmp_path / SAMPLES, shots=blank[:, :4], samples=blank)
    assert (tmp_path / SAMPLES).stat().st_size < blank.size / 500
    kept = kept_samples(tmp_path)
    assert kept is not None
    assert np.array_equal(kept.samples, blank)


def test_a_shape_that_is_claimed_takes_no_memory(tmp_path: Path) -> None:
    header = io.BytesIO()
    claimed = {"descr": "|u1", "fortran_order": False, "shape": (1, 10**15, 1, 64, 64)}
    np.lib.format.write_array_header_1_0(header, claimed)
    with ZipFile(tmp_path / SAMPLES, "w") as archive:
        for name in ("shots.npy", "samples.npy"):
            archive.writestr(name, header.getvalue())
    assert kept_samples(tmp_path) is None


def test_an_array_in_the_place_of_pictures_counts_as_none(tmp_path: Path) -> None:
    with (tmp_path / SAMPLES).open("wb") as file:
        np.save(file, np.zeros(3))
    assert kept_samples(tmp_path) is None


def keep(folder: Path, width: int) -> None:
    pictures = np.full((1, 4, 1, 16, 16), width, np.uint8)
    tested = SimpleNamespace(
        adapt_steps=7,
        shots=pictures,
        samples=pictures,
        copy_thresholds=np.ones(1),
        grid=np.zeros((2, 2, 3), np.uint8),
    )
    save_champion(
        folder,
        {"pipeline": "toy", "config": {"width": width}, "plugins": []},
        {"generator": torch.full((3,), float(width))},
        tested,  # type: ignore[arg-type]
        data="toys",
        reals=pictures,
    )


def width_kept(folder: Path) -> set[float]:
    """What its files say, all of them."""
    return {
        json.loads((folder / "config.json").read_text())["config"]["width"],
        float(safetensors.torch.load_file(folder / "weights.safetensors")["generator"][0]),
        float(np.load(folder / "samples.npz")["samples"].max()),
    }


@pytest.mark.parametrize("killed_at", ["save_file", "write_text", "savez_compressed", "fsync"])
def test_a_kill_leaves_the_champion_before_whole(
    killed_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    keep(tmp_path / "champion", 8)
    owner = {"save_file": safetensors.torch, "write_text": Path, "fsync": os}
    with monkeypatch.context() as patch:
        patch.setattr(owner.get(killed_at, np), killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            keep(tmp_path / "champion", 16)
    assert width_kept(tmp_path / "champion") == {8}
    keep(tmp_path / "champion", 16)
    assert width_kept(tmp_path / "champion") == {16}
    assert [path.name for path in tmp_path.iterdir()] == ["champion"]


def test_a_kill_between_the_renames_leaves_two_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path / "champion", 8)
    rename = Path.rename

    def once(self: Path, target: Path) -> Path:
        if self.name == "champion.new":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", once)
        with pytest.raises(KeyboardInterrupt):
            keep(tmp_path / "champion", 16)
    assert width_kept(tmp_path / "champion.old") == {8}
    assert width_kept(tmp_path / "champion.new") == {16}
    keep(tmp_path / "champion", 32)
    assert width_kept(tmp_path / "champion") == {32}
    assert [path.name for path in tmp_path.iterdir()] == ["champion"]
