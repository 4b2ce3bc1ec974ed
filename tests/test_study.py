import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ray.tune import Checkpoint
from safetensors.torch import load_file
from toy_pipeline import OPTIMUM, ToyConfig, ToyTrainable, toy_context, toy_space

from trainables.pipeline import Diverged
from trainables.trainable import (
    COMPLETE,
    CROWDED,
    FAIL,
    RUNG,
    TIME,
    NodeLeaves,
    require_finite,
)
from tuner import recorder as recorder_module
from tuner.journal import FAILURE, Journal
from tuner.known_points import trial_seed
from tuner.places import local_copy
from tuner.printed import printed_files
from tuner.recorder import LOSSES, RETRIES, LeaveLoop, Recorder
from tuner.rungs import Rungs
from tuner.search import JournalSearch
from tuner.standing import best_trial
from tuner.study import rebuilt_rungs
from tuner.trial_records import RungRecord, TrialRecord


def trial_config(number=0, *, deadline=math.inf, resume_from=None, known=False, gpus=0.0, **toy):
    return {
        "trial_number": number,
        "pipeline": "toy",
        "trial_config": {"x": OPTIMUM, **toy},
        "context": toy_context(),
        "seed": 1,
        "threads": 1,
        "deadline": deadline,
        "resume_from": resume_from,
        "known": known,
        "gpus": gpus,
        "gpu_overhead": 0.01,
    }


def toy(**options):
    """A trainable outside Ray, whose own constructor would make folders in the user's home."""
    trainable = ToyTrainable.__new__(ToyTrainable)
    trainable.setup(trial_config(**options))
    return trainable


# One trial


def test_a_trial_goes_from_rung_to_rung():
    trial = toy()
    results = [trial.step() for _ in range(3)]
    assert [r["outcome"] for r in results] == [RUNG, RUNG, COMPLETE]
    assert [r["done"] for r in results] == [False, False, True]
    assert [r["metrics"]["L"] for r in results] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert results[0]["losses"] == [(1.0, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("diverge", "diverged: loss went through the roof"),
        ("nan", "diverged: not finite: L = nan"),
        ("memory", "out of memory"),
    ],
)
def test_a_foreseen_failure_is_a_result_and_the_process_lives_on(tmp_path, trouble, reason):
    trial = toy(trouble=trouble, trouble_at=1)
    assert trial.step()["outcome"] == RUNG
    result = trial.step()
    assert (result["outcome"], result["reason"], result["done"]) == (FAIL, reason, True)
    assert result["metrics"] == {}
    trial.save_checkpoint(str(tmp_path))  # Ray takes one of every result
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert trial.reset_config(trial_config(1))
    assert trial.step()["outcome"] == RUNG


def test_what_is_too_large_for_the_rungs_costs_nothing():
    result = toy(trouble="large").step()
    reason = "too large: its least training takes 1000.00 times the first rung's"
    assert (result["outcome"], result["reason"]) == (FAIL, reason)
    assert toy(trouble="large", known=True).step()["outcome"] == RUNG


def test_a_bug_is_left_to_ray():
    with pytest.raises(KeyError, match="a bug"):
        toy(trouble="raise").step()


def test_no_rung_begins_on_a_node_that_was_told_to_leave(monkeypatch):
    leaving = {}
    here = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(ray._private.state.state, "get_draining_nodes", lambda: leaving)
    trial = toy()
    assert trial.step()["outcome"] == RUNG
    leaving["there"] = 0
    assert trial.step()["outcome"] == RUNG
    leaving["here"] = 0
    with pytest.raises(NodeLeaves):
        trial.step()


def test_torchs_own_memory_error_is_recognised(monkeypatch):
    trial = toy()

    def build():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8")

    monkeypatch.setattr(trial, "_build", build)
    assert trial.step()["reason"] == "out of memory"


@pytest.mark.parametrize(
    ("gpus", "outcome"), [(0.0, FAIL), (0.25, CROWDED), (0.5, CROWDED), (1.0, FAIL), (2.0, FAIL)]
)
def test_memory_that_ends_on_a_shared_card_is_no_failure(tmp_path, gpus, outcome):
    trial = toy(trouble="memory", trouble_at=1, gpus=gpus)
    assert trial.step()["outcome"] == RUNG
    result = trial.step()
    assert (result["outcome"], result["reason"], result["done"]) == (outcome, "out of memory", True)
    trial.save_checkpoint(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_trial_may_take_its_share_of_a_card_without_what_its_process_takes(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("trainables.trainable.share_card", asked.append)
    trial = toy(gpus=0.25)
    trial.reset_config(trial_config(1, gpus=0.25))
    toy(gpus=1.0)
    toy()
    assert asked == [0.24, 0.24]


def test_the_clock_cuts_a_trial_where_it_stands():
    trial = toy(deadline=time.time() + 0.2, seconds=5.0)
    result = trial.step()
    assert (result["outcome"], result["done"]) == (TIME, True)
    assert result["metrics"]["train_flops"] == 5e8  # half of the first rung
    assert result["metrics"]["rung"] == -1


def test_the_first_update_has_its_moment():
    before = time.time()
    first, second = (trial := toy(seconds=0.05)).step(), trial.step()
    assert before < first["first_update"] < before + 0.05 + 5
    assert 10e6 < first["resident_bytes"] <= second["resident_bytes"] < 100e9
    assert second["first_update"] == first["first_update"]
    assert toy(seconds=0.0).step()["first_update"] is None  # it was asked once


def test_past_the_deadline_nothing_is_trained_or_scored():
    result = toy(deadline=time.time() - 1).step()
    assert result == {"outcome": TIME, "metrics": {}, "episodes": [], "losses": [], "done": True}


def test_a_checkpoint_holds_everything_and_restores(tmp_path):
    trial = toy()
    trial.step()
    trial.save_checkpoint(str(tmp_path))
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (4, 4)
    assert load_file(tmp_path / "weights.safetensors")["done"].item() == 1
    assert json.loads((tmp_path / "config.json").read_text())["trial_config"] == {"x": OPTIMUM}
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"done": 1}
    own = {"first_update": None, "resident_bytes": 0}  # of a process
    second = trial.step() | own

    restored = toy()
    restored.load_checkpoint(str(tmp_path))  # after a crash, by Ray
    assert restored.step() | own == second
    resumed = toy(resume_from=str(tmp_path))  # in a later session, by us
    assert resumed.step() | own == second


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_are_finite(value):
    with pytest.raises(Diverged, match="not finite: L = "):
        require_finite({"L": value, "J": 0.5})
    assert require_finite({"L": 1}) == {"L": 1.0}


# The champion


def record(number, *points, state="COMPLETE"):
    """A trial scored at (train_flops, L) points."""
    rungs = tuple(
        RungRecord(
            rung=k,
            metrics={"train_flops": flops, "L": value, "complete": 1.0},
            losses=[],
            checkpoint="",
            seconds=0.0,
            decision="continue",
            episodes=[value],
        )
        for k, (flops, value) in enumerate(points)
    )
    return TrialRecord(
        number=number,
        label="",
        state=state,
        reason="",
        params={},
        config={},
        rungs=rungs,
        attrs={},
    )


def test_the_champion_has_come_far():
    low = record(0, (1e9, 0.1), state="PRUNED")
    cut = record(1, (1e9, 0.5), (6e9, 0.2), state="PRUNED")
    full = record(2, (1e9, 0.4), (10e9, 0.3))
    failed = record(3, (1e9, 0.1), (10e9, 0.0), state="FAIL")
    running = record(4, (10e9, 0.0), state="RUNNING")
    assert best_trial([low, cut, full, failed, running], 10e9) is cut
    assert best_trial([low, full, failed, running], 10e9) is full
    assert best_trial([low], 10e9) is low
    assert best_trial([failed, running, record(5, state="PRUNED")], 10e9) is None


def test_one_huge_step_makes_no_champion():
    full = record(0, (1e9, 0.4), (10e9, 0.3))
    huge = record(1, (90e9, 2.0), state="PRUNED")
    assert best_trial([full, huge], 10e9) is full


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 5)), min_size=1, max_size=12))
def test_nobody_who_came_as_far_is_better_than_the_champion(points):
    records = [record(number, point) for number, point in enumerate(points)]
    best = best_trial(records, 60)
    assert best.fidelity >= min(60, max(r.fidelity for r in records)) / 2
    assert all(best.score <= r.score for r in records if r.fidelity >= best.fidelity)


# The recorder


class Watcher:
    """An observer that writes down what it hears, and then fails."""

    def __init__(self):
        self.heard = []

    def _hear(self, *what):
        self.heard.append(what)
        raise RuntimeError("observers may fail")

    def trial_started(self, number, label, config, params):
        self._hear("started", number, label)

    def rung_reached(self, number, rung, metrics, losses, checkpoint, decision):
        self._hear("rung", number, rung, metrics["L"], checkpoint.name, decision)

    def trial_ended(self, number, state, reason):
        self._hear("ended", number, state, reason)

    def tick(self):
        self._hear("tick")


@pytest.fixture
def study(tmp_path):
    """A journal with three trials asked for, a recorder, and its watcher."""
    with Journal(tmp_path, "study") as journal:
        search = JournalSearch(
            journal,
            Rungs(3, planned=3),
            space=toy_space,
            base=ToyConfig(),
            trials=3,
            sampler="tpe",
            seed=0,
            deadline=math.inf,
            common={},
        )
        for number in range(3):
            search.suggest(str(number))
        watcher = Watcher()
        yield SimpleNamespace(
            journal=journal, recorder=Recorder(journal, [watcher]), watcher=watcher
        )


CHECKPOINT = "/somewhere/checkpoint_000000"


def play(study, number, outcome, metrics, *, done, reason="", checkpoint=CHECKPOINT):
    """What Ray's controller calls for one result of a trial, in its order."""
    result = {
        "outcome": outcome,
        "metrics": metrics,
        "episodes": [metrics["L"]] if metrics else [],
        "losses": [],
        "done": done,
        "reason": reason,
        "time_this_iter_s": 1.0,
    }
    trial = SimpleNamespace(config={"trial_number": number}, checkpoint=Checkpoint(checkpoint))
    common = {"iteration": 0, "trials": [], "trial": trial}
    study.recorder.on_trial_start(**common)
    study.recorder.on_trial_result(**common, result=result)
    study.recorder.on_trial_save(**common)
    if done:
        study.recorder.on_trial_complete(**common)


def metrics_at(k, value, complete=1.0):
    return {"L": value, "rung": k, "train_flops": 1e9 * (k + 1), "complete": complete}


def states(study):
    return [(r.state, r.reason) for r in study.journal.records()]


def test_every_end_is_told_with_its_reason(study, caplog):
    play(study, 0, RUNG, metrics_at(0, 1.0), done=False)
    play(study, 0, COMPLETE, metrics_at(2, 0.5), done=True)
    play(study, 1, RUNG, metrics_at(0, 2.0), done=True)  # Ray sets done where ASHA stops
    play(study, 2, FAIL, {}, done=True, reason="diverged: not finite: L = nan")
    assert states(study) == [
        ("COMPLETE", ""),
        ("RUNNING", ""),
        ("FAIL", "diverged: not finite: L = nan"),
    ]
    assert study.watcher.heard == [
        ("started", 0, ""),
        ("rung", 0, 0, 1.0, "checkpoint_000000", "continue"),
        ("rung", 0, 2, 0.5, "checkpoint_000000", "done"),
        ("ended", 0, "COMPLETE", ""),
        ("started", 1, ""),
        ("rung", 1, 0, 2.0, "checkpoint_000000", "pause"),
        ("started", 2, ""),
        ("ended", 2, "FAIL", "diverged: not finite: L = nan"),
    ]
    # A failing observer is told about once for each thing it fails in.
    assert len(caplog.records) == 3


def test_a_trial_without_memory_gets_a_larger_share_and_no_end(study):
    trial = SimpleNamespace(config={"trial_number": 0, "gpus": 0.25})
    result = {"outcome": CROWDED, "metrics": {}, "reason": "out of memory"}
    study.recorder.on_trial_result(0, [], trial, result)
    study.recorder.on_trial_complete(0, [], trial)
    assert states(study)[0] == ("RUNNING", "")
    assert study.journal.record(0).attrs["gpus"] == 0.5


def test_a_trial_cut_by_the_clock_keeps_its_score(study):
    play(study, 0, RUNG, metrics_at(0, 1.0), done=False)
    play(study, 0, TIME, metrics_at(0, 0.75, complete=0.0) | {"train_flops": 1.5e9}, done=True)
    play(study, 1, TIME, {}, done=True)
    assert states(study)[:2] == [("PRUNED", "time"), ("PRUNED", "time")]
    cut = study.journal.record(0)
    assert [r.rung for r in cut.rungs] == [0, 1]  # the second one was not reached
    assert (cut.score, cut.fidelity) == (0.75, 1.5e9)


def test_rungs_are_rebuilt_as_they_were(study):
    play(study, 0, RUNG, metrics_at(0, 1.0), done=False)
    play(study, 1, RUNG, metrics_at(0, 2.0), done=True)
    play(study, 0, RUNG, metrics_at(1, 0.9), done=False)
    play(study, 0, COMPLETE, metrics_at(2, 0.5), done=True)
    play(study, 2, TIME, metrics_at(-1, 0.1, complete=0.0), done=True)
    rungs = rebuilt_rungs(study.journal.records(), count=3, planned=3)
    assert rungs.entered == (2, 1, 1)
    assert rungs.paused == (1, 0, 0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "Failure # 1 (occurred at 2026-01-01)\nold\n"
            "Failure # 2 (occurred at 2026-01-02)\n"
            "ray::ToyTrainable.train()\n  File 'x.py', line 1\nKeyError: 'a bug'\n",
            "crashed: KeyError: 'a bug'",
        ),
        (
            "Failure # 1 (occurred at 2026-01-01)\n"
            "The actor died unexpectedly before finishing this task.\n\tclass_name: ToyTrainable\n",
            "worker died: The actor died unexpectedly before finishing this task.",
        ),
        (
            "Failure # 1 (occurred at 2026-01-01)\n"
            "1 worker(s) were killed due to the node running low on memory. Memory on the node "
            "was 6.16GB used / 6.50GB limit (0.95)\nOOM kill reason: Memory usage exceeded\n"
            "PID\tMEM(GB)\tCOMMAND\n4711\t0.16\tray::ToyTrainable.train\n"
            "Refer to the documentation on how to address the out of memory issue.\n",
            "out of memory (killed)",
        ),
        (None, "crashed"),
    ],
)
def test_a_trial_that_ray_gives_up_fails_with_its_error(study, tmp_path, error, reason):
    file = tmp_path / "error.txt"
    if error:
        file.write_text(error)
    trial = SimpleNamespace(config={"trial_number": 0}, error_file=str(file) if error else None)
    for _ in range(RETRIES):
        study.recorder.on_trial_error(0, [], trial)
        assert states(study)[0] == ("RUNNING", "")
    study.recorder.on_trial_error(0, [], trial)
    assert states(study)[0] == ("FAIL", reason)


@pytest.mark.parametrize(
    "said",
    [
        "The actor died unexpectedly before finishing this task.\n\tip: 10.0.0.2\n"
        "The actor died because its node has died. Node Id: 07\n"
        "\tthe actor's node was terminated unexpectedly: health check failed",
        "The actor 07 is unavailable: The actor is temporarily unavailable: RpcError",
        "ray::ToyTrainable.train()\n  File 'x.py', line 1\ntrainables.trainable.NodeLeaves\n",
    ],
)
def test_a_node_that_is_lost_is_no_fault_of_a_trial_that_comes_further(study, tmp_path, said):
    file = tmp_path / "error.txt"
    file.write_text(f"Failure # 1 (occurred at 2026-01-01)\n{said}")
    trial = SimpleNamespace(config={"trial_number": 0}, error_file=str(file))
    for _ in range(LOSSES):
        study.recorder.on_trial_error(0, [], trial)
    study.journal.add_rung(0, record(0, (1e9, 1.0)).rungs[0])
    for _ in range(LOSSES):
        study.recorder.on_trial_error(0, [], trial)
        assert states(study)[0] == ("RUNNING", "")
    attrs = study.journal.record(0).attrs
    assert "deaths" not in attrs
    assert sum(name.startswith("failure/") for name in attrs) == 2 * LOSSES
    study.recorder.on_trial_error(0, [], trial)
    assert states(study)[0][0] == "FAIL"


def test_a_slow_bucket_holds_nobody_up_and_changes_no_order(study, monkeypatch):
    """Rungs of two trials, of which the first one's checkpoint is long on its way."""
    arrived = threading.Event()

    def bring(checkpoint, folder):
        assert "trial_0000" not in checkpoint or arrived.wait(30)
        return local_copy(checkpoint, folder)

    monkeypatch.setattr(recorder_module, "bring", bring)
    monkeypatch.setattr(study.journal, "bucket", "s3://bucket/study")
    study.recorder = Recorder(study.journal, [study.watcher])
    for number in (0, 1):
        place = f"/bucket/study/session_01/trial_{number:04d}/checkpoint_000002"
        play(study, number, COMPLETE, metrics_at(2, 1.0), done=True, checkpoint=place)
    assert [state for state, _ in states(study)] == ["COMPLETE", "COMPLETE", "RUNNING"]
    study.recorder.on_step_begin(0, [])
    assert [event[0] for event in study.watcher.heard] == ["started", "tick"]
    arrived.set()
    study.recorder.close()
    ends = ["rung", "ended", "started", "rung", "ended"]
    assert [event[0] for event in study.watcher.heard] == ["started", "tick", *ends]
    assert study.watcher.heard[2][:2] == ("rung", 0)


def test_what_fails_while_a_node_is_doubted_is_no_fault_of_a_trial(study, tmp_path):
    file, doubted = tmp_path / "error.txt", [True] * LOSSES
    file.write_text("Failure # 1 (occurred at 2026-01-01)\nray::x\nModuleNotFoundError: torch\n")
    trial = SimpleNamespace(config={"trial_number": 0}, error_file=str(file))
    recorder = Recorder(study.journal, [], doubted=lambda: bool(doubted) and doubted.pop())
    for _ in range(LOSSES):
        recorder.on_trial_error(0, [], trial)
    assert "deaths" not in study.journal.record(0).attrs
    for _ in range(RETRIES):
        recorder.on_trial_error(0, [], trial)
    assert states(study)[0] == ("RUNNING", "")
    recorder.on_trial_error(0, [], trial)
    assert states(study)[0] == ("FAIL", "crashed: ModuleNotFoundError: torch")


def test_the_first_update_is_told_once(study):
    told = []
    recorder = Recorder(study.journal, [], trained=told.append)
    trial = SimpleNamespace(config={"trial_number": 0})
    for when in (None, 7.0, 8.0):
        result = {"outcome": RUNG, "metrics": metrics_at(0, 1.0), "first_update": when}
        recorder.on_trial_result(0, [], trial, result)
    assert told == [7.0]


def test_the_largest_process_of_a_trial_is_known(study):
    trial = SimpleNamespace(config={"trial_number": 0})
    for size in (2**30, 2**31, 2**29):
        result = {"outcome": RUNG, "metrics": metrics_at(0, 1.0), "resident_bytes": size}
        study.recorder.on_trial_result(0, [], trial, result)
    assert study.recorder.process_bytes == 2**31


def test_a_journal_that_cannot_be_written_ends_the_run(study, monkeypatch):
    def full(number, rung):
        raise OSError(28, "No space left on device")

    study.recorder.on_step_begin(0, [])
    monkeypatch.setattr(study.journal, "add_rung", full)
    play(study, 0, RUNG, metrics_at(0, 1.0), done=False)
    assert ("rung", 0) not in [heard[:2] for heard in study.watcher.heard]
    assert isinstance(study.recorder.error, OSError)
    with pytest.raises(LeaveLoop):
        study.recorder.on_step_begin(0, [])


def test_ticks_are_few(study):
    for _ in range(1000):
        study.recorder.on_step_begin(0, [])
    assert study.watcher.heard == [("tick",)]
    study.recorder.leave = True
    with pytest.raises(LeaveLoop):
        study.recorder.on_step_begin(0, [])


# Through Ray


def launch(options):
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("toy_study.py")), json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # signals reach the driver alone
    )


def wait_for(process, text, count):
    """Read lines until `text` came `count` times."""
    seen = 0
    for line in process.stdout:
        seen += text in line
        if seen == count:
            return
    pytest.fail(f"the driver ended before {text!r} came {count} times")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_study_survives_the_death_of_its_driver(tmp_path):
    """kill -9 amid the study, then Ctrl-C, then to the end: nothing lost, nothing done twice."""
    options = {
        "storage": str(tmp_path),
        "study": "s",
        "trials": 10,
        "slots": 2,
        "seconds": 0.3,
        "troubles": ["diverge", "die", "raise"],
    }
    with launch(options) as killed:
        wait_for(killed, " rung ", 4)
        killed.kill()

    with launch(options) as interrupted:
        wait_for(interrupted, " rung ", 3)
        asked = time.monotonic()
        interrupted.send_signal(signal.SIGINT)
        assert "interrupted" in interrupted.stdout.read()
        assert time.monotonic() - asked < 20
    assert interrupted.returncode == 0

    with launch(options) as finished:
        assert "finished" in finished.stdout.read()
    assert finished.returncode == 0

    with Journal(tmp_path, "s") as journal:
        records = journal.records()
    assert len(records) == 10
    assert {r.state for r in records} == {"COMPLETE", "PRUNED", "FAIL"}
    ends = {r.label: (r.state, r.reason) for r in records if r.label}
    assert ends["best"][0] in ("COMPLETE", "PRUNED")
    assert ends["diverge"] == ("FAIL", "diverged: loss went through the roof")
    assert ends["raise"] == ("FAIL", "crashed: KeyError: 'a bug'")
    assert ends["die"][0] in ("COMPLETE", "PRUNED")  # retried in a new process
    numbers = {r.label: r.number for r in records}
    failed = records[numbers["raise"]]
    crashes = [failed.attrs[f"{FAILURE}{n + 1}"] for n in range(RETRIES + 1)]
    assert all(text.endswith("KeyError: 'a bug'\n") and "\x1b" not in text for text in crashes)
    printed = [path.read_text() for path in printed_files(tmp_path / "s", numbers["best"])]
    assert "rung 0 is reached\n" in "".join(printed)
    assert all(r.reason.startswith("asha: rung") for r in records if r.state == "PRUNED")
    for r in records:
        assert all((Path(rung.checkpoint) / "state.pt").is_file() for rung in r.rungs)

    steps = Counter((tmp_path / "steps.log").read_text().split("\n")[:-1])
    journalled = {
        f"{trial_seed(0, r.number)} {rung.rung}": rung for r in records for rung in r.rungs
    }
    assert set(journalled) <= set(steps)
    # A rung is run twice only where a session broke off before its checkpoint was journalled:
    # two sessions broke off with two slots each.
    assert sum(count - 1 for count in steps.values()) <= 4


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_out_of_memory_on_a_shared_card_is_tried_again_with_fewer_neighbours(tmp_path):
    """On a simulated card of four trials: one runs out of memory once, the other always."""
    options = {
        "storage": str(tmp_path),
        "study": "s",
        "trials": 10,
        "slots": 4,
        "gpus": 1,
        "seconds": 0.3,
        "troubles": ["crowd", "memory"],
    }
    with launch(options) as finished:
        assert "finished" in finished.stdout.read()
    assert finished.returncode == 0
    with Journal(tmp_path, "s") as journal:
        records = journal.records()
    ends = {r.label: r for r in records if r.label}
    assert ends["crowd"].state in ("COMPLETE", "PRUNED")
    assert ends["crowd"].attrs["gpus"] == 0.5
    assert (ends["memory"].state, ends["memory"].reason) == ("FAIL", "out of memory")
    assert ends["memory"].attrs["gpus"] == 1.0
    others = [r for r in records if r.label not in ("crowd", "memory")]
    assert all(r.state in ("COMPLETE", "PRUNED") and "gpus" not in r.attrs for r in others)
