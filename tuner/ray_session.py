"""The Ray that a study runs on: joined or started, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from cluster.session import Session, session
from trainables.errors import UserError
from tuner import plugins
from tuner.breakdown import Breakdown
from tuner.premises import packages, require_nodes
from tuner.request import Request
from tuner.signals import heed_sigterm
from tuner.tracking_uri import scheme_of, strip_credentials

Bereaved = Callable[[Sequence[str]], int]  # what to do when processes of Ray's died -> exit code


def join(stack: ExitStack, address: str, request: Request, bereaved: Bereaved) -> Session:
    """A Ray that runs already, left when the stack closes.

    Raises:
        UserError: it does not answer, or its nodes cannot do what is asked for.
    """
    ray = _with_a_node(enter(stack, address, bereaved), request)
    require_nodes(ray.nodes, request.storage, request.bucket)
    return ray


def start_here(stack: ExitStack, bereaved: Bereaved) -> Session:
    """A Ray of our own, for a study that has begun.

    Raises:
        Breakdown: it does not come up in time.
    """
    try:
        return enter(stack, None, bereaved)
    except UserError as error:
        told = str(error).rstrip(".")
        raise Breakdown(f"{told}; end other programs that keep it busy") from error


def enter(stack: ExitStack, address: str | None, bereaved: Bereaved | None = None) -> Session:
    """Join the Ray at an address, or start one.

    Raises:
        UserError: that cannot be done.
    """
    stack.callback(heed_sigterm)  # Ray's end leaves SIGTERM to the kernel, which kills
    try:
        more = stack.enter_context(plugins.environment())
        ours = session(address, modules=packages(), environment=more, bereaved=bereaved)
        entered = stack.enter_context(ours)
    except (ConnectionError, ValueError) as error:
        raise UserError(str(error)) from error
    heed_sigterm()  # Ray has just set its handler
    return entered


def _with_a_node(ray: Session, request: Request) -> Session:
    """Where an autoscaler has stopped all nodes, one is needed to plan with."""
    if not ray.grows or any(node.cpus for node in ray.nodes):
        return ray
    if not request.quiet:
        print("Waiting    for the cluster's first node", flush=True)
    cpus_each, gpus_each = request.cpus_per_trial or 1.0, request.gpus_per_trial or 0.0
    try:
        return ray.with_first_node(cpus=cpus_each, gpus=gpus_each)
    except ConnectionError as error:
        raise UserError(str(error)) from error


def dashboard(ray: Session) -> str:
    """Where the dashboard is, how long, and how to get the token it asks for."""
    if ray.dashboard_url is None:
        return "none: this Ray has no dashboard"
    when = ", while the search runs" if ray.started_here else ""
    token = f" (it asks for the token that this prints: {ray.token_command})"
    token = token if ray.token_command else ""
    return f"{ray.dashboard_url}{when}{token}"


def reachable(ray: Session, uri: str) -> str:
    """From where, and by whom, what is used here can be reached.

    Args:
        uri: of the tracking store.
    """
    where = "from this machine alone"
    if not ray.started_here:  # `ray start --head` always opens Ray Client's port, on no loopback
        where = (
            f"as the cluster of {ray.address} is, by Ray Client's port of its head (10001) as "
            "well, so let a firewall keep others out"
        )
    who = "with its token" if ray.token_command else "by everybody there, without a token"
    store = "a file" if scheme_of(uri) == "sqlite" else f"{strip_credentials(uri)}, as that allows"
    return f"{where}: Ray and its dashboard, {who}; MLflow is {store}"
