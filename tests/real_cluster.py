"""A real Ray cluster on this machine: a head and workers, each of processes of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray
from ray._private.node import psutil

RAY = str(Path(sys.executable).with_name("ray"))
ROOT = Path(__file__).parents[1]
QUICK_LAUNCH = [sys.executable, "-u", str(ROOT / "tests/quick_launch.py"), ""]
START_SECONDS = 120.0
OBJECT_STORE_BYTES = 80 * 2**20


@dataclass(slots=True, eq=False)
class RealNode:
    """A machine of the cluster: `ray start --block` and all that it began.

    Attributes:
        process: of `ray start`; its log is in `log`.
        cache: the node's own cache folder, as XDG_CACHE_HOME has it.
    """

    process: subprocess.Popen[bytes]
    log: Path
    cache: Path

    def processes(self) -> list[psutil.Process]:
        """Those of it that live, agents, raylet and workers included."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        return []


@dataclass(slots=True)
class RealCluster:
    """Starts and kills nodes; `stop` ends all, whatever happened.

    Attributes:
        address: host:port of the head.
        dashboard: http address of the head's dashboard.
        client: ray:// address of the head's Ray Client server.
        environment: of nodes and of commands against them.
    """

    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp")))
    address: str = ""
    dashboard: str = ""
    client: str = ""
    nodes: list[RealNode] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment = kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.environment.pop("PYTHONPATH", None)  # what nodes need is sent to them

    def start_head(
        self, *, cpus: int = 1, dashboard: bool = True, port: int = 0, **more: str
    ) -> RealNode:
        """The head, at an address of its own.

        Args:
            cpus: that it runs trials on.
            dashboard: whether jobs can be submitted to it.
            port: of the cluster's address; any if 0.
            more: other options of `ray start`, such as autoscaling_config.
        """
        port, page, client = port or free_port(), free_port(), free_port()
        options = ["--head", f"--port={port}"]
        options += [f"--include-dashboard={str(dashboard).lower()}"]
        options += ["--dashboard-host=127.0.0.1", f"--dashboard-port={page}"]
        options += [f"--ray-client-server-port={client}"]
        options += [f"--{name.replace('_', '-')}={value}" for name, value in more.items()]
        self.address, self.dashboard = f"{_own_address()}:{port}", f"http://127.0.0.1:{page}"
        self.client = f"ray://127.0.0.1:{client}"
        return self._start(options, cpus, {}, [])

    def start_growing_head(self, *, cpus: int, workers: int) -> RealNode:
        """A head with Ray's autoscaler, which starts up to so many workers of a core each."""
        config, port = self.root / "autoscaling.json", free_port()
        kinds = {
            "ray.head.default": {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": workers},
        }
        told = {
            "cluster_name": "growing",
            "provider": {
                "type": "fake_multinode",
                "gcs_address": f"{_own_address()}:{port}",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": kinds,
            "head_node_type": "ray.head.default",
            "max_workers": workers,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 5,
            "auth": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }
        config.write_text(json.dumps(told))
        self.environment |= {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_NODE_TYPE_NAME": "ray.head.default",  # as a cluster launcher has it
        }
        return self.start_head(
            cpus=cpus, dashboard=False, port=port, autoscaling_config=str(config)
        )

    def start_worker(
        self,
        *,
        cpus: int = 1,
        environment: Mapping[str, str] | None = None,
        private: Path | None = None,
        host: RealHost | None = None,
    ) -> RealNode:
        """One more node.

        Args:
            cpus: that it runs trials on.
            environment: more of it.
            private: a folder of which this node sees another one, empty, as if the disk were its
                own; needs root.
            host: which it runs on; None is this machine.
        """
        inside: list[str] = []
        if private is not None:
            own = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
            inside = ["unshare", "--mount", "sh", "-c", own, str(private)]
        if host is not None:
            inside = host.inside
        return self._start([f"--address={self.address}"], cpus, environment or {}, inside)

    def _start(
        self, options: list[str], cpus: int, more: Mapping[str, str], inside: Sequence[str]
    ) -> RealNode:
        number = len(self.nodes)
        cache, log = self.root / f"cache-{number}", self.root / f"node-{number}.log"
        command = [*inside, RAY, "start", "--block", f"--num-cpus={cpus}", "--num-gpus=0", *options]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
        # A node takes packages into its own folder, and a second one would empty that.
        command += [f"--temp-dir={self.root}/ray-{number}"]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        environment = self.environment | {"XDG_CACHE_HOME": str(cache)} | more
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, env=environment, cwd="/", start_new_session=True
            )
        node = RealNode(process, log, cache)
        self.nodes.append(node)
        self._wait_for(node)
        return node

    def _wait_for(self, node: RealNode) -> None:
        ends = time.monotonic() + START_SECONDS
        while b"--block" not in node.log.read_bytes():  # said when all of its processes are there
            assert node.process.poll() is None, node.log.read_text()
            assert time.monotonic() < ends, node.log.read_text()
            time.sleep(0.2)

    def left(self, mark: Path | None = None) -> list[str]:
        """Processes of the cluster that live, its drivers included, or those whose environment
        names `mark`: however deep, and whosoever's children they have become."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if bytes(mark or self.root) in (place / "environ").read_bytes():
                    found.append((place / "cmdline").read_text().replace("\0", " "))
        return found

    def kill_node(self, node: RealNode) -> None:
        """SIGKILL to all of a node's processes at once, as when its machine goes."""
        there = node.processes()
        for process in there:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(there, timeout=20)
        node.process.wait(20)

    def stop(self) -> None:
        """End all nodes and remove what they wrote."""
        for node in reversed(self.nodes):
            self.kill_node(node)
        for process in psutil.process_iter():  # of nodes that an autoscaler has started
            with suppress(psutil.Error):
                if any(str(self.root) in word for word in process.cmdline()):
                    process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def launching(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """As `launch`, while it runs; killed if it does not end in here."""
        process = subprocess.Popen(
            [*QUICK_LAUNCH, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.driver_environment(),
            cwd=self.root,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def launch(
        self, *words: str, timeout: float = 600, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`python -m tuner.launch` on the head's machine, with the code of this checkout, on
        settings that train in a moment."""
        return subprocess.run(
            [*QUICK_LAUNCH, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.driver_environment() | environment,
            cwd=self.root,
            check=False,
        )

    def driver_environment(self) -> dict[str, str]:
        """Of a command on the head's machine."""
        own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.nodes[0].cache)}
        return self.environment | own | {"COLUMNS": "200"}


@dataclass(frozen=True, slots=True)
class RealHost:
    """A network namespace on a bridge of this machine: a host with an address of its own.

    Attributes:
        number: from 1; of its address, 10.203.77.1 being this machine's.
    """

    number: int

    @property
    def inside(self) -> list[str]:
        """What a command on it begins with."""
        return ["ip", "netns", "exec", f"few{self.number}"]

    def cut(self) -> None:
        """Take its cable out."""
        _ip("link", "set", f"few{self.number}", "down")

    def mend(self) -> None:
        """Put it in again."""
        _ip("link", "set", f"few{self.number}", "up")


@contextmanager
def hosts(count: int) -> Iterator[list[RealHost]]:
    """So many, connected with this machine; as root."""
    made = [RealHost(number) for number in range(1, count + 1)]
    bridge = "fewbridge"
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", "10.203.77.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in made:
            name = f"few{host.number}"
            within = ("-netns", name)
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", bridge, "up")
            _ip(*within, "address", "add", f"10.203.77.{1 + host.number}/24", "dev", "eth0")
            _ip(*within, "link", "set", "lo", "up")
            _ip(*within, "link", "set", "eth0", "up")
            _ip(*within, "route", "add", "default", "via", "10.203.77.1")
        yield made
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "delete", f"few{host.number}"], check=False)
        subprocess.run(["ip", "link", "delete", bridge], check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def may_make_hosts() -> bool:
    """Whether this process may make network namespaces."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0


def may_unshare() -> bool:
    """Whether this process may give another one a view of the disks of its own."""
    with suppress(OSError):
        return subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0
    return False


needs_unshare = pytest.mark.skipif(not may_unshare(), reason="needs root, for unshare --mount")
needs_hosts = pytest.mark.skipif(
    not may_make_hosts(), reason="needs root and iproute2, for network namespaces"
)


def _own_address() -> str:
    address: str = ray.util.get_node_ip_address()
    return address


def free_port() -> int:
    """One that nothing listened at a moment ago."""
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
        return port
