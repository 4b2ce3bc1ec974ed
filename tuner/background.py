"""`--detach`: the command goes on in the background once the study has begun.

The same command runs once more, in a session of its own that no terminal hangs up. Until the study
has begun, the first process hands on what the second one says, and ends as that does; so bad input
is answered as ever. Then the second one says so, takes its output to the study's folder, and the
first one ends.
"""

from __future__ import annotations

import codecs
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tuner.events import SILENT, Events

OUTPUT = "output.log"  # in a study's folder
WORD = "FEW_SHOT_TUNER_BEGUN"  # names the pipe for the word that the study has begun
COMMAND = [sys.executable, "-m", "tuner.launch"]
LOOK_SECONDS = 0.2  # between looks for something to hand on


def is_background() -> bool:
    """Whether this process is the second one, and has not begun."""
    return WORD in os.environ


def run_in_background(argv: Sequence[str]) -> int:
    """Run `launch` with these arguments -> 0 when its study has begun, else its exit code."""
    told, tell = os.pipe()
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        os.fdopen(told, "rb", buffering=0) as word,
    ):
        # Our own command.
        process = subprocess.Popen(  # noqa: S603  # nosec B603
            [*COMMAND, *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=[tell],
            start_new_session=True,
            env=os.environ | {WORD: str(tell), "COLUMNS": str(shutil.get_terminal_size().columns)},
        )
        os.close(tell)
        relays = [_Relay(out, sys.stdout), _Relay(err, sys.stderr)]
        begun = _wait(process, word, relays)
        code = 0 if begun else process.wait()
        for relay in relays:
            relay.hand_on()
    process.returncode = code  # it is nobody's child any more, which Popen would warn of
    return code


def _wait(process: subprocess.Popen[bytes], word: IO[bytes], relays: Sequence[_Relay]) -> bool:
    """Hand on what it says -> whether it has begun, else it ends. Ctrl-C is handed on, too."""
    interrupted = False
    while True:
        try:
            while not select.select([word], [], [], LOOK_SECONDS)[0]:
                for relay in relays:
                    relay.hand_on()
            return bool(word.read(1)) and not interrupted
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)


class _Relay:
    """From a file that grows to one of our own streams."""

    def __init__(self, file: IO[bytes], stream: IO[str]) -> None:
        self._file, self._stream, self._done = file, stream, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def hand_on(self) -> None:
        """What is new. The file's own position is the other process's."""
        handle = self._file.fileno()
        new = os.pread(handle, os.fstat(handle).st_size - self._done, self._done)
        self._done += len(new)
        self._stream.write(self._decoder.decode(new))
        self._stream.flush()


def leave_terminal(folder: Path, ways_on: str, events: Events = SILENT) -> None:
    """The study has begun: say the ways on, if any, and take all output to its folder.

    May be repeated: with a second study, the output moves to its folder.
    """
    kept = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    first = is_background()
    if first:
        os.write(kept, os.pread(1, os.fstat(1).st_size, 0))  # what was said before belongs to it
        if ways_on:
            print(ways_on)
    events.go_on_in(folder, with_earlier=first)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(kept, stream)
    os.close(kept)
    if first:
        word = int(os.environ.pop(WORD))
        _tell(word)


def _tell(word: int) -> None:
    try:
        os.write(word, b"1")
    except BrokenPipeError:  # the terminal was closed meanwhile
        pass
    finally:
        os.close(word)
