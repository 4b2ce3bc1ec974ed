"""Trials as a journal has them: what they ran with, where they were scored, and how they ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from optuna.trial import FrozenTrial

State = Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]
Decision = Literal["continue", "pause", "done"]
T = TypeVar("T")


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


def _ended(trial: FrozenTrial, rungs: Sequence[RungRecord]) -> float | None:
    """An end that the last rung decided came with it: after a crash it was told much later."""
    if trial.datetime_complete is None:
        return None
    if rungs and rungs[-1].when is not None and ending_of(rungs[-1]) is not None:
        return rungs[-1].when
    return trial.datetime_complete.timestamp()


class OncePerTrial(Generic[T]):
    """What is made of Optuna's trials, once of each.

    Its storage makes another object of a trial that it changes, so one that was seen has nothing
    new to tell, and with thousands of trials a turn of the search would make all of it anew.
    """

    def __init__(self, make: Callable[[FrozenTrial], T]) -> None:
        """Nothing is known yet."""
        self._make = make
        self._known: dict[int, tuple[FrozenTrial, T]] = {}

    def __call__(self, trial: FrozenTrial) -> T:
        """What is made of the trial as it is now."""
        known = self._known.get(trial.number)
        if known is None or known[0] is not trial:
            known = self._known[trial.number] = trial, self._make(trial)
        return known[1]
