"""`--detach`: what the terminal sees until a study has begun, and what is left when it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuner import background, launch
from tuner.background import OUTPUT
from tuner.exit_codes import CANNOT_BE_MET

# Stands in for `tuner.launch`: says something, begins in the folders that it is given, says more.
CHILD = """
import os, sys, time
from pathlib import Path
from tuner.background import leave_terminal
print("the plan, färbig, for", os.environ["COLUMNS"])
print("a warning", file=sys.stderr)
if sys.argv[1:] == ["wait"]:
    try:
        sys.stdout.flush()
        time.sleep(600)
    except KeyboardInterrupt: sys.exit("Interrupted")
if len(sys.argv) == 1: sys.exit(2)
for place in sys.argv[1:]:
    leave_terminal(Path(place), "the ways on")
    print("later in", place, os.getsid(0) == os.getpid(), os.environ.get("FEW_SHOT_TUNER_BEGUN"))
print("the end", flush=True)
os.system("echo from below")
"""
PARENT = """
import sys
from tuner import background
background.COMMAND = [sys.executable, sys.argv[1]]
sys.exit(background.run_in_background(sys.argv[2:]))
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "child.py"
    path.write_text(CHILD, encoding="utf-8")
    monkeypatch.setattr(background, "COMMAND", [sys.executable, str(path)])
    monkeypatch.setenv("COLUMNS", "123")
    return path


def output_of(folder: Path, last: str) -> str:
    """Once its last line is there."""
    path, text, ends = folder / OUTPUT, "", time.monotonic() + 60
    while last not in text:
        assert time.monotonic() < ends, text
        time.sleep(0.05)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text


def test_what_has_begun_goes_on_without_the_terminal(
    child: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / OUTPUT).write_text("an earlier session\n")
    assert background.run_in_background([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out == "the plan, färbig, for 123\nthe ways on\n"
    assert said.err == "a warning\n"
    assert output_of(tmp_path, "from below").splitlines() == [
        "an earlier session",
        "the plan, färbig, for 123",
        f"later in {tmp_path} True None",
        "the end",
        "from below",
    ]


def test_a_second_study_has_its_output_in_its_own_folder(
    child: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    assert background.run_in_background(list(map(str, places))) == 0
    assert capsys.readouterr().out.count("the ways on") == 1
    assert output_of(places[1], "the end").startswith(f"later in {places[1]}")
    assert output_of(places[0], "later").endswith(f"later in {places[0]} True None\n")


def test_what_ends_before_it_has_begun_ends_as_it_would_have(
    child: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert background.run_in_background([]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("the plan, färbig, for 123\n", "a warning\n")


def _heed_ctrl_c() -> None:
    """Also where the tests run in a shell's background, which has its commands ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begin_in(folder: Path, child: Path) -> subprocess.Popen[str]:
    """A first process, in a session of its own, whose second one plans for long."""
    (folder / "parent.py").write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(folder / "parent.py"), str(child), "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_ctrl_c,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("the plan")
    return process


def test_ctrl_c_before_it_has_begun_ends_both(child: Path, tmp_path: Path) -> None:
    with begin_in(tmp_path, child) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert process.stderr.read() == "a warning\nInterrupted\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["reptile_omniglt"], "Did you mean 'reptile_omniglot'?"),
        (["reptile_omniglot", "--budget", "0"], "--budget must be a positive time"),
        (["--replay", "0123456789abcdef0123456789abcdef"], "--on-finish out"),
    ],
)
def test_bad_requests_are_answered_in_the_terminal(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "runs"
    assert launch.main([*options, "--detach", "--storage", str(storage)]) == CANNOT_BE_MET
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not storage.exists()
