"""How many trials fit on a GPU and how fast they are there: tried out before a study is planned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, astuple
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from optuna.distributions import BaseDistribution, distribution_to_json

from cluster.resources import Card
from trainables.datasets import user_cache
from trainables.probe import meet, memory_of, speed_of
from tuner.experiments import Experiment
from tuner.journal import Space, installed
from tuner.known_points import Probe, parameters_of
from tuner.machine import Training, keep_figures
from tuner.plugins import again, load_again, records

SPEED_SECONDS = 5.0  # of training, when several are timed side by side
_SPAWN = get_context("spawn")  # CUDA bears no fork


def probed(experiment: Experiment, *, episodes: int, samples: int, fast: bool) -> Card | None:
    """What this machine's GPU holds and the largest trials of an experiment need; tried out once,
    which takes a minute or two, and kept for the commands after that.

    Args:
        episodes, samples, fast: as `Pipeline.heaviest` has them.
    Returns:
        None where this machine has no GPU, as a cluster's head, or none of the trials fits.
    """
    if not torch.cuda.is_available():
        return None
    wanted = {"episodes": episodes, "samples": samples, "fast": fast}
    place = _place(experiment, wanted)
    card = _kept(place)
    if card is None and (card := _tried(experiment, wanted)) is not None:
        keep_figures(place, asdict(card))
    return card


def _place(experiment: Experiment, wanted: Mapping[str, Any]) -> Path:
    """The file of a card, named after all that its figures depend on."""
    space = parameters_of(experiment.space, experiment.base).all
    key = {
        "card": [torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory],
        "pipeline": experiment.pipeline,
        "base": asdict(experiment.base),
        "space": {name: distribution_to_json(one) for name, one in space.items()},
        "wanted": dict(wanted),
        "versions": installed(),
        "plugins": records(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return user_cache() / "cards" / f"{experiment.pipeline}-{digest[:16]}.json"


def _kept(place: Path) -> Card | None:
    try:
        sizes = json.loads(place.read_text(encoding="utf-8"))
        card = Card(**{name: int(size) for name, size in sizes.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return card if min(astuple(card)) > 0 else None


def _tried(experiment: Experiment, wanted: Mapping[str, Any]) -> Card | None:
    with ProcessPoolExecutor(
        1, mp_context=_SPAWN, initializer=load_again, initargs=(again(),)
    ) as pool:

        def measure(config: Any) -> Card | None:
            work = partial(memory_of, experiment.pipeline, asdict(config), **wanted)
            found = pool.submit(work).result()
            if found is None:
                return None
            total, overhead, peak = found
            return Card(total=total, overhead=overhead, peak=peak)

        try:
            return largest(experiment.space, experiment.base, measure)
        except BrokenProcessPool:  # it was killed, for want of the machine's own memory
            return None


def largest(space: Space, base: Any, measure: Callable[[Any], Card | None]) -> Card | None:
    """The largest needs of the base point and of those with the largest numbers: names, such as
    architectures, are tried one after another, each beside the neediest of those before.

    Args:
        space: (trial, base) -> config.
        base: that the space starts from.
        measure: config -> its needs; None if no card is enough, and no share either.
    """
    found = [measure(base)]
    chosen: dict[str, Any] = {}
    for name, distribution in parameters_of(space, base).all.items():
        needs = {
            choice: measure(space(_Largest({**chosen, name: choice}, seed=0), base))
            for choice in _names(distribution)
        }
        if not needs:
            continue
        chosen[name] = max(needs, key=lambda choice: _peak(needs[choice]))
        found += needs.values()
    if not chosen:
        found.append(measure(space(_Largest({}, seed=0), base)))
    return max(found, key=_peak)


def _peak(card: Card | None) -> int:
    return -1 if card is None else card.peak


def _names(distribution: BaseDistribution) -> tuple[str, ...]:
    """Choices that have no order; none of a parameter that is a number."""
    choices: tuple[Any, ...] = getattr(distribution, "choices", ())
    return tuple(choices) if any(isinstance(choice, str) for choice in choices) else ()


class _Largest(Probe):
    """A trial of the largest numbers, and of the names that it is given or else the first ones."""

    def _suggest(self, name: str, distribution: Any) -> Any:
        if name not in self._params:
            numbers: Any = getattr(distribution, "choices", None)
            if names := _names(distribution):
                self._params[name] = names[0]
            else:
                self._params[name] = max(numbers) if numbers else distribution.high
        return super()._suggest(name, distribution)


def _meet(others: Barrier, plugins: Sequence[Path | str]) -> None:
    load_again(plugins)
    meet(others)


def speed_beside(training: Training) -> float:
    """FLOPs of training a second of each of the trials that share a card: how much of it one uses,
    and so what others slow it down by, differs from net to net."""
    trials = training.beside
    others = _SPAWN.Barrier(trials)
    with ProcessPoolExecutor(
        trials, mp_context=_SPAWN, initializer=_meet, initargs=(others, again())
    ) as pool:
        runs = [
            pool.submit(
                speed_of,
                training.pipeline,
                dict(training.config),
                training.device,
                threads=training.threads,
                seconds=SPEED_SECONDS,
                fast=training.fast,
            )
            for _ in range(trials)
        ]
        return sum(run.result() for run in runs) / trials
