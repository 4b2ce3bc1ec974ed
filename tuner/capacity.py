"""How many trials run side by side on a cluster that grows and shrinks while a study runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cluster.nodes import nodes_there
from cluster.resources import Node, slots_on

LOOK_SECONDS = 2.0  # between looks at the nodes


class Capacity:
    """Counts the slots of the nodes that are there now; call it for how many trials may be out.

    Where an autoscaler listens, as many again may wait for a node: what waits is what it counts.

    Attributes:
        slots: trials that fit on the nodes that there are, at least 1, since one that waits for a
            lost cluster goes on when it comes back.
    """

    def __init__(
        self,
        cpus_per_trial: float,
        gpus_per_trial: float,
        *,
        grows: bool,
        changed: Callable[[Sequence[Node], int], None],
        fit: Callable[[Sequence[Node]], Sequence[Node]] = lambda nodes: nodes,
    ) -> None:
        """Look once.

        Args:
            cpus_per_trial, gpus_per_trial: the size of a slot.
            grows: whether there is an autoscaler.
            changed: told of nodes and slots when there are others than before.
            fit: those of the nodes that may run trials.
        """
        self._share = (cpus_per_trial, gpus_per_trial)
        self._grows, self._changed, self._fit = grows, changed, fit
        self._looked = time.monotonic()
        self.slots = self._count(fit(nodes_there()))

    def __call__(self) -> int:
        """Trials that may be out: on a node, or waiting for one."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            nodes = self._fit(nodes_there())
            before, self.slots = self.slots, self._count(nodes)
            if self.slots != before:
                self._changed(nodes, self.slots)
        return 2 * self.slots if self._grows else self.slots

    def _count(self, nodes: Sequence[Node]) -> int:
        return max(1, sum(slots_on(node, *self._share) for node in nodes))
