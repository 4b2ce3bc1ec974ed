"""The end of one study: its finals, its result and report, and what MLflow and the user are told
of them."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from trainables.pipeline import StudyContext
from tuner.earlier import keep, kind_of, machine_of
from tuner.exit_codes import NOTHING_SUCCEEDED
from tuner.final_round import Ended, FinalRound, own_identity
from tuner.journal import DELIVERED, Journal
from tuner.last_words import finished_facts, forecast_line, last_lines
from tuner.plan import clock
from tuner.ranking import print_ranking
from tuner.result import Gate, StudyResult
from tuner.resume_command import resume_command
from tuner.search_phase import Searched
from tuner.session_notes import SessionNotes
from tuner.setting import RESULT, Setting
from tuner.study_tracking import StudyTracking
from tuner.summary import Facts, summarise
from tuner.timings import end_table
from tuner.tracking import Tracker
from tuner.tracking_uri import reason


def finish(
    notes: SessionNotes,
    searched: Searched,
    contexts: tuple[StudyContext, StudyContext],
    tracking: StudyTracking,
    *,
    dashboard: str,
) -> int:
    """Bring a study that was searched to its result -> exit code.

    Args:
        notes: of this session.
        searched: what the search brought.
        contexts: what the trials shared, and what the last test does.
        tracking: of the study.
        dashboard: where Ray's is.
    """
    setting, journal = notes.setting, notes.journal
    end = _play(notes, searched, contexts)
    result = _result(notes, searched, end, tracking, dashboard=dashboard)
    journal.set_attr(DELIVERED, False)
    result.write(setting.folder / RESULT)
    keep(kind_of(setting, result.plan), result.to_dict())
    page = make_report(result, setting, journal)
    tell_mlflow(result, setting, journal, tracking.tracker)
    print_ranking(result, setting.console)
    if told := forecast_line(result):
        setting.say(told)
    if page is not None:
        setting.say(f"report: {page}")
    if setting.request.timings:
        setting.say(end_table(notes.timings.total()))
    say_who_meets(end.gate, setting)
    return tell_finished(result, setting)


def _play(
    notes: SessionNotes, searched: Searched, contexts: tuple[StudyContext, StudyContext]
) -> Ended:
    started, setting = time.monotonic(), notes.setting
    ends = searched.ends - notes.timings.total()["ray"]  # Ray's start is of the budget, too
    notes.enter_phase("finals", ends=time.time() + ends - started)
    left = clock(max(0.0, ends - started))
    setting.say(f"Finals: the best trials meet again, then the tests; {left} left")
    last = FinalRound(setting, searched.plan, *contexts, avoided=searched.avoided)
    end = last.run(searched.run.records, ends=ends)
    setting.tell("finals", finalists=[c.record.number for c in end.played.contenders])
    notes.timings.add("finals", end.rematch_seconds)
    notes.took("test", started + end.rematch_seconds)
    return end


def _result(
    notes: SessionNotes,
    searched: Searched,
    end: Ended,
    tracking: StudyTracking,
    *,
    dashboard: str,
) -> StudyResult:
    setting, plan, played = notes.setting, searched.plan, end.played
    timings = notes.timings.total()
    facts = Facts(
        folder=setting.folder,
        study=setting.study,
        experiment=setting.experiment.name,
        data=setting.data,
        plan=plan,
        wall_seconds=timings.pop("wall"),
        timings=timings,
        baselines=end.baselines,
        contenders=played.contenders,
        champion=played.champion,
        kept=played.kept,
        reference=played.reference,
        gate=end.gate,
        test_classes=tuple(setting.images.classes[c] for c in setting.split.test),
        tracker=tracking.tracker,
        runs=tracking.runs,
        command=" && ".join(notes.journal.attr("commands", [])),
        resume=resume_command(setting, "--budget", f"{plan.budget_seconds:.0f}s"),
        dashboard=dashboard,
        forecast=None if setting.forecast is None else setting.forecast.to_dict(),
        machine=machine_of(setting),
    )
    return summarise(searched.run, facts)


def make_report(result: StudyResult, setting: Setting, journal: Journal) -> Path | None:
    """Its page, which MLflow gets, too; a study has not failed for want of one."""
    storage = setting.request.bucket or str(setting.request.storage)
    try:
        from tuner.report_page import write_report  # and with it what draws

        return write_report(result, journal.records(), storage=storage)
    except Exception as error:
        setting.warn(
            f"No report was made ({reason(error)}); another try: python -m tuner.report "
            f"{setting.study} --storage {shlex.quote(storage)}"
        )
        return None


def tell_mlflow(result: StudyResult, setting: Setting, journal: Journal, tracker: Tracker) -> None:
    """Tell it the result, and note whether all of it was delivered."""
    if tracker.study_ended(result, own_identity(setting)):
        journal.set_attr(DELIVERED, True)


def say_who_meets(gate: Gate | None, setting: Setting) -> None:
    """Say how a verdict is asked for again that could not be had."""
    if gate is not None and not gate.decided:
        again = resume_command(setting)
        setting.say(f"This study's best meets the champion, once it can be had, by: {again}")


def tell_finished(result: StudyResult, setting: Setting) -> int:
    """Tell what scripts want to know -> exit code."""
    code = 0 if result.best is not None else NOTHING_SUCCEEDED
    setting.tell("finished", **finished_facts(result), exit_code=code)
    if setting.console.quiet:
        print(*last_lines(result), sep="\n", flush=True)
    return code
