"""Slots follow the nodes."""

from __future__ import annotations

import pytest
import ray

from cluster.nodes import nodes_there
from cluster.resources import Node
from tuner import capacity
from tuner.capacity import Capacity


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """What Ray would say, to be changed; looked at every time."""
    there = [Node(cpus=0), Node(cpus=3)]
    monkeypatch.setattr(capacity, "nodes_there", lambda: there)
    monkeypatch.setattr(capacity, "LOOK_SECONDS", 0.0)
    return there


def test_slots_follow_nodes_that_come_and_go(nodes: list[Node]) -> None:
    told: list[tuple[int, int]] = []
    slots = Capacity(2, 0, grows=False, changed=lambda n, slots: told.append((len(n), slots)))
    assert slots() == 1
    nodes.append(Node(cpus=3))
    assert (slots(), slots()) == (2, 2)
    nodes[1:] = []
    assert slots() == 1  # one waits until a node comes back
    assert told == [(3, 2), (1, 1)]


def test_a_node_that_was_told_to_leave_has_no_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(name: str, *, alive: bool = True) -> dict[str, object]:
        place = {"NodeID": name, "NodeManagerAddress": name, "Alive": alive}
        return place | {"Resources": {"CPU": 2.0}}

    told = [entry("stays"), entry("leaves"), entry("died", alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: told)
    monkeypatch.setattr(ray._private.state.state, "get_draining_nodes", lambda: {"leaves": 0})
    assert nodes_there() == (Node(cpus=2.0, name="stays", id="stays"),)


def test_where_nodes_are_made_for_trials_that_wait_as_many_wait_as_run(nodes: list[Node]) -> None:
    slots = Capacity(1, 0, grows=True, changed=lambda *_: None)
    assert slots() == 6
    assert slots.slots == 3


def test_nodes_are_looked_at_now_and_then(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "LOOK_SECONDS", 3600.0)
    slots = Capacity(1, 0, grows=False, changed=lambda *_: pytest.fail("it looked"))
    nodes.clear()
    assert slots() == 3
