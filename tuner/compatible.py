"""Whether what is here now can go on with a study that was begun elsewhere or earlier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from trainables.errors import UserError
from tuner.journal import PACKAGE, Journal, Space, installed
from tuner.known_points import Probe

_SHOWN = 5  # differences
_SAME = (PACKAGE, "optuna")  # packages of which another version would draw other settings


def require_same_versions(journal: Journal) -> str:
    """Refuse to go on where other code would choose -> what else differs, in a line; or "".

    Raises:
        UserError: this project or Optuna is of another version than when the study began.
    """
    now = installed()
    other = {p: v for p, v in journal.attr("versions", {}).items() if v != now.get(p)}
    told = [f"{package} {then} then, {now.get(package)} now" for package, then in other.items()]
    for package in _SAME:
        if package in other:
            raise UserError(
                f"Study {journal.study.study_name!r} was begun with {package} {other[package]}, "
                f"and {now[package]} is installed: install {package}=={other[package]} to go on "
                "with it, or begin another study."
            )
    return ", ".join(told)


def require_same_space(journal: Journal, space: Space, base: Any) -> None:
    """Refuse to mix trials of two search spaces: asks every trial's questions again.

    The journal keeps each trial's parameters with their ranges, and the config that came of them.

    Raises:
        UserError: a trial would be asked, or would make of the answers, something else now; says
            the names that differ.
    """
    trials = [t for t in journal.study.get_trials(deepcopy=False) if "config" in t.user_attrs]
    # Ranges say more than what came of them, which is all there is of an overridden point.
    for trial in sorted(trials, key=lambda t: "overrides" in t.user_attrs):
        if differences := _differences(trial, space, base):
            raise UserError(
                f"Study {journal.study.study_name!r} has another search space than this version "
                f"({'; '.join(differences[:_SHOWN])}): go on with the version and options it was "
                "begun with, or begin another study."
            )


def _differences(trial: FrozenTrial, space: Space, base: Any) -> list[str]:
    attrs = trial.user_attrs
    if attrs.get("overrides"):
        probe = Probe(attrs["point"], seed=trial.number)
        config = asdict(replace(space(probe, base), **attrs["overrides"]))
        return _changed(attrs["config"], config)
    asked = _AskedAgain(trial.params)
    try:
        config = asdict(space(asked, base))
    except _NewParameter:
        return [f"`{list(asked.ranges)[-1]}` is new"]
    then, now = trial.distributions, asked.ranges
    told = [
        f"`{name}` {then[name]} then, {now.get(name, 'absent')} now"
        for name in sorted(then)
        if then[name] != now.get(name)
    ]
    return told or _changed(attrs["config"], config)


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    plain = {
        name: list(value) if isinstance(value, tuple) else value for name, value in now.items()
    }
    return [
        f"`{name}` = {then.get(name)!r} then, {plain.get(name)!r} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != plain.get(name)
    ]


class _NewParameter(Exception):
    """The space asks for what a trial has no value of."""


class _AskedAgain(optuna.trial.FixedTrial):
    """Answers what a trial was answered, and notes what it is asked."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(dict(params))
        self.ranges: dict[str, BaseDistribution] = {}

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        self.ranges[name] = distribution
        if name not in self._params:
            raise _NewParameter
        return self._params[name]
