"""The search of one study: its trials, in the time that is left for them, and who hears of it."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial

from trainables.pipeline import StudyContext
from tuner.capacity import Capacity
from tuner.events import TrialEvents
from tuner.live import LiveTable
from tuner.newcomers import Newcomers
from tuner.plan import Plan
from tuner.premises import Question
from tuner.search_clock import SearchClock
from tuner.session_notes import SessionNotes
from tuner.setting import Setting
from tuner.study import StudyRun, run_study
from tuner.timings import Timings, start_table
from tuner.tracking import Tracker


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Searched:
    """What the search brought, for the finals.

    Attributes:
        run: its trials.
        plan: of the study, with as many slots as there were last.
        ends: when the study should be over, as `time.monotonic` has it; without Ray's start.
        avoided: ids of nodes that may run nothing.
    """

    run: StudyRun
    plan: Plan
    ends: float
    avoided: frozenset[str] = frozenset()


def search_trials(
    notes: SessionNotes, plan: Plan, context: StudyContext, tracker: Tracker
) -> Searched:
    """Run trials on the Ray that is there, until they, or the time for them, are over.

    Args:
        notes: of this session.
        plan: of the study.
        context: what the trials share.
        tracker: tells MLflow.
    """
    journal, setting = notes.journal, notes.setting
    used = float(journal.attr("search_seconds", 0.0))
    left = max(0.0, plan.search_seconds - used)
    deadline, began = time.time() + left, time.monotonic()
    notes.enter_phase("search", ends=deadline)
    clock = SearchClock(journal, used, notes.took)
    table = _table(setting, plan, deadline)
    table.recall(journal.records())
    newcomers = _newcomers(setting, table)
    slots = _capacity(setting, plan, table, newcomers)
    with table, nullcontext() if newcomers is None else closing(newcomers):
        run = run_study(
            plan,
            setting.experiment,
            journal=journal,
            context=asdict(context),
            deadline=deadline,
            observers=(table, tracker, TrialEvents(setting.request.events, setting.study), clock),
            doubted=table.rung_doubted,
            trained=partial(first_update, setting, notes.timings, began),
            slots=slots,
            newcomers=newcomers,
        )
    clock.stop()
    searched = Searched(
        run=run, plan=plan, ends=began + left + plan.budget_seconds - plan.search_seconds
    )
    if slots is None or newcomers is None:
        return searched
    return replace(searched, plan=replace(plan, slots=slots.slots), avoided=newcomers.not_fit)


def first_update(setting: Setting, timings: Timings, began: float, when: float) -> None:
    """Note what the start took, and show it if that was asked for.

    Args:
        began: the search, as `time.monotonic` has it.
        when: the first training update was, in Unix seconds, as its process has them.
    """
    ago = time.time() - when
    timings.add("actors", max(0.0, time.monotonic() - ago - began))
    if setting.request.timings:
        whole = time.monotonic() - ago - timings.began
        setting.say(start_table(timings.seconds, whole))


def _table(setting: Setting, plan: Plan, deadline: float) -> LiveTable:
    return LiveTable(
        trials=plan.trials,
        slots=plan.slots,
        rungs=len(plan.rungs),
        deadline=deadline,
        study=setting.study,
        console=setting.console,
    )


def _newcomers(setting: Setting, table: LiveTable) -> Newcomers | None:
    """A cluster's; a Ray of our own has none."""
    ray, request = setting.ray, setting.request
    if ray is None:
        return None
    ask = partial(Question, storage=request.storage, bucket=request.bucket)
    return Newcomers(ray.nodes, ask, table.say)


def _capacity(
    setting: Setting, plan: Plan, table: LiveTable, newcomers: Newcomers | None
) -> Capacity | None:
    """The cluster's, as it changes; a Ray of our own does not."""
    ray = setting.ray
    if ray is None or newcomers is None:
        return None
    share = (plan.cpus_per_trial, plan.gpus_per_trial)
    changed = table.cluster_changed
    return Capacity(*share, grows=ray.grows, changed=changed, fit=newcomers.fit)
