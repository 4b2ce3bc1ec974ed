"""Champions that never learned, for tests of what is done with one; and drawings to give them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from trainables import reptile, transfer
from trainables.configs import ReptileConfig, TransferConfig
from trainables.data_card import DataCard
from trainables.strokes import draw_alphabets, invent_characters

STEPS = 3


@cache
def drawings(size: int = 32) -> npt.NDArray[np.uint8]:
    """20 drawings each of 10 generated characters, [10, 20, size, size]; light ink on dark."""
    characters = invent_characters(0, alphabets=1)
    return np.stack(list(draw_alphabets(characters, size=size, seed=0)))


@cache
def card() -> DataCard:
    """Of these drawings."""
    pictures = drawings()[:, :, None]
    return DataCard.of("strokes", pictures[:, :4], pictures[:, 4:])


def keep_champion(folder: Path, method: str = "reptile", *, data: bool = True) -> Path:
    """Write the files of a champion -> `folder`.

    Args:
        method: "reptile", or one of transfer's.
        data: whether its card is among them, as it is of all but old ones.
    """
    rng = torch.Generator().manual_seed(0)
    config: Any
    if method == "reptile":
        config = ReptileConfig(architecture="compact", width=4, latent=8)
        gan, extra = reptile.build_gan(config), {}
    else:
        config = TransferConfig(method=method, width=4, latent=8)  # type: ignore[arg-type]
        gan, extra = transfer.build_gan(config, 3), {"means": torch.rand(3, 1, 32, 32) * 2 - 1}
    weights = {"generator": gan.generator.initial(rng), "critic": gan.critic.initial(rng), **extra}
    folder.mkdir(parents=True)
    save_file(weights, folder / "weights.safetensors")
    settings = {
        "pipeline": "reptile" if method == "reptile" else "transfer",
        "config": {name: getattr(config, name) for name in config.__dataclass_fields__},
        "adapt_steps": STEPS,
    }
    settings |= {"data": card().to_dict()} if data else {}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
