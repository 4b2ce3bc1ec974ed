"""What the commands share: bad input is one line, and an exit code says how it went."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NoReturn

from trainables.errors import UserError
from tuner.exit_codes import CANNOT_BE_MET, INTERRUPTED

STORAGE = "runs"  # of all studies, unless another is named


class OneLineParser(argparse.ArgumentParser):
    """Raises what argparse would print with its usage, and takes options by their whole names
    alone: which there are is asked of words before they are parsed, and of commands that are kept.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """One line, as for every other request that cannot be met."""
        raise UserError(f"{message}; see --help.")


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    """`--plugin FILE`, for `plugins.load`."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file of your own that registers experiments, pipelines, generators or data "
        "sets (repeatable); those of installed packages need no naming",
    )


def options_of(command: str, *names: str) -> list[str]:
    """The words by which a command gives these options, each with its value."""
    words = pairwise(words_of(command))
    return [word for pair in words if pair[0] in names for word in pair]


def words_of(command: str) -> list[str]:
    """Of a command that a result tells; none where another program wrote what no shell takes."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def add_storage_option(parser: argparse.ArgumentParser) -> None:
    """`--storage PLACE`, for `storage.parse_storage`."""
    parser.add_argument(
        "--storage",
        default=STORAGE,
        help=f"of all studies: folder, s3://..., gs://... (default: {STORAGE})",
    )


def study_parser(command: str, description: str) -> OneLineParser:
    """Options of a command about a study that is there: which one, and where."""
    parser = OneLineParser(prog=f"python -m tuner.{command}", description=description)
    parser.add_argument("study", metavar="STUDY", help="its name, or its folder")
    add_storage_option(parser)
    return parser


def answer(work: Callable[[], int]) -> int:
    """Do it -> exit code."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_BE_MET
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read it has seen enough; nor can what is left be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
