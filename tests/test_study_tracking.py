"""A study that goes on, as MLflow is told of it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from test_conductor import setting, without_ray
from test_delivery import runs_in
from test_result import result
from test_search import rung
from test_setting import begun, request_

from trainables.errors import UserError
from tuner import conductor, registered_models, tracking
from tuner.exit_codes import INTERRUPTED
from tuner.journal import Journal
from tuner.setting import Setting
from tuner.study_tracking import replay

__all__ = ["request_", "setting"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_a_study_is_resumed_while_mlflow_is_away(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one is not begun, and one that is finished has nothing else to do."""
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.5)
    without_ray(monkeypatch)
    searched = SimpleNamespace(run=SimpleNamespace(interrupted=True))
    monkeypatch.setattr(conductor, "search_trials", lambda *_a: searched)
    assert conductor.conduct(setting.request) == INTERRUPTED
    with Journal(setting.request.storage, setting.study) as journal:
        place = journal.attr("mlflow")
        journal.ask(setting.experiment.space, setting.experiment.base)
    capsys.readouterr()

    real = registered_models.open_client

    def away(_uri: str) -> None:
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(registered_models, "open_client", away)
    with pytest.raises(UserError, match="Connection refused"):
        conductor.conduct(replace(setting.request, study="a-new-one"))
    again = replace(setting.request, resume=True, study=setting.study)
    assert conductor.conduct(again) == INTERRUPTED
    said = capsys.readouterr()
    assert "the search goes on" in said.out
    assert "records did not reach the tracking store" in said.out
    assert "--resume" in said.out
    with Journal(setting.request.storage, setting.study) as journal:
        assert journal.attr("mlflow") == place

    monkeypatch.setattr(registered_models, "open_client", real)
    assert conductor.conduct(again) == INTERRUPTED
    assert set(runs_in(setting)) == {"study", "0"}
    replace(result(setting.folder), study=setting.study).write(setting.folder / "result.json")
    monkeypatch.setattr(registered_models, "open_client", away)
    with pytest.raises(UserError, match="Connection refused"):
        conductor.conduct(again)


def test_an_end_that_was_decided_but_not_told_is_told_to_mlflow(setting: Setting) -> None:
    with begun(setting) as journal:
        journal.ask(setting.experiment.space, setting.experiment.base)
        journal.add_rung(0, rung(0, 1.0, decision="done"))
        told = Mock()
        replay(journal, told)
        ended = journal.record(0).ended
    told.trial_ended.assert_called_once_with(0, "COMPLETE", "", when=ended)


def test_mlflow_is_told_again_what_happened_and_when(setting: Setting) -> None:
    """Of a trial that ended, one that waits, and one that went on from where it waited."""
    with begun(setting) as journal:
        for number, decision in enumerate(["done", "pause", "pause"]):
            journal.ask(setting.experiment.space, setting.experiment.base)
            scored = rung(0, 1.0, decision=decision)
            journal.add_rung(number, replace(scored, when=1000.0 + number))
        journal.promote(2)
        told = Mock()
        replay(journal, told)
        records = journal.records()
    times = [call.kwargs["when"] for call in told.trial_started.call_args_list]
    assert times == [record.began for record in records]
    assert [call.kwargs["when"] for call in told.rung_reached.call_args_list] == [1000, 1001, 1002]
    told.trial_ended.assert_called_once_with(0, "COMPLETE", "", when=1000.0)
    told.trial_promoted.assert_called_once_with(2)
