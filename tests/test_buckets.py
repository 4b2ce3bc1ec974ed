"""Studies whose storage is a bucket of a real S3-compatible server: `make test-cluster`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from real_bucket import RealBucket, real_bucket
from real_cluster import QUICK_LAUNCH, ROOT, RealCluster
from test_clusters import SEARCH, digits, refused

from tuner.mirror import LEASE, LEASE_SECONDS, Mirror

__all__ = ["digits"]  # a fixture

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBucket]:
    with real_bucket(tmp_path_factory.mktemp("bucket") / "log") as made:
        yield made


class Machine:
    """Another machine: a home, a cache and a working folder of its own."""

    def __init__(self, root: Path, bucket: RealBucket) -> None:
        self.root, self._bucket = root, bucket
        root.mkdir()

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.root / "cache")}
        own |= {"HOME": str(self.root), "COLUMNS": "200", "RAY_USAGE_STATS_ENABLED": "0"}
        return self._bucket.environment | own | (self._bucket.credentials if more is None else more)

    def start(self, *words: str, **more: Mapping[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*QUICK_LAUNCH, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**more),
            cwd=self.root,
            start_new_session=True,
        )

    def launch(self, *words: str, **more: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **more)
        out, error = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def test_a_study_goes_on_on_another_machine(
    bucket: RealBucket, digits: Path, tmp_path: Path
) -> None:
    """Killed with the whole machine, while trials run."""
    search = (*SEARCH, "--data", str(digits), "--storage", bucket.address("runs"))
    study = "runs/reptile_omniglot-digits/"
    first = Machine(tmp_path / "first", bucket)
    process = first.start(*search)
    try:
        ends = time.monotonic() + 600
        journal = f"{study}journal.log"
        while journal not in bucket.names(study) or b'"rung/0"' not in bucket.read(journal):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < ends
            time.sleep(1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        _end_rays_of(first.root)
    assert "session_01" in {name.split("/")[2] for name in bucket.names(study)}

    second = Machine(tmp_path / "second", bucket)
    line = refused(second.launch(*search, "--resume"))
    assert "is running already, as process" in line  # for all that is known of it
    time.sleep(LEASE_SECONDS)
    done = second.launch(*search, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    there = {name.split("/")[2] for name in bucket.names(study)}
    assert {"journal.log", "result.json", "champion", "session_01", "session_02"} <= there
    assert LEASE not in there
    assert json.loads(bucket.read(f"{study}result.json"))["outcome"] == "finished"
    # A third machine knows that there is nothing left to do.
    third = Machine(tmp_path / "third", bucket)
    same = ("--data", str(digits), "--storage", bucket.address("runs"))
    done = third.launch(SEARCH[0], *same, "--resume")  # a budget would have it search on
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is finished, see" in done.stdout


def _end_rays_of(home: Path) -> None:
    """What outlives a driver that was killed, of one machine: as it would go, too."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"HOME={home}".encode() in environment.split(b"\0"):
            os.kill(int(entry.name), signal.SIGKILL)


def test_a_cluster_keeps_its_study_in_a_bucket(
    bucket: RealBucket, digits: Path, tmp_path: Path
) -> None:
    cluster = RealCluster()
    cluster.environment |= bucket.environment | bucket.credentials
    try:
        cluster.start_head(cpus=1, dashboard=False)
        cluster.start_worker(cpus=1)
        done = cluster.launch(
            *SEARCH, "--data", str(digits), "--storage", bucket.address("of", "a-cluster"),
            "--address", cluster.address,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        names = bucket.names("of/a-cluster/")
        assert any("/session_01/" in name and name.endswith("/state.pt") for name in names)
        assert any(name.endswith("/images.npy") for name in names)  # for the node without the data
        node = cluster.nodes[1].cache / "few-shot-tuner"
        assert len(list(node.glob("published/digits-*/images.npy"))) == 1
        # A worker that lacks the credentials is told of before anything starts.
        cluster.start_worker(
            cpus=1, environment={"AWS_ACCESS_KEY_ID": "unknown", "AWS_SECRET_ACCESS_KEY": "wrong"}
        )
        line = refused(
            cluster.launch(
                *SEARCH, "--data", str(digits), "--storage", bucket.address("none"),
                "--address", cluster.address,
            )
        )  # fmt: skip
        assert "cannot write to --storage s3://studies/none" in line
    finally:
        cluster.stop()


def test_what_is_wrong_with_a_bucket_is_one_line_within_seconds(
    bucket: RealBucket, digits: Path, tmp_path: Path
) -> None:
    here = Machine(tmp_path / "here", bucket)
    search = (*SEARCH, "--data", str(digits), "--storage")
    began = time.monotonic()
    line = refused(here.launch(*search, bucket.address("runs", bucket="no-such-bucket")))
    assert "there is no such bucket" in line
    line = refused(here.launch(*search, bucket.address("runs"), more={}))
    assert "give credentials in the environment" in line
    wrong = bucket.credentials | {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}
    line = refused(here.launch(*search, bucket.address("runs"), more=wrong))
    assert "its access key is unknown" in line
    line = refused(here.launch(*search, "s3://runs?endpoint_override=127.0.0.1:1&scheme=http"))
    assert "nothing answers at its endpoint" in line
    line = refused(here.launch(*search, bucket.address("runs"), more=bucket.unlisted))
    assert "access is denied" in line
    assert time.monotonic() - began < 150
    assert not list(here.root.glob("cache/few-shot-tuner/storage/*"))


def test_objects_that_are_named_as_no_folder_here_may_be_are_passed_over(
    bucket: RealBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (bucket.environment | bucket.credentials).items():
        monkeypatch.setenv(name, value)
    for study in ("..", "a study", "toys"):
        bucket.write(f"odd/{study}/journal.log", b"{}")
    Mirror(bucket.address("odd"), tmp_path / "here").pull()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("journal.log")] == [
        "here/toys/journal.log"
    ]
