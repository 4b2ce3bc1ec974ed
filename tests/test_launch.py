"""The command line: every bad request is one line on stderr, exit code 2, and leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner import launch, machine
from tuner.experiment_names import ALL, NAMES
from tuner.experiments import EXPERIMENTS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the user's cache, and no path names the real data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FEWSHOT_DATA", raising=False)


def refuse(capsys: pytest.CaptureFixture[str], storage: Path, *argv: str) -> str:
    """The one line that the command answers with."""
    code = launch.main([*argv, "--storage", str(storage)])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert not storage.exists(), "something was written"
    return error


def pictures(folder: Path, classes: int, each: int) -> Path:
    rng = np.random.default_rng(0)
    for index in range(classes):
        (folder / f"class{index}").mkdir(parents=True)
        for number in range(each):
            image = Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8))
            image.save(folder / f"class{index}" / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["reptile_omniglt"], "Did you mean 'reptile_omniglot'?"),
        (["nonsense"], "There is no experiment 'nonsense'"),
        (["reptile_omniglot", "--js"], "unrecognized arguments: --js"),  # half of --json
        (["reptile_omniglot", "--budget", "-5m"], "--budget must be a positive time"),
        (["reptile_omniglot", "--budget", "0"], "--budget must be a positive time"),
        (["reptile_omniglot", "--trials", "0"], "--trials must be at least 1"),
        (["reptile_omniglot", "--study", "../x"], "--study becomes a folder"),
        (["reptile_omniglot", "--study", "/abs"], "--study becomes a folder"),
        (["reptile_omniglot", "--seed", "-1"], "--seed must be"),
        (["reptile_omniglot", "--resume"], "to resume"),
        (["reptile_omniglot", "--sampler", "tpee"], "invalid choice: 'tpee'"),
        (["reptile_omniglot", "--objectives", "fd"], "--objectives must be some of L, coverage"),
        (["reptile_omniglot", "--sampler", "cmaes", "--objectives", "coverage"], "one objective"),
        (["reptile_omniglot", "--data-root", "/nowhere/at/all"], "/nowhere/at/all"),
        (["reptile_omniglot", "--data", "a", "--data-root", "b"], "leave one out"),
    ],
)
def test_bad_requests(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refuse(capsys, tmp_path / "runs", *options)


def test_a_budget_that_argparse_takes_for_an_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--budget -5m` reaches us only as `--budget=-5m`; either way the exit code is 2."""
    assert "-5m" in refuse(capsys, tmp_path / "runs", "reptile_omniglot", "--budget=-5m")


def test_a_storage_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    assert launch.main(["reptile_omniglot", "--storage", str(file / "runs")]) == 2
    error = capsys.readouterr().err
    assert "--storage must be a folder" in error
    assert error.count("\n") == 1


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that one may not enter: root's own, for a while that the test is not root."""
    import tuner.conductor  # noqa: F401  # all modules, while they can surely be read

    folder = tmp_path / "locked"
    folder.mkdir(mode=0o700)
    tmp_path.chmod(0o777)
    with ExitStack() as stack:
        if os.geteuid() == 0:
            for place in tmp_path.parents:
                if (mode := place.stat().st_mode) & 0o005 != 0o005:  # pytest's own
                    stack.callback(place.chmod, mode)
                    place.chmod(0o755)
            os.seteuid(65534)
            stack.callback(os.seteuid, 0)
        else:
            folder.chmod(0)
            stack.callback(folder.chmod, 0o700)
        yield folder


@pytest.mark.parametrize("option", ["--storage", "--data", "--data-root", "$FEWSHOT_DATA", "cache"])
@pytest.mark.parametrize("below", ["", "runs"])
def test_folders_that_may_not_be_entered(
    option: str,
    below: str,
    locked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["reptile_mnist", "--storage", str(tmp_path / "runs"), "--dry-run"]
    place = locked / below
    if option == "$FEWSHOT_DATA":
        monkeypatch.setenv("FEWSHOT_DATA", str(place))
    elif option == "cache":
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    else:
        argv += [option, str(place)]
    assert launch.main(argv) == 2
    error = capsys.readouterr().err
    assert str(place) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("cpus", "words"), [("4096", "4096 CPUs"), ("0", "above 0")])
def test_cpus_a_trial_that_cannot_be(
    cpus: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "pictures", classes=4, each=8)
    error = refuse(
        capsys,
        tmp_path / "runs",
        "reptile_omniglot",
        "--data",
        str(data),
        "--cpus-per-trial",
        cpus,
    )
    assert words in error


def test_a_tracking_server_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "pictures", classes=4, each=8)
    uri = "http://127.0.0.1:9"
    error = refuse(
        capsys,
        tmp_path / "runs",
        "reptile_omniglot",
        "--data",
        str(data),
        "--tracking-uri",
        uri,
    )
    assert "127.0.0.1:9" in error


@pytest.mark.parametrize("words", [["reptile_omniglot"], ["all"], ["--replay", "0" * 32]])
def test_a_password_on_the_command_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "http://name:secret@127.0.0.1:9"
    error = refuse(capsys, tmp_path / "runs", *words, "--tracking-uri", uri)
    assert "MLFLOW_TRACKING_PASSWORD" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    ("classes", "each", "words"), [(1, 8, "class"), (2, 8, "class"), (4, 3, "pictures")]
)
def test_folders_that_are_too_small(
    classes: int, each: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "pictures", classes=classes, each=each)
    error = refuse(capsys, tmp_path / "runs", "reptile_omniglot", "--data", str(data))
    assert words in error


def test_a_picture_that_is_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "pictures", classes=4, each=8)
    (data / "class1" / "3.png").write_bytes(b"no picture")
    error = refuse(capsys, tmp_path / "runs", "reptile_omniglot", "--data", str(data))
    assert "3.png" in error


def test_a_truncated_zip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / "omniglot-py"
    folder.mkdir(parents=True)
    for part in ("background", "evaluation"):
        path = folder / f"images_{part}.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"images_{part}/A/character01/0001_01.png", b"x" * 5000)
        path.write_bytes(path.read_bytes()[:2000])
    error = refuse(
        capsys,
        tmp_path / "runs",
        "reptile_omniglot",
        "--data-root",
        str(tmp_path / "data"),
    )
    assert "images_background.zip" in error


def test_a_taken_study_name_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "pictures", classes=4, each=8)
    (tmp_path / "runs" / "mine" / "session_01").mkdir(parents=True)
    argv = ["reptile_omniglot", "--data", str(data), "--study", "mine"]
    assert launch.main([*argv, "--storage", str(tmp_path / "runs")]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "pictures", classes=4, each=8)
    storage = tmp_path / "runs"
    argv = ["reptile_omniglot", "--data", str(data), "--dry-run", "--storage", str(storage)]
    assert launch.main(argv) == 0
    text = capsys.readouterr().out
    for word in ("Study ", "Data ", "Hardware ", "Plan ", "Time "):
        assert word in text
    assert not storage.exists()


def test_every_experiment_is_named_in_the_help() -> None:
    assert set(NAMES) == set(EXPERIMENTS)


def without(frameworks: set[str], *argv: str) -> str:
    """What a command says that must not import them."""
    code = (
        "import sys\nfrom tuner import launch\n"
        f"try: assert launch.main({list(argv)!r}) == 0\nexcept SystemExit: pass\n"
        f"found = {frameworks!r} & set(sys.modules)\nassert not found, found"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_help_explains_and_is_quick() -> None:
    said = without({"torch", "ray", "mlflow", "optuna", "numpy"}, "--help")
    for option in ("--trials", "--budget", "--resume", "--data-root", "--address", "--scale"):
        assert re.search(rf"{option}\b", said)


@pytest.mark.parametrize("name", ["reptile_omniglot", "cgan_fashion_mnist", "all"])
def test_a_dry_run_is_quick_where_the_speed_was_measured_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if machine.gpus():
        pytest.skip("GPUs are counted by torch")
    monkeypatch.setattr(machine, "CALIBRATION_SECONDS", 0.01)
    argv = [name, "--dry-run", "--storage", str(tmp_path / "runs")]
    if name != ALL:
        argv += ["--data", str(pictures(tmp_path / "pictures", classes=4, each=8))]
    assert launch.main(argv) == 0
    assert "Speed      of this machine, measured now\n" in capsys.readouterr().out
    said = without({"torch", "torchvision", "ray", "mlflow"}, *argv)
    told = r"Speed      of this machine, measured before, on 20\d\d-\d\d-\d\d at \d\d:\d\d; a run"
    assert re.search(told, said)
    assert "measured now" not in said
