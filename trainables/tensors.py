"""Between pictures as bytes and as tensors: training tasks are drawn, samples are rounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def sample_drawings(
    rows: Sequence[npt.NDArray[np.int64]],
    classes: Sequence[int],
    n: int,
    rng: torch.Generator,
) -> npt.NDArray[np.int64]:
    """Draw a training task: one of `classes` uniformly, then `n` of its rows -> int64 [n].

    Rows repeat only in a class that has fewer than `n`.
    """
    chosen = rows[classes[int(torch.randint(len(classes), (), generator=rng))]]
    if len(chosen) < n:
        drawn = torch.randint(len(chosen), (n,), generator=rng)
    else:
        drawn = torch.randperm(len(chosen), generator=rng)[:n]
    picked: npt.NDArray[np.int64] = chosen[drawn.numpy()]
    return picked


def to_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """Return uint8 pictures as a new float32 tensor of the same shape, 0..255 as [-1, 1]."""
    return torch.from_numpy(np.array(images, dtype=np.float32)).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> npt.NDArray[np.uint8]:
    """Return pictures in [-1, 1] as uint8, rounded and clipped: the inverse of `to_tensor`.

    What is no number, as nets draw that diverged on some shots, is background, and scored so.
    """
    levels = images.detach().float().nan_to_num(nan=-1.0).add(1).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).cpu().numpy()
