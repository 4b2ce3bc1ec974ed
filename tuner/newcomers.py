"""Nodes that join while a study runs are asked what the first ones were asked before it began."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from cluster.nodes import end_actors_on
from cluster.resources import Node


class Asked(Protocol):
    """A question to a node, which answers while something else is done."""

    def is_answered(self) -> bool:
        """Whether it has, or will not any more."""

    def fault(self) -> str | None:
        """What the node lacks, in a line; None where it has all. Asked once, at the end."""

    def drop(self) -> None:
        """Nobody waits for the answer: the node is gone."""


class Newcomers:
    """Which nodes may run trials. A node that lacks what they need gets none, which is said.

    Ray itself may give a trial to a node that has just joined, before it has answered; so what
    fails meanwhile goes on elsewhere, and what runs on a node that turns out unfit is ended.

    Attributes:
        unfit: ids of the nodes there that may run none.
    """

    def __init__(
        self, known: Iterable[Node], ask: Callable[[Node], Asked], say: Callable[[str], None]
    ) -> None:
        """Nothing is asked yet.

        Args:
            known: nodes that were asked already.
            ask: begins to ask a node.
            say: shows a line.
        """
        self._fit = {node.id for node in known}
        self._ask, self._say = ask, say
        self._asked: dict[str, Asked] = {}
        self.unfit: frozenset[str] = frozenset()

    @property
    def are_doubted(self) -> bool:
        """Whether a node is there that may be the reason of what fails."""
        return bool(self._asked or self.unfit)

    @property
    def not_fit(self) -> frozenset[str]:
        """Ids of the nodes that are unfit, or have not answered."""
        return self.unfit | self._asked.keys()

    def fit(self, nodes: Sequence[Node]) -> list[Node]:
        """Of the nodes that there are now, those that may run trials; asks those that are new."""
        there = {node.id for node in nodes}
        self.unfit &= there
        for gone in self._asked.keys() - there:
            self._asked.pop(gone).drop()
        for node in nodes:
            if not (node.cpus or node.gpus):
                self._fit.add(node.id)
            elif node.id not in self._fit | self.not_fit:
                with suppress(OSError):  # the storage is away for a while: at the next look
                    self._asked[node.id] = self._ask(node)
        self._hear()
        if self.unfit:
            end_actors_on(self.unfit)
        return [node for node in nodes if node.id in self._fit]

    def _hear(self) -> None:
        for node in [node for node, asked in self._asked.items() if asked.is_answered()]:
            fault = self._asked.pop(node).fault()
            if fault is None:
                self._fit.add(node)
            else:
                self.unfit |= {node}
                self._say(f"{fault} It gets no trials.")

    def close(self) -> None:
        """Wait for no more answers; who has not given one stays not fit."""
        for asked in self._asked.values():
            asked.drop()
