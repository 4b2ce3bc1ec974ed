"""The Reptile trial as a pipeline: rungs, resuming, divergence, samples. On toy characters."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_scorer import tiny_images, tiny_nets

from trainables import opened, reptile
from trainables.configs import ReptileConfig
from trainables.cuda_step import WARM_UP
from trainables.features import SHOTS
from trainables.pipeline import EPISODES_AT_ONCE, PIPELINES, Diverged, StudyContext, load_pipeline
from trainables.reptile import meta_iteration_flops, step_flops
from trainables.reptile_trial import (
    LOSS_ROWS,
    ReptileTrial,
    load_model,
    stopping_steps,
)
from trainables.tasks import split_classes


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def _toy_data(monkeypatch: pytest.MonkeyPatch) -> Any:
    opened.open_images.cache_clear()
    opened._scorer.cache_clear()
    monkeypatch.setattr(opened, "open_image_set", lambda _path: tiny_images())
    yield
    opened.open_images.cache_clear()
    opened._scorer.cache_clear()


@pytest.fixture(scope="module")
def config() -> ReptileConfig:
    size = tiny_images().images.shape[-1]
    return ReptileConfig(
        size=size,
        width=2,
        latent=4,
        inner_steps=1,
        train_shots=2,
        meta_batch=1,
        adapt_steps=4,
        averaging=0.1,
    )


@pytest.fixture(scope="module")
def context(config: ReptileConfig) -> StudyContext:
    each = meta_iteration_flops(config)
    return StudyContext(
        image_set="",
        scorer=str(tiny_nets()),
        split=split_classes(tiny_images()).to_dict(),
        rungs=(2 * each, 4 * each, 50 * each),
        episodes=(5, 5, 10),
        samples=12,
        device="cpu",
        store="",
    )


def test_every_pipeline_can_be_loaded() -> None:
    assert load_pipeline("reptile") is ReptileTrial
    assert set(PIPELINES) == {"reptile", "transfer"}
    assert all(load_pipeline(name) for name in PIPELINES)
    with pytest.raises(ValueError, match="must be one of"):
        load_pipeline("nonsense")


def test_the_shots_are_augmented_as_in_training(config: ReptileConfig) -> None:
    shots = torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = replace(config, augment_place=0.0, augment_shape=0.0, augment_tone=0.0)
    same = ReptileTrial.augmented(asdict(plain), shots, 5, torch.Generator())
    assert torch.equal(same, shots[:, [0, 1, 2, 0, 1]])
    changed = ReptileTrial.augmented(asdict(config), shots, 5, torch.Generator())
    assert changed.shape == same.shape
    assert not torch.equal(changed, same)


def test_a_step_trains_to_its_rung_and_scores_once(
    config: ReptileConfig, context: StudyContext
) -> None:
    trial = ReptileTrial(asdict(config), context, seed=1)
    for rung, target in enumerate(context.rungs[:2]):
        report = trial.step(never)
        assert report.metrics["rung"] == rung
        assert report.metrics["complete"] == 1
        assert report.metrics["train_flops"] == pytest.approx(target)
        assert report.metrics["adapt_steps"] in stopping_steps(trial._affordable_steps(rung))
        assert all(np.isfinite(value) for value in report.metrics.values())
        assert report.grid.dtype == np.uint8
        assert report.grid.shape[2] == 3
        assert [row[0] for row in report.losses] == [2 * rung + 1, 2 * rung + 2]


def test_a_wide_net_gets_no_more_compute(config: ReptileConfig, context: StudyContext) -> None:
    wide = replace(config, width=8, inner_steps=3)
    small = ReptileTrial(asdict(config), context, seed=1)
    large = ReptileTrial(asdict(wide), context, seed=1)
    small._train(context.rungs[2], never)
    large._train(context.rungs[2], never)
    assert large.training.iterations < small.training.iterations
    # Both end within one meta-iteration of the same compute.
    assert large.train_flops - small.train_flops <= meta_iteration_flops(wide)


def test_the_clock_cuts_a_trial_which_is_scored_where_it_stands(
    config: ReptileConfig, context: StudyContext
) -> None:
    trial = ReptileTrial(asdict(config), context, seed=1)
    turns = iter([False, True])
    report = trial.step(lambda: next(turns))
    assert report.metrics["complete"] == 0
    assert report.metrics["rung"] == -1
    assert report.metrics["meta_iterations"] == 1


def test_weights_of_other_networks_are_refused(config: ReptileConfig) -> None:
    weights = {"generator": torch.zeros(3), "critic": torch.zeros(3)}
    with pytest.raises(ValueError, match="The weights must be"):
        load_model(asdict(config), weights, "cpu")


def test_divergence_is_told(config: ReptileConfig, context: StudyContext) -> None:
    wild = replace(config, inner_optimizer="sgd", inner_lr=1e30)
    trial = ReptileTrial(asdict(wild), context, seed=1)
    with pytest.raises(Diverged, match="losses of meta-iteration"):
        trial._train(context.rungs[2], never)


def test_loss_curves_are_bounded(config: ReptileConfig, context: StudyContext) -> None:
    trial = ReptileTrial(asdict(config), context, seed=1)
    rows = trial._train(context.rungs[2], never)
    assert len(rows) == LOSS_ROWS
    assert rows[-1][0] == trial.training.iterations
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_stopping_steps() -> None:
    assert stopping_steps(100) == (50, 100)
    assert stopping_steps(1) == (1,)


def test_speed_is_measured(config: ReptileConfig) -> None:
    assert ReptileTrial.training_speed(asdict(config), "cpu", 0.05) > 0


@pytest.mark.parametrize("share", [0.05, 0.12])
def test_scoring_keeps_to_its_share_of_the_compute(
    config: ReptileConfig, context: StudyContext, share: float
) -> None:
    """However many steps of adaptation a config asks for."""
    context = replace(context, scoring_share=share)
    patient = replace(config, adapt_steps=10_000)
    trial = ReptileTrial(asdict(patient), context, seed=1)
    scoring = sum(
        context.episodes[rung] * trial._affordable_steps(rung) * step_flops(patient, SHOTS)
        for rung in range(len(context.rungs))
    )
    # A rung cannot be scored with less than one step.
    least = sum(context.episodes) * step_flops(patient, SHOTS)
    training = context.rungs[-1]
    assert scoring <= share / (1 - share) * training + least
    modest = ReptileTrial(asdict(replace(config, adapt_steps=1)), context, seed=1)
    assert modest._affordable_steps(2) == 1


def test_how_a_gpu_computes_reaches_training_and_adaptation(
    config: ReptileConfig, context: StudyContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    ours = reptile.InnerLoop

    class Noting(ours):  # type: ignore[misc, valid-type]
        def __init__(self, *given: Any, fast: bool = False) -> None:
            asked.append(fast)
            super().__init__(*given, fast=fast)

    monkeypatch.setattr(reptile, "InnerLoop", Noting)
    for fast in (False, True):
        told = replace(context, fast_gpu=fast)
        trial = ReptileTrial(asdict(config), told, seed=0)
        trial.step(never)
        model = trial.weights()
        options: Any = {"part": "validation", "episodes": range(2), "stops": [1]}
        ReptileTrial.sample(asdict(config), model, told, **options)
        assert len(asked) == 3  # training, scoring, sampling
        assert set(asked) == {fast}
        asked.clear()


def test_the_heaviest_work_is_captured_training_and_adaptation_of_all_episodes(
    config: ReptileConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[tuple[int, int]] = []
    step = reptile.InnerLoop.step

    def noted(loop: reptile.InnerLoop) -> Any:
        loops.append(tuple(loop.shots.shape[:2]))  # type: ignore[arg-type]
        return step(loop)

    monkeypatch.setattr(reptile.InnerLoop, "step", noted)
    ReptileTrial.heaviest(asdict(config), "cpu", episodes=20, samples=3, fast=True)
    training, adapting = (1, config.train_shots), (EPISODES_AT_ONCE, SHOTS)
    assert loops.count(training) > WARM_UP
    assert loops.count(adapting) > WARM_UP
