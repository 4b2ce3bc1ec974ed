"""A study in the background: begun, looked at, stopped, taken up again, and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from picture_files import write_pictures

from tuner import result
from tuner.exit_codes import CANNOT_BE_MET

QUICK = str(Path(__file__).parents[1] / "quick_launch.py")
PATIENCE = 600.0  # seconds; a busy machine is slow

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


class Shell:
    """Commands in a folder, where each has to end by itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache")}
        self.environment.pop("FEWSHOT_DATA", None)

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self.environment,
            cwd=self.root,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def launch(self, *options: str) -> str:
        named = ["--study", "s", "--data", "pictures", "--detach"]
        return self(QUICK, "", "reptile_omniglot", *named, *options)

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self("-m", "tuner.status", "s", "--json"))
        return told

    def until(self, true: Callable[[], Any]) -> None:
        """Wait for it."""
        ends = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < ends, self("-m", "tuner.logs", "s")
            time.sleep(1)

    def processes(self) -> list[int]:
        """That have inherited our environment."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if bytes(self.root) in (place / "environ").read_bytes():
                    found.append(int(place.name))
        return found


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Whatever goes wrong, nothing stays in the background."""
    made = Shell(tmp_path)
    yield made
    for left in made.processes():
        with suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def test_a_study_in_the_background(shell: Shell, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", classes=6)
    said = shell.launch("--trials", "2", "--budget", "240s")
    assert "Plan " in said
    assert said.endswith("  python -m tuner.stop s\n")
    shell.until(lambda: shell.status()["best"])
    told = shell.status()
    assert (told["state"], told["phase"]) == ("running", "search")
    assert told["whole_ends"] > told["ends"] > time.time() - 60
    assert told["dashboard"].startswith("http://127.0.0.1:")
    assert "trial 0 started: paper's settings" in shell("-m", "tuner.logs", "s")
    assert " rung 1/3: L " in shell("-m", "tuner.logs", "s", str(told["best"]["number"]))

    assert "It has stopped" in shell("-m", "tuner.stop", "s")
    shell.until(lambda: not shell.processes())
    assert shell.status()["state"] == "interrupted"
    assert "Interrupted; go on with:" in shell("-m", "tuner.logs", "s")
    shell("-m", "tuner.stop", "s", code=CANNOT_BE_MET)

    said = shell.launch("--resume")
    assert said.endswith("  python -m tuner.stop s\n")
    followed = shell("-m", "tuner.logs", "s", "--follow")
    assert followed.count("Plan ") == 2, "of each session"
    assert "Test (" in followed
    assert shell.status()["state"] == "finished"
    found = result.load(tmp_path / "runs" / "s" / "result.json")
    assert found.best is not None
    assert "Traceback" not in followed
