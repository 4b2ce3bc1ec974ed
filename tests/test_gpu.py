"""Training and adaptation on a GPU: `pytest -m gpu` where there is one."""

from __future__ import annotations

import math

import pytest
import torch

from trainables.configs import ARCHITECTURES, METHODS, ReptileConfig, TransferConfig
from trainables.reptile import MetaTraining, Pair, adapt
from trainables.transfer import build_gan, fine_tuning

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


def shots(tasks: int, count: int) -> torch.Tensor:
    rng = torch.Generator("cuda").manual_seed(0)
    return torch.rand(tasks, count, 1, 32, 32, generator=rng, device="cuda") * 2 - 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reptile_trains_and_adapts(architecture: str) -> None:
    config = ReptileConfig(
        architecture=architecture,  # type: ignore[arg-type]
        width=8,
        inner_steps=2,
        augment_shape=0.5,
        augment_tone=0.5,
    )
    training = MetaTraining(config, torch.Generator("cuda").manual_seed(0))
    assert all(map(math.isfinite, training.iterate(shots(2, 5))))
    rng = torch.Generator("cuda").manual_seed(1)
    start = training.scored()
    (drawn,) = adapt(training.gan, config, start, shots(2, 4), rng, stops=(2,), count=3)
    assert drawn.shape == (2, 3, 1, 32, 32)
    assert drawn.is_cuda
    assert drawn.isfinite().all()


@pytest.mark.parametrize("augmentation", ["fresh", "layer", "crop"])
@pytest.mark.parametrize("method", METHODS)
def test_transfer_fine_tunes(method: str, augmentation: str) -> None:
    config = TransferConfig(
        method=method,  # type: ignore[arg-type]
        width=8,
        augmentation=augmentation,  # type: ignore[arg-type]
        shared_strength=0.5,
    )
    gan, first = build_gan(config, 3), torch.Generator().manual_seed(0)
    start = Pair(gan.generator.initial(first).cuda(), gan.critic.initial(first).cuda())
    means, rng = torch.zeros(3, 1, 32, 32, device="cuda"), torch.Generator("cuda").manual_seed(0)
    tuning = fine_tuning(gan, config, start, means, shots(2, 4), rng)
    assert all(loss.isfinite().all() for loss in tuning.step())
    assert tuning.draw(3).is_cuda
