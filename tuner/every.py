"""`launch all`: one study of every experiment, one after another, under one budget."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tuner.conductor import BROKEN_DOWN, INTERRUPTED, conduct
from tuner.journal import Journal
from tuner.setting import Request, look_around

RECORD = "all.json"  # in the storage folder: what a resume goes by


def conduct_all(request: Request, names: tuple[str, ...]) -> int:
    """Run or resume the studies -> exit code: as `conduct`, and 1 if any of them gives 1.

    Args:
        request: its experiment is not looked at; its budget is shared out evenly.
    Raises:
        UserError: the request cannot be met, or there is nothing to resume.
    """
    path = request.storage / RECORD
    record = _recorded(path) if request.resume else _new_record(request, names)
    worst = 0
    for number, name in enumerate(names, start=1):
        print(f"\n{number} of {len(names)}: {name}", flush=True)
        own = replace(request, experiment=name, budget_seconds=record["each"], resume=False)
        study = record["studies"].get(name)
        if study is not None and (request.storage / study / "result.json").is_file():
            print(f"done, see {request.storage / study / 'result.json'}")
            continue
        if study is not None and _began(request.storage, study):
            own = replace(own, study=study, resume=True, budget_seconds=None)
        elif not request.dry_run:
            own = replace(own, study=look_around(own, None).study)
            record["studies"][name] = own.study
            _write(path, record)
        code = conduct(own)
        if code in (INTERRUPTED, BROKEN_DOWN):
            print(f"All that is left: {_resume_command(request)}", file=sys.stderr)
            return code
        worst = max(worst, code)
    if not request.dry_run:
        report = [sys.executable, "-m", "tuner.report", "table1", "--storage", str(request.storage)]
        print(f"\nTable 1: {shlex.join(report)}")
    return worst


def _new_record(request: Request, names: tuple[str, ...]) -> dict[str, Any]:
    budget = request.budget_seconds
    return {"each": None if budget is None else budget / len(names), "studies": {}}


def _write(path: Path, record: dict[str, Any]) -> None:
    whole = path.with_name(f".{path.name}")
    whole.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(whole, path)


def _recorded(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"There is no run of all experiments in {path.parent} to resume: leave --resume out."
        ) from None
    return record


def _began(storage: Path, study: str) -> bool:
    """Whether a study got as far as its plan."""
    if not (storage / study / "journal.log").is_file():
        return False
    with Journal(storage, study) as journal:
        return journal.attr("plan") is not None


def _resume_command(request: Request) -> str:
    words = [sys.executable, "-m", "tuner.launch", "all", "--resume"]
    words += ["--storage", str(request.storage)]
    for option, value in (
        ("--data-root", request.data_root),
        ("--address", request.address),
        ("--sampler", request.sampler),
        ("--objectives", request.objectives and ",".join(request.objectives)),
    ):
        words += [option, str(value)] if value else []
    return shlex.join(words)
