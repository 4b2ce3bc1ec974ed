"""Settings worth trying first, and the proof that the search space contains them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler

from trainables.errors import UserError

_DRAWS = 16  # of the open parameters, to see every branch of a conditional space
_MANY_DRAWS = 64  # of all parameters, to see the rare ones
_MOST_DRAWS, _FITTING = 400, 12  # until so many have the settings that are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPoint:
    """A named setting that runs before anything is sampled.

    Attributes:
        label: its name in tables, such as "paper"; one point a label.
        params: values of search parameters; those left out are sampled.
        overrides: config fields set after the space has built the config, for values that the
            space would never sample. Such a point teaches the sampler nothing.
        reference: never stopped early, so that others can be compared with it at equal compute.
    """

    label: str
    params: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    reference: bool = False

    def as_attrs(self) -> dict[str, Any]:
        """What the journal keeps of a point beside its label."""
        attrs: dict[str, Any] = {"reference": True} if self.reference else {}
        if self.overrides:
            attrs |= {"point": dict(self.params), "overrides": dict(self.overrides)}
        return attrs


class Probe(optuna.trial.FixedTrial):
    """A trial outside any study: fixed values where given, seeded random ones elsewhere."""

    def __init__(self, params: Mapping[str, Any], *, seed: int) -> None:
        """Answer from `params`, and from `seed` where they are silent."""
        super().__init__(dict(params))
        self._sampler = RandomSampler(seed=seed)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            no_study: Any = None  # random values depend on none
            self._params[name] = self._sampler.sample_independent(
                no_study, no_study, name, distribution
            )
        value = self._params[name]
        named = isinstance(distribution, CategoricalDistribution)
        try:  # Optuna would take "0.5" for .5, and only here
            contained = (named or not isinstance(value, str | bool)) and distribution._contains(
                distribution.to_internal_repr(value)
            )
        except (TypeError, ValueError):
            contained = False
        if not contained:
            raise UserError(f"`{name}` = {value!r} is outside of {_range(distribution)}.")
        return super()._suggest(name, distribution)


def _range(distribution: BaseDistribution) -> str:
    """What a parameter may be, for people."""
    if isinstance(distribution, CategoricalDistribution):
        return f"{', '.join(map(repr, distribution.choices))}"
    low, high = getattr(distribution, "low", None), getattr(distribution, "high", None)
    return f"{low} to {high}"


class _Settings(Probe):
    """A probe that also answers by the config field that a parameter leads to: a setting
    `inner_lr` is the value of the parameter `inner_lr_adam`."""

    def __init__(self, settings: Mapping[str, Any], names: frozenset[str], *, seed: int) -> None:
        super().__init__(settings, seed=seed)
        self._by_field = {name: value for name, value in settings.items() if name in names}

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        field_name = name.rpartition("_")[0]
        if name not in self._params and field_name in self._by_field:
            self._params[name] = self._by_field[field_name]
        return super()._suggest(name, distribution)

    def values(self) -> dict[str, Any]:
        """The parameters that the space asked for, of the types that it asked for."""
        return {
            name: distribution.to_external_repr(distribution.to_internal_repr(self._params[name]))
            for name, distribution in self.distributions.items()
        }


def point_of(
    label: str, settings: Mapping[str, Any], space: Callable[[Any, Any], Any], base: Any
) -> KnownPoint:
    """The point of a space at which its config has the `settings`.

    Args:
        label: of the point.
        settings: values of search parameters, or of config fields, such as a trial's `params` or
            a champion's whole config. Parameters that they say nothing about are left open; those
            that they depend on are found.
        space: (trial, base) -> frozen config.
        base: config that the space starts from.
    Raises:
        UserError: the space has no such point; names the first setting that it does not have.
    """
    names = frozenset(f.name for f in fields(base))
    known = names | parameters_of(space, base).all.keys()
    if unknown := [name for name in settings if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{label}: there is no setting {unknown[0]!r}.{hint}")
    fitting: list[dict[str, Any]] = []
    misfits: set[tuple[bool, str]] = set()
    for draw in range(_MOST_DRAWS):
        probe = _Settings(settings, names, seed=draw)
        try:
            config = json.loads(json.dumps(asdict(space(probe, base))))
            misfit = _misfit(settings, config, probe)
        except ValueError as error:
            misfits.add((False, str(error)))
        else:
            if misfit:
                misfits.add((True, misfit))
            else:
                fitting.append(probe.values())
        if len(fitting) == _FITTING:
            break
    if not fitting:
        raise UserError(f"{label}: {min(misfits)[1]}")
    first, *others = fitting  # what was drawn differs among them, what was asked for does not
    common = {n: v for n, v in first.items() if all(n in o and o[n] == v for o in others)}
    for name in sorted(settings.keys() & names - common.keys()):
        ways = {n for values in fitting for n in values if n.rpartition("_")[0] == name}
        if ways and not ways & common.keys():
            raise UserError(
                f"{label}: `{name}` = {settings[name]!r} may be {' or '.join(sorted(ways))}: name "
                "the one that is meant, or what it depends on."
            )
    return KnownPoint(label=label, params=common)


def _misfit(settings: Mapping[str, Any], config: Mapping[str, Any], probe: Probe) -> str:
    """The first setting that a config does not have, or ""."""
    for name, value in settings.items():
        if name in probe.distributions or (name in config and config[name] == value):
            continue
        if name in config:
            return (
                f"`{name}` = {value!r} is outside of the space, which has {config[name]!r} there."
            )
        return f"`{name}` = {value!r} is a parameter that the other settings leave no place for."
    return ""


def check_known_point(point: KnownPoint, space: Callable[[Any, Any], Any], base: Any) -> None:
    """Refuse a point that would not run as it is written.

    Raises:
        UserError: an unknown parameter, a value out of range, a parameter that exists only for
            some values of one that the point leaves open, or an unknown config field.
    """
    known_fields = {f.name for f in fields(base)}
    for name in point.overrides:
        if name not in known_fields:
            raise UserError(f"Known point {point.label!r}: there is no config field {name!r}.")
    for draw in range(_DRAWS):
        probe = Probe(point.params, seed=draw)
        try:
            replace(space(probe, base), **point.overrides)
        except ValueError as error:
            raise UserError(f"Known point {point.label!r}: {error}") from error
        unused = sorted(set(point.params) - set(probe.distributions))
        if unused:
            raise UserError(
                f"Known point {point.label!r}: the space has no parameter {unused[0]!r} for "
                f"{dict(probe.params)}; leave it out, or fix what it depends on."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a search space asks for, by name, in alphabetical order.

    Attributes:
        all: every parameter there is.
        shared: those that every point has, whatever the values of others.
    """

    all: Mapping[str, BaseDistribution]
    shared: Mapping[str, BaseDistribution]


def parameters_of(space: Callable[[Any, Any], Any], base: Any) -> Parameters:
    """The parameters of a space, seen by drawing from it."""
    drawn = []
    for draw in range(_MANY_DRAWS):
        probe = Probe({}, seed=draw)
        space(probe, base)
        drawn.append(probe.distributions)
    every = {name: d for distributions in drawn for name, d in distributions.items()}
    return Parameters(
        all=dict(sorted(every.items())),
        shared={n: d for n, d in sorted(every.items()) if all(n in some for some in drawn)},
    )


def trial_seed(seed: int, number: int, again: int = 0) -> int:
    """A seed of its own for trial `number` of a study seeded with `seed`, below 2**32.

    Args:
        again: 0 for the search; each further training of the trial has a number of its own.
    """
    words = [seed, number, again] if again else [seed, number]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
