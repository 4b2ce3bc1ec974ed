"""One real search through the command line: Ray, Optuna, ASHA, MLflow and the result file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from sklearn.datasets import load_digits

from tuner import result
from tuner.journal import Journal

CLASSES, EACH = 6, 14
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "hunter2-password",
    "MLFLOW_TRACKING_TOKEN": "hunter2-token",
    "AWS_SECRET_ACCESS_KEY": "hunter2-access-key",
    "SOME_API_TOKEN": "hunter2-api-token",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study on a few handwritten digits."""
    root = tmp_path_factory.mktemp("search")
    digits = load_digits()
    for label in range(CLASSES):
        folder = root / "digits" / str(label)
        folder.mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:EACH]):
            grey = Image.fromarray((image * 15).astype(np.uint8))
            grey.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    command = [sys.executable, "-m", "tuner.launch", "reptile_omniglot"]
    command += ["--data", str(root / "digits"), "--storage", str(root / "runs")]
    command += ["--trials", "2", "--budget", "80s", "--seed", "1"]
    (root / "home").mkdir()
    environment = {**os.environ, **SECRETS, "XDG_CACHE_HOME": str(root / "cache")}
    environment |= {"HOME": str(root / "home"), "COLUMNS": "120"}
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=560, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (root / "runs" / "stdout.txt").write_text(done.stdout)
    (root / "runs" / "stderr.txt").write_text(done.stderr)
    return root / "runs" / "reptile_omniglot-digits"


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_leaves_a_valid_result(study: Path) -> None:
    found = result.load(study / "result.json")
    assert found.outcome == "finished"
    assert [trial.number for trial in found.trials] == [0, 1]
    assert found.trials[0].label == "paper"
    assert all(trial.state in ("COMPLETE", "PRUNED") for trial in found.trials)
    assert found.best is not None
    told = (study.parent / "stdout.txt").read_text()
    # A busy machine leaves no time for it in so short a budget, and then says so.
    assert (found.rematch is None) == ("no time is left for a rematch" in told)
    if found.rematch is not None:
        assert found.rematch.finalists[0].number == found.best.number
    assert found.gate is not None
    assert found.gate.crowned
    assert found.test is not None
    low, high = found.test.intervals["J"]
    assert low <= found.test.metrics["J"] <= high
    assert set(found.null_baselines) == {
        *("real", "copied_shots", "augmented_shots"),
        *("own_augmentation", "nearest_class"),
    }
    assert found.null_baselines["copied_shots"]["test"]["copy_share"] > 0.9
    assert not found.data.stand_in


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_champion_can_be_picked_up(study: Path) -> None:
    config = json.loads((study / "champion" / "config.json").read_text())
    weights = safetensors.numpy.load_file(study / "champion" / "weights.safetensors")
    assert set(weights) == {"generator", "critic"}
    assert config["pipeline"] == "reptile"
    assert config["adapt_steps"] >= 1
    with np.load(study / "champion" / "samples.npz", allow_pickle=False) as samples:
        assert samples["samples"].dtype == np.uint8
        assert samples["samples"].shape[2:] == (1, 32, 32)
        assert samples["samples"].std() > 0
    with Image.open(study / "champion" / "grid.png") as grid:
        assert grid.size[0] > 100


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_no_trial_is_left_running(study: Path) -> None:
    with Journal(study.parent, study.name) as journal:
        assert journal.running() == []
        for record in journal.records():
            for rung in record.rungs:
                assert Path(rung.checkpoint, "state.pt").is_file()


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow_has_a_run_for_the_study_and_each_trial(study: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study.parent / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert len(children) == 2
    for run in children:
        assert run.info.status == "FINISHED"
        assert run.data.tags["data_fingerprint"]
        assert run.data.params["inner_steps"]
        assert run.data.metrics["score/L"] is not None
        files = {f.path for f in client.list_artifacts(run.info.run_id)}
        assert {"weights.safetensors", "config.json", "images"} <= files
    champion = client.get_model_version_by_alias("reptile_omniglot-digits", "champion")
    assert champion.run_id == parents[0].info.run_id
    assert champion.tags["data_fingerprint"] == parents[0].data.tags["data_fingerprint"]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_user_is_told_what_to_do_next(study: Path) -> None:
    text = (study.parent / "stdout.txt").read_text()
    for words in ("mlflow ui", "ray dashboard", "champion/grid.png", "Test (", "Plan "):
        assert words in text
    assert "get-auth-token" in text
    assert "Reachable  from this machine alone: Ray and its dashboard, with its token" in text


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_no_secret_of_the_environment_is_in_anything_that_is_kept(study: Path) -> None:
    """Nor Ray's token: in no output, record, tag, parameter, artifact or checkpoint."""
    secrets = [value.encode() for value in SECRETS.values()]
    secrets.append((study.parents[1] / "home" / ".ray" / "auth_token").read_bytes())
    assert all(len(secret) > 10 for secret in secrets)
    kept = [path for path in study.parent.rglob("*") if path.is_file()]
    assert len(kept) > 20
    for path in kept:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
