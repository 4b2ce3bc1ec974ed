"""Algorithms 1 and 2: hand calculation, independence of tasks, exact resuming."""

from __future__ import annotations

import io
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainables import reptile
from trainables.change import NO_CHANGE, Change
from trainables.configs import ReptileConfig
from trainables.generators import ARCHITECTURES
from trainables.reptile import (
    InnerLoop,
    MetaTraining,
    Pair,
    adapt,
    build_gan,
    initial_weights,
    meta_iteration_flops,
    reptile_gradient,
    reptile_update,
    step_flops,
)

TINY = ReptileConfig(
    size=16, width=2, depth=2, latent=4, inner_steps=2, train_shots=3, meta_batch=1
)


def _shots(tasks: int, count: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(tasks, count, 1, 16, 16, generator=rng) * 2 - 1


def test_update_matches_hand_calculation() -> None:
    start, adapted = torch.tensor([0.0, 2.0]), torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # mean [2, 4]
    torch.testing.assert_close(reptile_update(start, adapted, step=0.5), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(reptile_gradient(start, adapted), torch.tensor([-2.0, -2.0]))


weights = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3)


@given(start=weights, tasks=st.lists(weights, min_size=1, max_size=4), step=st.floats(0.01, 1))
def test_update_never_overshoots_the_mean(
    start: list[float], tasks: list[list[float]], step: float
) -> None:
    begun, adapted = torch.tensor(start), torch.tensor(tasks)
    new = reptile_update(begun, adapted, step=step)
    assert ((new - begun).abs() <= (adapted.mean(0) - begun).abs() + 1e-3).all()


def test_outer_adam_steps_towards_the_adapted_weights() -> None:
    """Adam's first step is the learning rate along the sign of Phi - W."""
    config = replace(TINY, outer_optimizer="adam", outer_step=1e-3, inner_optimizer="sgd")
    training = MetaTraining(config, torch.Generator().manual_seed(0))
    before = training.meta.clone()
    adapted = Pair(before.generator[None] + 1.0, before.critic[None] - 1.0)
    training._move(adapted)
    moved = training.meta.generator - before.generator
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-3, atol=1e-7)
    moved = training.meta.critic - before.critic
    torch.testing.assert_close(moved, torch.full_like(moved, -1e-3), rtol=1e-3, atol=1e-7)


def test_interpolation_of_one_lands_on_the_adapted_weights() -> None:
    config = replace(TINY, outer_step=1.0)
    training = MetaTraining(config, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    loop = InnerLoop(training.gan, config, training.meta, _shots(1, 3), rng)
    for _ in range(config.inner_steps):
        loop.step()
    training.iterate(_shots(1, 3))
    torch.testing.assert_close(training.meta.generator, loop.weights.generator[0])
    torch.testing.assert_close(training.meta.critic, loop.weights.critic[0])


def test_one_sgd_step_of_the_generator_matches_its_gradient() -> None:
    config = replace(TINY, inner_optimizer="sgd", inner_lr=0.5)
    gan, rng = build_gan(config), torch.Generator().manual_seed(3)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    loop = InnerLoop(gan, config, start, _shots(1, 3), rng)
    loop._critic_step()
    state = rng.get_state()
    loop._generator_step()
    rng.set_state(state)
    point = start.generator[None].clone().requires_grad_()
    noise = torch.randn(1, 3, config.latent, generator=rng)
    score = -gan.critic(loop.weights.critic, gan.generator(point, noise)).mean()
    (gradient,) = torch.autograd.grad(score, point)
    torch.testing.assert_close(loop.weights.generator, (point - 0.5 * gradient).detach())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("part", ["generator", "critic"])
def test_adams_first_step_goes_against_the_sign_of_each_gradient(
    architecture: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With betas (0, .9) it is lr * g / |g| for every single weight, whatever g's strides are."""
    config = replace(TINY, architecture=architecture, inner_lr=1e-3)
    gan, rng = build_gan(config), torch.Generator().manual_seed(3)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    loop = InnerLoop(gan, config, start, _shots(2, 3), rng)
    before = {name: w.detach().clone() for name, w in getattr(loop, part).items()}
    seen: list[Tensor] = []
    laid_like = reptile._laid_like

    def watched(weight: Tensor, gradient: Tensor) -> Tensor:
        seen.append(gradient)
        return laid_like(weight, gradient)

    monkeypatch.setattr(reptile, "_laid_like", watched)
    getattr(loop, f"_{part}_step")()
    for (name, weight), gradient in zip(getattr(loop, part).items(), seen, strict=True):
        clear = gradient.abs() > 1e-4  # elsewhere Adam's epsilon counts
        moved = (weight.detach() - before[name])[clear]
        expected = -1e-3 * gradient[clear].sign()
        torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-6)


def test_the_inner_loop_leaves_the_meta_weights_alone() -> None:
    gan = build_gan(TINY)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    before = start.clone()
    loop = InnerLoop(gan, TINY, start, _shots(2, 3), torch.Generator().manual_seed(0))
    loop.step()
    torch.testing.assert_close(start.generator, before.generator, rtol=0, atol=0)
    assert not torch.equal(loop.weights.generator[0].detach(), start.generator)


@pytest.mark.parametrize("inner", ["adam", "sgd"])
def test_tasks_that_share_a_loop_do_not_touch_each_other(inner: str) -> None:
    """Another second task must leave the first one's weights as they were, to the bit."""
    config = replace(TINY, inner_optimizer=inner)
    gan = build_gan(config)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    ends = []
    for seed in (1, 2):
        shots = torch.cat([_shots(1, 3, seed=0), _shots(1, 3, seed=seed)])
        loop = InnerLoop(gan, config, start, shots, torch.Generator().manual_seed(0))
        for _ in range(3):
            loop.step()
        ends.append(loop.weights.generator)
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize("mode", ["corrected", "faithful"])
@pytest.mark.parametrize("outer", ["interpolation", "adam"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resuming_equals_never_stopping(architecture: str, outer: str, mode: str) -> None:
    config = replace(
        TINY,
        architecture=architecture,
        mode=mode,
        outer_optimizer=outer,
        outer_step=0.5 if outer == "interpolation" else 1e-3,
        averaging=0.2,
        augment_place=0.5,
        augment_shape=0.5,
        augment_tone=0.5,
        meta_batch=2,
    )
    straight, stopped = (MetaTraining(config, torch.Generator().manual_seed(7)) for _ in range(2))
    for turn in range(2):
        straight.iterate(_shots(2, 3, seed=turn))
    stopped.iterate(_shots(2, 3, seed=0))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    resumed = MetaTraining(config, torch.Generator().manual_seed(99))
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    resumed.iterate(_shots(2, 3, seed=1))
    for ours, theirs in ((resumed.meta, straight.meta), (resumed.average, straight.average)):
        assert torch.equal(ours.generator, theirs.generator)
        assert torch.equal(ours.critic, theirs.critic)


def test_checkpoints_hold_no_state_of_an_optimizer_that_is_not_used() -> None:
    def size(outer: str) -> int:
        config = replace(TINY, outer_optimizer=outer, outer_step=1e-3)  # type: ignore[arg-type]
        file = io.BytesIO()
        torch.save(MetaTraining(config, torch.Generator().manual_seed(0)).state_dict(), file)
        return len(file.getvalue())

    # Weights and their average, and with Adam two moments beside.
    assert size("adam") > 1.6 * size("interpolation")


def test_averaging_weighs_the_newest_share() -> None:
    """With share s, iterate t weighs (1 - 1/t) ** (1/s) less each turn: by hand for s = 1/2."""
    training = MetaTraining(replace(TINY, averaging=0.5), torch.Generator().manual_seed(0))
    average = 0.0
    for turn, value in enumerate((1.0, 2.0, 6.0), start=1):
        training.meta.generator.fill_(value)
        training.iterations = turn
        training._average()
        keep = (1 - 1 / turn) ** 2
        average = keep * average + (1 - keep) * value
    # keeps 0, 1/4, 4/9: 1 -> 1/4 + 3/4 * 2 = 7/4 -> 4/9 * 7/4 + 5/9 * 6 = 37/9
    assert average == pytest.approx(37 / 9)
    torch.testing.assert_close(
        training.scored().generator, torch.full_like(training.meta.generator, 37 / 9)
    )


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_generator_that_draws_is_an_average_of_the_loop(share: float) -> None:
    """Of its newest steps: with share 1/2, 1, 3/4 and 5/9 of the newest at steps 1, 2 and 3."""
    config = replace(TINY, adapt_averaging=share, adapt_lr_ratio=1.0)
    gan = build_gan(config)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    shots = _shots(2, 4)
    rng = torch.Generator().manual_seed(5)
    loop = InnerLoop(gan, config, start, shots, rng)
    weights: dict[str, torch.Tensor] = {}
    for newest in (1.0, 3 / 4, 5 / 9) if share else (1.0, 1.0, 1.0):
        loop.step()
        for name, value in loop.generator.items():
            before = weights.get(name, torch.zeros(()))
            weights[name] = (1 - newest) * before + newest * value.detach()
    with torch.no_grad():
        expected = gan.generator.forward(
            weights, gan.draw(gan.uniform(2, rng.device), 6, rng).latent
        )
    again = torch.Generator().manual_seed(5)
    (drawn,) = adapt(gan, config, start, shots, again, stops=(3,), count=6)
    torch.testing.assert_close(drawn, expected)


def test_adaptation_yields_a_batch_at_every_stop_and_repeats_itself() -> None:
    gan = build_gan(TINY)
    start = initial_weights(gan, torch.Generator().manual_seed(0))

    def run() -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(5)
        return list(adapt(gan, TINY, start, _shots(2, 4), rng, stops=(1, 3), count=6))

    first, again = run(), run()
    assert [batch.shape for batch in first] == [(2, 6, 1, 16, 16)] * 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_as_a_layer_augmentation_changes_what_is_drawn() -> None:
    """Nothing is left to the nets of it, so a generator of one picture draws many."""
    gan, shots = build_gan(TINY), _shots(2, 3)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    start.generator.zero_()
    still, changing = (
        InnerLoop(gan, TINY, start, shots, torch.Generator().manual_seed(1), layer).draw(5)
        for layer in (NO_CHANGE, Change(tone=1.0, brightness=1.0))
    )
    assert still.flatten(0, 1).std(0).max() == 0
    assert (changing.flatten(0, 1).std(0) > 0.01).any()


def test_the_layer_is_of_adaptation_alone() -> None:
    drawn, trained = [], []
    for kind in ("fresh", "layer"):
        config = replace(TINY, adapt_augmentation=kind)  # type: ignore[arg-type]
        training = MetaTraining(config, torch.Generator().manual_seed(0))
        training.iterate(_shots(1, 3))
        trained.append(training.meta.generator)
        rng = torch.Generator().manual_seed(1)
        both = adapt(training.gan, config, training.meta, _shots(1, 4), rng, stops=[1], count=2)
        drawn.append(next(both))
    assert torch.equal(*trained)
    assert not torch.equal(*drawn)


def test_the_generator_learns_through_its_layer() -> None:
    """One that moves everything out of the picture leaves it nothing to learn."""
    gan, shots = build_gan(TINY), _shots(1, 3)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    moved = []
    for layer in (NO_CHANGE, Change(place=1e4)):
        loop = InnerLoop(gan, TINY, start, shots, torch.Generator().manual_seed(1), layer)
        loop.step()
        after = loop.weights
        moved.append(float((after.generator - start.generator).abs().max()))
        assert (after.critic - start.critic).abs().max() > 0
    assert moved[0] > 0
    assert moved[1] == 0


def test_flops_are_those_of_the_updates() -> None:
    step = step_flops(TINY, 3)
    assert meta_iteration_flops(TINY) == step * TINY.inner_steps
    assert meta_iteration_flops(replace(TINY, inner_steps=4)) == 2 * meta_iteration_flops(TINY)
    assert meta_iteration_flops(replace(TINY, meta_batch=3)) == 3 * meta_iteration_flops(TINY)
    # Learning rates and augmentation change no matrix product.
    assert meta_iteration_flops(replace(TINY, inner_lr=0.1, augment_tone=1.0)) == (
        meta_iteration_flops(TINY)
    )
    # Twice the pictures are twice the products.
    assert step_flops(TINY, 6) == pytest.approx(2 * step)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inner_lr", 0.0),
        ("inner_lr", float("nan")),
        ("inner_steps", 0),
        ("outer_step", 1.5),
        ("averaging", 1.0),
        ("augment_place", -0.1),
        ("architecture", "vgg"),
        ("adapt_augmentation", "mixup"),
        ("penalty", float("inf")),
    ],
)
def test_nonsense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        ReptileConfig(**{**asdict(ReptileConfig()), field: value})
