"""Every pipeline on coloured pictures, of 32 and of 64 pixels a side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from picture_files import quiet
from PIL import Image

from trainables.configs import ReptileConfig, TransferConfig
from trainables.datasets import load_folder
from trainables.evaluation import prepare_scorer
from trainables.generators import ARCHITECTURES
from trainables.pipeline import StudyContext, load_pipeline
from trainables.reptile import step_flops
from trainables.tasks import split_classes

CLASSES, EACH = 6, 14


def write_balls(root: Path) -> None:
    """A ball of each class's colour, on grass, [40, 40, 3]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :40]
    for index in range(CLASSES):
        (root / f"ball_{index}").mkdir(parents=True)
        colour = rng.integers(60, 255, 3)
        for number in range(EACH):
            picture = rng.integers(0, 60, (40, 40, 3)) + np.array([0, 90, 0])
            y, x, radius = *rng.uniform(12, 28, 2), rng.uniform(6, 11)
            picture[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = colour
            Image.fromarray(picture.astype(np.uint8)).save(root / f"ball_{index}" / f"{number}.png")


@pytest.fixture(scope="module", params=[32, 64])
def context(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> StudyContext:
    folder = tmp_path_factory.mktemp("colours")
    write_balls(folder / "balls")
    size = request.param
    images = load_folder(folder / "balls", cache_dir=folder / "cache", size=size, report=quiet)
    assert images.images.shape[1:] == (3, size, size)
    split = split_classes(images, seed=0)
    nets = prepare_scorer(
        images, split, cache_dir=folder / "nets", threads=1, report=quiet, steps=3
    )
    return StudyContext(
        image_set=str(images.path),
        scorer=str(nets),
        split=split.to_dict(),
        rungs=(1e6, 2e6),
        episodes=(2, 4),
        samples=16,
        device="cpu",
        store=str(folder / "pretrained"),
    )


def size_of(context: StudyContext) -> int:
    return 64 if "-64-" in Path(context.image_set).name else 32


def one_rung(pipeline: str, config: object, context: StudyContext) -> None:
    kind = load_pipeline(pipeline)
    trial = kind(asdict(config), context, 0)  # type: ignore[call-overload]
    report = trial.step(lambda: False)
    assert np.isfinite(report.metrics["L"])
    assert report.grid.shape[-1] == 3
    assert np.ptp(report.grid, axis=-1).max() > 0  # in colour
    weights = trial.weights()
    pictures = kind.sample(
        asdict(config),  # type: ignore[call-overload]
        weights,
        context,
        part="test",
        episodes=range(1),
        stops=[1],
    )
    side = size_of(context)
    assert pictures.shape == (1, 1, 16, 3, side, side)


def test_reptile(context: StudyContext) -> None:
    config = ReptileConfig(
        channels=3, size=size_of(context), width=8, latent=16, inner_steps=2, meta_batch=1,
        adapt_steps=2,
    )  # fmt: skip
    one_rung("reptile", config, context)


@pytest.mark.parametrize("method", ["dcgan", "cgan", "infogan"])
@pytest.mark.parametrize("augmentation", ["fresh", "layer", "crop"])
def test_transfer(context: StudyContext, method: str, augmentation: str) -> None:
    config = TransferConfig(
        channels=3, size=size_of(context), width=8, latent=16, pretrain_steps=2, pretrain_batch=4,
        batch=4, method=method, augmentation=augmentation, shared_strength=0.5,
    )  # fmt: skip
    one_rung("transfer", config, context)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [32, 64])
def test_every_architecture_has_a_coloured_step(architecture: str, size: int) -> None:
    config = ReptileConfig(architecture=architecture, channels=3, size=size, width=8)  # type: ignore[arg-type]
    assert step_flops(config, 2) > 0
