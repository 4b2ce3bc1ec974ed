"""A command that goes to a cluster as a job."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.runtime_env import RuntimeEnv

from cluster import job
from tuner import launch, submission
from tuner.launch_options import build_parser

ROOT = Path(__file__).parents[1]
HEAD = "http://10.0.0.1:8265"


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were."""
    found: list[list[str]] = []

    def run_as_job(
        address: str,
        words: list[str],
        modules: Any,
        say: Any,
        *,
        environment: Any,
        follow: bool,
    ) -> int:
        assert environment == {}  # no plugin
        assert address in (HEAD, "ray://10.0.0.1:10001")
        assert {path.name for path in modules} >= {"tuner", "trainables"}
        found.append(words)
        return 3 if follow else 0

    monkeypatch.setattr(submission, "run_as_job", run_as_job)
    return found


@pytest.mark.parametrize("address", [HEAD, "ray://10.0.0.1:10001"])
def test_the_job_is_the_same_command_on_the_cluster_it_is_in(
    submitted: list[list[str]], address: str
) -> None:
    asked = ["reptile_omniglot", "--storage", "/nfs/runs", "--trials", "7", "--address", address]
    assert launch.main(asked) == 3  # its exit code is the job's
    assert submitted == [["python", "-m", "tuner.launch", *asked, "--address", "auto"]]
    again = build_parser().parse_args(submitted[0][3:])
    assert (again.address, again.trials) == ("auto", 7)


def test_a_job_goes_on_by_itself_and_need_not_be_followed(submitted: list[list[str]]) -> None:
    words = ["reptile_omniglot", "--storage", "/nfs/runs", "--address", HEAD, "--detach"]
    assert launch.main(words) == 0
    assert "--detach" not in submitted[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--address", HEAD], "--storage must be an absolute path"),
        (["--address", "ftp://10.0.0.1:21"], "--address must be auto, host:port, ray://"),
        (
            ["--address", HEAD, "--storage", "s3://me:hush@bucket/runs"],
            "leave credentials out of it",
        ),
    ],
)
def test_what_a_job_would_lose_or_show_is_refused(
    submitted: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    line: str,
) -> None:
    assert launch.main(["reptile_omniglot", *words]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert "hush" not in error
    assert not submitted


@pytest.mark.parametrize("scheme", ["ray", "http"])
def test_no_cluster_there_is_one_line_within_seconds(
    capsys: pytest.CaptureFixture[str], scheme: str
) -> None:
    began = time.monotonic()
    words = ["reptile_omniglot", "--storage", "/nfs", "--address", f"{scheme}://127.0.0.1:1"]
    assert launch.main(words) == 2
    assert time.monotonic() - began < 30
    told = capsys.readouterr().err
    assert f"Cannot submit a job to {scheme}://127.0.0.1:1: " in told
    assert told.endswith("or leave the address out to use this machine.\n")
    assert told.count("\n") == 1


def test_a_port_that_takes_a_connection_and_stays_mute_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        assert launch.main(["reptile_omniglot", "--storage", "/nfs", "--address", address]) == 2
    assert time.monotonic() - began < 10
    told = capsys.readouterr().err
    assert f"Cannot submit a job to {address}: no Ray dashboard answers there" in told
    assert told.count("\n") == 1


def test_ray_takes_the_runtime_environment_that_comes_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that is pinned is asked for, so that nothing else is installed on nodes that have it."""
    monkeypatch.chdir(ROOT)
    told = yaml.safe_load(Path("cluster/runtime_env.yaml").read_text(encoding="utf-8"))
    asked = RuntimeEnv(**told)["pip"]["packages"]
    pinned = Path("requirements.lock").read_text(encoding="utf-8").splitlines()
    assert {line.strip() for line in asked} >= {line for line in pinned if line[:1].isalpha()}
    assert not set(told["excludes"]) & {"tuner", "trainables", "search_spaces", "cluster"}
