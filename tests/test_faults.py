"""Nothing is lost: cut journals, killed processes and full disks end in the same study."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Checkpoint
from ray.tune.search import Searcher
from toy_pipeline import ToyConfig, ToyTrainable, toy_context
from toy_study import BRANCHING, ToyExperiment, ToyPlan, branching_space

from tuner import study as study_module
from tuner.exit_codes import BROKEN_DOWN
from tuner.journal import Journal
from tuner.known_points import trial_seed
from tuner.recorder import Recorder
from tuner.study import run_study
from tuner.tracking_uri import default_uri
from tuner.trial_records import TrialRecord

TRIALS = 8


def ray_with_one_slot(plan, search, asha, recorder: Recorder, journal: Journal, *_: Any) -> None:
    """What Ray's controller does with one slot and no process: the same calls in the same order."""
    session = journal.folder / study_module._session_name(journal)
    while (config := search.suggest("one")) != Searcher.FINISHED:
        trial = SimpleNamespace(
            config=config, checkpoint=None, metric_analysis={}, metric_n_steps={}
        )
        trainable = ToyTrainable.__new__(ToyTrainable)
        trainable.setup(config)
        common = {"iteration": 0, "trials": [], "trial": trial}
        recorder.on_step_begin(0, [])
        recorder.on_trial_start(**common)
        result = {"done": False}
        place = session / study_module._folder_name(trial)
        while not result["done"]:
            result = trainable.step() | {"time_this_iter_s": 0.1}
            if not result["done"]:
                result["done"] = asha.on_trial_result(None, trial, flat(result)) == "STOP"
            else:
                asha.on_trial_complete(None, trial, flat(result))
            recorder.on_trial_result(**common, result=result)
            checkpoint = place / f"checkpoint_{len(list(place.glob('*'))):06}"
            checkpoint.mkdir(parents=True)
            trainable.save_checkpoint(str(checkpoint))
            trial.checkpoint = Checkpoint(str(checkpoint))
            recorder.on_trial_save(**common)
        recorder.on_trial_complete(**common)
        search.on_trial_complete("one")


def flat(result: dict[str, Any]) -> dict[str, Any]:
    """As Ray hands it to a scheduler."""
    return result | {f"metrics/{name}": value for name, value in result["metrics"].items()}


def session(folder: Path, observers: Sequence[Any] = ()) -> tuple[TrialRecord, ...]:
    """One session to the end of the study."""
    folder.mkdir(exist_ok=True)
    base = ToyConfig(log=str(folder / "steps.log"))
    with Journal(folder, "study") as journal:
        return run_study(
            ToyPlan(trials=TRIALS, most_trials=TRIALS, slots=1),
            ToyExperiment(base=base, known_points=BRANCHING, space=branching_space),
            journal=journal,
            context=toy_context(),
            deadline=time.time() + 600,
            observers=observers,
            trainable=ToyTrainable,
        ).records


def decisions(records: Sequence[TrialRecord]) -> list[Any]:
    """What was decided, free of paths and times."""
    return [
        (
            record.number,
            record.label,
            record.state,
            record.reason,
            dict(record.params),
            {
                name: value
                for name, value in record.config.items()
                if name not in ("log", "seconds")
            },
            [(r.rung, r.decision, dict(r.metrics), r.episodes) for r in record.rungs],
            record.attrs.get("promoted"),
        )
        for record in records
    ]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "_fit", ray_with_one_slot)


@pytest.mark.parametrize(
    "every", [9, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(1800)])]
)
def test_a_study_cut_after_any_write_or_amid_it_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, no_ray: None, every: int
) -> None:
    """The journal only grows, so a kill or a power cut is a journal that ends anywhere."""
    whole = session(tmp_path / "whole")
    wanted = decisions(whole)
    assert any(record.attrs.get("promoted") is not None for record in whole)
    assert {record.state for record in whole} == {"COMPLETE", "PRUNED", "FAIL"}
    ours = str(tmp_path / "whole/steps.log").encode()
    lines = (tmp_path / "whole/study/journal.log").read_bytes().splitlines(keepends=True)
    steps = len((tmp_path / "whole/steps.log").read_text().splitlines())
    assert len(lines) > 80

    for cut in range(0, len(lines), every):
        torn = lines[cut][: len(lines[cut]) // 2] if cut % 2 else b""
        folder = tmp_path / f"cut-{cut}"
        (folder / "study").mkdir(parents=True)
        # The base names the study's own folder, which differs here.
        here = (b"".join(lines[:cut]) + torn).replace(ours, bytes(folder / "steps.log"))
        (folder / "study/journal.log").write_bytes(here)
        assert decisions(session(folder)) == wanted, f"cut at line {cut}: {lines[cut]!r}"
        finished = sum(b'"rung/' in line for line in lines[:cut])
        log = folder / "steps.log"
        again = log.read_text().splitlines() if log.exists() else []
        assert len(again) == steps - finished, f"cut at line {cut}: {lines[cut]!r}"


@pytest.mark.usefixtures("no_ray")
def test_a_trial_whose_checkpoint_was_cut_goes_on_from_the_one_before(tmp_path: Path) -> None:
    """A promoted one: it is compared again, and may go on at once, at the rung that it comes to."""

    def scores(records: Sequence[TrialRecord]) -> list[Any]:
        return [(r.state, r.reason, [(g.rung, g.metrics) for g in r.rungs]) for r in records]

    wanted = scores(session(tmp_path))
    journal, log = tmp_path / "study/journal.log", tmp_path / "steps.log"
    lines, steps = journal.read_bytes().splitlines(keepends=True), log.read_text().splitlines()
    promotion = next(n for n, line in enumerate(lines) if b'"promoted"' in line)
    journal.write_bytes(b"".join(lines[: promotion + 1]))
    with Journal(tmp_path, "study") as opened:
        (promoted,) = (r for r in opened.records() if r.attrs.get("promoted") is not None)
    os.truncate(Path(promoted.rungs[-1].checkpoint, "state.pt"), 100)
    rungs = sum(b'"rung/' in line for line in lines[:promotion])
    assert scores(session(tmp_path)) == wanted
    assert len(log.read_text().splitlines()) - len(steps) == len(steps) - rungs + 1


# Through Ray: its processes die


def launch(
    options: dict[str, Any], output: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("toy_study.py")), json.dumps(options)],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )


def below(driver: int, command: str) -> list[int]:
    """Processes that descend from the driver and have `command` in their command line."""
    parents, commands = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int(
                (place / "stat").read_text().rpartition(")")[2].split()[1]
            )
            commands[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    ours = {driver}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return [pid for pid in ours - {driver} if command in commands.get(pid, "")]


# Amid a rung a worker is called ray::ResourceTrainable.train, else by its own class.
COMMANDS = {"worker": "Trainable", "raylet": "/raylet/raylet ", "gcs": "/gcs_server "}


def kill(process: subprocess.Popen[bytes], what: str) -> bool:
    """Kill -9; False if there is none of that kind now."""
    victims = [process.pid] if what == "driver" else below(process.pid, COMMANDS[what])
    for victim in victims[:1]:
        os.kill(victim, signal.SIGKILL)
    return bool(victims)


def kept_in_mlflow(storage: Path) -> dict[str, Any]:
    """Every trial's runs: status, tags and points."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_uri(storage))
    (experiment,) = client.search_experiments(filter_string="name = 'toy'")
    kept = {}
    for run in client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"):
        tags = run.data.tags
        assert tags["trial"] not in kept, "two runs for one trial"
        kept[tags["trial"]] = (
            run.info.status,
            tags["state"],
            tags.get("reason"),
            {name: value for name, value in run.data.params.items() if name != "log"},
            {
                name: [(point.step, point.value) for point in points]
                for name in sorted(run.data.metrics)
                if (points := client.get_metric_history(run.info.run_id, name))
            },
            sorted(item.path for item in client.list_artifacts(run.info.run_id)),
        )
    return kept


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    """Drivers, workers, raylets and control stores die at random moments of a study with one slot:
    trials, parameters, rungs, scores and MLflow are those of a study that was left alone."""
    rng = random.Random(0)
    kinds = ["driver"] * 8 + ["worker"] * 6 + ["raylet"] * 4 + ["gcs"] * 2
    rng.shuffle(kinds)
    options = {"study": "s", "trials": 16, "slots": 1, "seconds": 0.2, "tracked": True}
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for folder in (alone, killed):
        folder.mkdir()
    output = tmp_path / "output"
    assert launch(options | {"storage": str(alone)}, output).wait(900) == 0, output.read_text()

    journal = killed / "s/journal.log"
    made, sessions = [], 0
    process = None
    while kinds:
        if process is None or process.poll() is not None:
            sessions += 1
            assert sessions < 40, output.read_text()
            output.unlink()
            process = launch(options | {"storage": str(killed)}, output)
        while kinds[0] in ("raylet", "gcs") and "ray is up" not in output.read_text():
            assert process.poll() is None, output.read_text()
            time.sleep(0.05)
        goal = lines_of(journal) + rng.randint(0, 9)
        while lines_of(journal) < goal and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.3)
        while process.poll() is None:
            if kill(process, kinds[0]):
                made.append((kinds[0], lines_of(journal)))
                if (kind := kinds.pop(0)) != "worker":
                    code = process.wait(50)  # after 60 seconds Ray itself would end the driver
                    assert code == (-signal.SIGKILL if kind == "driver" else BROKEN_DOWN)
                if kind in ("raylet", "gcs"):
                    said = output.read_text()
                    assert said.count("Stopped: Ray died on this machine") == 1, said
                break
            time.sleep(0.05)
    assert process is not None
    process.wait(900)
    assert launch(options | {"storage": str(killed)}, output).wait(900) == 0, output.read_text()
    print(made, sessions)

    with Journal(alone, "s") as one, Journal(killed, "s") as other:
        wanted, records = one.records(), other.records()
    assert decisions(records) == decisions(wanted)
    assert any(record.attrs.get("promoted") is not None for record in wanted)
    assert len(made) == 20
    assert kept_in_mlflow(killed) == kept_in_mlflow(alone)
    finished = {(trial_seed(0, r.number), rung.rung) for r in records for rung in r.rungs}
    steps = (killed / "steps.log").read_text().splitlines()
    assert finished == {tuple(map(int, line.split())) for line in steps}
    # A step is taken again only where it was cut before its end was journalled.
    assert len(steps) - len(finished) <= len(made)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.parametrize("reserve", [16 * 2**20, 0])
def test_a_full_disk_stops_a_study_that_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, reserve: int
) -> None:
    """With a reserve the study stops before the disk is full; without one it is full at once for
    the journal, the checkpoints and MLflow's database."""
    options = {"study": "s", "trials": 8, "slots": 1, "seconds": 0.3, "tracked": True}
    options |= {"storage": str(small_disk), "reserve": reserve}
    output, journal, ballast = (
        tmp_path / "output",
        small_disk / "s/journal.log",
        tmp_path / "disk/b",
    )
    process = launch(options, output)
    while b'"rung/0"' not in (journal.read_bytes() if journal.exists() else b""):
        assert process.poll() is None, output.read_text()
        time.sleep(0.05)
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        free = shutil.disk_usage(small_disk).free
        for _ in range((free - reserve // 2) // 2**16 + (reserve == 0)):
            file.write(bytes(2**16))
    assert process.wait(200) == 1, output.read_text()
    said = output.read_text()
    assert "Breakdown: The disk of " in said or "No space left on device" in said
    states = [r.state for r in opened(small_disk)]
    assert set(states) <= {"WAITING", "RUNNING", "COMPLETE", "FAIL"}
    assert [r.reason for r in opened(small_disk) if r.state == "FAIL"] in ([], [DIVERGED])

    ballast.unlink()
    assert launch(options, output).wait(600) == 0, output.read_text()
    whole = tmp_path / "whole"
    whole.mkdir()
    roomy = options | {"storage": str(whole), "reserve": 0}
    assert launch(roomy, output).wait(600) == 0, output.read_text()
    assert decisions(opened(small_disk)) == decisions(opened(whole))
    assert len(kept_in_mlflow(small_disk)) == TRIALS


DIVERGED = "diverged: loss went through the roof"


def opened(storage: Path) -> tuple[TrialRecord, ...]:
    with Journal(storage, "s") as journal:
        return journal.records()


def lines_of(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0
