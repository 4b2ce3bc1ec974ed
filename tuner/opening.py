"""How a study opens: a request becomes a plan, which is shown. What runs it is imported after."""

from __future__ import annotations

import glob
import re
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from trainables.datasets import user_cache
from trainables.errors import UserError
from trainables.tasks import EPISODES, Split, large_classes, samples_wanted
from tuner.earlier import courses, kind_of
from tuner.journal import FORECAST, Journal
from tuner.last_words import told_forecast
from tuner.machine import Speed, kept_speed, measured_speed, shared_speed
from tuner.outlook import Forecast, busyness, course_of, forecast
from tuner.plan import DEFAULT_BUDGET_SECONDS, Plan, describe, make_plan, too_short
from tuner.request import Request
from tuner.resumption import recorded_plan, reopened
from tuner.setting import Setting, look_around, only_planned_on
from tuner.shares import Shares, packed, shares_of, training_of, validation_episodes
from tuner.timings import Timings

if TYPE_CHECKING:
    from cluster.session import Session

SHARED_SPEED = 0.75  # of a lone trial's speed, where every core runs one: they share caches
FEW_CLASSES = 5  # to train on; the sets of ten classes leave six
SAMPLER = "tpe"


def conduct(request: Request, began: float | None = None) -> int:
    """Do what the request says -> exit code, as `launch --help` lists them.

    Args:
        request: what a user asked for.
        began: when the command did, as `time.monotonic` has it; now if None.
    Raises:
        UserError: it cannot be met; nothing was started.
    """
    timings = Timings(time.monotonic() if began is None else began)
    if request.dry_run and request.address is None and request.bucket is None:
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
            speed = _speed(setting, shares)
            plan = new_plan(setting, shares, speed)
        else:
            stack.enter_context(journal)
            speed, plan = None, recorded_plan(journal, setting)
            setting = replace(setting, split=Split.from_dict(journal.attr("split")))
        setting = replace(setting, forecast=_forecast(setting, plan, journal, timings))
    show(plan, setting, speed)
    if request.dry_run:
        request.events.tell("plan", study=setting.study, **plan_facts(plan, setting))
    return setting, plan, journal


def _forecast(
    setting: Setting, plan: Plan, journal: Journal | None, timings: Timings
) -> Forecast | None:
    """Of a new study; the one that a study began with, if it goes on by the same budget."""
    if journal is not None:
        kept = journal.attr(FORECAST)
        other = _asks_for_more(setting) or journal.attr("asked")
        return None if kept is None or other else Forecast.from_dict(kept)
    document, request = plan.to_dict(), setting.request
    spent = 0.0 if request.dry_run else time.monotonic() - timings.began
    busy = busyness(timings.seconds.get("imports"))
    said = course_of(document, spent=spent, prepared=_nets_are_there(setting), busy=busy)
    kind = kind_of(setting, document)
    known = courses(kind, request.storage, plan.budget_seconds)
    return forecast(said, known, most=plan.most_trials)


def _asks_for_more(setting: Setting) -> bool:
    return setting.request.budget_seconds is not None or setting.request.trials is not None


def _nets_are_there(setting: Setting) -> bool:
    """Whether scoring nets of these pictures are kept; to know of which classes takes torch."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", setting.images.name)[:40]
    size = setting.images.images.shape[-1]
    return any((user_cache() / "scorers").glob(f"scorer-{glob.escape(name)}-{size}-*"))


def plan_facts(plan: Plan, setting: Setting) -> dict[str, Any]:
    """What the events hold of a study that is planned."""
    return {
        "experiment": setting.experiment.name,
        "storage": setting.request.bucket or str(setting.request.storage),
        "data": asdict(setting.data),
        "plan": plan.to_dict(),
        "forecast": None if setting.forecast is None else setting.forecast.to_dict(),
    }


def _speed(setting: Setting, shares: Shares) -> Speed:
    """For a study as the machine is now; a dry run answers at once if it was measured before, and
    so does every command whose trials share cards."""
    training = training_of(setting, shares)
    kept = kept_speed(training) if setting.request.dry_run else None
    if kept is not None:
        return kept
    measure = partial(shared_speed if training.beside > 1 else measured_speed, training)
    return setting.where_trials_run(measure, cpus=shares.cpus, gpus=shares.gpus)


def new_plan(setting: Setting, shares: Shares, speed: Speed) -> Plan:
    """What a new study will do at a training speed.

    Raises:
        UserError: `--trials` leave out settings that were asked for.
    """
    request, scale = setting.request, setting.experiment.scale
    first = len(setting.experiment.known_points)
    if (request.points or request.warm_start) and (request.trials or first) < first:
        raise UserError(
            f"--trials must be at least {first} to run the built-in settings and then those of "
            f"--point and --warm-start, got {request.trials}."
        )
    packing = packed(setting, shares.cpus, shares.gpus)
    # On a shared card it was measured with the others that share it.
    shared = SHARED_SPEED if packing.slots > 1 and not 0 < shares.gpus < 1 else 1.0
    split = setting.split
    classes = len(split.validation)
    return make_plan(
        scale=scale,
        budget_seconds=request.budget_seconds or DEFAULT_BUDGET_SECONDS[scale],
        trials=request.trials,
        validation_episodes=validation_episodes(setting),
        validation_classes=classes,
        test_episodes=max(1, EPISODES // len(split.test)) * len(split.test),
        large_classes=large_classes(setting.images),
        slots=packing.slots,
        threads=packing.threads,
        cpus_per_trial=shares.cpus,
        gpus_per_trial=shares.gpus,
        device=shares.device,
        seed=request.seed,
        samples=samples_wanted(setting.images),
        flops_per_second=speed.flops_per_second * shared,
        source_seconds=speed.source_seconds / shared,
        sampler=request.sampler or SAMPLER,
        objectives=request.objectives or ("L",),
        card=shares.card,
        fast_gpu=shares.gpus > 0 and request.fast_gpu,
    )


def show(plan: Plan, setting: Setting, speed: Speed | None) -> None:
    """Print what will run; `speed` is what it was planned by, if it was planned now."""
    images, split = setting.images, setting.split
    experiment = setting.experiment
    pictures = experiment.pictures if setting.title == experiment.name else images.name
    setting.say(f"Study      {setting.study}: {pictures} from 4 pictures, {experiment.method}")
    setting.say(
        f"Data       {images.name} from {setting.data.source}: {len(images.labels):,} pictures; "
        f"{len(split.train)} classes to train on, {len(split.validation)} to validate, "
        f"{len(split.test)} to test"
    )
    if only_planned_on(images, setting.request):
        setting.say(
            f"Download   {setting.experiment.data} is not here yet: a run downloads it first (or, "
            f"without network, runs on the stand-in {images.name}, as this plan does)"
        )
    elif images.stand_in:
        setting.warn(
            f"STAND-IN   {images.name} is embedded and stands in for {setting.experiment.data}: "
            "its scores say nothing about the real set"
        )
    if len(split.train) < FEW_CLASSES:
        setting.warn(
            f"Caution    scores of so few classes say little: {len(split.train)} to train on, "
            f"better are {FEW_CLASSES} or more"
        )
    for line in describe(plan, setting.nodes, grows=setting.grows):
        setting.say(line)
    for line in too_short(plan):
        setting.warn(line)
    if setting.forecast is not None:
        setting.say(told_forecast(setting.forecast))
    if speed is not None and setting.request.dry_run:
        anew = speed.earlier and not 0 < plan.gpus_per_trial < 1
        run = "; a run measures anew" if anew else ""
        setting.say(f"Speed      of this machine, {speed.told}{run}")
    if setting.request.points or setting.request.warm_start:
        labels = [point.label for point in setting.experiment.known_points]
        setting.say(f"First      {'; '.join(labels)}")
