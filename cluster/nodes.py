"""The machines of the Ray that this process is connected to: which there are, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
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
    remote = ray.remote(num_cpus=0, max_retries=0)(question)
    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        asked.append(remote.options(scheduling_strategy=there).remote(*content))
    answered, _late = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    for node, reference in zip(nodes, asked, strict=True):
        if reference in answered:
            yield node, _answer(reference)
        else:
            yield node, TimeoutError(f"it did not answer within {seconds:.0f} s")


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except Exception as error:
        return error
