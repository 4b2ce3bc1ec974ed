"""From a request to what is known before anything is planned: hardware, data, split, name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from cluster.resources import Node
from trainables.added_data import ADDED
from trainables.addresses import below
from trainables.datasets import (
    DataMissingError,
    data_root_in_use,
    load,
    load_folder,
    load_or_stand_in,
    user_cache,
)
from trainables.errors import UserError
from trainables.image_set import ImageSet
from trainables.tasks import Split, split_classes
from tuner.experiments import Experiment, Scale, find_experiment
from tuner.journal_file import is_begun, is_free
from tuner.machine import cpus, gpus
from tuner.outlook import Forecast
from tuner.request import SIZE, Request, is_name
from tuner.result import Data
from tuner.warm_start import known_settings

if TYPE_CHECKING:
    from cluster.session import Session

T = TypeVar("T")
LONGEST_TITLE = 94  # a study's name has at most 100 letters, its number included
RESULT = "result.json"  # of a finished study, in its folder
REPORT, REPORT_TWIN = "report.html", "report.md"  # of a study, in its folder
SPLIT_SEED = 0  # studies of one data set share classes, so that their scores can be compared


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
    nodes: tuple[Node, ...]
    console: Console
    ray: Session | None = None  # joined already
    forecast: Forecast | None = None  # of what it takes, once there is a plan

    @property
    def cpus(self) -> float:
        """Cores of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """Cards of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def grows(self) -> bool:
        """Whether more nodes may come for trials that wait."""
        return self.ray is not None and self.ray.grows

    @property
    def folder(self) -> Path:
        return self.request.storage / self.study

    @property
    def bucket(self) -> str | None:
        """The study's own address, where the storage is in a bucket."""
        root = self.request.bucket
        return None if root is None else below(root, self.study)

    def say(self, line: str) -> None:
        _say(self.console, line)

    def warn(self, line: str) -> None:
        """Say it even to those who want to hear nothing else."""
        _say(Console(stderr=True) if self.console.quiet else self.console, line)

    def tell(self, event: str, **facts: Any) -> None:
        """Tell an event of this study to scripts that listen."""
        self.request.events.tell(event, study=self.study, **facts)

    def where_trials_run(self, work: Callable[[], T], *, cpus: float, gpus: float) -> T:
        """What `work` returns on a node that has room for a trial: not the head of a cluster, whose
        hardware may be another, or none."""
        return work() if self.ray is None else self.ray.run(work, cpus=cpus, gpus=gpus)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def look_around(request: Request, ray: Session | None) -> Setting:
    """The machine or cluster, the data and its split, and the name of the study."""
    nodes = ray.nodes if ray else (Node(cpus=cpus(), gpus=gpus()),)
    automatic: Scale = "paper" if any(node.gpus for node in nodes) else "cpu"
    scale: Scale = automatic if request.scale == "auto" else request.scale
    experiment = find_experiment(request.experiment)(scale)
    console = Console(quiet=request.quiet)
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
        nodes=nodes,
        console=console,
        ray=ray,
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
        source = _source(images, request)
    else:
        images = load_or_stand_in(
            experiment.data,
            data_root=request.data_root,
            cache_dir=cache,
            size=size,
            download=not request.dry_run,  # a dry run starts nothing
            report=say,
        )
        source = "embedded" if images.stand_in else _source(images, request)
    return images, Data(
        name=images.name,
        stand_in=images.stand_in,
        fingerprint=images.fingerprint,
        source=source,
    )


def _source(images: ImageSet, request: Request) -> str:
    """Where a named set was found."""
    if images.name in ADDED:
        return "a plugin"
    return str(data_root_in_use(request.data_root))


def _title(experiment: Experiment, images: ImageSet, request: Request) -> str:
    """The experiment's name, changed where it does not run on the data it is named after."""
    title = experiment.name
    if images.stand_in and not only_planned_on(images, request):
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


def only_planned_on(images: ImageSet, request: Request) -> bool:
    """Whether a stand-in only plans for a set that the run itself would download."""
    return images.stand_in and request.dry_run and not request.resume
