"""Our faithful mode against a plain implementation of the same algorithm."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from figr_reference import FigrReference
from torch import Tensor, nn

from trainables.configs import ReptileConfig
from trainables.models.network import Network
from trainables.reptile import MetaTraining

FAITHFUL = ReptileConfig(
    mode="faithful",
    architecture="dcgan",
    latent=100,
    inner_optimizer="sgd",
    inner_lr=1e-3,
    train_shots=4,
    outer_optimizer="adam",
    outer_step=1e-4,
    meta_batch=1,
    averaging=0.0,
    augment_place=0.0,
    augment_shape=0.0,
    augment_tone=0.0,
)


def in_our_order(net: nn.Module) -> Iterator[Tensor]:
    """The weights of a reference net as ours lists them: a slope before the norm."""
    layers = [layer for layer in net.modules() if not list(layer.children())]
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.LayerNorm) and isinstance(layers[index + 1], nn.PReLU):
            layers[index : index + 2] = [layers[index + 1], layer]
    return (weight for layer in layers for weight in layer.parameters())


def flat(net: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in in_our_order(net)])


@torch.no_grad()
def begin_alike(net: nn.Module, ours: Network, weights: Tensor) -> None:
    own = list(in_our_order(net))
    for weight, piece in zip(own, ours.named(weights[None]).values(), strict=True):
        weight.copy_(piece[0])


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("width", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_losses_and_weights_are_those_of_the_plain_algorithm(width: int) -> None:
    config = replace(FAITHFUL, width=width)
    ours = MetaTraining(config, torch.Generator().manual_seed(1))
    plain = FigrReference(width, config.inner_steps, torch.Generator().manual_seed(1))
    begin_alike(plain.generator, ours.gan.generator, ours.meta.generator)
    begin_alike(plain.critic, ours.gan.critic, ours.meta.critic)
    rng = torch.Generator().manual_seed(2)
    for _ in range(5):
        real = torch.rand(config.train_shots, 1, 32, 32, generator=rng) * 2 - 1
        assert ours.iterate(real[None]) == pytest.approx(plain.iterate(real), rel=1e-9)
    torch.testing.assert_close(ours.meta.generator, flat(plain.generator), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.meta.critic, flat(plain.critic), rtol=1e-9, atol=1e-12)
