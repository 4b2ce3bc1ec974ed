"""Asynchronous successive halving that pauses and promotes by chances, not by single scores.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv:1810.05934. There a
rung's best third goes on, which is more than needed where scores are exact and loses the best trial
where they are noisy. Here those go on that a forecast expects among the first few of all, and those
that may yet be the very best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.evidence import Forecast, Rung, fidelity, forecast

# A trial goes on from rung k if its expected rank is below _SHARE * _FALL**k of all planned trials,
# or its chance of ending as the best is at least _CHANCE * _GROWTH**k of what all would have alike.
# `make bench-search` measures what they save and what they lose.
_SHARE, _FALL = 0.13, 0.75
_CHANCE, _GROWTH = 0.75, 2.0
_COMPARED = 3  # trials before anything is decided
_UNTOLD = 0.4  # correlation with the last rung below which a rung decides nothing
_AUDITED = 6  # trials seen at two rungs before that is believed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standings:
    """How trials compare: forecast, chance of ending as the best, and the rank to
    expect among all that are planned, from 0; by trial."""

    ends: Forecast
    chances: dict[int, float]
    ranks: dict[int, float]


class Rungs:
    """Who reached which rung with which scores, and the rule that lets a trial go on.

    After a rung a trial is paused unless it goes on at once; a paused one may be promoted later,
    when others' scores or more of its own kind make it look better. The rule depends on nothing
    but what was recorded, in whatever order, so it can be rebuilt from a journal.
    """

    def __init__(
        self, count: int, *, planned: int, doubted: Callable[[int, float], None] | None = None
    ) -> None:
        """Empty rungs.

        Args:
            count: number of rungs, at least 1; nothing is decided at the last one.
            planned: trials that the study is planned for, at least 1; those that have not begun
                compete with what trials of the study are like.
            doubted: told of every rung in `untelling`, with its correlation, when it first lets a
                trial go on.
        """
        if count < 1 or planned < 1:
            raise ValueError(f"At least 1 rung and 1 trial are needed, got {count} and {planned}.")
        self.planned, self._doubted = planned, doubted
        self._scores: tuple[dict[int, tuple[float, ...]], ...] = tuple({} for _ in range(count))
        self._paused: dict[int, int] = {}  # trial -> its rung
        self._references: set[int] = set()
        self._told: set[int] = set()  # rungs that were doubted
        self._standings: _Standings | None = None

    def record(
        self, rung: int, trial: int, scores: Sequence[float], *, reference: bool = False
    ) -> bool:
        """Enter a trial's scores (lower is better), by episode, and say whether it goes on.

        A reference always goes on, if its scores are finite.

        A trial has one entry a rung: entering it again, after a crash, replaces the first. What is
        not finite never enters, and its trial stops.
        """
        if not all(map(math.isfinite, scores)):
            return False
        self.restore(rung, trial, scores, paused=False, reference=reference)
        self._paused[trial] = rung
        if goes_on := reference or self._deserves(trial):
            self.promote(trial)
        return goes_on

    def restore(
        self,
        rung: int,
        trial: int,
        scores: Sequence[float],
        *,
        paused: bool,
        reference: bool = False,
    ) -> None:
        """Enter scores whose decision was taken, and journalled, before."""
        self._standings = None
        self._scores[rung][trial] = tuple(scores)
        self._paused.pop(trial, None)
        if paused:
            self._paused[trial] = rung
        if reference:
            self._references.add(trial)

    def promotable(self, *, no_more: bool = False) -> int | None:
        """The paused trial that should go on now, if any: of the highest rung, and of those the
        one with the highest chance.

        Args:
            no_more: no trial will begin any more and none is running: rather than end without a
                trial at the last rung, the best chance there is goes on.
        """
        order = sorted(self._paused, key=lambda t: (-self._paused[t], self._now().ranks[t]))
        for trial in order:
            if self._deserves(trial):
                return trial
        ended = self._scores[-1].keys() - self._references
        return order[0] if order and no_more and not ended else None

    def forget(self, trial: int) -> None:
        """A trial failed: its scores say nothing about a chance it no longer has."""
        self._standings = None
        self._paused.pop(trial, None)
        for scores in self._scores:
            scores.pop(trial, None)

    def promote(self, trial: int) -> None:
        """A trial runs again, where it was paused."""
        self._paused.pop(trial, None)

    @property
    def entered(self) -> tuple[int, ...]:
        """Number of trials that reached each rung."""
        return tuple(len(scores) for scores in self._scores)

    @property
    def paused(self) -> tuple[int, ...]:
        """Number of trials that stand at each rung."""
        at = list(self._paused.values())
        return tuple(at.count(rung) for rung in range(len(self._scores)))

    def fidelity(self) -> dict[int, float]:
        """Spearman's rank correlation of each rung with the last one, where it can be told."""
        evidence = {
            trial: [float(np.mean(s[trial])) for s in self._scores if trial in s]
            for trial in self._scores[0]
        }
        return dict(fidelity(evidence, len(self._scores)))

    @property
    def untelling(self) -> dict[int, float]:
        """Rungs whose scores say too little about the last one's, with the forecast's correlation
        of the two: all go on from them."""
        if not self._scores[0]:
            return {}
        ends = self._now().ends
        told = ends.told if ends.pairs >= _AUDITED else ()
        return {rung: value for rung, value in enumerate(told) if value < _UNTOLD}

    def _deserves(self, trial: int) -> bool:
        rung = self._paused[trial]
        if (correlation := self.untelling.get(rung)) is not None:
            self._doubt(rung, correlation)
            return True
        there = len(self._scores[0])
        if there < min(_COMPARED, self.planned):
            return False  # nothing to compare with
        now, planned = self._now(), max(self.planned, there)
        few = max(1.0, _SHARE * _FALL**rung * planned)
        return now.ranks[trial] < few or now.chances[trial] >= _CHANCE * _GROWTH**rung / planned

    def _doubt(self, rung: int, correlation: float) -> None:
        if self._doubted is not None and rung not in self._told:
            self._told.add(rung)
            self._doubted(rung, correlation)

    def _now(self) -> _Standings:
        if self._standings is None:
            self._standings = self._compare()
        return self._standings

    def _compare(self) -> _Standings:
        trials = sorted(self._scores[0])
        row = {trial: number for number, trial in enumerate(trials)}
        filled = [
            Rung(
                trials=np.array([row[trial] for trial in sorted(scores)]),
                scores=np.array([scores[trial] for trial in sorted(scores)]),
            )
            for scores in self._scores
            if scores
        ]
        ends = forecast(filled, len(self._scores))
        unseen = max(0, self.planned - len(trials))
        chances = ends.below(ends.cut(1.0, unseen))
        ranks = ends.mean.argsort(kind="stable").argsort() + unseen * ends.new_below(ends.mean)
        return _Standings(
            ends=ends,
            chances=dict(zip(trials, chances.tolist(), strict=True)),
            ranks=dict(zip(trials, ranks.tolist(), strict=True)),
        )
