"""A transfer study through the command line, on 64 pixels in colour: search, finals and report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner import result

CLASSES, EACH, SIDE = 7, 12, 72
QUICK = Path(__file__).parents[1] / "quick_launch.py"

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


def paint(folder: Path) -> None:
    """Classes of discs: each of a colour and a size, at places of their own."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for label in range(CLASSES):
        own = folder / f"class{label}"
        own.mkdir(parents=True)
        colour, radius = rng.integers(60, 256, 3), 8 + 3 * label
        for number in range(EACH):
            y, x = rng.integers(radius, SIDE - radius, 2)
            inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            noisy = rng.integers(0, 40, (SIDE, SIDE, 3)) + inside[..., None] * colour
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(own / f"{number}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colour")
    paint(folder / "discs")
    return folder


def launch(root: Path, *more: str) -> str:
    command = [sys.executable, str(QUICK), "", "cgan_fashion_mnist", "--size", "64"]
    command += ["--data", str(root / "discs"), "--storage", str(root / "runs")]
    command += ["--trials", "2", "--budget", "90s", *more]
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache"), "COLUMNS": "120"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=420, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_study_is_searched_tested_and_its_pre_training_used_again(root: Path) -> None:
    launch(root, "--study", "first")
    found = result.load(root / "runs" / "first" / "result.json")
    assert found.test is not None
    assert found.reference is not None
    assert (
        found.test.intervals["fd"][0] <= found.test.metrics["fd"] <= found.test.intervals["fd"][1]
    )
    assert set(found.null_intervals) == set(found.null_baselines)
    assert "cgan_fashion_mnist --budget 90s --trials 2" in found.commands["searched_by"]
    with np.load(root / "runs" / "first" / "champion" / "samples.npz") as kept:
        assert kept["samples"].shape[2:] == (3, 64, 64)
        assert kept["samples"].std(axis=(0, 1, 3, 4)).min() > 0
    # Ours and the paper's, for the search and, with its validation classes, for the test.
    stored = sorted((root / "runs" / "pretrained").glob("[!.]*/weights.safetensors"))
    assert len(stored) == 4
    before = [path.stat().st_mtime_ns for path in stored]
    stored[0].write_bytes(stored[0].read_bytes()[:100])
    told = launch(root, "--study", "second")
    assert f"pre-training {stored[0].parent} was damaged" in told.replace("\n", "")
    after = [path.stat().st_mtime_ns for path in stored]
    assert after[0] > before[0]
    assert after[1:] == before[1:]
