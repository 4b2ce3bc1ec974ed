"""A cap on what a study's checkpoints take of the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.grid import GRID, SMALL
from trainables.outside import is_inside
from tuner.journal import Journal
from tuner.places import drop, is_in, local_copy
from tuner.standing import front_trials, ranked_trials
from tuner.trial_records import TrialRecord

MOST = 1000  # checkpoints of a study
SHARE = 0.5  # of the room that there is for them when a session begins
ROOM = 0.1  # of either that is made at once: to look for what can go takes time
BEST = 10  # ended trials that the finals may choose from
_SMALL = {GRID, SMALL, "config.json"}  # kept: MLflow may not have them yet
_LARGE = ("state.pt", "weights.safetensors")


class CheckpointCap:
    """An observer that deletes what no trial and no final needs any more, once there is too much.

    Checkpoints that the journal does not name, left by a crash, go at once. Nothing outside of the
    study's folder or bucket is deleted, whatever the journal names and wherever links lead.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        full: float,
        most: int = MOST,
        most_bytes: int | None = None,
    ) -> None:
        """Look at what is there; no trial may be running.

        Args:
            journal: the study.
            full: FLOPs of the last rung.
            most: checkpoints.
            most_bytes: of all of them; None takes half of the room there is.
        """
        self._journal, self._full, self._most = journal, full, most
        folder = journal.folder
        named = [local_copy(p.checkpoint, folder) for r in journal.records() for p in r.rungs]
        within = {path.parts[-3:] for path in named}  # of the study's folder, which may have moved
        for path in folder.glob("session_*/*/checkpoint_*"):
            if path.parts[-3:] not in within and is_inside(path, folder):
                shutil.rmtree(path, ignore_errors=True)  # a worker without a driver may write it
        own = (path for path in named if is_inside(path, folder))
        self._sizes = {path: size for path in own if (size := _size(path))}
        free = shutil.disk_usage(folder).free
        room = int(SHARE * (free + sum(self._sizes.values())))
        self._most_bytes = room if most_bytes is None else most_bytes

    def rung_reached(self, *event: Any) -> None:
        """One more: make room, for some more as well, if it is one too many."""
        local: Path = event[4]
        self._sizes[local] = _size(local)
        if not self._over():
            return
        journal = self._journal
        for checkpoint in expendable(journal.records(), self._full, journal.objectives):
            path = local_copy(checkpoint, journal.folder)
            if path in self._sizes and is_inside(path, journal.folder):
                _empty(path, checkpoint, journal.bucket)
                del self._sizes[path]
            if not self._over(1 - ROOM):
                return

    def _over(self, share: float = 1.0) -> bool:
        """Whether there is more than a share of what there may be."""
        taken = sum(self._sizes.values())
        return len(self._sizes) > share * self._most or taken > share * self._most_bytes

    def trial_started(self, *_event: Any) -> None:
        pass

    def trial_promoted(self, *_event: Any) -> None:
        pass

    def trial_ended(self, *_event: Any) -> None:
        pass

    def tick(self) -> None:
        pass


def expendable(
    records: Sequence[TrialRecord], full: float, objectives: Sequence[str] = ("L",)
) -> list[str]:
    """Checkpoints that no resume, promotion or final needs, the least useful first.

    Older rungs of a trial, then failed trials, then ended ones from the worst on; never the last
    one of a running or paused trial, of a reference, of the best that ended, or of the Pareto front
    where there are several objectives.
    """
    older = [rung.checkpoint for r in records for rung in r.rungs[:-1]]
    failed = [r.rungs[-1].checkpoint for r in records if r.state == "FAIL" and r.rungs]
    best_first = [r for r in ranked_trials(records, full) if not r.attrs.get("reference")]
    kept = [r.number for r in best_first[:BEST]]
    if len(objectives) > 1:
        kept += [r.number for r in front_trials(records, full, objectives)]
    ended = [r.rungs[-1].checkpoint for r in reversed(best_first) if r.number not in kept]
    return older + failed + ended


def _size(checkpoint: Path) -> int:
    """Bytes of what `_empty` deletes; 0 if it has."""
    return sum(path.stat().st_size for path in checkpoint.glob("*") if path.name not in _SMALL)


def _empty(local: Path, checkpoint: str, bucket: str | None) -> None:
    for path in local.glob("*"):
        if path.name not in _SMALL:
            path.unlink()
    if bucket is not None and is_in(checkpoint, bucket):
        for name in _LARGE:
            drop(checkpoint, name)
