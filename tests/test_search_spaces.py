"""Every space yields valid configs, its known points lie in it, a search finds its optimum."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any, get_args

import optuna
import pytest
from optuna.samplers import TPESampler

from search_spaces.reptile import cpu_space
from trainables.configs import ReptileConfig, TransferConfig
from trainables.transfer import step_flops
from tuner.experiments import EXPERIMENTS, Scale, find_experiment

CASES = [(name, scale) for name in sorted(EXPERIMENTS) for scale in get_args(Scale)]


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_every_search_has_the_papers_settings_to_compare_with(name: str, scale: Scale) -> None:
    made = find_experiment(name)(scale)
    assert sum(point.reference for point in made.known_points) == 1


def test_parameters_are_config_fields() -> None:
    """But for the optimisers' own step sizes, which lead to one field by different ranges."""
    names = {field.name for field in fields(ReptileConfig)}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        cpu_space(trial, ReptileConfig())
        for name in trial.params:
            assert name in names or name.rpartition("_")[0] in names


@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize("method", ["dcgan", "cgan", "infogan"])
def test_the_papers_recipe_is_pre_trained_at_the_compute_of_ours(method: str, scale: Scale) -> None:
    made = find_experiment(f"{method}_fashion_mnist")(scale)
    papers = replace(made.base, **made.known_points[0].overrides)

    def flops(config: TransferConfig) -> float:
        pretraining = replace(config, batch=config.pretrain_batch)
        return step_flops(pretraining, 9) * config.pretrain_steps

    assert flops(papers) == pytest.approx(flops(made.base), rel=0.01)


def test_the_papers_settings_are_the_papers() -> None:
    made = find_experiment("reptile_omniglot")("paper")
    study = optuna.create_study()
    study.enqueue_trial(dict(made.known_points[0].params))
    config: Any = made.space(study.ask(), made.base)
    assert config.inner_lr == 1e-3
    assert config.outer_step == 1e-4
    assert config.inner_steps == 10
    assert config.train_shots == 8
    assert config.width == 64
    assert made.known_points[0].overrides["mode"] == "faithful"


def test_search_finds_a_known_optimum() -> None:
    """A toy loss that is lowest at inner_lr = 1e-3 with Adam."""

    def loss(config: ReptileConfig) -> float:
        wrong = 0.5 if config.inner_optimizer == "sgd" else 0.0
        return abs(math.log10(config.inner_lr) + 3) + wrong

    study = optuna.create_study(sampler=TPESampler(seed=0))
    for _ in range(60):
        trial = study.ask()
        study.tell(trial, loss(cpu_space(trial, ReptileConfig())))
    assert study.best_value < 0.1
