"""Nodes that join while a study runs."""

from __future__ import annotations

import pytest

from cluster.resources import Node
from tuner import newcomers
from tuner.newcomers import Newcomers

FIRST, HEAD = Node(cpus=1, name="10.0.0.1", id="01"), Node(cpus=0, name="head", id="00")
LATE = Node(cpus=2, name="10.0.0.2", id="02")


class Answer:
    """Of a node, when it is told to."""

    def __init__(self) -> None:
        self.given, self.dropped = False, False
        self.lacks: str | None = None

    def give(self, lacks: str | None) -> None:
        self.given, self.lacks = True, lacks

    def is_answered(self) -> bool:
        return self.given

    def fault(self) -> str | None:
        return self.lacks

    def drop(self) -> None:
        self.dropped = True


class Cluster:
    """Nodes that answer, and what is said of them."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.said: list[str] = []
        self.new = Newcomers([FIRST], self.ask, self.said.append)

    def ask(self, node: Node) -> Answer:
        assert node.id not in self.answers  # once
        self.answers[node.id] = Answer()
        return self.answers[node.id]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Nodes on which what is ours was ended."""
    told: list[set[str]] = []
    monkeypatch.setattr(newcomers, "end_actors_on", lambda nodes: told.append(set(nodes)))
    return told


def test_a_node_counts_once_it_has_answered(ended: list[set[str]]) -> None:
    cluster = Cluster()
    nodes = [HEAD, FIRST, LATE]
    assert cluster.new.fit(nodes) == [HEAD, FIRST]
    assert cluster.new.fit(nodes) == [HEAD, FIRST]
    assert list(cluster.answers) == ["02"]  # neither those before nor one that runs no trials
    assert cluster.new.are_doubted
    cluster.answers["02"].give(None)
    assert cluster.new.fit(nodes) == nodes
    assert not cluster.new.are_doubted
    assert (cluster.said, ended) == ([], [])


def test_an_unfit_node_gets_no_trials_and_what_ran_there_is_ended(ended: list[set[str]]) -> None:
    cluster = Cluster()
    cluster.new.fit([FIRST, LATE])
    cluster.answers["02"].give("Node 10.0.0.2 has torch 1.0.0.")
    for _ in range(2):
        assert cluster.new.fit([FIRST, LATE]) == [FIRST]
    assert cluster.said == ["Node 10.0.0.2 has torch 1.0.0. It gets no trials."]
    assert cluster.new.unfit == {"02"}
    assert cluster.new.are_doubted
    assert ended == [{"02"}, {"02"}]  # what Ray had placed there already, too
    assert cluster.new.fit([FIRST]) == [FIRST]
    assert not cluster.new.are_doubted


def test_a_node_that_leaves_before_it_answers_is_forgotten(ended: list[set[str]]) -> None:
    cluster = Cluster()
    cluster.new.fit([FIRST, LATE])
    assert cluster.new.fit([FIRST]) == [FIRST]
    assert cluster.answers["02"].dropped
    assert not cluster.new.are_doubted
    assert cluster.said == []


def test_a_storage_that_is_away_is_asked_for_again(ended: list[set[str]]) -> None:
    tries: list[Node] = []

    def ask(node: Node) -> Answer:
        tries.append(node)
        if len(tries) == 1:
            raise OSError("stale file handle")
        return Answer()

    new = Newcomers([FIRST], ask, print)
    assert new.fit([FIRST, LATE]) == [FIRST]
    assert new.fit([FIRST, LATE]) == [FIRST]
    assert tries == [LATE, LATE]
    new.close()
    assert new.not_fit == {"02"}
