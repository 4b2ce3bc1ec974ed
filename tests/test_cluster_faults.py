"""Nodes die, join late, fill up, are cut off and get notice while a study runs on a real cluster of
separate processes on this machine: `make test-cluster`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray._private.node import psutil
from real_cluster import (
    OBJECT_STORE_BYTES,
    RAY,
    ROOT,
    RealCluster,
    RealHost,
    RealNode,
    hosts,
    needs_hosts,
)
from test_faults import kept_in_mlflow, launch
from test_faults_launch import LEAVING, RAYS_PATIENCE, Study, require_finished

from trainables.weights import read_state
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED
from tuner.journal import Journal
from tuner.known_points import trial_seed
from tuner.tracking import MARKER
from tuner.trial_records import TrialRecord, step_of

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

PATIENCE = 300.0  # seconds
STEP_SECONDS = 3.0
TRIALS = 8
REFERENCE = 0  # number of the known point that ASHA never pauses
PRINTED = re.compile(r"/trial_(\d+)(?:_part_\d+)?/printed\.log$")
# A node that is silent for 5 s is dead; Ray's own patience is half a minute.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


@pytest.fixture
def two_hosts() -> Iterator[list[RealHost]]:
    """Machines beside this one."""
    with hosts(2) as made:
        yield made


@pytest.fixture
def cluster() -> Iterator[RealCluster]:
    """Nodes will know toys; nothing is left of them."""
    made = RealCluster()
    made.environment |= IMPATIENT | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    try:
        yield made
    finally:
        made.stop()
        until(lambda: not made.left())


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for it."""
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends
        time.sleep(0.1)
    return found


class ToyOnCluster:
    """A study of toys, on as many slots as the cluster has."""

    def __init__(self, cluster: RealCluster, **options: Any) -> None:
        self.cluster, self.storage = cluster, cluster.root / "runs"
        self.output = cluster.root / "output"
        self._options = {
            "storage": str(self.storage), "study": "s", "trials": TRIALS, "slots": 1,
            "seconds": STEP_SECONDS, "tracked": True, "address": cluster.address,
        } | options  # fmt: skip
        self.storage.mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        """Or go on."""
        self.output.write_bytes(b"")
        environment = self.cluster.driver_environment()
        self.process = launch(self._options, self.output, environment)

    def until(self, true: Callable[[], Any]) -> Any:
        """Wait while the study runs."""
        ends = time.monotonic() + PATIENCE
        while not (found := true()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < ends, self.said()
            time.sleep(0.05)
        return found

    def said(self) -> str:
        return self.output.read_text()

    def journal(self) -> str:
        path = self.storage / "s/journal.log"
        return path.read_text() if path.exists() else ""

    def until_reference_runs_on(self, nodes: Sequence[RealNode]) -> RealNode:
        """With a checkpoint; it is never paused."""

        def where() -> RealNode | None:
            if f" rung {REFERENCE} 0 continue" not in self.said():
                return None
            return next((node for node in nodes if REFERENCE in trials_on(node)), None)

        found: RealNode = self.until(where)
        return found

    def records(self) -> tuple[TrialRecord, ...]:
        with Journal(self.storage, "s") as journal:
            return journal.records()

    def require_whole(self, *, again: int) -> tuple[TrialRecord, ...]:
        """The study ends as if nothing had happened, but for as many rungs as were cut."""
        assert self.process.wait(PATIENCE) == 0, self.said()
        records = self.records()
        assert len(records) == self._options["trials"]
        for record in records:
            assert record.state in ("COMPLETE", "PRUNED", "FAIL"), self.said()
            assert record.state == "COMPLETE" or record.reason
            assert [rung.rung for rung in record.rungs] == list(range(len(record.rungs)))
            for rung in record.rungs:
                if (place := Path(rung.checkpoint)).exists():  # else it needed it no more
                    assert read_state(place / "state.pt")["done"] == rung.rung + 1
        failed = [record.reason for record in records if record.state == "FAIL"]
        assert failed == ["diverged: loss went through the roof"]  # one of the known points
        steps = Counter((self.storage / "steps.log").read_text().splitlines())
        finished = {f"{trial_seed(0, r.number)} {g.rung}" for r in records for g in r.rungs}
        assert finished == set(steps)
        assert steps.total() - len(finished) <= again, steps
        kept = kept_in_mlflow(self.storage)
        assert sorted(kept) == sorted(str(record.number) for record in records)
        for record in records:
            status, state, _reason, _params, points, _files = kept[str(record.number)]
            assert status == ("FAILED" if record.state == "FAIL" else "FINISHED")
            assert state == record.state
            assert sorted(points.get(MARKER, [])) == [
                (step_of(rung.rung, rung.metrics), rung.rung) for rung in record.rungs
            ]
        return records


def trials_on(node: RealNode) -> list[int]:
    """Numbers, by the files that its processes print to."""
    found = []
    for process in node.processes():
        try:
            found += [int(m[1]) for f in process.open_files() if (m := PRINTED.search(f.path))]
        except psutil.Error:
            continue
    return sorted(set(found))


def went_on(record: TrialRecord) -> bool:
    """Whether a later part of a trial began from its last checkpoint of an earlier one."""
    for before, after in zip(record.rungs, record.rungs[1:], strict=False):
        if Path(before.checkpoint).parent != Path(after.checkpoint).parent:
            config = json.loads(Path(after.checkpoint, "config.json").read_text())
            return bool(config["resume_from"] == before.checkpoint)
    return False


def require_moved(record: TrialRecord) -> None:
    """It went on from its last checkpoint, and nobody blames it."""
    assert went_on(record)
    assert record.state == "COMPLETE"
    assert "deaths" not in record.attrs
    assert record.attrs["lost_nodes"]


def test_trials_of_a_killed_node_go_on_elsewhere_from_their_last_checkpoints(
    cluster: RealCluster,
) -> None:
    cluster.start_head(cpus=0, dashboard=False)
    workers = [cluster.start_worker(), cluster.start_worker()]
    study = ToyOnCluster(cluster)
    victim = study.until_reference_runs_on(workers)
    cluster.kill_node(victim)
    assert cluster.left(victim.cache) == []
    records = study.require_whole(again=1)
    require_moved(records[REFERENCE])


def test_a_node_that_joins_late_gets_trials(cluster: RealCluster) -> None:
    head = cluster.start_head(dashboard=False)
    study = ToyOnCluster(cluster, seconds=2 * STEP_SECONDS)
    study.until(lambda: trials_on(head))
    late = cluster.start_worker()
    study.until(lambda: trials_on(late))
    assert " slots 2" in study.said()
    study.require_whole(again=0)


def test_a_node_with_another_version_that_joins_after_the_start_gets_no_trials(
    cluster: RealCluster,
) -> None:
    """It says so of one package. One trial more is out than the head has room for: Ray gives it to
    the node before that has answered, and what it did there is done again elsewhere."""
    told = cluster.root / "site" / "safetensors-0.0.1.dist-info" / "METADATA"
    told.parent.mkdir(parents=True)
    told.write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 0.0.1\n")
    cluster.start_head(cpus=4, dashboard=False)
    paths = f"{told.parents[1]}:{cluster.environment['PYTHONPATH']}"
    unfit = cluster.start_worker(environment={"PYTHONPATH": paths})
    study = ToyOnCluster(cluster, seconds=4 * STEP_SECONDS, slots=4, known_from_cpus=4)
    study.until(lambda: "gets no trials" in study.said())
    until(lambda: trials_on(unfit) == [])
    study.require_whole(again=2)
    (line,) = (line for line in study.said().splitlines() if "gets no trials" in line)
    assert "has safetensors 0.0.1, and this command" in line
    assert "install requirements.lock there" in line
    assert " slots " not in study.said()
    assert unfit.processes()  # it is the cluster's, for others
    assert '"deaths"' not in study.journal()
    assert not list(study.storage.glob(".few-shot-tuner-*"))


def test_an_object_store_that_fills_up_stops_nothing(cluster: RealCluster) -> None:
    """The head's, by somebody else: twice of what it holds, and all of it wanted."""
    cluster.start_head(dashboard=False)
    study = ToyOnCluster(cluster)
    study.until(lambda: " rung " in study.said())
    fill = (
        "import os, ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); "
        f"kept = [ray.put(os.urandom(2**23)) for _ in range({2 * OBJECT_STORE_BYTES // 2**23})]; "
        "print('full', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", fill, cluster.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=cluster.driver_environment(),
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"full\n"
        assert study.process.poll() is None
        study.require_whole(again=0)
        spilled = list(cluster.root.glob("ray-*/*/ray_spilled_objects*/*"))
        other.communicate()  # takes them along
    assert spilled


@needs_hosts
def test_a_node_that_comes_back_after_30_s_without_network_hurts_nothing(
    two_hosts: list[RealHost], cluster: RealCluster
) -> None:
    """Its trial is long on another node when it has trained its rung to the end."""
    cluster.start_head(cpus=0, dashboard=False)
    workers = {cluster.start_worker(host=host): host for host in two_hosts}
    study = ToyOnCluster(cluster, seconds=4 * STEP_SECONDS, trials=5)
    victim = study.until_reference_runs_on(list(workers))
    workers[victim].cut()
    time.sleep(30)
    assert study.process.poll() is None, study.said()
    workers[victim].mend()
    records = study.require_whole(again=2)  # what was cut, and what its process made of it
    require_moved(records[REFERENCE])
    until(lambda: not cluster.left(victim.cache))  # it had been given up, and leaves


def test_trials_leave_a_node_that_is_given_notice(cluster: RealCluster) -> None:
    """As clouds do it two minutes before they take a spot machine away."""
    cluster.start_head(cpus=0, dashboard=False)
    workers = [cluster.start_worker(), cluster.start_worker()]
    study = ToyOnCluster(cluster, seconds=4 * STEP_SECONDS, trials=4)
    victim = study.until_reference_runs_on(workers)
    give_notice(cluster, victim)
    study.until(lambda: not trials_on(victim))
    cluster.kill_node(victim)
    records = study.require_whole(again=0)
    require_moved(records[REFERENCE])


def give_notice(cluster: RealCluster, node: RealNode) -> None:
    (raylet,) = (p for p in node.processes() if p.name() == "raylet")
    (told,) = (w for w in raylet.cmdline() if w.startswith("--node_id="))
    command = [RAY, "drain-node", "--address", cluster.address]
    command += ["--node-id", told.removeprefix("--node_id=")]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command += ["--deadline-remaining-seconds", "120"]
    subprocess.run(command, env=cluster.driver_environment(), check=True, timeout=60)


# The command itself

SHORT_RUNGS = ("--budget", "70m", "--trials", "1000")  # of which a resume leaves a few


def command_on(cluster: RealCluster, root: Path) -> Study:
    return Study(root, ["--address", cluster.address], cluster.driver_environment())


def require_no_trial(cluster: RealCluster) -> None:
    """Nor a process that ran one."""
    until(lambda: not [title for title in cluster.left() if "Trainable" in title])


def test_the_command_takes_its_processes_along_and_ends_without_a_node_that_it_lost(
    cluster: RealCluster, tmp_path: Path
) -> None:
    head, worker = cluster.start_head(dashboard=False), cluster.start_worker()
    study = command_on(cluster, tmp_path)
    study.start(*SHORT_RUNGS)
    study.until(study.rungs)
    study.signal(signal.SIGTERM)
    study.ends_with(INTERRUPTED, LEAVING)
    require_no_trial(cluster)

    study.resume("--trials", "3")
    study.until(lambda: trials_on(worker))
    cluster.kill_node(worker)
    study.ends_with(0)
    require_no_trial(cluster)
    assert head.processes()
    found = require_finished(study)
    assert [trial.state for trial in found.trials].count("FAIL") == 0
    assert '"lost_nodes"' in study.journal()
    assert '"deaths"' not in study.journal()


def test_a_head_that_dies_stops_the_command_in_one_line(
    cluster: RealCluster, tmp_path: Path
) -> None:
    head = cluster.start_head(dashboard=False)
    study = command_on(cluster, tmp_path)
    study.start(*SHORT_RUNGS)
    study.until(study.rungs)
    dead = cluster.address
    cluster.kill_node(head)
    study.ends_with(BROKEN_DOWN, RAYS_PATIENCE)
    (told,) = (line for line in study.said().splitlines() if line.startswith("Stopped: "))
    assert told.startswith(f"Stopped: Ray died (no answer from the head at {dead}), then go on")
    assert "Traceback" not in study.said()

    cluster.start_head(dashboard=False)
    study.resume("--address", cluster.address, "--trials", "2")
    study.ends_with(0)
    require_finished(study)
