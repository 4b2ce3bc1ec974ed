"""What our search is compared with does the same thing, only plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench_e2e import Curve, Run, Scored, section
from PIL import Image
from stock_search import FolderOfCharacters, PlainReptile

from trainables.configs import ReptileConfig
from trainables.reptile import MetaTraining, adapt


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("architecture", ["plane", "compact", "infogan"])
def test_the_plain_loops_are_ours(architecture: str, tmp_path: Path) -> None:
    config = ReptileConfig(
        architecture=architecture,  # type: ignore[arg-type]
        width=4,
        latent=5,
        meta_batch=1,
        inner_steps=3,
        train_shots=4,
        adapt_steps=4,
        adapt_augmentation="layer",
    )
    for number in range(4):
        drawing = np.random.default_rng(number).integers(0, 256, (105, 105), dtype=np.uint8)
        Image.fromarray(drawing).save(tmp_path / f"{number}.png")
    files = sorted(tmp_path.iterdir())
    plain = PlainReptile(config, FolderOfCharacters([files], 32, seed=0), seed=1)
    ours = MetaTraining(config, torch.Generator().manual_seed(1))
    for mine, its in zip((ours.meta, ours.average), (plain.meta, plain.average), strict=True):
        mine.generator.copy_(its.generator)
        mine.critic.copy_(its.critic)
    plain.rng.manual_seed(2)
    ours.rng.manual_seed(2)
    read = FolderOfCharacters([files], 32, seed=0)
    for _ in range(2):
        plain.iterate()
        ours.iterate(read.task(4)[None])
    torch.testing.assert_close(plain.average.generator, ours.average.generator)
    torch.testing.assert_close(plain.average.critic, ours.average.critic)

    shots = read.task(4)
    plain.rng.manual_seed(3)
    rng = torch.Generator().manual_seed(3)
    (drawn,) = adapt(
        ours.gan, config, ours.average, shots[None], rng, stops=[config.adapt_steps], count=2
    )
    torch.testing.assert_close(plain.draw(shots, 2), drawn[0])


def scored(at: float, L: float, trial: str = "a", updates: float = 0.0) -> Scored:
    return Scored(at=at, trial=trial, L=L, updates=updates, config={}, steps=1, weights="")


def test_a_run_tells_its_incumbents_and_updates() -> None:
    run = Run(
        scored=(scored(1, 0.9, "a", 10), scored(2, 1.1, "b", 20), scored(3, 0.5, "a", 30)),
        finished=2,
    )
    assert [score.at for score in run.incumbents()] == [1, 3]
    assert run.updates == 50


def curve(system: str, at: tuple[float, ...], L: tuple[float, ...]) -> Curve:
    return Curve(
        system=system, seed=0, at=at, L=L, J=tuple(0.5 for _ in L), updates=1, trials=1, finished=1
    )


def test_the_target_is_a_third_of_the_time_to_what_stock_parts_end_with() -> None:
    stock = curve("stock", (100.0, 500.0), (1.0, 0.6))
    fast, slow = (curve("ours", (at,), (0.6,)) for at in (200.0, 200.1))
    assert not section([fast, stock], 600.0).misses
    assert section([slow, stock], 600.0).misses
    assert section([curve("ours", (1.0,), (0.7,)), stock], 600.0).misses  # never
    row = section([stock, fast], 600.0).rows[1]
    assert row[-5:] == ("1.00 / 0.50", "1.00 / 0.50", "1.00 / 0.50", "1.00 / 0.50", "0.60 / 0.50")
