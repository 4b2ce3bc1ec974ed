"""A plan becomes a Ray Tuner run and a result; started afresh or taken up again."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from ray import tune

from cluster.nodes import elsewhere
from cluster.resources import Card
from trainables.trainable import TrialTrainable
from tuner.asha import Asha
from tuner.checkpoints import CheckpointCap
from tuner.journal import Journal, Space
from tuner.known_points import KnownPoint
from tuner.newcomers import Newcomers
from tuner.printed import PRINTED, folder_name
from tuner.recorder import LeaveLoop, Observer, Recorder
from tuner.rungs import Rungs
from tuner.search import MOST_AT_ONCE, JournalSearch
from tuner.standing import best_trial
from tuner.trial_records import TrialRecord

_OVERTIME_SECONDS = 120.0  # a trial that does not end itself after the deadline is ended by force

_QUIET_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours leaves at once; Tune's waits for busy actors
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never restored
    "RAY_AIR_NEW_OUTPUT": "0",  # the new engine prints even at verbosity 0
}


class StudyPlan(Protocol):
    """What a plan must say to be run."""

    @property
    def trials(self) -> int:
        """Trials that the time is planned for."""

    @property
    def most_trials(self) -> int:
        """Trials of the whole study, if time allows."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """Cumulative training FLOPs, ascending."""

    @property
    def eta(self) -> int:
        """Each rung has `eta` times the training of the one before."""

    @property
    def slots(self) -> int:
        """Trials side by side."""

    @property
    def cpus_per_trial(self) -> float:
        """CPU cores of one trial."""

    @property
    def gpus_per_trial(self) -> float:
        """GPUs of one trial."""

    @property
    def card(self) -> Card | None:
        """What a GPU holds and trials need, if that was measured."""

    @property
    def threads(self) -> int:
        """Threads of one trial."""

    @property
    def sampler(self) -> str:
        """Its name in SAMPLERS."""

    @property
    def seed(self) -> int:
        """Seed of the sampler and of the trials."""


class StudyExperiment(Protocol):
    """What an experiment must say to be run."""

    @property
    def pipeline(self) -> str:
        """Its name in PIPELINES."""

    @property
    def space(self) -> Space:
        """(trial, base) -> frozen config."""

    @property
    def base(self) -> Any:
        """Config that the space starts from."""

    @property
    def known_points(self) -> Sequence[KnownPoint]:
        """Settings to run first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """A study as it stands when a session is over.

    Attributes:
        records: all trials.
        best: the champion by `best_trial`, if any trial was scored.
        interrupted: True if a signal ended the session; its running trials can be resumed.
        seconds: wall time of this session inside Ray Tune.
        paused: trials that ASHA paused and never promoted, by rung.
        fidelity: Spearman's rank correlation of a rung's scores with the last rung's.
        process_bytes: that the largest process of a trial had resident; 0 where none was scored.
    """

    records: tuple[TrialRecord, ...]
    best: TrialRecord | None
    interrupted: bool
    seconds: float
    paused: tuple[int, ...]
    fidelity: dict[int, float]
    process_bytes: int = 0


def run_study(
    plan: StudyPlan,
    experiment: StudyExperiment,
    *,
    journal: Journal,
    context: Mapping[str, Any],
    deadline: float,
    observers: Sequence[Observer] = (),
    doubted: Callable[[int, float], None] | None = None,
    trained: Callable[[float], None] | None = None,
    trainable: type[TrialTrainable] = TrialTrainable,
    slots: Callable[[], int] | None = None,
    newcomers: Newcomers | None = None,
) -> StudyRun:
    """Run what is left of a study, in the Ray that this process is connected to.

    Call it with the same arguments and a later deadline to take up an interrupted study: no
    finished rung is run again, unfinished trials go on under their numbers.

    Args:
        plan: how much, how far and how wide.
        experiment: what is searched.
        journal: the open study; all that happens is written there.
        context: `asdict` of the pipeline's StudyContext, plain data, paths absolute.
        deadline: unix seconds; running trials score where they stand, none begins after it.
        observers: told what happens; their errors are logged once and change nothing.
        doubted: told once of every rung that foretells too little to stop a trial by, as `Rungs`
            has it.
        trained: told once, with the first result, when its trial's first update was done, in Unix
            seconds as its process has them.
        trainable: the Ray adapter; a subclass may know pipelines of its own.
        slots: how many trials may be out now, where that changes; the plan's number if None.
        newcomers: which nodes get trials, where some may join.
    Raises:
        UserError: a known point outside of the space.
        OSError: the journal could not be written.
        Breakdown: the disk is full, or Ray died; what ran can go on in another session.
    """
    started = time.monotonic()
    journal.enqueue(experiment.known_points, experiment.space, experiment.base)
    journal.settle()
    rungs = rebuilt_rungs(
        journal.records(), count=len(plan.rungs), planned=plan.trials, doubted=doubted
    )
    search = JournalSearch(
        journal,
        rungs,
        space=experiment.space,
        base=experiment.base,
        trials=plan.most_trials,
        sampler=plan.sampler,
        seed=plan.seed,
        deadline=deadline,
        common={
            "pipeline": experiment.pipeline,
            "context": dict(context),
            "threads": plan.threads,
            "gpu_overhead": plan.card.overhead / plan.card.total if plan.card else 0.0,
        },
        gpus=plan.gpus_per_trial,
        slots=(lambda: plan.slots) if slots is None else slots,
        avoided=tuple if newcomers is None else lambda: newcomers.unfit,
    )
    cap = CheckpointCap(journal, full=plan.rungs[-1])
    recorder = Recorder(
        journal,
        [*observers, cap],
        trained=trained,
        doubted=(lambda: False) if newcomers is None else lambda: newcomers.are_doubted,
    )
    with closing(recorder):
        if time.time() < deadline:
            _fit(plan, search, Asha(rungs), recorder, journal, deadline, trainable)
        if recorder.error is not None:
            raise recorder.error
        if not recorder.leave:
            _end_rest(journal, recorder)
    records = journal.records()
    return StudyRun(
        records=records,
        best=best_trial(records, plan.rungs[-1]),
        interrupted=recorder.leave,
        seconds=time.monotonic() - started,
        paused=rungs.paused,
        fidelity=rungs.fidelity(),
        process_bytes=recorder.process_bytes,
    )


def _end_rest(journal: Journal, recorder: Recorder) -> None:
    """Nobody goes on with what is paused, or ran when the time was over."""
    for record in journal.records():
        if record.paused:
            recorder.end(record.number, "PRUNED", f"asha: rung {record.rungs[-1].rung}")
        elif record.state == "RUNNING":  # ended by force: it never reported
            recorder.end(record.number, "PRUNED", "time")


def rebuilt_rungs(
    records: Sequence[TrialRecord],
    *,
    count: int,
    planned: int,
    doubted: Callable[[int, float], None] | None = None,
) -> Rungs:
    """ASHA's memory out of the journal's.

    A point where the clock cut a trial was never entered, and failed trials are forgotten.
    """
    rungs = Rungs(count, planned=planned, doubted=doubted)
    for record in records:
        for rung in record.rungs:
            if rung.complete and record.state != "FAIL":
                last = rung is record.rungs[-1]
                rungs.restore(
                    rung.rung,
                    record.number,
                    rung.episodes,
                    paused=last and record.paused,
                    reference=bool(record.attrs.get("reference", False)),
                )
    return rungs


def _fit(
    plan: StudyPlan,
    search: JournalSearch,
    asha: Asha,
    recorder: Recorder,
    journal: Journal,
    deadline: float,
    trainable: type[TrialTrainable],
) -> None:
    """One fresh Tuner a session: Tune restores neither schedulers nor its searchers' trials."""
    os.environ.update(_QUIET_TUNE)
    cpus, gpus = plan.cpus_per_trial, plan.gpus_per_trial

    def resources(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        """A trial's own: some need more of a card than others, some may not run everywhere."""
        bundle = {"CPU": cpus, "GPU": config.get("gpus", gpus)}
        if not (avoided := config.get("avoided")):
            return tune.PlacementGroupFactory([bundle])
        return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere(avoided)])

    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=asha,
            num_samples=-1,  # the searcher says when it is over
            max_concurrent_trials=MOST_AT_ONCE,  # the searcher knows how many there may be now
            reuse_actors=True,
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            storage_path=journal.bucket or str(journal.folder),
            name=_session_name(journal),
            verbose=0,
            stop=_Overtime(deadline + _OVERTIME_SECONDS),
            # Ray's own retries know no checkpoint of an earlier session, and give up a trial at
            # once that got a process which had died idle.
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=1, checkpoint_at_end=False
            ),
            callbacks=[recorder],
            log_to_file=PRINTED,
            sync_config=tune.SyncConfig(sync_artifacts=True),  # from where a trial runs
        ),
    )
    with _quiet("ray.tune"), _signals(recorder), suppress(LeaveLoop):
        tuner.fit()


class _Overtime(tune.Stopper):
    """Ends the run where trials do not heed the deadline themselves."""

    def __init__(self, end: float) -> None:
        self._end = end

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return time.time() > self._end


def _folder_name(trial: Any) -> str:
    return folder_name(trial.config["trial_number"], trial.config["part"])


def _session_name(journal: Journal) -> str:
    """Each session has its own folder: Ray numbers a trial's checkpoints from 0 every time, and
    would write over those that the journal names, of sessions on other machines, too."""
    named = [rung.checkpoint for record in journal.records() for rung in record.rungs]
    there = [name for place in named for name in Path(place.partition("?")[0]).parts[-3:-2]]
    there += [path.name for path in journal.folder.glob("session_*")]
    numbers = [int(n) for name in there if (n := name.removeprefix("session_")).isdecimal()]
    return f"session_{1 + max(numbers, default=0):02d}"


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Tune logs failed trials as errors of its own; ours are in the journal and the table."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _signals(recorder: Recorder) -> Iterator[None]:
    """The first SIGINT or SIGTERM leaves the loop between two turns, the next one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(_number: int, _frame: FrameType | None) -> None:
        if recorder.leave:
            raise KeyboardInterrupt
        recorder.leave = True

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
