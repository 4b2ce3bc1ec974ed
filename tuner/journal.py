"""The journal: everything that decides in a study, in one file that survives a crash."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from trainables.durable import settle
from trainables.errors import UserError
from tuner import VERSION
from tuner.hold import hold, let_go
from tuner.journal_file import LOG, WholeLines, drop_torn_tail, is_begun
from tuner.known_points import KnownPoint, Probe, check_known_point
from tuner.objectives import OBJECTIVES
from tuner.trial_records import OncePerTrial, RungRecord, TrialRecord, ending_of, record_of, step_of

PHASE = "phase"  # attribute of a study: "name" of what it does, "since" when, and when it "ends"
RESUME = "resume"  # attribute of a study: the command that goes on with it
DASHBOARD = "dashboard"  # attribute of a study: Ray's, while it runs
FORECAST = "forecast"  # attribute of a study: what it should take, as `outlook.Forecast` has it
DELIVERED = "delivered"  # attribute of a study with a result: whether MLflow has all of it
RUN = "mlflow_run/"  # attributes of a study, before a trial's number: its run's id
FAILURE = "failure/"  # attributes of a trial, before a number: what Ray says of its crashes
GPUS = "gpus"  # attribute of a trial: those it needs, where the plan's share of one was too small
FORMAT = 1  # of what is in a journal; another one cannot be gone on with
PACKAGE = "few-shot-tuner"
DECIDING = (PACKAGE, "optuna", "ray", "torch")  # packages that a study's course depends on
Space = Callable[[Any, Any], Any]  # (optuna trial, base config) -> frozen config


class Journal:
    """A study on disk, held by one process at a time.

    Attributes:
        folder: `<storage>/<study>`, where everything of the study lies.
        bucket: address of its checkpoints, where they lie elsewhere.
        study: the Optuna study behind it.
        objectives: what it searches on, L first.
    """

    def __init__(
        self,
        storage: Path,
        study: str,
        objectives: Sequence[str] = ("L",),
        *,
        anew: bool = False,
        bucket: str | None = None,
    ) -> None:
        """Open or create the study `study` under `storage`; what is there is not written again.

        Args:
            storage: folder of all studies.
            study: its name.
            objectives: of a new study; one that is there keeps its own.
            anew: begin it: it must not have a plan, and what a beginning that was cut off has left
                is dropped.
            bucket: as above.
        Raises:
            UserError: another process holds the study or has begun it, the folder cannot be
                written, or another version of this package wrote the journal.
        """
        self.folder, self.bucket = (storage / study).resolve(), bucket
        self._record = OncePerTrial(record_of)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = hold(self.folder)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._open(study, objectives, anew=anew)
        except BaseException:
            self.close()
            raise

    def _open(self, study: str, objectives: Sequence[str], *, anew: bool) -> None:
        path = self.folder / LOG
        try:
            if anew:
                self._drop_beginning(path)
            drop_torn_tail(path)
        except OSError as error:
            raise self._unwritable(error) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = optuna.storages.JournalStorage(WholeLines(path))
        try:
            self.study = optuna.load_study(study_name=study, storage=self._storage)
        except KeyError:
            self.study = self._create(study, objectives)
        self.objectives = tuple(self.study.metric_names or ("L",))
        require_format(self.study.user_attrs, self.folder)

    def _create(self, study: str, objectives: Sequence[str]) -> optuna.Study:
        created = optuna.create_study(
            storage=self._storage,
            study_name=study,
            directions=[OBJECTIVES[name] for name in objectives],
        )
        settle(self.folder, self.folder.parent)  # the journal's name, and the study's
        with warnings.catch_warnings():  # names are marked as experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            created.set_metric_names(list(objectives))  # for Optuna's dashboard, too
        created.set_user_attr("format", FORMAT)
        created.set_user_attr("versions", installed())
        return created

    def _drop_beginning(self, path: Path) -> None:
        """The lock is held: whoever began the study has left it."""
        if is_begun(self.folder):
            raise UserError(
                f"Study {self.folder.name!r} was begun by another process meanwhile: run the same "
                "command again, or add --resume to go on with that study."
            )
        path.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"Cannot write to {self.folder}: {error.strerror}.")

    def close(self) -> None:
        """Let others open the study."""
        let_go(self._lock)

    def __enter__(self) -> Journal:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close, whatever happened."""
        self.close()

    def attr(self, key: str, default: Any = None) -> Any:
        """A fact about the whole study: "plan", "experiment", "data", "mlflow"."""
        return self.study.user_attrs.get(key, default)

    def set_attr(self, key: str, value: Any) -> None:
        """Write a fact about the whole study; `value` is JSON."""
        self.study.set_user_attr(key, value)

    def trial_attr(self, number: int, key: str, default: Any = None) -> Any:
        """A fact about one trial, such as "mlflow_run_id"."""
        return self._frozen(number).user_attrs.get(key, default)

    def set_trial_attr(self, number: int, key: str, value: Any) -> None:
        """Write a fact about one trial; `value` is JSON."""
        self._storage.set_trial_user_attr(self._id(number), key, value)

    def records(self) -> tuple[TrialRecord, ...]:
        """All trials in order of number, those still waiting to be asked for included."""
        return tuple(map(self._record, self.study.get_trials(deepcopy=False)))

    def record(self, number: int) -> TrialRecord:
        """One trial."""
        return self._record(self._frozen(number))

    @property
    def began(self) -> float | None:
        """Unix time at which the first trial began; None before."""
        return min((r.began for r in self.records() if r.began is not None), default=None)

    def enqueue(self, points: Sequence[KnownPoint], space: Space, base: Any) -> None:
        """Put known points first in line, once: a resumed study has them already.

        Raises:
            UserError: a point that the space does not contain.
        """
        there = {trial.user_attrs.get("label") for trial in self.study.get_trials(deepcopy=False)}
        for point in points:
            check_known_point(point, space, base)
            if point.label in there:
                continue
            # A point with overrides runs settings that its parameters do not describe, so it
            # carries none: the sampler would blame the parameters for the settings.
            params = {} if point.overrides else dict(point.params)
            self.study.enqueue_trial(params, user_attrs={"label": point.label} | point.as_attrs())

    def ask(self, space: Space, base: Any) -> TrialRecord:
        """Begin the next trial: a known point while there is one, else what the sampler says."""
        trial = self.study.ask()
        self._configure(trial, space, base)
        return self.record(trial.number)

    def configured(self, number: int, space: Space, base: Any) -> TrialRecord:
        """A RUNNING trial, its config completed if a crash fell between asking and writing it."""
        record = self.record(number)
        if not record.config:
            trial = optuna.Trial(self.study, self._id(number))
            # Parameters that were written are drawn again, or the sampler's random numbers would
            # begin with those that are not.
            trial._cached_frozen_trial = copy.copy(trial._cached_frozen_trial)
            trial._cached_frozen_trial.params, trial._cached_frozen_trial.distributions = {}, {}
            self._configure(trial, space, base)
            record = self.record(number)
        return record

    def _configure(self, trial: optuna.Trial, space: Space, base: Any) -> None:
        overrides = trial.user_attrs.get("overrides")
        if overrides:
            probe = Probe(trial.user_attrs["point"], seed=trial.number)
            config = replace(space(probe, base), **overrides)
        else:
            config = space(trial, base)
        # Through JSON at once, so that a resumed trial starts from exactly the same plain data.
        trial.set_user_attr("config", json.loads(json.dumps(asdict(config), allow_nan=False)))

    def add_rung(self, number: int, rung: RungRecord) -> None:
        """Write that a trial was scored; its checkpoint must exist already."""
        content = {
            "metrics": dict(rung.metrics),
            "checkpoint": rung.checkpoint,
            "losses": list(rung.losses),
            "seconds": rung.seconds,
            "decision": rung.decision,
            "episodes": list(rung.episodes),
            "when": rung.when,
        }
        step = step_of(rung.rung, rung.metrics)
        self._storage.set_trial_intermediate_value(self._id(number), step, rung.metrics["L"])
        if self.trial_attr(number, "promoted") == rung.rung:
            # It came here again, since its checkpoint was lost, and may wait here again.
            self.set_trial_attr(number, "promoted", None)
        # Last, because it is what a resume looks at.
        self.set_trial_attr(number, f"rung/{rung.rung}", content)

    def end(self, number: int, state: Literal["COMPLETE", "PRUNED", "FAIL"], reason: str) -> None:
        """Tell the end of a trial; `reason` says why it was PRUNED or FAILed."""
        self.set_trial_attr(number, "reason", reason)
        values = self.record(number).values(self.objectives) if state == "COMPLETE" else None
        self.study.tell(number, values, TrialState[state])

    def promote(self, number: int) -> None:
        """Write that a paused trial runs again."""
        self.set_trial_attr(number, "promoted", self.record(number).rungs[-1].rung)

    def running(self) -> list[int]:
        """Numbers of the trials that have no end yet, paused ones included."""
        return [record.number for record in self.records() if record.state == "RUNNING"]

    def settle(self) -> list[int]:
        """End the trials whose end was decided but not told when a session broke off.

        Returns:
            Numbers of the trials that have to go on, ascending; not of paused ones.
        """
        for record in self.records():
            if record.state == "RUNNING" and record.rungs:
                ending = ending_of(record.rungs[-1])
                if ending is not None:
                    self.end(record.number, *ending)
        return [r.number for r in self.records() if r.state == "RUNNING" and not r.paused]

    def _frozen(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        study = self.study._study_id
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)


def require_format(attrs: Mapping[str, Any], folder: Path) -> None:
    """Refuse a study that another version wrote in another way.

    Raises:
        UserError: it did.
    """
    written = attrs.get("format", FORMAT)
    if written != FORMAT:
        then, now = attrs.get("versions", {}).get(PACKAGE), installed()[PACKAGE]
        raise UserError(
            f"The study in {folder} was written by {PACKAGE} {then} in journal format "
            f"{written}, and {now} reads format {FORMAT}: go on with that version, or begin "
            "another study."
        )


def installed() -> dict[str, str]:
    """Versions of the packages that decide, by name."""
    others = (package for package in DECIDING if package != PACKAGE)
    return {PACKAGE: VERSION} | {name: importlib.metadata.version(name) for name in others}
