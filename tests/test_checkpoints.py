"""Room is made by deleting what nobody needs, and nothing else."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from scored_trial import record
from test_faults import BRANCHING, decisions, no_ray, session
from test_search import rung
from toy_pipeline import ToyConfig, toy_space

from tuner import checkpoints
from tuner import study as study_module
from tuner.checkpoints import BEST, CheckpointCap, expendable
from tuner.journal import Journal
from tuner.places import local_copy
from tuner.search import last_checkpoint
from tuner.study import _session_name

__all__ = ["no_ray"]  # a fixture


def named(number, *points, state, **attrs):
    """A trial whose checkpoints are named "<number>/<rung>"."""
    made = record(number, *points, state=state)
    rungs = tuple(replace(rung, checkpoint=f"{number}/{rung.rung}") for rung in made.rungs)
    return replace(made, rungs=rungs, attrs=attrs)


def test_what_is_needed_is_never_expendable_and_the_worst_goes_first():
    ended = [named(n, (9e9, float(n)), state="COMPLETE") for n in range(BEST + 2)]
    low = named(20, (1e9, 0.0), state="PRUNED")
    paused = named(21, (1e9, 9.0), (3e9, 9.0), state="RUNNING")
    failed = named(22, (1e9, 0.1), state="FAIL")
    reference = named(23, (9e9, 99.0), state="COMPLETE", reference=True)
    order = expendable([*ended, low, paused, failed, reference], 9e9)
    assert order == ["21/0", "22/0", "20/0", f"{BEST + 1}/0", f"{BEST}/0"]


def test_one_huge_step_makes_no_finalist_expendable():
    ended = [named(n, (9e9, float(n)), state="COMPLETE") for n in range(BEST)]
    huge = named(20, (90e9, 99.0), state="PRUNED")
    assert expendable([huge, *ended], 9e9) == ["20/0"]


def test_a_trial_of_the_pareto_front_is_needed():
    def scored(number, loss, coverage):
        made = named(number, (9e9, loss), state="COMPLETE")
        metrics = {**made.rungs[0].metrics, "coverage": coverage}
        return replace(made, rungs=(replace(made.rungs[0], metrics=metrics),))

    ended = [scored(n, float(n), 0.5) for n in range(BEST)]
    records = [*ended, scored(20, 20.0, 0.4), scored(21, 21.0, 0.9)]
    both = ["21/0", "20/0"]
    assert expendable(records, 9e9) == both
    assert expendable(records, 9e9, ("L", "coverage")) == ["20/0"]


def test_a_session_takes_no_name_that_another_had_here_or_elsewhere(tmp_path):
    with Journal(tmp_path, "toys", bucket="s3://b/toys?region=x") as journal:
        assert _session_name(journal) == "session_01"
        for number in (2, 10):
            (journal.folder / f"session_{number:02d}").mkdir()
        (journal.folder / "session_10.bak").mkdir()  # somebody's copy
        assert _session_name(journal) == "session_11"
        journal.ask(toy_space, ToyConfig())
        elsewhere = "s3://b/toys/session_12/trial_0000/checkpoint_000000?region=x"
        journal.add_rung(0, rung(0, 1.0, checkpoint=elsewhere))
        assert _session_name(journal) == "session_13"


def test_a_worker_that_outlived_its_driver_stops_no_session(tmp_path, monkeypatch):
    with Journal(tmp_path, "study") as journal:
        (journal.folder / "session_01/trial_0000/checkpoint_000000").mkdir(parents=True)

        def refill(*_arguments, **_options):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")

        monkeypatch.setattr("os.rmdir", refill)
        CheckpointCap(journal, full=9e9)


def held(folder: Path) -> int:
    return sum(1 for _ in folder.glob("study/session_*/*/checkpoint_*/state.pt"))


@pytest.mark.usefixtures("no_ray")
def test_a_study_within_a_tight_cap_decides_what_it_would_without(tmp_path, monkeypatch):
    wanted = decisions(session(tmp_path / "free"))
    assert held(tmp_path / "free") > len(wanted)
    monkeypatch.setattr(
        study_module,
        "CheckpointCap",
        lambda journal, full: CheckpointCap(journal, full=full, most=1),
    )
    records = session(tmp_path / "tight")
    assert decisions(records) == wanted
    # Nothing is expendable but older rungs: there are fewer trials than the finals may look at.
    assert held(tmp_path / "tight") == sum(bool(r.rungs) for r in records) < held(tmp_path / "free")
    assert all(last_checkpoint(r) == r.rungs[-1].checkpoint for r in records if r.rungs)
    assert all(Path(g.checkpoint, "grid.png").is_file() for r in records for g in r.rungs)


@pytest.mark.usefixtures("no_ray")
def test_bytes_count_and_what_a_crash_left_goes_at_once(tmp_path):
    session(tmp_path)
    left = tmp_path / "study/session_01/trial_0001/checkpoint_000099"
    left.mkdir()
    (left / "state.pt").write_bytes(b"torn")
    with Journal(tmp_path, "study") as journal:
        cap = CheckpointCap(journal, full=9e9, most_bytes=1)
        assert not left.exists()
        before = held(tmp_path)
        last = journal.record(0).rungs[-1]
        cap.rung_reached(0, last.rung, {}, [], Path(last.checkpoint), "done")
        assert held(tmp_path) == sum(bool(r.rungs) for r in journal.records()) < before
    assert len(BRANCHING) < before


def test_nothing_outside_of_the_study_is_deleted_whatever_its_journal_names(tmp_path):
    outside = tmp_path / "mine" / "trial_0000" / "checkpoint_000000"
    outside.mkdir(parents=True)
    (outside / "state.pt").write_bytes(b"precious")
    with Journal(tmp_path, "study") as journal:
        (journal.folder / "session_01").symlink_to(tmp_path / "mine")
        journal.study.enqueue_trial({})
        number = journal.study.ask().number
        for rung, place in enumerate((str(outside), f"{journal.folder}/../mine/trial_0000/a")):
            made = record(number, (9e9, 1.0), state="RUNNING").rungs[0]
            journal.add_rung(number, replace(made, rung=rung, checkpoint=place))
        cap = CheckpointCap(journal, full=9e9, most=0)
        own = journal.folder / "session_02" / "trial_0000" / "checkpoint_000000"
        own.mkdir(parents=True)
        cap.rung_reached(number, 1, {}, [], own, "continue")
    assert (outside / "state.pt").read_bytes() == b"precious"


def test_nothing_of_another_bucket_is_deleted_whatever_the_journal_names(tmp_path, monkeypatch):
    dropped = []
    monkeypatch.setattr(checkpoints, "drop", lambda place, name: dropped.append((place, name)))
    own = "s3://ours/runs/study/session_01/trial_0001/checkpoint_000000?region=x"
    others = (
        "s3://theirs/runs/study/session_01/trial_0000/checkpoint_000000?region=x",
        "s3://ours/runs/other/session_01/trial_0000/checkpoint_000001?region=x",
        "s3://ours/runs/study/session_01/../checkpoint_000002?region=x",
        "s3://ours/runs/study/session_01/trial_0000/checkpoint_000003?region=x&endpoint_override=y",
    )
    with Journal(tmp_path, "study", bucket="s3://ours/runs/study?region=x") as journal:
        journal.study.enqueue_trial({})
        number = journal.study.ask().number
        for rung, place in enumerate([*others, own, own]):
            made = record(number, (9e9, 1.0), state="RUNNING").rungs[0]
            journal.add_rung(number, replace(made, rung=rung, checkpoint=place))
            copy = local_copy(place, journal.folder)
            copy.mkdir(parents=True, exist_ok=True)
            (copy / "weights.safetensors").write_bytes(b"a copy")
        cap = CheckpointCap(journal, full=9e9, most=0)
        cap.rung_reached(number, 5, {}, [], copy, "continue")
    assert dropped == [(own, "state.pt"), (own, "weights.safetensors")]


def test_room_is_made_for_more_than_one(tmp_path, monkeypatch):
    """To look for what can go takes as long as there are trials."""
    looks = []

    def looked(*arguments):
        looks.append(arguments)
        return expendable(*arguments)

    monkeypatch.setattr(checkpoints, "expendable", looked)
    with Journal(tmp_path, "study") as journal:
        cap = CheckpointCap(journal, full=9e9, most=20)
        for number in range(2 * (20 + BEST)):
            journal.ask(toy_space, ToyConfig())
            folder = journal.folder / f"session_01/trial_{number:04d}/checkpoint_000000"
            folder.mkdir(parents=True)
            (folder / "state.pt").write_bytes(b"state")
            journal.add_rung(number, rung(2, float(number), checkpoint=str(folder)))
            journal.end(number, "COMPLETE", "")
            cap.rung_reached(number, 2, {}, [], folder, "done")
    assert 18 <= held(tmp_path) <= 20
    assert len(looks) == (2 * (20 + BEST) - 20) // 3 + 1  # every third is one too many
