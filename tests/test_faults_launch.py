"""The command is killed, interrupted and loses its processes: what it printed ends the study."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import safetensors.numpy
from picture_files import write_pictures
from PIL import Image
from test_faults import COMMANDS, below

from tuner import result
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED
from tuner.journal import Journal
from tuner.recorder import RETRIES
from tuner.tracking import MARKER
from tuner.tracking_uri import default_uri
from tuner.trial_records import TrialRecord, step_of

pytestmark = [
    pytest.mark.faults,
    pytest.mark.ray,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

QUICK = str(Path(__file__).with_name("quick_launch.py"))
REAL = ["-m", "tuner.launch"]
TITLE = "reptile_omniglot-pictures"
TRIAL, TRAINING = "Trainable.train", "ray::trained_again"  # in the titles of Ray's processes
KILLS, SEED = 12, 0  # at random times
TRIALS = 4  # of the study that they come to
PATIENCE = 1200.0  # seconds; a busy machine is slow
RAYS_PATIENCE = 50.0  # seconds; after 60 without its control store Ray ends a driver
LEAVING = 60.0  # seconds that Ctrl-C may take there, half of it where nothing else runs


class Study:
    """One on a folder of pictures, run by the command, with these options and this environment."""

    def __init__(
        self, root: Path, options: Sequence[str] = (), environment: Mapping[str, str] = os.environ
    ) -> None:
        self.root, self.folder, self.output = root, root / "runs/s", root / "output"
        self._options, self._environment = options, environment
        self.process: subprocess.Popen[bytes]
        write_pictures(root / "pictures", classes=6)

    def start(self, *options: str, script: Sequence[str] = (QUICK, "")) -> None:
        named = ["--study", "s", "--data", str(self.root / "pictures")]
        named += ["--storage", str(self.root / "runs"), *self._options]
        self._run([*script, "reptile_omniglot", *named, *options])

    def resume(self, *options: str) -> None:
        self.start("--resume", *options)

    def resume_until(self, moment: str) -> None:
        """It kills itself then."""
        self.start("--resume", script=[QUICK, moment])
        self.ends_with(-signal.SIGKILL)

    def resume_as_printed(self) -> None:
        """By the command that the last one ended with."""
        lines = [line for line in self.said().splitlines() if "--resume" in line]
        (line,) = lines
        python, *module, experiment = shlex.split(line[line.index(sys.executable) :])[:4]
        assert (python, module) == (sys.executable, REAL)
        self._run([QUICK, "", *shlex.split(line[line.index(experiment) :])])

    def _run(self, words: Sequence[str]) -> None:
        environment = {
            **self._environment,
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "COLUMNS": "120",
        }
        environment.pop("FEWSHOT_DATA", None)
        self.output.write_bytes(b"")
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                stdout=file,
                stderr=file,
                env=environment,
                cwd=self.root,
                start_new_session=True,
            )

    def said(self) -> str:
        """Of the last command."""
        return self.output.read_text()

    def until(self, true: Callable[[], Any]) -> Any:
        """Wait while the command runs."""
        ends = time.monotonic() + PATIENCE
        while not (found := true()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < ends, self.said()
            time.sleep(0.02)
        return found

    def until_said(self, words: str) -> None:
        self.until(lambda: words in self.said())

    def signal(self, number: int) -> None:
        """To the whole process group, as a terminal does it."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.ends_with(-signal.SIGKILL)

    def kill_one(self, title: str) -> None:
        """Kill -9 a process below the driver, as soon as there is one."""
        for victim in self.until(lambda: below(self.process.pid, title))[:1]:
            os.kill(victim, signal.SIGKILL)

    def ends_with(self, code: int, seconds: float = PATIENCE) -> None:
        """And leaves no process."""
        try:
            assert self.process.wait(seconds) == code, self.said()
        finally:
            if self.process.poll() is None:
                self.signal(signal.SIGKILL)
        ends = time.monotonic() + LEAVING
        while left := self.processes():
            assert time.monotonic() < ends, left
            time.sleep(0.1)

    def processes(self) -> list[str]:
        """Of the study, by the environment that they have inherited."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if bytes(self.root) in (place / "environ").read_bytes():
                    found.append((place / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    def exists(self) -> bool:
        """Whether `--resume` can go on with it."""
        return '"plan"' in self.journal()

    def journal(self) -> str:
        path = self.folder / "journal.log"
        return path.read_text() if path.exists() else ""

    def rungs(self) -> list[str]:
        """As they were written; a rung that is run again is there twice."""
        return [line for line in self.journal().splitlines() if '"rung/' in line]

    def records(self) -> tuple[TrialRecord, ...]:
        with Journal(self.root / "runs", "s") as journal:
            return journal.records()


def begun(root: Path) -> Study:
    """Two trials, one after the other; of them there is the plan alone."""
    study = Study(root)
    # A budget that gives short rungs; a later one gives the time to reach them.
    study.start("--budget", "10s", "--trials", "2", "--cpus-per-trial", str(joblib.cpu_count()))
    study.until(study.exists)
    study.kill()
    return study


def require_whole_champion(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["pipeline"] == "reptile"
    assert set(safetensors.numpy.load_file(folder / "weights.safetensors")) == {
        "generator",
        "critic",
    }
    with np.load(folder / "samples.npz", allow_pickle=False) as samples:
        assert samples["samples"].size
    with Image.open(folder / "grid.png") as grid:
        grid.load()


def require_finished(study: Study) -> result.StudyResult:
    """Result, journal, champion and MLflow are those of a study that nothing had happened to."""
    result.validate(json.loads((study.folder / "result.json").read_text()))
    records = study.records()
    assert {r.state for r in records if r.state != "WAITING"} <= {"COMPLETE", "PRUNED", "FAIL"}
    for record in records:
        assert [rung.rung for rung in record.rungs] == list(range(len(record.rungs)))
    assert len(study.rungs()) == sum(len(record.rungs) for record in records)
    beside = [path.name for path in study.folder.glob("champion*")]
    assert beside == ["champion"]
    require_whole_champion(study.folder / "champion")
    require_tracked(study, records)
    return result.load(study.folder / "result.json")


def require_tracked(study: Study, records: tuple[TrialRecord, ...]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_uri(study.root / "runs"))
    (experiment,) = client.search_experiments(filter_string=f"name = '{TITLE}'")
    runs = client.search_runs([experiment.experiment_id])
    trials = {int(run.data.tags["trial"]): run for run in runs if "trial" in run.data.tags}
    ran = [record for record in records if record.state != "WAITING"]
    assert sorted(trials) == [record.number for record in ran]
    assert len(runs) == len(ran) + 1  # the study's
    for record in ran:
        run = trials[record.number]
        assert run.info.status == ("FAILED" if record.state == "FAIL" else "FINISHED")
        assert run.data.tags["state"] == record.state
        points = client.get_metric_history(run.info.run_id, MARKER)
        assert sorted((point.step, point.value) for point in points) == [
            (step_of(rung.rung, rung.metrics), rung.rung) for rung in record.rungs
        ]
    (parent,) = (run for run in runs if "trial" not in run.data.tags)
    assert parent.info.status == "FINISHED"
    (version,) = client.search_model_versions(f"name = '{TITLE}'")
    champion = client.get_model_version_by_alias(TITLE, "champion")
    assert champion.version == version.version
    assert champion.run_id == parent.info.run_id
    place = f"{champion.tags['folder']}/weights.safetensors"
    kept = Path(client.download_artifacts(champion.run_id, place, str(study.root)))
    assert kept.read_bytes() == (study.folder / "champion/weights.safetensors").read_bytes()


def test_a_driver_that_is_killed_after_the_search_runs_no_rung_again(tmp_path: Path) -> None:
    """In the rematch, in the test, with the champion in its place and no result, between the
    renames of the next champion, and before MLflow hears of the result."""
    study = begun(tmp_path)
    study.resume("--budget", "2h")
    study.until_said("trained again")
    study.kill()
    rungs = study.rungs()
    study.resume()
    study.until_said("meets the test classes")
    study.kill()
    study.resume_until("result")
    require_whole_champion(study.folder / "champion")
    study.resume_until("champion")
    for name in ("champion.old", "champion.new"):
        require_whole_champion(study.folder / name)
    assert not (study.folder / "result.json").exists()
    study.resume_until("mlflow")
    result.validate(json.loads((study.folder / "result.json").read_text()))

    study.start("--resume", script=REAL)
    study.ends_with(0)
    found = require_finished(study)
    assert study.rungs() == rungs
    assert found.rematch is not None
    assert len(found.rematch.finalists) == 2


def test_ctrl_c_twice_leaves_at_once_with_the_way_on(tmp_path: Path) -> None:
    """In the search, and in the finals."""
    study = begun(tmp_path)
    study.resume("--budget", "2h")
    for ready in (lambda: study.rungs(), lambda: "trained again" in study.said()):
        study.until(ready)
        study.signal(signal.SIGINT)
        time.sleep(0.3)
        study.signal(signal.SIGINT)
        study.ends_with(INTERRUPTED, LEAVING)
        assert "Interrupted; go on with:" in study.said()
        assert "before any trial" not in study.said()
        assert "Traceback" not in study.said()
        study.resume_as_printed()
    study.ends_with(0)
    require_finished(study)


def test_a_ray_that_dies_stops_the_study_in_one_line(tmp_path: Path) -> None:
    """In the search, and in the finals."""
    study = begun(tmp_path)
    study.resume("--budget", "2h")
    for name, moment in (
        ("raylet", lambda: len(study.rungs()) >= 1),
        ("gcs", lambda: len(study.rungs()) >= 2),
        ("raylet", lambda: "trained again" in study.said()),
        ("gcs", lambda: "meets the test classes" in study.said()),
    ):
        study.until(moment)
        require_stopped_by(study, name)
        study.resume_as_printed()
    study.ends_with(0)
    require_finished(study)


def test_a_ray_that_dies_while_nobody_asks_it_stops_the_study_in_one_line(tmp_path: Path) -> None:
    """The baselines of the finals are computed by the command itself."""
    study = begun(tmp_path)
    options = ["--budget", "2h"]
    for name in ("raylet", "gcs"):
        study.start("--resume", *options, script=[QUICK, "baselines"])
        study.until_said("computing")
        require_stopped_by(study, name)
        options = []
    study.resume_as_printed()
    study.ends_with(0)
    require_finished(study)


def require_stopped_by(study: Study, name: str) -> None:
    """Ray's process dies, and the command tells it and leaves before Ray would end it."""
    study.kill_one(COMMANDS[name])
    study.ends_with(BROKEN_DOWN, RAYS_PATIENCE)
    told = [line for line in study.said().splitlines() if line.startswith("Stopped: ")]
    assert len(told) == 1, study.said()
    assert told[0].startswith(f"Stopped: Ray died on this machine ({name}")
    assert "Traceback" not in study.said()


def test_a_worker_that_dies_is_followed_by_another(tmp_path: Path) -> None:
    """Once in the first trial and once in the finals; in the second trial every time."""
    study = begun(tmp_path)
    study.resume("--budget", "2h")
    study.until(study.rungs)
    study.kill_one(TRIAL)
    study.until(lambda: '"deaths"' in study.journal())
    study.until(lambda: '"reason"' in study.journal())  # the first one's end
    for deaths in range(RETRIES + 1):
        study.until(lambda n=deaths: study.journal().count('"deaths"') == 1 + n)
        study.kill_one(TRIAL)
    study.until_said("trained again")
    study.kill_one(TRAINING)
    study.ends_with(0)
    found = require_finished(study)
    good, bad = found.trials
    assert (good.state, bad.state) == ("COMPLETE", "FAIL")
    assert bad.reason.startswith("worker died")
    assert found.rematch is not None
    assert [finalist.number for finalist in found.rematch.finalists] == [good.number]
    assert "1 of 2 trials failed: 1 worker died" in study.said()


def test_a_command_that_is_killed_at_any_time_ends_the_study(tmp_path: Path) -> None:
    """Twelve times, each soon after it began or went on: amid planning, embeddings, the first
    opening of MLflow, the search with two trials side by side, and the finals."""
    alone, study = Study(tmp_path / "alone"), Study(tmp_path / "killed")
    go_on(alone)
    alone.until(alone.exists)
    alone.kill()
    started = time.monotonic()
    go_on(alone)
    alone.ends_with(0)
    seconds = time.monotonic() - started
    require_finished(alone)

    rng, made = random.Random(SEED), []
    for _ in range(KILLS):
        delay = rng.uniform(0, seconds / 4)  # longer ones would end the study before the kills
        go_on(study)
        with suppress(subprocess.TimeoutExpired):
            assert study.process.wait(delay) == 0, study.said()
            continue
        study.kill()
        made.append((round(delay), study.exists(), len(study.rungs())))
    print(round(seconds), made)
    assert len(made) >= KILLS * 2 / 3
    go_on(study)
    study.ends_with(0)
    found = require_finished(study)
    assert len(found.trials) >= TRIALS
    assert found.plan["slots"] == 2


def go_on(study: Study) -> None:
    """The same command again until there is a study; then `--resume`."""
    if not study.exists():
        # So many trials that rungs are short, and so much time that none is cut.
        two_slots = ["--cpus-per-trial", f"{joblib.cpu_count() / 2:g}"]
        study.start("--budget", "70m", "--trials", "1000", *two_slots)
    elif (study.folder / "result.json").exists():
        study.resume()
    else:
        study.resume("--trials", str(TRIALS))
