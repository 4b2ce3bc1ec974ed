"""Measures what the driver makes of a study of thousands of trials: `make bench-scaling`.

Everything of ours that decides and writes is real, on the real search space: searcher, sampler,
ASHA, journal. Trials are instant; Ray's controller and MLflow are left out: `make bench` has them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_search import Section, machine
from PIL import Image
from resident import resident_bytes
from rich.console import Console
from rich.progress import Progress
from simulation import Entrant, Ladder, play

from search_spaces.reptile import cpu_space
from trainables.configs import ReptileConfig
from trainables.reptile_trial import LOSS_ROWS
from tuner.asha import Asha
from tuner.journal import Journal
from tuner.journal_file import LOG
from tuner.plan import DEFAULT_BUDGET_SECONDS, make_plan
from tuner.recorder import Recorder
from tuner.rungs import Rungs
from tuner.search import JournalSearch

TRIALS, SLOTS = 10_000, 64
LOOKS = (100, 300, 1000, 3000, 10_000)  # trials begun
LADDER = Ladder(steps=(1, 3, 9), costs=(1 / 9, 3 / 9, 1.0))
EPISODES, NOISE, METRICS = 5, 0.1, 22
GPUS, TRIALS_A_CARD = (10, 100, 1000), 4
PARTS = ("asking", "deciding", "writing")
PAGE, PLOT = "bench-scaling.md", "bench-scaling.png"


@dataclass(slots=True)
class Spent:
    """Seconds of CPU, by part of the driver."""

    asking: float = 0.0
    deciding: float = 0.0
    writing: float = 0.0

    def add(self, part: str, seconds: float) -> None:
        setattr(self, part, getattr(self, part) + seconds)


class Timed:
    """A part of the driver whose calls are noted."""

    def __init__(self, part: Any, spent: Spent, name: str) -> None:
        self._part, self._spent, self._name = part, spent, name

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> Any:
            began = time.thread_time()
            try:
                return getattr(self._part, method)(*arguments)
            finally:
                self._spent.add(self._name, time.thread_time() - began)

        return call


class Reported:
    """Tells a recorder as much as a real trial does."""

    def __init__(self, recorder: Recorder, checkpoint: Path) -> None:
        self._recorder, self._checkpoint = recorder, checkpoint

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        result["metrics"] |= {f"m{number}": 0.5 for number in range(METRICS)}
        result["losses"] = [(float(row), 0.5, 0.5) for row in range(LOSS_ROWS)]
        trial.checkpoint.path = str(self._checkpoint)
        self._recorder.on_trial_result(iteration, trials, trial, result)

    def __getattr__(self, method: str) -> Any:
        return getattr(self._recorder, method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """At a study that grows.

    Attributes:
        trials: begun so far.
        results: since the look before.
        spent: since the look before.
        resident: memory of the driver's process, bytes.
        journal: its file, bytes.
    """

    trials: int
    results: int
    spent: Spent
    resident: int
    journal: int

    def each(self, part: str) -> float:
        """Seconds of CPU a result."""
        return float(getattr(self.spent, part)) / self.results


@dataclass(slots=True)
class Study:
    """A study that grows, and what was seen of it."""

    folder: Path
    spent: Spent
    shown: Callable[[], None]
    say: Callable[[str], None]
    looks: list[Look] = field(default_factory=list)
    begun: int = 0
    results: int = 0

    def evaluate(self, config: Mapping[str, Any], rung: int) -> Sequence[float]:
        """Instant scores by episode, which depend on the inner learning rate."""
        if config["rungs_done"] == 0 and rung == 0:
            self.begun += 1
            self.shown()
            if self.begun in LOOKS:
                self._look()
        self.results += 1
        rate = abs(np.log10(config["trial_config"]["inner_lr"]) + 3)
        rng = np.random.default_rng((config["trial_number"], rung))
        return list(rate + 1 / (rung + 1) + NOISE * rng.standard_normal(EPISODES))

    def _look(self) -> None:
        self.looks.append(
            Look(
                trials=self.begun,
                results=self.results - sum(look.results for look in self.looks),
                spent=replace(self.spent),
                resident=resident_bytes(),
                journal=(self.folder / "s" / LOG).stat().st_size,
            )
        )
        each = ", ".join(f"{part} {1e3 * self.looks[-1].each(part):.1f}" for part in PARTS)
        self.say(f"{self.begun:,} trials: {each} ms a result")
        for part in PARTS:
            setattr(self.spent, part, 0.0)


def grown(trials: int, console: Console) -> list[Look]:
    """Let a study grow to so many trials."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, spent = Path(name), Spent()
        journal = stack.enter_context(Journal(folder, "s"))
        progress = stack.enter_context(Progress(console=console))
        bar = progress.add_task("trials", total=trials)
        study = Study(folder, spent, lambda: progress.advance(bar), console.print)
        rungs = Rungs(len(LADDER), planned=trials)
        search = JournalSearch(
            journal,
            rungs,
            space=cpu_space,
            base=ReptileConfig(),
            trials=trials,
            sampler="tpe",
            seed=0,
            deadline=float("inf"),
            common={"pipeline": "reptile"},
        )
        recorder = Recorder(journal, ())
        entrant = Entrant(
            search=Timed(search, spent, "asking"),  # type: ignore[arg-type]
            scheduler=Timed(Asha(rungs), spent, "deciding"),  # type: ignore[arg-type]
            callback=Timed(Reported(recorder, _checkpoint(folder)), spent, "writing"),  # type: ignore[arg-type]
        )
        play(entrant, LADDER, study.evaluate, slots=SLOTS)
        if recorder.error is not None:
            raise recorder.error
    return study.looks


def _checkpoint(folder: Path) -> Path:
    """One for all: writing it is its trial's affair."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    grid = np.random.default_rng(0).integers(0, 4, (600, 1000, 3), dtype=np.uint8)
    Image.fromarray(grid * 85).save(checkpoint / "grid.png")
    (checkpoint / "config.json").write_text("{}")
    return checkpoint


def section(looks: Sequence[Look]) -> Section:
    """What a result costs, and what is kept of it, as a study grows."""
    rows = [
        (
            f"{look.trials:,}",
            f"{look.results:,}",
            *(f"{1e3 * look.each(part):.1f}" for part in PARTS),
            f"{1e3 * sum(look.each(part) for part in PARTS):.1f}",
            f"{look.resident / 1e6:.0f}",
            f"{look.journal / 1e6:.1f}",
        )
        for look in looks
    ]
    return Section(
        title="A study that grows",
        about=f"Instant trials on {SLOTS} slots, three rungs, the search space of "
        f"`reptile_omniglot`, tpe; a result has {METRICS + 4} metrics, {LOSS_ROWS} rows of losses "
        "and a picture of 1000 x 600. Milliseconds of the driver's CPU a result, mean since the "
        "row above: asking the sampler, deciding (ASHA), writing (journal). "
        "MLflow is told in another thread: `make bench` has what that costs.",
        columns=(
            "trials",
            "results",
            *(f"{part}, ms" for part in PARTS),
            "all, ms",
            "memory, MB",
            "journal, MB",
        ),
        rows=rows,
    )


def clusters(last: Look) -> Section:
    """What the default plan for a day asks of the driver, by the costs of the largest study."""
    rows = []
    for gpus in GPUS:
        slots = gpus * TRIALS_A_CARD
        planned = make_plan(
            scale="paper",
            budget_seconds=DEFAULT_BUDGET_SECONDS["paper"],
            trials=None,
            validation_episodes=20,
            validation_classes=20,
            test_episodes=20,
            large_classes=False,
            slots=slots,
            threads=1,
            cpus_per_trial=1,
            gpus_per_trial=1 / TRIALS_A_CARD,
            device="cuda",
            seed=0,
            samples=16,
            flops_per_second=1.0,
        )
        rate = slots / planned.rungs[0]
        each = sum(last.each(part) for part in PARTS)
        rows.append(
            (
                f"{gpus:,}",
                f"{slots:,}",
                f"{planned.trials:,}",
                f"{planned.rungs[0] / 60:.0f}",
                f"{rate:.2f}",
                f"{rate * each:.1%}",
                f"{planned.trials * last.journal / last.trials / 1e6:.0f}",
            )
        )
    return Section(
        title="A day on a cluster",
        about=f"The plan for {DEFAULT_BUDGET_SECONDS['paper'] / 3600:.0f} hours at paper scale, "
        f"{TRIALS_A_CARD} trials a card. Results a second at most: as if every slot trained to "
        "first rungs alone. The driver's share is of one core, by the last row above; so are the "
        "sizes of files. Checkpoints are not counted: their trials write them.",
        columns=(
            "GPUs",
            "slots",
            "trials",
            "to the first rung, min",
            "results/s at most",
            "driver's share",
            "journal, MB",
        ),
        rows=rows,
    )


def plot(looks: Sequence[Look], path: Path) -> None:
    """Milliseconds a result by trials, one part on another."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    trials = [look.trials for look in looks]
    for part in PARTS:
        axis.plot(trials, [1e3 * look.each(part) for look in looks], marker="o", label=part)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("trials")
    axis.set_ylabel("driver's CPU a result, ms")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    parser = argparse.ArgumentParser(prog="make bench-scaling", description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--out", type=Path, help=f"folder for {PAGE} and its plot (default: none)")
    arguments = parser.parse_args(argv)
    console = Console()
    looks = grown(arguments.trials, console)
    text = f"# Thousands of trials\n\n`make bench-scaling`: {machine()}\n\n"
    text += section(looks).markdown()
    text += "\n\n" + clusters(looks[-1]).markdown()
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if arguments.out is not None:
        plot(looks, arguments.out / PLOT)
        picture = f"\n\n![Milliseconds a result by trials]({PLOT})\n"
        (arguments.out / PAGE).write_text(text + picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
