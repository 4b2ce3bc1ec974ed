"""The Ray that a study runs on: from where it is reached, and what is said where it is lost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from test_conductor import setting, without_ray
from test_setting import request_

from cluster.resources import Node
from cluster.session import HEAD, Session
from tuner import conductor, ray_session
from tuner.exit_codes import BROKEN_DOWN
from tuner.ray_session import enter, reachable
from tuner.setting import Setting

__all__ = ["request_", "setting"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.mark.parametrize(
    ("changes", "uri", "told"),
    [
        (
            {"started_here": True, "token_command": "ray get-auth-token"},
            "sqlite:////runs/mlflow.db",
            "from this machine alone: Ray and its dashboard, with its token; MLflow is a file",
        ),
        (
            {"started_here": False, "token_command": None},
            "https://me:secret@mlflow.example",
            "as the cluster of head:6379 is, by Ray Client's port of its head (10001) as well, so "
            "let a firewall keep others out: Ray and its dashboard, by everybody there, without a "
            "token; MLflow is https://mlflow.example, as that allows",
        ),
    ],
)
def test_a_run_says_from_where_it_can_be_reached(
    changes: dict[str, Any], uri: str, told: str
) -> None:
    ray = Session(
        address="head:6379",
        dashboard_url="http://127.0.0.1:8265",
        nodes=(Node(cpus=2),),
        grows=False,
        **changes,
    )
    assert reachable(ray, uri) == told


def test_a_ray_that_nobody_noticed_dying_is_one_line_with_the_way_on(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends there and then: its main thread may wait for Ray."""

    @contextmanager
    def ray(
        _address: None, *, bereaved: Callable[[list[str]], int], **_more: Any
    ) -> Iterator[None]:
        sys.exit(bereaved(["gcs_server"]))
        yield

    without_ray(monkeypatch)
    monkeypatch.setattr(ray_session, "session", ray)
    with pytest.raises(SystemExit) as ended:
        conductor.conduct(setting.request)
    assert ended.value.code == BROKEN_DOWN
    said = capsys.readouterr().err
    assert said.startswith("Stopped: Ray died on this machine (gcs_server), then go on with: ")
    assert "--resume" in said
    assert said.count("\n") == 1


def test_a_ray_that_does_not_come_up_leaves_a_study_that_goes_on(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def ray(*_content: Any, **_more: Any) -> Iterator[None]:
        raise ConnectionError("Ray did not start on this machine: it timed out.")
        yield

    without_ray(monkeypatch)
    monkeypatch.setattr(ray_session, "session", ray)
    assert conductor.conduct(setting.request) == BROKEN_DOWN
    said = capsys.readouterr().err
    assert said.startswith(
        "Stopped: Ray did not start on this machine: it timed out; end other programs that keep it "
        "busy, then go on with: "
    )
    assert "--resume" in said
    assert said.count("\n") == 1


def test_sigterm_is_ctrl_c_while_all_is_closed_after_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def ray(_address: None, **_more: Any) -> Iterator[None]:
        yield
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray's libraries do

    monkeypatch.setattr(ray_session, "session", ray)
    before, then = signal.getsignal(signal.SIGTERM), []
    with ExitStack() as stack:
        stack.callback(lambda: then.append(signal.getsignal(signal.SIGTERM)))
        enter(stack, None)
    signal.signal(signal.SIGTERM, before)
    assert then == [signal.default_int_handler]


def test_a_head_that_is_lost_before_a_study_begins_is_one_line(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(address: str, *, bereaved: Callable[[list[str]], int], **_more: Any) -> None:
        sys.exit(bereaved([f"{HEAD}{address}"]))

    monkeypatch.setattr(ray_session, "session", lose)
    with pytest.raises(SystemExit) as ended:
        conductor.conduct(replace(setting.request, address="10.0.0.1:6379"))
    assert ended.value.code == BROKEN_DOWN
    lost = "Stopped: Ray died (no answer from the head at 10.0.0.1:6379), then "
    assert capsys.readouterr().err == f"{lost}run the same command again\n"
