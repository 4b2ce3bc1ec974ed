"""Command line: how a study stands, whether or not it runs, here or on another machine.

python -m tuner.status STUDY
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuner.command_line import answer, study_parser
from tuner.glance import Glance, glance
from tuner.journal import DASHBOARD
from tuner.journal_file import LOG
from tuner.live import STATES, WAITING
from tuner.pages import run_page
from tuner.plan import clock
from tuner.ranking import describe, number
from tuner.result import StudyResult, load
from tuner.setting import RESULT
from tuner.standing import leading_trial, reached
from tuner.studies import place_of
from tuner.tracking_uri import SERVERS, page_address, scheme_of, ui_command
from tuner.trial_records import TrialRecord

DOING = {
    "preparation": "prepares",
    "search": "searches",
    "finals": "the best trials meet again, and the winner the test",
    "delivery": "tells MLflow what it does not have yet",
}
DESCRIPTION = """\
How a study stands: what it does, its trials, the best so far, what time is left, where to look
closer. Reads the study's folder or bucket and disturbs nobody, so that it works from every machine
that has them.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    parser = study_parser("status", DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="all of it, for scripts")
    return answer(lambda: _show(parser.parse_args(argv)))


def _show(arguments: argparse.Namespace) -> int:
    told = standing(glance(place_of(arguments.study, arguments.storage).folder))
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        for title, text in _lines(told):
            print(f"{title:<11}{text}")
    return 0


def standing(study: Glance) -> dict[str, Any]:
    """How a study stands, as plain data; times are Unix seconds, what nobody knows is None.

    "since" is when the session began, or when the study was last written; "ends" when the search
    is over at the latest, and "whole_ends" when all of it should be.
    """
    plan, phase = study.plan, study.phase
    searches = phase is not None and phase["name"] == "search"
    ends = phase["ends"] if phase else None
    rest = plan.budget_seconds - plan.search_seconds if plan and searches else 0.0
    holder = study.holder if study.state == "running" else None
    result = load(study.folder / RESULT) if study.state == "finished" else None
    return {
        "study": study.folder.name,
        "folder": str(study.folder),
        "experiment": study.attrs.get("experiment"),
        "state": study.state,
        "since": holder.since if holder else (study.folder / LOG).stat().st_mtime,
        "holder": asdict(study.holder) if study.holder else None,
        "phase": phase["name"] if phase else None,
        "ends": ends if searches else None,
        "whole_ends": None if ends is None else ends + rest,
        "planned": plan.trials if plan else None,
        "trials": _counts(study),
        "best": _best(study.records, len(plan.rungs) if plan else 0, result),
        "verdict": result.verdict if result else None,
        "dashboard": study.attrs.get(DASHBOARD) if holder else None,
        "mlflow": _mlflow(study.attrs.get("mlflow")),
        "resume": study.resume,
    }


def _counts(study: Glance) -> dict[str, int]:
    """Trials by state, those that were begun."""
    cut = "running" if study.state == "running" else WAITING
    states = [
        STATES.get(r.state, "paused" if r.paused else cut)
        for r in study.records
        if r.state != "WAITING"
    ]
    return dict(Counter(states))


def _best(
    records: Sequence[TrialRecord], rungs: int, result: StudyResult | None
) -> dict[str, Any] | None:
    """The study's best, if it is finished, else the one that leads so far."""
    leader = leading_trial(records)
    if result is not None and result.best is not None:
        leader = next((r for r in records if r.number == result.best.number), leader)
    if leader is None:
        return None
    return {
        "number": leader.number,
        "label": leader.label,
        "rung": reached(leader),
        "rungs": rungs,
        "settings": dict(leader.attrs.get("point", leader.params)),
        "scores": dict(leader.rungs[-1].metrics),
    }


def _mlflow(place: Mapping[str, str] | None) -> dict[str, str] | None:
    if place is None:
        return None
    page = page_address(place["uri"], run_page(place["experiment_id"], place["parent_run_id"]))
    return dict(place) | {"page": page, "ui": ui_command(place["uri"])}


def _lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for people: titles and what stands beside them."""
    yield "Study", f"{told['study']}: {_state(told)}"
    if told["state"] == "running":
        yield "Doing", _doing(told)
    counts = ", ".join(f"{count} {state}" for state, count in told["trials"].items())
    if told["planned"] is not None:
        yield "Trials", f"{counts or 'none begun'}; {told['planned']} planned"
    if best := told["best"]:
        title = describe(best["label"], best["settings"])
        loss, joint = (number(best["scores"].get(name)) for name in ("L", "J"))
        place = f"rung {best['rung']}/{best['rungs']}"
        if best["rung"] < best["rungs"]:
            place += ", the furthest that any has come"
        yield "Best", f"trial {best['number']}, {title}: L {loss}, J {joint} at {place}"
        yield "Settings", json.dumps(best["settings"])
    if told["verdict"]:
        yield "Verdict", told["verdict"]
    if told["dashboard"]:
        yield "Dashboard", told["dashboard"]
    if mlflow := told["mlflow"]:
        served = scheme_of(mlflow["uri"]) in SERVERS
        yield "MLflow", mlflow["page"] + ("" if served else f", while this runs: {mlflow['ui']}")
    if told["state"] == "finished":
        yield "Result", str(Path(told["folder"]) / RESULT)
    elif told["state"] != "running":
        yield "Go on", told["resume"]


def _state(told: Mapping[str, Any]) -> str:
    since, holder = _when(told["since"]), told["holder"]
    if told["state"] == "running":
        where = f", process {holder['pid']} on {holder['host']}" if holder["host"] else ""
        return f"running since {since} ({clock(time.time() - told['since'])}){where}"
    if told["state"] == "cut off":
        return f"cut off, its process was killed; last written {since}"
    return f"{told['state']} {since}"


def _doing(told: Mapping[str, Any]) -> str:
    doing = DOING.get(told["phase"], "begins")
    if told["ends"] is not None:
        doing += f", {clock(max(0.0, told['ends'] - time.time()))} left"
    if told["whole_ends"] is not None and told["whole_ends"] > time.time():
        doing += f"; all done {_when(told['whole_ends'])}"
    return doing


def _when(seconds: float) -> str:
    """The time of day, and the day if it is another one."""
    day, now = time.localtime(seconds), time.localtime()
    today = day[:3] == now[:3]
    return time.strftime("at %H:%M" if today else "on %Y-%m-%d at %H:%M", day)


if __name__ == "__main__":
    sys.exit(main())
