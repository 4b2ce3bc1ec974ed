"""How a study opens: a request becomes a plan, which is shown. What runs it is imported after."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from trainables.tasks import Split
from tuner.journal import Journal
from tuner.machine import Speed, Training, kept_speed, measured_speed
from tuner.plan import Plan
from tuner.setting import (
    Request,
    Setting,
    look_around,
    new_plan,
    recorded_plan,
    reopened,
    shares_of,
    show,
    training_of,
)
from tuner.timings import Timings

if TYPE_CHECKING:
    from cluster.session import Session

INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells have it
BROKEN_DOWN = 3  # exit code: a full disk, or Ray died


def conduct(request: Request, began: float | None = None) -> int:
    """Do what the request says -> exit code, as `launch --help` lists them.

    Args:
        request: what a user asked for.
        began: when the command did, as `time.monotonic` has it; now if None.
    Raises:
        UserError: it cannot be met; nothing was started.
    """
    timings = Timings(time.monotonic() if began is None else began)
    if request.dry_run and request.address is None:
        with ExitStack() as stack:
            open_study(request, None, stack, timings)
        return 0
    from tuner import conductor  # and with it Ray, torch and MLflow

    timings.reached("imports")
    return conductor.conduct(request, timings)


def open_study(
    request: Request, ray: Session | None, stack: ExitStack, timings: Timings
) -> tuple[Setting, Plan, Journal | None]:
    """What is there, what will be done, and the journal of a study that goes on; shown.

    Args:
        ray: that was joined already, if any.
        stack: closes the journal.
    Raises:
        UserError: the request cannot be met.
    """
    with timings.part("data"):
        setting = look_around(request, ray)
    with timings.part("plan"):
        journal = reopened(setting) if request.resume else None
        if journal is None:
            shares = shares_of(setting)
            speed = _speed(setting, training_of(setting, shares))
            plan = new_plan(setting, shares, speed)
        else:
            stack.enter_context(journal)
            speed, plan = None, recorded_plan(journal, setting)
            setting = replace(setting, split=Split.from_dict(journal.attr("split")))
    show(plan, setting, speed)
    return setting, plan, journal


def _speed(setting: Setting, training: Training) -> Speed:
    """For a study as the machine is now; a dry run answers at once if it was measured before."""
    kept = kept_speed(training) if setting.request.dry_run else None
    return measured_speed(training) if kept is None else kept
