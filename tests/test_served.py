"""MLflow serves a registered champion, which answers a request with pictures."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml
from PIL import Image
from real_cluster import free_port
from tiny_champion import STEPS, drawings, keep_champion

from tuner.mlmodel import mlmodel
from tuner.model import Model, as_png
from tuner.registered_models import MODEL
from tuner.run_store import RunStore
from tuner.tracking_uri import resolve_uri

pytestmark = [  # MLflow's own
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:.*type hint.*is inferred as AnyType"),
]

SHOTS = drawings()[0, :4, None]
ENCODED = [{"shot": base64.b64encode(as_png(shot)).decode()} for shot in SHOTS]


def registered(storage: Path) -> tuple[str, Path]:
    """A tracking store with a champion -> its address, and the champion's folder."""
    kept = keep_champion(storage / "champion")
    uri = resolve_uri(None, storage)
    store = RunStore(uri, experiment="any", storage=storage)
    run = store.create("study", {}, when=0)
    for name in ("config.json", "weights.safetensors"):
        store.log_file(run, kept / name, MODEL)
    store.log_bytes(run, mlmodel(run, MODEL).encode(), f"{MODEL}/MLmodel")
    store.crown("mine", store.register("mine", run, MODEL, {}))
    return uri, kept


def pictures_of(answer: list[dict[str, Any]]) -> np.ndarray:
    opened = [Image.open(io.BytesIO(base64.b64decode(row["picture"]))) for row in answer]
    return np.stack([np.asarray(picture)[None] for picture in opened])


def test_a_registered_model_is_a_pyfunc_without_any_code_beside_it(tmp_path: Path) -> None:
    import mlflow
    import pandas as pd

    uri, kept = registered(tmp_path)
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/mine@champion")
    answer = model.predict(pd.DataFrame(ENCODED), params={"count": 5, "seed": 3})
    own = Model.open(str(kept))
    (expected,) = dict(own.draw(SHOTS, count=5, seed=3)).values()
    rows = answer.to_dict("records")
    assert (pictures_of(rows) == expected).all()
    scores = own.scores(SHOTS, expected)
    assert [row["nearest_shot"] for row in rows] == scores.nearest.tolist()
    assert [row["copy"] for row in rows] == scores.copies.tolist()
    (folder,) = tmp_path.rglob(f"artifacts/{MODEL}")
    files = {path.name for path in folder.iterdir()} - {"registered_model_meta"}  # of loading it
    assert files == {"MLmodel", "config.json", "weights.safetensors"}
    described = yaml.safe_load((folder / "MLmodel").read_text())
    assert described["flavors"]["python_function"]["loader_module"] == "tuner.served"
    assert "count" in described["signature"]["params"]


@pytest.mark.slow
def test_a_real_server_answers_a_real_request(tmp_path: Path) -> None:
    uri, kept = registered(tmp_path)
    port = free_port()
    command = ["-m", "mlflow", "models", "serve", "-m", "models:/mine@champion"]
    command += ["--env-manager", "local", "--port", str(port)]
    root, scripts = Path(__file__).parents[1], Path(sys.executable).parent
    path = os.pathsep.join([str(scripts), os.environ["PATH"]])  # as an activated environment has it
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, *command],
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": uri,
                "PYTHONPATH": str(root),
                "PATH": path,
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(f"{address}/ping", server, tmp_path / "log")
        asked = {"dataframe_records": ENCODED, "params": {"count": 6, "seed": 1, "steps": 2}}
        answer = requests.post(f"{address}/invocations", json=asked, timeout=200)
        assert answer.status_code == 200, answer.text
        own = Model.open(str(kept))
        (expected,) = dict(own.draw(SHOTS, count=6, seed=1, stops=[2])).values()
        assert (pictures_of(answer.json()["predictions"]) == expected).all()
        for bad, words in (
            ({**asked, "params": {"steps": 3 * STEPS + 1}}, "adapts for at most 9 steps"),
            ({"dataframe_records": [{"shot": "no base64!"}]}, "shot 0 must be a picture file"),
            ({"dataframe_records": [{"shot": "bm8gcGljdHVyZQ=="}]}, "whole PNG, JPEG"),
        ):
            refused = requests.post(f"{address}/invocations", json=bad, timeout=200)
            assert refused.status_code == 400
            assert words in refused.json()["message"]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 200
    while time.monotonic() < end:
        try:
            if requests.get(address, timeout=10).ok:
                return
        except requests.ConnectionError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
    pytest.fail(log.read_text())
