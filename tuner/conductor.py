"""One study from its plan to its result: tracking, search, finals, and what the user is told."""

from __future__ import annotations

import shlex
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from cluster.session import Session, session
from trainables.addresses import below
from trainables.datasets import user_cache
from trainables.errors import UserError
from trainables.evaluation import prepare_scorer
from trainables.pipeline import StudyContext
from trainables.pretraining import damaged_sources
from trainables.published import publish
from trainables.tasks import split_record
from tuner import plugins
from tuner.background import leave_terminal
from tuner.breakdown import Breakdown, breakdown_behind, is_full_disk, ray_died
from tuner.capacity import Capacity
from tuner.champion import Challenge
from tuner.champion_folder import CHAMPION, kept_samples
from tuner.earlier import keep, kind_of, machine_of
from tuner.events import TrialEvents
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED, NOTHING_SUCCEEDED
from tuner.final_round import FinalRound, challenge_of, own_identity
from tuner.hold import heeding_stop
from tuner.journal import DASHBOARD, DELIVERED, FORECAST, PHASE, RESUME, RUN, Journal, is_begun
from tuner.last_words import finished_facts, forecast_line, last_lines
from tuner.live import LiveTable, newest_line
from tuner.machine import cpus
from tuner.mirror import Mirror
from tuner.newcomers import Newcomers
from tuner.on_finish import OnFinish
from tuner.opening import open_study, plan_facts
from tuner.places import bring_all, local_copy
from tuner.plan import SCORING_COMPUTE, Plan, clock
from tuner.premises import Question, packages, require_nodes
from tuner.ranking import gate_line, print_ranking
from tuner.recorder import told
from tuner.request import Request
from tuner.result import Gate, StudyResult, TrackingPlace, git_commit, load, versions
from tuner.resume_command import resume_command, typed_command, ways_on
from tuner.resumption import is_finished, search_on
from tuner.run_store import require_store
from tuner.setting import RESULT, Setting
from tuner.study import StudyRun, run_study
from tuner.summary import Facts, summarise
from tuner.timings import Timings, end_table, start_table
from tuner.tracking import Tracker, provenance_tags
from tuner.tracking_uri import reason, resolve_uri, scheme_of, strip_credentials

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PUBLISHED = "published"  # folder of prepared pictures and nets, beside the studies


def conduct(request: Request, timings: Timings | None = None) -> int:
    """Do what the request says -> exit code, as `launch --help` lists them.

    Raises:
        UserError: it cannot be met; nothing was started.
    """
    timings = Timings(time.monotonic()) if timings is None else timings
    on_finish, code = OnFinish(request.on_finish), None
    try:
        code = _conduct_closed(request, timings, on_finish)
    finally:
        on_finish.run(code)
    return code


def _conduct_closed(request: Request, timings: Timings, on_finish: OnFinish) -> int:
    """The same up to where all is closed."""
    code: int | None = None
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hook = sys.unraisablehook
    _heed_sigterm()
    try:
        with ExitStack() as stack:
            code = _conduct(request, stack, timings, on_finish)
            _heed(signal.default_int_handler)  # closing may take long
            sys.unraisablehook = _unless_interrupted
    except KeyboardInterrupt:  # once more, while everything is closed
        if code is None:
            raise
    except Exception as error:
        if code is None or not is_full_disk(str(error)):  # said already, or nothing depends on it
            raise
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
    return code


def _unless_interrupted(told: sys.UnraisableHookArgs) -> None:
    """Ctrl-C amid a callback of Python's own is lost; while all is closed it needs no traceback."""
    if not issubclass(told.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(told)


def _heed(handler: Any) -> None:
    """What Ctrl-C and SIGTERM do from here on."""
    for number in SIGNALS:
        signal.signal(number, handler)


def _heed_sigterm() -> None:
    """SIGTERM is Ctrl-C; Ray has handlers of its own, which leave without a word."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _conduct(request: Request, stack: ExitStack, timings: Timings, on_finish: OnFinish) -> int:
    mirror = None if request.bucket is None else Mirror(request.bucket, request.storage)
    if mirror is not None:
        mirror.pull()
    ray, study = None, None

    def bereaved(dead: Sequence[str]) -> int:
        if study is not None:
            return study.bereaved(dead)
        stopped = f"Stopped: {ray_died(dead)}, then run the same command again"
        sys.stderr.write(f"{stopped}\n")
        request.events.tell("error", error=stopped, exit_code=BROKEN_DOWN)
        return BROKEN_DOWN

    if request.address is not None:
        ray = _with_a_node(_enter(stack, request.address, bereaved), request)
        require_nodes(ray.nodes, request.storage, request.bucket)
    setting, plan, journal = open_study(request, ray, stack, timings)
    if request.dry_run:
        return 0
    if mirror is not None and journal is not None:
        stack.enter_context(mirror.holding(journal))
    study = _Study(setting, plan, timings, mirror, on_finish)
    if journal and is_finished(setting):
        return study.deliver(stack, ray, journal)
    return study.run(stack, ray, journal)


def _with_a_node(ray: Session, request: Request) -> Session:
    """Where an autoscaler has stopped all nodes, one is needed to plan with."""
    if not ray.grows or any(node.cpus for node in ray.nodes):
        return ray
    if not request.quiet:
        print("Waiting    for the cluster's first node", flush=True)
    cpus_each, gpus_each = request.cpus_per_trial or 1.0, request.gpus_per_trial or 0.0
    try:
        return ray.with_first_node(cpus=cpus_each, gpus=gpus_each)
    except ConnectionError as error:
        raise UserError(str(error)) from error


def _enter(
    stack: ExitStack,
    address: str | None,
    bereaved: Callable[[Sequence[str]], int] | None = None,
) -> Session:
    stack.callback(_heed_sigterm)  # Ray's end leaves SIGTERM to the kernel, which kills
    try:
        more = stack.enter_context(plugins.environment())
        ours = session(address, modules=packages(), environment=more, bereaved=bereaved)
        entered = stack.enter_context(ours)
    except (ConnectionError, ValueError) as error:
        raise UserError(str(error)) from error
    _heed_sigterm()  # Ray has just set its handler
    return entered


class _Study:
    """One study from its plan to its end."""

    def __init__(
        self,
        setting: Setting,
        plan: Plan,
        timings: Timings,
        mirror: Mirror | None = None,
        on_finish: OnFinish | None = None,
    ) -> None:
        self.setting, self.plan, self.timings, self._mirror = setting, plan, timings, mirror
        self._on_finish = OnFinish(()) if on_finish is None else on_finish
        self._held = False  # the journal, by this process
        self._avoided: frozenset[str] = frozenset()  # nodes

    def run(self, stack: ExitStack, ray: Session | None, journal: Journal | None) -> int:
        """Start or go on -> exit code."""

        def work() -> int:
            opened = self._begin(stack) if journal is None else journal
            self._take(stack, opened)
            tracker = self._open(stack, opened, patient=True)
            self._say_it_begins(resumed=journal is not None)
            if journal is not None:
                search_on(journal, self.setting)
            return self._search_and_finish(stack, ray, tracker)

        self._held = journal is not None
        return self._in_order(work)

    def _say_it_begins(self, *, resumed: bool) -> None:
        setting, request = self.setting, self.setting.request
        facts = plan_facts(self.plan, setting)
        self._event("begun", **facts, folder=str(setting.folder), resumed=resumed)
        if request.detach:
            ways = "" if request.quiet else ways_on(setting)
            leave_terminal(setting.folder, ways, request.events)

    def _event(self, event: str, **facts: Any) -> None:
        self.setting.request.events.tell(event, study=self.setting.study, **facts)

    def deliver(self, stack: ExitStack, ray: Session | None, journal: Journal) -> int:
        """Tell MLflow what it does not have yet of a finished study -> the study's exit code."""

        self._held = True
        return self._in_order(lambda: self._deliver(stack, ray, journal))

    def _in_order(self, work: Callable[[], int]) -> int:
        """Do it -> exit code; what the user or the machine does to a study is one line, with the
        way on."""
        try:
            return work()
        except KeyboardInterrupt:
            if not self._has_begun():
                raise
            return self._interrupted()
        except Exception as error:
            breakdown = breakdown_behind(error, self.setting.folder)
            if breakdown is None:
                raise
            return self._stopped(breakdown)

    def _stopped(self, breakdown: Breakdown) -> int:
        way_on = "run the same command again"
        if self._has_begun():
            way_on = f"go on with: {resume_command(self.setting)}"
        stopped = f"Stopped: {breakdown}, then {way_on}"
        sys.stderr.write(f"{stopped}\n")
        self._event("error", error=stopped, exit_code=BROKEN_DOWN)
        return BROKEN_DOWN

    def bereaved(self, dead: Sequence[str]) -> int:
        """Ray died, and the main thread computes, or waits where no signal wakes it -> exit code.

        Ray would end this process soon without a word; what is lost by that, `--resume` makes up
        for.
        """
        self.setting.console.show_cursor()
        code = self._stopped(ray_died(dead))
        self._on_finish.run(code)
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    def _has_begun(self) -> bool:
        """Whether `--resume` goes on with it; another process may have begun one of its name."""
        return self._held and is_begun(self.setting.folder)

    def _begin(self, stack: ExitStack) -> Journal:
        """The journal of a new study, with its plan; MLflow has no run of it yet."""
        request, setting = self.setting.request, self.setting
        uri = resolve_uri(request.tracking_uri, request.storage)
        with self.timings.part("mlflow"):
            require_store(uri, experiment=setting.title, storage=request.storage)
        opened = Journal(
            request.storage,
            setting.study,
            self.plan.objectives,
            anew=True,
            bucket=setting.bucket,
        )
        journal = stack.enter_context(opened)
        if self._mirror is not None:
            stack.enter_context(self._mirror.holding(journal))
        self._held = True
        self._record(journal)
        return journal

    def _search_and_finish(self, stack: ExitStack, ray: Session | None, tracker: Tracker) -> int:
        self._note_command()
        self._enter_phase("preparation")
        context, last = self._prepare()
        started = time.monotonic()
        if ray is None:
            ray = self._ray_here(stack)
        self._took("ray", started)
        self.setting.say(f"Dashboard  {_dashboard(ray)}")
        self.setting.say(f"Reachable  {_reachable(ray, tracker.uri)}")
        self._journal.set_attr(DASHBOARD, _dashboard(ray))
        run = self._search(context, tracker)
        if run.interrupted:
            return self._interrupted()
        return self._finish(run, (context, last), tracker, ray)

    def _ray_here(self, stack: ExitStack) -> Session:
        """A Ray of our own, for a study that has begun.

        Raises:
            Breakdown: it does not come up in time.
        """
        try:
            return _enter(stack, None, self.bereaved)
        except UserError as error:
            told = str(error).rstrip(".")
            raise Breakdown(f"{told}; end other programs that keep it busy") from error

    def _deliver(self, stack: ExitStack, ray: Session | None, journal: Journal) -> int:
        self._take(stack, journal)
        self._enter_phase("delivery")
        path = self.setting.folder / RESULT
        result = load(path)
        gate = self._gate_again(result, stack, ray, journal)
        if gate is not result.gate:
            journal.set_attr(DELIVERED, False)
            result = replace(result, gate=gate)
            result.write(path)
            self.setting.say(gate_line(result))
            self._say_who_meets(gate)
        tracker = self._open(stack, journal, patient=False)
        self._report(result)
        self._tell(result, tracker)
        self.setting.say(
            f"Study {self.setting.study!r} is finished, see {path}: add --budget to search on."
        )
        return self._finished(result)

    def _gate_again(
        self, result: StudyResult, stack: ExitStack, ray: Session | None, journal: Journal
    ) -> Gate | None:
        """The verdict on the study's best, asked for again if there was none, or if it was crowned
        but another became the champion before MLflow was told."""
        gate, challenge = result.gate, challenge_of(self.setting)
        known = journal.attr("mlflow") or {}
        if gate is None or challenge.stands(gate, known.get("parent_run_id")):
            return gate
        return challenge.without_meeting() or self._meet_late(challenge, stack, ray)

    def _meet_late(self, challenge: Challenge, stack: ExitStack, ray: Session | None) -> Gate:
        """The study's best, of which the pictures were kept, meets the champion."""
        setting = self.setting
        samples = kept_samples(setting.folder / CHAMPION)
        if samples is None:
            gone = f"the study's own pictures in {setting.folder / CHAMPION} are gone or damaged"
            return challenge.undecided(UserError(gone))
        contexts = self._contexts()
        if ray is None:
            self._ray_here(stack)
        return FinalRound(setting, self.plan, *contexts).meet_late(challenge, samples.samples)

    def _say_who_meets(self, gate: Gate | None) -> None:
        if gate is not None and not gate.decided:
            again = resume_command(self.setting)
            self.setting.say(
                f"This study's best meets the champion, once it can be had, by: {again}"
            )

    def _take(self, stack: ExitStack, journal: Journal) -> None:
        """This process holds the study, and can be asked to let go of it."""
        self._journal = journal
        self._on_finish.folder = self.setting.folder
        stack.enter_context(heeding_stop(journal.folder))

    def _open(self, stack: ExitStack, journal: Journal, *, patient: bool) -> Tracker:
        """Tracking that has been told what earlier sessions did.

        The journal is on the stack already: it is let go of when nothing is told any more.
        """
        with self.timings.part("mlflow"):
            tracker = stack.enter_context(self._tracker(patient=patient))
        place = asdict(tracker.place)
        if journal.attr("mlflow") != place:  # the store is another one, or a new one
            journal.set_attr("mlflow", place)
        self.timings.recall(journal.attr("timings", {}))
        self._runs = {
            key.removeprefix(RUN): value
            for key, value in journal.study.user_attrs.items()
            if key.startswith(RUN)
        }
        records = journal.records()
        with newest_line(self.setting.console) as report:
            named = (rung.checkpoint for record in records for rung in record.rungs)
            bring_all(named, journal.folder, report)
        replay(journal, tracker)
        return tracker

    def _note_command(self) -> None:
        """Add what began this session to what began the ones before; a repeated one once."""
        noted, command = self._journal.attr("commands", []), typed_command(self.setting.request)
        if noted[-1:] != [command]:
            self._journal.set_attr("commands", [*noted, command])
        self._journal.set_attr(RESUME, resume_command(self.setting))

    def _enter_phase(self, name: str, *, ends: float | None = None) -> None:
        """Note for whoever looks from outside what is done from now on; `ends` in Unix seconds."""
        self._journal.set_attr(PHASE, {"name": name, "since": time.time(), "ends": ends})
        self._event("phase", phase=name, ends=ends)

    def _took(self, part: str, started: float) -> None:
        """Note what a part of the run took, for the result of whichever session gets there."""
        self.timings.add(part, time.monotonic() - started)
        self._journal.set_attr("timings", self.timings.total())

    def _trained(self, when: float) -> None:
        """The first training update was at `when`, in Unix seconds, as its process has them."""
        ago = time.time() - when
        self.timings.add("actors", max(0.0, time.monotonic() - ago - self._fitting))
        if self.setting.request.timings:
            whole = time.monotonic() - ago - self.timings.began
            self.setting.say(start_table(self.timings.seconds, whole))

    def _tracker(self, *, patient: bool) -> Tracker:
        setting, known = self.setting, self._journal.attr("mlflow")
        return Tracker(
            setting.request.tracking_uri,
            storage=setting.request.storage,
            experiment=setting.title,
            study=setting.study,
            study_id=self._study_id(),
            plan=self.plan.to_dict(),
            tags=provenance_tags(
                seed=self.plan.seed, data=setting.data, versions=versions(), commit=git_commit()
            )
            | {"sampler": self.plan.sampler},
            remember=self._remember,
            report=setting.warn,
            deliver=resume_command(self.setting),
            place=None if known is None else TrackingPlace(**{"uri": ""} | known),
            patient=patient,
            began=self._journal.began,
        )

    def _study_id(self) -> str:
        """What its run in MLflow is found by, should a kill come before the journal names it."""
        known: str | None = self._journal.attr("id")
        if known is None:
            known = uuid.uuid4().hex
            self._journal.set_attr("id", known)
        return known

    def _remember(self, number: int, run_id: str) -> None:
        """Note a trial's MLflow run with the study: its trial may be over, and closed to notes."""
        if self._runs.get(str(number)) != run_id:
            self._runs[str(number)] = run_id
            self._journal.set_attr(f"{RUN}{number}", run_id)

    def _record(self, journal: Journal) -> None:
        """What a resume has to know; the plan last, since with it the study has begun."""
        setting = self.setting
        experiment = setting.experiment
        journal.enqueue(experiment.known_points, experiment.space, experiment.base)
        journal.set_attr("experiment", experiment.name)
        journal.set_attr("data", asdict(setting.data))
        journal.set_attr("split", split_record(setting.images, setting.split))
        journal.set_attr("plugins", plugins.records())
        plugins.keep_copies(setting.folder)
        forecast = setting.forecast
        journal.set_attr(FORECAST, None if forecast is None else forecast.to_dict())
        journal.set_attr("plan", self.plan.to_dict())

    def _prepare(self) -> tuple[StudyContext, StudyContext]:
        """What the trials share, and what the last test does."""
        started = time.monotonic()
        contexts = self._contexts()
        self._took("preparation", started)
        return contexts

    def _contexts(self) -> tuple[StudyContext, StudyContext]:
        search = self._context()
        return search, replace(search, split=self.setting.split.joined().to_dict())

    def _context(self) -> StudyContext:
        setting, plan = self.setting, self.plan
        bucket, store = setting.request.bucket, setting.request.storage / "pretrained"
        for line in damaged_sources(store):
            setting.warn(line)
        with newest_line(setting.console) as report:
            nets = prepare_scorer(
                setting.images,
                setting.split,
                cache_dir=user_cache() / "scorers",
                threads=max(1, int(cpus())),
                report=report,
            )
        return StudyContext(
            image_set=self._for_nodes(setting.images.path),
            scorer=self._for_nodes(nets),
            split=setting.split.to_dict(),
            rungs=plan.rungs,
            episodes=plan.episodes,
            samples=plan.samples,
            device=plan.device,
            store=str(store) if bucket is None else below(bucket, store.name),
            scoring_share=SCORING_COMPUTE[plan.scale],
            fast_gpu=plan.fast_gpu,
            plugins=plugins.records(),
        )

    def _for_nodes(self, folder: Path) -> str:
        """What was prepared here, where the nodes that run trials can read it."""
        if self.setting.ray is None:
            return str(folder)
        request = self.setting.request
        return publish(folder, below(request.bucket or request.storage.as_uri(), PUBLISHED))

    def _search(self, context: StudyContext, tracker: Tracker) -> StudyRun:
        journal, plan = self._journal, self.plan
        used = float(journal.attr("search_seconds", 0.0))
        left = max(0.0, plan.search_seconds - used)
        deadline = time.time() + left
        self._ends = time.monotonic() + left + plan.budget_seconds - plan.search_seconds
        self._fitting = time.monotonic()
        self._enter_phase("search", ends=deadline)
        clock = _Clock(journal, used, self._took)
        told = TrialEvents(self.setting.request.events, self.setting.study)
        table = LiveTable(
            trials=plan.trials,
            slots=plan.slots,
            rungs=len(plan.rungs),
            deadline=deadline,
            study=self.setting.study,
            console=self.setting.console,
        )
        table.recall(journal.records())
        newcomers = self._newcomers(table)
        slots = self._capacity(table, newcomers)
        with table, nullcontext() if newcomers is None else closing(newcomers):
            run = run_study(
                plan,
                self.setting.experiment,
                journal=journal,
                context=asdict(context),
                deadline=deadline,
                observers=(table, tracker, told, clock),
                doubted=table.rung_doubted,
                trained=self._trained,
                slots=slots,
                newcomers=newcomers,
            )
        clock.stop()
        if slots is not None and newcomers is not None:  # for the finals
            self.plan, self._avoided = replace(plan, slots=slots.slots), newcomers.not_fit
        return run

    def _newcomers(self, table: LiveTable) -> Newcomers | None:
        """A cluster's; a Ray of our own has none."""
        ray, request = self.setting.ray, self.setting.request
        if ray is None:
            return None
        ask = partial(Question, storage=request.storage, bucket=request.bucket)
        return Newcomers(ray.nodes, ask, table.say)

    def _capacity(self, table: LiveTable, newcomers: Newcomers | None) -> Capacity | None:
        """The cluster's, as it changes; a Ray of our own does not."""
        plan, ray = self.plan, self.setting.ray
        if ray is None or newcomers is None:
            return None
        share = (plan.cpus_per_trial, plan.gpus_per_trial)
        changed = table.cluster_changed
        return Capacity(*share, grows=ray.grows, changed=changed, fit=newcomers.fit)

    def _finish(
        self,
        run: StudyRun,
        contexts: tuple[StudyContext, StudyContext],
        tracker: Tracker,
        ray: Session,
    ) -> int:
        started = time.monotonic()
        setting = self.setting
        ends = self._ends - self.timings.total()["ray"]  # Ray's start is of the budget, too
        self._enter_phase("finals", ends=time.time() + ends - started)
        left = clock(max(0.0, ends - started))
        setting.say(f"Finals: the best trials meet again, then the tests; {left} left")
        last = FinalRound(setting, self.plan, *contexts, avoided=self._avoided)
        end = last.run(run.records, ends=ends)
        self._event("finals", finalists=[c.record.number for c in end.played.contenders])
        self.timings.add("finals", end.rematch_seconds)
        self._took("test", started + end.rematch_seconds)
        timings = self.timings.total()
        result = summarise(
            run,
            Facts(
                folder=setting.folder,
                study=setting.study,
                experiment=setting.experiment.name,
                data=setting.data,
                plan=self.plan,
                wall_seconds=timings.pop("wall"),
                timings=timings,
                baselines=end.baselines,
                contenders=end.played.contenders,
                champion=end.played.champion,
                kept=end.played.kept,
                reference=end.played.reference,
                gate=end.gate,
                test_classes=tuple(setting.images.classes[c] for c in setting.split.test),
                tracker=tracker,
                runs=self._runs,
                command=" && ".join(self._journal.attr("commands", [])),
                resume=resume_command(self.setting, "--budget", f"{self.plan.budget_seconds:.0f}s"),
                dashboard=_dashboard(ray),
                forecast=None if setting.forecast is None else setting.forecast.to_dict(),
                machine=machine_of(setting),
            ),
        )
        self._journal.set_attr(DELIVERED, False)
        result.write(setting.folder / RESULT)
        keep(kind_of(setting, result.plan), result.to_dict())
        page = self._report(result)
        self._tell(result, tracker)
        print_ranking(result, setting.console)
        if told := forecast_line(result):
            setting.say(told)
        if page is not None:
            setting.say(f"report: {page}")
        if setting.request.timings:
            setting.say(end_table(self.timings.total()))
        self._say_who_meets(end.gate)
        return self._finished(result)

    def _finished(self, result: StudyResult) -> int:
        """Tell what scripts want to know -> exit code."""
        code = 0 if result.best is not None else NOTHING_SUCCEEDED
        self._event("finished", **finished_facts(result), exit_code=code)
        if self.setting.console.quiet:
            print(*last_lines(result), sep="\n", flush=True)
        return code

    def _report(self, result: StudyResult) -> Path | None:
        """Its page, which MLflow gets, too; a study has not failed for want of one."""
        request, study = self.setting.request, self.setting.study
        storage = request.bucket or str(request.storage)
        try:
            from tuner.report_page import write_report  # and with it what draws

            return write_report(result, self._journal.records(), storage=storage)
        except Exception as error:
            self.setting.warn(
                f"No report was made ({reason(error)}); another try: python -m tuner.report "
                f"{study} --storage {shlex.quote(storage)}"
            )
            return None

    def _tell(self, result: StudyResult, tracker: Tracker) -> None:
        if tracker.study_ended(result, own_identity(self.setting)):
            self._journal.set_attr(DELIVERED, True)

    def _interrupted(self) -> int:
        _heed(signal.SIG_IGN)  # once more would lose the line
        way_on = resume_command(self.setting)
        sys.stderr.write(f"Interrupted; go on with:\n  {way_on}\n")
        self._event("interrupted", exit_code=INTERRUPTED, resume=way_on)
        return INTERRUPTED


def replay(journal: Journal, tracker: Tracker) -> None:
    """Tell MLflow again what earlier sessions did; it takes what an interruption left out."""
    journal.settle()
    for record in journal.records():
        if record.state == "WAITING" or not record.config:
            continue
        number, began = record.number, record.began
        tracker.trial_started(number, record.label, record.config, record.params, when=began)
        for rung in record.rungs:
            place = local_copy(rung.checkpoint, journal.folder)
            losses = [(float(a), float(b), float(c)) for a, b, c in rung.losses]
            tracker.rung_reached(
                number, rung.rung, told(rung), losses, place, rung.decision, when=rung.when
            )
        if record.state != "RUNNING":
            tracker.trial_ended(number, record.state, record.reason, when=record.ended)
        elif record.rungs and not record.paused:
            tracker.trial_promoted(number)


def _dashboard(ray: Session) -> str:
    """Where the dashboard is, how long, and how to get the token it asks for."""
    if ray.dashboard_url is None:
        return "none: this Ray has no dashboard"
    when = ", while the search runs" if ray.started_here else ""
    token = f" (it asks for the token that this prints: {ray.token_command})"
    token = token if ray.token_command else ""
    return f"{ray.dashboard_url}{when}{token}"


def _reachable(ray: Session, uri: str) -> str:
    """From where, and by whom, what is used here can be reached."""
    where = "from this machine alone" if ray.started_here else f"as the cluster of {ray.address} is"
    who = "with its token" if ray.token_command else "by everybody there, without a token"
    store = "a file" if scheme_of(uri) == "sqlite" else f"{strip_credentials(uri)}, as that allows"
    return f"{where}: Ray and its dashboard, {who}; MLflow is {store}"


class _Clock:
    """Writes into the journal how long the search has run, so that a resume knows what is left."""

    def __init__(self, journal: Journal, used: float, took: Callable[[str, float], None]) -> None:
        self._journal, self._used, self._took = journal, used, took
        self._noted = time.monotonic()

    def stop(self) -> None:
        started, self._noted = self._noted, time.monotonic()
        self._used += self._noted - started
        self._journal.set_attr("search_seconds", self._used)
        self._took("search", started)

    def trial_started(self, *_event: Any) -> None:
        pass

    def rung_reached(self, *_event: Any) -> None:
        self.stop()

    def trial_promoted(self, *_event: Any) -> None:
        pass

    def trial_ended(self, *_event: Any) -> None:
        pass

    def tick(self) -> None:
        pass
