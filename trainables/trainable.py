"""The Ray adapter of a trial: one `step()` a rung. It decides nothing and imports Ray alone."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import safetensors.torch
import torch
from ray import tune

from trainables.grid import save_grid
from trainables.memory import is_out_of_memory, keep_freed_memory, resident_peak, share_card
from trainables.pipeline import Diverged, Pipeline, StudyContext, Unfit, load_pipeline
from trainables.weights import read_state

# What a result tells the driver, under the key "outcome".
RUNG = "rung"  # a rung was reached and there are more
COMPLETE = "complete"  # the last rung was reached
TIME = "time"  # the clock cut the trial; scored where it stood, if it had trained any further
CROWDED = "crowded"  # out of memory on a card that it shares: to be tried with fewer neighbours
FAIL = "fail"  # diverged or out of memory: see "reason"


class NodeLeaves(RuntimeError):
    """Notice was given that this node will soon be gone: the trial goes on on another one."""


class TrialTrainable(tune.Trainable):
    """Runs one pipeline for one trial after another in the same process.

    The config is plain data: trial_number, pipeline (its name), trial_config, context, seed,
    threads, deadline (unix seconds), resume_from (checkpoint folder or None), known (True for
    settings that a person chose, which are run however large they are), spared (True for a trial
    that comes to its first rung whatever the clock says), and, on GPUs, gpus (cards, or the share
    of one) and gpu_overhead (the share that a process takes beside its tensors).

    A result holds "outcome" (above), "metrics" (finite floats), "losses", "first_update" (Unix
    seconds at which this process had done the trial's first one), "resident_bytes" (of this process
    at most, so far) and, when failed, "reason". What a pipeline foresees (divergence, memory) ends
    its trial and the actor lives on; after any other exception the trial goes on in a fresh
    process.
    """

    @staticmethod
    def pipeline_class(name: str) -> type[Pipeline]:
        """The pipeline that a config names."""
        return load_pipeline(name)

    def setup(self, config: dict[str, Any]) -> None:
        """Take the config; the pipeline itself is built by the first step, where errors count."""
        keep_freed_memory()
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the last trial and take up the next one in this process."""
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(config["threads"])
        self._trial = config
        self._spared = bool(config.get("spared", False))  # older configs say nothing of it
        self._pipeline: Pipeline | None = None
        self._grid: Any = None
        self._asked = 0
        self._first_update: float | None = None
        if self._shares_card and torch.cuda.is_available():
            share_card(config["gpus"] - config["gpu_overhead"])

    @property
    def _shares_card(self) -> bool:
        return 0 < float(self._trial.get("gpus", 0.0)) < 1  # older configs say nothing of it

    def _past_deadline(self) -> bool:
        return not self._spared and bool(time.time() > self._trial["deadline"])

    def _should_stop(self) -> bool:
        """Pipelines ask before every update: at the second time, the first one is done."""
        self._asked += 1
        if self._asked == 2:
            self._first_update = time.time()
        return self._past_deadline()

    def step(self) -> dict[str, Any]:
        """Train to the next rung and score once; past the deadline, end without training.

        Raises:
            NodeLeaves: before a rung that this node may not live to see.
        """
        if self._past_deadline():
            return {"outcome": TIME, "metrics": {}, "episodes": [], "losses": [], "done": True}
        if _node_leaves():
            raise NodeLeaves
        try:
            if self._pipeline is None:
                self._pipeline = self._build()
                self._check_size(self._pipeline.least_flops)
                if self._trial["resume_from"]:
                    with tune.Checkpoint(self._trial["resume_from"]).as_directory() as folder:
                        self._load(self._pipeline, Path(folder))
            report = self._pipeline.step(self._should_stop)
            self._spared = False
            metrics = require_finite(report.metrics)
            named = {f"L of episode {n}": value for n, value in enumerate(report.episodes)}
            episodes = list(require_finite(named).values())
        except Diverged as error:
            return self._failed(f"diverged: {error}")
        except Unfit as error:
            return self._failed(str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return self._failed("out of memory", CROWDED if self._shares_card else FAIL)
        self._grid = report.grid
        outcome = self._outcome(metrics)
        return {
            "outcome": outcome,
            "metrics": metrics,
            "episodes": episodes,
            "losses": report.losses,
            "first_update": self._first_update,
            "resident_bytes": resident_peak(),
            "done": outcome != RUNG,
        }

    def _check_size(self, least_flops: float) -> None:
        """Refuse what no rung can compare: it would take the time of many other trials."""
        times = least_flops / self._trial["context"]["rungs"][0]
        if times > 1 and not self._trial["known"]:
            raise Unfit(f"too large: its least training takes {times:.2f} times the first rung's")

    def _outcome(self, metrics: Mapping[str, float]) -> str:
        if not metrics["complete"]:
            return TIME
        return COMPLETE if metrics["rung"] >= len(self._trial["context"]["rungs"]) - 1 else RUNG

    def _failed(self, reason: str, outcome: str = FAIL) -> dict[str, Any]:
        self._pipeline, self._grid = None, None  # its state is worth nothing, its memory is
        one_line = " ".join(reason.split())
        return {
            "outcome": outcome,
            "reason": one_line,
            "metrics": {},
            "episodes": [],
            "losses": [],
            "done": True,
        }

    def _build(self) -> Pipeline:
        build = self.pipeline_class(self._trial["pipeline"])
        context = StudyContext(**self._trial["context"])
        return build(self._trial["trial_config"], context, self._trial["seed"])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write state.pt, weights.safetensors, grid.png, small.png and config.json.

        The folder is Ray's temporary one; it counts only once the journal names its copy.
        """
        folder = Path(checkpoint_dir)
        (folder / "config.json").write_text(json.dumps(self._trial, indent=2), encoding="utf-8")
        if self._pipeline is None:
            return
        torch.save(self._pipeline.state_dict(), folder / "state.pt")
        weights = {name: w.contiguous() for name, w in self._pipeline.weights().items()}
        safetensors.torch.save_file(weights, folder / "weights.safetensors")
        if self._grid is not None:
            save_grid(self._grid, folder)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Continue from a folder written by `save_checkpoint` (Ray calls it after a crash)."""
        self._pipeline = self._build()
        self._load(self._pipeline, Path(checkpoint))

    @staticmethod
    def _load(pipeline: Pipeline, folder: Path) -> None:
        pipeline.load_state_dict(read_state(folder / "state.pt"))


def _node_leaves() -> bool:
    """Whether Ray was told to drain this node, as before a spot machine is taken away."""
    if not ray.is_initialized():
        return False
    leaving = ray._private.state.state.get_draining_nodes()
    return ray.get_runtime_context().get_node_id() in leaving


def require_finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics as a dict of floats.

    Raises:
        Diverged: a metric is NaN or infinite.
    """
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        told = ", ".join(f"{name} = {value}" for name, value in sorted(bad.items()))
        raise Diverged(f"not finite: {told}")
    return {name: float(value) for name, value in metrics.items()}
