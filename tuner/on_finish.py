"""`--on-finish`: a command of the user's, run when a study has ended, however it ended.

It is never kept with a study: what a storage folder holds is not run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from trainables.errors import UserError
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED, NOTHING_SUCCEEDED
from tuner.setting import REPORT, RESULT
from tuner.tracking_uri import strip_credentials

SECONDS = 60.0  # that the command may take
OUTCOMES = {
    0: "finished",
    NOTHING_SUCCEEDED: "nothing succeeded",
    BROKEN_DOWN: "stopped",
    INTERRUPTED: "interrupted",
}
FAILED = "failed"  # by an error of ours
NAMES = ("TUNER_STUDY", "TUNER_OUTCOME", "TUNER_RESULT", "TUNER_REPORT")


def parse_command(text: str) -> tuple[str, ...]:
    """The words of a command that can be started here, and from any folder: what is named by a path
    is named in full.

    Raises:
        UserError: it has none, they cannot be told apart, it cannot be found, or it holds a
            password, which the command lines of processes show to everybody.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(
            f"--on-finish must be a command as a shell has it, got {text!r}: {error}."
        ) from error
    if strip_credentials(text) != text:
        raise UserError(
            "--on-finish must hold no credentials, since command lines are shown to everybody on "
            "this machine: let the command read them from its environment or a file."
        )
    if not words or shutil.which(words[0]) is None:
        named = words[0] if words else text
        raise UserError(
            f"--on-finish must name a command that can be started, got {named!r}: it is run "
            "without a shell, so give a program on the PATH or the path of an executable file."
        )
    return (str(Path(words[0]).absolute()), *words[1:]) if "/" in words[0] else words


class OnFinish:
    """Runs the command once, when the study in `folder` has ended.

    Attributes:
        folder: of the study, once it has begun; before that nothing is run.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        """For the words of `parse_command`; without any, nothing is ever run."""
        self.folder: Path | None = None
        self._words = words

    def run(self, code: int | None) -> None:
        """Run it for an exit code of the study; None is an error of ours. What becomes of the
        command is one line at most, and changes nothing."""
        words, self._words = self._words, ()
        if not words or self.folder is None:
            return
        inherited = {name: os.environ[name] for name in os.environ if name not in NAMES}
        told = _run(words, inherited | _facts(self.folder, code))
        if told:
            sys.stderr.write(f"--on-finish: {words[0]} {told}\n")


def _facts(folder: Path, code: int | None) -> dict[str, str]:
    """What the command finds in its environment."""
    outcome = FAILED if code is None else OUTCOMES.get(code, FAILED)
    files = {"TUNER_RESULT": folder / RESULT, "TUNER_REPORT": folder / REPORT}
    there = {name: str(path) for name, path in files.items() if path.is_file()}
    return {"TUNER_STUDY": folder.name, "TUNER_OUTCOME": outcome} | there


def _run(words: tuple[str, ...], environment: dict[str, str]) -> str:
    """Run it -> what went wrong, if anything."""
    sys.stdout.flush()
    try:
        # The user's own command; what tells of the study is in the environment alone.
        process = subprocess.Popen(  # noqa: S603  # nosec B603
            words, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    except OSError as error:
        return f"could not be started: {error.strerror}"
    try:
        code = process.wait(SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        process.wait()
        hung = isinstance(error, subprocess.TimeoutExpired)
        return f"was ended after {SECONDS:.0f} seconds" if hung else "was interrupted"
    return f"failed with exit code {code}" if code else ""
