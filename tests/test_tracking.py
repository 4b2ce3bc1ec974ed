"""Tracking: what reaches MLflow, once and only once."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from test_result import FRONT, result
from tracked_study import (
    CONFIG,
    DATA,
    PNG,
    STEPS,
    checkpoint,
    client,
    empty_store,
    metrics,
    options,
    points_of,
    storage,
    trial_runs,
)

from tuner.registered_models import Models
from tuner.tracking import Tracker

__all__ = ["empty_store", "storage"]  # fixtures

# MLflow's own, on SQLAlchemy 2.1: `noload` in its table classes.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_a_study_is_one_run_with_a_child_for_each_trial(storage):
    lines: list[str] = []
    remembered: dict[int, str] = {}
    tracker = Tracker(None, storage=storage, **options(lines, remember=remembered.__setitem__))
    losses = [(10.0 * step, -1.0, 2.0) for step in range(1, 1001)]  # 2000 points: three batches
    tracker.trial_started(0, "paper", CONFIG, {"width": 16})
    for rung, decision in enumerate(("continue", "done")):
        told = metrics(rung) | {"L_low": 1.8 - rung, "L_high": 2.3 - rung}
        tracker.rung_reached(
            0, rung, told, losses, checkpoint(storage / "my study", 0, rung), decision
        )
        time.sleep(0.002)  # the same points of one millisecond would be one
    tracker.trial_ended(0, "COMPLETE", "")
    tracker.trial_started(1, "", CONFIG, {"width": 8})
    tracker.rung_reached(1, 0, metrics(0), [], checkpoint(storage / "my study", 1, 0), "pause")
    tracker.trial_ended(1, "PRUNED", "asha: rung 0")
    tracker.trial_started(2, "", CONFIG, {"width": 32})
    tracker.trial_ended(2, "FAIL", "diverged: critic loss is nan")
    checkpoint(storage / "my study", 1, 1)
    tracker.study_ended(result(storage / "my study"), {"split": "abc"})
    assert lines == []

    runs = trial_runs(storage, tracker)
    assert {int(number): run.info.run_id for number, run in runs.items()} == remembered
    states = {n: (run.info.status, run.data.tags["state"]) for n, run in runs.items()}
    assert states == {
        "0": ("FINISHED", "COMPLETE"),
        "1": ("FINISHED", "PRUNED"),
        "2": ("FAILED", "FAIL"),
    }
    first = runs["0"]
    assert first.info.run_name == "trial 0 · paper's settings · w16"
    assert first.data.params == {"width": "16", "inner.lr": "0.001", "inner.steps": "10"}
    assert first.data.tags["mlflow.parentRunId"] == tracker.place.parent_run_id
    assert runs["2"].data.tags["reason"] == "diverged: critic loss is nan"
    wanted = {"seed": "7", "data": "omniglot", "data_fingerprint": DATA.fingerprint}
    wanted |= {"stand_in": "false", "version.torch": "2.14.1", "git_commit": "ab" * 20}
    wanted |= {"git_dirty": "true", "study": "my study", "label": "paper"}
    assert wanted.items() <= first.data.tags.items()

    store, run_id = client(storage), first.info.run_id
    scores = store.get_metric_history(run_id, "score/L")
    assert [(point.step, point.value) for point in scores] == [(1000, 2.0), (3001, 1.0)]
    assert len(store.get_metric_history(run_id, "training/critic_loss")) == 2000
    assert {item.path for item in store.list_artifacts(run_id)} == {
        "config.json",
        "images",
        "weights.safetensors",
    }
    note = first.data.tags["mlflow.note.content"]
    assert note.startswith("**L 1.00, J .10** at rung 2.")
    (shown,) = re.findall(r"get-artifact\?path=(\S+)&", note)
    assert Path(store.download_artifacts(run_id, unquote(shown))).read_bytes() == PNG
    assert first.data.tags["L_95"] == "0.80 to 1.30"
    config = Path(store.download_artifacts(run_id, "config.json"))
    assert json.loads(config.read_text()) == CONFIG


def test_the_best_is_registered_once_and_crowned_only_through_the_gate(storage):
    checkpoint(storage / "my study", 1, 1)
    stays = result(storage / "my study")
    wins = replace(stays, gate=replace(stays.gate, crowned=True, against=None, margin=None))
    first = Tracker(None, storage=storage, **options([]))
    first.study_ended(wins, {"split": "abc"})
    champion = Models(first.uri).champion("reptile_omniglot")
    assert champion.number == 1
    assert champion.tags["split"] == "abc"
    assert champion.tags["study"] == "my study"
    assert champion.tags["test_J"] == "0.3900"

    again = Tracker(None, storage=storage, **options([], place=first.place))
    again.study_ended(wins, {"split": "abc"})  # told twice: still one version
    second = Tracker(None, storage=storage, **options([]))
    second.study_ended(stays, {"split": "abc"})
    lines: list[str] = []
    late = Tracker(None, storage=storage, **options(lines))
    late.study_ended(wins, {"split": "abc"})  # there was no champion when it met none
    assert "@champion went to another model meanwhile" in lines[0]
    assert lines[0].endswith("by: launch --resume")
    assert Models(late.uri).champion("reptile_omniglot").number == 1
    assert registered(storage) == [1, 2, 3]

    # It beat another store's version 1, which is not the one here.
    elsewhere = replace(wins, gate=replace(wins.gate, against=1, against_run="of another store"))
    moved = Tracker(None, storage=storage, **options([]))
    moved.study_ended(elsewhere, {"split": "abc"})
    assert Models(moved.uri).champion("reptile_omniglot").number == 1
    ours = replace(wins, gate=replace(wins.gate, against=1, against_run=champion.run_id))
    better = Tracker(None, storage=storage, **options([]))
    better.study_ended(ours, {"split": "abc"})
    assert Models(better.uri).champion("reptile_omniglot").number == 5


def test_a_crowned_study_that_is_searched_on_leaves_the_version_it_registered_alone(
    storage, tmp_path
):
    def delivered(weights, *, crowned, against):
        checkpoint(storage / "my study", 1, 1)
        made = result(storage / "my study")
        (made.folder / made.best.weights).write_bytes(weights)
        gate = replace(
            made.gate,
            crowned=crowned,
            against=against,
            against_run=parent and parent.parent_run_id,
            margin=None,
        )
        tracker = Tracker(None, storage=storage, **options([], place=parent))
        tracker.study_ended(replace(made, gate=gate), {})
        files = {
            version: Models(tracker.uri)
            .download("reptile_omniglot", version, "weights.safetensors", tmp_path / f"{version}")
            .read_bytes()
            for version in registered(storage)
        }
        return tracker, files

    parent = None
    tracker, files = delivered(b"first", crowned=True, against=None)
    parent = tracker.place
    assert files == {1: b"first"}

    tracker, files = delivered(b"worse", crowned=False, against=1)
    assert Models(tracker.uri).champion("reptile_omniglot").number == 1
    assert files == {1: b"first", 2: b"worse"}

    tracker, files = delivered(b"better", crowned=True, against=1)
    assert Models(tracker.uri).champion("reptile_omniglot").number == 3
    assert files == {1: b"first", 2: b"worse", 3: b"better"}

    note = client(storage).get_run(parent.parent_run_id).data.tags["mlflow.note.content"]
    assert len(set(re.findall(r"images/[^)\s]+", note))) == 1, "the newest champion's alone"
    items = client(storage).list_artifacts(parent.parent_run_id)
    folders = {item.path for item in items if item.path.startswith("best-")}
    versions = [client(storage).get_model_version("reptile_omniglot", str(n)) for n in (1, 2, 3)]
    assert {version.tags["folder"] for version in versions} == folders
    assert len(folders) == 3


def registered(storage: Path) -> list[int]:
    found = client(storage).search_model_versions("name = 'reptile_omniglot'")
    return sorted(int(version.version) for version in found)


def test_the_studys_own_run_holds_the_outcome(storage):
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.trial_started(1, "", CONFIG, {"width": 8})
    tracker.trial_ended(1, "COMPLETE", "")
    checkpoint(storage / "my study", 1, 1)
    made = result(storage / "my study", pareto=FRONT)
    for name in ("report.html", "report.md"):
        (made.folder / name).write_text("told", encoding="utf-8")
    tracker.study_ended(made, {"split": "abc"})
    store = client(storage)
    run = store.get_run(tracker.place.parent_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["trials"] == "3"
    assert run.data.metrics["test/J"] == pytest.approx(0.39)
    assert run.data.metrics["fidelity/rung_0"] == pytest.approx(0.8)
    assert run.data.tags["pareto_front"] == "1, 0"
    note = run.data.tags["mlflow.note.content"]
    assert made.verdict in note
    assert re.search(r"images/[^)\s]*champion", note)
    assert "| 1 | [trial 1" in note
    assert "| | augmented shots | | 1.25 | .61 |" in note
    paths = {item.path for item in store.list_artifacts(tracker.place.parent_run_id)}
    kinds = {path.partition("-")[0] for path in paths}
    assert kinds == {"best", "images", "result.json", "report.html", "report.md"}


def test_a_resumed_study_goes_on_in_its_runs_and_doubles_nothing(storage):
    with Tracker(None, storage=storage, **options([])) as first:
        first.trial_started(0, "", CONFIG, {"width": 16})
        first.rung_reached(
            0, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage / "my study", 0, 0), "done"
        )
        first.trial_ended(0, "COMPLETE", "")
        first.trial_started(1, "", CONFIG, {"width": 8})
        first.rung_reached(
            1, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage / "my study", 1, 0), "continue"
        )
    runs = trial_runs(storage, first)
    assert runs["1"].info.status == "KILLED"
    assert runs["1"].data.tags["state"] == "INTERRUPTED"
    assert client(storage).get_run(first.place.parent_run_id).info.status == "KILLED"
    ended = runs["0"].info.end_time

    time.sleep(0.01)
    again = Tracker(None, storage=storage, place=first.place, **options([]))
    assert again.place.parent_run_id == first.place.parent_run_id
    # The past is played again, as from a journal, and goes on where it was cut.
    again.trial_started(0, "", CONFIG, {"width": 16})
    again.rung_reached(
        0, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage / "my study", 0, 0), "done"
    )
    again.trial_ended(0, "COMPLETE", "")
    again.trial_started(1, "", CONFIG, {"width": 8})
    again.rung_reached(
        1, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage / "my study", 1, 0), "continue"
    )
    again.rung_reached(
        1, 1, metrics(1), [(2.0, 2.0, 3.0)], checkpoint(storage / "my study", 1, 1), "done"
    )
    again.trial_ended(1, "COMPLETE", "")
    again.close()

    runs = trial_runs(storage, again)
    store, run_id = client(storage), runs["1"].info.run_id
    for metric, steps in (("score/L", STEPS), ("training/critic_loss", [1, 2])):
        assert [point.step for point in store.get_metric_history(run_id, metric)] == steps
    assert runs["1"].data.tags["state"] == "COMPLETE"
    assert runs["0"].info.end_time == ended, "a finished trial was touched"


def test_what_is_told_late_has_the_time_at_which_it_happened(storage):
    tracker = Tracker(None, storage=storage, **options([], began=1000.0))
    tracker.trial_started(0, "", CONFIG, {"width": 16}, when=1001.0)
    tracker.trial_started(0, "", CONFIG, {"width": 16})  # and goes on
    losses, path = [(1.0, 2.0, 3.0)], checkpoint(storage / "my study", 0, 0)
    tracker.rung_reached(0, 0, metrics(0), losses, path, "done", when=1002.5)
    tracker.trial_ended(0, "COMPLETE", "", when=1003.0)
    tracker.close()
    (run,) = trial_runs(storage, tracker).values()
    assert (run.info.start_time, run.info.end_time) == (1_001_000, 1_003_000)
    store = client(storage)
    for metric in ("score/L", "training/critic_loss", "training/rung"):
        (point,) = store.get_metric_history(run.info.run_id, metric)
        assert point.timestamp == 1_002_500
    assert store.get_run(tracker.place.parent_run_id).info.start_time == 1_000_000


def test_a_trial_that_waits_is_shown_to_wait_after_a_resume_too(storage):
    def told_of_a_pause(tracker):
        tracker.trial_started(0, "", CONFIG, {"width": 16})
        tracker.rung_reached(0, 0, metrics(0), [], checkpoint(storage / "my study", 0, 0), "pause")

    def shown(tracker):
        tracker.close()
        (run,) = trial_runs(storage, tracker).values()
        return run.info.status, run.data.tags["state"]

    with Tracker(None, storage=storage, **options([])) as first:
        told_of_a_pause(first)
    assert shown(first) == ("KILLED", "INTERRUPTED")
    again = Tracker(None, storage=storage, place=first.place, **options([]))
    told_of_a_pause(again)
    assert shown(again) == ("RUNNING", "PAUSED")
    promoted = Tracker(None, storage=storage, place=first.place, **options([]))
    told_of_a_pause(promoted)
    promoted.trial_promoted(0)
    assert shown(promoted) == ("RUNNING", "RUNNING")


def test_rungs_that_one_update_passed_are_steps_of_their_own_however_late_they_come(storage):
    both = [metrics(0) | {"L": loss} for loss in (2.0, 1.9)]  # as much training
    with Tracker(None, storage=storage, **options([])) as first:
        first.trial_started(0, "", CONFIG, {"width": 16})
        first.rung_reached(0, 0, both[0], [], checkpoint(storage / "my study", 0, 0), "continue")
    for _ in range(2):
        with Tracker(None, storage=storage, place=first.place, **options([])) as again:
            again.trial_started(0, "", CONFIG, {"width": 16})
            for rung, scores in enumerate(both):
                again.rung_reached(
                    0, rung, scores, [], checkpoint(storage / "my study", 0, rung), "continue"
                )
    assert points_of(storage, again, "score/L") == [(1000, 2.0), (1001, 1.9)]
    assert points_of(storage, again, "training/rung") == [(1000, 0.0), (1001, 1.0)]


def test_a_rung_that_a_trial_comes_to_again_is_written_once(storage):
    """Its checkpoint was lost; the clock says something else than the first time."""
    with Tracker(None, storage=storage, **options([])) as tracker:
        tracker.trial_started(0, "", CONFIG, {"width": 16})
        for seconds in (5.0, 6.0):
            told = metrics(0) | {"train_seconds": seconds}
            path = checkpoint(storage / "my study", 0, 0)
            tracker.rung_reached(0, 0, told, [(1.0, 2.0, 3.0)], path, "continue")
            time.sleep(0.01)
    assert points_of(storage, tracker, "training/train_seconds") == [(1000, 5.0)]
    assert points_of(storage, tracker, "training/critic_loss") == [(1, 2.0)]


def test_nothing_is_left_in_the_working_folder(storage, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    with Tracker(None, storage=storage, **options([])) as tracker:
        tracker.trial_started(0, "", CONFIG, {})
        tracker.rung_reached(0, 0, metrics(0), [], checkpoint(storage / "my study", 0, 0), "done")
    assert list(folder.iterdir()) == []
    assert (storage / "mlartifacts" / "reptile_omniglot").is_dir()


def test_a_rung_without_a_picture_is_said_and_its_scores_are_kept(storage):
    lines: list[str] = []
    tracker = Tracker(None, storage=storage, **options(lines))
    tracker.trial_started(0, "", CONFIG, {})
    tracker.rung_reached(0, 0, metrics(0), [], storage / "gone", "continue")
    tracker.close()
    assert lines == [f"Trial 0 has no picture of rung 0 in {storage / 'gone'}."]
    assert trial_runs(storage, tracker)["0"].data.metrics["score/J"] == pytest.approx(0.1)


def links_to(outside, name):
    """A checkpoint whose files are, by one way or another, those of a folder elsewhere."""

    def folder(study):
        return outside

    def upwards(study):
        return study / ".." / outside.name

    def linked(study):
        (study / "session_01").symlink_to(outside)
        return study / "session_01"

    def of_links(study):
        (study / "session_02").mkdir()
        for file in outside.iterdir():
            (study / "session_02" / file.name).symlink_to(file)
        return study / "session_02"

    return {"folder": folder, "upwards": upwards, "linked": linked, "of links": of_links}[name]


@pytest.mark.parametrize("way", ["folder", "upwards", "linked", "of links"])
def test_nothing_outside_of_the_study_is_published_wherever_its_journal_leads(storage, way):
    outside = storage / "mine"
    outside.mkdir()
    for name in ("config.json", "grid.png", "small.png", "weights.safetensors"):
        (outside / name).write_bytes(b"precious")
    (storage / "my study").mkdir()
    path = links_to(outside, way)(storage / "my study")
    lines: list[str] = []
    tracker = Tracker(None, storage=storage, **options(lines))
    tracker.trial_started(0, "", CONFIG, {})
    tracker.rung_reached(0, 0, metrics(0), [], path, "done")
    tracker.trial_ended(0, "COMPLETE", "")
    tracker.close()
    assert lines == [f"Trial 0 has no picture of rung 0 in {path}."]
    kept = [path for path in (storage / "mlartifacts").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["config.json"]  # of the trial, from the journal
    assert b"precious" not in kept[0].read_bytes()


def test_no_link_in_the_place_of_what_a_result_is_shown_by_is_followed(storage):
    study = storage / "my study"
    checkpoint(study, 1, 1)
    made = result(study)
    (storage / "mine").write_bytes(b"precious")
    for name in ("report.html", "report.md"):
        (study / name).symlink_to(storage / "mine")
    (study / made.best.grid).with_name("small.png").symlink_to(storage / "mine")
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.study_ended(made, {})
    kept = [path for path in (storage / "mlartifacts").rglob("*") if path.is_file()]
    assert kept
    assert not any(b"precious" in path.read_bytes() for path in kept)


def test_nothing_of_the_environment_reaches_the_store(storage, monkeypatch):
    secrets = {
        "MLFLOW_TRACKING_TOKEN": "hunter2-token",
        "AWS_SECRET_ACCESS_KEY": "hunter2-key",
        "RAY_AUTH_TOKEN": "hunter2-ray",
        "SOME_API_TOKEN": "hunter2-api",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.trial_started(0, "", CONFIG, {})
    tracker.rung_reached(0, 0, metrics(0), [], checkpoint(storage / "my study", 0, 0), "done")
    tracker.trial_ended(0, "COMPLETE", "")
    tracker.study_ended(result(storage), {})
    for path in storage.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path
