"""The transfer trial as a pipeline: rungs, stops, resuming, samples. On toy characters."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_large import SPLIT, large_images, large_nets

from trainables import opened, transfer, transfer_trial
from trainables.configs import TransferConfig
from trainables.cuda_step import WARM_UP
from trainables.pipeline import EPISODES_AT_ONCE, Diverged, StudyContext
from trainables.tasks import COMPARED
from trainables.transfer import step_flops
from trainables.transfer_trial import TransferTrial

TINY = TransferConfig(width=2, latent=4, batch=2, pretrain_batch=4, pretrain_steps=2)
EPISODES = 2


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def _toy_data(monkeypatch: pytest.MonkeyPatch) -> Any:
    caches = (opened.open_images, opened._scorer, transfer_trial._source)
    monkeypatch.setattr(opened, "open_image_set", lambda _path: large_images())
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def context(tmp_path: Path) -> StudyContext:
    each = step_flops(TINY, len(SPLIT.train)) * EPISODES
    return StudyContext(
        image_set="",
        scorer=str(large_nets()),
        split=SPLIT.to_dict(),
        rungs=(3 * each, 9 * each),
        episodes=(EPISODES, 4),
        samples=COMPARED,
        device="cpu",
        store=str(tmp_path),
    )


@pytest.mark.parametrize("augmentation", ["fresh", "layer", "crop"])
def test_the_shots_are_augmented_as_in_fine_tuning(augmentation: Any) -> None:
    shots = torch.rand(2, 4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = asdict(replace(TINY, augmentation=augmentation))
    changed = TransferTrial.augmented(config, shots, 310, torch.Generator().manual_seed(1))
    assert changed.shape == (2, 310, 1, 16, 16)
    repeats = torch.equal(changed[:, :10], changed[:, 300:])
    assert repeats == (augmentation == "crop")  # which makes 300 pictures, once


def test_rungs_are_reached_to_the_step_and_the_best_stop_is_kept(context: StudyContext) -> None:
    trial = TransferTrial(asdict(TINY), context, seed=1)
    first, second = trial.step(never), trial.step(never)
    assert [first.metrics["meta_iterations"], second.metrics["meta_iterations"]] == [3, 9]
    assert [first.metrics["rung"], second.metrics["rung"]] == [0, 1]
    assert second.metrics["train_flops"] == context.rungs[1]
    assert second.metrics["L"] <= first.metrics["L"]
    assert first.metrics["adapt_steps"] in {1, 2, 3}
    assert second.metrics["adapt_steps"] in {1, 2, 3, 5, 7, 9}
    assert first.metrics["complete"] == 1
    assert second.losses[-1][0] == 9 * EPISODES
    assert first.grid.dtype == np.uint8


def test_told_to_stop_it_scores_where_it_stands(context: StudyContext) -> None:
    trial = TransferTrial(asdict(TINY), context, seed=1)
    calls = iter([False, False, True, True, True, True])
    report = trial.step(lambda: next(calls))
    assert report.metrics["complete"] == 0
    assert report.metrics["rung"] == -1
    assert report.metrics["meta_iterations"] < 3


def test_a_kept_model_draws_the_same_pictures_in_any_range(context: StudyContext) -> None:
    trial = TransferTrial(asdict(TINY), context, seed=1)
    context = replace(context, samples=3)
    drawn = [
        TransferTrial.sample(
            asdict(TINY), trial.weights(), context, part="validation", episodes=r, stops=(1, 2)
        )
        for r in (range(0, 7), range(EPISODES_AT_ONCE, 7))
    ]
    assert drawn[0].shape == (2, 7, 3, 1, 32, 32)
    assert np.array_equal(drawn[0][:, EPISODES_AT_ONCE:], drawn[1])
    assert not np.array_equal(drawn[0][0], drawn[0][1])


def test_a_last_model_learns_the_validation_classes_too(context: StudyContext) -> None:
    last = replace(context, split=SPLIT.joined().to_dict())
    models = [TransferTrial(asdict(TINY), c, seed=1) for c in (context, last)]
    for model in models:
        model.train(1.0)
    assert [len(m.weights()["means"]) for m in models] == [3, 5]


def test_divergence_fails_the_trial(context: StudyContext) -> None:
    wild = replace(TINY, lr=1e30)
    with pytest.raises(Diverged, match="losses of step"):
        TransferTrial(asdict(wild), context, seed=1).step(never)


def test_the_cost_of_pre_training_is_known() -> None:
    once = TransferTrial.source_seconds(asdict(TINY), 3, "cpu", 0.5)
    longer = asdict(replace(TINY, pretrain_steps=100 * TINY.pretrain_steps))
    assert TransferTrial.source_seconds(longer, 3, "cpu", 0.5) > 20 * once > 0


def test_how_a_gpu_computes_reaches_fine_tuning_alone(
    context: StudyContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-trained weights are shared by studies that compute in other ways."""
    asked: list[tuple[int, bool]] = []
    ours = transfer.AdversarialSteps.__init__

    def noted(self: Any, *given: Any, prior: Any, fast: bool = False, **named: Any) -> None:
        asked.append((len(prior), fast))
        ours(self, *given, prior=prior, fast=fast, **named)

    monkeypatch.setattr(transfer.AdversarialSteps, "__init__", noted)
    trial = TransferTrial(asdict(TINY), replace(context, fast_gpu=True), seed=0)
    trial.step(never)
    assert asked == [(1, False), (EPISODES, True)]


def test_the_heaviest_work_is_fine_tuning_of_all_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    step = transfer.AdversarialSteps.step

    def noted(self: Any) -> Any:
        taken.append(len(self.prior))
        return step(self)

    monkeypatch.setattr(transfer.AdversarialSteps, "step", noted)
    TransferTrial.heaviest(asdict(TINY), "cpu", episodes=7, samples=3, fast=True)
    assert taken[0] == 1
    assert taken.count(7) > WARM_UP
