"""A study that goes on: what it noted for that, its journal, its plan, and what a resume may change
of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import count

from trainables.errors import UserError
from trainables.tasks import split_record
from tuner import plugins
from tuner.compatible import require_same_space, require_same_versions
from tuner.journal import FORECAST, Journal
from tuner.journal_file import is_begun, is_free
from tuner.plan import Plan
from tuner.request import Request
from tuner.setting import RESULT, Setting
from tuner.shares import packed


def reopened(setting: Setting) -> Journal | None:
    """The journal of the study to resume; None if that was cut off before its plan, and begins.

    Raises:
        UserError: there is none, or another process holds it.
    """
    request = setting.request
    if is_begun(setting.folder):
        return Journal(request.storage, setting.study, bucket=setting.bucket)
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


def record_plan(journal: Journal, setting: Setting, plan: Plan) -> None:
    """What a resume has to know; the plan last, since with it the study has begun."""
    experiment = setting.experiment
    journal.enqueue(experiment.known_points, experiment.space, experiment.base)
    journal.set_attr("experiment", experiment.name)
    journal.set_attr("data", asdict(setting.data))
    journal.set_attr("split", split_record(setting.images, setting.split))
    journal.set_attr("plugins", plugins.records())
    plugins.keep_copies(setting.folder)
    forecast = setting.forecast
    journal.set_attr(FORECAST, None if forecast is None else forecast.to_dict())
    journal.set_attr("plan", plan.to_dict())


def recorded_plan(journal: Journal, setting: Setting) -> Plan:
    """The plan a study began with, with what `--budget` and `--trials` change of it, now or in an
    earlier resume."""
    plugins.require(journal.attr("plugins", ()), f"Study {setting.study!r}")
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
    packed(setting, plan.cpus_per_trial, plan.gpus_per_trial)  # it must still fit
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
