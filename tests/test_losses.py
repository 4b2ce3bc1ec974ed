"""Losses and penalty against hand calculation and finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainables.losses import (
    gradient_penalty,
    interpolate,
    wasserstein_critic,
    wasserstein_generator,
)

REAL = torch.tensor([[1.0, 3.0], [0.0, 0.0]])  # two tasks; means 2 and 0
FAKE = torch.tensor([[5.0, 7.0], [1.0, 2.0]])  # means 6 and 1.5


@pytest.mark.parametrize(
    ("faithful", "expected"),
    [
        (False, [6.0 - 2.0, 1.5 - 0.0]),
        # Targets +1 for real and -1 for fake, mean over the 4 scores: (1 + 3 - 5 - 7) / 4.
        (True, [-8 / 4, -3 / 4]),
    ],
)
def test_critic_loss_matches_hand_calculation(faithful: bool, expected: list[float]) -> None:
    loss = wasserstein_critic(REAL, FAKE, faithful=faithful)
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize(("faithful", "expected"), [(False, [-6.0, -1.5]), (True, [6.0, 1.5])])
def test_generator_loss_matches_hand_calculation(faithful: bool, expected: list[float]) -> None:
    loss = wasserstein_generator(FAKE, faithful=faithful)
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_the_generator_is_rewarded_by_what_the_critic_takes_for_real() -> None:
    for faithful in (False, True):
        real_like, fake_like = torch.tensor([[1.0]]), torch.tensor([[-1.0]])
        # Scores that lower the critic's loss when given to real pictures.
        better = min(
            (real_like, fake_like),
            key=lambda s: wasserstein_critic(s, -s, faithful=faithful).item(),
        )
        assert (
            wasserstein_generator(better, faithful=faithful)
            < wasserstein_generator(-better, faithful=faithful)
        ).all()


@pytest.mark.parametrize(
    ("faithful", "expected"),
    [
        # One picture of 2 channels and 2 pixels; slope 3 and 4 at pixel 0, 0 elsewhere.
        (False, (5.0 - 1) ** 2),
        # Norm over channels at each pixel: 5 and 0 -> mean of (5 - 1)^2 and (0 - 1)^2.
        (True, (16.0 + 1.0) / 2),
    ],
)
def test_penalty_of_a_linear_critic_matches_hand_calculation(
    faithful: bool, expected: float
) -> None:
    slope = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).view(2, 1, 2)

    def critic(x: Tensor) -> Tensor:
        return (x * slope).sum((2, 3, 4))

    penalty = gradient_penalty(critic, torch.randn(1, 1, 2, 1, 2), faithful=faithful)
    torch.testing.assert_close(penalty, torch.tensor([expected]))


@pytest.mark.parametrize("faithful", [False, True])
def test_penalty_gradient_matches_finite_differences(faithful: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    pictures = torch.randn(1, 3, 1, 2, 2, generator=rng, dtype=torch.float64)

    def penalty(weight: Tensor) -> Tensor:
        def critic(x: Tensor) -> Tensor:
            return torch.tanh(x.flatten(2) @ weight).sum(-1)

        return gradient_penalty(critic, pictures, faithful=faithful).sum()

    weight = torch.randn(4, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, (weight,))


def test_penalty_is_differentiable_where_the_slope_is_zero() -> None:
    weight = torch.zeros(4, 1, requires_grad=True)
    penalty = gradient_penalty(
        lambda x: (x.flatten(2) @ weight).squeeze(-1), torch.ones(1, 2, 1, 2, 2), faithful=False
    )
    (gradient,) = torch.autograd.grad(penalty.sum(), weight)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(penalty, torch.tensor([1.0]))


@given(seed=st.integers(0, 1000))
def test_interpolates_lie_between_their_ends(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    real = torch.randn(2, 3, 1, 4, 4, generator=rng)
    fake = torch.randn(2, 3, 1, 4, 4, generator=rng)
    between = interpolate(real, fake, rng)
    low, high = torch.minimum(real, fake), torch.maximum(real, fake)
    assert ((between >= low - 1e-5) & (between <= high + 1e-5)).all()
    # One share a picture: the same at every pixel.
    share = (between - real) / (fake - real)
    assert share.flatten(2).std(-1).max() < 1e-2


def test_interpolation_refuses_batches_that_differ() -> None:
    with pytest.raises(ValueError, match="one shape"):
        interpolate(torch.zeros(1, 2, 1, 4, 4), torch.zeros(1, 3, 1, 4, 4), torch.Generator())
