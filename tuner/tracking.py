"""Tells MLflow what happens in a study: one run for it, a child run for each trial.

The driver alone writes, in a background thread, so that the search never waits for a store.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from trainables.errors import UserError
from trainables.grid import GRID, SMALL
from trainables.outside import is_inside
from tuner.outcome import finished_at, write_outcome
from tuner.pages import INTERVAL, SAMPLES, ends, trial_note
from tuner.ranking import COLUMNS, trial_title
from tuner.result import Data, StudyResult, TrackingPlace
from tuner.run_store import NOTE, PICTURES, SETTINGS, flatten, picture
from tuner.sqlite_batches import Point
from tuner.store_failures import is_passing, usable
from tuner.study_runs import MARKER, RUN_STATUS, Beginning, StudyRuns
from tuner.tracking_uri import reason, resolve_uri, strip_credentials
from tuner.trial_records import step_of
from tuner.writer import OrderedWriter

Decision = Literal["continue", "pause", "done"]
Loss = tuple[float, float, float]

# A run's page has a section for each prefix, in alphabetical order: scores first.
TRAINING = frozenset(
    {"rung", "updates", "meta_iterations", "train_flops", "train_seconds", "score_seconds"}
)
NOT_LOGGED = frozenset({"complete", "L_low", "L_high"})  # tags say it
STUDY_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "nothing succeeded": "FAILED"}
FLUSH_SECONDS = 60.0


class Tracker:
    """Tells MLflow what happens in a study; every method but the constructor returns at once.

    A resumed study goes on in the runs it began, and rungs that a run already has are not written
    twice: replaying a study's past through a `Tracker` is safe and fills what an interruption left
    out. What is told late is told with the Unix time `when` it happened; without one, that is now.

    Attributes:
        uri: where runs go; may hold credentials, so never print it.
    """

    def __init__(
        self,
        uri: str | None,
        *,
        storage: Path,
        experiment: str,
        study: str,
        study_id: str,
        plan: Mapping[str, Any],
        tags: Mapping[str, str],
        remember: Callable[[int, str], None],
        report: Callable[[str], None],
        deliver: str,
        place: TrackingPlace | None = None,
        patient: bool = False,
        began: float | None = None,
    ) -> None:
        """Open the store, which is made if it is an SQLite file that does not exist.

        Args:
            uri: an MLflow tracking URI, or None for SQLite in `storage`.
            storage: folder of all studies; artifacts go below it unless a server keeps them.
            experiment: MLflow experiment, made if there is none.
            study: name of the study.
            study_id: what tells it from others of that name in the store.
            plan: what will run; the parameters of the study's run.
            tags: what every run is tagged with (seed, versions, data ...).
            remember: gets (trial number, run id) in the caller's thread, during a later call.
            report: gets one line when deliveries begin to fail, and when some could not be made.
            deliver: the command that tells what could not be delivered again.
            place: where an earlier session's runs are, if it came to note it; a new one is made
                where the store does not have the study's.
            patient: the store may be away, if it is the one of `place`: it gets everything later.
            began: Unix time at which the study did, if not now.

        Raises:
            UserError: the store is not there or cannot be used (within about 10 s).
        """
        self.uri = resolve_uri(uri, storage)
        self._remember, self._report, self._deliver = remember, report, deliver
        self._folder = storage / study
        self._beginnings: dict[int, Beginning] = {}
        self._checkpoints: dict[int, Path] = {}
        self._running: set[int] = set()
        self._notices: deque[str] = deque()
        self._gaps: set[int] = set()  # trials of which the store refused something for good
        self._closed = False
        self._runs = StudyRuns(
            self.uri,
            storage=storage,
            experiment=experiment,
            study=study,
            study_id=study_id,
            plan=plan,
            tags=tags,
            place=place,
            when=_milliseconds(began),
        )
        same = place is not None and place.uri == strip_credentials(self.uri)
        try:
            with usable(self.uri):
                self._runs.open(make=True)
        except UserError as error:
            if not (patient and same and is_passing(error)):
                raise
        self._writer = OrderedWriter(passing=is_passing, describe=reason, notice=self._hiccup)

    @property
    def place(self) -> TrackingPlace:
        """Where the runs are."""
        assert self._runs.place is not None, "a store that was never open is not waited for"
        return self._runs.place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._closed:  # `study_ended` was never reached
            self._end_study("KILLED", "interrupted", _milliseconds())
            self.close()

    def trial_started(
        self,
        number: int,
        label: str,
        config: Mapping[str, Any],
        params: Mapping[str, Any],
        *,
        when: float | None = None,
    ) -> None:
        """A trial begins, or goes on after an interruption.

        Args:
            number: of the trial in the study, from 0.
            label: name of a known point, such as "paper", or "".
            config: everything the trial is run with, plain data.
            params: the searched ones among it, by name.
            when: it first began.
        """
        title = trial_title(number, label, params or config)  # a point may have none
        beginning = Beginning(title=title, label=label, when=_milliseconds(when))
        self._beginnings.setdefault(number, beginning)
        self._running.add(number)
        values = {**flatten(config), **flatten(params)}
        text = json.dumps(config, indent=2, sort_keys=True, default=str)

        def write() -> None:
            run_id, store = self._run_of(number), self._runs.store
            running = {"state": "RUNNING"}
            if number in self._runs.begun:  # parameters cannot be written twice
                store.reopen(run_id)
                store.log_tags(run_id, running)
            else:
                store.log_bytes(run_id, text.encode(), "config.json")
                store.log_params(run_id, values, running)

        self._put(write, of=number)

    def rung_reached(
        self,
        number: int,
        rung: int,
        metrics: Mapping[str, float],
        losses: Sequence[Loss],
        checkpoint: Path,
        decision: Decision,
        *,
        when: float | None = None,
    ) -> None:
        """A trial was scored.

        Args:
            number: of the trial.
            rung: index of the rung, from 0.
            metrics: finite; must hold "train_flops", the training compute so far in FLOPs; may
                hold "L_low" and "L_high", the ends of L's interval.
            losses: (updates so far, critic loss, generator loss) since the last report.
            checkpoint: folder with `grid.png`, `small.png`, `config.json` (all that a replay
                needs), and at the end `weights.safetensors`. Files outside of the study's folder,
                where a journal or a link may lead, are not read.
            decision: what becomes of the trial.
            when: it was.
        """
        if number in self._runs.settled:  # nothing needs to be read
            return
        self._checkpoints[number] = checkpoint
        step, at = step_of(rung, metrics), _milliseconds(when)
        first = {name: metrics[name] for name in COLUMNS if name in metrics}  # as pages list them
        values = {
            metric_name(name): value
            for name, value in (first | dict(metrics)).items()
            if name not in NOT_LOGGED
        }
        values.pop(MARKER, None)
        tags = {}
        if "L_low" in metrics:
            tags[INTERVAL.format("L")] = ends((metrics["L_low"], metrics["L_high"]))
        curves: list[Point] = [
            (f"training/{name}_loss", value, at, int(updates))
            for updates, critic, generator in losses
            for name, value in (("critic", critic), ("generator", generator))
        ]
        scores: list[Point] = [(name, value, at, step) for name, value in values.items()]
        marker: Point = (MARKER, float(rung), at, step)
        # Read here (0.3 ms): the folder may be gone when a slow server gets to it.
        grid = self._read(checkpoint / GRID)
        small = self._read(checkpoint / SMALL)  # older checkpoints have none
        settings = self._read(checkpoint / "config.json") if rung == 0 else None

        def write() -> None:
            run_id, store = self._run_of(number), self._runs.store
            written = self._runs.rungs(number)
            if rung in written:  # a trial whose checkpoint was lost comes to a rung again
                if decision == "pause":  # beginning again has changed it
                    store.log_tags(run_id, self._state(number, "PAUSED"))
                return
            # Last, so in the last batch: where the marker is, all of the step is.
            points = [*scores, *curves, marker]
            if number in self._runs.adopted:
                # A kill may have come amid the rung; later points carry another time.
                points = store.without_known(run_id, points)
            if settings is not None:
                store.log_bytes(run_id, settings, SETTINGS)
            told = dict(tags)
            if grid is not None:
                name = store.log_picture(run_id, grid, small or grid, SAMPLES, rung, at)
                told |= {NOTE: trial_note(rung, metrics, picture(run_id, name)), PICTURES: "true"}
            told |= self._state(number, "PAUSED") if decision == "pause" else {}
            store.log_metrics(run_id, points, told)
            written.add(rung)
            if grid is None:
                self._notices.append(
                    f"Trial {number} has no picture of rung {rung} in {checkpoint}."
                )

        self._put(write, of=number)

    def trial_promoted(self, number: int) -> None:
        """A paused trial goes on."""

        def write() -> None:
            self._runs.store.log_tags(self._run_of(number), self._state(number, "RUNNING"))

        self._put(write, of=number)

    def trial_ended(
        self,
        number: int,
        state: Literal["COMPLETE", "PRUNED", "FAIL"],
        reason: str,
        *,
        when: float | None = None,
    ) -> None:
        """A trial is over; `reason` says why if it is PRUNED or FAIL."""
        self._running.discard(number)
        checkpoint, at = self._checkpoints.get(number), _milliseconds(when)
        scored = checkpoint is not None and state != "FAIL"
        weights = checkpoint / "weights.safetensors" if checkpoint and scored else None

        def write() -> None:
            run_id, store = self._run_of(number), self._runs.store
            # Else they made room for better ones.
            if weights is not None and weights.exists() and is_inside(weights, self._folder):
                store.log_file(run_id, weights)
            store.end(run_id, RUN_STATUS[state], at)
            # Last: a state that tells of an end is not looked at again.
            told = {"reason": reason} if reason else {}
            store.log_tags(run_id, told | self._state(number, state))

        self._put(write, of=number)

    def tick(self) -> None:
        """Hand over what the writer learned: new run ids, and trouble."""
        while self._runs.new:
            self._remember(*self._runs.new[0])  # which the disk may have no room for
            self._runs.new.popleft()
        while self._notices:
            self._report(self._notices.popleft())

    def study_ended(self, result: StudyResult, identity: Mapping[str, str]) -> bool:
        """Write the outcome to the study's run, register the best, deliver everything, and close.

        Args:
            result: of the study.
            identity: what the registered model is tagged with beside the study's tags.
        Returns:
            whether the store has everything.
        """

        def write() -> None:
            if not write_outcome(self._runs, result, identity):
                assert result.gate is not None, result
                self._notices.append(
                    f"models:/{result.gate.name}@champion went to another model meanwhile, and "
                    f"stays there; this study's best meets that one by: {self._deliver}"
                )

        self._put(write)
        self._end_study(STUDY_STATUS[result.outcome], result.outcome, finished_at(result))
        return self.close()

    def close(self, timeout: float | None = None) -> bool:
        """Deliver what is queued, for at most `timeout` seconds (None: a minute), and say what was
        not, and what delivers it, once -> whether all was."""
        told, self._closed = self._closed, True
        lost = self._writer.close(FLUSH_SECONDS if timeout is None else timeout)
        self.tick()
        if lost.jobs and not told:
            why = lost.reason or "time ran out"
            self._report(
                f"{lost.jobs} records did not reach the tracking store "
                f"{strip_credentials(self.uri)} ({why}); they are in the study's folder, and "
                f"are delivered by: {self._deliver}"
            )
        return not lost.jobs

    def _read(self, path: Path) -> bytes | None:
        """A file of the study's; None if there is none."""
        try:
            return path.read_bytes() if is_inside(path, self._folder) else None
        except OSError:
            return None

    # The rest runs in the constructor or in the writer's thread.

    def _put(self, job: Callable[[], None], of: int | None = None) -> None:
        """Queue a job; one of a trial that is refused for good is delivered by another session."""

        def attempt() -> None:
            try:
                self._runs.open(make=False)  # where the store was away at the beginning
                if of not in self._runs.settled:
                    job()
            except Exception as error:
                if of is not None and not is_passing(error):
                    self._gaps.add(of)
                raise

        self._writer.put(attempt)
        self.tick()

    def _hiccup(self, why: str) -> None:
        self._notices.append(
            f"The tracking store {strip_credentials(self.uri)} does not answer "
            f"({why}); the search goes on, and deliveries are tried again."
        )

    def _end_study(self, status: str, outcome: str, when: int) -> None:
        running = sorted(self._running)

        def write() -> None:
            store = self._runs.store
            for number in running:  # cut off: a resumed study opens them again
                run_id = self._run_of(number)
                store.end(run_id, "KILLED", when)
                store.log_tags(run_id, self._state(number, "INTERRUPTED"))
            store.end(self._runs.study, status, when)
            store.log_tags(self._runs.study, {"state": outcome})

        self._put(write)

    def _state(self, number: int, state: str) -> dict[str, str]:
        """A trial's tag that tells the next session that its run has all there is before it; no
        tag, therefore, where something was refused."""
        return {} if number in self._gaps else {"state": state}

    def _run_of(self, number: int) -> str:
        return self._runs.trial(number, self._beginnings[number])


def provenance_tags(
    *, seed: int, data: Data, versions: Mapping[str, str], commit: str | None
) -> dict[str, str]:
    """What every run is tagged with, so that it can be told from others and run again."""
    tags = {
        "seed": str(seed),
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "stand_in": str(data.stand_in).lower(),
    }
    tags |= {f"version.{name}": version for name, version in versions.items()}
    if commit is not None:
        sha, _, dirty = commit.partition("-")
        tags |= {"git_commit": sha, "git_dirty": str(bool(dirty)).lower()}
        tags["mlflow.source.git.commit"] = sha  # where MLflow's own pages look for it
    return tags


def metric_name(name: str) -> str:
    """A metric's name in MLflow."""
    return f"training/{name}" if name in TRAINING else f"score/{name}"


def _milliseconds(when: float | None = None) -> int:
    """A Unix time as MLflow counts it; None is now."""
    return int(1000 * (time.time() if when is None else when))
