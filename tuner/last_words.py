"""What is said of a study that is over, beside its ranking: to people in a line or two, and to
scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tuner.outlook import Forecast, Range
from tuner.plan import clock
from tuner.ranking import number, trial_title
from tuner.result import StudyResult
from tuner.setting import REPORT, RESULT


def told_forecast(forecast: Forecast) -> str:
    """What a study should take, in one line of its plan."""
    count, seconds = forecast.learned_from, forecast.seconds
    learned = "by rule of thumb, since no similar study has ended here yet"
    if count:
        learned = f"learned from {count} earlier stud{'ies' if count > 1 else 'y'}"
    return (
        f"Forecast   {_ranged(seconds, clock)} in all; {_ranged(forecast.trials, _count)} trials, "
        f"of which {_ranged(forecast.finished, _count)} come to the end; "
        f"{_ranged(forecast.memory_bytes, _size)} of memory, "
        f"{_ranged(forecast.disk_bytes, _size)} of disk; {learned}"
    )


def forecast_line(result: StudyResult) -> str:
    """What was forecast, and what came; "" for studies of which nothing was."""
    if result.forecast is None or result.actual is None:
        return ""
    said, came = Forecast.from_dict(result.forecast), result.actual
    pairs = [
        f"{_ranged(said.seconds, clock)} in all, came {clock(came['seconds'])}",
        f"{_ranged(said.trials, _count)} trials, came {came['trials']}",
    ]
    if (memory := came["memory_bytes"]) is not None:
        pairs.append(f"{_ranged(said.memory_bytes, _size)} of memory, came {_size(memory)}")
    return f"Forecast   {'; '.join(pairs)}"


def _ranged(of: Range, told: Callable[[float], str]) -> str:
    return f"{told(of.expected)} ({told(of.low)} to {told(of.high)})"


def _count(number: float) -> str:
    return f"{number:.0f}"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def last_lines(result: StudyResult) -> list[str]:
    """Where the result is, and which trial is the champion."""
    lines = [f"Result     {result.folder / RESULT}"]
    if (best := result.best) is None:
        return [*lines, "Champion   none: no trial succeeded"]
    told = trial_title(best.number, best.label, best.params)
    scores = result.test.metrics if result.test else best.scores
    where = "on test classes" if result.test else "on validation classes"
    joint, loss = number(scores.get("J")), number(scores.get("L"))
    return [*lines, f"Champion   {told}: J {joint}, L {loss} {where}"]


def finished_facts(result: StudyResult) -> dict[str, Any]:
    """What the event that a study is finished holds beside its exit code."""
    report = result.folder / REPORT
    document = result.to_dict()
    champion = document["best"]
    if champion is not None:
        champion |= {"test": document["test"]}
    return {
        "outcome": result.outcome,
        "result": str(result.folder / RESULT),
        "report": str(report) if report.is_file() else None,
        "champion": champion,
        "forecast": document["forecast"],
        "actual": document["actual"],
    }
