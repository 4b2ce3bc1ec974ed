"""Learning curves of real studies: taken out of their journals, kept in one small file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation import Ladder

from trainables.errors import UserError
from tuner.journal import Journal
from tuner.trial_records import TrialRecord

RECORDED = Path(__file__).parent / "curves" / "recorded.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """The curves of one study.

    Attributes:
        study, data: its name, and the name of its data set.
        ladder: its rungs.
        full: trials that reached the last rung -> rungs -> episodes' scores.
        trials: that were scored at all.
    """

    study: str
    data: str
    ladder: Ladder
    full: tuple[tuple[tuple[float, ...], ...], ...]
    trials: int


def load(path: Path = RECORDED) -> list[Curves]:
    """The recorded studies."""
    return [_curves(study) for study in json.loads(path.read_text(encoding="utf-8"))["studies"]]


def _curves(study: dict[str, Any]) -> Curves:
    rungs = study["rungs"]
    full = [trial["episodes"] for trial in study["trials"] if len(trial["episodes"]) == len(rungs)]
    return Curves(
        study=study["study"],
        data=study["data"],
        ladder=Ladder(
            steps=tuple(round(rung / rungs[0]) for rung in rungs),
            costs=tuple(rung / rungs[-1] for rung in rungs),
        ),
        full=tuple(tuple(map(tuple, curve)) for curve in full),
        trials=len(study["trials"]),
    )


def record(storages: Sequence[Path], path: Path = RECORDED) -> list[Curves]:
    """Write the curves of all studies under `storages`, running ones included, which are only read.

    Raises:
        UserError: there is no journal with scores.
    """
    journals = sorted(found for storage in storages for found in storage.glob("*/journal.log"))
    studies = [study for journal in journals if (study := _study(journal))["trials"]]
    if not studies:
        raise UserError(
            f"No study with scored trials under {', '.join(map(str, storages))}: "
            "name a storage folder of tuner.launch, such as runs."
        )
    path.write_text(json.dumps({"studies": studies}, indent=1) + "\n", encoding="utf-8")
    return load(path)


def _study(journal: Path) -> dict[str, Any]:
    """One study's part of the file. Opens a copy: the study may be running, and holds its lock."""
    name = journal.parent.name
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).mkdir()
        shutil.copyfile(journal, Path(folder) / name / journal.name)
        with Journal(Path(folder), name) as study:
            return {
                "study": name,
                "data": study.attr("data")["name"],
                "rungs": study.attr("plan")["rungs"],
                "trials": [
                    _trial(trial)
                    for trial in study.records()
                    if trial.rungs and trial.state != "FAIL"
                ],
            }


def _trial(trial: TrialRecord) -> dict[str, Any]:
    complete = [rung for rung in trial.rungs if rung.complete]
    return {
        "trial": trial.number,
        "label": trial.label,
        "episodes": [[round(score, 4) for score in rung.episodes] for rung in complete],
    }
