"""How long a search has run, noted so that a resume knows what is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tuner.journal import Journal


class SearchClock:
    """An observer that writes it into the journal whenever a trial is scored."""

    def __init__(self, journal: Journal, used: float, took: Callable[[str, float], None]) -> None:
        """Start.

        Args:
            used: seconds, by earlier sessions.
            took: told "search", and since when as `time.monotonic` has it.
        """
        self._journal, self._used, self._took = journal, used, took
        self._noted = time.monotonic()

    def stop(self) -> None:
        """Note what it is now."""
        started, self._noted = self._noted, time.monotonic()
        self._used += self._noted - started
        self._journal.set_attr("search_seconds", self._used)
        self._took("search", started)

    def trial_started(self, *_event: Any) -> None:
        """Nothing to note."""

    def rung_reached(self, *_event: Any) -> None:
        """Note what it is now."""
        self.stop()

    def trial_promoted(self, *_event: Any) -> None:
        """Nothing to note."""

    def trial_ended(self, *_event: Any) -> None:
        """Nothing to note."""

    def tick(self) -> None:
        """Nothing to note."""
