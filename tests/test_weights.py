"""Weights and checkpoints from anywhere: no code runs, and only what fits the nets is taken."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from trainables import weights as module
from trainables.trainable import TrialTrainable
from trainables.weights import read_state, read_weights, require_shapes, restore


def written(path: Path, **weights: torch.Tensor) -> Path:
    save_file(weights, path)
    return path


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", a=torch.arange(3.0), b=torch.zeros(2, 2))
    weights = read_weights(path)
    require_shapes(weights, {"a": (3,), "b": (2, 2)})
    assert weights["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.tensor([1.0, float("nan")]), "'a' of w.safetensors must be finite"),
        (torch.tensor([float("inf")]), "must be finite"),
        (torch.zeros(2, dtype=torch.float64), "got torch.float64"),
        (torch.zeros(2, dtype=torch.complex64), "got torch.complex64"),
    ],
)
def test_numbers_that_no_net_of_ours_has_are_refused(
    tmp_path: Path, weight: torch.Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        read_weights(written(tmp_path / "w.safetensors", a=weight))


@pytest.mark.parametrize(
    "weights",
    [
        {"a": torch.zeros(4)},
        {"a": torch.zeros(1)},  # which PyTorch would broadcast
        {},
        {"a": torch.zeros(3), "b": torch.zeros(1)},
        {"b": torch.zeros(3)},
    ],
)
def test_other_names_and_shapes_are_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="The weights must be"):
        require_shapes(weights, {"a": (3,)})


def test_a_header_that_claims_ten_gigabytes_takes_none(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 10 * 2**30) + b"{}")
    with pytest.raises(ValueError, match="short header, got 10,737,418,240 bytes"):
        read_weights(path)


def test_a_tensor_that_claims_more_than_its_file_is_refused(tmp_path: Path) -> None:
    claim = {"a": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}
    header = json.dumps(claim).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(SafetensorError):
        read_weights(path)


def test_a_file_larger_than_any_of_ours_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "w.safetensors", a=torch.zeros(100))
    monkeypatch.setattr(module, "LARGEST", 100)
    monkeypatch.setattr(module, "load_file", lambda _path: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="at most 100 bytes"):
        read_weights(path)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.marker,)


class Taker:
    """A pipeline that takes any state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


@pytest.mark.parametrize("zipped", [False, True], ids=["a pickle", "in PyTorch's format"])
def test_a_pickle_disguised_as_a_checkpoint_never_runs(tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "state.pt"
    if zipped:
        torch.save({"rung": Trap(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"rung": Trap(marker)}))
    # Beside it, what Ray would unpickle of a checkpoint that it restores itself.
    (tmp_path / "dict_checkpoint.pkl").write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises((zipfile.BadZipFile, pickle.UnpicklingError)):
        TrialTrainable._load(Taker(), tmp_path)  # type: ignore[arg-type]
    assert not marker.exists()


def test_a_checkpoint_that_unfolds_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    assert read_state(tmp_path / "plain.pt")["weight"].shape == (1_000_000,)
    bomb = tmp_path / "state.pt"
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(ValueError, match="must not unfold to 4,0"):
        read_state(bomb)


def test_a_checkpoint_of_another_shape_is_not_spread_over_a_weight() -> None:
    weight = torch.zeros(3)
    restore(weight, torch.ones(3))
    assert weight.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"must be \(3,\), got \(1,\)"):
        restore(weight, torch.zeros(1))
