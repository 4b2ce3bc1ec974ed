# ruff: noqa: ARG002  (Ray calls back with more than anybody needs)
"""Between Ray's controller and everyone who has to know: the journal first, then observers."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from ray import tune

from cluster.resources import with_fewer
from trainables.durable import settle
from trainables.trainable import COMPLETE, CROWDED, FAIL, RUNG, TIME, NodeLeaves
from tuner import bootstrap
from tuner.breakdown import disk_full, is_full_disk, require_machine
from tuner.journal import FAILURE, GPUS, Journal
from tuner.places import AT_ONCE, address_of, bring, local_copy
from tuner.trial_records import Decision, RungRecord, TrialRecord, ending_of

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.25
_MEMORY_MONITOR = "running low on memory"  # in what Ray says of its kills
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
TOLD = 4000  # characters at the end of a failure's text that the journal keeps
RETRIES = 2  # of a trial whose process died, each from its last checkpoint
LOSSES = 5  # of nodes under one trial between two of its rungs, before it is taken for their cause
_OF_THE_NODE = (  # in what Ray says of a process that was lost with its node, or left it in time
    "node has died",
    "node was terminated",
    "is unavailable",  # nobody told that it died: who would have is gone, or cut off
    NodeLeaves.__name__,
)


class Observer(Protocol):
    """Someone who is told what happens, in the driver, after the journal has it."""

    def trial_started(
        self, number: int, label: str, config: Mapping[str, Any], params: Mapping[str, Any]
    ) -> None:
        """A trial begins, or goes on in this session; at most once a trial and session."""

    def rung_reached(
        self,
        number: int,
        rung: int,
        metrics: Mapping[str, float],
        losses: Sequence[Any],
        checkpoint: Path,
        decision: Decision,
    ) -> None:
        """A trial was scored and its checkpoint is there."""

    def trial_promoted(self, number: int) -> None:
        """A paused trial goes on."""

    def trial_ended(
        self, number: int, state: Literal["COMPLETE", "PRUNED", "FAIL"], reason: str
    ) -> None:
        """A trial is over."""

    def tick(self) -> None:
        """Called a few times a second, for redrawing."""


class LeaveLoop(BaseException):
    """Raised through Ray's loop to leave it at once; Ray's own way waits 15 s for busy actors."""


class Recorder(tune.Callback):
    """Writes what Ray reports, in an order that a crash cannot hurt.

    Ray hands over a result first, with ASHA's decision, then the checkpoint of the same rung, then
    acts on the decision. A checkpoint is no single write: the trial's process makes it in a
    temporary folder, Ray copies that, file by file, to its final place, and only then calls us. The
    journal names it last, once it is on the disk; so a copy that was cut has no name, nothing reads
    it, and the next session deletes it. A crash between result and name repeats that rung, one
    between the rung and the end is settled by the next session.

    Attributes:
        leave: set to True to leave Ray's loop at its next turn.
        process_bytes: that the largest process of a trial had resident.
        error: what went wrong in writing the journal or with the machine, if anything; the loop is
            left then too.
    """

    def __init__(
        self,
        journal: Journal,
        observers: Sequence[Observer],
        *,
        trained: Callable[[float], None] | None = None,
        doubted: Callable[[], bool] = lambda: False,
    ) -> None:
        """A recorder for one session.

        Args:
            journal: of the study.
            observers: told after it.
            trained: as in `run_study`.
            doubted: whether a node is there that may be the reason of what fails.
        """
        self.leave = False
        self.process_bytes = 0
        self.error: Exception | None = None
        self._journal, self._observers, self._trained = journal, observers, trained
        self._doubted = doubted
        self._results: dict[int, dict[str, Any]] = {}  # reported, checkpoint still to come
        self._endings: dict[int, tuple[Literal["COMPLETE", "PRUNED", "FAIL"], str]] = {}
        self._started: set[int] = set()
        self._paused: set[int] = set()
        self._silenced: set[tuple[int, str]] = set()
        self._ticked = 0.0
        self._pool = None if journal.bucket is None else ThreadPoolExecutor(AT_ONCE)
        self._untold: deque[tuple[Future[None] | None, str, tuple[Any, ...]]] = deque()
        self._checkpoint_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its callbacks beside the study for restores that never happen."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """A turn of Ray's loop: the one safe place to leave it."""
        if self.leave or self.error:
            raise LeaveLoop
        if time.monotonic() - self._ticked >= _TICK_SECONDS:
            self._ticked = time.monotonic()
            self._require_machine()
            self._tell_what_is_there()
            self._tell_now("tick")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has a process; after a crash of that process, or a pause, again."""
        number = _number(trial)
        self._introduce(number)
        if number in self._paused:
            self._paused.remove(number)
            self._tell("trial_promoted", number)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep a result until its checkpoint is there. Ray has set "done" if ASHA paused it."""
        number = _number(trial)
        self.process_bytes = max(self.process_bytes, result.get("resident_bytes", 0))
        if self._trained is not None and (when := result.get("first_update")) is not None:
            tell, self._trained = self._trained, None
            tell(when)
        if result["outcome"] == FAIL:
            self._endings[number] = ("FAIL", result["reason"])
        elif result["outcome"] == CROWDED:  # handed out again
            self._note(number, GPUS, with_fewer(trial.config[GPUS]))
        elif result["metrics"]:
            self._results[number] = result
        else:
            assert result["outcome"] == TIME, result["outcome"]
            self._endings[number] = ("PRUNED", "time")

    def on_trial_save(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The checkpoint of the last result is there."""
        # Ray's means of every metric, that nobody reads, are half of what it keeps of a trial.
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()
        number = _number(trial)
        result = self._results.pop(number, None)
        if result is None:
            return
        rung = _rung(result, address_of(trial.checkpoint.path, self._journal.bucket))
        brought = self._brought(rung.checkpoint)
        if brought is None:
            return
        if self._write(self._journal.add_rung, number, rung):
            self._tell(
                "rung_reached",
                number,
                rung.rung,
                told(rung),
                rung.losses,
                local_copy(rung.checkpoint, self._journal.folder),
                rung.decision,
                after=brought,
            )
        ending = ending_of(rung)
        if ending is not None:
            self._endings[number] = ending
        elif rung.decision == "pause":
            self._paused.add(number)

    def _brought(self, checkpoint: str) -> Future[None] | None:
        """Over when what observers look at is on this machine; None if the disk does not take it.

        A bucket may take seconds, for which no other trial waits.
        """
        folder = self._journal.folder
        if self._pool is not None:
            return self._pool.submit(self._measure, partial(bring, checkpoint, folder))
        self._measure(lambda: Path(checkpoint))
        done: Future[None] = Future()
        done.set_result(None)
        return done if self._write(_settle_on_disk, Path(checkpoint), folder) else None

    def _measure(self, have: Callable[[], Path]) -> None:
        self._checkpoint_bytes = max(self._checkpoint_bytes, _size(have()))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray is done with a trial that reported its own end."""
        number = _number(trial)
        if number in self._endings:  # else it is paused
            self.end(number, *self._endings.pop(number))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process died, or it raised what nobody foresaw: once more, or the end."""
        number = _number(trial)
        self._results.pop(number, None)
        self._require_machine()
        failure = _failure(trial)
        why = _why(failure)
        if is_full_disk(why):
            self.error = self.error or disk_full(self._journal.folder)
        if self.error:  # no fault of the trial
            return
        if number in self._endings:  # it had told its end
            self.end(number, *self._endings.pop(number))
            return
        record = self._journal.record(number)
        crashes = sum(name.startswith(FAILURE) for name in record.attrs)
        self._note(number, f"{FAILURE}{crashes + 1}", failure[-TOLD:])
        if self._doubted() or any(words in failure for words in _OF_THE_NODE):
            self._lose_node(record, why)
        elif (deaths := record.attrs.get("deaths", 0)) < RETRIES:
            self._note(number, "deaths", deaths + 1)
        else:
            self.end(number, "FAIL", why)

    def _lose_node(self, record: TrialRecord, why: str) -> None:
        """No fault of a trial, unless it meets one that can come no further."""
        rungs, losses = record.attrs.get("lost_nodes", (0, 0))
        losses = losses + 1 if rungs == len(record.rungs) else 1
        if losses <= LOSSES:
            self._note(record.number, "lost_nodes", (len(record.rungs), losses))
        else:
            self.end(record.number, "FAIL", why)

    def _note(self, number: int, key: str, value: Any) -> None:
        self._write(self._journal.set_trial_attr, number, key, value)

    def end(self, number: int, state: Literal["COMPLETE", "PRUNED", "FAIL"], reason: str) -> None:
        """Tell the journal and the observers that a trial is over."""
        if self._write(self._journal.end, number, state, reason):
            self._introduce(number)  # one that was ended before it got a process
            self._tell("trial_ended", number, state, reason)

    def _require_machine(self) -> None:
        folder, largest = self._journal.folder, self._checkpoint_bytes
        self._write(lambda: require_machine(folder, checkpoint_bytes=largest))

    def _introduce(self, number: int) -> None:
        if number not in self._started:
            self._started.add(number)
            record = self._journal.record(number)
            self._tell("trial_started", number, record.label, record.config, record.params)

    def _write(self, write: Callable[..., None], *content: Any) -> bool:
        # Ray would log an exception here and go on without a journal.
        try:
            write(*content)
        except Exception as error:
            self.error = error
            return False
        return True

    def _tell(self, event: str, *content: Any, after: Future[None] | None = None) -> None:
        """Observers hear in order: what waits for a file has the rest wait, but for ticks."""
        self._untold.append((after, event, content))
        self._tell_what_is_there()

    def _tell_what_is_there(self) -> None:
        while self._untold and ((after := self._untold[0][0]) is None or after.done()):
            _, event, content = self._untold.popleft()
            self._tell_now(event, *content)

    def close(self) -> None:
        """Tell what is on its way still; after an interruption the next session tells it."""
        cut = self.leave or self.error is not None
        if self._pool is not None:
            self._pool.shutdown(wait=not cut, cancel_futures=cut)
        if not cut:
            self._tell_what_is_there()

    def _tell_now(self, event: str, *content: Any) -> None:
        for observer in self._observers:
            try:
                getattr(observer, event)(*content)
            except Exception:
                # A table that cannot be drawn must not cost a study; said once, or it floods.
                if (id(observer), event) not in self._silenced:
                    self._silenced.add((id(observer), event))
                    _log.exception("%s failed in %s.", type(observer).__name__, event)


def told(rung: RungRecord) -> dict[str, float]:
    """What observers are told of a rung: its metrics, and as L_low and L_high the ends of L's 95 %
    interval over its episodes, where there are several."""
    metrics, episodes = dict(rung.metrics), np.asarray(rung.episodes, dtype=np.float64)
    if len(episodes) > 1:
        low, high = bootstrap.interval(episodes[None])
        shift = metrics["L"] - episodes.mean()  # the mean of what they contribute is about L
        metrics |= {"L_low": low + shift, "L_high": high + shift}
    return metrics


def _number(trial: Any) -> int:
    return int(trial.config["trial_number"])


def _rung(result: Mapping[str, Any], checkpoint: str) -> RungRecord:
    metrics, outcome = result["metrics"], result["outcome"]
    assert outcome in (RUNG, COMPLETE, TIME), outcome
    decision: Decision = "continue"
    if result["done"]:
        decision = "pause" if outcome == RUNG else "done"
    reached = int(metrics["rung"])
    return RungRecord(
        rung=reached if metrics["complete"] else reached + 1,
        metrics=metrics,
        losses=result["losses"],
        checkpoint=checkpoint,
        seconds=result["time_this_iter_s"],
        decision=decision,
        episodes=result["episodes"],
        when=time.time(),
    )


def _size(checkpoint: Path) -> int:
    return sum(path.stat().st_size for path in checkpoint.glob("*"))


def _settle_on_disk(checkpoint: Path, study: Path) -> None:
    """Have a checkpoint on the disk itself before the journal names it: power may fail.

    With the names of its folder, its trial's and its session's, up to the study's.
    """
    if checkpoint.exists():  # a shared file system may show late what another node has written
        above = (folder for folder in checkpoint.parents if folder.is_relative_to(study))
        settle(*checkpoint.glob("*"), checkpoint, *above)


def _failure(trial: Any) -> str:
    """What Ray wrote of a trial's last failure into a file that is gone with this Ray."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return ""
    _heading, _, last = text.rpartition("Failure # ")[2].partition("\n")
    return _COLOURS.sub("", last)


def _why(last: str) -> str:
    """One line out of that."""
    if _MEMORY_MONITOR in last:
        return "out of memory (killed)"  # samplers know these words
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    if "Traceback" in last or "ray::" in last:
        return f"crashed: {lines[-1]}"
    return f"worker died: {lines[0]}" if lines else "crashed"
