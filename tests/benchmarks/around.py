"""What everything around training costs: bookkeeping, tracking, scoring, checkpoints, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from bench_search import Section
from PIL import Image
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from resident import resident_bytes
from toy_pipeline import ToyConfig, ToyTrainable, toy_context
from toy_study import ToyExperiment, ToyPlan, tracking

from cluster.session import session
from trainables.configs import ReptileConfig
from trainables.datasets import load_or_stand_in, user_cache
from trainables.evaluation import prepare_scorer
from trainables.pipeline import StudyContext
from trainables.reptile_trial import LOSS_ROWS, ReptileTrial
from trainables.tasks import samples_wanted, split_classes
from trainables.trainable import TrialTrainable
from tuner.journal import Journal
from tuner.plan import SCORING_COMPUTE
from tuner.study import run_study

FEW = {"trials": 200, "slots": 2, "seconds": 0.5}
MANY = {"trials": 2000, "slots": 16, "seconds": 1.0}
STOCK_TRIALS = 30  # of FEW's kind: every one begins a process
TARGETS = {"few": 1.15, "many": 1.25}  # times the ideal
RESULTS = 500  # told to MLflow as fast as it takes them
RESULT_SECONDS, RESULT_RATE = 0.025, 50.0
SHARE = 0.03  # of a search's time
SCORING_SHARE = {"cpu": 0.2, "paper": 0.1}
SAVING_SHARE = 0.02
TRIAL_BYTES = 1.2e9
ITERATIONS = 1000  # over which memory must not grow
FIRST_RUNG_SECONDS = 8.0  # as the plan has it for ten minutes of two cores


class Laps:
    """An observer that notes when trials reported and ended, and the driver's memory then."""

    def __init__(self) -> None:
        self.reported: list[float] = []
        self.memory: list[int] = []

    def trial_started(self, *event: Any) -> None:
        pass

    def rung_reached(self, *event: Any) -> None:
        self.reported.append(time.monotonic())
        self.memory.append(resident_bytes())

    def trial_promoted(self, number: int) -> None:
        pass

    def trial_ended(self, *event: Any) -> None:
        pass

    def tick(self) -> None:
        pass

    def times_ideal(self, *, slots: int, seconds: float) -> float:
        """From when every slot has reported once, wall time by that of the trials alone."""
        up = self.reported[slots - 1]
        ideal = (len(self.reported) - slots) * seconds / slots
        return (self.reported[-1] - up) / ideal


def ours(trials: int, slots: int, seconds: float) -> Laps:
    """Trials of one sleep, searched, journalled and tracked as in a real study."""
    laps, context = Laps(), toy_context(rungs=1)
    plan = ToyPlan(most_trials=trials, trials=trials, slots=slots, rungs=context["rungs"])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        journal = stack.enter_context(Journal(Path(folder), "s"))
        tracker = stack.enter_context(tracking(journal, Path(folder), plan))
        stack.enter_context(session(None, cpus=slots))
        run_study(
            plan,
            ToyExperiment(base=ToyConfig(seconds=seconds)),
            journal=journal,
            context=context,
            deadline=time.time() + 3600,
            observers=[tracker, laps],
            trainable=ToyTrainable,
        )
    return laps


class StockLaps(tune.Callback):
    """Notes when trials reported."""

    def __init__(self) -> None:
        self.reported: list[float] = []

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        self.reported.append(time.monotonic())


def asleep(config: Mapping[str, Any]) -> None:
    """A trial as a function."""
    time.sleep(config["seconds"])
    with tempfile.TemporaryDirectory() as folder:
        Image.new("L", (4, 4)).save(Path(folder) / "grid.png")
        tune.report({"L": config["x"]}, checkpoint=tune.Checkpoint.from_directory(folder))


def stock(trials: int, slots: int, seconds: float) -> Laps:
    """The same by Ray's, Optuna's and MLflow's own parts."""
    laps = Laps()
    noted = StockLaps()
    with tempfile.TemporaryDirectory() as folder, session(None, cpus=slots):
        tune.Tuner(
            tune.with_resources(asleep, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1), "seconds": seconds},
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(metric="L", mode="min", seed=0),
                scheduler=ASHAScheduler(metric="L", mode="min"),
                num_samples=trials,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                callbacks=[
                    noted,
                    MLflowLoggerCallback(
                        tracking_uri=f"sqlite:///{folder}/mlflow.db",
                        experiment_name="stock",
                        save_artifact=True,
                    ),
                ],
            ),
        ).fit()
    laps.reported = noted.reported
    return laps


def bookkeeping() -> Section:
    """Short trials on few slots: all but their own time is ours."""
    size = FEW | {"trials": STOCK_TRIALS}
    ideal, row = _times_ideal("ours", ours(**FEW), FEW, TARGETS["few"])
    rows = [row, _times_ideal("stock", stock(**size), size, None)[1]]
    return Section(
        title="Bookkeeping",
        about="Wall time by the ideal, from when every slot has reported once; tracking in SQLite. "
        "Stock: a function, OptunaSearch, ASHAScheduler, MLflowLoggerCallback.",
        columns=("system", "trials", "times the ideal", "target"),
        rows=rows,
        misses=(f"few slots: {ideal:.2f} times the ideal",) if ideal > TARGETS["few"] else (),
    )


def many_slots() -> Section:
    """Short trials on many slots, and what the driver's memory makes of so many."""
    laps = ours(**MANY)
    ideal, row = _times_ideal("ours", laps, MANY, TARGETS["many"])
    half, end = laps.memory[len(laps.memory) // 2], laps.memory[-1]
    return Section(
        title="Many slots",
        about="As above; every slot is a process that waits.",
        columns=("system", "trials", "times the ideal", "target"),
        rows=[row],
        notes=(
            f"Driver's memory over the last {MANY['trials'] // 2}: {(end - half) / 1e6:+.0f} MB.",
        ),
        misses=(f"many slots: {ideal:.2f} times the ideal",) if ideal > TARGETS["many"] else (),
    )


def _times_ideal(
    name: str, laps: Laps, size: Mapping[str, Any], target: float | None
) -> tuple[float, tuple[str, ...]]:
    times = laps.times_ideal(slots=size["slots"], seconds=size["seconds"])
    told = f"{size['trials']} trials of {size['seconds']:g} s on {size['slots']} slots"
    return times, (name, told, f"{times:.2f}", "" if target is None else f"{target:g}")


def trackers() -> Section:
    """Results told to MLflow's SQLite as fast as they come."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        checkpoint = folder / "s" / "checkpoint"  # of the study, or it is not read
        checkpoint.mkdir(parents=True)
        grid = np.random.default_rng(0).integers(0, 256, (600, 1000, 3), dtype=np.uint8)
        Image.fromarray(grid // 64 * 64).save(checkpoint / "grid.png")
        (checkpoint / "config.json").write_text("{}")
        plan = ToyPlan(most_trials=RESULTS, trials=RESULTS)
        journal = stack.enter_context(Journal(folder, "s"))
        tracker = stack.enter_context(tracking(journal, folder, plan))
        metrics = {f"m{number}": 0.5 for number in range(25)} | {"train_flops": 1e9}
        losses = [(float(n), 0.5, 0.5) for n in range(LOSS_ROWS)]
        config = asdict(ReptileConfig())
        began, cpu = time.monotonic(), time.process_time()
        for number in range(RESULTS // 2):
            tracker.trial_started(number, "", config, {"x": 0.5})
            for rung in range(2):
                step = {"train_flops": 1e9 * (rung + 1)}
                tracker.rung_reached(number, rung, metrics | step, losses, checkpoint, "continue")
        told = (time.monotonic() - began) / RESULTS
        tracker.close(timeout=600)
        each = (time.process_time() - cpu) / RESULTS
        rate = RESULTS / (time.monotonic() - began)
    misses = []
    if each > RESULT_SECONDS:
        misses.append(f"tracking: {each * 1e3:.0f} ms a result, target {RESULT_SECONDS * 1e3:.0f}")
    if rate < RESULT_RATE:
        misses.append(f"tracking: {rate:.0f} results/s, target {RESULT_RATE:.0f}")
    return Section(
        title="Tracking",
        about=f"{RESULTS} results of 26 metrics, 32 points of losses and a picture of 1000 x 600, "
        "two a trial, into SQLite.",
        columns=("what", "unit", "value", "target"),
        rows=[
            ("driver's CPU time a result", "ms", f"{each * 1e3:.1f}", f"{RESULT_SECONDS * 1e3:g}"),
            ("of it before the search goes on", "ms", f"{told * 1e3:.1f}", ""),
            ("delivered", "results/s", f"{rate:.0f}", f"{RESULT_RATE:g}"),
        ],
        misses=tuple(misses),
    )


def omniglot_context(rungs: Sequence[float], scale: str = "cpu") -> StudyContext:
    """A study's context on Omniglot, or on its stand-in where that is not to be had."""
    images = load_or_stand_in("omniglot", cache_dir=user_cache() / "images")
    split = split_classes(images)
    cache, threads = user_cache() / "scorers", os.cpu_count() or 1
    return StudyContext(
        image_set=str(images.path),
        scorer=str(prepare_scorer(images, split, cache_dir=cache, threads=threads)),
        split=split.to_dict(),
        rungs=tuple(rungs),
        episodes=(5, 8, 12)[: len(rungs)],
        samples=samples_wanted(images),
        device="cpu",
        store="",
        scoring_share=SCORING_COMPUTE[scale],  # type: ignore[index]
    )


SCORED = {
    "cpu": ReptileConfig(architecture="plane", adapt_steps=400),
    "paper": ReptileConfig(architecture="dcgan", adapt_steps=400),
}


def parts_of_a_trial() -> Section:
    """Scoring and saving beside training, in the time that a search has for its first rungs."""
    rows, misses = [], []
    for scale, config in SCORED.items():
        speed = ReptileTrial.training_speed(asdict(config), "cpu", 1.0)
        rungs = [speed * FIRST_RUNG_SECONDS * times for times in (1, 3)]
        context = omniglot_context(rungs, scale)
        trainable = TrialTrainable(
            {
                "trial_number": 0,
                "pipeline": "reptile",
                "trial_config": asdict(config),
                "context": asdict(context),
                "seed": 0,
                "threads": 1,
                "deadline": time.time() + 3600,
                "resume_from": None,
                "known": True,
            }
        )
        trainable.step()  # opens the set and the embedding, once a process
        before = trainable.step()["metrics"]
        first, saved = before["train_seconds"], time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            trainable.save_checkpoint(folder)
        saving = (time.monotonic() - saved) / 2
        scoring = before["score_seconds"] / (first + before["score_seconds"])
        share = saving / (first / 2)
        rows += [
            (scale, "scoring", f"{scoring:.1%}", f"{SCORING_SHARE[scale]:.0%}"),
            (scale, "a checkpoint", f"{share:.2%}", f"{SAVING_SHARE:.0%}"),
        ]
        if scoring > SCORING_SHARE[scale]:
            misses.append(f"scoring at {scale} scale: {scoring:.1%}")
        if share > SAVING_SHARE:
            misses.append(f"saving at {scale} scale: {share:.2%}")
    return Section(
        title="Scoring and checkpoints",
        about=f"Shares of a trial's time, one thread, rungs at {FIRST_RUNG_SECONDS:g} and "
        f"{3 * FIRST_RUNG_SECONDS:g} s of training. cpu: plane, width 16; paper: FIGR's DCGAN at "
        "width 16 with the share of compute that a paper-scale search gives to scoring.",
        columns=("scale", "part", "share", "target"),
        rows=rows,
        misses=tuple(misses),
    )


def memory() -> Section:
    """Of trials at width 16, side by side, on one copy of the data."""
    context = asdict(omniglot_context([1e30]))
    script = str(Path(__file__).with_name("resident.py"))
    command = [sys.executable, script, json.dumps(context), str(ITERATIONS)]
    trials = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    found = [json.loads(trial.communicate()[0]) for trial in trials]
    peak = max(one["peak"] for one in found)
    growth = max(one["growth"] for one in found)
    private = max(one["private"] for one in found)
    misses = [f"memory: {peak / 1e9:.2f} GB"] if peak > TRIAL_BYTES else []
    return Section(
        title="Memory",
        about=f"Two trials of width 16 side by side, {ITERATIONS} meta-iterations of one task.",
        columns=("what", "unit", "value", "target"),
        rows=[
            ("largest resident size of a trial's process", "GB", f"{peak / 1e9:.2f}", "1.2"),
            (
                "growth of what it allocates over the last nine tenths",
                "MB",
                f"{growth / 1e6:+.1f}",
                "0",
            ),
            ("of the pictures, a process's own", "MB", f"{private / 1e6:.1f}", "0"),
        ],
        misses=tuple(misses),
    )
