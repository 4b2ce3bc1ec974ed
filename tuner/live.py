"""What a person sees while a study runs: a table that is kept up to date, or plain lines."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.resources import counted
from tuner.plan import clock, hardware
from tuner.ranking import COLUMNS, SCORE_WIDTHS, describe, fitted_table
from tuner.ranking import number as two_decimals

if TYPE_CHECKING:
    from cluster.resources import Node
    from tuner.result import StudyResult
    from tuner.trial_records import TrialRecord

STATES = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed"}
WAITING = "waiting"  # cut off with an earlier session, and to be taken up again
REFRESH_PER_SECOND = 2
LATELY = 4  # trials of which it is told what became of them
AROUND_ROWS = 7  # lines of a terminal that no trial has: four above, two below, and the cursor's
QUIET_SECONDS = 15.0  # between lines of progress that no terminal can overwrite
# Columns that go first when the terminal is narrow, and the width that each one needs.
OPTIONAL = {"recognisability": 72, "J": 64, "state": 58, "coverage": 48, "rung": 40}


@dataclass(slots=True, kw_only=True)
class _Row:
    number: int
    title: str
    state: str = "running"
    rung: int = -1
    metrics: dict[str, float] = field(default_factory=dict)

    def reach(self, rung: int, metrics: Mapping[str, float]) -> None:
        """Scores at a rung, or on the way to it."""
        self.rung, self.metrics = rung if metrics["complete"] else rung - 1, dict(metrics)

    @property
    def loss(self) -> float:
        return self.metrics.get("L", float("inf"))


class LiveTable:
    """Shows a study's trials: running ones, then the best ones. Use it as a context manager.

    On a terminal, a table redrawn twice a second by a thread of its own; elsewhere one plain line
    an event, without control characters; nothing at all on a console that is quiet. The observer
    methods only note what they are told.
    """

    def __init__(
        self,
        *,
        trials: int,
        slots: int,
        rungs: int,
        deadline: float,
        study: str = "",
        console: Console | None = None,
        rows: int = 14,
    ) -> None:
        """Prepare; nothing is shown before the `with` block begins.

        Args:
            trials: planned.
            slots: trials side by side.
            rungs: a full trial has.
            deadline: Unix time at which the search ends.
            study: its name.
            console: where to; a new one on stdout by default.
            rows: of trials at most; fewer where the terminal is low.
        """
        self._console = Console() if console is None else console
        self._trials, self._slots = trials, slots
        self._rungs, self._deadline, self._limit = rungs, deadline, rows
        self._study = study
        self._rows: dict[int, _Row] = {}
        self._lately: deque[str] = deque(maxlen=LATELY)  # what became of trials, the newest first
        self._lock = threading.Lock()
        self._began = time.time()
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.quiet:
            # Transient: the ranking that follows says it all again.
            self._live = Live(
                console=self._console,
                get_renderable=self.render,
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def recall(self, records: Sequence[TrialRecord]) -> None:
        """Take in what earlier sessions did, which was said then."""
        for record in records:
            if not record.config:
                continue
            title = describe(record.label, record.params)
            row = self._rows[record.number] = _Row(number=record.number, title=title)
            row.state = STATES.get(record.state, "paused" if record.paused else WAITING)
            if record.rungs:
                row.reach(record.rungs[-1].rung, record.rungs[-1].metrics)

    def say(self, line: str) -> None:
        """Print a line, above the table if there is one."""
        self._console.print(Text(line), soft_wrap=True)

    def trial_started(
        self,
        number: int,
        label: str,
        config: Mapping[str, Any],  # noqa: ARG002 - the observers' common signature
        params: Mapping[str, Any],
    ) -> None:
        """A trial begins, or goes on after an interruption."""
        title = describe(label, params)
        with self._lock:
            row = self._rows.setdefault(number, _Row(number=number, title=title))
            row.state = "running"
        self._line(f"trial {number} started: {title}")

    def rung_reached(
        self,
        number: int,
        rung: int,
        metrics: Mapping[str, float],
        losses: Sequence[tuple[float, float, float]],  # noqa: ARG002
        checkpoint: Path,  # noqa: ARG002
        decision: Literal["continue", "pause", "done"],
    ) -> None:
        """A trial was scored."""
        with self._lock:
            row = self._rows[number]
            row.reach(rung, metrics)
            if decision == "pause":
                row.state = "paused"
                loss = two_decimals(row.loss)
                self._lately.appendleft(f"trial {number} paused at rung {rung + 1}, L {loss}")
        self._line(f"trial {number} {told_rung(rung, self._rungs, metrics, decision)}")

    def trial_promoted(self, number: int) -> None:
        """A paused trial goes on."""
        with self._lock:
            self._rows[number].state = "running"
        self._line(f"trial {number} promoted")

    def trial_ended(
        self, number: int, state: Literal["COMPLETE", "PRUNED", "FAIL"], reason: str
    ) -> None:
        """A trial is over."""
        with self._lock:
            self._rows[number].state = STATES[state]
            told = f"trial {number} {told_end(state, reason)}"
            self._lately.appendleft(told)
        self._line(told)

    def rung_doubted(self, rung: int, correlation: float) -> None:
        """A rung foretells too little of the last one to stop a trial by."""
        self.say(
            f"Rung {rung + 1} foretells the last rung badly (correlation "
            f"{two_decimals(correlation)}, the noise of scores allowed for): trials go on to rung "
            f"{rung + 2} before any is stopped"
        )

    def cluster_changed(self, nodes: Sequence[Node], slots: int) -> None:
        """Nodes came or went: as many trials as run in the same time are planned anew."""
        with self._lock:
            over = sum(row.state in STATES.values() for row in self._rows.values())
            self._trials = over + max(0, round((self._trials - over) * slots / self._slots))
            self._slots = slots
        self.say(
            f"The cluster has {hardware(nodes)} now: {counted(slots, 'trial')} side by side, "
            f"about {self._trials} in all"
        )

    def tick(self) -> None:
        """Time passes; the table is redrawn by its own thread."""

    def study_ended(self, result: StudyResult) -> None:
        """The study is over; its ranking is printed elsewhere."""

    def render(self) -> RenderableType:
        """How things stand, as many trials as the terminal has room for, and what became of others;
        never higher than the terminal, which would not show what is below."""
        with self._lock:
            rows = [_copy(row) for row in self._rows.values()]
            lately = "; ".join(self._lately)
        best = _best(rows)
        table = self._empty_table()
        columns = [str(column.header) for column in table.columns]
        room = max(1, self._console.height - AROUND_ROWS)
        for row in self._order(rows)[: min(self._limit, room)]:
            cells = self._cells(row, marked=best is not None and row.number == best.number)
            style = "bold" if row.number == (best.number if best else None) else ""
            table.add_row(*(cells[heading] for heading in columns), style=style)
        return Group(
            _one_line(self._header(rows), "bold"),
            _one_line(f"best so far: {self._told(best)}"),
            table,
            _one_line(self._counts(rows), "dim"),
            _one_line(f"lately: {lately}" if lately else "", "dim"),
        )

    def _line(self, text: str) -> None:
        if self._live is None:
            minutes, seconds = divmod(int(time.time() - self._began), 60)
            self.say(f"{minutes:02}:{seconds:02} {text}")

    def _order(self, rows: list[_Row]) -> list[_Row]:
        running = sorted((r for r in rows if r.state == "running"), key=lambda r: r.number)
        ended = [r for r in rows if r.state != "running"]
        # L of different rungs does not compare: fewer updates, fewer episodes.
        ended.sort(key=lambda r: (r.state == "failed", -r.rung, r.loss, r.number))
        return running + ended

    def _empty_table(self) -> Table:
        width = self._console.width
        hidden = {COLUMNS.get(name, name) for name, needed in OPTIONAL.items() if width < needed}
        widths = {"trial": 5, "settings": 0, "state": 7, "rung": 5, **SCORE_WIDTHS}
        return fitted_table({h: w for h, w in widths.items() if h not in hidden}, width)

    def _cells(self, row: _Row, *, marked: bool) -> dict[str, RenderableType]:
        scores: dict[str, RenderableType] = {
            heading: two_decimals(row.metrics.get(name)) for name, heading in COLUMNS.items()
        }
        return {
            "trial": f"{'*' if marked else ''}{row.number}",
            "settings": Text(row.title),
            "state": row.state,
            "rung": f"{row.rung + 1}/{self._rungs}",
            **scores,
        }

    def _header(self, rows: list[_Row]) -> str:
        """What matters most comes first: a narrow terminal cuts the end off."""
        left = clock(max(0, int(self._deadline - time.time())))
        busy = sum(row.state == "running" for row in rows)
        parts = ["search", f"{left} left", f"{busy} of {self._slots} slots busy", self._study]
        return " · ".join(filter(None, parts))

    def _told(self, best: _Row | None) -> str:
        if best is None:
            return "none yet, no trial has come to its first rung"
        loss, joint = two_decimals(best.metrics["L"]), two_decimals(best.metrics.get("J"))
        place = f"rung {best.rung + 1}/{self._rungs}"
        return f"trial {best.number}, L {loss}, J {joint} at {place}, {best.title}"

    def _counts(self, rows: list[_Row]) -> str:
        states = Counter(row.state for row in rows)
        paused = Counter(row.rung for row in rows if row.state == "paused")
        over = sum(states[state] for state in STATES.values())
        each = [f"{states[state]} {state}" for state in STATES.values() if states[state]]
        parts = [f"{over} of about {self._trials} trials over"]
        parts += [", ".join(each)] if each else []
        if paused:
            counts = ", ".join(f"{paused[rung]} at rung {rung + 1}" for rung in sorted(paused))
            parts.append(f"paused {counts}")
        return " · ".join(parts)


def told_rung(rung: int, rungs: int, metrics: Mapping[str, float], decision: str) -> str:
    """Where a trial was scored, how, and what followed: "rung 2/3: L .42, J .66, ... -> pause"."""
    scores = ", ".join(
        f"{name.replace('_', ' ')} {two_decimals(metrics[name])}"
        for name in COLUMNS
        if name in metrics
    )
    place = f"rung {rung + 1}/{rungs}"
    if not metrics["complete"]:
        place = f"between rung {rung} and {rung + 1}" if rung else "before rung 1"
        decision = "cut"
    return f"{place}: {scores} -> {decision}"


def told_end(state: str, reason: str) -> str:
    """What became of a trial, rungs counted from 1 as everywhere that people read."""
    if (paused := re.fullmatch(r"asha: rung (\d+)", reason)) is not None:
        reason = f"asha paused it at rung {int(paused[1]) + 1}"
    return STATES[state] + (f": {reason}" if reason else "")


def _best(rows: list[_Row]) -> _Row | None:
    """The lowest L among those that came furthest."""
    scored = [row for row in rows if row.metrics and row.state != "failed"]
    return min(scored, key=lambda row: (-row.rung, row.loss), default=None)


def _one_line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _copy(row: _Row) -> _Row:
    return _Row(
        number=row.number, title=row.title, state=row.state, rung=row.rung, metrics=row.metrics
    )


@contextmanager
def newest_line(console: Console) -> Iterator[Callable[[str], None]]:
    """Show progress in place; where there is no terminal, a line now and then."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda line: status.update(Text(f"Preparing, once: {line}"))
        return
    told = -QUIET_SECONDS

    def report(line: str) -> None:
        nonlocal told
        if time.monotonic() - told >= QUIET_SECONDS:
            told = time.monotonic()
            console.print(f"Preparing, once: {line}", markup=False, soft_wrap=True)

    yield report
