"""What fails with a tracking store: told in one line, and whether another try makes sense."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from trainables.errors import UserError
from tuner.store_client import CHECK_SECONDS
from tuner.tracking_uri import not_let_in, unreachable

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException


@contextmanager
def usable(uri: str) -> Iterator[None]:
    """In here, calls to a server fail fast, and every failure is a `UserError` of one line."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(CHECK_SECONDS),
    }
    before = {name: os.environ[name] for name in wanted if name in os.environ}
    os.environ.update(wanted)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # MLflow lets through whatever its stores and drivers raise
        known = not _asks_who_we_are(error)
        raise (unreachable(uri, error) if known else not_let_in(uri)) from error
    finally:
        for name in wanted:
            del os.environ[name]
        os.environ.update(before)


def is_passing(error: BaseException | None) -> bool:
    """Whether a failed call is worth another try: the server's fault, or the network's."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, UserError):  # the words for what is behind it
        return is_passing(error.__cause__)
    if isinstance(error, MlflowException):
        return _may_pass(http_status(error))
    answer = getattr(error, "response", None)  # an HTTP server's, to an upload
    if answer is not None:
        return _may_pass(answer.status_code)
    if isinstance(error, OperationalError | sqlite3.OperationalError):  # locked, or restarting
        return True
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def _asks_who_we_are(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and http_status(error) == HTTPStatus.UNAUTHORIZED


def _may_pass(status: int) -> bool:
    return status >= 500 or status in (408, 429)


def http_status(error: MlflowException) -> int:
    """Of a server's answer, or what a server would have answered."""
    return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
