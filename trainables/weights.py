"""Weights and checkpoints that may come from anywhere: read without running code, and checked."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

LARGEST = 2**30  # bytes of a file; the largest nets that are searched have a tenth of it
LARGEST_HEADER = 2**20  # bytes that name the tensors; ours have a few thousand
DTYPES = (torch.float32, torch.int64)  # the latter count batches


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name; all of them finite.

    Raises:
        OSError: there is no such file.
        ValueError: it is larger than any of ours, or holds other types or numbers that are not
            finite.
        SafetensorError: it is damaged.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path.name} must have at most {LARGEST:,} bytes, got {size:,}")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > LARGEST_HEADER:
        raise ValueError(f"{path.name} must begin with a short header, got {header:,} bytes")
    weights = load_file(path)
    for name, weight in weights.items():
        if weight.dtype not in DTYPES:
            raise ValueError(f"{name!r} of {path.name} must be of {DTYPES}, got {weight.dtype}")
        if not weight.isfinite().all():
            raise ValueError(f"{name!r} of {path.name} must be finite")
    return weights


def require_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that weights are those of a net.

    Args:
        weights: by name.
        shapes: of those that there must be, and no others.
    Raises:
        ValueError: they belong to another net.
    """
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    if got != dict(shapes):
        raise ValueError(f"The weights must be {dict(shapes)} for this config, got {got}.")


def read_state(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote of tensors and plain data, on the CPU.

    Raises:
        OSError: there is no such file.
        ValueError: it would unfold to more than its size, which nothing that PyTorch writes does.
        BadZipFile: it is another format, such as a pickle.
        UnpicklingError: it holds more than tensors and plain data.
    """
    with zipfile.ZipFile(path) as archive:
        unfolded = sum(entry.file_size for entry in archive.infolist())
    if unfolded > (size := path.stat().st_size):
        raise ValueError(f"{path.name} of {size:,} bytes must not unfold to {unfolded:,}")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def restore(weight: Tensor, saved: Tensor) -> None:
    """Copy saved numbers into a weight, which must be of their shape: PyTorch would broadcast.

    Raises:
        ValueError: they are of another shape.
    """
    if weight.shape != saved.shape:
        raise ValueError(f"A weight must be {tuple(weight.shape)}, got {tuple(saved.shape)}.")
    weight.copy_(saved)
