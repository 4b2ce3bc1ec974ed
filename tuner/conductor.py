"""One study from its plan to its result: what is done one after another, and how it is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from cluster.session import Session
from tuner.background import leave_terminal
from tuner.breakdown import Breakdown, breakdown_behind, is_full_disk, ray_died
from tuner.delivery import deliver
from tuner.ending import finish
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED
from tuner.hold import heeding_stop
from tuner.journal import DASHBOARD, Journal
from tuner.journal_file import is_begun
from tuner.mirror import Mirror
from tuner.on_finish import OnFinish
from tuner.opening import open_study, plan_facts
from tuner.plan import Plan
from tuner.preparation import study_contexts
from tuner.ray_session import dashboard, join, reachable, start_here
from tuner.request import Request
from tuner.resume_command import resume_command, ways_on
from tuner.resumption import is_finished, record_plan, search_on
from tuner.run_store import require_store
from tuner.search_phase import search_trials
from tuner.session_notes import SessionNotes
from tuner.setting import Setting
from tuner.signals import handlers_put_back, heed_while_closing, ignore_signals
from tuner.study_tracking import StudyTracking, open_tracking
from tuner.timings import Timings
from tuner.tracking_uri import resolve_uri


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
    with handlers_put_back():
        try:
            with ExitStack() as stack:
                code = _conduct(request, stack, timings, on_finish)
                heed_while_closing()
        except KeyboardInterrupt:  # once more, while everything is closed
            if code is None:
                raise
        except Exception as error:
            if code is None or not is_full_disk(str(error)):  # said, or nothing depends on it
                raise
    return code


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
        ray = join(stack, request.address, request, bereaved)
    setting, plan, journal = open_study(request, ray, stack, timings)
    if request.dry_run:
        return 0
    if mirror is not None and journal is not None:
        stack.enter_context(mirror.holding(journal))
    study = _Study(setting, plan, timings, mirror, on_finish)
    if journal and is_finished(setting):
        return study.deliver(stack, ray, journal)
    return study.run(stack, ray, journal)


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

    def run(self, stack: ExitStack, ray: Session | None, journal: Journal | None) -> int:
        """Start or go on -> exit code."""

        def work() -> int:
            notes = self._take(stack, self._begin(stack) if journal is None else journal)
            tracking = open_tracking(stack, self.plan, notes, patient=True)
            self._say_it_begins(resumed=journal is not None)
            if journal is not None:
                search_on(journal, self.setting)
            return self._search_and_finish(stack, ray, notes, tracking)

        self._held = journal is not None
        return self._in_order(work)

    def deliver(self, stack: ExitStack, ray: Session | None, journal: Journal) -> int:
        """Tell MLflow what it does not have yet of a finished study -> the study's exit code."""

        def work() -> int:
            ray_up = partial(self._ray_up, stack, ray)
            return deliver(stack, self.plan, self._take(stack, journal), ray_up)

        self._held = True
        return self._in_order(work)

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
        record_plan(journal, setting, self.plan)
        return journal

    def _take(self, stack: ExitStack, journal: Journal) -> SessionNotes:
        """This process holds the study, and can be asked to let go of it."""
        self._on_finish.folder = self.setting.folder
        stack.enter_context(heeding_stop(journal.folder))
        return SessionNotes(self.setting, journal, self.timings)

    def _say_it_begins(self, *, resumed: bool) -> None:
        setting, request = self.setting, self.setting.request
        facts = plan_facts(self.plan, setting)
        setting.tell("begun", **facts, folder=str(setting.folder), resumed=resumed)
        if request.detach:
            ways = "" if request.quiet else ways_on(setting)
            leave_terminal(setting.folder, ways, request.events)

    def _search_and_finish(
        self, stack: ExitStack, ray: Session | None, notes: SessionNotes, tracking: StudyTracking
    ) -> int:
        notes.add_command()
        notes.enter_phase("preparation")
        started = time.monotonic()
        contexts = study_contexts(self.setting, self.plan)
        notes.took("preparation", started)
        started = time.monotonic()
        ray = self._ray_up(stack, ray)
        notes.took("ray", started)
        where, tracker = dashboard(ray), tracking.tracker
        self.setting.say(f"Dashboard  {where}")
        self.setting.say(f"Reachable  {reachable(ray, tracker.uri)}")
        notes.journal.set_attr(DASHBOARD, where)
        searched = search_trials(notes, self.plan, contexts[0], tracker)
        if searched.run.interrupted:
            return self._interrupted()
        return finish(notes, searched, contexts, tracking, dashboard=where)

    def _ray_up(self, stack: ExitStack, ray: Session | None) -> Session:
        """The one that was joined, or one of our own."""
        return start_here(stack, self.bereaved) if ray is None else ray

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
        self.setting.tell("error", error=stopped, exit_code=BROKEN_DOWN)
        return BROKEN_DOWN

    def _interrupted(self) -> int:
        ignore_signals()  # once more would lose the line
        way_on = resume_command(self.setting)
        sys.stderr.write(f"Interrupted; go on with:\n  {way_on}\n")
        self.setting.tell("interrupted", exit_code=INTERRUPTED, resume=way_on)
        return INTERRUPTED

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
