"""Studies on a real Ray cluster of separate processes on this machine: `make test-cluster`."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_cluster import RAY, ROOT, RealCluster, needs_unshare
from sklearn.datasets import load_digits

from tuner import result

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CLASSES, EACH = 6, 14
SEARCH = ("reptile_omniglot", "--trials", "3", "--budget", "100s", "--seed", "1")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few handwritten digits, as a user's folder: known to the head's machine alone."""
    root = tmp_path_factory.mktemp("data") / "digits"
    digits = load_digits()
    for label in range(CLASSES):
        folder = root / str(label)
        folder.mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:EACH]):
            grey = Image.fromarray((image * 15).astype(np.uint8))
            grey.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    """A head and two workers, of a core each."""
    made = RealCluster()
    try:
        made.start_head(cpus=1)
        made.start_worker(cpus=1)
        made.start_worker(cpus=1)
        yield made
    finally:
        made.stop()


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a request that was refused."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_study_runs_on_all_nodes(cluster: RealCluster, digits: Path) -> None:
    storage = cluster.root / "shared"
    done = cluster.launch(
        *SEARCH, "--data", str(digits), "--storage", str(storage), "--address", cluster.address
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 nodes, 3 CPUs, 0 GPUs: 3 trials side by side" in done.stdout
    (study,) = (path.parent for path in storage.glob("*/result.json"))
    found = result.load(study / "result.json")
    assert [trial.state for trial in found.trials].count("FAIL") == 0
    assert found.best is not None
    # Each node has made its copy of what the head prepared, and no node has prepared anything.
    for node in cluster.nodes[1:]:
        cache = node.cache / "few-shot-tuner"
        assert len(list(cache.glob("published/digits-*/images.npy"))) == 1
        assert not (cache / "images").exists()
        assert not (cache / "scorers").exists()


def test_auto_is_the_cluster_of_ray_address(cluster: RealCluster, digits: Path) -> None:
    done = cluster.launch(
        *SEARCH, "--data", str(digits), "--address", "auto", "--dry-run",
        RAY_ADDRESS=cluster.address,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 nodes, 3 CPUs" in done.stdout


def test_a_trial_must_fit_on_one_node(cluster: RealCluster, digits: Path) -> None:
    asked = (*SEARCH, "--data", str(digits), "--address", cluster.address)
    line = refused(cluster.launch(*asked, "--cpus-per-trial", "2"))
    assert "A trial asks for 2 CPUs and no node has more than 1" in line
    line = refused(cluster.launch(*asked, "--gpus-per-trial", "1"))
    assert "A trial asks for 1 GPU and no node has more than 0" in line


@needs_unshare
def test_a_folder_of_one_machine_alone_is_refused(digits: Path) -> None:
    """The worker sees another disk where the head has its storage."""
    cluster = RealCluster()
    try:
        private = cluster.root / "disk"
        private.mkdir()
        cluster.start_head(cpus=1)
        cluster.start_worker(cpus=1, private=private)
        asked = (*SEARCH, "--data", str(digits), "--address", cluster.address)
        line = refused(cluster.launch(*asked, "--storage", str(private / "runs")))
        assert "--storage must be shared by all nodes" in line
        assert list(private.iterdir()) == []
        # What both see is accepted, as a shared file system is.
        done = cluster.launch(*asked, "--storage", str(cluster.root / "runs"), "--dry-run")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        cluster.stop()


def test_a_cluster_of_another_python_is_refused(digits: Path) -> None:
    """Its head says so of itself; another Python could not be had here."""
    cluster = RealCluster()
    try:
        cluster.start_head(cpus=1, dashboard=False)
        lie = (
            "import json, sys; from ray._raylet import GcsClient; "
            "gcs = GcsClient(address=sys.argv[1]); "
            "told = json.loads(gcs.internal_kv_get(b'CLUSTER_METADATA', b'cluster')); "
            "told['python_version'] = '3.9.1'; "
            "gcs.internal_kv_put("
            "b'CLUSTER_METADATA', json.dumps(told).encode(), True, b'cluster')"
        )
        subprocess.run(
            [sys.executable, "-c", lie, cluster.address], env=cluster.environment, check=True
        )
        line = refused(cluster.launch(*SEARCH, "--data", str(digits), "--address", cluster.address))
        assert "Python: 3.9.1, and this command Ray:" in line
    finally:
        cluster.stop()


def test_an_address_where_nothing_listens_is_refused(digits: Path, cluster: RealCluster) -> None:
    asked = (*SEARCH, "--data", str(digits), "--address")
    assert "No Ray answers at" in refused(cluster.launch(*asked, "127.0.0.1:1"))


def test_the_driver_runs_as_a_job(cluster: RealCluster, digits: Path) -> None:
    """With the package from the working folder, as on a cluster that never had it."""
    storage = cluster.root / "job"
    command = [RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", str(ROOT)]
    command += ["--runtime-env-json", json.dumps({"excludes": ["docs", "runs", ".git"]})]
    search = ["python", "tests/quick_launch.py", "", *SEARCH, "--data", str(digits)]
    search += ["--storage", str(storage), "--address", "auto"]
    done = subprocess.run(
        [*command, "--", *search],
        capture_output=True,
        text=True,
        timeout=600,
        env=cluster.driver_environment(),
        cwd=cluster.root,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 nodes, 3 CPUs" in done.stdout
    assert len(list(storage.glob("*/result.json"))) == 1


@pytest.mark.parametrize("way", ["dashboard", "client"])
def test_a_command_goes_to_the_cluster_by_itself(
    cluster: RealCluster, digits: Path, way: str
) -> None:
    """From a machine that is no node: its output and its exit code come back."""
    storage = cluster.root / way
    asked = [*SEARCH, "--data", str(digits), "--storage", str(storage)]
    done = cluster.launch(*asked, "--address", getattr(cluster, way), "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 nodes, 3 CPUs" in done.stdout
    done = cluster.launch(*asked, "--address", getattr(cluster, way), "--cpus-per-trial", "9")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no node has more than 1" in done.stdout


def test_a_node_that_comes_late_gets_trials(digits: Path) -> None:
    cluster = RealCluster()
    try:
        cluster.start_head(cpus=1, dashboard=False)
        with cluster.launching(
            *("reptile_omniglot", "--trials", "4", "--budget", "240s"),
            *("--data", str(digits), "--storage", str(cluster.root / "runs")),
            *("--address", cluster.address),
        ) as search:
            told = search.stdout
            assert told is not None
            before = list(itertools.takewhile(lambda line: "started: " not in line, told))
            cluster.start_worker(cpus=1)
            rest, error = search.communicate(timeout=600)
        assert search.returncode == 0, "".join(before) + rest + error
        assert "The cluster has 2 nodes, 2 CPUs, 0 GPUs now: 2 trials side by side" in rest
        late = cluster.nodes[1].cache / "few-shot-tuner"
        assert len(list(late.glob("published/digits-*/images.npy"))) == 1  # it had a trial
    finally:
        cluster.stop()


def test_nodes_are_started_for_trials_that_wait(digits: Path) -> None:
    """By Ray's own autoscaler, whose provider makes nodes of processes here."""
    cluster = RealCluster()
    try:
        cluster.start_growing_head(cpus=0, workers=2)
        done = cluster.launch(
            *("reptile_omniglot", "--trials", "4", "--budget", "150s"),
            *("--data", str(digits), "--storage", str(cluster.root / "runs")),
            *("--address", cluster.address),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Waiting    for the cluster's first node" in done.stdout
        assert "2 nodes, 1 CPU, 0 GPUs: 1 trial side by side" in done.stdout
        assert "more nodes are asked for while trials wait" in done.stdout
        assert "The cluster has 3 nodes, 2 CPUs, 0 GPUs now: 2 trials side by side" in done.stdout
    finally:
        cluster.stop()
