"""How the final round shares its time."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from test_search import rung
from test_setting import planned, request_
from toy_pipeline import toy_context

from trainables.pipeline import StudyContext
from tuner import final_round
from tuner.final_round import FinalRound
from tuner.request import Request
from tuner.setting import look_around
from tuner.trial_records import TrialRecord

__all__ = ["request_"]  # a fixture


class FakeFinals:
    """Finals without Ray that note what they are asked for."""

    pipeline, full, slots, fresh_context = "reptile", 9e9, 1, None

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def rematch(self, records: Any, scorer: Any, *, seeds: int, ends: float) -> list[Any]:
        self.asked.append(("rematch", round(ends - time.monotonic())))
        return []

    def last_models(self, records: Any, *, again: int, ends: float) -> list[Any]:
        self.asked.append(("models", [r.number for r in records], round(ends - time.monotonic())))
        return [f"model {r.number}" for r in records]

    def test(self, record: Any, model: Any, scorer: Any, *, stop: int) -> Any:
        self.asked.append(("test", record.number, model, stop))
        return SimpleNamespace(adapt_steps=stop)

    def augmentation(self, record: Any, scorer: Any) -> Any:
        return None


def test_the_rematch_has_what_trainings_and_tests_leave(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 s. A training takes 9 s, on one slot, and a test of 5
    episodes and 20 steps 10 s and 5 s: the champion's, the one before it's and the reference's."""
    metrics = {"train_seconds": 9.0, "train_flops": 9e9, "score_seconds": 10.0}
    metrics |= {"score_steps": 100.0, "adapt_steps": 20.0, "L": 1.0}
    records = [
        TrialRecord(
            number=number,
            label="",
            state="COMPLETE",
            reason="",
            params={},
            config={"adapt_steps": 40},
            rungs=(replace(rung(0, loss), metrics=metrics | {"L": loss}),),
            attrs={"reference": number == 0},
        )
        for number, loss in ((0, 2.0), (1, 1.0))
    ]
    setting = look_around(replace(request_, tracking_uri=None, budget_seconds=None), None)
    context, finals = StudyContext(**toy_context()), FakeFinals()
    last = FinalRound(setting, planned(setting), context, context)
    last._finals = finals  # type: ignore[assignment]
    monkeypatch.setattr(last, "_scorer", lambda *_a: SimpleNamespace(episodes=range(5), reals=None))
    monkeypatch.setattr(final_round, "save_champion", lambda *_a, **_k: None)
    monkeypatch.setattr(final_round.ray, "get", lambda model: model)
    played = last._play(records, ends=time.monotonic() + 100, gate=True)
    assert finals.asked == [
        ("rematch", 100 - 3 * 15 - 2 * 9),
        ("models", [1, 0], 100 - 3 * 15),
        ("test", 1, "model 1", 20),
        ("test", 0, "model 0", 20),
    ]
    assert played.reference is not None
    assert played.reference[0].number == 0
