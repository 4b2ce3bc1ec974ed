"""Augmentation: what it must leave alone, and that it can be learned through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainables.augment import augment


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_bar(size: int = 32) -> Tensor:
    images = torch.full((1, 1, size, size), -1.0)
    images[:, :, 8:24, 14:18] = 0.6
    return images


def test_strength_0_is_the_identity_and_draws_nothing():
    generator, images = seeded(), torch.rand(3, 1, 8, 8)
    before = generator.get_state()
    assert augment(images, 0.0, generator) is images
    assert torch.equal(generator.get_state(), before)


@given(strength=st.floats(0.01, 1), seed=st.integers(0, 99), value=st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_values_stay_in_range_and_the_background_stays_background(strength, seed, value):
    blank = torch.full((2, 1, 16, 16), -1.0)
    assert torch.equal(augment(blank, strength, seeded(seed)), blank)
    even = augment(torch.full((2, 1, 16, 16), value), strength, seeded(seed))
    assert even.min() >= -1
    assert even.max() <= 1


def test_one_seed_is_one_result_and_every_picture_gets_its_own():
    images = a_bar().expand(4, -1, -1, -1)
    once, again, other = (augment(images, 1.0, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once[0], once[1])


def test_more_strength_changes_more():
    images = a_bar().expand(64, -1, -1, -1)
    weak, middling, strong = (
        (augment(images, s, seeded()) - images).square().mean() for s in (0.1, 0.4, 1.0)
    )
    assert weak < middling < strong


def test_the_centre_of_the_ink_moves_by_a_tenth_of_a_side_at_most():
    images = a_bar().expand(256, -1, -1, -1)
    ink = augment(images, 1.0, seeded()) + 1
    places = torch.arange(32.0) - 15.5
    columns = (ink.sum(2) * places).sum((1, 2)) / ink.sum((1, 2, 3))
    assert 2.5 < columns.abs().max() <= 3.3  # 3.2 px, and a little for bilinear reading


def test_gradients_flow_to_the_pictures():
    images = a_bar().requires_grad_()
    augment(images, 0.5, seeded()).sum().backward()
    assert images.grad is not None
    assert images.grad[:, :, 10:20, 14:18].min() > 0


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_a_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(ValueError, match="`strength` must be in"):
        augment(a_bar(), strength, seeded())
