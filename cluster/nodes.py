"""The machines of the Ray that this process is connected to: which there are, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util.placement_group import NODE_ID_LABEL_KEY
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.resources import Node

T = TypeVar("T")
_OF_NO_TYPE = "node_"  # what Ray calls a machine that somebody started by hand


def nodes_there() -> tuple[Node, ...]:
    """Those that live and have not been told to leave, by address."""
    leaving = ray._private.state.state.get_draining_nodes()
    found = [
        Node(
            cpus=float(entry["Resources"].get("CPU", 0)),
            gpus=float(entry["Resources"].get("GPU", 0)),
            name=entry["NodeManagerAddress"],
            id=entry["NodeID"],
        )
        for entry in ray.nodes()  # type: ignore[no-untyped-call]
        if entry["Alive"] and entry["NodeID"] not in leaving
    ]
    return tuple(sorted(found, key=lambda node: (node.name, node.id)))


def may_grow(address: str) -> bool:
    """Whether an autoscaler may start more: a cluster launcher or an operator has then made those
    that there are, of types with names.

    Args:
        address: host:port of the head.
    """
    status = get_cluster_status(address)
    types = {node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
    return any(name and not name.startswith(_OF_NO_TYPE) for name in types)


def ask_each(
    nodes: Sequence[Node], question: Callable[..., T], *content: Any, seconds: float
) -> Iterator[tuple[Node, T | Exception]]:
    """Run `question` once on every node, beside whatever runs there -> what each said.

    Args:
        nodes: as `nodes_there` gives them.
        question: a function that can be pickled.
        content: its arguments.
        seconds: after which a node that has not answered counts as one that raised TimeoutError.
    """
    asked = [ask(node, question, *content) for node in nodes]
    answered, _late = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    for node, reference in zip(nodes, asked, strict=True):
        yield node, answer_to(reference) if reference in answered else silent(seconds)


def ask(node: Node, question: Callable[..., T], *content: Any) -> Any:
    """Begin to run `question` on a node -> what `answer_to` takes."""
    remote = ray.remote(num_cpus=0, max_retries=0)(question)
    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return remote.options(scheduling_strategy=there).remote(*content)


def has_answered(reference: Any) -> bool:
    """Whether a node has; it is not waited for."""
    return bool(ray.wait([reference], timeout=0)[0])


def answer_to(reference: Any) -> Any:
    """What a node said, or the exception that it raised."""
    try:
        return ray.get(reference)
    except Exception as error:
        return error


def silent(seconds: float) -> TimeoutError:
    """The answer of a node that gave none."""
    return TimeoutError(f"it did not answer within {seconds:.0f} s")


def elsewhere(nodes: Collection[str]) -> dict[str, str]:
    """A label selector that keeps what Ray places away from nodes.

    Args:
        nodes: their ids, at least one.
    """
    return {NODE_ID_LABEL_KEY: f"!in({','.join(sorted(nodes))})"}


def end_actors_on(nodes: Collection[str]) -> None:
    """End the actors of this process that live on nodes, by their ids."""
    worker: Any = ray._private.worker.global_worker
    there = ray._private.state.actors(job_id=worker.current_job_id, actor_state_name="ALIVE")
    for name, told in there.items():
        if told["Address"]["NodeID"] in nodes:
            with suppress(ray.exceptions.ActorHandleNotFoundError):  # it is being ended
                worker.core_worker.kill_actor(ray.ActorID.from_hex(name), True)
