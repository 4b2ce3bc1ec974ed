"""Addresses of tracking stores: which are refused, and how, and that no password is shown."""

from __future__ import annotations

import os
import re
import shlex
import socket
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tracked_study import options

from trainables.errors import UserError
from tuner import store_failures
from tuner.pages import run_page
from tuner.tracking import Tracker
from tuner.tracking_uri import (
    page_address,
    reason,
    require_no_password,
    resolve_uri,
    sqlite_path,
    strip_credentials,
    ui_command,
)

# MLflow's own, on SQLAlchemy 2.1: `noload` in its table classes.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_a_server_that_is_not_there_is_answered_within_seconds(tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = dict(os.environ)
    began = time.monotonic()
    with pytest.raises(UserError, match="cannot be used") as caught:
        Tracker(f"http://me:secret@127.0.0.1:{port}", storage=tmp_path, **options([]))
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert f"http://127.0.0.1:{port}" in message
    assert "Connection refused" in message
    assert "secret" not in message
    assert "\n" not in message
    assert {k: v for k, v in os.environ.items() if k in before} == before


def test_a_server_that_never_answers_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(store_failures, "CHECK_SECONDS", 1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        with pytest.raises(UserError, match="cannot be used"):
            Tracker(f"http://127.0.0.1:{mute.getsockname()[1]}", storage=tmp_path, **options([]))
        assert time.monotonic() - began < 5


def test_a_database_server_that_is_not_there_is_named_without_its_password(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"postgresql://me:s3cr@t@127.0.0.1:{port}/mlflow"
    with pytest.raises(UserError, match="Connection refused") as caught:
        Tracker(uri, storage=tmp_path, **options([]))
    assert f"postgresql://127.0.0.1:{port}/mlflow" in str(caught.value)
    assert "cr@t" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        *("./mlruns", "/data/mlruns", "file:///data", "ftp://host/x", ""),
        *("http://", "http://h:x", "http://[1"),
    ],
)
def test_what_is_no_tracking_uri_is_refused(tmp_path, uri):
    with pytest.raises(UserError, match="`--tracking-uri`") as caught:
        resolve_uri(uri, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("http://me:s3cret@host:5000", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("HTTPS://me:s3c'ret@host", "MLFLOW_TRACKING_PASSWORD"),
        ("postgresql+psycopg://me:s3c/ret@host/mlflow", "PGPASSWORD"),
        (
            "postgresql://me@host/mlflow?password=s3cret",
            "MLflow server .* postgresql://host/mlflow",
        ),
        ("postgresql://host/mlflow?sslmode=require&PassWord=s3c%2Fret@", "~/.pgpass"),
        ("https://host/?token=s3cret", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_password_on_the_command_line_is_refused_with_the_place_for_it(uri, place):
    with pytest.raises(UserError, match=place) as caught:
        require_no_password(uri)
    assert not re.search("s3c|ret@", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        *("http://host:5000", "postgresql://me@host/mlflow", "sqlite:////home/a:b@c/mlflow.db"),
        "mysql+pymysql://me:known@host/mlflow",  # its drivers take it from nowhere else
        "postgresql://me@host/mlflow?passfile=/home/me/.pgpass&sslmode=require",
    ],
)
def test_an_address_without_a_password_is_not_refused(uri):
    require_no_password(uri)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_an_sqlite_address_must_name_a_file(uri, tmp_path):
    with pytest.raises(UserError, match="name a file"):
        resolve_uri(uri, tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to have been one " * 40)
    with pytest.raises(UserError, match="not a database"):
        Tracker(f"sqlite:///{path}", storage=tmp_path, **options([]))
    assert path.read_text().startswith("not a database")


def test_a_store_in_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be used"):
        Tracker(f"sqlite:///{tmp_path}/file/mlflow.db", storage=tmp_path, **options([]))


def test_sqlite_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///runs/a.db", tmp_path) == f"sqlite:///{tmp_path}/runs/a.db"
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert sqlite_path("sqlite:////a/b.db?mode=ro") == Path("/a/b.db")


printable = {"exclude_categories": ["Zl", "Zp", "C"]}  # with spaces and quotes


@given(
    user=st.text(st.characters(**printable, exclude_characters="/:"), min_size=1),
    password=st.text(st.characters(**printable), min_size=1),
)
@example(user="me", password="hu'sh")
@example(user="me", password='1 2"@/3')
def test_no_password_survives(user, password):
    text = f"connecting to https://{user}:{password}@host.example:5000/path failed"
    assert strip_credentials(text) == "connecting to https://host.example:5000/path failed"


@pytest.mark.parametrize(
    ("uri", "left"),
    [
        ("postgresql://host/db?user=me&password=s3cret", "postgresql://host/db?user=me&"),
        ("postgresql://host/db?sslPassword=s3cret&a=b", "postgresql://host/db?a=b"),
        ("https://host/x?access_token=s3cret failed", "https://host/x? failed"),
        ("mysql://host/db?password=s3c'ret&a=b", "mysql://host/db?a=b"),
    ],
)
def test_no_password_among_parameters_survives(uri, left):
    assert strip_credentials(uri) == left


@pytest.mark.parametrize(
    "name",
    [
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    ],
)
def test_what_an_error_repeats_of_the_environment_is_hidden(monkeypatch, name):
    monkeypatch.setenv(name, "hunter2/+=")
    told = reason(ConnectionError("401 for Basic me:hunter2/+= at https://me:other@host:5000"))
    assert told == "401 for Basic me:*** at https://host:5000"


@pytest.mark.parametrize(
    "text", ["sqlite:////home/me@work/m.db", "curl https://host/done; mail me@work"]
)
def test_an_at_sign_elsewhere_is_no_password(text):
    assert strip_credentials(text) == text


def test_the_command_for_the_pages_is_exact_and_keeps_passwords_out():
    local = ui_command("sqlite:////my runs/mlflow.db")
    assert Path(shlex.split(local)[0]).is_absolute()
    assert local.endswith(
        "mlflow ui --backend-store-uri 'sqlite:////my runs/mlflow.db' --workers 1 --port 5000"
    )
    assert ui_command("http://me:secret@host:5000") == "http://host:5000"
    assert "secret" not in ui_command("postgresql://me:secret@host/db")


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # of MLflow's own classes
def test_the_pages_are_shown_on_this_machine_alone():
    """The command that is printed names no host: what MLflow takes then."""
    from mlflow.cli import cli

    assert "--host" not in ui_command("sqlite:////runs/mlflow.db")
    (host,) = (option for option in cli.get_command(None, "ui").params if option.name == "host")
    assert host.default == "127.0.0.1"


def test_the_studys_page_is_on_its_server_or_on_the_local_one():
    page = run_page("1", "ab")
    assert page == "#/experiments/1/runs/ab?workflowType=machine_learning"
    assert page_address("http://me:pw@host:5000/", page) == f"http://host:5000/{page}"
    assert page_address("sqlite:////runs/mlflow.db", page) == f"http://127.0.0.1:5000/{page}"
