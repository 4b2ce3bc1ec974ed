"""Quick steps, as far as they go without a GPU: static memory, warm-up, low precision."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainables import cuda_step
from trainables.change import NO_CHANGE
from trainables.configs import ReptileConfig, TransferConfig
from trainables.cuda_step import WARM_UP, Stepper, arithmetic, low_precision
from trainables.generators import ARCHITECTURES
from trainables.reptile import (
    InnerLoop,
    MetaTraining,
    Pair,
    build_gan,
    initial_weights,
)
from trainables.transfer import build_gan as build_transfer
from trainables.transfer import fine_tuning

TINY = ReptileConfig(
    size=16, width=2, depth=2, latent=4, inner_steps=2, train_shots=3, meta_batch=2
)


def _shots(seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 1, 16, 16, generator=rng) * 2 - 1


@pytest.mark.parametrize("inner", ["adam", "sgd"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loop_in_used_memory_is_a_new_loop(architecture: Any, inner: Any) -> None:
    """What a captured step relies on: all that a step reads is put back in place, to the bit."""
    config = replace(TINY, architecture=architecture, inner_optimizer=inner, augment_shape=0.5)
    gan = build_gan(config)
    starts = [initial_weights(gan, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    rngs = [torch.Generator().manual_seed(9) for _ in range(2)]
    used = InnerLoop(gan, config, starts[0], _shots(0), rngs[0])
    places = [w.data_ptr() for w in (*used.generator.values(), *used.critic.values(), used.shots)]
    for _ in range(3):
        used.step()
    rngs[0].manual_seed(9)
    used.restart(starts[1], _shots(1))
    fresh = InnerLoop(gan, config, starts[1], _shots(1), rngs[1])
    for _ in range(3):
        for ours, theirs in zip(used.step(), fresh.step(), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(used.weights.generator, fresh.weights.generator)
    assert torch.equal(used.weights.critic, fresh.weights.critic)
    after = [w.data_ptr() for w in (*used.generator.values(), *used.critic.values(), used.shots)]
    assert after == places


def test_iterations_share_memory_and_change_nothing_that_they_were_given() -> None:
    shared, apart = (MetaTraining(TINY, torch.Generator().manual_seed(0)) for _ in range(2))
    given = [_shots(turn) for turn in range(3)]
    for shots in given:
        assert shared.iterate(shots) == apart.iterate(shots.clone())
        apart.rest()  # the next one begins in new memory
    assert torch.equal(shared.meta.generator, apart.meta.generator)
    assert all(torch.equal(shots, _shots(turn)) for turn, shots in enumerate(given))


class _Watch(TorchDispatchMode):
    """Notes what no captured step may do: look at a number, or bring one from the host."""

    FORBIDDEN = ("_local_scalar_dense", "lift_fresh", "nonzero", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.FORBIDDEN:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} - {"infogan"}))
def test_a_step_of_the_loop_looks_at_no_number(architecture: Any, layer: bool) -> None:
    config = replace(TINY, architecture=architecture, augment_shape=0.5, augment_tone=0.5)
    gan = build_gan(config)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    change = config.change if layer else NO_CHANGE
    loop = InnerLoop(gan, config, start, _shots(0), torch.Generator(), change, fast=True)
    for _ in range(WARM_UP):
        loop.step()
    with _Watch() as watch:
        loop.step()
    assert watch.seen == set()


@pytest.mark.parametrize("augmentation", ["fresh", "layer", "crop"])
@pytest.mark.parametrize("loss", ["wasserstein", "logistic"])
def test_a_step_of_fine_tuning_looks_at_no_number(augmentation: Any, loss: Any) -> None:
    """But for CGAN and InfoGAN, whose `one_hot` looks at numbers on CPUs alone."""
    config = TransferConfig(
        size=16, width=2, latent=4, augmentation=augmentation, loss=loss, shared_strength=0.5
    )
    gan, rng = build_transfer(config, 3), torch.Generator().manual_seed(0)
    start = Pair(gan.generator.initial(rng), gan.critic.initial(rng))
    steps = fine_tuning(gan, config, start, torch.zeros(3, 1, 16, 16), _shots(0), rng, fast=True)
    for _ in range(WARM_UP):
        steps.step()
    with _Watch() as watch:
        steps._stepper(steps._update)
    assert watch.seen == set()


def test_the_watch_sees_what_it_is_for() -> None:
    with _Watch() as watch:
        float(torch.tensor([1.0]).sum())
    assert watch.seen == {"lift_fresh", "_local_scalar_dense"}


def test_a_loop_goes_with_its_last_name() -> None:
    """And so does its memory, which on a GPU would wait for a garbage collector that sees none of
    it."""
    config = replace(TINY, architecture="infogan")
    gan = build_gan(config)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    tuning = TransferConfig(size=16, width=2, latent=4)
    transfer_gan = build_transfer(tuning, 3)
    shots, rng = _shots(0), torch.Generator().manual_seed(0)
    first = Pair(transfer_gan.generator.initial(rng), transfer_gan.critic.initial(rng))
    gc.disable()
    try:
        loop = InnerLoop(gan, config, start, shots, rng, fast=True)
        steps = fine_tuning(
            transfer_gan, tuning, first, torch.zeros(3, 1, 16, 16), shots, rng, fast=True
        )
        loop.step()
        steps.step()
        left = weakref.ref(loop), weakref.ref(steps), weakref.ref(next(iter(loop.critic.values())))
        del loop, steps
        assert [reference() for reference in left] == [None, None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_low_precision_learns_about_the_same(architecture: Any) -> None:
    """A bfloat16 has 8 bits: losses of the first steps differ by a few thousandths of scores."""
    config = replace(TINY, architecture=architecture, width=8, inner_lr=1e-3)
    losses = []
    for fast in (False, True):
        training = MetaTraining(config, torch.Generator().manual_seed(0), fast=fast)
        losses.append(torch.tensor(training.iterate(_shots(0))))
    plain, low = losses
    assert low.isfinite().all()
    assert not torch.equal(low, plain)
    torch.testing.assert_close(low, plain, rtol=0.1, atol=0.1)


def test_what_leaves_a_net_in_low_precision_is_float32() -> None:
    weight = torch.full((4, 4), 1 + 2**-10)  # which bfloat16 rounds to 1

    def forward(x: Tensor) -> Tensor:
        return x @ weight

    x = torch.ones(2, 4)
    low = low_precision(forward, x.device, fast=True)(x)
    assert low.dtype == torch.float32
    assert torch.equal(low, torch.full((2, 4), 4.0))
    assert low_precision(forward, x.device, fast=False) is forward


def test_on_a_cpu_arithmetic_is_what_it_was() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with arithmetic(torch.device("cpu"), fast=True):
        assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.parametrize(("fast", "precision"), [(True, "tf32"), (False, "ieee")])
def test_on_a_gpu_arithmetic_lasts_as_long_as_a_step(fast: bool, precision: str) -> None:
    cudnn: Any = torch.backends.cudnn

    def found() -> tuple[Any, ...]:
        return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision

    before = found(), cudnn.deterministic
    with arithmetic(torch.device("cuda"), fast=fast):
        assert found() == (precision, precision)
        assert cudnn.deterministic
    assert (found(), cudnn.deterministic) == before


class _Graph:
    """A graph that notes what is done with it; replaying it runs nothing."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    def register_generator_state(self, rng: Any) -> None:
        self.heard.append("registered")

    def replay(self) -> None:
        self.heard.append("replayed")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a stepper asks of a simulated GPU."""
    events: list[str] = []

    @contextmanager
    def capture(graph: Any, stream: Any) -> Iterator[None]:
        events.append("begun")
        yield
        events.append("captured")

    stream = SimpleNamespace(wait_stream=lambda _other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: _Graph(events))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())
    monkeypatch.setattr(cuda_step, "_side_stream", lambda _device: stream)
    return events


@pytest.mark.parametrize(
    ("fast", "capture", "captures"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_step_is_captured_once_after_the_warm_up(
    heard: list[str], fast: bool, capture: bool, captures: bool
) -> None:
    """No step is lost or taken twice: those of the warm-up count, the captured one does not run."""
    rng: Any = SimpleNamespace(device=torch.device("cuda"))
    stepper = Stepper(rng, fast=fast, capture=capture)
    losses = torch.zeros(2), torch.zeros(2)

    def step() -> tuple[Tensor, Tensor]:
        heard.append("stepped")
        return losses

    for _ in range(WARM_UP + 2):
        assert stepper(step) is losses
    expected = ["stepped"] * (WARM_UP + 2)
    if captures:
        taken = ["registered", "begun", "stepped", "captured", "replayed"]
        expected = ["stepped"] * WARM_UP + taken + ["replayed"]
    assert heard == expected


def test_a_capture_that_fails_leaves_no_graph(heard: list[str]) -> None:
    rng: Any = SimpleNamespace(device=torch.device("cuda"))
    stepper, losses = Stepper(rng, fast=True), (torch.zeros(1), torch.zeros(1))
    for _ in range(WARM_UP):
        stepper(lambda: losses)

    def full() -> Any:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        stepper(full)
    assert stepper(lambda: losses) is losses
    assert heard[-1] == "replayed"


@pytest.mark.parametrize(
    ("architecture", "count", "captures"),
    [("infogan", 1, False), ("infogan", 2, True), ("plane", 1, True)],
)
def test_the_draw_of_one_category_is_not_captured(
    monkeypatch: pytest.MonkeyPatch, architecture: Any, count: int, captures: bool
) -> None:
    """Torch looks at the numbers of a single draw, which a captured step must not."""
    asked: list[bool] = []
    monkeypatch.setattr(
        "trainables.reptile.Stepper", lambda _rng, *, fast, capture: asked.append(capture)
    )
    config = replace(TINY, architecture=architecture)
    gan = build_gan(config)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    InnerLoop(gan, config, start, torch.zeros(1, count, 1, 16, 16), torch.Generator())
    assert asked == [captures]


def test_configs_know_nothing_of_the_device() -> None:
    """How a GPU computes is the study's, so that trials can be compared, and no hyperparameter."""
    for config in (ReptileConfig, TransferConfig):
        assert not any("fast" in name for name in config.__dataclass_fields__)
