"""A finished study once more: MLflow gets what it does not have yet, and a verdict is asked for
that could not be had."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from cluster.session import Session
from trainables.errors import UserError
from tuner.champion import Challenge
from tuner.champion_folder import CHAMPION, kept_samples
from tuner.ending import make_report, say_who_meets, tell_finished, tell_mlflow
from tuner.final_round import FinalRound, challenge_of
from tuner.journal import DELIVERED
from tuner.plan import Plan
from tuner.preparation import study_contexts
from tuner.ranking import gate_line
from tuner.result import Gate, StudyResult, load
from tuner.session_notes import SessionNotes
from tuner.setting import RESULT, Setting
from tuner.study_tracking import open_tracking


def deliver(
    stack: ExitStack, plan: Plan, notes: SessionNotes, ray_up: Callable[[], Session]
) -> int:
    """Do it -> the study's exit code.

    Args:
        stack: closes what is opened.
        plan: of the study.
        notes: of this session.
        ray_up: makes sure that there is a Ray, where one is needed.
    """
    setting, journal = notes.setting, notes.journal
    notes.enter_phase("delivery")
    path = setting.folder / RESULT
    result = load(path)
    gate = _gate_again(result, plan, notes, ray_up)
    if gate is not result.gate:
        journal.set_attr(DELIVERED, False)
        result = replace(result, gate=gate)
        result.write(path)
        setting.say(gate_line(result))
        say_who_meets(gate, setting)
    tracker = open_tracking(stack, plan, notes, patient=False).tracker
    make_report(result, setting, journal)
    tell_mlflow(result, setting, journal, tracker)
    setting.say(f"Study {setting.study!r} is finished, see {path}: add --budget to search on.")
    return tell_finished(result, setting)


def _gate_again(
    result: StudyResult, plan: Plan, notes: SessionNotes, ray_up: Callable[[], Session]
) -> Gate | None:
    """The verdict on the study's best, asked for again if there was none, or if it was crowned
    but another became the champion before MLflow was told."""
    gate, challenge = result.gate, challenge_of(notes.setting)
    known = notes.journal.attr("mlflow") or {}
    if gate is None or challenge.stands(gate, known.get("parent_run_id")):
        return gate
    return challenge.without_meeting() or _meet_late(challenge, notes.setting, plan, ray_up)


def _meet_late(
    challenge: Challenge, setting: Setting, plan: Plan, ray_up: Callable[[], Session]
) -> Gate:
    """The study's best, of which the pictures were kept, meets the champion."""
    samples = kept_samples(setting.folder / CHAMPION)
    if samples is None:
        gone = f"the study's own pictures in {setting.folder / CHAMPION} are gone or damaged"
        return challenge.undecided(UserError(gone))
    contexts = study_contexts(setting, plan)
    ray_up()
    return FinalRound(setting, plan, *contexts).meet_late(challenge, samples.samples)
