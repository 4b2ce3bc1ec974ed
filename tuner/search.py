"""Optuna behind Ray: known points, then what the sampler says; and paused trials, promoted."""

from __future__ import annotations

import time
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from trainables.trainable import CROWDED
from tuner.journal import GPUS, Journal, Space
from tuner.known_points import parameters_of, trial_seed
from tuner.rungs import Rungs
from tuner.samplers import SeededSampler
from tuner.trial_records import TrialRecord

_SLOTS_PER_NEXT = 4
MOST_AT_ONCE = 10_000  # trials; a bound for Ray, which would else ask for them one by one


class JournalSearch(Searcher):
    """Hands out trials of a journal as Ray configs.

    Trials that an earlier session left unfinished, and those whose process died or whose share of
    a GPU was too small, come first, from their last checkpoint and under their old numbers; then
    paused ones that now deserve to go on,
    in the same way; then new ones. Ends are told to the journal by the study's recorder, which sees
    reasons that Ray tells no searcher.
    """

    def __init__(
        self,
        journal: Journal,
        rungs: Rungs,
        *,
        space: Space,
        base: Any,
        trials: int,
        sampler: str,
        seed: int,
        deadline: float,
        common: Mapping[str, Any],
        gpus: float = 0.0,
        slots: Callable[[], int] = lambda: MOST_AT_ONCE,
        avoided: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """A searcher for one session.

        Args:
            journal: the study; its unfinished trials are taken up again.
            rungs: whom to promote.
            space: (trial, base) -> frozen config.
            base: config that the space starts from.
            trials: trials of the whole study, those of earlier sessions included.
            sampler: its name in `SAMPLERS`.
            seed: of the sampler and, through `trial_seed`, of every trial.
            deadline: unix seconds after which no trial begins; it cuts none that began before any
                had a score, until the first rung: processes that start slowly would leave nothing.
            common: what every trial's Ray config holds beside its own part.
            gpus: that a trial gets, or the share of one, if that is not too small for it.
            slots: how many trials may be out now.
            avoided: ids of nodes that get none.
        """
        super().__init__()
        self._journal, self._rungs = journal, rungs
        self._space, self._base = space, base
        self._seed, self._deadline, self._common = seed, deadline, common
        self._gpus, self._slots, self._avoided = gpus, slots, avoided
        self._unfinished = journal.settle()
        begun = sum(record.state != "WAITING" for record in journal.records())
        self._new = max(0, trials - begun)
        self._arriving = False
        self._live: dict[str, int] = {}  # what was handed out and is not over, by Ray's ids
        self._parts: Counter[int] = Counter()  # how often each trial was handed out
        journal.study.sampler = SeededSampler(
            sampler,
            seed=seed,
            startup=min(8, max(4, trials // 2)),
            parameters=parameters_of(space, base),
        )

    def suggest(self, trial_id: str) -> Any:
        """The next trial's Ray config; None while there is no room for one or others' results may
        bring one; or FINISHED."""
        if time.time() >= self._deadline:
            return Searcher.FINISHED
        if len(self._live) >= with_next(self._slots()):
            return None
        record = self._next()
        if record is None:
            return None if self._live or self._arriving else Searcher.FINISHED
        self._live[trial_id] = record.number
        return self._config(record)

    def _next(self) -> TrialRecord | None:
        while self._unfinished:
            record = self._journal.configured(self._unfinished.pop(0), self._space, self._base)
            if record.state == "RUNNING" and not record.paused:
                return record
            if record.state == "FAIL":
                self._rungs.forget(record.number)  # its process died once too often
        promoted = self._rungs.promotable(no_more=not self._new and not self._live)
        # Ray tells a result before its checkpoint is written, which the journal waits for.
        self._arriving = promoted is not None and not self._journal.record(promoted).paused
        if self._arriving:
            return None
        if promoted is not None:
            self._rungs.promote(promoted)
            self._journal.promote(promoted)
            return self._journal.record(promoted)
        if self._new:
            self._new -= 1
            return self._journal.ask(self._space, self._base)
        return None

    def _config(self, record: TrialRecord) -> dict[str, Any]:
        self._parts[record.number] += 1
        return {
            **self._common,
            "trial_number": record.number,
            "trial_config": dict(record.config),
            "seed": trial_seed(self._seed, record.number),
            "deadline": self._deadline,
            "resume_from": last_checkpoint(record),
            "reference": bool(record.attrs.get("reference", False)),
            "known": bool(record.label),
            "spared": not self._rungs.entered[0],
            "rungs_done": len(record.rungs),
            "part": self._parts[record.number],
            "gpus": self._share(),
            "avoided": sorted(self._avoided()),
        }

    def _share(self) -> float:
        """GPUs of whoever is handed out now.

        While a trial is there that needs more than was planned, all get as much: Ray would fill
        every small share that falls free before a large one is, and the trial would wait for ever.
        """
        journal, live = self._journal, self._live.values()
        return max(self._gpus, *(float(journal.trial_attr(n, GPUS, 0.0)) for n in live))

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,
    ) -> None:
        """A slot falls free; the recorder has told the journal, or is about to.

        A trial whose process died comes next, unless the recorder gives it up; one whose memory
        ended on a shared card, too.
        """
        number = self._live.pop(trial_id)
        if error or (result or {}).get("outcome") == CROWDED:
            self._unfinished.append(number)
            if not self._journal.record(number).paused:  # died before the checkpoint of its pause
                self._rungs.promote(number)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the journal is the state."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles a searcher beside the study for restores that never happen."""
        return {}


def with_next(slots: int) -> int:
    """Trials that may be out: those that run, and on many slots some that are next.

    Tune keeps as many idle processes as trials wait for one. Of several trials that end in one
    turn of its loop it would keep one process and end the others, to start new ones at once.
    """
    return slots + slots // _SLOTS_PER_NEXT


def last_checkpoint(record: TrialRecord) -> str | None:
    """The newest checkpoint of a trial's finished rungs that is still there, and whole."""
    for rung in reversed(record.rungs):
        if rung.complete and _is_whole(rung.checkpoint):
            return rung.checkpoint
    return None


def _is_whole(checkpoint: str) -> bool:
    """PyTorch writes zip files, whose end is looked at: a cut one has none."""
    place = tune.Checkpoint(checkpoint)
    assert place.filesystem is not None
    try:
        with place.filesystem.open_input_file(f"{place.path}/state.pt") as state:
            return zipfile.is_zipfile(state)
    except (FileNotFoundError, ValueError):  # the latter where it is shorter than any zip
        return False
