"""The hand-written derivatives of the critics against autograd's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from trainables.losses import gradient_penalty, slope_at, slope_penalty, wasserstein_critic
from trainables.models.chain import linear_map
from trainables.models.compact import CompactCritic
from trainables.models.figr import FigrCritic
from trainables.models.network import Network, Parameter
from trainables.models.strips import StripConvolution, gather_strips, scatter_strips
from trainables.reptile import InnerLoop, ReptileConfig, build_gan, initial_weights

SHAPE = {"size": 16, "width": 4}
SEEDS = st.integers(0, 9)


def _critics(channels: int) -> dict[str, Network]:
    shape = SHAPE | {"channels": channels}
    return {
        "dcgan": FigrCritic(**shape, depth=3, residual=False),
        "compact": CompactCritic(**shape),
        "without norm": CompactCritic(**shape, layer_norm=False),
    }


@pytest.mark.parametrize("name", sorted(_critics(1)))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("faithful", [True, False])
def test_a_penalised_loss_and_its_gradients_are_autograds(
    name: str, channels: int, tasks: int, faithful: bool
) -> None:
    critic, rng = _critics(channels)[name], torch.Generator().manual_seed(0)
    flat = torch.stack([critic.initial(rng).double() for _ in range(tasks)])
    # Away from where weights begin, so that no scale is 1 and no shift or bias 0.
    flat += 0.1 * torch.randn(flat.shape, generator=rng, dtype=torch.float64)
    weights = {name: weight.clone() for name, weight in critic.named(flat).items()}
    pictures = torch.rand(tasks, 5, channels, 16, 16, generator=rng, dtype=torch.float64) * 2 - 1
    judged, between = pictures[:, :3], pictures[:, 3:]

    def loss(scores: Tensor) -> Tensor:
        return wasserstein_critic(scores[:, :1], scores[:, 1:], faithful=faithful)

    def penalty(slope: Tensor) -> Tensor:
        return 10 * slope_penalty(slope, faithful=faithful)

    assert critic.chain is not None
    ours, gradients = critic.chain.penalised(weights, judged, between, loss, penalty)

    leaves = [weight.requires_grad_() for weight in weights.values()]
    slope = slope_at(lambda x: critic.forward(weights, x), between)
    value = loss(critic.forward(weights, judged)) + penalty(slope)
    torch.testing.assert_close(ours, value.detach(), rtol=1e-12, atol=1e-12)
    assert gradients.keys() == weights.keys()
    for weight, gradient in zip(weights, torch.autograd.grad(value.sum(), leaves), strict=True):
        torch.testing.assert_close(gradients[weight], gradient, rtol=1e-9, atol=1e-11)


@given(size=st.integers(1, 5), reach=st.integers(0, 3), seed=st.integers(0, 9))
def test_scattering_strips_is_the_adjoint_of_gathering(size: int, reach: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, size, size, 2, generator=rng, dtype=torch.float64)
    gathered = gather_strips(x, reach)
    strips = torch.randn(gathered.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close((gathered * strips).sum(), (x * scatter_strips(strips, reach)).sum())


@given(
    size=st.integers(1, 5), kernel=st.sampled_from([3, 5, 7]), tasks=st.integers(1, 2), seed=SEEDS
)
def test_a_convolution_by_strips_is_a_convolution_to_its_second_derivative(
    size: int, kernel: int, tasks: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()

    x, direction = drawn(tasks, 3, size, size, 2), drawn(tasks, 3, size, size, 2)
    weights = {"c.weight": drawn(tasks, 4, 2, kernel, kernel), "c.bias": drawn(tasks, 4)}

    def by_library(x: Tensor) -> Tensor:
        each = zip(x, *weights.values(), strict=True)
        planes = [F.conv2d(p.permute(0, 3, 1, 2), w, b, padding=kernel // 2) for p, w, b in each]
        return torch.stack(planes).permute(0, 1, 3, 4, 2)

    def by_strips(x: Tensor) -> Tensor:
        return StripConvolution("c", kernel, size).forward(weights, x)[0]

    def derivatives(convolve: Callable[[Tensor], Tensor]) -> list[Tensor]:
        y = convolve(x)
        leaves = [x, *weights.values()]
        first = torch.autograd.grad(y.tanh().sum(), leaves, create_graph=True)
        second = torch.autograd.grad((first[0] * direction).sum() + first[1].square().sum(), leaves)
        return [y, *first, *second]

    for ours, theirs in zip(derivatives(by_strips), derivatives(by_library), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_linear_map_is_differentiated_by_its_adjoint() -> None:
    matrix = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def mapped(x: Tensor) -> Tensor:
        return linear_map(x, lambda v: v @ matrix, lambda v: v @ matrix.T).square()

    point = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mapped, point)
    assert torch.autograd.gradgradcheck(mapped, point)


@pytest.mark.parametrize("order", [(), (0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_weight_is_laid_out_but_not_changed(order: tuple[int, ...]) -> None:
    weight = torch.arange(48.0).view(2, 2, 3, 4)
    laid = Parameter((2, 3, 4), order=order).laid(weight)
    assert torch.equal(laid, weight)
    innermost = (order or (0, 1, 2))[-1] + 1
    assert laid.stride(innermost) == 1
    assert laid.stride(0) == 24


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("architecture", ["plane", "dcgan", "infogan"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_step_by_hand_is_a_step_by_autograd(
    architecture: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: dict[str, Any] = {"architecture": architecture, "inner_optimizer": optimizer}
    chosen |= dict.fromkeys(("augment_place", "augment_shape", "augment_tone"), 0.0)
    config = ReptileConfig(**chosen, size=16, width=4, depth=3, latent=6)
    gan, rng = build_gan(config), torch.Generator().manual_seed(0)
    start, shots = initial_weights(gan, rng), torch.rand(2, 3, 1, 16, 16, generator=rng)

    def after_a_step() -> Tensor:
        loop = InnerLoop(gan, config, start, shots, torch.Generator().manual_seed(1))
        loop.step()
        return torch.cat([loop.weights.critic, loop.weights.generator], dim=1)

    def by_autograd(
        loop: InnerLoop, real: Tensor, fake: Tensor, between: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def scores(pictures: Tensor) -> Tensor:
            return gan.critic.forward(loop.critic, pictures)

        value = wasserstein_critic(scores(real), scores(fake), faithful=False)
        value = value + config.penalty * gradient_penalty(scores, between, faithful=False)
        leaves = list(loop.critic.values())
        gradients = torch.autograd.grad(value.sum(), leaves, materialize_grads=True)
        return value.detach(), dict(zip(loop.critic, gradients, strict=True))

    by_hand = after_a_step()
    monkeypatch.setattr(InnerLoop, "_judged", by_autograd)
    torch.testing.assert_close(by_hand, after_a_step(), rtol=1e-8, atol=1e-10)
