"""Of a study's report: whether the low rungs foretold the last one, and what all of it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.resources import counted
from tuner.evidence import Rung, fidelity, forecast
from tuner.plan import clock
from tuner.report_tables import Table, state
from tuner.result import StudyResult
from tuner.table_cells import decimal
from tuner.trial_records import TrialRecord

FEW = 10  # trials at the last rung, below which a rank correlation says little
PARTS = {  # of a run, in its order; "actors" is part of the search
    "imports": "imports",
    "data": "opening the data",
    "plan": "planning, speed measured",
    "mlflow": "opening MLflow",
    "preparation": "preparing what scores",
    "ray": "starting Ray",
    "search": "search",
    "finals": "finals: the best trials again",
    "test": "baselines, last trainings, test",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Fidelity of the rungs, in sentences and a table with a row for each."""

    told: str
    rungs: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A share of the wall time, in percent of the whole."""

    title: str
    seconds: float
    percent: float

    @property
    def text(self) -> str:
        """Such as "4:39 (40 %)"."""
        return f"{clock(self.seconds)} ({self.percent:.0f} %)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Time and compute, in sentences, parts and a table by the trials' states."""

    told: tuple[str, ...]
    parts: tuple[Part, ...]
    forecast: Table
    states: Table


def audit(result: StudyResult, records: Sequence[TrialRecord]) -> Audit:
    """What the rungs were worth.

    Args:
        result: of the study.
        records: of its journal, for scores by episode; may be empty.
    """
    last = len(result.plan["rungs_flops"]) - 1
    means = {
        trial.number: [rung.metrics["L"] for rung in trial.rungs if rung.complete]
        for trial in result.trials
        if trial.state != "FAIL"
    }
    correlations = dict(fidelity(means, last + 1))
    ended = sum(len(scores) > last for scores in means.values())
    return Audit(
        told=_audited(correlations, ended),
        rungs=Table(
            caption="Rungs: training that all trials get alike, and what was decided there",
            headings=(
                "rung",
                "training [GFLOP]",
                "scoring episodes",
                "trials that came",
                "stopped there",
                "best L that was stopped",
                "rank correlation with the last",
                "the search's own estimate of it",
            ),
            rows=tuple(
                _rung_row(result, rung, correlations, _estimates(result, records))
                for rung in range(last + 1)
            ),
        ),
    )


def _rung_row(
    result: StudyResult, rung: int, correlations: dict[int, float], told: Sequence[float]
) -> tuple[str, ...]:
    came = [
        (trial, point)
        for trial in result.trials
        for point in trial.rungs
        if point.rung == rung and point.complete
    ]
    stopped = [
        point.metrics["L"]
        for trial, point in came
        if trial.reason == f"asha: rung {rung}"
        or (trial.reason == "paused" and point is trial.rungs[-1])
    ]
    episodes = result.plan.get("episodes", ())
    return (
        str(rung + 1),
        f"{result.plan['rungs_flops'][rung] / 1e9:,.0f}",
        str(episodes[rung]) if rung < len(episodes) else "",
        str(len(came)),
        str(len(stopped)),
        decimal(min(stopped, default=None)),
        decimal(correlations.get(rung)),
        decimal(told[rung]) if rung < len(told) - 1 else "",
    )


def _audited(correlations: dict[int, float], ended: int) -> str:
    if not correlations:
        return (
            f"{counted(ended, 'trial')} came to the last rung: too few to tell whether the lower "
            "rungs foretold it."
        )
    told = ", ".join(f"{decimal(value)} at rung {rung + 1}" for rung, value in correlations.items())
    line = (
        f"Among the {ended} trials that came to the last rung, the order by L at a lower one "
        f"agrees with the last one's by a rank correlation of {told} (1: the same order, 0: none)."
    )
    return line + (" So few trials say little." if ended < FEW else "")


def _estimates(result: StudyResult, records: Sequence[TrialRecord]) -> tuple[float, ...]:
    """By rung, the correlation that the search's forecast went by in the end; see `evidence`."""
    alive = [record for record in records if record.state != "FAIL" and record.rungs]
    rungs = []
    for rung in range(len(result.plan["rungs_flops"])):
        there = [
            (row, point.episodes)
            for row, record in enumerate(alive)
            for point in record.rungs
            if point.rung == rung and point.complete
        ]
        if there:
            rungs.append(
                Rung(
                    trials=np.array([row for row, _ in there]),
                    scores=np.array([scores for _, scores in there]),
                )
            )
    if len(rungs) < 2 or len(rungs[0].trials) < len(alive):
        return ()
    return forecast(rungs, len(result.plan["rungs_flops"])).told


def cost(result: StudyResult) -> Cost:
    """What a study took."""
    wall = result.wall_seconds or sum(result.timings.get(name, 0.0) for name in PARTS)
    parts = [
        Part(
            title=title, seconds=result.timings[name], percent=_percent(result.timings[name], wall)
        )
        for name, title in PARTS.items()
        if result.timings.get(name, 0.0) > 0
    ]
    rest = wall - sum(part.seconds for part in parts)
    if parts and rest > 0.5:
        parts.append(Part(title="the rest", seconds=rest, percent=_percent(rest, wall)))
    return Cost(
        told=tuple(_costs(result)),
        parts=tuple(parts),
        forecast=forecast_table(result.forecast, result.actual),
        states=_by_state(result),
    )


def _costs(result: StudyResult) -> list[str]:
    lines = []
    if result.forecast is not None and result.actual is not None:
        lines.append(_timely(result.forecast["seconds"], result.wall_seconds))
    elif budget := result.plan.get("budget_seconds"):
        lines.append(
            f"Planned for {clock(float(budget))} from Ray's start on; with all before that it took "
            f"{clock(result.wall_seconds)}."
        )
    full = float(result.plan["rungs_flops"][-1])
    scored = [trial for trial in result.trials if trial.rungs]
    spent = sum(trial.train_flops for trial in scored)
    if scored and spent < full * len(scored):
        lines.append(
            f"{counted(len(scored), 'trial')} trained for {spent / 1e12:,.2f} TFLOP together; all "
            f"to the last rung would have been {full * len(scored) / 1e12:,.2f}: stopping early "
            f"left {1 - spent / (full * len(scored)):.0%} of it out."
        )
    return lines


def _timely(forecast: Mapping[str, float], came: float) -> str:
    low, expected, high = (clock(forecast[name]) for name in ("low", "expected", "high"))
    told = (
        f"Forecast: {expected}, and nine times of ten from {low} to {high}. It took {clock(came)}"
    )
    if expected == clock(came) or not forecast["expected"]:
        return f"{told}."
    off = came / forecast["expected"] - 1
    return f"{told}, {abs(off):.0%} {'more' if off > 0 else 'less'}."


# Of a forecast and of what came: names in the result, titles, and how they are told.
FORECAST: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "seconds": ("time", clock),
    "trials": ("trials begun", lambda value: f"{value:.0f}"),
    "finished": ("trials that came to the last rung", lambda value: f"{value:.0f}"),
    "memory_bytes": ("memory [GiB]", lambda value: f"{value / 2**30:.1f}"),
    "disk_bytes": ("disk [GiB]", lambda value: f"{value / 2**30:.2f}"),
}


def forecast_table(forecast: Mapping[str, Any] | None, actual: Mapping[str, Any] | None) -> Table:
    """What was forecast beside what came, as the result has them."""
    if forecast is None:
        return Table(caption="Forecast and outcome")
    came = actual or {}
    rows = []
    for name, (title, told) in FORECAST.items():
        ends = forecast[name]
        rows.append(
            (
                title,
                told(ends["expected"]),
                f"{told(ends['low'])} to {told(ends['high'])}",
                "" if came.get(name) is None else told(came[name]),
            )
        )
    earlier = int(forecast["learned_from"])
    learned = f"{earlier} earlier stud{'y' if earlier == 1 else 'ies'}"
    return Table(
        caption=f"Forecast and outcome; nine of ten end in the range, learned from {learned}",
        headings=("", "forecast", "range", "came"),
        rows=tuple(rows),
    )


def _by_state(result: StudyResult) -> Table:
    states = Counter(state(trial) for trial in result.trials)
    rows = []
    for word, times in states.most_common():
        own = [trial for trial in result.trials if state(trial) == word]
        rows.append(
            (
                word,
                str(times),
                f"{sum(trial.train_seconds for trial in own):,.0f}",
                f"{sum(trial.score_seconds for trial in own):,.0f}",
                f"{sum(trial.train_flops for trial in own) / 1e9:,.0f}",
            )
        )
    return Table(
        caption="Trials by how they ended",
        headings=("state", "trials", "training [s]", "scoring [s]", "training [GFLOP]"),
        rows=tuple(rows),
    )


def _percent(seconds: float, wall: float) -> float:
    return round(100 * min(seconds / wall, 1.0), 2) if wall > 0 else 0.0
