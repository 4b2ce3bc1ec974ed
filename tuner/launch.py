"""Command line: an experiment's name becomes a plan, a study, and a result.

python -m tuner.launch reptile_omniglot
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from trainables.addresses import is_address
from trainables.errors import UserError
from tuner.background import is_background, run_in_background
from tuner.command_line import OneLineParser, add_plugin_option
from tuner.events import SILENT, Events, events_on_stdout
from tuner.exit_codes import CANNOT_BE_MET, INTERRUPTED
from tuner.experiment_names import ALL, NAMES
from tuner.launch_options import build_parser, parse_request

if TYPE_CHECKING:
    from tuner.request import Request

FAULT = 1  # Python's exit code after a traceback


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    began = time.monotonic()
    words = _joined(sys.argv[1:] if argv is None else argv)
    with _events(words) as events:
        return _answer(words, began, events)


@contextmanager
def _events(words: Sequence[str]) -> Iterator[Events]:
    """Who is told what happens: on stdout, if that was asked for."""
    if "--json" not in words:
        yield SILENT
    elif "--detach" in words and not is_background():
        yield Events(sys.stdout.fileno())  # of bad input; the other process tells the rest
    else:
        with events_on_stdout() as events:
            yield events


def _answer(words: list[str], began: float, events: Events) -> int:
    """Do what the words say -> exit code; what cannot be done is one line, and one event."""
    try:
        arguments = build_parser(_experiments_to_list(words)).parse_args(words)
        _load_plugins(arguments)
        if arguments.tracking_uri is not None:
            from tuner.tracking_uri import require_no_password

            require_no_password(arguments.tracking_uri)
        if arguments.replay is not None:
            return _replay(arguments)
        if is_address(arguments.address or ""):
            from tuner.submission import submit

            return submit(arguments, words, events)
        if arguments.detach and not is_background():
            return run_in_background(words)
        return _conduct(replace(parse_request(arguments), events=events), began)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        events.tell("error", error=str(error), exit_code=CANNOT_BE_MET)
        return CANNOT_BE_MET
    except KeyboardInterrupt:
        print("Interrupted before any trial began: run the same command again.", file=sys.stderr)
        events.tell("interrupted", exit_code=INTERRUPTED)
        return INTERRUPTED
    except Exception as error:  # one of ours, of which Python tells on
        events.tell("error", error=f"{type(error).__name__}: {error}", exit_code=FAULT)
        raise


def _conduct(request: Request, began: float) -> int:
    if request.experiment == ALL:
        from tuner.every import conduct_all

        return conduct_all(request, NAMES)
    from tuner.opening import conduct

    return conduct(request, began)


def _experiments_to_list(words: Sequence[str]) -> tuple[str, ...]:
    """Those of plugins, where they are asked for: others need not be imported first."""
    if not {"-h", "--help"} & set(words):
        return ()
    from tuner import plugins

    parser = OneLineParser(add_help=False)
    add_plugin_option(parser)
    plugins.load(parser.parse_known_args(words)[0].plugin)
    plugins.load_installed()
    return plugins.experiments()


def _load_plugins(arguments: argparse.Namespace) -> None:
    """Those that are named, and the installed ones where a name is none of ours."""
    from tuner import plugins

    plugins.load(arguments.plugin)
    experiment, data = arguments.experiment, arguments.data
    if experiment not in (*NAMES, *plugins.experiments(), ALL, None) or (
        data is not None and not os.path.exists(data)  # a path's own method may raise
    ):
        plugins.load_installed()


def _replay(arguments: argparse.Namespace) -> int:
    more = (arguments.experiment, arguments.detach, arguments.json, arguments.on_finish)
    if any(more):
        raise UserError(
            "--replay takes everything from its run, and ends soon: leave the experiment's name, "
            "--detach, --json and --on-finish out."
        )
    from rich.console import Console

    from tuner.replay import replay_trial
    from tuner.storage import parse_storage

    storage, _address = parse_storage(arguments.storage)
    return replay_trial(arguments.replay, arguments.tracking_uri, storage, Console())


def _joined(argv: Sequence[str]) -> list[str]:
    """`--budget -5m` as `--budget=-5m`: argparse would take a negative time for an option."""
    joined: list[str] = []
    for word in argv:
        if re.match(r"-\d", word) and joined and joined[-1].startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


if __name__ == "__main__":
    sys.exit(main())
