"""Pre-training and fine-tuning of the three transfer GANs, by hand and by property."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.configs import METHODS, TransferConfig
from trainables.gans import CONTINUOUS
from trainables.losses import logistic_critic, logistic_generator
from trainables.models.conditional import CodeCritic, LabelCritic
from trainables.reptile import Pair
from trainables.transfer import (
    AUGMENTED,
    AdversarialSteps,
    build_gan,
    cropped_copies,
    fine_tuning,
    step_flops,
)

TINY = TransferConfig(size=16, width=2, latent=4, batch=4, lr=1e-2)
LABELS = 3


def _shots(tasks: int, seed: int = 0, size: int = 16) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(tasks, 4, 1, size, size, generator=rng) * 2 - 1


def _means() -> Tensor:
    return torch.stack([torch.full((1, 16, 16), level) for level in (-1.0, 0.0, 1.0)])


def _tuning(config: TransferConfig, shots: Tensor, seed: int = 1) -> AdversarialSteps:
    gan = build_gan(config, LABELS)
    rng = torch.Generator().manual_seed(0)
    start = Pair(gan.generator.initial(rng), gan.critic.initial(rng))
    return fine_tuning(gan, config, start, _means(), shots, torch.Generator().manual_seed(seed))


def test_the_plain_losses_by_hand() -> None:
    real, fake = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, -2.0]])
    # The mean of log 2 and log(1 + e^-2), twice.
    expected = 0.6931472 + 0.1269280
    torch.testing.assert_close(logistic_critic(real, fake), torch.tensor([expected]))
    # -log D: the mean of log 2 and log(1 + e^2), which is 2 more than log(1 + e^-2).
    torch.testing.assert_close(logistic_generator(fake), torch.tensor([expected / 2 + 1]))


def test_a_label_chooses_a_direction_of_the_features() -> None:
    critic = LabelCritic(size=8, channels=1, width=2, labels=LABELS)
    weights = critic.named(critic.initial(torch.Generator().manual_seed(0))[None])
    pictures = torch.rand(1, 5, 1, 8, 8)
    features = critic.features(weights, pictures)
    for label in range(LABELS):
        one_hot = torch.nn.functional.one_hot(torch.full((1, 5), label), LABELS).float()
        direction = weights["score.weight"][0, :, 0] + weights["label.weight"][0, label]
        torch.testing.assert_close(
            critic.conditional(weights, pictures, one_hot), features @ direction
        )


def test_lost_information_by_hand() -> None:
    """Cross-entropy of the category, and half the squared error of the continuous codes."""
    gan = build_gan(replace(TINY, method="infogan"), LABELS)
    assert isinstance(gan.critic, CodeCritic)
    told = torch.tensor([[[0.0, 0.0, 0.0, 0.5, 0.0]]])
    gan.critic.recovered = lambda *_: told  # type: ignore[method-assign]
    drawn = gan.draw(torch.tensor([[0.0, 1.0, 0.0]]), 1, torch.Generator().manual_seed(0))
    assert drawn.condition is not None
    drawn.condition[..., LABELS:] = torch.tensor([0.0, 1.0])
    lost = gan.lost_information({}, told, drawn)
    # log 3, and (0.5^2 + 1^2) / 2
    torch.testing.assert_close(lost, torch.tensor([1.0986123 + 0.625]))


def test_inputs_hold_noise_and_codes() -> None:
    prior = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    widths = {"dcgan": 4, "cgan": 4 + LABELS, "infogan": 4 + LABELS + CONTINUOUS}
    for method in METHODS:
        gan = build_gan(replace(TINY, method=method), LABELS)  # type: ignore[arg-type]
        drawn = gan.draw(prior, 5, torch.Generator().manual_seed(0))
        assert drawn.latent.shape == (2, 5, widths[method])
        if drawn.condition is not None:
            assert torch.equal(drawn.latent[..., 4:], drawn.condition)
            assert (drawn.condition[0, :, 2] == 1).all()
            assert (drawn.condition[1, :, 0] == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_new_class_begins_at_the_base_class_that_its_shots_are_nearest_to(method: Any) -> None:
    light = torch.full((1, 4, 1, 16, 16), 0.9)
    prior = _tuning(replace(TINY, method=method), light).prior
    assert prior.shape == (1, LABELS)
    assert prior.sum().item() == pytest.approx(1)
    if method != "infogan":  # which asks Q
        assert prior.argmax().item() == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["wasserstein", "logistic"])
def test_resuming_equals_never_stopping(method: Any, loss: Any) -> None:
    config = replace(TINY, method=method, loss=loss, shared_strength=0.3, l2_source=0.1)
    straight, stopped, resumed = (_tuning(config, _shots(2)) for _ in range(3))
    for _ in range(3):
        straight.step()
    stopped.step()
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for _ in range(2):
        resumed.step()
    for name in ("generator", "critic", "average"):
        for key, weight in getattr(straight, name).items():
            assert torch.equal(weight, getattr(resumed, name)[key])
    assert torch.equal(straight.draw(3), resumed.draw(3))


def test_tasks_do_not_see_each_other() -> None:
    """The second task's shots change nothing in the first, draws being the same."""
    config = replace(TINY, augment_place=0.0, augment_shape=0.0, augment_tone=0.0)
    first, other = _shots(2), _shots(2)
    other[1] = -other[1]
    one, two = _tuning(config, first), _tuning(config, other)
    for _ in range(2):
        one.step()
        two.step()
    for key, weight in one.generator.items():
        assert torch.equal(weight[0], two.generator[key][0])
    assert any(not torch.equal(w[1], two.generator[k][1]) for k, w in one.generator.items())


def test_frozen_stages_stay_and_the_rest_moves() -> None:
    config = replace(TINY, frozen_critic=1, frozen_generator=1)
    tuning = _tuning(config, _shots(1))
    before = {n: w.detach().clone() for n, w in (tuning.generator | tuning.critic).items()}
    tuning.step()
    after = tuning.generator | tuning.critic
    kept = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert kept == {"down0.weight", "down0.bias", "up1.weight", "up1.bias"}


def test_l2_holds_the_nets_at_their_source() -> None:
    def away(l2: float) -> float:
        tuning = _tuning(replace(TINY, l2_source=l2), _shots(1))
        before = {n: w.detach().clone() for n, w in tuning.generator.items()}
        for _ in range(20):
            tuning.step()
        return sum(
            float((w.detach() - before[n]).square().sum()) for n, w in tuning.generator.items()
        )

    assert away(10.0) < 0.5 * away(0.0)


def test_four_pictures_become_three_hundred() -> None:
    shots = _shots(2)
    many = cropped_copies(shots, replace(TINY, augmentation="crop"), torch.Generator())
    assert many.shape == (2, AUGMENTED, 1, 16, 16)
    assert many.min() >= -1
    assert many.max() <= 1
    again = cropped_copies(shots, replace(TINY, augmentation="crop"), torch.Generator())
    assert torch.equal(many, again)
    assert len({picture.numpy().tobytes() for picture in many[0]}) > 100


def test_cropping_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    cropped_copies(_shots(1), TINY, torch.Generator())
    assert torch.equal(before, torch.random.get_rng_state())


def test_as_a_layer_augmentation_changes_what_is_drawn() -> None:
    """Nothing is left to the nets of it, so a generator of one picture draws many."""
    shots = _shots(2)
    tuning = _tuning(replace(TINY, augmentation="layer", augment_tone=1.0), shots)
    for weight in tuning.average.values():
        weight.zero_()
    drawn = tuning.draw(3)
    plain = _tuning(replace(TINY, augmentation="fresh", augment_tone=1.0), shots)
    for weight in plain.average.values():
        weight.zero_()
    assert plain.draw(3).flatten(0, 1).std(0).max() == 0
    assert (drawn.flatten(0, 1).std(0) > 0.01).any()


def test_a_layer_that_changes_nothing_is_no_layer() -> None:
    still = replace(TINY, augment_place=0.0, augment_shape=0.0, augment_tone=0.0)
    both = [_tuning(replace(still, augmentation=kind), _shots(1)) for kind in ("layer", "fresh")]  # type: ignore[arg-type]
    for tuning in both:
        tuning.step()
    assert torch.equal(both[0].draw(3), both[1].draw(3))


def test_the_generator_learns_through_its_layer() -> None:
    """A step of it lowers the loss of the same noise under the same changes."""
    config = replace(TINY, augmentation="layer", shared_strength=0.0)
    tuning = _tuning(config, _shots(1))
    state, name = tuning.rng.get_state(), "up1.weight"
    before = tuning.generator[name].detach().double()
    loss = tuning._generator_step()
    moved = tuning.generator[name].detach().double() - before
    tuning.rng.set_state(state)  # the same noise and the same changes again
    again = tuning._generator_step()
    assert again < loss
    assert moved.abs().max() > 0


def test_flops_grow_with_the_batch_and_not_with_rates() -> None:
    base = step_flops(TINY, LABELS)
    assert step_flops(replace(TINY, batch=8), LABELS) > 1.5 * base
    assert step_flops(replace(TINY, lr=1e-4, augment_tone=0.9), LABELS) == base
    assert step_flops(replace(TINY, penalty=0.0), LABELS) < base


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "vae"),
        ("augmentation", "mixup"),
        ("loss", "hinge"),
        ("beta1", 1.0),
        ("penalty", float("nan")),
        ("information", -0.1),
        ("lr", 0.0),
        ("batch", 0),
        ("augment_tone", 1.5),
        ("averaging", -0.1),
        ("l2_source", -1.0),
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must"):
        replace(TINY, **{name: value})
