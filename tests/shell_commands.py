"""Commands that documents tell of: found, and parsed as their programs themselves would."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import click

from tuner.experiment_names import ALL
from tuner.experiments import find_experiment

FENCED = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
ROOT = Path(__file__).parents[1]
BATCH_FILE = "cluster/slurm/search.sbatch"


def fenced_blocks(page: Path) -> list[str]:
    """The blocks of shell in a page of Markdown."""
    return FENCED.findall(page.read_text(encoding="utf-8"))


def shell_blocks(page: Path) -> list[str]:
    """The commands in a page: its fenced blocks, and what is quoted and of more than a word."""
    prose = FENCED.sub("", page.read_text(encoding="utf-8"))
    return fenced_blocks(page) + [text for text in re.findall(r"`([^`]+)`", prose) if " " in text]


def simple_commands(shell: str) -> Iterator[list[str]]:
    """The commands of a piece of shell, word by word; what a command runs after `--` as well."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if not re.fullmatch(r"[();<>|&]+", token):
                if words or not re.match(r"\w+=|exec$", token):  # what may stand before a command
                    words.append(token)
            elif words:
                yield words
                if "--" in words:
                    yield words[words.index("--") + 1 :]
                words = []


def made(words: list[str]) -> list[list[str]]:
    """What a `make` would run of this Python's, were everything installed; "..." is any options.

    Raises:
        ValueError: it refuses the target or an option; says what it printed.
    """
    ready = ["-o", ".venv/.ready", "-o", ".venv/.bench", "PY=python"]
    told = subprocess.run(
        ["make", "--dry-run", *ready, *words[1:]], cwd=ROOT, capture_output=True, text=True
    )
    if told.returncode != 0:
        raise ValueError(f"{shlex.join(words)}: {told.stderr}")
    found = simple_commands(told.stdout.replace("...", ""))
    return [command for command in found if command[0] == "python"]


class Parsed(BaseException):
    """Ends a command as soon as its options are parsed."""


def parse_ours(module: str, words: list[str]) -> None:
    """Let a command of ours parse its options, and nothing more.

    Raises:
        ValueError: it refuses them; says what it printed.
    """
    parse = argparse.ArgumentParser.parse_args

    def stop_after(self: argparse.ArgumentParser, *given: Any) -> NoReturn:
        found = parse(self, *given)
        experiment = getattr(found, "experiment", None)
        named = experiment not in (None, ALL) and not experiment.isupper()  # EXPERIMENT: any
        if named and not getattr(found, "plugin", None):
            find_experiment(experiment)
        raise Parsed

    said = io.StringIO()
    with (
        patch.object(argparse.ArgumentParser, "parse_args", stop_after),
        redirect_stdout(said),
        redirect_stderr(said),
    ):
        try:
            code = import_module(module).main(words)
        except Parsed:
            return
        except SystemExit as end:  # --help
            code = end.code
    if code != 0:
        raise ValueError(f"python -m {module} {shlex.join(words)}: {said.getvalue()}")


@cache
def commands_of(program: str) -> click.Command:
    """The command line of Ray or of MLflow."""
    with warnings.catch_warnings(action="ignore"):  # MLflow's, of its own
        module = import_module({"ray": "ray.scripts.scripts", "mlflow": "mlflow.cli"}[program])
    found: click.Command = module.cli
    return found


def parse(words: list[str]) -> bool:
    """Parse a command of ours, of Ray's or of MLflow's as it would itself -> whether it is one.

    Raises:
        Exception: the program refuses it.
    """
    program = Path(words[0]).name
    if program.startswith("python") and words[1] == "-m" and words[2].startswith("tuner."):
        parse_ours(words[2], words[3:])
        return True
    if program.startswith("python") and words[1].endswith(".py"):
        script = ROOT / words[1]
        with patch.object(sys, "path", [str(script.parent), *sys.path]):
            parse_ours(script.stem, words[2:])
        return True
    if program == "sbatch":
        parse_ours("tuner.launch", words[words.index(BATCH_FILE) + 1 :])
        return True
    if program not in ("ray", "mlflow"):
        return False
    command, rest = commands_of(program), words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), rest.pop(0))  # aliases, too
        assert found is not None, f"no such command: {shlex.join(words)}"
        command = found
    command.make_context(shlex.join(words), rest)  # raises on what it does not know
    return True
