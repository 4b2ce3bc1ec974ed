"""The tutorial on plugins, carried out: a search with a net of one's own, on stand-in data."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import extending
import pytest

from tuner import result

TESTS = Path(__file__).parents[1]
QUICK = [sys.executable, str(TESTS / "quick_launch.py"), ""]  # scorers that learn in a moment
NOWHERE = "http://127.0.0.1:9"  # nothing is downloaded: generated characters stand in

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]


def run(folder: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    (folder / "data").mkdir(exist_ok=True)
    more = {"FEWSHOT_DATA": str(folder / "data"), "COLUMNS": "120", "https_proxy": NOWHERE}
    return subprocess.run(
        command, cwd=folder, env=os.environ | more, capture_output=True, text=True, timeout=900
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tutorial's files, and the study of its last command for a generator."""
    folder = tmp_path_factory.mktemp("extending")
    extending.write_files(folder)
    (line,) = [line for line in extending.commands() if "--budget" in line]
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "tuner.launch", "my_gan"]
    words[words.index("--budget") + 1] = "1m"
    done = run(folder, [*QUICK, *words[3:], "--trials", "2"])
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_its_champion_has_the_generator_and_names_the_plugin(finished: Path) -> None:
    study = finished / "runs/my_gan-standin-strokes"
    found = result.load(study / "result.json")
    assert found.best is not None
    champion: dict[str, Any] = json.loads((study / "champion/config.json").read_text())
    assert champion["config"]["architecture"] == "my_net"
    assert [set(record) for record in champion["plugins"]] == [{"name", "sha256"}]
    assert (study / "plugins/my_gan.py").read_bytes() == (finished / "my_gan.py").read_bytes()


def test_it_is_resumed_and_replayed_with_the_same_plugin_alone(finished: Path) -> None:
    found = result.load(finished / "runs/my_gan-standin-strokes/result.json")
    resume = [*QUICK, "my_gan", "--resume", "--plugin"]
    assert run(finished, [*resume, "my_gan.py"]).returncode == 0
    trial = next(trial for trial in found.trials if trial.rungs)
    replay = [*QUICK, "--replay", str(trial.mlflow_run_id)]
    refused = run(finished, replay)
    assert refused.returncode == 2
    assert "needs the plugin 'my_gan.py': add --plugin" in refused.stderr
    again = run(finished, [*replay, "--plugin", "my_gan.py"])
    assert again.returncode == 0, again.stdout + again.stderr
    changed = finished / "elsewhere" / "my_gan.py"
    changed.parent.mkdir()
    changed.write_text((finished / "my_gan.py").read_text() + "# changed\n")
    refused = run(finished, [*resume, str(changed)])
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "was made with another 'my_gan.py'" in refused.stderr


def test_it_keeps_the_rules_by_the_command_and_in_tests_of_ones_own(tmp_path: Path) -> None:
    extending.write_files(tmp_path)
    (line,) = [line for line in extending.commands() if "conformance" in line]
    checked = run(tmp_path, [sys.executable, *shlex.split(line)[1:]])
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "BROKEN" not in checked.stdout
    tested = run(tmp_path, [sys.executable, "-m", "pytest", "-q", "test_my_gan.py"])
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert f"{checked.stdout.count('... ok')} passed" in tested.stdout
