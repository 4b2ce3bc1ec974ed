"""Tables and facts of a study's report, in words; an empty one where there is nothing to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.resources import counted
from tuner.plan import clock
from tuner.ranking import COLUMNS, describe, gate_line, state_word, trial_title
from tuner.result import StudyResult, TrialResult
from tuner.table1 import MANY_SHOT, NOTES, PUBLISHED, REMARKS, SCORES, belongs, table1
from tuner.table_cells import decimal, short

LISTED = 200  # trials in the table of all


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells of text below headings; the first column names the row."""

    caption: str
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    bold: int | None = None  # the row of the best trial
    words: tuple[int, ...] = ()  # columns that hold words; others hold numbers


def state(trial: TrialResult) -> str:
    """How a trial ended, or that it has not, in a word or two."""
    return trial.reason if trial.reason in ("running", "paused") else state_word(trial)


def reached(result: StudyResult, trial: TrialResult) -> str:
    """Such as "2/3" rungs."""
    done = max((rung.rung + 1 for rung in trial.rungs if rung.complete), default=0)
    return f"{done}/{len(result.plan['rungs_flops'])}"


def paper_table(result: StudyResult) -> Table:
    """The published row of the experiment, and this study's beside it."""
    caption = "The paper's Table 1 beside this study"
    if not belongs(result):
        return Table(caption=caption)
    title = PUBLISHED[result.experiment][0]
    rows = [row for row in table1({result.experiment: result}) if row.experiment == title]
    return Table(
        caption=f"{caption}: {title}",
        headings=("", *SCORES.values()),
        rows=tuple((row.what, *row.cells(SCORES, ())) for row in rows),
        bold=next((n for n, row in enumerate(rows) if row.what == "our champion"), None),
    )


def remarks_on(result: StudyResult) -> tuple[str, ...]:
    """What a reader of `paper_table` has to know."""
    if not belongs(result):
        return ()
    few = "Few-shot as published: 4 pictures of the class, as in all of our rows."
    own = [REMARKS[result.experiment]] if result.experiment in REMARKS else []
    own += [] if result.experiment in MANY_SHOT else [few]
    return (*own, NOTES.partition(" Among the settings")[0].replace("\n", " "))


def settings_table(result: StudyResult) -> Table:
    """What was searched: what was tried of every setting, and what the best has."""
    names = list(dict.fromkeys(name for trial in result.trials for name in trial.params))
    best = {} if result.best is None else result.best.params
    tried: dict[str, list[Any]] = {
        name: [trial.params[name] for trial in result.trials if name in trial.params]
        for name in names
    }
    return Table(
        caption="What was searched",
        headings=("setting", "the best trial's", "tried", "trials that have it"),
        rows=tuple(
            (name, short(best.get(name, "")), _tried(values), str(len(values)))
            for name, values in tried.items()
        ),
        words=(1, 2),
    )


def _tried(values: Sequence[Any]) -> str:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values) and len(set(values)) > 1:
        return f"{short(min(numbers))} to {short(max(numbers))}"
    return ", ".join(sorted({short(value) for value in values}))


def trials_table(result: StudyResult, order: Sequence[TrialResult]) -> Table:
    """All trials in `order`, as far as `LISTED`."""
    shown = order[:LISTED]
    best = None if result.best is None else result.best.number
    left = len(order) - len(shown)
    return Table(
        caption="All trials, by progress and L"
        + (f"; the first {LISTED}, and {left} more in result.json" if left else ""),
        headings=(
            "rank",
            "trial",
            "settings",
            "state",
            "rung",
            *(SCORES[name] for name in COLUMNS),
            "training [s]",
        ),
        rows=tuple(
            (
                str(rank),
                str(trial.number),
                describe(trial.label, trial.params),
                state(trial),
                reached(result, trial),
                *(decimal((trial.scores or {}).get(name)) for name in COLUMNS),
                f"{trial.train_seconds:.0f}",
            )
            for rank, trial in enumerate(shown, start=1)
        ),
        bold=next((n for n, trial in enumerate(shown) if trial.number == best), None),
        words=(2, 3),
    )


def pareto_table(result: StudyResult) -> Table:
    """The front, where there are several objectives."""
    if (pareto := result.pareto) is None:
        return Table(caption="Pareto front")
    trials = {trial.number: trial for trial in result.trials}
    names = list(pareto.objectives)
    return Table(
        caption="Pareto front: trials that no other beats in all objectives",
        headings=("trial", *(f"{name} ({pareto.objectives[name]}d)" for name in names)),
        rows=tuple(
            (
                trial_title(one.number, trials[one.number].label, trials[one.number].params),
                *(decimal(one.values[name]) for name in names),
            )
            for one in pareto.front
        ),
    )


def facts(result: StudyResult) -> Iterator[tuple[str, str]]:
    """What was searched, on which data and hardware: names and values."""
    plan = result.plan
    yield "Experiment", result.experiment
    yield "Data", f"{result.data.name} from {result.data.source}"
    if result.test is not None:
        classes = counted(len(result.test.classes), "class", "es")
        yield "Test", f"{result.test.episodes} episodes of {classes} held back"
    names = sorted({name for trial in result.trials for name in trial.params})
    sampler = plan.get("sampler", "tpe")
    objectives = ", ".join(plan.get("objectives", ("L",)))
    yield "Searched", f"{counted(len(names), 'setting')} on {objectives}, by {sampler}"
    states = Counter(state(trial) for trial in result.trials)
    told = ", ".join(f"{times} {word}" for word, times in states.most_common())
    yield "Trials", f"{len(result.trials)}: {told}" if told else "none"
    yield "Hardware", _hardware(plan, result.actual or {})
    budget = float(plan.get("budget_seconds", 0.0))
    yield "Time", f"{clock(result.wall_seconds)} of a budget of {clock(budget)}"
    if told := gate_line(result):
        yield "Registered model", told
    if result.commands.get("searched_by"):
        yield "Command", result.commands["searched_by"]


def _hardware(plan: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    slots, cpus = int(plan.get("slots", 1)), plan.get("cpus_per_trial", 1)
    told = f"{counted(slots, 'trial')} side by side, {counted(cpus, 'CPU core')} each"
    if gpus := plan.get("gpus_per_trial", 0):
        told += f" and {counted(gpus, 'GPU')}"
    if card := plan.get("card"):
        told += f" of {card['total'] / 2**30:.0f} GiB"
    if speed := plan.get("flops_per_second"):
        told += f"; {speed / 1e9:,.0f} GFLOP/s of training each"
    if machine := actual.get("machine"):
        told = f"{machine[0]}, {counted(round(machine[1]), 'core')}: {told}"
    return told
