"""What MLflow is told of a study that is over: its result, the best's files, and the champion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from trainables.grid import SMALL
from trainables.outside import is_inside
from tuner.mlmodel import mlmodel
from tuner.model_card import model_note, version_note
from tuner.pages import CHAMPION, INTERVAL, ends, study_note, view_page
from tuner.ranking import COLUMNS
from tuner.registered_models import MODEL
from tuner.result import Gate, StudyResult
from tuner.run_store import NOTE, PICTURES, picture
from tuner.setting import REPORT, REPORT_TWIN
from tuner.sqlite_batches import Point
from tuner.study_runs import StudyRuns

OF_THE_RUN = ("mlflow.", "version.")  # tags that a version of a model has from its run


def write_outcome(runs: StudyRuns, result: StudyResult, identity: Mapping[str, str]) -> bool:
    """Write to the study's run and register the best; may be repeated.

    Args:
        runs: of the study.
        result: of it.
        identity: what the registered model is tagged with beside the study's tags.
    Returns:
        Whether the verdict on `@champion` holds: False where it went to another model since the
        two met that this verdict is about.
    """
    store, run_id = runs.store, runs.study
    best = result.best
    files = [] if best is None else [best.grid, best.weights, best.config]
    paths = [result.folder / path for path in files if path is not None]
    store.log_bytes(run_id, json.dumps(result.to_dict(), indent=2).encode(), "result.json")
    for report in (result.folder / REPORT, result.folder / REPORT_TWIN):
        if report.is_file() and is_inside(report, result.folder):
            store.log_file(run_id, report)
    folder = _model_folder(paths)
    for path in paths:
        store.log_file(run_id, path, folder)
    # The result's own time: delivered again, a point is the same point.
    when = finished_at(result)
    points: list[Point] = [(name, value, when, 0) for name, value in _metrics(result).items()]
    shown = _log_grid(runs, result, when)
    table = view_page(store.experiment_id, run_id)
    tags = {NOTE: study_note(result, runs.pages(), table, shown)} | _intervals(result)
    tags |= {PICTURES: "true"} if shown else {}
    if result.pareto is not None:  # trials; their scores are in result.json
        tags["pareto_front"] = ", ".join(str(t.number) for t in result.pareto.front)
    store.log_metrics(run_id, points, tags)
    return result.gate is None or _register(runs, result, result.gate, folder, identity)


def _log_grid(runs: StudyRuns, result: StudyResult, when: int) -> str:
    """The champion's pictures, where charts show them -> Markdown that shows them, too."""
    if result.best is None or result.best.grid is None:
        return ""
    path = result.folder / result.best.grid
    small = path.with_name(SMALL)
    grid = path.read_bytes()
    kept = small.exists() and is_inside(small, result.folder)  # older studies have none
    shown = small.read_bytes() if kept else grid
    name = runs.store.log_picture(runs.study, grid, shown, CHAMPION, 0, when)
    return picture(runs.study, name)


def finished_at(result: StudyResult) -> int:
    """Unix time in ms."""
    return int(datetime.fromisoformat(result.created).timestamp() * 1000)


def _register(
    runs: StudyRuns, result: StudyResult, gate: Gate, folder: str, identity: Mapping[str, str]
) -> bool:
    scores = {} if result.test is None else result.test.metrics
    own = {k: v for k, v in runs.tags.items() if not k.startswith(OF_THE_RUN)}
    tags = own | dict(identity)
    tags |= {f"test_{name}": f"{scores[name]:.4f}" for name in COLUMNS if name in scores}
    described = mlmodel(runs.study, folder).encode()
    runs.store.log_bytes(runs.study, described, f"{folder}/MLmodel")
    version = runs.store.register(gate.name, runs.study, folder, tags)
    card = version_note(result, tags, runs.store.experiment_id, runs.study)
    runs.store.describe(gate.name, model_note(gate.name, result.experiment), version, card)
    present = runs.store.champion(gate.name)
    if not gate.crowned or (present is not None and present.number == version):
        return True
    # Another study may have ended since the models met, or the store may be another one.
    if not gate.is_against(present):
        return False
    runs.store.crown(gate.name, version)
    return True


def _model_folder(files: Sequence[Path]) -> str:
    """A folder for each result: a study that is searched on has another model, and the version that
    is registered of it keeps its files."""
    content = hashlib.sha256()
    for path in files:
        content.update(path.read_bytes())
    return f"{MODEL}-{content.hexdigest()[:12]}"


def _intervals(result: StudyResult) -> dict[str, str]:
    intervals = {} if result.test is None else result.test.intervals
    return {INTERVAL.format(n): ends(intervals[n]) for n in ("L", "J") if n in intervals}


def _metrics(result: StudyResult) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if result.best is not None:
        metrics |= {f"best/{name}": value for name, value in result.best.scores.items()}
    if result.test is not None:
        metrics |= {f"test/{name}": value for name, value in result.test.metrics.items()}
    # The rest is in result.json; here it would bury what matters.
    metrics = {name: value for name, value in metrics.items() if name.split("/")[1] in COLUMNS}
    return metrics | {f"fidelity/rung_{rung}": value for rung, value in result.fidelity.items()}
