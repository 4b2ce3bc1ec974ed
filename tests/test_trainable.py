"""One trial in its process: from rung to rung, and whatever ends it."""

import json
import math
import time
from types import SimpleNamespace

import pytest
import ray
import torch
from PIL import Image
from safetensors.torch import load_file
from toy_pipeline import OPTIMUM, ToyTrainable, toy_context

from trainables.pipeline import Diverged
from trainables.trainable import COMPLETE, CROWDED, FAIL, RUNG, TIME, NodeLeaves, require_finite

CUT = {"outcome": TIME, "metrics": {}, "episodes": [], "losses": [], "done": True}  # untrained


def trial_config(
    number=0, *, deadline=math.inf, resume_from=None, known=False, spared=False, gpus=0.0, **toy
):
    return {
        "trial_number": number,
        "pipeline": "toy",
        "trial_config": {"x": OPTIMUM, **toy},
        "context": toy_context(),
        "seed": 1,
        "threads": 1,
        "deadline": deadline,
        "resume_from": resume_from,
        "known": known,
        "spared": spared,
        "gpus": gpus,
        "gpu_overhead": 0.01,
    }


def toy(**options):
    """A trainable outside Ray, whose own constructor would make folders in the user's home."""
    trainable = ToyTrainable.__new__(ToyTrainable)
    trainable.setup(trial_config(**options))
    return trainable


def test_a_trial_goes_from_rung_to_rung():
    trial = toy()
    results = [trial.step() for _ in range(3)]
    assert [r["outcome"] for r in results] == [RUNG, RUNG, COMPLETE]
    assert [r["done"] for r in results] == [False, False, True]
    assert [r["metrics"]["L"] for r in results] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert results[0]["losses"] == [(1.0, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("diverge", "diverged: loss went through the roof"),
        ("nan", "diverged: not finite: L = nan"),
        ("memory", "out of memory"),
    ],
)
def test_a_foreseen_failure_is_a_result_and_the_process_lives_on(tmp_path, trouble, reason):
    trial = toy(trouble=trouble, trouble_at=1)
    assert trial.step()["outcome"] == RUNG
    result = trial.step()
    assert (result["outcome"], result["reason"], result["done"]) == (FAIL, reason, True)
    assert result["metrics"] == {}
    trial.save_checkpoint(str(tmp_path))  # Ray takes one of every result
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert trial.reset_config(trial_config(1))
    assert trial.step()["outcome"] == RUNG


def test_what_is_too_large_for_the_rungs_costs_nothing():
    result = toy(trouble="large").step()
    reason = "too large: its least training takes 1000.00 times the first rung's"
    assert (result["outcome"], result["reason"]) == (FAIL, reason)
    assert toy(trouble="large", known=True).step()["outcome"] == RUNG


def test_a_bug_is_left_to_ray():
    with pytest.raises(KeyError, match="a bug"):
        toy(trouble="raise").step()


def test_no_rung_begins_on_a_node_that_was_told_to_leave(monkeypatch):
    leaving = {}
    here = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(ray._private.state.state, "get_draining_nodes", lambda: leaving)
    trial = toy()
    assert trial.step()["outcome"] == RUNG
    leaving["there"] = 0
    assert trial.step()["outcome"] == RUNG
    leaving["here"] = 0
    with pytest.raises(NodeLeaves):
        trial.step()


def test_torchs_own_memory_error_is_recognised(monkeypatch):
    trial = toy()

    def build():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8")

    monkeypatch.setattr(trial, "_build", build)
    assert trial.step()["reason"] == "out of memory"


@pytest.mark.parametrize(
    ("gpus", "outcome"), [(0.0, FAIL), (0.25, CROWDED), (0.5, CROWDED), (1.0, FAIL), (2.0, FAIL)]
)
def test_memory_that_ends_on_a_shared_card_is_no_failure(tmp_path, gpus, outcome):
    trial = toy(trouble="memory", trouble_at=1, gpus=gpus)
    assert trial.step()["outcome"] == RUNG
    result = trial.step()
    assert (result["outcome"], result["reason"], result["done"]) == (outcome, "out of memory", True)
    trial.save_checkpoint(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_trial_may_take_its_share_of_a_card_without_what_its_process_takes(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("trainables.trainable.share_card", asked.append)
    trial = toy(gpus=0.25)
    trial.reset_config(trial_config(1, gpus=0.25))
    toy(gpus=1.0)
    toy()
    assert asked == [0.24, 0.24]


def test_the_clock_cuts_a_trial_where_it_stands():
    trial = toy(deadline=time.time() + 0.2, seconds=5.0)
    result = trial.step()
    assert (result["outcome"], result["done"]) == (TIME, True)
    assert result["metrics"]["train_flops"] == 5e8  # half of the first rung
    assert result["metrics"]["rung"] == -1


def test_the_first_update_has_its_moment():
    before = time.time()
    first, second = (trial := toy(seconds=0.05)).step(), trial.step()
    assert before < first["first_update"] < before + 0.05 + 5
    assert 10e6 < first["resident_bytes"] <= second["resident_bytes"] < 100e9
    assert second["first_update"] == first["first_update"]
    assert toy(seconds=0.0).step()["first_update"] is None  # it was asked once


def test_past_the_deadline_nothing_is_trained_or_scored():
    assert toy(deadline=time.time() - 1).step() == CUT


def test_a_spared_trial_comes_to_its_first_rung_past_the_deadline():
    trial = toy(deadline=time.time() - 1, spared=True)
    first = trial.step()
    assert (first["outcome"], first["metrics"]["rung"], first["done"]) == (RUNG, 0, False)
    assert trial.step() == CUT
    trial.reset_config(trial_config(1, deadline=time.time() - 1))
    assert trial.step() == CUT


def test_a_checkpoint_holds_everything_and_restores(tmp_path):
    trial = toy()
    trial.step()
    trial.save_checkpoint(str(tmp_path))
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (4, 4)
    assert load_file(tmp_path / "weights.safetensors")["done"].item() == 1
    assert json.loads((tmp_path / "config.json").read_text())["trial_config"] == {"x": OPTIMUM}
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"done": 1}
    own = {"first_update": None, "resident_bytes": 0}  # of a process
    second = trial.step() | own

    restored = toy()
    restored.load_checkpoint(str(tmp_path))  # after a crash, by Ray
    assert restored.step() | own == second
    resumed = toy(resume_from=str(tmp_path))  # in a later session, by us
    assert resumed.step() | own == second


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_are_finite(value):
    with pytest.raises(Diverged, match="not finite: L = "):
        require_finite({"L": value, "J": 0.5})
    assert require_finite({"L": 1}) == {"L": 1.0}
