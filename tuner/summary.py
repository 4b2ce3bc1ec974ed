"""A study's records become its result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainables.evaluation import Scores
from trainables.memory import resident_peak
from tuner.champion_folder import Kept
from tuner.contenders import INTERVALS, Contender, Tested, margin
from tuner.interim import plan_document, searched, trial_result
from tuner.journal_file import LOG
from tuner.objectives import OBJECTIVES
from tuner.pages import run_page, view_page
from tuner.plan import Plan
from tuner.result import (
    Best,
    Data,
    Finalist,
    FrontTrial,
    Gate,
    Pareto,
    Reference,
    Rematch,
    StudyResult,
    TestScore,
    git_commit,
    in_study,
    versions,
)
from tuner.standing import front_trials
from tuner.study import StudyRun
from tuner.tracking import Tracker
from tuner.tracking_uri import page_address, ui_command
from tuner.trial_records import TrialRecord
from tuner.verdict import judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a result needs beside the trials."""

    folder: Path
    study: str
    experiment: str
    data: Data
    plan: Plan
    wall_seconds: float
    timings: dict[str, float]
    baselines: Mapping[str, Mapping[str, Scores]]  # by name and part
    contenders: Sequence[Contender]
    champion: Tested | None
    kept: Kept | None
    gate: Gate | None
    reference: tuple[TrialRecord, Tested] | None
    test_classes: tuple[str, ...]
    tracker: Tracker
    runs: Mapping[str, str]  # MLflow run ids by trial number
    command: str  # or commands, that the study was run by
    resume: str
    dashboard: str
    forecast: dict[str, Any] | None
    machine: tuple[str, float, float]  # the driver's CPU, and all cores and cards


def optuna_command(journal: Path) -> str:
    """What to type to see a study as Optuna does: which settings matter, and how they went."""
    beside_python = Path(sys.executable).absolute().with_name("optuna-dashboard")
    return shlex.join([str(beside_python), str(journal)])


def summarise(run: StudyRun, facts: Facts) -> StudyResult:
    """Everything `result.json` holds."""
    winner = facts.contenders[0].record if facts.contenders else run.best
    best = None if winner is None else _best(winner, facts)
    test = None if facts.champion is None else _test(facts.champion, facts.test_classes)
    place, uri = facts.tracker.place, facts.tracker.uri
    where = place.experiment_id
    return StudyResult(
        folder=facts.folder,
        study=facts.study,
        experiment=facts.experiment,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        outcome="finished" if best is not None else "nothing succeeded",
        data=facts.data,
        plan=plan_document(facts.plan),
        wall_seconds=facts.wall_seconds,
        timings=facts.timings,
        trials=tuple(
            trial_result(
                record,
                folder=facts.folder,
                seed=facts.plan.seed,
                run_id=facts.runs.get(str(record.number)),
            )
            for record in run.records
            if record.state != "WAITING"
        ),
        null_baselines={
            name: {part: scores.metrics for part, scores in parts.items()}
            for name, parts in facts.baselines.items()
        },
        null_intervals={
            name: parts["test"].intervals(INTERVALS)
            for name, parts in facts.baselines.items()
            if "test" in parts
        },
        fidelity={str(rung): value for rung, value in run.fidelity.items()},
        rematch=_rematch(facts),
        best=best,
        test=test,
        reference=_reference(facts),
        gate=facts.gate,
        pareto=_pareto(run, facts.plan),
        forecast=facts.forecast,
        actual=_actual(run, facts),
        verdict=_verdict(facts),
        versions=versions(),
        git_commit=git_commit(),
        tracking=place,
        commands={
            "mlflow_ui": ui_command(uri),
            "mlflow_page": page_address(uri, run_page(where, place.parent_run_id)),
            "mlflow_trials": page_address(uri, view_page(where, place.parent_run_id)),
            "ray_dashboard": facts.dashboard,
            "optuna_dashboard": optuna_command(facts.folder / LOG),
            "searched_by": facts.command,
            "search_on": facts.resume,
        },
    )


def _actual(run: StudyRun, facts: Facts) -> dict[str, Any]:
    """What came, beside the forecast."""
    largest = run.process_bytes
    return {
        "seconds": facts.wall_seconds,
        "trials": sum(record.state != "WAITING" for record in run.records),
        "finished": sum(record.state == "COMPLETE" for record in run.records),
        "memory_bytes": resident_peak() + facts.plan.slots * largest if largest else None,
        "disk_bytes": sum(p.stat().st_size for p in facts.folder.rglob("*") if p.is_file()),
        "machine": list(facts.machine),
    }


def _verdict(facts: Facts) -> str:
    champion, reference = facts.champion, facts.reference
    return judge(
        None if champion is None else champion.scores,
        facts.baselines.get("augmented_shots", {}).get("test"),
        None if reference is None else reference[1].scores,
        facts.baselines.get("own_augmentation", {}).get("test"),
    )


def _rematch(facts: Facts) -> Rematch | None:
    if not facts.contenders:
        return None
    return Rematch(
        seeds=len(facts.contenders[0].scores),
        episodes=facts.contenders[0].by_episode("L").shape[1],
        finalists=tuple(
            Finalist(
                number=contender.record.number,
                label=contender.record.label,
                adapt_steps=contender.adapt_steps,
                metrics=contender.metrics,
                intervals=contender.intervals(),
            )
            for contender in facts.contenders
        ),
        margin=margin(facts.contenders),
    )


def _best(record: TrialRecord, facts: Facts) -> Best:
    kept = facts.kept
    return Best(
        number=record.number,
        label=record.label,
        params=searched(record),
        scores=dict(record.rungs[-1].metrics),
        grid=in_study(kept.grid, facts.folder) if kept else None,
        weights=in_study(kept.weights, facts.folder) if kept else None,
        config=in_study(kept.config, facts.folder) if kept else None,
    )


def _test(tested: Tested, classes: tuple[str, ...]) -> TestScore:
    return TestScore(
        classes=classes,
        episodes=len(tested.samples),
        adapt_steps=tested.adapt_steps,
        metrics=dict(tested.scores.metrics),
        intervals=tested.intervals(),
    )


def _pareto(run: StudyRun, plan: Plan) -> Pareto | None:
    names = plan.objectives
    if len(names) == 1:
        return None
    front = [
        FrontTrial(number=r.number, values={n: r.rungs[-1].metrics[n] for n in names})
        for r in front_trials(run.records, plan.rungs[-1], names)
    ]
    front.sort(key=lambda t: (t.values["L"], t.number))
    return Pareto(objectives={n: OBJECTIVES[n] for n in names}, front=tuple(front))


def _reference(facts: Facts) -> Reference | None:
    if facts.reference is None:
        return None
    record, tested = facts.reference
    return Reference(
        number=record.number, label=record.label, test=_test(tested, facts.test_classes)
    )
