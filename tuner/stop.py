"""Command line: ask a running study to stop, here or on another machine, and wait until it has.

python -m tuner.stop STUDY
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from trainables.errors import UserError
from tuner.command_line import answer, study_parser
from tuner.exit_codes import NOT_IN_TIME
from tuner.glance import glance
from tuner.hold import Holder, holder_of
from tuner.plan import clock, parse_budget
from tuner.studies import Place, place_of

PATIENCE = "5m"
LOOK_SECONDS = 0.5  # between looks whether it has stopped
DESCRIPTION = """\
Stop a running study as Ctrl-C does, and wait until it has. Nothing is lost: what goes on with it is
printed. Works from every machine that has the study's folder or bucket. To ask again is to press
Ctrl-C again: it leaves at once, and tells MLflow the rest when it goes on. Exit codes: 0 it has
stopped; 2 it is not running; 4 it has not stopped in time.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    parser = study_parser("stop", DESCRIPTION)
    parser.add_argument(
        "--timeout", default=PATIENCE, help=f"how long to wait (default: {PATIENCE})"
    )
    return answer(lambda: _stop(parser.parse_args(argv)))


def _stop(arguments: argparse.Namespace) -> int:
    timeout = parse_budget(arguments.timeout, "--timeout")
    place = place_of(arguments.study, arguments.storage)
    folder, holder = place.folder, _ask(place)
    began = time.monotonic()
    console = Console()
    console.print(f"Study {folder.name} ({holder}) was asked to stop", markup=False)
    with console.status("it stops"):
        while holder_of(folder) == holder:
            if time.monotonic() - began > timeout:
                late = f"It has not stopped within {clock(timeout)}: wait, or end {holder}."
                print(late, file=sys.stderr)
                return NOT_IN_TIME
            time.sleep(LOOK_SECONDS)
            place.refresh()
    study = glance(folder)
    took = clock(time.monotonic() - began)
    if study.state == "finished":
        print(f"It has finished meanwhile, after {took}: python -m tuner.status {folder}")
    else:
        print(f"It has stopped, after {took}; go on with:\n  {study.resume}")
    return 0


def _ask(place: Place) -> Holder:
    """Who was asked.

    Raises:
        UserError: nobody runs the study, or the request cannot be left in its folder.
    """
    folder = place.folder
    study = glance(folder)
    if study.state != "running" or study.holder is None:
        way_on = "" if study.state == "finished" else f"; go on with: {study.resume}"
        raise UserError(f"Study {folder.name!r} is not running: it is {study.state}{way_on}")
    try:
        place.ask_to_stop()
    except OSError as error:
        raise UserError(
            f"A request to stop cannot be left in {folder} ({error.strerror}): press Ctrl-C where "
            f"the study runs, {study.holder}."
        ) from error
    return study.holder


if __name__ == "__main__":
    sys.exit(main())
