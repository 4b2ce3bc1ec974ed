"""Which trials of a study are the best: those that came far, by L, or a Pareto front of them."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.objectives import losses, pareto_front
from tuner.trial_records import TrialRecord

_CHAMPION_FIDELITY = 0.5  # of the furthest trial's; below it a score says too little


def best_trial(records: Sequence[TrialRecord], full: float) -> TrialRecord | None:
    """The lowest L among trials that came at least half as far as the furthest one.

    Fidelity is training compute, so the best never comes from a low rung, and a trial that the
    clock cut on its way up may still win. Failed trials never do. Equal scores: the earlier trial.

    Args:
        records: all trials.
        full: FLOPs of the last rung; a large net's last step overshoots it, and wins nothing by it.
    """
    return next(iter(ranked_trials(records, full)), None)


def leading_trial(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The lowest L among those that came furthest so far, while trials are still running."""
    scored = [r for r in records if r.rungs and r.state != "FAIL"]
    return min(scored, key=lambda r: (-reached(r), r.score, r.number), default=None)


def reached(record: TrialRecord) -> int:
    """Rungs that a trial has come to."""
    return 0 if not record.rungs else record.rungs[-1].rung + record.rungs[-1].complete


def ranked_trials(records: Sequence[TrialRecord], full: float) -> list[TrialRecord]:
    """All that were scored, as `best_trial` ranks them: those that came far before the others."""
    scored = [r for r in records if r.state in ("COMPLETE", "PRUNED") and r.score is not None]
    far = _far(scored, full)
    return sorted(scored, key=lambda r: (r.fidelity < far, r.score, r.number))


def far_trials(records: Sequence[TrialRecord], full: float) -> list[TrialRecord]:
    """Those of `ranked_trials` that came far, whose scores can be compared."""
    ranked = ranked_trials(records, full)
    far = _far(ranked, full)
    return [record for record in ranked if record.fidelity >= far]


def front_trials(
    records: Sequence[TrialRecord], full: float, objectives: Sequence[str]
) -> list[TrialRecord]:
    """Those of `far_trials` that no other beats in all objectives."""
    far = far_trials(records, full)
    values = [[r.rungs[-1].metrics[name] for name in objectives] for r in far]
    return [far[n] for n in pareto_front([losses(own, objectives) for own in values])]


def _far(scored: Sequence[TrialRecord], full: float) -> float:
    return _CHAMPION_FIDELITY * min(full, max((r.fidelity for r in scored), default=0.0))
