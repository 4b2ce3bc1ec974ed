"""The count of operations, against hand-computed values and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.configs import ReptileConfig
from trainables.flops import counted_flops
from trainables.generators import ARCHITECTURES
from trainables.reptile import InnerLoop, build_gan, initial_weights


def test_a_product_is_counted_forward_and_backward() -> None:
    a, b = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    assert counted_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert counted_flops(lambda: (a @ b).sum().backward()) == 3 * 2 * 3 * 5 * 7


@pytest.mark.parametrize("mode", ["corrected", "faithful"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_counts_as_by_torch(architecture: str, mode: str) -> None:
    config = ReptileConfig(
        architecture=architecture,
        mode=mode,  # type: ignore[arg-type]
        size=16,
        width=4,
        depth=2,
        latent=8,
        augment_shape=0.5,
    )
    gan, rng = build_gan(config), torch.Generator().manual_seed(0)
    shots = torch.zeros(2, 3, 1, 16, 16)
    loop = InnerLoop(gan, config, initial_weights(gan, rng), shots, rng)
    with FlopCounterMode(display=False) as counter:
        loop.step()
    assert counted_flops(loop.step) == counter.get_total_flops() > 0
