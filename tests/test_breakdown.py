"""A machine's faults are noticed in time and leave nothing half-written."""

from __future__ import annotations

import errno
import os
import re
from collections import namedtuple
from pathlib import Path

import pytest

from cluster.session import HEAD
from tuner import breakdown, recorder
from tuner.breakdown import Breakdown, disk_full, require_machine
from tuner.journal import Journal

Usage = namedtuple("Usage", "total used free")


def test_a_study_stops_while_there_is_room_to_stop_in_order(tmp_path, monkeypatch):
    free = 400 * 2**20
    monkeypatch.setattr(breakdown.shutil, "disk_usage", lambda _place: Usage(2**40, 0, free))
    require_machine(tmp_path)
    require_machine(tmp_path, checkpoint_bytes=90 * 2**20)
    with pytest.raises(Breakdown, match=r"is full: 400.0 MB are free, 416.0 MB are needed") as told:
        require_machine(tmp_path, checkpoint_bytes=100 * 2**20)
    assert str(tmp_path) in str(told.value)


def test_a_dead_ray_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(breakdown, "dead_processes", lambda: ["raylet"])
    with pytest.raises(Breakdown, match=r"Ray died on this machine \(raylet\)"):
        require_machine(tmp_path)
    monkeypatch.setattr(breakdown, "dead_processes", lambda: [f"{HEAD}10.0.0.1:6379"])
    lost = re.escape("Ray died (no answer from the head at 10.0.0.1:6379)")
    with pytest.raises(Breakdown, match=lost):
        require_machine(tmp_path)


def test_a_write_that_a_full_disk_cut_leaves_no_half_line(tmp_path, monkeypatch):
    """The bytes are there, the disk says no: the line is taken back, and the next one is whole."""

    def full(handle):
        os.ftruncate(handle, os.fstat(handle).st_size - 3)
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path, "s") as journal:
        before = (tmp_path / "s/journal.log").read_bytes()
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                journal.set_attr("plan", {"trials": 3})
        assert (tmp_path / "s/journal.log").read_bytes() == before
        assert journal.attr("plan") is None
        journal.set_attr("plan", {"trials": 4})
    with Journal(tmp_path, "s") as journal:
        assert journal.attr("plan") == {"trials": 4}


def test_a_full_disk_is_told_of_a_folder_that_could_not_be_made(tmp_path):
    assert str(tmp_path) in str(disk_full(tmp_path / "runs" / "s"))


def test_a_checkpoint_and_all_names_above_it_are_on_the_disk_before_it_is_journalled(
    tmp_path, monkeypatch
):
    settled = []
    monkeypatch.setattr(recorder, "settle", lambda *paths: settled.extend(paths))
    study = tmp_path / "s"
    checkpoint = study / "session_01/trial_0000/checkpoint_000000"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").touch()
    recorder._settle_on_disk(checkpoint, study)
    folders = [checkpoint, *checkpoint.parents][:4]
    assert folders[-1] == study
    assert settled == [checkpoint / "state.pt", *folders]
    recorder._settle_on_disk(Path("s3://bucket/checkpoint"), study)  # not on a disk of ours
    assert len(settled) == 5


def test_a_result_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    from test_result import result

    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (done.append(n), r(*a)))
    result(tmp_path).write(tmp_path / "result.json")
    assert done == ["fsync", "replace", "fsync"]  # the last one of the name


def test_a_result_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    from test_result import result

    path = Path(tmp_path, "result.json")
    made = result(tmp_path)
    made.write(path)
    before = path.read_bytes()

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        made.write(path)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["result.json"]
    assert path.read_bytes() == before
