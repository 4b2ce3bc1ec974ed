"""The batch job for Slurm: what it starts, and what becomes of it when Slurm takes its nodes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from picture_files import write_pictures
from test_descriptions import CLUSTER, parse

BATCH = CLUSTER / "slurm" / "search.sbatch"

# Stand-ins, which note their calls in a file of the job's folder.
SLURM = {
    "bin/scontrol": """\
echo "scontrol $*" >>"$JOB/calls"
[[ $1 != show ]] || printf 'one\\ntwo\\n'
""",
    "bin/srun": """\
while [[ $1 == --* ]]; do shift; done
exec "$@"
""",
    "bin/hostname": "echo 127.0.0.1 fe80::1\n",
}
RAY = {
    "venv/bin/ray": """\
echo "ray $*" >>"$JOB/calls"
echo "account ${MLFLOW_TRACKING_USERNAME-none} ${MLFLOW_TRACKING_PASSWORD-none}" >>"$JOB/calls"
cp "$RAY_AUTH_TOKEN_PATH" "$JOB/$$.token"
exec sleep 600
""",
    # What waits for the nodes, and then the command.
    "venv/bin/python": """\
[[ $1 != - ]] || exit 0
echo "python $*" >>"$JOB/calls"
until (($(cat "$JOB"/*.token 2>/dev/null | wc --chars) >= 64 * SLURM_JOB_NUM_NODES)); do
    sleep 0.05
done
""",
}
WAITS = """\
trap 'exit 130' TERM
echo ready >>"$JOB/calls"
while :; do sleep 0.05; done
"""


class Job:
    """The batch script under stand-ins for Slurm and, unless there is no `driver`, for Ray and for
    the command, which that is then."""

    def __init__(self, root: Path, driver: str | None, **variables: str) -> None:
        self.root = root
        (root / "calls").touch()
        stands_in = dict(SLURM)
        if driver is not None:
            stands_in |= RAY
            stands_in["venv/bin/python"] += driver
        for name, script in stands_in.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/bash\nJOB={shlex.quote(str(root))}\n{script}")
            path.chmod(0o755)
        self.environment = {
            "HOME": str(root / "home"),
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "TUNER_VENV": str(root / "venv") if driver is not None else sys.prefix,
            "SLURM_SUBMIT_DIR": str(root),
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NAME": "few-shot-tuner",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "16",
            **variables,
        }

    def start(self, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, BATCH, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.root,
        )

    def calls(self, program: str) -> list[list[str]]:
        lines = map(str.split, (self.root / "calls").read_text().splitlines())
        return [words for words in lines if words[0] == program]

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def signalled(self, number: signal.Signals) -> tuple[int, str]:
        process = self.start("reptile_mnist", "--budget", "1h")
        while not self.calls("ready"):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


@pytest.mark.parametrize("gpus", [None, "4"])
def test_a_batch_job_starts_ray_on_its_nodes_and_the_command_once(gpus, tmp_path):
    variables = {} if gpus is None else {"SLURM_GPUS_ON_NODE": gpus}
    job = Job(tmp_path, "exit 3", **variables)
    code, output = job.run("reptile_mnist", "--budget", "1h")
    assert code == 3, output
    head, worker = sorted(job.calls("ray"), key=lambda words: "--head" not in words)
    assert all(parse(words) for words in (head, worker))
    assert "--dashboard-host=127.0.0.1" in head
    assert {"--node-ip-address=127.0.0.1", "--port=6379"} <= set(head)
    assert "--address=127.0.0.1:6379" in worker
    for words in (head, worker):
        assert {"--block", "--num-cpus=16", f"--num-gpus={gpus or 0}"} <= set(words)
    (command,) = job.calls("python")
    assert parse(command)
    assert command[3:] == [
        *("--study", "few-shot-tuner-77", "--address", "127.0.0.1:6379"),
        *("reptile_mnist", "--budget", "1h"),
    ]


def test_a_batch_jobs_token_is_its_own_and_told_to_nobody(tmp_path):
    job = Job(tmp_path, "stat --format %a ~/.ray/slurm-77.token")
    code, output = job.run("reptile_mnist")
    assert (code, output.strip()) == (0, "600")
    tokens = {path.read_text() for path in tmp_path.glob("*.token")}
    (token,) = tokens
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert token not in output + (tmp_path / "calls").read_text()
    assert not (tmp_path / "home/.ray/slurm-77.token").exists(), "it outlives its cluster"


def test_a_batch_jobs_account_of_mlflow_is_the_commands_alone(tmp_path):
    account = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hush"}
    job = Job(tmp_path, 'echo "$MLFLOW_TRACKING_USERNAME $MLFLOW_TRACKING_PASSWORD"', **account)
    code, output = job.run("reptile_mnist")
    assert (code, output.strip()) == (0, "me hush")
    assert job.calls("account") == 2 * [["account", "none", "none"]]


def test_a_batch_job_that_comes_back_goes_on_with_what_is_left_of_its_budget(tmp_path):
    job = Job(tmp_path, "exit 0", SLURM_RESTART_COUNT="1")
    code, output = job.run("reptile_mnist", "--budget", "1h", "--data", "my pictures")
    assert code == 0, output
    (command,) = job.calls("python")
    assert command[7:] == ["--resume", "reptile_mnist", "--data", "my", "pictures"]


def test_a_batch_job_that_comes_back_before_there_was_a_study_begins_it(tmp_path):
    job = Job(tmp_path, "[[ $* != *--resume* ]] || exit 2", SLURM_RESTART_COUNT="1")
    code, output = job.run("reptile_mnist", "--budget=1h")
    assert code == 0, output
    first, second = job.calls("python")
    assert first[7:] == ["--resume", "reptile_mnist"]
    assert second[7:] == ["reptile_mnist", "--budget=1h"]


def test_a_batch_job_that_runs_out_of_time_stops_the_command_and_queues_again(tmp_path):
    job = Job(tmp_path, WAITS)
    code, output = job.signalled(signal.SIGUSR1)
    assert code == 130, output
    assert job.calls("scontrol")[-1][1:] == ["requeue", "77"]


def test_a_batch_job_that_is_cancelled_or_preempted_stops_the_command_and_leaves_the_rest_to_slurm(
    tmp_path,
):
    job = Job(tmp_path, WAITS)
    code, output = job.signalled(signal.SIGTERM)
    assert code == 130, output
    assert [words[1] for words in job.calls("scontrol")] == ["show"]


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_batch_job_is_a_ray_of_two_nodes_that_a_search_plans_for_and_nothing_of_it_stays(
    tmp_path,
):
    """In a network of its own, whose ports are free as those of nodes of its own."""
    if os.geteuid() != 0:
        pytest.skip("Only root can make a network.")
    write_pictures(tmp_path / "pictures", classes=6)
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # pytest's are too long for sockets
        job = Job(tmp_path, None, SLURM_CPUS_PER_TASK="1", RAY_TMPDIR=folder)
        job.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        process = job.start(
            *("reptile_omniglot", "--dry-run", "--data", str(tmp_path / "pictures")),
            *("--storage", str(tmp_path / "runs")),
            before=["unshare", "--net", "bash", "-c", 'ip link set lo up && exec "$0" "$@"'],
        )
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        said = output.splitlines()
        assert not any("Not all nodes have joined" in line for line in said)
        assert any(line.startswith("Study      few-shot-tuner-77:") for line in said)
        (hardware,) = [line for line in said if line.startswith("Hardware")]
        assert "2 CPUs, 0 GPUs: 2 trials side by side" in hardware
        staying = [
            place.parent.name
            for place in Path("/proc").glob("[0-9]*/cmdline")
            if folder in read_or_empty(place)
        ]
        assert staying == []


def read_or_empty(place: Path) -> str:
    try:
        return place.read_text()
    except OSError:  # it has ended
        return ""


# --- in a real Slurm

PATIENCE = 300.0  # seconds; a busy machine is slow
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={root}/munge/socket
SlurmUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.2)


def configured(root: Path) -> Path:
    """What a Slurm of one node needs in its folder -> its configuration."""
    root.chmod(0o755)  # for munge's user
    for folder in ("state", "spool", "munge"):
        (root / folder).mkdir()
    key = root / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (key, key.parent):
        shutil.chown(path, "munge", "munge")
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [server.getsockname()[1] for server in (one, two)]
    host = socket.gethostname().partition(".")[0]
    place = root / "slurm.conf"
    place.write_text(CONFIGURATION.format(host=host, ports=ports, root=root, cpus=os.cpu_count()))
    return place


@pytest.fixture
def slurm() -> Iterator[dict[str, str]]:
    """A Slurm of one node, this machine -> the variable by which its commands find it."""
    needed = ["munged", "slurmctld", "slurmd", "sbatch"]
    if os.geteuid() != 0 or not all(map(shutil.which, needed)):
        pytest.skip("Slurm is not installed, or not for us: apt-get install slurm-wlm, as root")
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        munge, place = Path(name, "munge"), configured(Path(name))
        files = [f"--{file}-file={munge / file}" for file in ("key", "pid", "log", "seed")]
        words = ["munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files]
        daemons = [subprocess.Popen(words, user="munge", group="munge")]
        environment = {"SLURM_CONF": str(place)}
        try:
            until((munge / "socket").exists)
            for daemon in ("slurmctld", "slurmd"):
                words = [daemon, "-D", "-f", str(place)]
                daemons.append(subprocess.Popen(words, stderr=subprocess.DEVNULL))
            state = ["sinfo", "--noheader", "--format=%t"]
            until(lambda: said(state, environment) == "idle")
            yield environment
        finally:
            for process in reversed(daemons):
                process.terminate()
                process.wait(PATIENCE)


def said(words: Sequence[str | Path], environment: dict[str, str]) -> str:
    return subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    ).stdout.strip()


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_a_real_slurm_runs_it_queues_it_again_and_lets_it_go_on_until_it_is_cancelled(
    slurm, tmp_path
):
    """Signalled as Slurm does when the time is up; Ray and the command are stand-ins."""
    job = Job(tmp_path, WAITS, **slurm)
    real = {name: job.environment[name] for name in ("HOME", "TUNER_VENV")} | slurm
    submit = ["sbatch", "--parsable", "--nodes=1", "--cpus-per-task=1", f"--chdir={tmp_path}"]
    number = said([*submit, BATCH, "reptile_mnist", "--budget", "1h"], real)
    log = tmp_path / f"few-shot-tuner-{number}.log"
    until(lambda: len(job.calls("ready")) == 1)
    said(["scancel", "--batch", "--signal=USR1", number], real)
    state = ["squeue", "--noheader", "--format=%T", f"--jobs={number}"]
    until(lambda: said(state, real) == "PENDING")
    assert "goes back into the queue" in log.read_text()
    until(lambda: not said(["scontrol", "update", f"JobId={number}", "StartTime=now"], real))
    until(lambda: len(job.calls("ready")) == 2)
    first, again = job.calls("python")
    assert first[-3:] == ["reptile_mnist", "--budget", "1h"]
    assert again[-2:] == ["--resume", "reptile_mnist"]
    said(["scancel", number], real)
    until(lambda: said(state, real) == "")
    assert log.read_text().count("goes back into the queue") == 1
    until(lambda: not list((tmp_path / "home" / ".ray").iterdir()))
