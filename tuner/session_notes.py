"""What a session of a study notes with it: for the next session, and for whoever looks on."""

from __future__ import annotations

import time

from tuner.journal import PHASE, RESUME, Journal
from tuner.resume_command import resume_command, typed_command
from tuner.setting import Setting
from tuner.timings import Timings


class SessionNotes:
    """Notes of the session that holds a study's journal.

    Attributes:
        setting: of the study.
        journal: where they go.
        timings: of this session, and of those before.
    """

    def __init__(self, setting: Setting, journal: Journal, timings: Timings) -> None:
        """Go on from what earlier sessions noted."""
        self.setting, self.journal, self.timings = setting, journal, timings
        timings.recall(journal.attr("timings", {}))

    def add_command(self) -> None:
        """Add what began this session to what began the ones before; a repeated one once."""
        noted, command = self.journal.attr("commands", []), typed_command(self.setting.request)
        if noted[-1:] != [command]:
            self.journal.set_attr("commands", [*noted, command])
        self.journal.set_attr(RESUME, resume_command(self.setting))

    def enter_phase(self, name: str, *, ends: float | None = None) -> None:
        """Note for whoever looks from outside what is done from now on; `ends` in Unix seconds."""
        self.journal.set_attr(PHASE, {"name": name, "since": time.time(), "ends": ends})
        self.setting.tell("phase", phase=name, ends=ends)

    def took(self, part: str, started: float) -> None:
        """Note what a part of the run took, for the result of whichever session gets there."""
        self.timings.add(part, time.monotonic() - started)
        self.journal.set_attr("timings", self.timings.total())
