"""The journal: everything that decides in a study, in one file that survives a crash."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from trainables.durable import settle
from trainables.errors import UserError
from tuner import VERSION
from tuner.hold import LOCK, hold, let_go
from tuner.known_points import KnownPoint, Probe, check_known_point
from tuner.objectives import OBJECTIVES

State = Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]
Decision = Literal["continue", "pause", "done"]
PHASE = "phase"  # attribute of a study: "name" of what it does, "since" when, and when it "ends"
RESUME = "resume"  # attribute of a study: the command that goes on with it
DASHBOARD = "dashboard"  # attribute of a study: Ray's, while it runs
FORECAST = "forecast"  # attribute of a study: what it should take, as `outlook.Forecast` has it
DELIVERED = "delivered"  # attribute of a study with a result: whether MLflow has all of it
RUN = "mlflow_run/"  # attributes of a study, before a trial's number: its run's id
FAILURE = "failure/"  # attributes of a trial, before a number: what Ray says of its crashes
GPUS = "gpus"  # attribute of a trial: those it needs, where the plan's share of one was too small
LOG = "journal.log"  # in a study's folder, beside its lock
FORMAT = 1  # of what is in a journal; another one cannot be gone on with
PACKAGE = "few-shot-tuner"
DECIDING = (PACKAGE, "optuna", "ray", "torch")  # packages that a study's course depends on
Space = Callable[[Any, Any], Any]  # (optuna trial, base config) -> frozen config


@dataclass(frozen=True, slots=True, kw_only=True)
class RungRecord:
    """One scored point of a trial.

    Attributes:
        rung: index of the rung, from 0; where the clock cut a trial, the one it was heading for.
        metrics: finite scores and counters; L is the objective, train_flops the fidelity.
        losses: loss curve since the rung before.
        checkpoint: folder (or URI) of the checkpoint taken here.
        seconds: wall time of this step.
        decision: "continue", "pause" (by ASHA) or "done" (last rung, or cut by the clock).
        episodes: what each scoring episode says of L.
        when: Unix time of the checkpoint; None in older journals.
    """

    rung: int
    metrics: Mapping[str, float]
    losses: Sequence[Any]
    checkpoint: str
    seconds: float
    decision: Decision
    episodes: Sequence[float]
    when: float | None = None

    @property
    def complete(self) -> bool:
        """False where the clock cut the trial before the rung."""
        return bool(self.metrics["complete"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial as the journal knows it.

    Attributes:
        rungs: in ascending order.
        began: Unix time; None while it waits.
        ended: Unix time; None before.
    """

    number: int
    label: str
    state: State
    reason: str
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    rungs: tuple[RungRecord, ...]
    attrs: Mapping[str, Any] = field(repr=False)
    began: float | None = None
    ended: float | None = None

    @property
    def fidelity(self) -> float:
        """Training FLOPs at the last scored point, 0 before the first."""
        return float(self.rungs[-1].metrics["train_flops"]) if self.rungs else 0.0

    @property
    def paused(self) -> bool:
        """Waits at its last rung for a promotion."""
        last = self.rungs[-1] if self.rungs else None
        return (
            self.state == "RUNNING"
            and last is not None
            and last.decision == "pause"
            and self.attrs.get("promoted") != last.rung
        )

    @property
    def score(self) -> float | None:
        """L at the last scored point, lower is better."""
        return float(self.rungs[-1].metrics["L"]) if self.rungs else None

    def values(self, objectives: Sequence[str]) -> tuple[float, ...] | None:
        """The objectives at the last scored point."""
        last = self.rungs[-1] if self.rungs else None
        return None if last is None else tuple(float(last.metrics[name]) for name in objectives)


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
        self._read: dict[int, tuple[FrozenTrial, TrialRecord]] = {}
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
            _drop_torn_tail(path)
        except OSError as error:
            raise self._unwritable(error) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = optuna.storages.JournalStorage(_WholeLines(path))
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

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        """Made once: the storage makes another object of a trial that it changes."""
        known, record = self._read.get(trial.number, (None, None))
        if record is None or known is not trial:
            record = record_of(trial)
            self._read[trial.number] = trial, record
        return record

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


def step_of(rung: int, metrics: Mapping[str, float]) -> int:
    """Optuna's and MLflow's step of a rung: GFLOPs of training, and its index, since one update of
    a large net may pass two rungs, which must not be taken for one another."""
    return int(metrics["train_flops"] / 1e9) + rung


def ending_of(rung: RungRecord) -> tuple[Literal["COMPLETE", "PRUNED"], str] | None:
    """State and reason that follow from a trial's last scored point; None if it may go on."""
    if rung.decision != "done":
        return None
    return ("COMPLETE", "") if rung.complete else ("PRUNED", "time")


def record_of(trial: FrozenTrial) -> TrialRecord:
    """What the journal's Optuna study holds of a trial."""
    attrs = trial.user_attrs
    rungs = sorted(
        (
            RungRecord(rung=int(key.removeprefix("rung/")), **attrs[key])
            for key in attrs
            if key.startswith("rung/")
        ),
        key=lambda rung: rung.rung,
    )
    return TrialRecord(
        number=trial.number,
        label=attrs.get("label", ""),
        state=trial.state.name,  # type: ignore[arg-type]  # an enum of exactly these names
        reason=attrs.get("reason", ""),
        params=trial.params,
        config=attrs.get("config", {}),
        rungs=tuple(rungs),
        attrs=attrs,
        began=None if trial.datetime_start is None else trial.datetime_start.timestamp(),
        ended=_ended(trial, rungs),
    )


def is_begun(folder: Path) -> bool:
    """Whether a study got as far as its plan; may be asked while another process holds it."""
    try:
        with (folder / LOG).open("rb") as lines:
            return any(_is_plan(line) for line in lines)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # what may not be read is somebody's
        return True


def is_free(folder: Path) -> bool:
    """Whether a new study may have this folder: at most what a beginning that was cut off left is
    in it."""
    if is_begun(folder):
        return False
    try:
        return {path.name for path in folder.iterdir()} <= {LOG, LOCK}
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def _ended(trial: FrozenTrial, rungs: Sequence[RungRecord]) -> float | None:
    """An end that the last rung decided came with it: after a crash it was told much later."""
    if trial.datetime_complete is None:
        return None
    if rungs and rungs[-1].when is not None and ending_of(rungs[-1]) is not None:
        return rungs[-1].when
    return trial.datetime_complete.timestamp()


def installed() -> dict[str, str]:
    """Versions of the packages that decide, by name."""
    others = (package for package in DECIDING if package != PACKAGE)
    return {PACKAGE: VERSION} | {name: importlib.metadata.version(name) for name in others}


class _WholeLines(JournalFileBackend):
    """Appends lines whole or not at all: what a full disk took of one is cut off again, since the
    next write would be glued to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_HeldByTheStudy())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except BaseException:
            os.truncate(self._file_path, size)
            raise


class _HeldByTheStudy(BaseJournalFileLock):
    """No lock of Optuna's: the study's own lock outlives no process, Optuna's file does, and a
    resume after a crash would wait 30 seconds for it."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _drop_torn_tail(path: Path) -> None:
    """Cut off what a crash left of a last line; the next write would be glued to it otherwise."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        while whole and not _is_json(last := whole[whole.rfind(b"\n", 0, -1) + 1 :]):
            whole = whole[: -len(last)]
        if len(whole) < len(content):
            file.truncate(len(whole))
            os.fsync(file.fileno())


def _is_plan(line: bytes) -> bool:
    """Whether a line of a journal, not one that a crash has torn, writes the study's plan."""
    return b'"user_attr":{"plan":' in line and line.endswith(b"\n")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
