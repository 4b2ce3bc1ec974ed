"""Where tracking goes: checks of the address, hidden passwords, and the command to see it."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from trainables.errors import UserError

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https")
UI_PORT = 5000
ACCOUNT = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"  # of a server
# Where else a password can be.
_PASSWORDS = {
    "http": ACCOUNT,
    "https": ACCOUNT,
    "postgresql": "PGPASSWORD or ~/.pgpass, or to an MLflow server that you name instead",
}

# Up to the last @, since a password may hold one, a slash, a quote or a space unescaped, where the
# user that precedes it has neither : nor /; not in sqlite:///path.
_CREDENTIALS = re.compile(r"""(?<=://)(?!/)(?:[^/:\n]*:.*|[^\s'"]*)@""")
# postgresql://host/db?password=..., which drivers take as well.
_IN_QUERY = re.compile(r"""(?i)(?<=[?&])\w*(?:password|passwd|pwd|token|secret)\w*=[^&\s]*&?""")
# Of the environment; an error's text may repeat what was sent.
_SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RAY_AUTH_TOKEN",
)


def strip_credentials(text: str) -> str:
    """`text` with every `user:password@` of the addresses in it taken out, and every password
    among their parameters."""
    return _IN_QUERY.sub("", _CREDENTIALS.sub("", text))


def without_secrets(text: str) -> str:
    """The same, and without the passwords and tokens of the environment."""
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, "***")
    return strip_credentials(text)


def require_no_password(uri: str) -> None:
    """Refuse an address with a password in it, where there is another place for that.

    Raises:
        UserError: it has one.
    """
    scheme, _, rest = uri.partition("://")
    among_parameters = _IN_QUERY.search(rest) is not None
    named, _, host = (rest.partition("?")[0] if among_parameters else rest).rpartition("@")
    place = _PASSWORDS.get(scheme_of(uri))
    if (among_parameters or ":" in named) and place is not None:
        raise UserError(
            "`--tracking-uri` must hold no password, since command lines are shown to everybody on "
            f"a machine and kept by Ray; leave it to {place}, for {scheme}://{host}."
        )


def default_uri(storage: Path) -> str:
    """SQLite in the storage folder, absolute: MLflow's own default follows the working folder."""
    return f"sqlite:///{storage.resolve() / 'mlflow.db'}"


def scheme_of(uri: str) -> str:
    """The address's scheme without a driver: "postgresql+psycopg2://..." -> "postgresql"."""
    return uri.partition("://")[0].split("+")[0].lower()


def resolve_uri(uri: str | None, storage: Path) -> str:
    """The address to use: `uri`, made absolute if it is an SQLite file, else the default.

    Raises:
        UserError: not an address MLflow can keep runs at.
    """
    if uri is None:
        return default_uri(storage)
    scheme = scheme_of(uri)
    if scheme not in DATABASES + SERVERS:
        raise UserError(
            f"`--tracking-uri` must begin with one of {', '.join(DATABASES + SERVERS)} and ://, "
            f"got {strip_credentials(uri)!r}; leave it out for a file in the storage folder."
        )
    if scheme == "sqlite":
        return f"sqlite:///{sqlite_path(uri).resolve()}"
    if not _host(uri):
        raise UserError(f"`--tracking-uri` must name a host, got {strip_credentials(uri)!r}.")
    return uri


def sqlite_path(uri: str) -> Path:
    """The file behind `sqlite:///relative` or `sqlite:////absolute`.

    Raises:
        UserError: the address names no file.
    """
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    if match is None or match[1] == ":memory:":
        raise UserError(
            "`--tracking-uri` must name a file, as sqlite:////folder/mlflow.db does; got "
            f"{strip_credentials(uri)!r}."
        )
    return Path(match[1])


def require_sqlite(uri: str) -> None:
    """Make the file's folder; look that the file, if it exists, is a database.

    Raises:
        UserError: no folder can be made there, or the file is something else.
    """
    path = sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK) or path.is_dir():
            raise PermissionError(f"no file can be written at {path}")
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
    except (OSError, sqlite3.Error) as error:
        raise unreachable(uri, error) from error


def require_listener(uri: str, *, timeout: float) -> None:
    """Knock at a database server's port.

    Raises:
        UserError: nothing listens there within `timeout` seconds.
    """
    ports = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
    address = (_host(uri), urlsplit(uri).port or ports[scheme_of(uri)])
    try:
        socket.create_connection(address, timeout=timeout).close()
    except OSError as error:
        raise unreachable(uri, error) from error


def unreachable(uri: str, error: Exception) -> UserError:
    """The one line for a store that cannot be used: which, why, and the way out."""
    return UserError(
        f"The tracking store {strip_credentials(uri)} cannot be used ({reason(error)}); start it, "
        "correct `--tracking-uri`, or leave that out for a file in the storage folder."
    )


def not_let_in(uri: str) -> UserError:
    """The one line for a server that asks who we are, or does not believe it."""
    return UserError(
        f"The tracking store {strip_credentials(uri)} does not let us in: set {ACCOUNT} to an "
        "account that it has."
    )


def reason(error: BaseException) -> str:
    """One short line, without credentials, for an error whose own text may be a page."""
    root = error
    while not isinstance(root, UserError) and (root.__cause__ or root.__context__):
        root = root.__cause__ or root.__context__ or root
    if isinstance(root, UserError):  # a line already, with the way out at its end
        return without_secrets(str(root))
    if isinstance(root, ModuleNotFoundError):
        return f"its driver, the Python package {root.name}, is not installed"
    text = str(root).strip() or type(root).__name__
    line = without_secrets(text.splitlines()[0])
    # urllib3 wraps the reason in a chain of reprs: "...: Failed to establish ...: [Errno 111] ..."
    if (errno := re.search(r"\[Errno -?\d+\] ([^'\")]+)", line)) is not None:
        line = errno[1]
    return line if len(line) <= 160 else line[:157] + "..."


def ui_command(uri: str) -> str:
    """What to type (or, for a server, to open) to see the runs kept at `uri`."""
    if scheme_of(uri) in SERVERS:
        return strip_credentials(uri)
    mlflow = _mlflow_command()
    if strip_credentials(uri) != uri:  # the user knows the password; a log must not
        return f"MLFLOW_BACKEND_STORE_URI='<your tracking URI>' {mlflow} ui --port {UI_PORT}"
    return f"{mlflow} ui --backend-store-uri {shlex.quote(uri)} --workers 1 --port {UI_PORT}"


def page_address(uri: str, page: str) -> str:
    """Where a browser shows a page of the store's, once `ui_command` runs."""
    server = scheme_of(uri) in SERVERS
    base = strip_credentials(uri).rstrip("/") if server else f"http://127.0.0.1:{UI_PORT}"
    return f"{base}/{page}"


def _mlflow_command() -> str:
    """This environment's `mlflow`, as any shell in any folder can call it."""
    return shlex.quote(str(Path(sys.executable).absolute().with_name("mlflow")))


def _host(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises on a port that is no number
        return parts.hostname or ""
    except ValueError as error:
        raise UserError(
            f"`--tracking-uri` is no address ({error}), got {strip_credentials(uri)!r}."
        ) from error
