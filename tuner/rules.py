"""The rules that generators, pipelines, experiments and data sets keep, each a check of its own.

A check raises AssertionError, or whatever the checked code raises, where its rule is broken. Small
sizes, generated characters and scoring nets that have hardly learned anything do for all of them.
"""

from __future__ import annotations

import atexit
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from trainables.configs import ReptileConfig
from trainables.datasets import load
from trainables.features import SHOTS, prepare_scorer
from trainables.generators import load_generator
from trainables.image_set import ImageSet, Pictures, Source, build_image_set
from trainables.models.network import Network
from trainables.pipeline import EPISODES_AT_ONCE, Pipeline, Report, StudyContext, load_pipeline
from trainables.reptile import MetaTraining, step_flops
from trainables.strokes import DRAWINGS, draw_alphabets, invent_characters
from trainables.tasks import Split, split_classes
from trainables.weights import read_weights
from tuner.experiments import require_sound

SHAPES = ((32, 1), (32, 3), (64, 1))  # pixels a side and channels that experiments may ask for
WIDTH, LATENT, COUNT = 8, 16, 3
ALPHABETS = 2  # of ten generated characters
SCORER_STEPS = 2
METRICS = {"L", "rung", "complete", "train_flops", "adapt_steps"}  # that the search goes by
CLOCKED = "_seconds"  # ending of metrics that no two runs have alike


def _quiet(_line: str) -> None:
    """Nothing is shown of how toys are made."""


@lru_cache(maxsize=1)
def _folder() -> Path:
    """A temporary folder for all of this process's checks."""
    place = tempfile.TemporaryDirectory(prefix="few-shot-tuner-")
    atexit.register(place.cleanup)
    return Path(place.name)


# Generators


def _network(name: str, size: int = 32, channels: int = 1) -> Network:
    return load_generator(name)(size=size, channels=channels, width=WIDTH, latent=LATENT)


def _weights(network: Network, tasks: int) -> dict[str, Tensor]:
    each = [network.initial(torch.Generator().manual_seed(seed)) for seed in range(tasks)]
    return network.named(torch.stack(each))


def _latents(tasks: int) -> Tensor:
    return torch.randn(tasks, COUNT, LATENT, generator=torch.Generator().manual_seed(0))


def draws_pictures(name: str) -> None:
    """latents [T, n, Z] become finite pictures [T, n, C, S, S] in [-1, 1]"""
    for size, channels in SHAPES:
        network = _network(name, size, channels)
        drawn = network.forward(_weights(network, 2), _latents(2))
        wanted = (2, COUNT, channels, size, size)
        assert tuple(drawn.shape) == wanted, f"pictures are {tuple(drawn.shape)}, not {wanted}"
        assert drawn.isfinite().all(), "pictures are not finite"
        assert drawn.abs().max() <= 1, f"pictures reach {drawn.abs().max():.3g}"


def draws_again(name: str) -> None:
    """the same weights and latents draw the same pictures, bit for bit"""
    network = _network(name)
    first, second = (network.forward(_weights(network, 2), _latents(2)) for _ in range(2))
    assert torch.equal(first, second), "two calls draw other pictures"


def keeps_tasks_apart(name: str) -> None:
    """the tasks of a batch do not touch each other"""
    network = _network(name)
    weights, latents = _weights(network, 2), _latents(2)
    drawn = network.forward(weights, latents)
    # Of the second task all is another; the first must not see it.
    changed = {n: torch.stack([w[0], w[1] * 0.5 + 0.1]) for n, w in weights.items()}
    others = network.forward(changed, torch.stack([latents[0], latents[1] * 0.5]))
    assert torch.equal(drawn[0], others[0]), "a task's pictures depend on another task"
    assert not torch.equal(drawn[1], others[1]), "pictures do not depend on weights and latents"


def uses_its_weights(name: str) -> None:
    """every weight has a finite gradient"""
    network = _network(name)
    weights = {n: w.detach().clone().requires_grad_() for n, w in _weights(network, 1).items()}
    loss = network.forward(weights, _latents(1)).square().sum()
    leaves = list(weights.values())
    for n, gradient in zip(
        weights, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True
    ):
        assert gradient is not None, f"{n} is not used"
        assert gradient.isfinite().all(), f"the gradient of {n} is not finite"


def keeps_its_weights_in_a_file(name: str) -> None:
    """weights are finite and survive a safetensors file"""
    network = _network(name)
    flat = network.initial(torch.Generator().manual_seed(0))
    _require_same_in_a_file({"generator": flat})
    again = network.flat(network.named(flat[None]))
    assert torch.equal(flat, again[0]), "`flat` and `named` are no inverses"


def _require_same_in_a_file(weights: Mapping[str, Tensor]) -> None:
    path = _folder() / "weights.safetensors"
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path)
    read = read_weights(path)
    assert read.keys() == dict(weights).keys(), "names of weights change"
    for name, weight in weights.items():
        assert torch.equal(weight, read[name]), f"{name} changes"


def _small(name: str) -> ReptileConfig:
    return ReptileConfig(
        architecture=name, width=4, latent=8, inner_steps=2, train_shots=COUNT, meta_batch=2
    )


def has_a_config(name: str) -> None:
    """a config of it is plain data, and stays itself"""
    _require_plain(_small(name))


def _require_plain(config: Any) -> None:
    again = type(config)(**json.loads(json.dumps(asdict(config), allow_nan=False)))
    assert again == config, f"{config} becomes {again}"


def costs_something(name: str) -> None:
    """a step of training has a positive number of FLOPs"""
    flops = step_flops(_small(name), COUNT)
    assert flops > 0, f"FLOPs are {flops}"


def _pictures(turn: int) -> Tensor:
    rng = torch.Generator().manual_seed(turn)
    return torch.rand(2, COUNT, 1, 32, 32, generator=rng) * 2 - 1


def trains_again_after_a_stop(name: str) -> None:
    """training is finite, and goes on after a stop as if there had been none, bit for bit"""
    straight, stopped = (
        MetaTraining(_small(name), torch.Generator().manual_seed(7)) for _ in range(2)
    )
    losses = [straight.iterate(_pictures(turn)) for turn in range(2)]
    assert all(math.isfinite(loss) for pair in losses for loss in pair), f"losses are {losses}"
    stopped.iterate(_pictures(0))
    resumed = MetaTraining(_small(name), torch.Generator().manual_seed(99))
    resumed.load_state_dict(_saved(stopped.state_dict()))
    assert resumed.iterate(_pictures(1)) == losses[1], "losses differ"
    assert torch.equal(resumed.meta.generator, straight.meta.generator), "weights differ"


def _saved(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint gives back."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    saved: dict[str, Any] = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    return saved


GENERATOR = (
    draws_pictures,
    draws_again,
    keeps_tasks_apart,
    uses_its_weights,
    keeps_its_weights_in_a_file,
    has_a_config,
    costs_something,
    trains_again_after_a_stop,
)


# Pipelines


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A pipeline and a config of it.

    Attributes:
        pipeline: its name.
        config: of pictures of 32 x 32 pixels in grey, that trains quickly.
    """

    pipeline: str
    config: Any

    @property
    def kind(self) -> type[Pipeline]:
        """The class."""
        return load_pipeline(self.pipeline)

    def trial(self, seed: int = 1) -> Pipeline:
        """A trial with two rungs of a few of its smallest pieces of training."""
        return self.kind(self.settings, self.context, seed)

    @property
    def settings(self) -> dict[str, Any]:
        """The config as trials are told it."""
        return asdict(self.config)

    @cached_property
    def context(self) -> StudyContext:
        """Of the generated characters."""
        bare = _context((1.0,))
        least = self.kind(self.settings, bare, 1).least_flops
        return replace(bare, rungs=(2 * least, 4 * least), episodes=(EPISODES_AT_ONCE,) * 2)


@lru_cache(maxsize=1)
def _characters() -> tuple[ImageSet, Split]:
    source = Source(name="characters", stand_in=True, key={}, read=_read_characters)
    images = build_image_set(source, cache_dir=_folder(), size=32, report=_quiet)
    return images, split_classes(images)


def _read_characters(size: int, _report: Any) -> Pictures:
    characters = invent_characters(0, ALPHABETS)
    return Pictures(
        classes=tuple(f"character{index:02d}" for index in range(len(characters))),
        labels=np.repeat(np.arange(len(characters)), DRAWINGS),
        held_out=np.zeros(len(characters) * DRAWINGS, np.bool_),
        pixels=draw_alphabets(characters, size=size, seed=0),
    )


@lru_cache(maxsize=2)
def _context(rungs: tuple[float, ...]) -> StudyContext:
    images, split = _characters()
    scorer = prepare_scorer(
        images, split, cache_dir=_folder(), threads=1, report=_quiet, steps=SCORER_STEPS
    )
    return StudyContext(
        image_set=str(images.path),
        scorer=str(scorer),
        split=split.to_dict(),
        rungs=rungs,
        episodes=(EPISODES_AT_ONCE,) * len(rungs),
        samples=12,
        device="cpu",
        store=str(_folder() / "pretrained"),
    )


def _never() -> bool:
    return False


def _lasting(report: Report) -> dict[str, float]:
    return {n: value for n, value in report.metrics.items() if not n.endswith(CLOCKED)}


def is_told_by_plain_data(subject: Subject) -> None:
    """its config is plain data, and stays itself"""
    _require_plain(subject.config)


def reaches_its_rungs(subject: Subject) -> None:
    """each step reaches the next rung, and reports finite metrics, losses and a grid"""
    trial, context = subject.trial(), subject.context
    for rung, flops in enumerate(context.rungs):
        report = trial.step(_never)
        assert report.metrics.keys() >= METRICS, f"metrics lack {METRICS - report.metrics.keys()}"
        bad = {n: v for n, v in report.metrics.items() if not math.isfinite(v)}
        assert not bad, f"metrics are not finite: {bad}"
        reached = (report.metrics["rung"], report.metrics["complete"])
        assert reached == (rung, 1), f"rung and complete are {reached}, not {(rung, 1)}"
        assert report.metrics["train_flops"] >= flops * (1 - 1e-9), "train_flops are too few"
        assert len(report.episodes) == context.episodes[rung], "episodes are not those of the rung"
        assert np.isfinite(report.episodes).all(), "episodes are not finite"
        assert all(len(row) == 3 for row in report.losses), "rows of losses are not of three"
        assert report.grid.dtype == np.uint8, f"the grid is of {report.grid.dtype}"
        assert report.grid.ndim == report.grid.shape[-1] == 3, "the grid is not [H, W, 3]"


def heeds_the_clock(subject: Subject) -> None:
    """told to stop, it scores where it stands and reaches no rung"""
    calls = iter([False])
    report = subject.trial().step(lambda: next(calls, True))
    reached = (report.metrics["rung"], report.metrics["complete"])
    assert reached == (-1, 0), f"rung and complete are {reached}, not (-1, 0)"


def is_the_same_of_the_same_seed(subject: Subject) -> None:
    """two trials of the same config, context and seed are the same, bit for bit"""
    first, second = (subject.trial().step(_never) for _ in range(2))
    assert _lasting(first) == _lasting(second), "scores differ"
    assert first.losses == second.losses, "losses differ"
    assert np.array_equal(first.grid, second.grid), "pictures differ"


def goes_on_after_a_stop(subject: Subject) -> None:
    """a trial that goes on from a checkpoint is one that never stopped, bit for bit"""
    straight, stopped, resumed = subject.trial(), subject.trial(), subject.trial(seed=2)
    straight.step(_never)
    stopped.step(_never)
    resumed.load_state_dict(_saved(stopped.state_dict()))
    ours, theirs = resumed.step(_never), straight.step(_never)
    assert _lasting(ours) == _lasting(theirs), "scores differ"
    assert ours.losses == theirs.losses, "losses differ"
    assert np.array_equal(ours.grid, theirs.grid), "pictures differ"
    for name, weight in straight.weights().items():
        assert torch.equal(weight, resumed.weights()[name]), f"{name} differs"


def keeps_a_model_that_draws(subject: Subject) -> None:
    """the kept weights survive a file and draw the same pictures in any range of episodes"""
    trial = subject.trial()
    trial.train(trial.least_flops)
    weights = trial.weights()
    _require_same_in_a_file(weights)

    def drawn(episodes: range) -> Any:
        context = replace(subject.context, samples=COUNT)
        return subject.kind.sample(
            subject.settings, weights, context, part="test", episodes=episodes, stops=(1, 2)
        )

    whole, rest = drawn(range(EPISODES_AT_ONCE + 1)), drawn(range(EPISODES_AT_ONCE, 6))
    wanted = (2, EPISODES_AT_ONCE + 1, COUNT, 1, 32, 32)
    assert whole.shape == wanted, f"pictures are {whole.shape}, not {wanted}"
    assert whole.dtype == np.uint8, f"pictures are of {whole.dtype}"
    assert np.array_equal(whole[:, EPISODES_AT_ONCE:], rest), "ranges draw other pictures"


def augments_the_shots(subject: Subject) -> None:
    """augmented shots are pictures in [-1, 1], as many as asked for"""
    rng = torch.Generator().manual_seed(0)
    shots = torch.rand(2, SHOTS, 1, 32, 32, generator=rng) * 2 - 1
    changed = subject.kind.augmented(subject.settings, shots, 7, rng)
    assert tuple(changed.shape) == (2, 7, 1, 32, 32), f"they are {tuple(changed.shape)}"
    assert changed.isfinite().all(), "they are not finite"
    assert changed.abs().max() <= 1 + 1e-5, f"they reach {changed.abs().max():.3g}"


def tells_what_it_costs(subject: Subject) -> None:
    """FLOPs and their rate are positive, and its heaviest work can be tried"""
    least = subject.trial().least_flops
    assert least > 0, f"least_flops is {least}"
    speed = subject.kind.training_speed(subject.settings, "cpu", 0.05)
    assert speed > 0, f"training_speed is {speed}"
    before = subject.kind.source_seconds(subject.settings, 2, "cpu", 0.05)
    assert before >= 0, f"source_seconds is {before}"
    subject.kind.heaviest(subject.settings, "cpu", episodes=1, samples=COUNT, fast=False)


PIPELINE = (
    is_told_by_plain_data,
    reaches_its_rungs,
    heeds_the_clock,
    is_the_same_of_the_same_seed,
    goes_on_after_a_stop,
    keeps_a_model_that_draws,
    augments_the_shots,
    tells_what_it_costs,
)


# Data sets


def reads_the_same_pictures(name: str) -> None:
    """it is read twice to the same pictures, which can be split into classes"""
    read: Sequence[ImageSet] = [
        load(name, cache_dir=Path(tempfile.mkdtemp(dir=_folder())), report=_quiet) for _ in range(2)
    ]
    assert read[0].fingerprint == read[1].fingerprint, "pictures differ"
    split_classes(read[0])


DATA = (reads_the_same_pictures,)


# Experiments


def can_be_run(name: str) -> None:
    """its space and known points yield valid configs, at either scale"""
    require_sound(name)


EXPERIMENT = (can_be_run,)
