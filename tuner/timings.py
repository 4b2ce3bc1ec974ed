"""What the parts of a run take: noted with the study, and shown by `--timings`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STARTING = ("imports", "data", "plan", "mlflow", "preparation", "ray", "actors")
RUNNING = ("search", "finals", "test", "wall")


class Timings:
    """Seconds by part, of this session and of those before.

    Attributes:
        began: the session, as `time.monotonic` has it.
        seconds: of this session, by part; "actors" is the beginning of "search".
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.seconds: dict[str, float] = {}
        self._earlier: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done in here belongs to a part, which may be done in several pieces."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - started)

    def reached(self, name: str) -> None:
        """All that was done since the session began was this part."""
        self.add(name, time.monotonic() - self.began)

    def add(self, name: str, seconds: float) -> None:
        """A piece of a part is done."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def recall(self, earlier: Mapping[str, float]) -> None:
        """What `total` was when the session before noted it."""
        self._earlier = dict(earlier)

    def total(self) -> dict[str, float]:
        """All sessions added up, and "wall", from start to now."""
        now = self.seconds | {"wall": time.monotonic() - self.began}
        return {
            name: self._earlier.get(name, 0.0) + now.get(name, 0.0)
            for name in (*self._earlier, *(name for name in now if name not in self._earlier))
        }


def start_table(seconds: Mapping[str, float], whole: float) -> str:
    """Two lines: what was done until the first training update, and how long it took.

    Args:
        seconds: by part.
        whole: from the command to the update; what no part holds is "other".
    """
    parts = {name: seconds.get(name, 0.0) for name in STARTING}
    parts["other"] = max(0.0, whole - sum(parts.values()))
    return _table("Start", parts | {"first update": whole})


def end_table(seconds: Mapping[str, float]) -> str:
    """Two lines: the parts of the run itself; sessions added up."""
    return _table("Run", {name: seconds.get(name, 0.0) for name in RUNNING})


def _table(title: str, seconds: Mapping[str, float]) -> str:
    widths = {name: max(len(name), len(f"{value:.1f}")) for name, value in seconds.items()}
    names = "  ".join(f"{name:>{widths[name]}}" for name in seconds)
    values = "  ".join(f"{value:>{widths[name]}.1f}" for name, value in seconds.items())
    return f"{title:<11}{names}\n{'seconds':<11}{values}"
