"""From a request to what is known before anything runs: data, split, study name, plan."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from cluster.resources import Card, Packing, pack, share_of_card
from trainables.datasets import (
    PUBLISHED,
    DataMissingError,
    data_root_in_use,
    load,
    load_folder,
    load_or_stand_in,
    user_cache,
)
from trainables.errors import UserError
from trainables.image_set import ImageSet
from trainables.tasks import EPISODES, Split, large_classes, samples_wanted, split_classes
from tuner.compatible import require_same_space, require_same_versions
from tuner.experiments import Experiment, Scale, find_experiment
from tuner.journal import Journal, is_begun, is_free
from tuner.machine import Speed, Training, cpus, gpus
from tuner.plan import DEFAULT_BUDGET_SECONDS, Plan, describe, episode_counts, make_plan
from tuner.result import Data
from tuner.warm_start import known_settings

if TYPE_CHECKING:
    from cluster.session import Session

SHARED_SPEED = 0.75  # of a lone trial's speed, where every core runs one: they share caches
SIZE = 32  # pixels a side, unless asked for otherwise
LONGEST_TITLE = 94  # a study's name has at most 100 letters, its number included
SAMPLER = "tpe"
FEW_CLASSES = 5  # to train on; the sets of ten classes leave six
RESULT = "result.json"  # of a finished study, in its folder
SPLIT_SEED = 0  # studies of one data set share classes, so that their scores can be compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asked for; None leaves a choice to the plan. See `launch --help`."""

    experiment: str
    trials: int | None
    budget_seconds: float | None
    scale: Literal["auto", "cpu", "paper"]
    seed: int
    data_root: Path | None
    data: Path | None
    size: int
    target: tuple[str, ...] | None
    base: tuple[str, ...] | None
    storage: Path
    study: str | None
    tracking_uri: str | None
    address: str | None
    cpus_per_trial: float | None
    gpus_per_trial: float | None
    dry_run: bool
    resume: bool
    timings: bool = False
    sampler: str | None = None
    objectives: tuple[str, ...] | None = None
    points: tuple[str, ...] = ()
    warm_start: tuple[str, ...] = ()
    fast_gpu: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known before anything runs."""

    request: Request
    experiment: Experiment
    images: ImageSet
    data: Data
    split: Split
    title: str  # the experiment's name, changed where it runs on other data; MLflow's experiment
    study: str
    cpus: float
    gpus: float
    console: Console

    @property
    def folder(self) -> Path:
        return self.request.storage / self.study

    def say(self, line: str) -> None:
        _say(self.console, line)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def look_around(request: Request, ray: Session | None) -> Setting:
    """The machine or cluster, the data and its split, and the name of the study."""
    gpus_there = ray.gpus if ray else gpus()
    scale: Scale = request.scale if request.scale != "auto" else "paper" if gpus_there else "cpu"
    experiment = find_experiment(request.experiment)(scale)
    console = Console()
    images, data = _open_data(request, experiment, lambda line: _say(console, line))
    size, channels = images.images.shape[-1], images.images.shape[1]
    title = _title(experiment, images, request)
    experiment = replace(experiment, base=replace(experiment.base, size=size, channels=channels))
    more = known_settings(
        request.points,
        request.warm_start,
        storage=request.storage,
        tracking_uri=request.tracking_uri,
        experiment=experiment,
    )
    return Setting(
        request=request,
        experiment=replace(experiment, known_points=(*experiment.known_points, *more)),
        images=images,
        data=data,
        split=split_classes(images, base=request.base, target=request.target, seed=SPLIT_SEED),
        title=title,
        study=_study_name(request, title),
        cpus=ray.cpus if ray else cpus(),
        gpus=gpus_there,
        console=console,
    )


def _open_data(
    request: Request, experiment: Experiment, say: Callable[[str], None]
) -> tuple[ImageSet, Data]:
    cache, size = user_cache() / "images", request.size
    if request.data is not None and not is_name(request.data):
        images = load_folder(request.data, cache_dir=cache, size=size, report=say)
        source = str(request.data.absolute())
    elif request.data is not None:
        try:
            images = load(
                str(request.data),
                data_root=request.data_root,
                cache_dir=cache,
                size=size,
                download=not request.dry_run,
                report=say,
            )
        except DataMissingError as missing:
            if not request.dry_run:
                raise
            raise UserError(
                f"{request.data} is not here yet: a run downloads it first, and a dry run "
                "downloads nothing; leave --dry-run out, or name a --data-root that holds it."
            ) from missing
        source = str(data_root_in_use(request.data_root))
    else:
        images = load_or_stand_in(
            experiment.data,
            data_root=request.data_root,
            cache_dir=cache,
            size=size,
            download=not request.dry_run,  # a dry run starts nothing
            report=say,
        )
        source = "embedded" if images.stand_in else str(data_root_in_use(request.data_root))
    return images, Data(
        name=images.name,
        stand_in=images.stand_in,
        fingerprint=images.fingerprint,
        source=source,
    )


def is_name(data: Path) -> bool:
    """Whether `--data` names a published set, and no folder."""
    return str(data) in PUBLISHED and not os.path.isdir(data)


def _only_planned_on(images: ImageSet, request: Request) -> bool:
    """Whether a stand-in only plans for a set that the run itself would download."""
    return images.stand_in and request.dry_run and not request.resume


def _title(experiment: Experiment, images: ImageSet, request: Request) -> str:
    """The experiment's name, changed where it does not run on the data it is named after."""
    title = experiment.name
    if images.stand_in and not _only_planned_on(images, request):
        title += f"-standin-{images.name}"
    elif request.data is not None:
        # The name of a user's folder becomes one of ours, and not the number of a study.
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", images.name)
        title += f"-{name}-folder" if name.rpartition("-")[2].isdecimal() else f"-{name}"
    if request.size != SIZE:
        title += f"-{request.size}px"
    chosen = [name for classes in (request.target, request.base) for name in classes or ()]
    if chosen:
        title += f"-classes-{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:8]}"
    if len(title) > LONGEST_TITLE:
        title = f"{title[: LONGEST_TITLE - 9]}-{hashlib.sha256(title.encode()).hexdigest()[:8]}"
    return title


def _study_name(request: Request, title: str) -> str:
    """The study asked for; else the newest of this title to resume, unfinished ones before others,
    or the next free name. One that was cut off before its plan has not begun, and its name is
    free."""
    if request.study is not None:
        if not request.resume and not is_free(request.storage / request.study):
            raise UserError(
                f"Study {request.study!r} exists: add --resume to go on with it, or choose "
                "another --study."
            )
        return request.study
    there = sorted(
        (
            path.name
            for path in request.storage.glob(f"{title}*")
            if path.name == title or path.name.removeprefix(f"{title}-").isdecimal()
        ),
        key=lambda name: (len(name), name),
    )
    if request.resume:
        begun = [name for name in there if is_begun(request.storage / name)]
        if not begun:
            raise UserError(f"There is no study of {title!r} in {request.storage} to resume.")
        unfinished = [name for name in begun if not (request.storage / name / RESULT).is_file()]
        return (unfinished or begun)[-1]
    taken = [name for name in there if not is_free(request.storage / name)]
    if not taken:
        return title
    last = taken[-1].removeprefix(title).removeprefix("-") or "1"
    return f"{title}-{int(last) + 1}"


def reopened(setting: Setting) -> Journal | None:
    """The journal of the study to resume; None if that was cut off before its plan, and begins.

    Raises:
        UserError: there is none, or another process holds it.
    """
    request = setting.request
    if is_begun(setting.folder):
        return Journal(request.storage, setting.study)
    if not (setting.folder.exists() and is_free(setting.folder)):
        raise UserError(f"There is no study {setting.study!r} in {request.storage} to resume.")
    setting.say(f"Study {setting.study!r} was cut off before it had a plan: it begins anew")
    return None


def is_finished(setting: Setting) -> bool:
    """Whether the study to resume has its result, and no more of it was asked for."""
    more = setting.request.budget_seconds is not None or setting.request.trials is not None
    return (setting.folder / RESULT).is_file() and not more


def search_on(journal: Journal, setting: Setting) -> None:
    """Note what `--budget` and `--trials` of a resume ask for, so that the next one needs neither.

    A budget given anew is meant anew, and trials given to a finished study need time as well. The
    result is put aside, last, since without one the study is unfinished.
    """
    request, result = setting.request, setting.folder / RESULT
    asked = {"budget_seconds": request.budget_seconds, "trials": request.trials}
    given = {name: value for name, value in asked.items() if value is not None}
    if given:
        journal.set_attr("asked", journal.attr("asked", {}) | given)
    if result.is_file() or request.budget_seconds is not None:
        journal.set_attr("search_seconds", 0.0)
    if result.is_file():
        places = (setting.folder / f"result.{number}.json" for number in count(1))
        result.rename(next(place for place in places if not place.exists()))


def recorded_plan(journal: Journal, setting: Setting) -> Plan:
    """The plan a study began with, with what `--budget` and `--trials` change of it, now or in an
    earlier resume."""
    recorded, began = journal.attr("plan"), journal.attr("data")
    if (name := journal.attr("experiment", setting.experiment.name)) != setting.experiment.name:
        raise UserError(
            f"Study {setting.study!r} is one of {name}, not of {setting.experiment.name}: name "
            "that experiment, or another study."
        )
    if began["fingerprint"] != setting.images.fingerprint:
        raise UserError(
            f"Study {setting.study!r} runs on {began['name']!r} from {began['source']}, and the "
            f"data found now is another ({setting.images.name!r} from {setting.data.source}): "
            "give the same --data-root, --data and --size."
        )
    if not is_finished(setting) and (others := require_same_versions(journal)):
        setting.say(f"Versions   {others}: scores may differ in their last digits")
    plan = Plan.from_dict(recorded)
    if plan.scale != setting.experiment.scale:
        raise UserError(
            f"Study {setting.study!r} is of {plan.scale} scale, and this would be of "
            f"{setting.experiment.scale} scale: add --scale {plan.scale}."
        )
    require_same_space(journal, setting.experiment.space, setting.experiment.base)
    _packed(setting, plan.cpus_per_trial, plan.gpus_per_trial)  # it must still fit
    request = setting.request
    _require_same_search(plan, request, setting.study)
    earlier = journal.attr("asked", {})
    if (budget := request.budget_seconds or earlier.get("budget_seconds")) is not None:
        plan = plan.with_budget(budget)
    if (trials := request.trials or earlier.get("trials")) is not None:
        plan = replace(plan, trials=trials, most_trials=trials)
    return plan


def _require_same_search(plan: Plan, request: Request, study: str) -> None:
    """A study keeps its sampler and its objectives: its trials were chosen by them."""
    for option, asked, recorded in (
        ("--sampler", request.sampler, plan.sampler),
        ("--objectives", request.objectives, plan.objectives),
    ):
        if asked is not None and asked != recorded:
            told = recorded if isinstance(recorded, str) else ",".join(recorded)
            raise UserError(f"Study {study!r} began with {option} {told}: leave {option} out.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What one trial gets.

    Attributes:
        cpus: cores.
        gpus: cards, or a share of one.
        card: what was measured for that; None if nothing was.
    """

    cpus: float
    gpus: float
    card: Card | None = None

    @property
    def device(self) -> str:
        """Of torch."""
        return "cuda" if self.gpus else "cpu"


def shares_of(setting: Setting) -> Shares:
    """What the trials of a new study get; where nobody says how many GPUs, these are tried."""
    request = setting.request
    cpus_each = 1.0 if request.cpus_per_trial is None else request.cpus_per_trial
    if request.gpus_per_trial is not None:
        return Shares(cpus=cpus_each, gpus=request.gpus_per_trial)
    gpus_each, card = _gpus_measured(setting, cpus_each)
    return Shares(cpus=cpus_each, gpus=gpus_each, card=card)


def training_of(setting: Setting, shares: Shares) -> Training:
    """What a new study trains, by which its plan is measured."""
    split = setting.split
    packing = _packed(setting, shares.cpus, shares.gpus)
    return Training(
        pipeline=setting.experiment.pipeline,
        config=asdict(setting.experiment.base),
        classes=len(split.train) + len(split.validation),
        device=shares.device,
        threads=packing.threads,
        fast=shares.gpus > 0 and setting.request.fast_gpu,
        beside=min(packing.slots, math.floor(1 / shares.gpus)) if 0 < shares.gpus < 1 else 1,
    )


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
    packing = _packed(setting, shares.cpus, shares.gpus)
    # On a shared card it was measured with the others that share it.
    shared = SHARED_SPEED if packing.slots > 1 and not 0 < shares.gpus < 1 else 1.0
    split = setting.split
    classes = len(split.validation)
    return make_plan(
        scale=scale,
        budget_seconds=request.budget_seconds or DEFAULT_BUDGET_SECONDS[scale],
        trials=request.trials,
        validation_episodes=_validation_episodes(setting),
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


def _validation_episodes(setting: Setting) -> int:
    classes = len(setting.split.validation)
    return max(1, EPISODES // classes) * classes


def _gpus_measured(setting: Setting, cpus_each: float) -> tuple[float, Card | None]:
    """GPUs of a trial, where nobody said how many: none at the scale of CPUs, else the share of a
    card that its largest trials need; and what was measured for that."""
    scale = setting.experiment.scale
    if scale != "paper" or not setting.gpus:
        return 0.0, None
    from tuner.cards import probed  # and with it torch

    counts = episode_counts(_validation_episodes(setting), len(setting.split.validation))
    card = probed(
        setting.experiment,
        episodes=max(counts),
        samples=samples_wanted(setting.images),
        fast=setting.request.fast_gpu,
    )
    if card is None:
        return 1.0, None
    # More than there are CPUs for would leave a part of the card to nobody.
    most = math.ceil(setting.cpus / cpus_each / setting.gpus)
    return share_of_card(card.trials(max(1, most))), card


def _packed(setting: Setting, cpus_each: float, gpus_each: float) -> Packing:
    try:
        return pack(
            cpus=setting.cpus,
            gpus=setting.gpus,
            cpus_per_trial=cpus_each,
            gpus_per_trial=gpus_each,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


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
    if _only_planned_on(images, setting.request):
        setting.say(
            f"Download   {setting.experiment.data} is not here yet: a run downloads it first (or, "
            f"without network, runs on the stand-in {images.name}, as this plan does)"
        )
    elif images.stand_in:
        setting.say(
            f"STAND-IN   {images.name} is embedded and stands in for {setting.experiment.data}: "
            "its scores say nothing about the real set"
        )
    if len(split.train) < FEW_CLASSES:
        setting.say(
            f"Caution    scores of so few classes say little: {len(split.train)} to train on, "
            f"better are {FEW_CLASSES} or more"
        )
    for line in describe(plan, cpus=setting.cpus, gpus=setting.gpus):
        setting.say(line)
    if speed is not None and setting.request.dry_run:
        run = "; a run measures anew" if speed.earlier else ""
        setting.say(f"Speed      of this machine, {speed.told}{run}")
    if setting.request.points or setting.request.warm_start:
        labels = [point.label for point in setting.experiment.known_points]
        setting.say(f"First      {'; '.join(labels)}")
