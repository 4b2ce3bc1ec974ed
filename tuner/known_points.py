"""Settings worth trying first, and the proof that the search space contains them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler

from trainables.errors import UserError

_DRAWS = 16  # of the open parameters, to see every branch of a conditional space
_MANY_DRAWS = 64  # of all parameters, to see the rare ones


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
        try:
            contained = distribution._contains(distribution.to_internal_repr(value))
        except (TypeError, ValueError):
            contained = False
        if not contained:
            raise UserError(f"`{name}` = {value!r} is outside of {distribution}.")
        return super()._suggest(name, distribution)


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
