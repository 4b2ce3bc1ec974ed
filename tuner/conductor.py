"""From a request to a result: data, plan, tracking, search, test, and what the user is told."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.text import Text

from cluster.resources import pack
from cluster.session import Session, session
from trainables.datasets import data_root_in_use, load_folder, load_or_stand_in, user_cache
from trainables.errors import UserError
from trainables.evaluation import EPISODES, Scorer, null_baselines, prepare_scorer
from trainables.image_set import ImageSet
from trainables.pipeline import StudyContext, load_pipeline
from trainables.tasks import Split, split_classes, split_record
from tuner.experiments import Experiment, Scale, find_experiment
from tuner.finals import Finals, save_champion
from tuner.journal import Journal
from tuner.live import LiveTable
from tuner.plan import DEFAULT_BUDGET_SECONDS, Plan, describe, make_plan
from tuner.ranking import print_ranking
from tuner.result import Data, git_commit, versions
from tuner.study import StudyRun, run_study
from tuner.summary import Facts, summarise
from tuner.tracking import Tracker, provenance_tags

INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells have it
CALIBRATION_SECONDS = 2.0
SHARED_SPEED = 0.75  # of a lone trial's speed, where every core runs one: they share caches
QUIET_SECONDS = 15.0  # between lines of progress that no terminal can overwrite
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
    storage: Path
    study: str | None
    tracking_uri: str | None
    address: str | None
    cpus_per_trial: float | None
    gpus_per_trial: float | None
    dry_run: bool
    resume: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known before anything runs."""

    request: Request
    experiment: Experiment
    images: ImageSet
    data: Data
    split: Split
    study: str
    cpus: float
    gpus: float
    console: Console

    @property
    def folder(self) -> Path:
        return self.request.storage / self.study

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def conduct(request: Request) -> int:
    """Do what the request says -> exit code: 0 done, 1 nothing succeeded, 130 interrupted.

    Raises:
        UserError: it cannot be met; nothing was started.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        ray = _enter(stack, request.address) if request.address is not None else None
        setting = _setting(request, ray)
        journal = stack.enter_context(_reopened(setting)) if request.resume else None
        plan = _recorded_plan(journal, setting) if journal else _new_plan(setting)
        _show(plan, setting)
        if request.dry_run:
            return 0
        return _Study(setting, plan, began).run(stack, ray, journal)


def _enter(stack: ExitStack, address: str | None) -> Session:
    try:
        return stack.enter_context(session(address))
    except (ConnectionError, ValueError) as error:
        raise UserError(str(error)) from error


def _setting(request: Request, ray: Session | None) -> Setting:
    cpus = ray.cpus if ray else float(len(os.sched_getaffinity(0)))
    gpus = ray.gpus if ray else float(torch.cuda.device_count())
    scale: Scale = request.scale if request.scale != "auto" else "paper" if gpus else "cpu"
    experiment = find_experiment(request.experiment)(scale)
    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    images, data = _open_data(request, experiment, say)
    size, channels = images.images.shape[-1], images.images.shape[1]
    return Setting(
        request=request,
        experiment=replace(experiment, base=replace(experiment.base, size=size, channels=channels)),
        images=images,
        data=data,
        split=split_classes(images, seed=SPLIT_SEED),
        study=_study_name(request, _title(experiment, images, request)),
        cpus=cpus,
        gpus=gpus,
        console=console,
    )


def _open_data(request: Request, experiment: Experiment, say: Any) -> tuple[ImageSet, Data]:
    cache = user_cache() / "images"
    if request.data is not None:
        images = load_folder(request.data, cache_dir=cache, report=say)
        source = str(request.data.absolute())
    else:
        images = load_or_stand_in(
            experiment.data,
            data_root=request.data_root,
            cache_dir=cache,
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


def _title(experiment: Experiment, images: ImageSet, request: Request) -> str:
    """The experiment's name, changed where it does not run on the data it is named after."""
    if images.stand_in:
        return f"{experiment.name}-standin-{images.name}"
    if request.data is not None:
        return f"{experiment.name}-{images.name}"
    return experiment.name


def _study_name(request: Request, title: str) -> str:
    """The study asked for; else the newest of this title to resume, or the next free name."""
    taken = sorted(
        (
            path.name
            for path in request.storage.glob(f"{title}*")
            if path.name == title or path.name.removeprefix(f"{title}-").isdecimal()
        ),
        key=lambda name: (len(name), name),
    )
    if request.study is not None:
        if not request.resume and (request.storage / request.study).exists():
            raise UserError(
                f"Study {request.study!r} exists: add --resume to go on with it, or choose "
                "another --study."
            )
        return request.study
    if request.resume:
        if not taken:
            raise UserError(f"There is no study of {title!r} in {request.storage} to resume.")
        return taken[-1]
    if not taken:
        return title
    last = taken[-1].removeprefix(title).removeprefix("-") or "1"
    return f"{title}-{int(last) + 1}"


def _reopened(setting: Setting) -> Journal:
    if not (setting.folder / "journal.log").is_file():
        raise UserError(
            f"There is no study {setting.study!r} in {setting.request.storage} to resume."
        )
    return Journal(setting.request.storage, setting.study)


def _recorded_plan(journal: Journal, setting: Setting) -> Plan:
    """The plan a study began with, with what `--budget` and `--trials` add to it."""
    recorded, began = journal.attr("plan"), journal.attr("data")
    if recorded is None or began is None:
        raise UserError(
            f"Study {setting.study!r} stopped before it began: start it again without --resume."
        )
    if began["fingerprint"] != setting.images.fingerprint:
        raise UserError(
            f"Study {setting.study!r} runs on {began['name']!r} from {began['source']}, and the "
            f"data found now is another ({setting.images.name!r} from {setting.data.source}): "
            "give the same --data-root or --data."
        )
    plan = Plan.from_dict(recorded)
    request = setting.request
    pack(
        cpus=setting.cpus,
        gpus=setting.gpus,
        cpus_per_trial=plan.cpus_per_trial,
        gpus_per_trial=plan.gpus_per_trial,
    )
    return replace(
        plan,
        trials=request.trials or plan.trials,
        most_trials=request.trials or plan.most_trials,
        budget_seconds=request.budget_seconds or plan.budget_seconds,
    )


def _new_plan(setting: Setting) -> Plan:
    request, scale = setting.request, setting.experiment.scale
    gpus_each = request.gpus_per_trial
    if gpus_each is None:
        gpus_each = 1.0 if scale == "paper" and setting.gpus else 0.0
    try:
        packing = pack(
            cpus=setting.cpus,
            gpus=setting.gpus,
            cpus_per_trial=request.cpus_per_trial or 1.0,
            gpus_per_trial=gpus_each,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    device = "cuda" if gpus_each else "cpu"
    torch.set_num_threads(packing.threads)
    speed = load_pipeline(setting.experiment.pipeline).training_speed(
        asdict(setting.experiment.base), device, CALIBRATION_SECONDS
    )
    return make_plan(
        scale=scale,
        budget_seconds=request.budget_seconds or DEFAULT_BUDGET_SECONDS[scale],
        trials=request.trials,
        validation_episodes=max(EPISODES, len(setting.split.validation)),
        slots=packing.slots,
        threads=packing.threads,
        cpus_per_trial=request.cpus_per_trial or 1.0,
        gpus_per_trial=gpus_each,
        device=device,
        seed=request.seed,
        samples=setting.experiment.samples,
        flops_per_second=speed * (SHARED_SPEED if packing.slots > 1 else 1.0),
    )


def _show(plan: Plan, setting: Setting) -> None:
    images, split = setting.images, setting.split
    setting.say(f"Study      {setting.study}: {setting.experiment.summary}")
    setting.say(
        f"Data       {images.name} from {setting.data.source}: {len(images.labels):,} pictures; "
        f"{len(split.train)} classes to train on, {len(split.validation)} to validate, "
        f"{len(split.test)} to test"
    )
    if images.stand_in:
        setting.say(
            f"STAND-IN   {images.name} is embedded and stands in for {setting.experiment.data}: "
            "its scores say nothing about the real set"
        )
    for line in describe(plan, cpus=setting.cpus, gpus=setting.gpus):
        setting.say(line)


class _Study:
    """One study from its plan to its end."""

    def __init__(self, setting: Setting, plan: Plan, began: float) -> None:
        self.setting, self.plan, self.began = setting, plan, began
        self.timings: dict[str, float] = {"plan": time.monotonic() - began}

    def run(self, stack: ExitStack, ray: Session | None, journal: Journal | None) -> int:
        setting = self.setting
        parent = (journal.attr("mlflow") or {}).get("parent_run_id") if journal else None
        tracker = stack.enter_context(self._tracker(parent))
        if journal is None:
            journal = stack.enter_context(Journal(setting.request.storage, setting.study))
            self._record(journal, tracker)
        self._journal = journal
        self._runs = dict(journal.attr("mlflow_runs", {}))
        self._replay(tracker)
        try:
            context = self._prepare()
            started = time.monotonic()
            if ray is None:
                ray = _enter(stack, None)
            self.timings["ray"] = time.monotonic() - started
            run = self._search(context, tracker)
            if run.interrupted:
                return self._interrupted()
            return self._finish(run, context, tracker, ray)
        except KeyboardInterrupt:
            return self._interrupted()

    def _tracker(self, parent: str | None) -> Tracker:
        setting = self.setting
        return Tracker(
            setting.request.tracking_uri,
            storage=setting.request.storage,
            experiment=setting.study.rstrip("0123456789").rstrip("-"),
            study=setting.study,
            plan=self.plan.to_dict(),
            tags=provenance_tags(
                seed=self.plan.seed, data=setting.data, versions=versions(), commit=git_commit()
            ),
            remember=self._remember,
            report=setting.say,
            parent_run_id=parent,
        )

    def _remember(self, number: int, run_id: str) -> None:
        """Note a trial's MLflow run with the study: its trial may be over, and closed to notes."""
        self._runs[str(number)] = run_id
        self._journal.set_attr("mlflow_runs", self._runs)

    def _record(self, journal: Journal, tracker: Tracker) -> None:
        """What a resume has to know; the plan last, since without it nothing can go on."""
        setting = self.setting
        journal.set_attr("experiment", setting.experiment.name)
        journal.set_attr("data", asdict(setting.data))
        journal.set_attr("split", split_record(setting.images, setting.split))
        journal.set_attr(
            "mlflow",
            {"experiment_id": tracker.experiment_id, "parent_run_id": tracker.parent_run_id},
        )
        journal.set_attr("plan", self.plan.to_dict())

    def _replay(self, tracker: Tracker) -> None:
        """Tell MLflow again what earlier sessions did; it takes what an interruption left out."""
        for record in self._journal.records():
            if record.state == "WAITING" or not record.config:
                continue
            number = record.number
            tracker.trial_started(number, record.label, record.config, record.params)
            for rung in record.rungs:
                place = Path(rung.checkpoint)
                losses = [(float(a), float(b), float(c)) for a, b, c in rung.losses]
                tracker.rung_reached(number, rung.rung, rung.metrics, losses, place, rung.decision)
            if record.state != "RUNNING":
                tracker.trial_ended(number, record.state, record.reason)

    def _prepare(self) -> StudyContext:
        started = time.monotonic()
        setting, plan = self.setting, self.plan
        with _newest_line(setting.console) as report:
            nets = prepare_scorer(
                setting.images,
                setting.split,
                cache_dir=user_cache() / "scorers",
                threads=max(1, int(setting.cpus)),
                report=report,
            )
        self.timings["preparation"] = time.monotonic() - started
        return StudyContext(
            image_set=str(setting.images.path),
            scorer=str(nets),
            split=setting.split.to_dict(),
            rungs=plan.rungs,
            episodes=plan.episodes,
            samples=plan.samples,
            device=plan.device,
        )

    def _search(self, context: StudyContext, tracker: Tracker) -> StudyRun:
        journal, plan = self._journal, self.plan
        used = float(journal.attr("search_seconds", 0.0))
        if self.setting.request.resume and self.setting.request.budget_seconds is not None:
            used = 0.0  # a budget given anew is meant anew
        left = max(0.0, plan.search_seconds - used)
        deadline = time.time() + left
        self._ends = time.monotonic() + left + plan.budget_seconds - plan.search_seconds
        clock = _Clock(journal, used)
        with LiveTable(
            trials=plan.trials,
            rungs=len(plan.rungs),
            deadline=deadline,
            console=self.setting.console,
        ) as table:
            run = run_study(
                plan,
                self.setting.experiment,
                journal=journal,
                context=asdict(context),
                deadline=deadline,
                observers=(table, tracker, clock),
            )
        clock.stop()
        self.timings["search"] = run.seconds
        return run

    def _finish(self, run: StudyRun, context: StudyContext, tracker: Tracker, ray: Session) -> int:
        started = time.monotonic()
        setting = self.setting
        scorers = {
            part: Scorer(setting.images, setting.split, Path(context.scorer), part=part)
            for part in ("validation", "test")
        }
        finals = self._finals(context)
        champion = compared = None
        if run.best is not None:
            setting.say(
                f"Finals: trial {run.best.number} on {len(setting.split.test)} test classes"
            )
            stop = finals.longer_stop(
                run.best,
                scorers["validation"],
                slots=self.plan.slots,
                seconds=self._ends - time.monotonic(),
            )
            champion = finals.test(run.best, scorers["test"], stop=stop)
        reference = next((r for r in run.records if r.attrs.get("reference") and r.rungs), None)
        if reference is not None and reference is not run.best:
            own = int(reference.rungs[-1].metrics["adapt_steps"])
            compared = finals.test(reference, scorers["test"], stop=own)
        baselines: dict[str, dict[str, dict[str, float]]] = {}
        for part, scorer in scorers.items():
            for name, scores in null_baselines(scorer).items():
                baselines.setdefault(name, {})[part] = scores.metrics
        kept = None
        if run.best is not None and champion is not None:
            kept = save_champion(run.best, champion, setting.folder / "champion")
        self.timings["test"] = time.monotonic() - started
        result = summarise(
            run,
            Facts(
                folder=setting.folder,
                study=setting.study,
                experiment=setting.experiment.name,
                data=setting.data,
                plan=self.plan,
                wall_seconds=time.monotonic() - self.began,
                timings=self.timings,
                baselines=baselines,
                champion=champion,
                kept=kept,
                reference=None if compared is None or reference is None else (reference, compared),
                test_classes=tuple(setting.images.classes[c] for c in setting.split.test),
                tracker=tracker,
                runs=self._runs,
                resume=self._resume_command(),
                dashboard=_dashboard(ray),
            ),
        )
        result.write(setting.folder / "result.json")
        tracker.study_ended(result)
        print_ranking(result, setting.console)
        return 0 if run.best is not None else 1

    def _finals(self, context: StudyContext) -> Finals:
        plan = self.plan
        return Finals(
            pipeline=self.setting.experiment.pipeline,
            context=context,
            images=self.setting.images,
            cpus=plan.cpus_per_trial,
            gpus=plan.gpus_per_trial,
            threads=plan.threads,
            console=self.setting.console,
        )

    def _interrupted(self) -> int:
        sys.stderr.write(f"Interrupted; go on with:\n  {self._resume_command()}\n")
        return INTERRUPTED

    def _resume_command(self) -> str:
        request = self.setting.request
        words = [sys.executable, "-m", "tuner.launch", request.experiment, "--resume"]
        words += ["--study", self.setting.study, "--storage", str(request.storage)]
        for option, value in (
            ("--data-root", request.data_root and request.data_root.absolute()),
            ("--data", request.data and request.data.absolute()),
            ("--address", request.address),
        ):
            if value:
                words += [option, str(value)]
        return shlex.join(words)


def _dashboard(ray: Session) -> str:
    """Where the dashboard is while Ray runs, and how to get the token it asks for."""
    token = f" (token: {ray.token_command})" if ray.token_command else ""
    return f"{ray.dashboard_url}{token}" if ray.dashboard_url else ""


@contextmanager
def _newest_line(console: Console) -> Iterator[Callable[[str], None]]:
    """Show progress in place; where there is no terminal, a line now and then."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda line: status.update(Text(f"Preparing, once: {line}"))
        return
    told = -QUIET_SECONDS

    def report(line: str) -> None:
        nonlocal told
        if time.monotonic() - told >= QUIET_SECONDS:
            told = time.monotonic()
            console.print(f"Preparing, once: {line}", markup=False, soft_wrap=True)

    yield report


class _Clock:
    """Writes into the journal how long the search has run, so that a resume knows what is left."""

    def __init__(self, journal: Journal, used: float) -> None:
        self._journal, self._used, self._began = journal, used, time.monotonic()

    def stop(self) -> None:
        self._journal.set_attr("search_seconds", self._used + time.monotonic() - self._began)

    def trial_started(self, *_event: Any) -> None:
        pass

    def rung_reached(self, *_event: Any) -> None:
        self.stop()

    def trial_ended(self, *_event: Any) -> None:
        pass

    def tick(self) -> None:
        pass
