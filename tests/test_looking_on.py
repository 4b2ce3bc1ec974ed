"""A study seen from outside: status, logs and stop, on journals as a running study leaves them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from test_plan import plan
from test_result import result
from test_search import GOOD, PAPER, Config, rung, space

from tuner import logs, status, stop
from tuner.background import OUTPUT
from tuner.exit_codes import CANNOT_BE_MET, NOT_IN_TIME
from tuner.glance import glance
from tuner.hold import LOCK
from tuner.journal import DASHBOARD, FAILURE, PHASE, RESUME, Journal
from tuner.journal_file import LOG
from tuner.result import TrackingPlace

HELD = Path(__file__).with_name("held_study.py")
SCORES = {"J": 0.5, "coverage": 0.25}


def scored(k: int, value: float, **more: Any) -> Any:
    made = replace(rung(k, value, **more), when=1000.0 + k)
    return replace(made, metrics={**made.metrics, **SCORES})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Trials that are done, failed, paused and cut off, and one that is not begun; nobody is
    there."""
    with Journal(tmp_path, "mine") as journal:
        for name, value in {
            "experiment": "reptile_omniglot",
            "plan": plan().to_dict(),
            "mlflow": asdict(TrackingPlace(uri="http://h:1", experiment_id="2", parent_run_id="r")),
            DASHBOARD: "http://127.0.0.1:8265",
            RESUME: "python -m tuner.launch reptile_omniglot --resume --study mine",
        }.items():
            journal.set_attr(name, value)
        journal.enqueue([PAPER, GOOD], space, Config())
        for _ in range(4):
            journal.ask(space, Config())
        journal.enqueue([replace(GOOD, label="later")], space, Config())
        for k in range(3):
            journal.add_rung(0, scored(k, 0.5, decision="done" if k == 2 else "continue"))
        journal.end(0, "COMPLETE", "")
        journal.set_trial_attr(1, f"{FAILURE}1", "Traceback:\nOhNo: dear")
        journal.end(1, "FAIL", "crashed: OhNo: dear")
        journal.add_rung(2, scored(0, 0.1, decision="pause"))
    return tmp_path / "mine"


@contextmanager
def running(study: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds it and heeds requests."""
    command = [sys.executable, str(HELD), str(study)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def enters(study: Path, name: str, seconds_left: float | None) -> None:
    """As the process that holds it writes it."""
    ends = None if seconds_left is None else time.time() + seconds_left
    line = {"op_code": 2, "worker_id": "w", "study_id": 0}
    line["user_attr"] = {PHASE: {"name": name, "since": time.time(), "ends": ends}}
    with (study / LOG).open("a") as journal:
        journal.write(json.dumps(line, separators=(",", ":")) + "\n")


def told(study: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert status.main([str(study), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_a_study_that_nobody_runs_is_interrupted_and_can_go_on(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = told(study, capsys)
    assert there["state"] == "interrupted"
    assert there["trials"] == {"done": 1, "failed": 1, "paused": 1, "waiting": 1}
    assert there["dashboard"] is None  # it is gone with the session
    assert there["phase"] is there["ends"] is None
    assert there["best"]["number"] == 0  # a lower L at a lower rung is of less training
    assert there["best"]["settings"] == {"lr": 0.1}
    assert there["best"]["scores"]["J"] == 0.5
    assert status.main([str(study)]) == 0
    said = capsys.readouterr().out
    assert "Best       trial 0, paper's settings: L .50, J .50 at rung 3/3\n" in said
    assert "Go on      python -m tuner.launch reptile_omniglot --resume --study mine\n" in said
    assert "http://h:1/#/experiments/2/runs/r" in said


def test_the_best_of_a_study_without_a_full_trial_is_of_those_that_came_furthest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(tmp_path, "young") as journal:
        journal.set_attr("plan", plan().to_dict())
        for loss, rungs in ((0.5, 2), (0.1, 1)):
            number = journal.ask(space, Config()).number
            for k in range(rungs):
                journal.add_rung(number, scored(k, loss, decision="continue"))
    assert status.main([str(tmp_path / "young")]) == 0
    said = capsys.readouterr().out
    assert "L .50, J .50 at rung 2/3, the furthest that any has come\n" in said


def test_a_running_study_tells_what_it_does_and_how_long(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(study) as process:
        enters(study, "preparation", None)
        assert told(study, capsys)["phase"] == "preparation"
        enters(study, "search", 100.0)
        there = told(study, capsys)
        assert (there["state"], there["phase"]) == ("running", "search")
        assert there["holder"]["pid"] == process.pid
        assert there["trials"]["running"] == 1
        assert 0 < there["ends"] - time.time() <= 100
        finals = plan().budget_seconds - plan().search_seconds
        assert there["whole_ends"] == pytest.approx(there["ends"] + finals)
        assert there["dashboard"] == "http://127.0.0.1:8265"
        assert status.main([str(study)]) == 0
        said = capsys.readouterr().out
        assert f"process {process.pid} on " in said
        assert "Doing      searches, 1:" in said
        assert " left; all done at " in said
        enters(study, "finals", 50.0)
        there = told(study, capsys)
        assert there["ends"] is None
        assert 0 < there["whole_ends"] - time.time() <= 50
        assert "Go on" not in said


def test_what_an_earlier_session_did_is_not_what_this_one_does(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enters(study, "finals", 100.0)
    with running(study):
        assert told(study, capsys)["phase"] is None


def test_a_study_whose_process_was_killed_is_cut_off(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(study) as process:
        process.kill()
        process.wait()
    assert told(study, capsys)["state"] == "cut off"
    assert stop.main([str(study)]) == CANNOT_BE_MET
    error = capsys.readouterr().err
    assert "'mine' is not running: it is cut off; go on with: python -m tuner.launch" in error
    assert error.count("\n") == 1


def test_a_finished_study_tells_its_best_and_its_verdict(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = result(study, study="mine")
    assert made.best is not None
    replace(made, best=replace(made.best, number=0)).write(study / "result.json")
    there = told(study, capsys)
    assert (there["state"], there["best"]["number"]) == ("finished", 0)
    assert there["verdict"] == made.verdict
    assert stop.main([str(study)]) == CANNOT_BE_MET
    assert "'mine' is not running: it is finished\n" in capsys.readouterr().err


def test_a_study_is_read_whatever_of_it_is_written_and_nothing_is_changed(
    study: Path, tmp_path: Path
) -> None:
    """Any beginning of the journal may be what a reader sees."""
    whole = (study / LOG).read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    counts = []
    for size in [*range(0, len(whole), 211), *range(len(whole) - 40, len(whole) + 1)]:
        (copy / LOG).write_bytes(whole[:size])
        counts.append(len(glance(copy).records))
        status.standing(glance(copy))
        assert (copy / LOG).read_bytes() == whole[:size]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 5)
    assert os.listdir(copy) == [LOG]


def test_a_study_is_read_while_it_is_written(study: Path) -> None:
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(len(glance(study).records))

    with Journal(study.parent, "mine") as journal:
        looking = threading.Thread(target=look)
        looking.start()
        for _ in range(30):
            journal.ask(space, Config())
        over.set()
        looking.join()
        assert len(journal.records()) == 34
    assert seen == sorted(seen)


def test_a_study_that_has_no_plan_yet_can_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(tmp_path, "young"):
        there = told(tmp_path / "young", capsys)
        assert (there["state"], there["planned"], there["best"]) == ("running", None, None)
        assert status.main([str(tmp_path / "young")]) == 0
        assert "Doing      begins\n" in capsys.readouterr().out
    assert told(tmp_path / "young", capsys)["resume"] == "the same command again"


def test_a_moved_study_is_found_by_its_path(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(study, tmp_path / "another name")
    assert told(tmp_path / "another name", capsys)["study"] == "another name"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mien", "There is no study 'mien' in {}. Did you mean 'mine'?"),
        ("nothing-like-it", "There are: mine."),
        ("../runs", "There is no study 'runs'"),
        ("", "STUDY must be a folder or a name"),
        ("..", "STUDY must be a folder or a name"),
        ("a b", "STUDY must be a folder or a name"),
    ],
)
@pytest.mark.parametrize("command", [status, logs, stop])
def test_a_study_that_is_not_there_is_one_line(
    command: Any, name: str, words: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([name, "--storage", str(study.parent)]) == CANNOT_BE_MET
    error = capsys.readouterr().err
    assert words.format(study.parent) in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_empty_storage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["mine", "--storage", str(tmp_path / "none")]) == CANNOT_BE_MET
    assert "There are none in it: name another --storage." in capsys.readouterr().err


def test_a_damaged_journal_is_one_line(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (study / LOG).open("r+b") as journal:
        journal.write(b"no JSON")
    assert status.main([str(study)]) == CANNOT_BE_MET
    assert capsys.readouterr().err.count("\n") == 1


def test_looking_needs_no_framework(study: Path) -> None:
    code = (
        "import sys\nfrom tuner import logs, status, stop\n"
        f"for main in status.main, logs.main: assert main([{str(study)!r}]) == 0\n"
        f"assert stop.main([{str(study)!r}]) == 2\n"
        "found = {'torch', 'torchvision', 'ray', 'mlflow'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_study_stops_when_it_is_asked_to(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(study) as process:
        assert stop.main([str(study)]) == 0
        assert process.wait(10) == 0
    said = capsys.readouterr().out
    assert f"(process {process.pid} on " in said
    assert "It has stopped, after 0:0" in said
    assert "go on with:\n  python -m tuner.launch reptile_omniglot --resume --study mine\n" in said
    assert glance(study).state == "interrupted"


def test_a_study_that_does_not_stop_is_told(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(study) as process:
        process.send_signal(signal.SIGSTOP)
        assert stop.main([str(study), "--timeout", "1s"]) == NOT_IN_TIME
    error = capsys.readouterr().err
    assert f"It has not stopped within 0:01: wait, or end process {process.pid} on " in error
    assert stop.main([str(study), "--timeout", "soon"]) == CANNOT_BE_MET
    assert "--timeout must be a positive time" in capsys.readouterr().err


def test_what_became_of_a_failed_trial_can_be_found(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, part, text in ((1, "", "one\n"), (1, "_part_2", "two\n"), (10, "", "other\n")):
        folder = study / "session_01" / f"trial_{number:04d}{part}"
        folder.mkdir(parents=True)
        (folder / "printed.log").write_text(text)
    assert logs.main([str(study), "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "trial 1 · good · lr0.01"
    assert said[1] == 'settings: {"optimiser": "sgd", "lr": 0.01}'
    assert said[2].endswith(" began")
    assert said[3].endswith(" failed: crashed: OhNo: dear")
    assert said[5] == "one"
    assert said[7] == "two"
    assert said[8:] == ["crash 1:", "Traceback:", "OhNo: dear"]
    assert "other" not in said


@pytest.mark.parametrize("number", ["4", "-1", "99"])
def test_a_trial_that_has_not_begun_is_one_line(
    study: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert logs.main([str(study), number]) == CANNOT_BE_MET
    assert "TRIAL must be one that has begun, 0 to 3" in capsys.readouterr().err


def test_a_study_without_output_is_told_from_its_journal(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert logs.main([str(study)]) == 0
    said = capsys.readouterr()
    assert "does not run in the background" in said.err
    lines = said.out.splitlines()
    assert lines[0].endswith("trial 0 rung 1/3: L .50, J .50, coverage .25 -> continue")
    assert [line.split()[2:4] for line in lines].count(["trial", "0"]) == 5
    times = [line[:19] for line in lines]
    assert times == sorted(times)


def test_the_output_is_followed_until_the_study_ends(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.05)
    with running(study) as process:
        output = study / OUTPUT
        output.write_text("the plan\n")

        def end() -> None:
            with output.open("a") as file:
                file.write("the end\n")
            process.kill()

        later = threading.Timer(0.5, end)
        later.start()
        assert logs.main([str(study), "--follow"]) == 0
        later.join()
    assert capsys.readouterr().out == "the plan\nthe end\n"


def test_the_output_of_an_earlier_session_is_not_taken_for_a_running_ones(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / OUTPUT).write_text("earlier\n")
    os.utime(study / OUTPUT, (0, 0))
    with running(study):
        assert logs.main([str(study)]) == 0
        assert "earlier" not in capsys.readouterr().out
    (study / LOCK).write_text("")
    assert logs.main([str(study)]) == 0
    assert capsys.readouterr().out == "earlier\n"


def test_a_trial_is_followed_line_by_line(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.05)
    looks = []

    def one_more(folder: Path) -> bool:
        """A rung between the first look and the second."""
        if looks:
            with Journal(folder.parent, folder.name) as journal:
                journal.add_rung(2, scored(len(looks), 0.1))
        looks.append(folder)
        return len(looks) < 3

    monkeypatch.setattr(logs, "is_running", one_more)
    assert logs.main([str(study), "2", "--follow"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " rung " in line]
    assert [line.split(" rung ")[1][:3] for line in lines] == ["1/3", "2/3", "3/3"]
