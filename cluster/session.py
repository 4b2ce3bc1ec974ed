"""Join or start Ray, and always leave it."""

from __future__ import annotations

import ipaddress
import logging
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
import psutil
import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_generator import (
    generate_new_authentication_token,
)
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.services import get_ray_address_from_environment
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.nodes import may_grow, nodes_there
from cluster.resources import Node, counted

T = TypeVar("T")
AUTO = "auto"  # the address of the cluster that this machine or job is of
HEAD = "no answer from the head at "  # what is dead of a cluster, before its address
CONNECT_SECONDS = 5.0
LOOK_SECONDS = 1.0  # between looks at Ray's own processes
FIRST_NODE_SECONDS = 900.0  # of a cloud that starts one
LOST_SECONDS = 30.0  # without an answer from a cluster's head; Ray itself ends us after a minute
GRACE_SECONDS = 15.0  # for whoever waits for a dead Ray to notice it; Ray itself gives a minute
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
_lost_heads: set[str] = set()  # of the one cluster that this process has joined, if any
_VITAL = ("gcs_server", "raylet")
_OBJECT_STORE_BYTES = 128 * 2**20  # results are small dicts; Ray's default would claim 30 % of RAM


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A Ray that this process is connected to.

    Attributes:
        address: host:port of the cluster's head.
        dashboard_url: http address of the Ray dashboard, or None where it is not installed.
        token_command: shell command that prints the token the dashboard asks for, or None where
            the cluster asks for none. The token itself is never read here.
        nodes: its machines now.
        grows: whether an autoscaler may start more of them for trials that wait.
        started_here: True if this process started Ray, and stops it on leaving.
    """

    address: str
    dashboard_url: str | None
    token_command: str | None
    nodes: tuple[Node, ...]
    grows: bool
    started_here: bool

    def run(self, work: Callable[[], T], *, cpus: float, gpus: float) -> T:
        """Run a function on whichever node has that much to give -> what it returned."""
        remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(_called)
        result: T = ray.get(remote.remote(work))
        return result

    def with_first_node(self, *, cpus: float, gpus: float) -> Session:
        """Wait until the autoscaler has started a node that has that much -> with the nodes then.

        Raises:
            ConnectionError: it has not within a quarter of an hour.
        """
        asked = {"CPU": cpus, "GPU": gpus}
        needed = placement_group([{name: count for name, count in asked.items() if count}])
        try:
            if not needed.wait(FIRST_NODE_SECONDS):
                raise ConnectionError(
                    f"The cluster at {self.address} has no node with {counted(cpus, 'CPU')} and "
                    f"{counted(gpus, 'GPU')}, and its autoscaler started none within "
                    f"{FIRST_NODE_SECONDS / 60:.0f} minutes: ask for less, or look at `ray status`."
                )
        finally:
            remove_placement_group(needed)
        return replace(self, nodes=nodes_there())


def _called(work: Callable[[], T]) -> T:
    """Ray takes functions alone, and no partial ones."""
    return work()


@contextmanager
def session(
    address: str | None = None,
    *,
    modules: Sequence[Path] = (),
    environment: Mapping[str, Any] | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    bereaved: Callable[[Sequence[str]], int] | None = None,
) -> Iterator[Session]:
    """Join the Ray at `address`, or start one on this machine that nobody else can reach.

    Args:
        address: host:port of a running cluster, or "auto" for the one that this process is on;
            None starts a fresh local Ray, even where another one runs already.
        modules: folders of Python packages that a cluster's nodes get for as long as this lasts. A
            Ray job brings its own.
        environment: what else of a runtime environment all processes have, here and there.
        cpus: cores that a fresh Ray may hand out; None takes all. Not for a cluster.
        gpus: GPUs that a fresh Ray may hand out; None takes all. Not for a cluster.
        bereaved: called in a thread, with their names, if processes that a fresh Ray cannot do
            without have died, or a cluster's head is lost, and the session goes on: it waits for an
            answer that will not come, or has not asked for a while. This process ends with the exit
            code that it returns.
    Raises:
        ConnectionError: nothing that speaks Ray's protocol answers at `address`, it refuses us, or
            a local Ray does not come up.
        ValueError: `cpus` or `gpus` beside an `address`, or an address without a port.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is not None and (cpus is not None or gpus is not None):
        raise ValueError("A running cluster has its own CPUs and GPUs: leave them out.")
    over = threading.Event()
    try:
        if address is not None:
            address = _found(address)
            require_answer(address)
            offer_token()
            _begin(_listen, over, address)
        if bereaved is not None:
            _begin(_watch, over, bereaved)
        more = {} if environment is None else environment
        context = _start(cpus, gpus, more) if address is None else _join(address, modules, more)
        yield _describe(context, started_here=address is None)
    finally:
        over.set()
        ray.shutdown()


def _begin(work: Callable[..., None], *content: Any) -> None:
    threading.Thread(target=work, args=content, daemon=True).start()


def dead_processes() -> list[str]:
    """Those of Ray's own that this process started, cannot do without, and that have died, or the
    head of the cluster that it joined, if that has not answered for long.

    Ray would wait a minute for its control store and then end this process; without its raylet it
    never starts another worker.
    """
    if _lost_heads:
        return [f"{HEAD}{address}" for address in _lost_heads]
    node = ray._private.worker._global_node
    started: dict[str, Any] = {} if node is None else node.all_processes
    return [
        name
        for name in _VITAL
        if any(info.process.poll() is not None for info in started.get(name, ()))
    ]


def _listen(over: threading.Event, address: str) -> None:
    """Ask a cluster's head whether it is there, for as long as this lasts."""
    answered = time.monotonic()
    while not over.wait(LOOK_SECONDS):
        if _is_there(address):
            answered = time.monotonic()
            _lost_heads.discard(address)
        elif time.monotonic() - answered >= LOST_SECONDS:
            _lost_heads.add(address)
    _lost_heads.discard(address)


def _watch(over: threading.Event, bereaved: Callable[[Sequence[str]], int]) -> None:
    agents: list[psutil.Process] = []
    while not over.wait(LOOK_SECONDS):
        agents = agents or _agents()
        if dead_processes() and not over.wait(GRACE_SECONDS) and (dead := dead_processes()):
            code = 1
            try:
                code = bereaved(dead)
                # By themselves they would notice in a minute or more.
                node: Any = ray._private.worker._global_node
                node.kill_all_processes(check_alive=False)
                for agent in agents:
                    with suppress(psutil.Error):  # it has left
                        agent.kill()
            finally:
                os._exit(code)


def _agents() -> list[psutil.Process]:
    """What the raylet that this process started has started itself: on a busy machine it outlives
    the raylet by more than a minute."""
    node = ray._private.worker._global_node
    raylets: list[Any] = [] if node is None else node.all_processes.get("raylet", [])
    with suppress(psutil.Error):
        return [child for info in raylets for child in psutil.Process(info.process.pid).children()]
    return []


def _start(cpus: int | None, gpus: int | None, environment: Mapping[str, Any]) -> Any:
    try:
        _keep_token_private()
        with _on_loopback():
            return ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=None,  # if it can be had: True would end the study without it
                dashboard_host="127.0.0.1",
                object_store_memory=_OBJECT_STORE_BYTES,
                runtime_env=dict(environment) or None,
                **_QUIET,
            )
    except Exception as error:  # Ray raises the bare class where its processes come up too slowly
        reason = " ".join(str(error).split())
        raise ConnectionError(f"Ray did not start on this machine: {reason}") from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that starts in here takes the loopback address for its node's and listens there alone,
    as on desktop systems: elsewhere it replaces a loopback address that it is given by the
    machine's own, and listens on all of them."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _keep_token_private() -> None:
    """Whoever reads the token can run code as this user, and Ray makes its file readable to all.

    A file or a token that the environment names is left to who named it.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as whole:  # which is private
            whole.write(generate_new_authentication_token())
            whole.flush()
            with suppress(OSError):  # another process did; or there are no links, and Ray makes it
                os.link(whole.name, path)
    elif (found := path.stat()).st_mode & 0o077 and found.st_uid == os.getuid():
        path.chmod(0o600)


def _found(address: str) -> str:
    if address != AUTO:
        return address
    try:
        found: str = get_ray_address_from_environment(AUTO, None)
    except ConnectionError as error:
        raise ConnectionError(
            "--address auto finds no Ray here, neither in RAY_ADDRESS nor started on this machine: "
            "name it as host:port, start one with `ray start --head`, or leave the address out."
        ) from error
    return found


def _join(address: str, modules: Sequence[Path], environment: Mapping[str, Any]) -> Any:
    job = RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ  # which has an environment already
    whole = shipped([] if job else modules, environment)
    try:
        return ray.init(address=address, runtime_env=whole or None, **_QUIET)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ConnectionError(f"Cannot join Ray at {address}: {_why(error)}") from error


def shipped(modules: Sequence[Path], more: Mapping[str, Any]) -> dict[str, Any]:
    """A runtime environment with these packages and what else it has, {} if that is nothing.

    Packages are known by their content, which the caches that Python writes beside them would
    change.
    """
    every = [*map(str, modules), *more.get("py_modules", ())]
    packed = {"py_modules": every, "excludes": ["__pycache__/"]} if every else {}
    return {**more, **packed}


def _why(error: Exception) -> str:
    """A line, and the way out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Version mismatch"):
        # "The cluster was started with:", its two versions, "This process ...:", and ours.
        theirs, ours = lines[1:3], lines[4:6]
        return (
            f"it runs {', '.join(theirs)}, and this command {', '.join(ours)}: use the same "
            "versions here, or submit the command as a job (`ray job submit`)."
        )
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return f"{reason}. If it asks for a token, save that in ~/.ray/auth_token."


def _describe(context: Any, *, started_here: bool) -> Session:
    url = context.dashboard_url
    return Session(
        address=context.address_info["gcs_address"],
        dashboard_url=f"http://{url}" if url else None,
        token_command=_token_command(),
        nodes=nodes_there(),
        grows=not started_here and may_grow(context.address_info["gcs_address"]),
        started_here=started_here,
    )


def _token_command() -> str | None:
    # ray.init switches token authentication on for a Ray that it starts, unless told otherwise.
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    beside_python = Path(sys.executable).with_name("ray")
    return f"{shlex.quote(str(beside_python)) if beside_python.exists() else 'ray'} get-auth-token"


def offer_token() -> None:
    """Ray sends this user's token to a given address only when asked to; a cluster without
    authentication ignores it."""
    stored = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    known = bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(stored).is_file()
    if known and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # Ray read its environment when it was imported


def require_answer(address: str) -> None:
    """Ray itself retries a dead address for two minutes and then ends the process."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ValueError(
            "A Ray address must be auto or host:port (6379, or 10001 after ray://, of a head that "
            f"was told no others), got {address!r}."
        )
    if not _is_there(address):
        raise ConnectionError(
            f"No Ray answers at {address}: start one there with `ray start --head`, "
            "or leave the address out to use this machine."
        )


def _is_there(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return any(_answers(candidate, int(port)) for candidate in _names_of(host))


def _names_of(host: str) -> list[str]:
    """A head node listens on the machine's own address, where a user may have said localhost."""
    try:
        loopback = ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except OSError:
        return []
    if not loopback:
        return [host]
    return [host, ray.util.get_node_ip_address()]  # type: ignore[no-untyped-call]


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return True  # the handshake needs the cluster's certificates: leave it to Ray
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True
