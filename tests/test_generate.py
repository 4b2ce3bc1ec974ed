"""The command: whole files or none, one line for what is wrong, and the same pictures again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_champion import drawings, keep_champion

from tuner import generate
from tuner.exit_codes import CANNOT_BE_MET, INTERRUPTED
from tuner.model import Model


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep_champion(tmp_path_factory.mktemp("kept") / "champion")


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = tmp_path / "shots"
    folder.mkdir()
    for number, drawing in enumerate(drawings()[3, :4]):
        Image.fromarray(255 - drawing).save(folder / f"{number}.png")
    return folder


def test_pictures_come_as_a_grid_and_one_by_one(
    kept: Path, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(name: str, seed: str) -> np.ndarray:
        out, each = tmp_path / f"{name}.png", tmp_path / name
        command = [str(kept), "--shots", str(shots), "--count", "9", "--seed", seed]
        assert generate.main([*command, "--out", str(out), "--out-dir", str(each)]) == 0
        files = sorted(each.iterdir())
        assert [file.name for file in files] == [f"{number:04}.png" for number in range(9)]
        pictures = np.stack([np.asarray(Image.open(file)) for file in files])
        grid = np.asarray(Image.open(out))[::4, ::4, 0]  # 4 screen pixels a pixel
        assert grid.shape == (32 + 2 / 4 * 4 + 2 * 32, 8 * 32)
        assert (grid[:32, :128] == np.concatenate(list(drawings()[3, :4]), axis=1)).all()
        assert (grid[34:66] == np.concatenate(list(pictures[:8]), axis=1)).all()
        assert (grid[66:, :32] == pictures[8]).all()
        return pictures

    first = made("first", "5")
    told = capsys.readouterr().out.splitlines()
    assert "3 steps of adaptation to 4 shots" in told[0]
    assert "of 9 are near copies of a shot" in told[1]
    assert told[2].startswith("distance to the nearest shot ")
    assert (made("again", "5") == first).all()
    assert (made("other", "6") != first).any()
    left = {path.name for path in tmp_path.iterdir()} - {"shots"}
    assert left == {f"{name}{end}" for name in ("first", "again", "other") for end in ("", ".png")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "Name where new pictures go"),
        (["--out", "new.jpg"], "--out must be a PNG file"),
        (["--out", "there.png"], "'there.png' exists: name another"),
        (["--out-dir", "shots"], "'shots' exists: name another"),
        (["--out", "nowhere/new.png"], "in a folder that can be written"),
        (["--out", "new.png", "--count", "0"], "--count must be 1 to"),
        (["--out", "new.png", "--steps", "10"], "at most 9 steps"),
        (["--out", "new.png", "--seed", "-1"], "`seed` must be 0"),
        (["--out", "new.png", "--shots", "none.png"], "'none.png' is absent"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    options: list[str],
    words: str,
    kept: Path,
    shots: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(shots.parent)
    Path("there.png").touch()
    before = sorted(shots.parent.rglob("*"))
    assert generate.main([str(kept), "--shots", "shots", *options]) == CANNOT_BE_MET
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert sorted(shots.parent.rglob("*")) == before


def test_ctrl_c_leaves_nothing(
    kept: Path, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "as_png", interrupted)
    command = [str(kept), "--shots", str(shots), "--count", "2", "--steps", "0"]
    assert generate.main([*command, "--out-dir", str(tmp_path / "each")]) == INTERRUPTED
    monkeypatch.setattr(Model, "scores", interrupted)
    assert generate.main([*command, "--out", str(tmp_path / "new.png")]) == INTERRUPTED
    assert [path.name for path in tmp_path.iterdir()] == ["shots"]


def test_help_needs_no_framework() -> None:
    """Which take seconds to import."""
    code = (
        "import sys; from tuner.generate import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'mlflow', 'ray', 'scipy', 'skimage'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "python -m tuner.generate" in done.stdout
