"""Settings that are known to be good: from the command line, and the best of earlier studies."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tuner.champion_folder import CHAMPION
from tuner.experiments import Experiment, find_experiment
from tuner.journal import Journal
from tuner.known_points import KnownPoint, check_known_point, parameters_of, point_of
from tuner.plugins import require
from tuner.registered_models import Models
from tuner.request import NAME, is_study_name
from tuner.standing import far_trials
from tuner.store_failures import usable
from tuner.tracking_uri import resolve_uri, scheme_of, sqlite_path, strip_credentials

BEST = 3  # trials that an earlier study contributes
_OF_THE_DATA = ("size", "channels")  # config fields that no setting decides
# Where a trial of result.json, a checkpoint and a champion have their settings.
_INSIDE = ("params", "trial_config", "config")
_MODEL = re.compile(rf"models:/({NAME})@{CHAMPION}")
_LONGEST_LABEL = 60


def known_settings(
    points: Sequence[str],
    sources: Sequence[str],
    *,
    storage: Path,
    tracking_uri: str | None,
    experiment: Experiment,
) -> tuple[KnownPoint, ...]:
    """The points that a user asks for, in order, without those that run anyway.

    Args:
        points: JSON objects, or files of one each; see `settings_point`.
        sources: earlier studies, see `best_of`, or "models:/NAME@champion", see `champion_of`.
        storage: folder of all studies.
        tracking_uri: of the store with the champions, or None for the one in `storage`.
        experiment: whose space they must lie in.
    Raises:
        UserError: one of them cannot be had, or is no point of the space.
    """
    asked = [settings_point(_label(text), _read(text), experiment) for text in points]
    for source in sources:
        if model := _MODEL.fullmatch(source):
            asked.append(champion_of(model[1], resolve_uri(tracking_uri, storage), experiment))
        else:
            asked += best_of(source, storage, experiment)
    there = [point.params for point in experiment.known_points if not point.overrides]
    new = []
    for point in asked:
        if point.params not in there:
            there.append(point.params)
            new.append(point)
    return tuple(new)


def settings_point(label: str, document: Mapping[str, Any], experiment: Experiment) -> KnownPoint:
    """The point of an experiment's space that has the settings of a document.

    Args:
        label: of the point.
        document: search parameters or config fields by name, nested ones joined by "_"; or what
            has them under "params", "trial_config" or "config". What it leaves open is sampled.
        experiment: whose space it is.
    Raises:
        UserError: there are no settings in it, or the space does not contain them.
    """
    inside = (document[name] for name in _INSIDE if isinstance(document.get(name), Mapping))
    settings = _flat(next(inside, document))
    for name in _OF_THE_DATA:
        settings.pop(name, None)
    if not settings:
        raise UserError(f"{label}: there are no settings in it.")
    return point_of(label, settings, experiment.space, experiment.base)


def champion_of(name: str, uri: str, experiment: Experiment) -> KnownPoint:
    """The settings of the champion of a registered model; nothing is made if there is no store.

    Raises:
        UserError: the store cannot be used, has no such champion, or the space not its settings.
    """
    label = f"warm start: models:/{name}@{CHAMPION}"
    if scheme_of(uri) != "sqlite" or sqlite_path(uri).is_file():
        with usable(uri), tempfile.TemporaryDirectory() as folder:
            models = Models(uri)
            version = models.champion(name)
            if version is not None:
                path = models.download(name, version.number, "config.json", Path(folder))
                config = json.loads(path.read_text(encoding="utf-8"))["config"]
                # All that it was trained with: a field that is newer had its default.
                return settings_point(
                    f"{label} (version {version.number})",
                    asdict(experiment.base) | config,
                    experiment,
                )
    raise UserError(f"--warm-start: {strip_credentials(uri)} has no champion of {name!r}.")


def best_of(study: str, storage: Path, experiment: Experiment) -> list[KnownPoint]:
    """The best trials of an earlier study, by the rule that chooses champions.

    The study may be of another data set, as long as its settings are those of `experiment`.
    Trials that ran settings outside of its space, as the paper's do, are left out.

    Raises:
        UserError: there is no such study, it is running, has other settings, no scored trial, or
            one that does not lie in this space.
    """
    if not (is_study_name(study) and (storage / study / "journal.log").is_file()):
        raise UserError(
            f"--warm-start must name a study in {storage} or models:/NAME@{CHAMPION}, got "
            f"{study!r}."
        )
    with Journal(storage, study) as journal:
        require(journal.attr("plugins", ()), f"--warm-start: study {study!r}")
        name, plan, records = journal.attr("experiment"), journal.attr("plan"), journal.records()
    if plan is not None:
        earlier = find_experiment(name)(plan["scale"])
        if earlier.pipeline != experiment.pipeline:
            raise UserError(
                f"--warm-start: study {study!r} is one of {name!r}, whose settings are not those "
                f"of {experiment.name!r}: name a study of the same search space."
            )
        scored = [r for r in far_trials(records, plan["rungs"][-1]) if not r.attrs.get("overrides")]
        records = tuple(sorted(scored, key=lambda r: (r.score, r.number))[:BEST])
    if plan is None or not records:
        raise UserError(f"--warm-start: study {study!r} has no scored trial to start from.")
    points = [
        KnownPoint(
            label=f"warm start: {study} trial {r.number}",
            params=_of_its_time(experiment) | dict(r.params),
        )
        for r in records
    ]
    for point in points:
        check_known_point(point, experiment.space, experiment.base)
    return points


def _of_its_time(experiment: Experiment) -> dict[str, Any]:
    """What a study that is older than a parameter of every point ran with: its field's default."""
    fields = asdict(experiment.base)
    shared = parameters_of(experiment.space, experiment.base).shared
    return {name: fields[name] for name in shared if name in fields}


def _read(text: str) -> Mapping[str, Any]:
    """The JSON object that is `text`, or in the file of that name."""
    try:
        content = text if _is_json(text) else Path(text).read_text(encoding="utf-8")
        document = json.loads(content)
    except OSError as error:
        raise UserError(
            f"--point must be settings as JSON or a file of them, got {text!r} ({error.strerror})."
        ) from error
    except ValueError as error:
        raise UserError(f"--point must be settings as JSON, got {text!r} ({error}).") from error
    if not isinstance(document, dict):
        raise UserError(f"--point must be a JSON object such as {{'lr': 0.01}}, got {text!r}.")
    return document


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("{")


def _label(text: str) -> str:
    """JSON from its beginning, a file's name with its end."""
    words = " ".join(text.split())
    if (over := len(words) + 3 - _LONGEST_LABEL) > 3:
        words = f"{words[:-over]}..." if _is_json(text) else f"...{words[over:]}"
    return f"point: {words}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"inner": {"steps": 5}} -> {"inner_steps": 5}, as parameters are named."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}_")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
