"""A trial as a journal has it, for tests of what is made of it."""

from __future__ import annotations

from tuner.trial_records import RungRecord, TrialRecord


def record(number, *points, state="COMPLETE"):
    """A trial scored at (train_flops, L) points."""
    rungs = tuple(
        RungRecord(
            rung=k,
            metrics={"train_flops": flops, "L": value, "complete": 1.0},
            losses=[],
            checkpoint="",
            seconds=0.0,
            decision="continue",
            episodes=[value],
        )
        for k, (flops, value) in enumerate(points)
    )
    return TrialRecord(
        number=number,
        label="",
        state=state,
        reason="",
        params={},
        config={},
        rungs=rungs,
        attrs={},
    )
