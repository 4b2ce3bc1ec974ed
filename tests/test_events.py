"""`--json`: events follow their schema, and have stdout alone."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_background import output_of
from test_launch import pictures
from test_live import HERE, scores
from test_result import result
from test_setting import planned, request_

from tuner import background, launch, machine
from tuner.events import EVENTS, SILENT, Events, TrialEvents, events_on_stdout
from tuner.exit_codes import CANNOT_BE_MET
from tuner.last_words import finished_facts
from tuner.opening import plan_facts
from tuner.request import Request
from tuner.schemas import schema_of
from tuner.setting import look_around

__all__ = ["request_"]  # a fixture

ROOT = Path(__file__).parents[1]


def valid(text: str) -> list[dict[str, Any]]:
    """All lines, each of which follows the schema."""
    told = [json.loads(line) for line in text.splitlines()]
    for event in told:
        jsonschema.validate(event, schema_of("events"), jsonschema.Draft202012Validator)
    return told


class Listener:
    """A pipe that events are told into."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        self.events = Events(self.write)

    def heard(self) -> list[dict[str, Any]]:
        os.close(self.write)
        with os.fdopen(self._read) as lines:
            return valid(lines.read())


def test_the_schema_is_one_and_every_event_is_told_of_in_the_docs() -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of("events"))
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    names = [one["properties"]["event"]["const"] for one in schema_of("events")["oneOf"]]
    assert len(set(names)) == len(names) == 14
    assert all(f"`{name}`" in page for name in names)


def test_what_trials_do_is_told_as_it_happens() -> None:
    listener = Listener()
    told = TrialEvents(listener.events, "a_study")
    told.trial_started(0, "paper", {"width": 8}, {"width": 8})
    told.rung_reached(0, 0, scores(0.5), [], HERE, "pause")
    told.trial_promoted(0)
    told.rung_reached(0, 1, scores(0.4) | {"complete": 0.0}, [], HERE, "done")
    told.trial_ended(0, "PRUNED", "time")
    told.trial_ended(1, "FAIL", "diverged: loss is nan")
    told.trial_ended(2, "COMPLETE", "")
    told.tick()
    heard = listener.heard()
    assert [event["event"].removeprefix("trial_") for event in heard] == [
        *("started", "rung", "paused", "promoted", "rung", "stopped", "failed", "done")
    ]
    assert heard[1]["metrics"] == scores(0.5)
    assert (heard[1]["complete"], heard[4]["complete"]) == (True, False)
    assert heard[5]["reason"] == "time"
    assert {event["study"] for event in heard} == {"a_study"}


def test_no_number_that_is_not_finite_is_told() -> None:
    listener = Listener()
    with pytest.raises(ValueError, match="not JSON compliant"):
        listener.events.tell("phase", ends=math.nan)
    assert listener.heard() == []


def test_a_plan_a_beginning_and_ends_follow_the_schema(request_: Request, tmp_path: Path) -> None:
    setting = look_around(request_, None)
    facts = plan_facts(planned(setting), setting)
    listener = Listener()
    tell = listener.events.tell
    tell("plan", study=setting.study, **facts)
    tell("begun", study=setting.study, **facts, folder=str(setting.folder), resumed=False)
    tell("phase", study=setting.study, phase="search", ends=1.5)
    tell("finals", study=setting.study, finalists=[3, 1])
    tell("finished", study="s", **finished_facts(result(tmp_path)), exit_code=0)
    nothing = replace(result(tmp_path), best=None, test=None, outcome="nothing succeeded")
    tell("finished", study="s", **finished_facts(nothing), exit_code=1)
    tell("interrupted", study="s", exit_code=130, resume="python -m tuner.launch ...")
    tell("error", error="the rule", exit_code=2)
    heard = listener.heard()
    assert len(heard) == 8
    assert heard[4]["champion"]["test"]["metrics"]["J"] == 0.39
    assert heard[5]["champion"] is None


def test_a_reader_that_is_gone_costs_nothing_but_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, write = os.pipe()
    os.close(read)
    events = Events(write)
    for _ in range(3):
        events.tell("trial_done", study="s", trial=0)
    os.close(write)
    assert capsys.readouterr().err.count("Nobody reads the events any more (Broken pipe)") == 1


def test_silence_is_the_default(capfd: pytest.CaptureFixture[str]) -> None:
    SILENT.tell("trial_done", study="s", trial=0)
    assert capfd.readouterr() == ("", "")


def test_all_else_that_is_printed_is_on_stderr_by_whomever() -> None:
    code = (
        "import os\nfrom rich.console import Console\n"
        "from tuner.events import events_on_stdout\n"
        "with events_on_stdout() as events:\n"
        "    print('python'); Console().print('rich'); os.system('echo shell')\n"
        "    os.write(1, b'a library\\n')\n"
        "    events.tell('trial_done', study='s', trial=0)\n"
        "print('after')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    first, last = run.stdout.splitlines()
    assert valid(first)[0]["event"] == "trial_done"
    assert last == "after"
    assert sorted(run.stderr.splitlines()) == ["a library", "python", "rich", "shell"]


@pytest.mark.parametrize(
    "argv",
    [
        ["reptile_omniglt"],
        ["reptile_omniglot", "--budget"],
        ["reptile_omniglot", "--budget", "never"],
        ["reptile_omniglot", "--on-finish", "no-such-program"],
        ["reptile_omniglot", "--detach", "--trials", "x"],
        ["all", "--study", "mine"],
    ],
)
def test_bad_input_is_one_event(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.main([*argv, "--json"]) == CANNOT_BE_MET
    said = capfd.readouterr()
    (event,) = valid(said.out)
    assert (event["event"], event["exit_code"]) == ("error", CANNOT_BE_MET)
    assert said.err == f"error: {event['error']}\n"


def test_a_dry_run_is_one_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "CALIBRATION_SECONDS", 0.01)
    argv = ["reptile_omniglot", "--data", str(pictures(tmp_path / "mine", classes=4, each=8))]
    argv += ["--storage", str(tmp_path / "runs"), "--json"]
    assert launch.main([*argv, "--dry-run", "--trials", "3"]) == 0
    said = capfd.readouterr()
    (event,) = valid(said.out)
    assert event["event"] == "plan"
    assert event["forecast"]["learned_from"] == 0
    assert event["plan"]["trials"] == event["forecast"]["trials"]["high"] == 3
    assert "Forecast " in said.err
    assert launch.main([*argv, "--dry-run", "--quiet"]) == 0
    said = capfd.readouterr()
    assert len(valid(said.out)) == 1
    assert said.err.splitlines() == [line for line in said.err.splitlines() if "Caution" in line]


def test_with_detach_events_go_on_in_the_studys_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from tuner.background import leave_terminal\n"
        "from tuner.events import events_on_stdout\n"
        "with events_on_stdout() as events:\n"
        "    print('the plan')\n"
        "    events.tell('trial_done', study='s', trial=0)\n"
        "    leave_terminal(Path(sys.argv[1]), 'the ways on', events)\n"
        "    events.tell('trial_done', study='s', trial=1)\n"
        "    print('the end')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(background, "COMMAND", [sys.executable, str(child)])
    assert background.run_in_background([str(tmp_path)]) == 0
    said = capfd.readouterr()
    assert [event["trial"] for event in valid(said.out)] == [0]
    assert said.err == "the plan\nthe ways on\n"
    assert output_of(tmp_path, "the end") == "the plan\nthe end\n"
    assert [e["trial"] for e in valid((tmp_path / EVENTS).read_text())] == [0, 1]


def test_stdout_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    with events_on_stdout() as events:
        events.tell("trial_done", study="s", trial=0)
    os.write(1, b"again\n")
    assert capfd.readouterr().out.splitlines()[1:] == ["again"]
