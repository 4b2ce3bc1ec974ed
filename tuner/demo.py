"""Command line: a local page to draw four pictures on and see what a champion makes of them.

python -m tuner.demo [NAME]
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from trainables.addresses import is_address
from trainables.errors import UserError
from tuner import plugins
from tuner.champion_folder import CHAMPION, FILES
from tuner.command_line import OneLineParser, add_plugin_option, add_storage_option, answer
from tuner.model import Model

LOOPBACK = "127.0.0.1"
PORTS, LAST_PORT = range(7860, 7960), 65535
DESCRIPTION = """\
A local page: draw four versions of a character with the mouse, or choose four pictures, and see
what a champion makes of them after more and more adaptation steps. Without NAME it is the newest
champion of the storage folder; the page lists the others. Nothing leaves this machine; Ctrl-C ends
it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    parser = OneLineParser(prog="python -m tuner.demo", description=DESCRIPTION)
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="of a study or a registered model, or a folder"
    )
    add_storage_option(parser)
    parser.add_argument("--tracking-uri", help="MLflow store of a registered model")
    parser.add_argument(
        "--host", default=LOOPBACK, help=f"address to listen on (default: {LOOPBACK}, nobody else)"
    )
    parser.add_argument(
        "--port", type=int, help=f"to listen on (default: the first free one from {PORTS[0]})"
    )
    add_plugin_option(parser)
    return answer(lambda: _serve(parser.parse_args(argv)))


def champions(storage: str) -> list[str]:
    """Studies in a storage folder that have a champion, the newest first."""
    if is_address(storage):
        return []
    folders = [path.parent for path in Path(storage).glob(f"*/{CHAMPION}/{FILES[1]}")]
    whole = [folder for folder in folders if (folder / FILES[0]).is_file()]
    whole.sort(key=lambda folder: (folder / FILES[1]).stat().st_mtime, reverse=True)
    return [folder.parent.name for folder in whole]


def sources(name: str | None, storage: str) -> list[str]:
    """What the page offers, the one it begins with first.

    Raises:
        UserError: nothing was named, and there is nothing yet.
    """
    found = champions(storage)
    if name is not None:
        return [name, *(other for other in found if other != name)]
    if is_address(storage):
        raise UserError(
            f"In a bucket a champion must be named: python -m tuner.demo NAME --storage {storage}"
        )
    if not found:
        raise UserError(
            f"There is no champion in {storage!r} yet: `python -m tuner.launch reptile_omniglot` "
            "makes one, in 10 minutes on 2 cores; or name a model, or another --storage."
        )
    return found


def free_port(host: str, port: int | None) -> int:
    """The port, or the first free one of ours.

    Raises:
        UserError: it is taken, or nothing can listen there.
    """
    if port is not None and not 1 <= port <= LAST_PORT:
        raise UserError(f"--port must be 1 to {LAST_PORT}, got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in PORTS if port is None else [port]:
        try:
            with socket.create_server((host, wanted), family=family):
                return wanted
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            problem = "it is taken" if taken else error.strerror
            if not taken:
                break
    raise UserError(
        f"--host and --port must be where this machine can listen, got {host}, {wanted} "
        f"({problem}); name others."
    )


def _serve(arguments: argparse.Namespace) -> int:
    plugins.load(arguments.plugin)
    names = sources(arguments.name, arguments.storage)
    host, port = arguments.host, free_port(arguments.host, arguments.port)
    with tempfile.TemporaryDirectory(prefix="few-shot-tuner-demo-") as folder:
        # Before Gradio is imported, which reads them then. It asks its own page whether it is
        # there, which is no matter for a proxy.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), f"localhost,{LOOPBACK},{host}")
        from tuner.demo_page import Studio, open_page

        def opened(name: str) -> Model:
            if name != arguments.name:  # one of `champions`, and not of the registry
                return Model.open(str(Path(arguments.storage).absolute() / name))
            return Model.open(name, storage=arguments.storage, tracking_uri=arguments.tracking_uri)

        studio = Studio(names, opened, storage=Path(arguments.storage), folder=Path(folder))
        if arguments.name is None:
            studio.pass_over(lambda line: print(line, file=sys.stderr))
        begun = studio.model(studio.names[0])
        with open_page(studio, host, port) as address:
            print(f"{begun.title}: {address} (Ctrl-C ends it)", flush=True)
            if host not in (LOOPBACK, "localhost", "::1"):
                print("Everybody who can reach this machine can use it.", flush=True)
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                studio.stop_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
