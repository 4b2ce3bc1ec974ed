"""Tells MLflow what happens in a study: one run for it, a child run for each trial.

The driver alone writes, in a background thread, so that the search never waits for a store.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from tuner.ranking import COLUMNS, markdown_ranking, trial_title
from tuner.run_store import MODEL, SETTINGS, Point, RunStore, flatten, is_passing, usable
from tuner.tracking_uri import reason, resolve_uri, strip_credentials
from tuner.writer import OrderedWriter

if TYPE_CHECKING:
    from tuner.result import Data, Gate, StudyResult

Decision = Literal["continue", "pause", "done"]
Loss = tuple[float, float, float]

# A run's page has a section for each prefix, in alphabetical order: scores first.
TRAINING = frozenset(
    {"rung", "updates", "meta_iterations", "train_flops", "train_seconds", "score_seconds"}
)
NOT_LOGGED = frozenset({"complete"})  # `state` and `reason` say it
MARKER = "training/rung"
RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
NOTE = "mlflow.note.content"  # a run's description: Markdown on its first page
STUDY_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "nothing succeeded": "FAILED"}
FLUSH_SECONDS = 60.0


class Tracker:
    """Tells MLflow what happens in a study; every method but the constructor returns at once.

    Trials are looked up in the store by their study's run and their number, so a resumed study
    goes on in the runs it began, and steps that a run already has are not written twice: replaying
    a study's past through a `Tracker` is safe and fills what an interruption left out.

    Attributes:
        uri: where runs go; may hold credentials, so never print it.
        experiment_id: MLflow's id of the experiment.
        parent_run_id: the study's run.
    """

    def __init__(
        self,
        uri: str | None,
        *,
        storage: Path,
        experiment: str,
        study: str,
        plan: Mapping[str, Any],
        tags: Mapping[str, str],
        remember: Callable[[int, str], None],
        report: Callable[[str], None],
        deliver: str,
        parent_run_id: str | None = None,
    ) -> None:
        """Open the store, which is made if it is an SQLite file that does not exist.

        Args:
            uri: an MLflow tracking URI, or None for SQLite in `storage`.
            storage: folder of all studies; artifacts go below it unless a server keeps them.
            experiment: MLflow experiment, made if there is none.
            study: name of the study.
            plan: what will run; the parameters of the study's run.
            tags: what every run is tagged with (seed, versions, data ...).
            remember: gets (trial number, run id) in the caller's thread, during a later call.
            report: gets one line when deliveries begin to fail, and when some could not be made.
            deliver: the command that tells what could not be delivered again.
            parent_run_id: the study's run if it is resumed; a new one is made where the store
                does not have it.

        Raises:
            UserError: the store is not there or cannot be used (within about 10 s).
        """
        self.uri = resolve_uri(uri, storage)
        self._study = study
        self._tags = {"study": study, **_source(experiment), **tags}
        self._remember, self._report, self._deliver = remember, report, deliver
        self._titles: dict[int, str] = {}
        self._labels: dict[int, str] = {}
        self._checkpoints: dict[int, Path] = {}
        self._running: set[int] = set()
        self._new_runs: deque[tuple[int, str]] = deque()
        self._notices: deque[str] = deque()
        # (step, rung) that a run has whole: a large net's one update may reach two rungs.
        self._marks: dict[int, set[tuple[int, int]]] = {}
        self._told = 0  # when the last rung was
        self._gaps: set[int] = set()  # trials of which the store refused something for good
        self._closed = False
        self._store = RunStore(self.uri, experiment=experiment, storage=storage)
        self.experiment_id = self._store.experiment_id
        with usable(self.uri):
            self.parent_run_id = self._open_study(parent_run_id, plan)
            self._runs, states = self._find_trials()
        self._new_runs.extend(self._runs.items())  # a kill may have come before they were told
        # What an earlier session did: "state" is the last thing written of a start, and of an end.
        self._adopted = frozenset(states)
        self._described = {number for number, state in states.items() if state}
        self._settled = {number for number, state in states.items() if state in RUN_STATUS}
        self._writer = OrderedWriter(passing=is_passing, describe=reason, notice=self._hiccup)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._closed:  # `study_ended` was never reached
            self._end_study("KILLED", "interrupted", _now())
            self.close()

    def trial_started(
        self, number: int, label: str, config: Mapping[str, Any], params: Mapping[str, Any]
    ) -> None:
        """A trial begins, or goes on after an interruption.

        Args:
            number: of the trial in the study, from 0.
            label: name of a known point, such as "paper", or "".
            config: everything the trial is run with, plain data.
            params: the searched ones among it, by name.
        """
        if number in self._settled:
            return
        self._titles[number] = trial_title(number, label, params)
        self._labels[number] = label
        self._running.add(number)
        values = {**flatten(config), **flatten(params)}
        text = json.dumps(config, indent=2, sort_keys=True, default=str)

        def write() -> None:
            run_id = self._run_of(number)
            if number in self._described:  # parameters cannot be written twice
                self._store.reopen(run_id)
            else:
                self._store.log_params(run_id, values)
                self._store.log_text(run_id, text, "config.json")
            self._store.log_tags(run_id, {"state": "RUNNING"})

        self._put_of(number, write)

    def rung_reached(
        self,
        number: int,
        rung: int,
        metrics: Mapping[str, float],
        losses: Sequence[Loss],
        checkpoint: Path,
        decision: Decision,
    ) -> None:
        """A trial was scored.

        Args:
            number: of the trial.
            rung: index of the rung, from 0.
            metrics: finite; must hold "train_flops", the training compute so far in FLOPs.
            losses: (updates so far, critic loss, generator loss) since the last report.
            checkpoint: folder with `grid.png`, `config.json` (all that a replay needs), and at the
                end `weights.safetensors`.
            decision: what becomes of the trial.
        """
        if number in self._settled:
            return
        self._checkpoints[number] = checkpoint
        step = int(metrics["train_flops"] / 1e9)
        # No two rungs at once: MLflow would take equal points of one step for one.
        now = self._told = max(_now(), self._told + 1)
        values = {metric_name(name): v for name, v in metrics.items() if name not in NOT_LOGGED}
        values.pop(MARKER, None)
        curves: list[Point] = [
            (f"training/{name}_loss", value, now, int(updates))
            for updates, critic, generator in losses
            for name, value in (("critic", critic), ("generator", generator))
        ]
        scores: list[Point] = [(name, value, now, step) for name, value in values.items()]
        # Last, so in the last batch: where the marker is, all of the step is.
        scores.append((MARKER, float(rung), now, step))
        # Read here (0.3 ms): the folder may be gone when a slow server gets to it.
        grid = _read(checkpoint / "grid.png")
        settings = _read(checkpoint / "config.json") if rung == 0 else None
        if grid is None:
            self._notices.append(f"Trial {number} has no picture of rung {rung} in {checkpoint}.")

        def write() -> None:
            run_id = self._run_of(number)
            points = curves + scores
            marks = self._marks_of(number, run_id)
            if (step, rung) in marks:
                return
            if number in self._adopted:
                # A kill may have come amid the rung; later points carry another time.
                others = sum(there == step for there, _ in marks)
                points = self._store.without_known(run_id, curves)
                points += self._store.without_known(run_id, scores, others)
            if settings is not None:
                self._log_bytes(run_id, settings, SETTINGS)
            name = f"samples/rung-{rung}.png"
            if grid is not None:
                self._log_bytes(run_id, grid, name)
            tags = {} if grid is None else {NOTE: _picture(run_id, name)}
            tags |= {"state": "PAUSED"} if decision == "pause" else {}
            self._store.log_metrics(run_id, points, tags)
            marks.add((step, rung))

        self._put_of(number, write)

    def trial_promoted(self, number: int) -> None:
        """A paused trial goes on."""
        if number not in self._settled:
            tags = {"state": "RUNNING"}
            self._put_of(number, lambda: self._store.log_tags(self._run_of(number), tags))

    def trial_ended(
        self, number: int, state: Literal["COMPLETE", "PRUNED", "FAIL"], reason: str
    ) -> None:
        """A trial is over; `reason` says why if it is PRUNED or FAIL."""
        if number in self._settled:
            return
        self._running.discard(number)
        checkpoint, now = self._checkpoints.get(number), _now()
        scored = checkpoint is not None and state != "FAIL"
        weights = checkpoint / "weights.safetensors" if checkpoint and scored else None

        def write() -> None:
            run_id = self._run_of(number)
            if weights is not None and weights.exists():  # else they made room for better ones
                self._store.log_file(run_id, weights)
            self._store.end(run_id, RUN_STATUS[state], now)
            # Last: a state that tells of an end is not looked at again.
            tags = {"state": state} | ({"reason": reason} if reason else {})
            if number not in self._gaps:
                self._store.log_tags(run_id, tags)

        self._put_of(number, write)

    def tick(self) -> None:
        """Hand over what the writer learned: new run ids, and trouble."""
        while self._new_runs:
            self._remember(*self._new_runs.popleft())
        while self._notices:
            self._report(self._notices.popleft())

    @property
    def registry(self) -> RunStore:
        """Where the experiment's champion is looked up; its calls wait."""
        return self._store

    def study_ended(self, result: StudyResult, identity: Mapping[str, str]) -> bool:
        """Write the outcome to the study's run, register the best, deliver everything, and close.

        Args:
            result: of the study.
            identity: what the registered model is tagged with beside the study's tags.
        Returns:
            whether the store has everything.
        """
        text, metrics = json.dumps(result.to_dict(), indent=2), _outcome_metrics(result)
        best = result.best
        files = [] if best is None else [best.grid, best.weights, best.config]
        paths = [result.folder / path for path in files if path is not None]
        folder = _model_folder(paths)
        pictures = [f"{folder}/{path.name}" for path in paths if path.suffix == ".png"]
        # The result's own time: delivered again, a point is the same point.
        now = int(datetime.fromisoformat(result.created).timestamp() * 1000)

        def write() -> None:
            run_id = self.parent_run_id
            self._store.log_text(run_id, text, "result.json")
            for path in paths:
                self._store.log_file(run_id, path, folder)
            note = [result.verdict, *(_picture(run_id, name) for name in pictures)]
            pages = {
                n: f"#/experiments/{self.experiment_id}/runs/{r}" for n, r in self._runs.items()
            }
            note.append(markdown_ranking(result, pages))
            points: list[Point] = [(name, value, now, 0) for name, value in metrics.items()]
            tags = {NOTE: "\n\n".join(note)}
            if result.pareto is not None:  # trials; their scores are in result.json
                tags["pareto_front"] = ", ".join(str(t.number) for t in result.pareto.front)
            self._store.log_metrics(run_id, points, tags)
            if result.gate is not None:
                self._register(result, result.gate, folder, identity)

        self._put(write)
        self._end_study(STUDY_STATUS[result.outcome], result.outcome, now)
        return self.close()

    def close(self, timeout: float | None = None) -> bool:
        """Deliver what is queued, for at most `timeout` seconds (None: a minute), and say what was
        not, and what delivers it -> whether all was."""
        self._closed = True
        lost = self._writer.close(FLUSH_SECONDS if timeout is None else timeout)
        self.tick()
        if lost.jobs:
            why = lost.reason or "time ran out"
            self._report(
                f"{lost.jobs} records did not reach the tracking store "
                f"{strip_credentials(self.uri)} ({why}); they are in the study's folder, and "
                f"are delivered by: {self._deliver}"
            )
        return not lost.jobs

    # The rest runs in the constructor or in the writer's thread.

    def _put(self, job: Callable[[], None]) -> None:
        self.tick()
        self._writer.put(job)

    def _put_of(self, number: int, job: Callable[[], None]) -> None:
        """As `_put`, of a trial: what is refused for good is delivered by another session."""

        def noted() -> None:
            try:
                job()
            except Exception as error:
                if not is_passing(error):
                    self._gaps.add(number)
                raise

        self._put(noted)

    def _hiccup(self, why: str) -> None:
        self._notices.append(
            f"The tracking store {strip_credentials(self.uri)} does not answer "
            f"({why}); the search goes on, and deliveries are tried again."
        )

    def _end_study(self, status: str, outcome: str, now: int) -> None:
        running = sorted(self._running)

        def write() -> None:
            for number in running:  # cut off: a resumed study opens them again
                run_id = self._run_of(number)
                self._store.end(run_id, "KILLED", now)
                self._store.log_tags(run_id, {"state": "INTERRUPTED"})
            self._store.end(self.parent_run_id, status, now)
            self._store.log_tags(self.parent_run_id, {"state": outcome})

        self._writer.put(write)

    def _open_study(self, run_id: str | None, plan: Mapping[str, Any]) -> str:
        if run_id is not None and self._store.is_active(run_id):
            self._store.reopen(run_id)
            self._store.log_tags(run_id, {"state": "running"})
            return run_id
        tags = {**self._tags, "state": "running", "kind": "study"}
        run_id = self._store.create(self._study, tags)
        self._store.log_params(run_id, flatten(plan))
        return run_id

    def _find_trials(self) -> tuple[dict[int, str], dict[int, str]]:
        """Runs and states by trial; the oldest run counts, should a lost answer have made two."""
        runs: dict[int, str] = {}
        states: dict[int, str] = {}
        for run_id, tags in self._store.children(self.parent_run_id):
            if (number := int(tags["trial"])) not in runs:
                runs[number], states[number] = run_id, tags.get("state", "")
        return runs, states

    def _run_of(self, number: int) -> str:
        """The trial's run, made at its first use."""
        if number not in self._runs:
            # Asked again, since an answer may have been lost after the server made the run.
            found = next(self._store.children(self.parent_run_id, trial=str(number)), None)
            self._runs[number] = self._create_trial(number) if found is None else found[0]
            self._new_runs.append((number, self._runs[number]))
        return self._runs[number]

    def _create_trial(self, number: int) -> str:
        tags = {
            **self._tags,
            "mlflow.parentRunId": self.parent_run_id,
            "kind": "trial",
            "trial": str(number),
        }
        if label := self._labels.get(number):
            tags["label"] = label
        return self._store.create(self._titles.get(number, f"trial {number}"), tags)

    def _marks_of(self, number: int, run_id: str) -> set[tuple[int, int]]:
        """(step, rung) of what a run has whole."""
        if number not in self._marks:
            there = self._store.marks(run_id, MARKER) if number in self._adopted else []
            self._marks[number] = {(step, int(rung)) for step, rung in there}
        return self._marks[number]

    def _register(
        self, result: StudyResult, gate: Gate, folder: str, identity: Mapping[str, str]
    ) -> None:
        scores = {} if result.test is None else result.test.metrics
        tags = {**self._tags, **identity}
        tags |= {f"test_{name}": f"{scores[name]:.4f}" for name in COLUMNS if name in scores}
        version = self._store.register(gate.name, self.parent_run_id, folder, tags)
        present = self._store.champion(gate.name)
        # Another study may have ended since the models met, or the store may be another one.
        met = (None, None) if present is None else (present.number, present.run_id)
        if gate.crowned and met == (gate.against, gate.against_run):
            self._store.crown(gate.name, version)

    def _log_bytes(self, run_id: str, content: bytes, name: str) -> None:
        target = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, target.name)
            path.write_bytes(content)
            self._store.log_file(run_id, path, str(target.parent))


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


def _source(experiment: str) -> dict[str, str]:
    """What MLflow's pages show as a run's author and source."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = ""
    return {
        "mlflow.user": user,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": f"tuner.launch {experiment}",
    }


def _model_folder(files: Sequence[Path]) -> str:
    """A folder for each result: a study that is searched on has another model, and the version that
    is registered of it keeps its files."""
    content = hashlib.sha256()
    for path in files:
        content.update(_read(path) or b"")
    return f"{MODEL}-{content.hexdigest()[:12]}"


def _outcome_metrics(result: StudyResult) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if result.best is not None:
        metrics |= {f"best/{name}": value for name, value in result.best.scores.items()}
    if result.test is not None:
        metrics |= {f"test/{name}": value for name, value in result.test.metrics.items()}
    # The rest is in result.json; here it would bury what matters.
    metrics = {name: value for name, value in metrics.items() if name.split("/")[1] in COLUMNS}
    return metrics | {f"fidelity/rung_{rung}": value for rung, value in result.fidelity.items()}


def metric_name(name: str) -> str:
    """A metric's name in MLflow."""
    return f"training/{name}" if name in TRAINING else f"score/{name}"


def _picture(run_id: str, name: str) -> str:
    """Markdown that shows an artifact on a run's page."""
    return f"![{name}](get-artifact?path={name}&run_uuid={run_id})"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _now() -> int:
    """Unix time in milliseconds, as MLflow counts it."""
    return int(time.time() * 1000)
