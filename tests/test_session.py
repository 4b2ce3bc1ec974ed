import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import ray_constants
from ray._private.utils import check_version_info

from cluster import session as module
from cluster.resources import Node
from cluster.session import dead_processes, session


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a token, and no token in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def fake_ray(home, monkeypatch):
    """Ray's doors, noted instead of opened."""
    calls = []

    def init(**options):
        calls.append(("init", options | {"alone": not ray_constants.ENABLE_RAY_CLUSTER}))
        return SimpleNamespace(
            dashboard_url="127.0.0.1:8265", address_info={"gcs_address": "10.0.0.1:6379"}
        )

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append(("shutdown", {})))
    monkeypatch.setattr(module, "nodes_there", lambda: (Node(cpus=2.0),))
    monkeypatch.setattr(module, "may_grow", lambda _address: True)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return calls


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_fresh_ray_is_private_and_never_somebody_elses(fake_ray):
    with session(cpus=2) as here:
        assert here.started_here
        assert here.nodes == (Node(cpus=2.0),)
        assert not here.grows
        assert here.dashboard_url == "http://127.0.0.1:8265"
        assert here.token_command.endswith("ray get-auth-token")
    (_, options), last = fake_ray
    assert options["address"] == "local"  # None would join a Ray that runs already
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["alone"]
    assert ray_constants.ENABLE_RAY_CLUSTER, "another Ray of this process may be a cluster's"
    assert last == ("shutdown", {})


def test_a_ray_that_died_ends_those_who_stay(fake_ray, monkeypatch):
    """Not at once, and nobody who leaves; what the raylet had started ends with them."""
    happened = []
    raylet = subprocess.Popen(["sh", "-c", "sleep 600 & wait"])
    node = SimpleNamespace(
        kill_all_processes=lambda **_: happened.append("the rest is killed"),
        all_processes={"raylet": [SimpleNamespace(process=raylet)]},
    )
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    monkeypatch.setattr(os, "_exit", happened.append)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(module, "dead_processes", lambda: ["raylet"])

    def bereaved(dead):
        happened.extend(dead)
        return 3

    for stays in (0.1, 0.4):
        assert not happened
        with session(bereaved=bereaved):
            time.sleep(stays)
    assert happened == ["raylet", "the rest is killed", 3]
    raylet.wait(30)  # it has only waited for its agent
    monkeypatch.setattr(module, "dead_processes", list)
    with session(bereaved=bereaved):
        time.sleep(0.4)
    assert len(happened) == 3


def test_a_head_that_does_not_answer_for_long_is_lost(fake_ray, head, monkeypatch):
    """Shorter silences are a network's."""
    there = [True]
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOST_SECONDS", 0.3)
    monkeypatch.setattr(module, "_is_there", lambda _address: there[-1])
    with session("10.0.0.1:6379"):
        there.append(False)
        time.sleep(0.1)
        assert dead_processes() == []
        there.append(True)
        time.sleep(0.1)
        there.append(False)
        time.sleep(0.25)
        assert dead_processes() == []
        time.sleep(0.2)
        assert dead_processes() == ["no answer from the head at 10.0.0.1:6379"]
        there.append(True)  # it is back
        time.sleep(0.1)
        assert dead_processes() == []
        there.append(False)
        time.sleep(0.5)
        assert dead_processes() != []
    time.sleep(0.1)
    assert dead_processes() == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_ray_is_left_whatever_happens(fake_ray, error):
    with pytest.raises(error), session():
        raise error
    assert fake_ray[-1] == ("shutdown", {})


def test_without_token_authentication_no_command_is_shown(fake_ray, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with session() as here:
        assert here.token_command is None


def test_a_ray_that_does_not_come_up_is_told_in_one_line(fake_ray, monkeypatch):
    def init(**options):
        raise Exception("The current node\ntimed out")

    monkeypatch.setattr(ray, "init", init)
    failed = pytest.raises(ConnectionError, match="did not start on this machine: The current node")
    with failed as caught, session():
        pass
    assert "\n" not in str(caught.value)
    assert fake_ray == [("shutdown", {})]


def test_an_address_where_nothing_listens_is_told_at_once(fake_ray):
    start = time.monotonic()
    refused = pytest.raises(ConnectionError, match="No Ray answers at localhost")
    with refused as caught, session(f"localhost:{closed_port()}"):
        pass
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    assert "init" not in [name for name, _ in fake_ray]


def test_a_port_that_speaks_another_protocol_is_not_ray(fake_ray, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ConnectionError, match="No Ray answers"), session(address):
            pass


@pytest.mark.parametrize("address", ["cluster", "cluster:", ":6379", "a:b", "http://a:8265"])
def test_an_address_needs_a_host_and_a_port(fake_ray, address):
    with pytest.raises(ValueError, match="host:port"), session(address):
        pass


@pytest.fixture
def head(fake_ray, monkeypatch):
    """A cluster that answers."""
    asked = []
    monkeypatch.setattr(module, "require_answer", asked.append)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return asked


def test_auto_is_the_cluster_that_this_process_is_of(fake_ray, head, tmp_path):
    with session("auto", modules=[tmp_path / "ours"]) as there:
        assert not there.started_here
        assert there.grows
    options = fake_ray[0][1]
    assert head == [options["address"]] == ["10.0.0.1:6379"]
    assert options["runtime_env"]["py_modules"] == [str(tmp_path / "ours")]


def test_a_job_keeps_the_environment_that_it_was_submitted_with(fake_ray, head, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with session("auto", modules=[Path("ours")]):
        pass
    assert fake_ray[0][1]["runtime_env"] is None


def test_no_cluster_for_auto_is_told_in_one_line(fake_ray, monkeypatch):
    def nowhere(*_args):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(module, "get_ray_address_from_environment", nowhere)
    with pytest.raises(ConnectionError, match="--address auto finds no Ray"), session("auto"):
        pass


def test_a_cluster_of_other_versions_is_told_in_one_line(fake_ray, head, monkeypatch):
    """In Ray's own words."""

    def init(**_options):
        theirs = {"ray_version": "2.9.0", "python_version": "3.10.1"}
        check_version_info(theirs, "node 10.0.0.2:0")

    monkeypatch.setattr(ray, "init", init)
    refused = pytest.raises(ConnectionError, match=r"runs Ray: 2.9.0, Python: 3.10.1, and this")
    with refused as caught, session("auto"):
        pass
    assert "\n" not in str(caught.value)
    assert ray.__version__ in str(caught.value)


def test_a_cluster_has_its_own_cpus(fake_ray):
    with pytest.raises(ValueError, match="its own CPUs"), session("head:6379", cpus=4):
        pass


LISTENING = """
import json, os
import ray
from cluster.session import session
import psutil  # Ray brings it

with session(cpus=1):
    worker = ray.get(ray.remote(lambda: dict(os.environ)).remote())
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    print(json.dumps({
        "ports": [
            [p.name(), c.laddr.ip, c.laddr.port]
            for p in ours for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN
        ],
        "commands": [word for p in ours for word in p.cmdline()],
        "mode": worker.get("RAY_AUTH_MODE"),
    }))
"""


@pytest.mark.ray
def test_a_ray_of_our_own_listens_on_loopback_alone_and_prints_no_token(home):
    """Every port of every process: the control store's, the raylet's, agents', workers', ours."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LISTENING],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # IPv4 on a socket of IPv6 has a name of its own.
    hosts = {ip.removeprefix("::ffff:") for _, ip, _ in found["ports"]}
    assert all(ipaddress.ip_address(host).is_loopback for host in hosts), found["ports"]
    assert {"gcs_server", "raylet"} <= {name for name, _, _ in found["ports"]}
    token = home / ".ray" / "auth_token"
    secret = token.read_text()
    assert len(secret) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    assert found["mode"] == "token"
    assert not any(secret in word for word in [*found["commands"], done.stdout, done.stderr])


def test_the_token_is_made_for_its_owner_alone_and_kept(home):
    token = home / ".ray" / "auth_token"
    module._keep_token_private()
    made = token.read_text()
    assert len(made) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    token.chmod(0o644)  # as Ray makes it
    module._keep_token_private()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == made


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "/nowhere")],
)
def test_a_token_that_the_environment_decides_on_is_left_to_it(home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    module._keep_token_private()
    assert not (home / ".ray").exists()
