"""What a tracking store keeps of one trial, read to train it again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tuner.run_store import SETTINGS
from tuner.store_client import open_client, silence
from tuner.store_failures import http_status, usable
from tuner.tracking_uri import scheme_of, sqlite_path, strip_credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTrial:
    """What a store keeps of a trial.

    Attributes:
        tags: of its run.
        settings: what its process was told, as `TrialTrainable` takes it.
        points: metrics by name of each point at which it was scored, in order.
    """

    tags: Mapping[str, str]
    settings: dict[str, Any]
    points: Sequence[Mapping[str, float]]


def read_trial(uri: str, run_id: str) -> KeptTrial:
    """Read a trial's run.

    Raises:
        UserError: the store is not there, it has no such run, or the run is no trial whose settings
            were kept.
    """
    from mlflow.exceptions import MlflowException

    if scheme_of(uri) == "sqlite" and not sqlite_path(uri).is_file():
        raise UserError(f"There is no tracking store {uri}: name it, or its --storage.")
    silence()
    with usable(uri):
        client = open_client(uri)
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if http_status(error) >= 500:
                raise
            place = strip_credentials(uri)
            raise UserError(f"There is no run {run_id!r} in {place}: look it up there.") from error
        if run.data.tags.get("kind") != "trial":
            raise UserError(f"Run {run_id} is no trial: choose one of those below a study's run.")
        folder, _, _ = SETTINGS.partition("/")
        if SETTINGS not in {item.path for item in client.list_artifacts(run_id, folder)}:
            raise UserError(f"Run {run_id} has no artifact {SETTINGS}: it was never scored.")
        histories = {
            name: client.get_metric_history(run_id, name)
            for name in run.data.metrics
            if not name.endswith("_loss")  # between the rungs
        }
        with tempfile.TemporaryDirectory() as place:
            path = Path(client.download_artifacts(run_id, SETTINGS, place))
            settings = json.loads(path.read_text(encoding="utf-8"))
    return KeptTrial(tags=run.data.tags, settings=settings, points=scored_points(histories))


def scored_points(histories: Mapping[str, Sequence[Any]]) -> list[dict[str, float]]:
    """MLflow's points of metrics that are written together, by name, put together again.

    By their order: runs of older versions have rungs that one update of a large net reached at one
    step.
    """
    ordered = {
        name: sorted(history, key=lambda point: (point.step, point.timestamp))
        for name, history in histories.items()
    }
    count = max(map(len, ordered.values()), default=0)
    return [
        {name: history[n].value for name, history in ordered.items() if n < len(history)}
        for n in range(count)
    ]
