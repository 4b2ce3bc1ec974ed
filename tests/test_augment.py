"""Augmentation: what it must leave alone, and that it can be learned through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainables.augment import augment
from trainables.change import STRONG, Change


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_bar(size: int = 32) -> Tensor:
    images = torch.full((1, 1, size, size), -1.0)
    images[:, :, 8:24, 14:18] = 0.6
    return images


def test_no_change_is_the_identity_and_draws_nothing():
    generator, images = seeded(), torch.rand(3, 1, 8, 8)
    before = generator.get_state()
    assert augment(images, Change(), generator) is images
    assert torch.equal(generator.get_state(), before)


def test_smooth_changes_drawn_at_strength_0_leave_a_picture_as_it_is():
    images = torch.rand(3, 1, 16, 16, generator=seeded()) * 2 - 1
    changed = augment(images, Change(place=1e-7), seeded())
    torch.testing.assert_close(changed, images, atol=1e-4, rtol=0)
    changed = augment(images, Change(shape=1e-7), seeded())
    torch.testing.assert_close(changed, images, atol=1e-4, rtol=0)
    changed = augment(images, Change(tone=1e-7), seeded())
    torch.testing.assert_close(changed, images.clamp(min=-1 + 2e-4), atol=2e-4, rtol=0)


strengths = st.floats(0.01, 1)


@given(place=strengths, shape=strengths, tone=strengths, value=st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_values_stay_in_range_and_the_background_stays_background(place, shape, tone, value):
    change = Change.searched(place, shape, tone)
    blank = torch.full((2, 1, 16, 16), -1.0)
    assert torch.equal(augment(blank, change, seeded()), blank)
    even = augment(torch.full((2, 1, 16, 16), value), change, seeded())
    assert even.min() >= -1
    assert even.max() <= 1


@pytest.mark.parametrize("change", [STRONG, Change(shape=1), Change(tone=1)])
def test_one_seed_is_one_result_and_every_picture_gets_its_own(change):
    images = a_bar().expand(4, -1, -1, -1)
    once, again, other = (augment(images, change, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once[0], once[1])


@pytest.mark.parametrize("kind", ["place", "scale", "brightness", "shape", "tone"])
def test_more_strength_changes_more(kind):
    images = a_bar().expand(64, -1, -1, -1)
    weak, middling, strong = (
        (augment(images, Change(**{kind: s}), seeded()) - images).square().mean()
        for s in (0.1, 0.4, 1.0)
    )
    assert weak < middling < strong


def test_the_centre_of_the_ink_moves_by_a_tenth_of_a_side_at_most():
    images = a_bar().expand(256, -1, -1, -1)
    ink = augment(images, STRONG, seeded()) + 1
    places = torch.arange(32.0) - 15.5
    columns = (ink.sum(2) * places).sum((1, 2)) / ink.sum((1, 2, 3))
    assert 2.5 < columns.abs().max() <= 3.3  # 3.2 px, and a little for bilinear reading


@given(ink=st.floats(1e-4, 0.02))
def test_tones_near_the_background_have_no_jump_and_a_gradient(ink):
    images = torch.full((64, 1, 8, 8), ink - 1, requires_grad=True)
    changed = augment(images, Change(tone=1), seeded())
    near = augment(images.detach() + 1e-5, Change(tone=1), seeded())
    assert (near - changed).abs().max() < 1e-5 * 255
    changed.sum().backward()
    assert (images.grad.sum((1, 2, 3)) > 0).all()


def test_a_tone_moves_nothing_and_a_shape_keeps_the_tone():
    images = a_bar().expand(64, -1, -1, -1)
    toned = augment(images, Change(tone=0.5), seeded())
    torch.testing.assert_close(toned > -1 + 1e-3, images > -1 + 1e-3)
    shaped = augment(images, Change(shape=1), seeded())
    assert shaped.max() <= 0.6 + 0.25 * 1.6  # cubics overshoot at edges
    assert (shaped.amax((1, 2, 3)) > 0.5).all()


def test_what_is_moved_stays_sharp():
    """Lines of a pixel keep most of their energy; bilinear sampling takes nearly half of it."""
    images = torch.full((64, 1, 32, 32), -1.0)
    images[:, :, 4:28, ::4] = 1.0
    moved = augment(images, Change(place=0.3), seeded())[:, :, 8:24, 8:24]
    kept = (moved + 1).var((2, 3)).mean() / (images[:, :, 8:24, 8:24] + 1).var((2, 3)).mean()
    assert kept > 0.65


def test_stretching_keeps_the_area():
    """Height by exp(u), width by exp(-u): the determinant of stretch and shear is 1."""
    images = a_bar().expand(256, -1, -1, -1)
    areas = (augment(images, Change(shape=1), seeded()) + 1).sum((1, 2, 3))
    assert areas.mean().item() == pytest.approx((images[0] + 1).sum().item(), rel=0.1)


def test_gradients_flow_to_the_pictures():
    images = a_bar().requires_grad_()
    augment(images, Change.searched(0.5, 0.5, 0.2), seeded()).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad[:, :, 10:20, 14:18].min() > 0


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match="no strength may be negative"):
        Change(place=-0.1)
