"""The folder of a study's champion: its files' names, and how they are written and read back.

No torch until something is written, so that commands that only name it answer at once.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from trainables.durable import settle

if TYPE_CHECKING:
    from torch import Tensor

    from tuner.contenders import Tested

CHAMPION = "champion"  # folder in a study's, and alias of registered models
FILES = ("config.json", "weights.safetensors")  # a model's, also in the registry
SAMPLES = "samples.npz"  # of the test
LARGEST = 2**30  # bytes of all pictures: 20 episodes of 272 in colour, of 256 pixels a side, fit
SMALL = 2**26  # bytes that a file of any size may unfold to: blank pictures fold to a thousandth
MOST_FOLDED = 100  # times that more bytes are larger than their file

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The champion's files: test grid, weights, and config."""

    grid: Path
    weights: Path
    config: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Pictures of the test.

    Attributes:
        shots: what was adapted to, uint8 [E, K, C, S, S].
        samples: what was drawn, uint8 [E, n, C, S, S].
        copy_thresholds: of `metrics.copy_distances`, below which a sample is a copy, [E]; None of
            studies that kept none.
    """

    shots: Bytes
    samples: Bytes
    copy_thresholds: npt.NDArray[np.float64] | None


def save_champion(
    folder: Path,
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    tested: Tested,
    *,
    data: str,
    reals: Bytes,
) -> Kept:
    """Keep the champion outside of its trial's folder, where people look for it.

    Writes `FILES`, `SAMPLES` and the grid. A champion that is there is replaced when all of these
    are whole.

    Args:
        folder: of the champion.
        settings: what the config file holds beside "adapt_steps" and "data", its `DataCard`:
            "pipeline", the trial's "config", and the records of the "plugins" that it needs.
        weights: by name.
        tested: the winner on the test classes.
        data: name of the data set.
        reals: other pictures of the test's classes, uint8 [E, m, C, S, S].
    """
    import safetensors.torch

    from trainables.data_card import DataCard
    from trainables.grid import GRID, save_grid

    config, model = FILES
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # a kill left it
    new.mkdir(parents=True)
    contiguous = {name: weight.contiguous() for name, weight in weights.items()}
    safetensors.torch.save_file(contiguous, new / model)
    card = DataCard.of(data, tested.shots, reals[: len(tested.shots)]).to_dict()
    document = {**settings, "adapt_steps": tested.adapt_steps, "data": card}
    (new / config).write_text(json.dumps(document, indent=2), encoding="utf-8")
    np.savez_compressed(
        new / SAMPLES,
        shots=tested.shots,
        samples=tested.samples,
        copy_thresholds=tested.copy_thresholds,
    )
    save_grid(tested.grid, new)
    _replace(folder, new)
    return Kept(grid=folder / GRID, weights=folder / model, config=folder / config)


def kept_samples(folder: Path) -> Samples | None:
    """What a champion was tested with; None if it is gone, damaged or something else.

    Args:
        folder: of the champion.
    """
    path = folder / SAMPLES
    try:
        with ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
        if unfolded > min(LARGEST, max(SMALL, MOST_FOLDED * path.stat().st_size)):
            return None
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            shots, samples = kept["shots"], kept["samples"]
            thresholds = kept.get("copy_thresholds")
    except (OSError, ValueError, LookupError, EOFError, BadZipFile, zlib.error, MemoryError):
        return None  # no memory: for a shape that is claimed
    if shots.ndim != 5 or samples.ndim != 5 or not shots.dtype == samples.dtype == np.uint8:
        return None
    return Samples(shots=shots, samples=samples, copy_thresholds=thresholds)


def _replace(folder: Path, new: Path) -> None:
    """Put a folder of files in the place of another; whenever a kill comes, one is whole."""
    settle(*new.iterdir(), new)
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
