"""`--json`: what happens, one JSON object a line on stdout, and nothing else there.

What the objects hold is in `events.schema.json`; `docs/events.md` tells of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal

EVENTS = "events.jsonl"  # in a study's folder: what is told once nobody listens at a terminal
_ENDS = {"COMPLETE": "trial_done", "PRUNED": "trial_stopped", "FAIL": "trial_failed"}


class Events:
    """Tells events to whoever reads a file descriptor; by default to nobody."""

    def __init__(self, out: int | None = None) -> None:
        """Begin; `out` is an open file descriptor, which stays the caller's."""
        self._out = out

    def tell(self, event: str, **facts: Any) -> None:
        """Write one event at once. A reader that is gone costs a study nothing.

        Raises:
            ValueError: a number in it is not finite.
        """
        content = {"event": event, "time": time.time()} | facts
        self.relay(json.dumps(content, allow_nan=False, default=str))

    def relay(self, line: str) -> None:
        """Write an event that another process told."""
        if self._out is None:
            return
        left = f"{line}\n".encode()
        try:
            while left:
                left = left[os.write(self._out, left) :]
        except OSError as error:
            self._out = None
            sys.stderr.write(f"Nobody reads the events any more ({error.strerror}): none follow\n")

    def go_on_in(self, folder: Path, *, with_earlier: bool) -> None:
        """From here on, write to a file in a study's folder.

        Args:
            folder: of the study.
            with_earlier: begin with what was told, for which `out` must be a file.
        """
        if self._out is None:
            return
        kept = os.open(
            folder / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644
        )
        if with_earlier:
            os.write(kept, os.pread(self._out, os.fstat(self._out).st_size, 0))
        os.dup2(kept, self._out)
        os.close(kept)


SILENT = Events()


@contextmanager
def events_on_stdout() -> Iterator[Events]:
    """Events have stdout alone: all else that this process and its children print is on stderr."""
    sys.stdout.flush()
    kept, out = os.dup(1), os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield Events(out)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(out)


class TrialEvents:
    """Tells the events of a study's trials: an `Observer`."""

    def __init__(self, events: Events, study: str) -> None:
        self._events, self._study = events, study

    def _tell(self, event: str, number: int, **facts: Any) -> None:
        self._events.tell(event, study=self._study, trial=number, **facts)

    def trial_started(
        self, number: int, label: str, config: Mapping[str, Any], params: Mapping[str, Any]
    ) -> None:
        """A trial begins, or goes on in this session."""
        self._tell("trial_started", number, label=label, params=params, config=config)

    def rung_reached(
        self,
        number: int,
        rung: int,
        metrics: Mapping[str, float],
        losses: Sequence[Any],  # noqa: ARG002 - the observers' common signature
        checkpoint: Path,
        decision: Literal["continue", "pause", "done"],
    ) -> None:
        """A trial was scored, and may wait from now on."""
        facts = {"rung": rung, "complete": bool(metrics["complete"])}
        self._tell("rung", number, **facts, metrics=metrics, checkpoint=str(checkpoint))
        if decision == "pause":
            self._tell("trial_paused", number, rung=rung)

    def trial_promoted(self, number: int) -> None:
        """A paused trial goes on."""
        self._tell("trial_promoted", number)

    def trial_ended(
        self, number: int, state: Literal["COMPLETE", "PRUNED", "FAIL"], reason: str
    ) -> None:
        """A trial is over."""
        self._tell(_ENDS[state], number, **({"reason": reason} if reason else {}))

    def tick(self) -> None:
        """Time passes, which is no event."""
