"""Generators whose faults are known must be put in the right order, here and on Omniglot.

Figures of the whole table on Omniglot: `pytest -m slow -s tests/test_evaluation_known_failures.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tiny_scorer import (
    FROM_REALS,
    known_failures,
    other_characters,
    tiny_images,
    tiny_scorer,
)

from trainables.class_scorer import ClassScorer
from trainables.datasets import load, user_cache
from trainables.evaluation import prepare_scorer
from trainables.pooled_scorer import PooledScorer
from trainables.tasks import split_classes

Table = dict[str, dict[str, float]]
COLUMNS = (
    *("copy_share", "recognisability", "density", "coverage", "fd", "kid", "diversity"),
    *("c_t", "ssim", "J", "L"),
)
BOOT_EPISODES = 8
SNEAKER = 7


@pytest.fixture(scope="module")
def tiny() -> Table:
    images = tiny_images()
    scorer = tiny_scorer()
    other = other_characters(images, split_classes(images), scorer.reals)
    samples = known_failures(scorer.shots, scorer.reals, other)
    return {k: scorer.score(v, from_reals=k in FROM_REALS).metrics for k, v in samples.items()}


@pytest.fixture(scope="module", params=["test", "validation"])
def omniglot(request: pytest.FixtureRequest) -> Table:
    if "FEWSHOT_DATA" not in os.environ:
        pytest.skip("FEWSHOT_DATA names no folder with Omniglot")
    cache = user_cache()
    images = load("omniglot", cache_dir=cache / "images", download=False)
    split = split_classes(images)
    nets = prepare_scorer(images, split, cache_dir=cache / "scorers", threads=os.cpu_count() or 1)
    scorer = PooledScorer(images, split, Path(nets), part=request.param)
    other = other_characters(images, split, scorer.reals)
    samples = known_failures(scorer.shots, scorer.reals, other)
    table = {k: scorer.score(v, from_reals=k in FROM_REALS).metrics for k, v in samples.items()}
    show(request.param, table)
    return table


@pytest.fixture(scope="module")
def boots() -> Table:
    if "FEWSHOT_DATA" not in os.environ:
        pytest.skip("FEWSHOT_DATA names no folder with FashionMNIST")
    cache = user_cache()
    images = load("fashion_mnist", cache_dir=cache / "images", download=False)
    split = split_classes(images)
    nets = prepare_scorer(images, split, cache_dir=cache / "scorers", threads=os.cpu_count() or 1)
    scorer = ClassScorer(images, split, Path(nets), part="test")
    shots, reals = scorer.shots[:BOOT_EPISODES], scorer.reals[:BOOT_EPISODES]
    sneakers = images.images[(images.labels == SNEAKER) & images.held_out]
    other = np.broadcast_to(sneakers[: reals.shape[1]], reals.shape)
    samples = known_failures(shots, reals, other)
    modes = {f"{n} real modes": reals[:, np.arange(reals.shape[1]) % n] for n in (16, 64)}
    table = {name: scorer.score(drawn).metrics for name, drawn in (samples | modes).items()}
    show("boots", table)
    return table


def show(title: str, table: Table) -> None:
    print(f"\n{title:24}", *(f"{column[:9]:>9}" for column in COLUMNS))
    for name, scores in table.items():
        print(f"{name:24}", *(f"{scores[column]:9.3f}" for column in COLUMNS))


def ascending(table: Table, score: str, *names: str) -> None:
    values = [table[name][score] for name in names]
    assert values == sorted(values), dict(zip(names, values, strict=True))


def check_common_order(table: Table) -> None:
    assert abs(table["real"]["L"]) < 0.05
    assert min(table, key=lambda name: table[name]["L"]) == "real"
    ascending(table, "L", "real", "25 % copies", "50 % copies", "75 % copies", "copies")
    ascending(table, "J", "copies", "75 % copies", "50 % copies", "25 % copies", "real")
    ascending(table, "L", "real", "4 real modes", "2 real modes", "copies")
    ascending(table, "L", "real", "25 % another character", "another character")
    ascending(table, "L", "strong augmentation", "weak augmentation", "copies, noise")
    ascending(table, "L", "real, noise", "real, blurred", "pixel mix", "another character")
    worst = sorted(table, key=lambda name: table[name]["L"])[-3:]
    assert {"another character", "black"} <= set(worst)
    assert table["another character"]["recognisability"] < 0.2


def check_that_distances_alone_prefer_copies(table: Table) -> None:
    for score in ("fd", "kid"):
        ascending(table, score, "copies", "strong augmentation")
        ascending(table, score, "copies", "pixel mix")
    ascending(table, "L", "strong augmentation", "copies")
    # So do the paper's scores, density and recognisability.
    copies, honest = table["copies"], table["strong augmentation"]
    for score in ("ssim", "density", "recognisability"):
        assert copies[score] > honest[score]


def check_order_of_characters(table: Table) -> None:
    check_common_order(table)
    ascending(table, "coverage", "copies", "4 real modes", "real")


def test_the_objective_orders_the_known_failures(tiny):
    check_order_of_characters(tiny)


def test_frechet_and_kernel_distance_alone_prefer_copies_to_honest_samples(tiny):
    check_that_distances_alone_prefer_copies(tiny)


def test_noise_that_nobody_sees_matters_little(tiny):
    assert tiny["real, noise"]["L"] < 0.15
    assert tiny["real, noise"]["J"] > 0.8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_objective_orders_the_known_failures_on_omniglot(omniglot):
    check_order_of_characters(omniglot)
    check_that_distances_alone_prefer_copies(omniglot)
    assert omniglot["real, noise"]["L"] < 0.2
    # On characters, strongly augmented shots are the mark to beat; see the table.
    assert 0.4 < omniglot["strong augmentation"]["J"] < 0.7
    assert omniglot["copies"]["J"] < 0.02
    assert omniglot["weak augmentation"]["copy_share"] > 0.5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_characters_are_recognised_on_omniglot(omniglot):
    real = omniglot["real"]
    assert real["recognisability"] > 0.85
    assert real["copy_share"] < 0.03
    assert real["density"] == pytest.approx(1, abs=0.1)
    assert real["coverage"] > 0.88
    assert real["J"] > 0.85


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_objective_orders_the_known_failures_on_ankle_boots(boots):
    check_common_order(boots)
    fewer_modes = ("real", "64 real modes", "16 real modes", "4 real modes", "2 real modes")
    ascending(boots, "L", *fewer_modes, "copies")
    nearer_to_copies = ("strong augmentation", "75 % copies", "pixel mix", "weak augmentation")
    ascending(boots, "L", "16 real modes", *nearer_to_copies, "copies", "another character")
    ascending(boots, "L", "25 % copies", "real, blurred", "25 % another character", "50 % copies")
    assert boots["real"]["recognisability"] > 0.93
    assert boots["real"]["J"] > 0.85
    assert boots["copies"]["J"] < 0.02
