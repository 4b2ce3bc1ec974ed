"""The same command on a cluster, as a Ray job: Ray Client would not call the search back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from cluster.job import SCHEMES, run_as_job
from cluster.session import AUTO
from trainables.addresses import is_address
from trainables.errors import UserError
from tuner.events import Events
from tuner.exit_codes import INTERRUPTED
from tuner.plugins import environment
from tuner.premises import packages
from tuner.tracking_uri import strip_credentials


def submit(arguments: argparse.Namespace, argv: Sequence[str], events: Events) -> int:
    """Run a command line on the cluster at its `--address`, and follow it -> its exit code.

    Paths are the cluster's, where they are looked at.

    Raises:
        UserError: no cluster answers, or the command would lose what it makes there.
    """
    address: str = arguments.address
    if urlsplit(address).scheme not in SCHEMES:
        raise UserError(
            "--address must be auto, host:port, ray://host:port or http://host:port, got "
            f"{address!r}."
        )
    if not (is_address(arguments.storage) or Path(arguments.storage).is_absolute()):
        raise UserError(
            "A job's working folder goes with it: --storage must be an absolute path that all "
            f"nodes share, or a bucket (s3://..., gs://...), got {arguments.storage!r}."
        )
    if any(strip_credentials(word) != word for word in argv):
        raise UserError(
            "A job's command is shown to all who see the cluster's dashboard: leave credentials "
            "out of it, and give them in the environment of the nodes."
        )
    # A job needs no terminal; and of two addresses the last one counts.
    argv = [word for word in argv if word != "--detach"]
    words = ["python", "-m", "tuner.launch", *argv, "--address", AUTO]
    try:
        with environment() as more:
            return run_as_job(
                address,
                words,
                packages(),
                partial(_show, events if arguments.json else None),
                environment=more,
                follow=not arguments.detach,
            )
    except (ConnectionError, ValueError) as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; the job goes on.\n")
        return INTERRUPTED


def _show(events: Events | None, lines: str) -> None:
    """What the job printed; its streams come as one, of which the events are JSON objects."""
    for line in lines.splitlines():
        if events is not None and line.startswith("{") and line.endswith("}"):
            events.relay(line)
        else:
            print(line, flush=True)
