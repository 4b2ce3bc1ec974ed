"""What the recorder makes of what Ray tells: the journal, observers, ends and their reasons."""

import math
import threading
from types import SimpleNamespace

import pytest
from ray.tune import Checkpoint
from scored_trial import record
from toy_pipeline import ToyConfig, toy_space

from trainables.trainable import COMPLETE, CROWDED, FAIL, RUNG, TIME
from tuner import recorder as recorder_module
from tuner.journal import Journal
from tuner.places import local_copy
from tuner.recorder import LOSSES, RETRIES, LeaveLoop, Recorder
from tuner.rungs import Rungs
from tuner.search import JournalSearch
from tuner.study import rebuilt_rungs


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
    trial = SimpleNamespace(
        config={"trial_number": number},
        checkpoint=Checkpoint(checkpoint),
        metric_analysis={"L": {"avg": 1.0}},
        metric_n_steps={"L": {"5": [1.0]}},
    )
    common = {"iteration": 0, "trials": [], "trial": trial}
    study.recorder.on_trial_start(**common)
    study.recorder.on_trial_result(**common, result=result)
    study.recorder.on_trial_save(**common)
    if done:
        study.recorder.on_trial_complete(**common)
    return trial


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


def test_nothing_is_kept_of_rays_running_means(study):
    trial = play(study, 0, RUNG, metrics_at(0, 1.0), done=False)
    assert not trial.metric_analysis
    assert not trial.metric_n_steps


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
