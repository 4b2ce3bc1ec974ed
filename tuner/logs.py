"""Command line: what a study said, or what became of one of its trials.

python -m tuner.logs STUDY [TRIAL]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from trainables.errors import UserError
from tuner.background import OUTPUT
from tuner.command_line import answer, study_parser
from tuner.glance import Glance, glance
from tuner.hold import Holder, holder_of, is_running
from tuner.journal import FAILURE
from tuner.live import told_end, told_rung
from tuner.printed import printed_files
from tuner.ranking import trial_title
from tuner.studies import place_of
from tuner.trial_records import TrialRecord

LOOK_SECONDS = 1.0  # between looks for something new
DESCRIPTION = """\
What a study that runs in the background said; of another one, what became of its trials, as the
journal has it. With TRIAL, the course of that trial, what its process printed up to its last
checkpoint, and the traceback of every time that it crashed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    parser = study_parser("logs", DESCRIPTION)
    parser.add_argument("trial", metavar="TRIAL", nargs="?", type=int, help="its number")
    parser.add_argument(
        "--follow", action="store_true", help="go on with what is new, until the study ends"
    )
    return answer(lambda: _show(parser.parse_args(argv)))


def _show(arguments: argparse.Namespace) -> int:
    place = place_of(arguments.study, arguments.storage)
    folder = place.folder
    with ExitStack() as stack:
        new = _source(folder, arguments.trial, stack)
        while True:
            running = is_running(folder)  # first, so that its last words are read
            print(new(), end="", flush=True)
            if not (arguments.follow and running):
                return 0
            time.sleep(LOOK_SECONDS)
            place.refresh()


def _source(folder: Path, number: int | None, stack: ExitStack) -> Callable[[], str]:
    """What gives the text, and when called again what is new of it; `stack` closes it."""
    if number is not None:
        _trial(glance(folder), number)
        return _new_lines(lambda: _of_trial(glance(folder), number))
    output = folder / OUTPUT
    if _is_output_of(output, holder_of(folder)):
        return stack.enter_context(output.open(encoding="utf-8", errors="replace")).read
    print(
        f"{folder.name} does not run in the background: its output is where it was started, and "
        "this is what the journal knows.",
        file=sys.stderr,
    )
    return _new_lines(lambda: _of_all(glance(folder)))


def _is_output_of(output: Path, holder: Holder | None) -> bool:
    """Whether it is there, and no earlier session's while one runs in a terminal."""
    if not output.is_file():
        return False
    return holder is None or output.stat().st_mtime >= holder.since


def _new_lines(read: Callable[[], Iterator[str]]) -> Callable[[], str]:
    """Lines that `read` gave less often before."""
    shown: Counter[str] = Counter()

    def new() -> str:
        nonlocal shown
        now: Counter[str] = Counter()
        fresh = []
        for line in read():
            now[line] += 1
            if now[line] > shown[line]:
                fresh.append(f"{line}\n")
        shown |= now
        return "".join(fresh)

    return new


def _of_all(study: Glance) -> Iterator[str]:
    """Events of all trials, in order of time."""
    events = [
        (when, record.number, words)
        for record in study.records
        for when, words in _events(study, record)
    ]
    for when, number, words in sorted(events):
        yield f"{_stamp(when)} trial {number} {words}"


def _of_trial(study: Glance, number: int) -> Iterator[str]:
    record = _trial(study, number)
    settings = dict(record.attrs.get("point", record.params))
    yield trial_title(number, record.label, settings)
    yield f"settings: {json.dumps(settings)}"
    for when, words in _events(study, record):
        yield f"{_stamp(when)} {words}"
    for path in printed_files(study.folder, number):
        yield f"printed, as {path.relative_to(study.folder)} has it:"
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()
    crashes = (key.removeprefix(FAILURE) for key in record.attrs if key.startswith(FAILURE))
    for crash in sorted(crashes, key=int):
        yield f"crash {crash}:"
        yield from record.attrs[f"{FAILURE}{crash}"].splitlines()


def _events(study: Glance, record: TrialRecord) -> Iterator[tuple[float, str]]:
    """When what happened to a trial, as far as the journal knows when."""
    rungs = len(study.plan.rungs) if study.plan else 0
    if record.began is not None:
        yield record.began, "began"
    for rung in record.rungs:
        if rung.when is not None:
            yield rung.when, told_rung(rung.rung, rungs, rung.metrics, rung.decision)
    if record.ended is not None:
        yield record.ended, told_end(record.state, record.reason)


def _trial(study: Glance, number: int) -> TrialRecord:
    begun = [record for record in study.records if record.state != "WAITING"]
    if not begun:
        raise UserError(f"No trial of {study.folder.name!r} has begun yet.")
    for record in begun:
        if record.number == number:
            return record
    raise UserError(f"TRIAL must be one that has begun, 0 to {begun[-1].number}, got {number}.")


def _stamp(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


if __name__ == "__main__":
    sys.exit(main())
