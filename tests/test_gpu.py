"""Training and adaptation on a GPU: `pytest -m gpu` where there is one."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
import torch

from trainables import reptile
from trainables.configs import METHODS, ReptileConfig, TransferConfig
from trainables.cuda_step import WARM_UP, Stepper
from trainables.generators import ARCHITECTURES
from trainables.memory import is_out_of_memory, share_card
from trainables.reptile import InnerLoop, MetaTraining, Pair, adapt, initial_weights
from trainables.transfer import AdversarialSteps, build_gan, fine_tuning
from tuner.cards import probed, speed_beside
from tuner.experiments import find_experiment
from tuner.machine import Training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


def shots(tasks: int, count: int) -> torch.Tensor:
    rng = torch.Generator("cuda").manual_seed(0)
    return torch.rand(tasks, count, 1, 32, 32, generator=rng, device="cuda") * 2 - 1


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reptile_trains_and_adapts(architecture: str, fast: bool) -> None:
    config = ReptileConfig(
        architecture=architecture,  # type: ignore[arg-type]
        width=8,
        inner_steps=2,
        augment_shape=0.5,
        augment_tone=0.5,
    )
    training = MetaTraining(config, torch.Generator("cuda").manual_seed(0), fast=fast)
    for _ in range(2):
        assert all(map(math.isfinite, training.iterate(shots(2, 5))))
    rng = torch.Generator("cuda").manual_seed(1)
    start = training.scored()
    stops = (WARM_UP + 2,)
    (drawn,) = adapt(training.gan, config, start, shots(2, 4), rng, stops=stops, count=3, fast=fast)
    assert drawn.shape == (2, 3, 1, 32, 32)
    assert drawn.is_cuda
    assert drawn.isfinite().all()


def tuning_of(config: TransferConfig, *, fast: bool) -> AdversarialSteps:
    gan, first = build_gan(config, 3), torch.Generator().manual_seed(0)
    start = Pair(gan.generator.initial(first).cuda(), gan.critic.initial(first).cuda())
    means, rng = torch.zeros(3, 1, 32, 32, device="cuda"), torch.Generator("cuda").manual_seed(0)
    return fine_tuning(gan, config, start, means, shots(2, 4), rng, fast=fast)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("augmentation", ["fresh", "layer", "crop"])
@pytest.mark.parametrize("method", METHODS)
def test_transfer_fine_tunes(method: str, augmentation: str, batch: int, fast: bool) -> None:
    config = TransferConfig(
        method=method,  # type: ignore[arg-type]
        width=8,
        batch=batch,
        augmentation=augmentation,  # type: ignore[arg-type]
        shared_strength=0.5,
    )
    tuning = tuning_of(config, fast=fast)
    for _ in range(WARM_UP + 2):
        assert all(loss.isfinite().all() for loss in tuning.step())
    assert tuning.draw(3).is_cuda


# Captured steps. The same kernels run in the same order on the same random numbers, so weights are
# equal to the bit wherever the kernels are the same every time. Those of the augmentation layer are
# not: gradients through `grid_sample` are summed in any order.

STEPS = WARM_UP + 4


def loop_of(config: ReptileConfig, *, fast: bool = True, layer: bool = False) -> InnerLoop:
    gan = reptile.build_gan(config)
    first = initial_weights(gan, torch.Generator().manual_seed(0))
    start = Pair(first.generator.cuda(), first.critic.cuda())
    rng = torch.Generator("cuda").manual_seed(5)
    change = config.change if layer else reptile.NO_CHANGE
    return InnerLoop(gan, config, start, shots(2, 5), rng, change, fast=fast)


def uncaptured(loop: InnerLoop) -> InnerLoop:
    loop._stepper = Stepper(loop.rng, fast=True, capture=False)
    return loop


@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize("inner", ["adam", "sgd"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captured_steps_are_those_that_were_not(architecture: str, inner: str, layer: bool) -> None:
    config = ReptileConfig(
        architecture=architecture,  # type: ignore[arg-type]
        inner_optimizer=inner,  # type: ignore[arg-type]
        width=8,
        critic_steps=2,
        augment_shape=0.5,
    )
    captured, plain = loop_of(config, layer=layer), uncaptured(loop_of(config, layer=layer))
    for _ in range(STEPS):
        ours = torch.stack(captured.step())
        theirs = torch.stack(plain.step())
        if not layer:
            assert torch.equal(ours, theirs)
    assert captured._stepper._graph is not None
    assert torch.equal(captured.rng.get_state(), plain.rng.get_state())
    for mine, other in ((captured, plain),):
        for part in ("generator", "critic"):
            a, b = getattr(mine.weights, part), getattr(other.weights, part)
            if layer:
                torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
            else:
                assert torch.equal(a, b)


def test_replays_draw_new_random_numbers() -> None:
    loop = loop_of(ReptileConfig(width=8))
    losses = [torch.stack(loop.step()).clone() for _ in range(STEPS)]
    assert len({tuple(loss.flatten().tolist()) for loss in losses}) == STEPS


def test_a_captured_loop_that_is_begun_again_is_a_new_one() -> None:
    config = ReptileConfig(width=8, augment_tone=0.5)
    used = loop_of(config)
    for _ in range(STEPS):
        used.step()
    fresh = uncaptured(loop_of(config))
    start = Pair(used.weights.generator[0], used.weights.critic[0])
    pictures = -shots(2, 5)
    used.restart(start, pictures)
    fresh.restart(start, pictures)
    for loop in (used, fresh):
        loop.rng.manual_seed(1)
        for _ in range(STEPS):
            loop.step()
    assert torch.equal(used.weights.generator, fresh.weights.generator)
    assert torch.equal(used.weights.critic, fresh.weights.critic)


@pytest.mark.parametrize("architecture", ["plane", "resnet"])
def test_resuming_captured_training_equals_never_stopping(architecture: str) -> None:
    config = ReptileConfig(architecture=architecture, width=8, inner_steps=4, averaging=0.2)  # type: ignore[arg-type]
    rngs = [torch.Generator("cuda").manual_seed(seed) for seed in (7, 7, 99)]
    straight, stopped, resumed = (MetaTraining(config, rng, fast=True) for rng in rngs)
    for turn in range(3):
        straight.iterate(shots(4, 5) / (turn + 1))
    stopped.iterate(shots(4, 5))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    resumed.iterate(shots(4, 5))  # captures, before it is restored
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True, map_location="cpu")
    resumed.load_state_dict(state)
    for turn in (1, 2):
        resumed.iterate(shots(4, 5) / (turn + 1))
    assert torch.equal(resumed.meta.generator, straight.meta.generator)
    assert torch.equal(resumed.average.critic, straight.average.critic)


@pytest.mark.parametrize("method", METHODS)
def test_captured_fine_tuning_resumes(method: str) -> None:
    config = TransferConfig(method=method, width=8)  # type: ignore[arg-type]
    straight, resumed = (tuning_of(config, fast=True) for _ in range(2))
    for _ in range(2 * STEPS):
        straight.step()
        if straight.steps == STEPS:
            saved = io.BytesIO()
            torch.save(straight.state_dict(), saved)
    resumed.step()
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True, map_location="cpu"))
    for _ in range(STEPS):
        resumed.step()
    for name, weight in straight.average.items():
        assert torch.equal(resumed.average[name], weight)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fast_steps_learn_about_the_same(architecture: str) -> None:
    """The weights go the same way, about as far; so slowly that no step blows rounding up."""
    config = ReptileConfig(architecture=architecture, width=8, inner_lr=1e-5)  # type: ignore[arg-type]
    fast, plain = loop_of(config), loop_of(config, fast=False)
    start = plain.weights.generator
    for _ in range(STEPS):
        fast.step()
        plain.step()
    ours, theirs = (loop.weights.generator - start for loop in (fast, plain))
    assert torch.cosine_similarity(ours, theirs).min() > 0.7
    torch.testing.assert_close(ours.norm(), theirs.norm(), rtol=0.1, atol=0.0)


def test_memory_of_loops_is_given_back() -> None:
    """A loop is part of no cycle, so that it goes with its last name."""
    config = ReptileConfig(width=16)
    for turn in range(4):
        loop = loop_of(config)
        for _ in range(STEPS):
            loop.step()
        del loop
        torch.cuda.empty_cache()
        if turn == 1:
            before = torch.cuda.memory_reserved()
    assert torch.cuda.memory_reserved() <= before + 2**21


# Sharing a card.


@pytest.fixture
def whole_card() -> Iterator[None]:
    yield
    share_card(1.0)


@pytest.mark.usefixtures("whole_card")
@pytest.mark.parametrize("steps", [0, WARM_UP])
def test_a_share_that_is_too_small_is_out_of_memory_and_the_process_goes_on(steps: int) -> None:
    """In a step as well as in the capture of one."""
    config = ReptileConfig(architecture="resnet", width=32)
    loop = loop_of(config)
    for _ in range(steps):
        loop.step()
    taken = torch.cuda.memory_allocated() / torch.cuda.get_device_properties(0).total_memory
    share_card(taken + 1e-4)
    with pytest.raises(RuntimeError) as caught:
        [loop.step() for _ in range(STEPS)]
    assert is_out_of_memory(caught.value)
    del loop, caught
    share_card(1.0)
    again = loop_of(replace(config, width=8))
    for _ in range(STEPS):
        assert all(loss.isfinite().all() for loss in again.step())


@pytest.mark.timeout(600)
def test_the_probe_measures_this_card() -> None:
    card = probed(find_experiment("reptile_omniglot")("paper"), episodes=5, samples=16, fast=True)
    assert card is not None
    assert card.total == torch.cuda.get_device_properties(0).total_memory
    assert 2**26 < card.overhead < 2**32
    assert 2**30 < card.peak < card.total


@pytest.mark.timeout(600)
def test_two_trials_side_by_side_are_no_faster_than_one_alone() -> None:
    one = Training(
        pipeline="reptile",
        config=asdict(find_experiment("reptile_omniglot")("paper").base),
        classes=835,
        device="cuda",
        threads=1,
        fast=True,
    )
    alone, beside = (speed_beside(replace(one, beside=n)) for n in (1, 2))
    assert 0.2 * alone < beside < 1.2 * alone
