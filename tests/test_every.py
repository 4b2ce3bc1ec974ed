"""`launch all`: order, shares, what a resume does; the studies themselves are replaced."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainables.errors import UserError
from tuner import every
from tuner.conductor import INTERRUPTED
from tuner.journal import Journal
from tuner.setting import Request

NAMES = ("first", "second", "third")


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return Request(
        experiment="all",
        trials=None,
        budget_seconds=300.0,
        scale="auto",
        seed=0,
        data_root=None,
        data=None,
        size=32,
        target=None,
        base=None,
        storage=tmp_path,
        study=None,
        tracking_uri=None,
        address=None,
        cpus_per_trial=None,
        gpus_per_trial=None,
        dry_run=False,
        resume=False,
    )


class Conductor:
    """Takes note of requests; a study in `stops` begins and is interrupted, once."""

    def __init__(self, *stops: str) -> None:
        self.asked: list[Request] = []
        self.stops = set(stops)

    def __call__(self, request: Request) -> int:
        self.asked.append(request)
        folder = request.storage / str(request.study)
        if request.experiment in self.stops:
            self.stops.remove(request.experiment)
            with Journal(request.storage, str(request.study)) as journal:
                journal.set_attr("plan", {})
            return INTERRUPTED
        folder.mkdir(exist_ok=True)
        (folder / "result.json").write_text("{}", encoding="utf-8")
        return 0


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies are called after their experiment, as `look_around` does on real data."""
    monkeypatch.setattr(
        every, "look_around", lambda r, _ray: SimpleNamespace(study=f"{r.experiment}-2")
    )


def test_every_experiment_gets_the_same_share(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor = Conductor()
    monkeypatch.setattr(every, "conduct", conductor)
    assert every.conduct_all(request_, NAMES) == 0
    assert [r.experiment for r in conductor.asked] == list(NAMES)
    assert {r.budget_seconds for r in conductor.asked} == {100.0}


def test_a_resume_goes_on_with_what_was_interrupted(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conductor = Conductor("second")
    monkeypatch.setattr(every, "conduct", conductor)
    assert every.conduct_all(request_, NAMES) == INTERRUPTED
    assert "all --resume" in capsys.readouterr().err
    again = replace(request_, resume=True, budget_seconds=None)
    assert every.conduct_all(again, NAMES) == 0
    assert [(r.experiment, r.study, r.resume) for r in conductor.asked] == [
        ("first", "first-2", False),
        ("second", "second-2", False),
        ("second", "second-2", True),
        ("third", "third-2", False),
    ]
    assert conductor.asked[-1].budget_seconds == 100.0


def test_a_study_that_never_began_begins(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"each": 100.0, "studies": {"first": "first-7"}}
    (request_.storage / every.RECORD).write_text(json.dumps(record), encoding="utf-8")
    conductor = Conductor()
    monkeypatch.setattr(every, "conduct", conductor)
    every.conduct_all(replace(request_, resume=True), NAMES)
    assert conductor.asked[0].study == "first-2"
    assert not conductor.asked[0].resume


def test_the_worst_code_is_returned(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "conduct", lambda r: int(r.experiment == "second"))
    assert every.conduct_all(request_, NAMES) == 1


def test_nothing_to_resume_is_one_line(request_: Request) -> None:
    with pytest.raises(UserError, match="leave --resume out"):
        every.conduct_all(replace(request_, resume=True), NAMES)
