"""`launch all`: order, shares, what a resume does; the studies themselves are replaced."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_result import result

from trainables.errors import UserError
from tuner import every
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED
from tuner.journal import DELIVERED, Journal
from tuner.request import Request

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
    """Takes note of requests; a study in `stops` begins and is interrupted, once, and nothing
    succeeds in one of `fails`."""

    def __init__(self, *stops: str, fails: tuple[str, ...] = ()) -> None:
        self.asked: list[Request] = []
        self.stops, self.fails = set(stops), fails

    def __call__(self, request: Request) -> int:
        self.asked.append(request)
        folder = request.storage / str(request.study)
        if request.experiment in self.stops:
            self.stops.remove(request.experiment)
            with Journal(request.storage, str(request.study)) as journal:
                journal.set_attr("plan", {})
            return INTERRUPTED
        if request.dry_run:
            return 0
        made = result(folder)
        if request.experiment in self.fails:
            made = replace(made, best=None, outcome="nothing succeeded")
        made.write(folder / "result.json")
        return 0 if made.best is not None else 1


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
    clock = iter([0.0, 100.0, 100.0, 200.0, 200.0, 300.0])  # they take their share
    monkeypatch.setattr(every.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(every, "conduct", conductor)
    assert every.conduct_all(request_, NAMES) == 0
    assert [r.experiment for r in conductor.asked] == list(NAMES)
    assert [r.budget_seconds for r in conductor.asked] == [100.0] * 3


def test_what_a_study_leaves_over_goes_to_the_others_and_so_does_what_it_takes_too_much(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 of 300 s for the first leave 120 s each; then 230 s leave 10 s, and half a share is 50."""
    conductor, now = Conductor(), [0.0]
    lengths = {"first": 60.0, "second": 230.0, "third": 1.0}

    def conduct(request: Request) -> int:
        now[0] += lengths[request.experiment]
        return conductor(request)

    monkeypatch.setattr(every, "conduct", conduct)
    monkeypatch.setattr(every.time, "monotonic", lambda: now[0])
    every.conduct_all(request_, NAMES)
    assert [r.budget_seconds for r in conductor.asked] == [100.0, 120.0, 50.0]


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
    assert conductor.asked[-2].budget_seconds is None  # as much as its plan has left
    assert conductor.asked[-1].budget_seconds == pytest.approx(300.0, abs=1)  # all took no time


def test_a_study_that_mlflow_has_not_all_of_is_told_again_by_a_resume(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill came after its result: `conduct` finds that and trains nothing."""
    conductor = Conductor("third")
    monkeypatch.setattr(every, "conduct", conductor)
    every.conduct_all(replace(request_, trials=5), NAMES)
    for name, told in (("first", True), ("second", False)):
        with Journal(request_.storage, f"{name}-2") as journal:
            journal.set_attr(DELIVERED, told)
    del conductor.asked[:]
    assert every.conduct_all(replace(request_, resume=True, budget_seconds=None), NAMES) == 0
    again, last = conductor.asked
    assert (again.study, again.resume) == ("second-2", True)
    assert (again.budget_seconds, again.trials) == (None, None)  # either would search on
    assert (last.study, last.trials) == ("third-2", 5)


def test_a_resume_takes_up_all_options_and_new_ones_go_first(
    request_: Request, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conductor = Conductor("second")
    monkeypatch.setattr(every, "conduct", conductor)
    asked = replace(
        request_,
        seed=7,
        trials=5,
        scale="paper",
        size=64,
        tracking_uri="http://me:secret@server:5000",
        data_root=tmp_path / "data",
        cpus_per_trial=2.0,
        objectives=("L", "coverage"),
    )
    every.conduct_all(asked, NAMES)
    assert "secret" not in (tmp_path / every.RECORD).read_text(encoding="utf-8")
    bare = replace(request_, resume=True, budget_seconds=None)
    every.conduct_all(replace(bare, seed=8), NAMES)
    last = conductor.asked[-1]
    assert last == replace(
        asked,
        experiment="third",
        study="third-2",
        budget_seconds=last.budget_seconds,
        seed=8,
        tracking_uri="http://server:5000",
    )


def test_a_budget_given_anew_is_for_what_is_left(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor = Conductor("second")
    monkeypatch.setattr(every, "conduct", conductor)
    every.conduct_all(request_, NAMES)
    every.conduct_all(replace(request_, resume=True, budget_seconds=800.0), NAMES)
    resumed, last = conductor.asked[-2:]
    assert resumed.resume
    assert [resumed.budget_seconds, last.budget_seconds] == pytest.approx([400.0, 800.0], abs=1)


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", "{}", '{"each": 1, "studies": {}}', '{"options": {}, "spent": "no"}'),
        *(
            json.dumps({"options": every.OPTIONS, "spent": 0, "studies": {NAMES[0]: name}})
            for name in ("../elsewhere", "/etc", "")
        ),
    ],
)
def test_a_damaged_record_is_one_line(request_: Request, content: str) -> None:
    (request_.storage / every.RECORD).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="resume its studies one by one"):
        every.conduct_all(replace(request_, resume=True), NAMES)


@pytest.mark.parametrize("error", [UserError("the disk went away"), KeyboardInterrupt()])
def test_what_ends_it_midway_tells_how_to_go_on(
    error: BaseException,
    request_: Request,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conductor = Conductor()

    def conduct(request: Request) -> int:
        if request.experiment == "second":
            raise error
        return conductor(request)

    monkeypatch.setattr(every, "conduct", conduct)
    if isinstance(error, UserError):
        with pytest.raises(UserError):
            every.conduct_all(request_, NAMES)
    else:
        assert every.conduct_all(request_, NAMES) == INTERRUPTED
    assert "all --resume --storage" in capsys.readouterr().err
    monkeypatch.setattr(every, "conduct", conductor)
    assert every.conduct_all(replace(request_, resume=True, budget_seconds=None), NAMES) == 0
    assert [r.experiment for r in conductor.asked] == list(NAMES)


def test_a_study_that_never_began_begins(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict.fromkeys(every.OPTIONS)
    record = {"options": options, "spent": 0.0, "studies": {"first": "first-7"}}
    (request_.storage / every.RECORD).write_text(json.dumps(record), encoding="utf-8")
    conductor = Conductor()
    monkeypatch.setattr(every, "conduct", conductor)
    every.conduct_all(replace(request_, resume=True), NAMES)
    assert conductor.asked[0].study == "first-2"
    assert not conductor.asked[0].resume


def test_the_worst_code_is_returned(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "conduct", lambda r: int(r.experiment == "second"))
    assert every.conduct_all(request_, NAMES) == 1


def test_all_are_run_by_one_process_of_a_storage(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor, refused = Conductor(), []

    def conduct(request: Request) -> int:
        with pytest.raises(UserError, match=r"are running in .* already: wait for them"):
            every.conduct_all(request_, NAMES)
        refused.append(request.study)
        assert every.conduct_all(replace(request_, dry_run=True), ()) == 0
        return conductor(request)

    monkeypatch.setattr(every, "conduct", conduct)
    assert every.conduct_all(request_, NAMES) == 0
    assert len(refused) == 3
    assert every.conduct_all(replace(request_, resume=True, budget_seconds=None), NAMES) == 0


def test_the_record_is_on_the_disk_before_it_has_its_name(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (done.append(n), r(*a)))
    every._Record(options={}).write(request_.storage / every.RECORD)
    assert done == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("writes", [0, 1])
def test_a_record_that_a_full_disk_does_not_take_is_one_line(
    request_: Request,
    writes: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the first study, or after it: then there is something to resume."""
    conductor, left, write = Conductor(), [writes], every.write_whole

    def full(path: Path, content: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(every, "conduct", conductor)
    with monkeypatch.context() as disk:
        disk.setattr(every, "write_whole", full)
        assert every.conduct_all(request_, NAMES) == BROKEN_DOWN
    said = capsys.readouterr().err
    assert said.startswith("Stopped: The disk of ")
    assert ("run the same command again" in said) == (writes == 0)
    assert ("all --resume --storage" in said) == (writes == 1)
    assert every.conduct_all(replace(request_, resume=bool(writes)), NAMES) == 0
    assert [r.experiment for r in conductor.asked] == list(NAMES)


def test_a_name_that_became_another_process_s_is_not_resumed(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study of that name is another one: the next number is taken."""
    conductor = Conductor()

    def conduct(request: Request) -> int:
        with Journal(request.storage, str(request.study)) as journal:
            journal.set_attr("plan", "theirs")
        raise UserError("it was begun by another process meanwhile")

    monkeypatch.setattr(every, "conduct", conduct)
    with pytest.raises(UserError):
        every.conduct_all(request_, NAMES)
    monkeypatch.setattr(every, "conduct", conductor)
    monkeypatch.setattr(
        every, "look_around", lambda r, _ray: SimpleNamespace(study=f"{r.experiment}-3")
    )
    assert every.conduct_all(replace(request_, resume=True), NAMES) == 0
    assert (conductor.asked[0].study, conductor.asked[0].resume) == ("first-3", False)


def test_a_resume_knows_the_codes_of_what_is_done(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor = Conductor("third", fails=("first",))
    monkeypatch.setattr(every, "conduct", conductor)
    assert every.conduct_all(request_, NAMES) == INTERRUPTED
    assert every.conduct_all(replace(request_, resume=True, budget_seconds=None), NAMES) == 1


def test_a_dry_run_shares_the_budget_as_a_run_does(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor = Conductor()
    monkeypatch.setattr(every, "conduct", conductor)
    assert every.conduct_all(replace(request_, dry_run=True), NAMES) == 0
    assert [r.budget_seconds for r in conductor.asked] == [100.0] * 3
    assert not list(request_.storage.iterdir())


def test_nothing_to_resume_is_one_line(request_: Request) -> None:
    with pytest.raises(UserError, match="leave --resume out"):
        every.conduct_all(replace(request_, resume=True), NAMES)
