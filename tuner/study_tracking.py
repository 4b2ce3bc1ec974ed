"""MLflow's side of one study: opened, and told what earlier sessions did."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from tuner.journal import RUN, Journal
from tuner.live import newest_line
from tuner.places import bring_all, local_copy
from tuner.plan import Plan
from tuner.recorder import told
from tuner.result import TrackingPlace, git_commit, versions
from tuner.resume_command import resume_command
from tuner.session_notes import SessionNotes
from tuner.setting import Setting
from tuner.tracking import Tracker, provenance_tags
from tuner.trial_records import TrialRecord


class TrialRuns:
    """MLflow's runs of a study's trials. They are noted with the study: a trial may be over, and
    closed to notes.

    Attributes:
        ids: by number of the trial.
    """

    def __init__(self, journal: Journal) -> None:
        """Those that earlier sessions noted."""
        self._journal = journal
        self.ids = {
            key.removeprefix(RUN): value
            for key, value in journal.study.user_attrs.items()
            if key.startswith(RUN)
        }

    def remember(self, number: int, run_id: str) -> None:
        """Note a trial's run."""
        if self.ids.get(str(number)) != run_id:
            self.ids[str(number)] = run_id
            self._journal.set_attr(f"{RUN}{number}", run_id)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudyTracking:
    """A study's tracking while it is open.

    Attributes:
        tracker: tells MLflow what happens.
        runs: ids of the trials' runs, by number; more come as trials start.
    """

    tracker: Tracker
    runs: Mapping[str, str]


def open_tracking(
    stack: ExitStack, plan: Plan, notes: SessionNotes, *, patient: bool
) -> StudyTracking:
    """Tracking that has been told what earlier sessions did.

    Args:
        stack: closes it. The journal is on it already: it is let go of when nothing is told any
            more.
        patient: whether a store that is away may come back later.
    """
    setting, journal = notes.setting, notes.journal
    runs = TrialRuns(journal)
    with notes.timings.part("mlflow"):
        tracker = stack.enter_context(_tracker(setting, plan, journal, runs, patient=patient))
    place = asdict(tracker.place)
    if journal.attr("mlflow") != place:  # the store is another one, or a new one
        journal.set_attr("mlflow", place)
    records = journal.records()
    with newest_line(setting.console) as report:
        named = (rung.checkpoint for record in records for rung in record.rungs)
        bring_all(named, journal.folder, report)
    replay(journal, tracker)
    return StudyTracking(tracker=tracker, runs=runs.ids)


def _tracker(
    setting: Setting, plan: Plan, journal: Journal, runs: TrialRuns, *, patient: bool
) -> Tracker:
    known = journal.attr("mlflow")
    tags = provenance_tags(
        seed=plan.seed, data=setting.data, versions=versions(), commit=git_commit()
    )
    return Tracker(
        setting.request.tracking_uri,
        storage=setting.request.storage,
        experiment=setting.title,
        study=setting.study,
        study_id=_study_id(journal),
        plan=plan.to_dict(),
        tags=tags | {"sampler": plan.sampler},
        remember=runs.remember,
        report=setting.warn,
        deliver=resume_command(setting),
        place=None if known is None else TrackingPlace(**{"uri": ""} | known),
        patient=patient,
        began=journal.began,
    )


def _study_id(journal: Journal) -> str:
    """What its run in MLflow is found by, should a kill come before the journal names it."""
    known: str | None = journal.attr("id")
    if known is None:
        known = uuid.uuid4().hex
        journal.set_attr("id", known)
    return known


def replay(journal: Journal, tracker: Tracker) -> None:
    """Tell MLflow again what earlier sessions did; it takes what an interruption left out."""
    journal.settle()
    for record in journal.records():
        _replay_trial(record, journal, tracker)


def _replay_trial(record: TrialRecord, journal: Journal, tracker: Tracker) -> None:
    if record.state == "WAITING" or not record.config:
        return
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
