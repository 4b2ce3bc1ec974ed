"""A thread that runs jobs in order and retries them: a slow store never holds up the search."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Job = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """What an `OrderedWriter` could not do.

    Attributes:
        jobs: how many jobs did not succeed.
        reason: the last error in a few words, "" if none was seen.
    """

    jobs: int = 0
    reason: str = ""


class OrderedWriter:
    """Runs jobs one after another in a thread of its own.

    A job that fails for a passing reason (a server restarts) is tried again, with growing waits,
    before the next one is looked at: the order holds. A job that can never succeed is counted and
    left. Jobs must bear being run twice.
    """

    def __init__(
        self,
        *,
        passing: Callable[[Exception], bool],
        describe: Callable[[Exception], str],
        notice: Callable[[str], None],
        waits: Sequence[float] = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
    ) -> None:
        """Start the thread.

        Args:
            passing: tells errors worth another try from final ones.
            describe: an error in a few words.
            notice: called with those words when a job first fails for a passing reason;
                called in this thread.
            waits: seconds before the second, third ... attempt; the last one repeats.
        """
        self._passing = passing
        self._describe = describe
        self._notice = notice
        self._waits = tuple(waits)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._give_up_at = float("inf")
        self._lock = threading.Lock()
        self._open = 0  # put and neither done nor lost
        self._lost = 0
        self._reason = ""
        # A daemon, so that a call that hangs in a dead server cannot keep the process alive.
        self._thread = threading.Thread(target=self._work, name="tracking-writer", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job; returns at once."""
        assert not self._closing.is_set(), "the writer is closed"
        with self._lock:
            self._open += 1
        self._jobs.put(job)

    def close(self, timeout: float) -> Undelivered:
        """Finish what is queued, for at most `timeout` seconds; may be called again."""
        if not self._closing.is_set():
            self._give_up_at = time.monotonic() + timeout
            self._closing.set()
            self._jobs.put(None)
        try:
            self._thread.join(max(0.0, self._give_up_at - time.monotonic()) + 0.2)
        finally:  # Ctrl-C, too: nothing is begun after the caller has gone on
            self._give_up_at = min(self._give_up_at, time.monotonic())
        with self._lock:
            return Undelivered(jobs=self._open + self._lost, reason=self._reason)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            done = self._attempt(job)
            with self._lock:
                self._open -= 1
                self._lost += not done

    def _attempt(self, job: Job) -> bool:
        attempt = 0
        while time.monotonic() < self._give_up_at:
            try:
                job()
            except Exception as error:
                self._reason = self._describe(error)
                if not self._passing(error):
                    return False
                if attempt == 0:
                    self._notice(self._reason)
                self._wait(self._waits[min(attempt, len(self._waits) - 1)])
                attempt += 1
            else:
                return True
        return False

    def _wait(self, seconds: float) -> None:
        # The first wait after `close` is cut short: the last tries come before the deadline.
        if self._closing.is_set():
            time.sleep(max(0.0, min(seconds, self._give_up_at - time.monotonic())))
        else:
            self._closing.wait(seconds)
