"""`--on-finish`: what is started, what it is told, and that nothing comes of it for the study."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_setting import request_

from trainables.errors import UserError
from tuner import conductor, launch, on_finish
from tuner.exit_codes import BROKEN_DOWN, CANNOT_BE_MET, INTERRUPTED
from tuner.on_finish import OnFinish, parse_command
from tuner.request import Request
from tuner.resume_command import resume_command
from tuner.setting import look_around

__all__ = ["request_"]  # a fixture

# Writes its arguments and what it was told of the study into the file named first.
NOTE = """
import json, os, sys
told = {k: v for k, v in os.environ.items() if k.startswith("TUNER_")}
open(sys.argv[1], "w").write(json.dumps([sys.argv[2:], told]))
"""


def finish(folder: Path, *words: str) -> OnFinish:
    ends = OnFinish(words)
    ends.folder = folder
    return ends


def noting(tmp_path: Path, *more: str) -> tuple[str, ...]:
    return (sys.executable, "-c", NOTE, str(tmp_path / "note"), *more)


def note(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "note").read_text())


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0, "finished"),
        (1, "nothing succeeded"),
        (BROKEN_DOWN, "stopped"),
        (INTERRUPTED, "interrupted"),
        (CANNOT_BE_MET, "failed"),
        (None, "failed"),
    ],
)
def test_the_command_learns_from_its_environment_how_a_study_ended(
    tmp_path: Path, code: int | None, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_REPORT", "of another study")
    folder = tmp_path / "a study; touch $HOME"  # no shell reads it
    folder.mkdir()
    told = {"TUNER_STUDY": folder.name, "TUNER_OUTCOME": outcome}
    ends = finish(folder, *noting(tmp_path, "$TUNER_STUDY;"))
    ends.run(code)
    assert note(tmp_path) == [["$TUNER_STUDY;"], told]
    (tmp_path / "note").unlink()
    ends.run(code)
    assert not (tmp_path / "note").exists(), "once"
    for name in ("result.json", "report.html"):
        (folder / name).touch()
    finish(folder, *noting(tmp_path)).run(code)
    there = {"TUNER_RESULT": str(folder / "result.json")}
    there |= {"TUNER_REPORT": str(folder / "report.html")}
    assert note(tmp_path)[1] == told | there


def test_nothing_is_run_of_a_study_that_has_not_begun(tmp_path: Path) -> None:
    OnFinish(noting(tmp_path)).run(CANNOT_BE_MET)
    assert not (tmp_path / "note").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((sys.executable, "-c", "raise SystemExit(7)"), "failed with exit code 7"),
        (("/no/such/program",), "could not be started: No such file or directory"),
    ],
)
def test_its_failure_is_one_line(
    tmp_path: Path, words: tuple[str, ...], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path, *words).run(0)
    assert capfd.readouterr() == ("", f"--on-finish: {words[0]} {told}\n")


def test_one_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_finish, "SECONDS", 0.5)
    pid = tmp_path / "pid"
    began = time.monotonic()
    finish(tmp_path, "sh", "-c", f"sleep 600 & echo $! > {pid}; wait").run(0)
    assert time.monotonic() - began < 20
    assert "was ended after 0 seconds" in capfd.readouterr().err
    ends = time.monotonic() + 10
    while Path("/proc", pid.read_text().strip()).exists():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a command that can be started, got ''"),
        ("no-such-program --now", "got 'no-such-program'"),
        ("sh -c 'unfinished", "No closing quotation"),
        ("curl https://me:secret@host/", "must hold no credentials"),
    ],
)
def test_a_command_that_cannot_be_is_refused_before_anything_begins(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "runs"
    argv = ["reptile_omniglot", "--storage", str(storage), "--on-finish", text]
    assert launch.main(argv) == CANNOT_BE_MET
    assert told in capsys.readouterr().err
    assert not storage.exists()


def test_a_command_is_its_words_as_a_shell_has_them() -> None:
    assert parse_command("sh -c 'a  b; c'") == ("sh", "-c", "a  b; c")
    with pytest.raises(UserError):
        parse_command(str(Path(__file__)))  # no program


def test_a_program_beside_which_one_stands_is_found_from_any_folder(
    tmp_path: Path, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = tmp_path / "tell-me.sh"
    told.write_text("#!/bin/sh\n")
    told.chmod(0o755)
    command = parse_command("./tell-me.sh ./now")
    assert command == (str(told), "./now")
    going_on = resume_command(look_around(replace(request_, on_finish=command), None))
    assert f"--on-finish '{told} ./now'" in going_on


def test_the_command_that_goes_on_has_it_and_a_resume_without_it_runs_nothing(
    request_: Request,
) -> None:
    setting = look_around(replace(request_, on_finish=("sh", "-c", "a b")), None)
    words = shlex.split(resume_command(setting))
    assert words[words.index("--on-finish") + 1] == "sh -c 'a b'"
    assert "--on-finish" not in resume_command(look_around(request_, None))


@pytest.mark.parametrize(
    ("does", "outcome"),
    [
        (0, "finished"),
        (BROKEN_DOWN, "stopped"),
        (INTERRUPTED, "interrupted"),
        (KeyError("a bug"), "failed"),
    ],
)
def test_it_is_run_when_all_is_closed_and_changes_no_exit_code(
    does: Any,
    outcome: str,
    tmp_path: Path,
    request_: Request,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[bool] = []

    def work(_request: Request, stack: Any, _timings: Any, ends: OnFinish) -> int:
        stack.callback(lambda: closed.append((tmp_path / "note").exists()))
        ends.folder = tmp_path
        if isinstance(does, Exception):
            raise does
        return int(does)

    monkeypatch.setattr(conductor, "_conduct", work)
    words = ("sh", "-c", f'echo "$TUNER_OUTCOME" > {shlex.quote(str(tmp_path / "note"))}; exit 9')
    asked = replace(request_, on_finish=words)
    if isinstance(does, Exception):
        with pytest.raises(KeyError):
            conductor.conduct(asked)
    else:
        assert conductor.conduct(asked) == does
    assert (tmp_path / "note").read_text() == f"{outcome}{os.linesep}"
    assert closed == [False]
