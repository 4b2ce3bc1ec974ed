"""The nets against plain convolutions, and the task axis against one task at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from trainables.models.compact import (
    CompactCritic,
    CompactGenerator,
    gather_patches,
    scatter_patches,
    upsample,
)
from trainables.models.dense import DenseGenerator, PlaneGenerator
from trainables.models.figr import FigrCritic, FigrGenerator
from trainables.models.network import Network

RNG = torch.Generator()


def _nets(size: int = 32, channels: int = 1) -> dict[str, tuple[Network, Network]]:
    shape = {"size": size, "channels": channels, "width": 4}
    figr = shape | {"depth": 3}
    return {
        "dense": (DenseGenerator(**shape, latent=8), CompactCritic(**shape)),
        "plane": (PlaneGenerator(**shape, latent=8), CompactCritic(**shape)),
        "compact": (CompactGenerator(**shape, latent=8), CompactCritic(**shape)),
        "dcgan": (
            FigrGenerator(**figr, latent=8, residual=False),
            FigrCritic(**figr, residual=False),
        ),
        "resnet": (
            FigrGenerator(**figr, latent=8, residual=True),
            FigrCritic(**figr, residual=True),
        ),
    }


def test_a_gather_and_a_product_are_a_convolution() -> None:
    RNG.manual_seed(0)
    x = torch.randn(2, 3, 8, 12, generator=RNG, dtype=torch.float64)
    kernel = torch.randn(5, 3, 4, 4, generator=RNG, dtype=torch.float64)
    patches = gather_patches(x.permute(0, 2, 3, 1))
    ours = patches @ kernel.permute(2, 3, 1, 0).reshape(48, 5)
    plain = F.conv2d(x, kernel, stride=2, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, plain)


def test_a_product_and_a_scatter_are_a_transposed_convolution() -> None:
    RNG.manual_seed(0)
    x = torch.randn(2, 3, 4, 6, generator=RNG, dtype=torch.float64)
    kernel = torch.randn(3, 5, 4, 4, generator=RNG, dtype=torch.float64)
    weight = kernel.permute(0, 2, 3, 1).reshape(3, 80)
    ours = scatter_patches(x.permute(0, 2, 3, 1) @ weight)
    plain = F.conv_transpose2d(x, kernel, stride=2, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, plain)


def test_upsampling_is_doubling_and_a_convolution() -> None:
    RNG.manual_seed(0)
    x = torch.randn(2, 3, 4, 6, generator=RNG, dtype=torch.float64)
    kernel = torch.randn(5, 3, 3, 3, generator=RNG, dtype=torch.float64)
    # A transposed convolution's kernel is the mirror of the convolution's.
    weight = kernel.flip(2, 3).permute(1, 2, 3, 0).reshape(1, 3, 45)
    ours = upsample(x.permute(0, 2, 3, 1), weight)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), kernel, padding=1)
    torch.testing.assert_close(ours, plain.permute(0, 2, 3, 1))


def test_an_even_plane_is_drawn_without_a_checkerboard() -> None:
    RNG.manual_seed(0)
    weight = torch.randn(1, 3, 9, generator=RNG, dtype=torch.float64)
    drawn = upsample(torch.ones(1, 4, 4, 3, dtype=torch.float64), weight)[:, 1:-1, 1:-1]
    torch.testing.assert_close(drawn, drawn[:, :1, :1].expand_as(drawn))


def test_scatter_is_the_adjoint_of_gather() -> None:
    RNG.manual_seed(0)
    x = torch.randn(2, 6, 4, 3, generator=RNG, dtype=torch.float64)
    patches = torch.randn(2, 3, 2, 48, generator=RNG, dtype=torch.float64)
    ours = (gather_patches(x) * patches).sum()
    torch.testing.assert_close(ours, (x * scatter_patches(patches)).sum())


@pytest.mark.parametrize("name", sorted(_nets()))
@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3)])
def test_shapes_and_range(name: str, size: int, channels: int) -> None:
    RNG.manual_seed(0)
    generator, critic = _nets(size, channels)[name]
    weights = torch.stack([generator.initial(RNG) for _ in range(2)])
    pictures = generator(weights, torch.randn(2, 3, 8, generator=RNG))
    assert pictures.shape == (2, 3, channels, size, size)
    assert pictures.abs().max() <= 1
    scores = critic(torch.stack([critic.initial(RNG) for _ in range(2)]), pictures)
    assert scores.shape == (2, 3)


@pytest.mark.parametrize("name", sorted(_nets()))
def test_tasks_and_pictures_do_not_mix(name: str) -> None:
    RNG.manual_seed(0)
    generator, critic = _nets(16)[name]
    for net, batch in (
        (generator, torch.randn(2, 3, 8, generator=RNG)),
        (critic, torch.randn(2, 3, 1, 16, 16, generator=RNG)),
    ):
        weights = torch.stack([net.initial(RNG) for _ in range(2)])
        together = net(weights, batch)
        alone = torch.stack([net(w[None], b[None])[0] for w, b in zip(weights, batch, strict=True)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        single = net(weights, batch[:, 1:2])
        torch.testing.assert_close(together[:, 1:2], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(_nets()))
def test_the_critic_can_be_differentiated_twice(name: str) -> None:
    RNG.manual_seed(0)
    critic = _nets(16)[name][1]
    weights = critic.initial(RNG).double()[None]
    pictures = torch.randn(1, 2, 1, 16, 16, generator=RNG, dtype=torch.float64)

    def slope(w: torch.Tensor) -> torch.Tensor:
        points = pictures.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(w, points).sum(), points, create_graph=True)
        return gradient.square().sum()

    point = weights.clone().requires_grad_()
    (analytic,) = torch.autograd.grad(slope(point), point)
    direction = torch.randn(weights.shape, generator=RNG, dtype=torch.float64)
    # A tiny step: the slope of a net of PReLUs jumps where an activation changes its sign.
    numeric = (slope(weights + 1e-9 * direction) - slope(weights - 1e-9 * direction)) / 2e-9
    torch.testing.assert_close((analytic * direction).sum(), numeric, rtol=1e-3, atol=1e-5)


def test_figr_at_the_published_size_has_the_published_number_of_weights() -> None:
    """17.9 and 18.0 million at width 64, depth 4, latent 100 on 32x32 grey pictures."""
    shape = {"size": 32, "channels": 1, "width": 64, "depth": 4, "residual": False}
    assert FigrGenerator(**shape, latent=100).size == 17_898_945
    assert FigrCritic(**shape).size == 18_040_257


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        CompactGenerator(size=28, channels=1, width=8, latent=8)
    with pytest.raises(ValueError, match="divisible"):
        FigrCritic(size=28, channels=1, width=8, depth=4, residual=False)
    generator, _ = _nets()["compact"]
    with pytest.raises(ValueError, match="weights a task"):
        generator(torch.zeros(1, 3), torch.zeros(1, 1, 8))
