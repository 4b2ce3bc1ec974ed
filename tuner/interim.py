"""What a study's journal tells, as a result has it: all of a study that has none yet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tuner.glance import Glance
from tuner.journal import FORECAST, RUN
from tuner.journal_file import LOG
from tuner.known_points import trial_seed
from tuner.pages import run_page, view_page
from tuner.places import local_copy
from tuner.plan import Plan
from tuner.result import (
    Best,
    Data,
    Rung,
    State,
    StudyResult,
    TrackingPlace,
    TrialResult,
    in_study,
)
from tuner.standing import leading_trial
from tuner.tracking_uri import page_address, ui_command
from tuner.trial_records import RungRecord, TrialRecord


def interim_result(study: Glance) -> StudyResult:
    """A study as far as it came, without what only its finals know; nobody writes this result.

    A trial that is not over is PRUNED, for the reason "running" or "paused". The best is the one
    that leads.

    Args:
        study: has a plan.
    """
    assert study.plan is not None, study.folder
    attrs, plan = study.attrs, study.plan
    timings = dict(attrs.get("timings", {}))
    place = attrs.get("mlflow")
    return StudyResult(
        folder=study.folder,
        study=study.folder.name,
        experiment=str(attrs.get("experiment", "")),
        created=_written(study.folder),
        outcome="interrupted",
        data=Data(**attrs["data"]),
        plan=plan_document(plan),
        wall_seconds=timings.pop("wall", 0.0),
        timings=timings,
        trials=tuple(
            trial_result(
                record,
                folder=study.folder,
                seed=plan.seed,
                run_id=attrs.get(f"{RUN}{record.number}"),
            )
            for record in study.records
            if record.state != "WAITING"
        ),
        null_baselines={},
        fidelity={},
        rematch=None,
        best=_leader(study),
        test=None,
        reference=None,
        gate=None,
        verdict="",
        versions=dict(attrs.get("versions", {})),
        git_commit=None,
        tracking=None if place is None else TrackingPlace(**place),
        commands=_commands(study, place),
        forecast=attrs.get(FORECAST),
    )


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan under the names, with units, that the schema documents."""
    document = plan.to_dict()
    document["rungs_flops"] = list(document.pop("rungs"))
    document["episodes"] = list(document["episodes"])
    document["objectives"] = list(document["objectives"])
    return document


def trial_result(
    record: TrialRecord, *, folder: Path, seed: int, run_id: str | None
) -> TrialResult:
    """A trial that has begun.

    Args:
        record: of it.
        folder: of the study.
        seed: of the study.
        run_id: the trial's run in MLflow.
    """
    last = record.rungs[-1] if record.rungs else None
    metrics: Mapping[str, float] = last.metrics if last else {}
    state, reason = _end(record)
    return TrialResult(
        number=record.number,
        label=record.label,
        state=state,
        reason=reason,
        params=searched(record),
        overrides=dict(record.attrs.get("overrides", {})),
        config=dict(record.config),
        seed=trial_seed(seed, record.number),
        updates=int(metrics.get("updates", 0)),
        train_flops=metrics.get("train_flops", 0.0),
        train_seconds=metrics.get("train_seconds", 0.0),
        score_seconds=metrics.get("score_seconds", 0.0),
        rungs=tuple(
            Rung(
                rung=r.rung,
                complete=r.complete,
                train_flops=r.metrics["train_flops"],
                metrics=dict(r.metrics),
            )
            for r in record.rungs
        ),
        scores=dict(metrics) if last else None,
        mlflow_run_id=run_id,
        checkpoint=_kept(last, folder),
    )


def searched(record: TrialRecord) -> dict[str, Any]:
    """A point with overrides has its parameters beside the trial, where no sampler looks."""
    return dict(record.attrs.get("point", record.params))


def _end(record: TrialRecord) -> tuple[State, str]:
    assert record.state != "WAITING", record
    if record.state == "RUNNING":
        return "PRUNED", "paused" if record.paused else "running"
    return record.state, record.reason


def _kept(last: RungRecord | None, folder: Path) -> str | None:
    """The checkpoint, unless it made room for better ones."""
    if last is None:
        return None
    checkpoint = local_copy(last.checkpoint, folder)
    if not (checkpoint / "weights.safetensors").exists():
        return None
    return in_study(checkpoint, folder)


def _leader(study: Glance) -> Best | None:
    record = leading_trial(study.records)
    if record is None:
        return None
    return Best(
        number=record.number,
        label=record.label,
        params=searched(record),
        scores=dict(record.rungs[-1].metrics),
        grid=None,
        weights=None,
    )


def _commands(study: Glance, place: Mapping[str, str] | None) -> dict[str, str]:
    commands = {
        "searched_by": " && ".join(study.attrs.get("commands", [])),
        "search_on": study.resume,
    }
    if place is not None:
        uri, where, run = place["uri"], place["experiment_id"], place["parent_run_id"]
        commands |= {
            "mlflow_ui": ui_command(uri),
            "mlflow_page": page_address(uri, run_page(where, run)),
            "mlflow_trials": page_address(uri, view_page(where, run)),
        }
    return commands


def _written(folder: Path) -> str:
    when = datetime.fromtimestamp((folder / LOG).stat().st_mtime).astimezone()
    return when.isoformat(timespec="seconds")
