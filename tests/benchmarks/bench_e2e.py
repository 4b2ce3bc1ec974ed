"""Ours and stock parts on the real Omniglot, from the command to the best net: `make bench-e2e`.

Runs take turns, seed by seed. Each is kept in the work folder, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import safetensors.torch
import torch
from bench_search import Section, machine
from optuna.trial import FixedTrial
from rich.console import Console
from rich.progress import Progress
from torchvision.datasets import Omniglot

from search_spaces.reptile import cpu_space
from trainables.configs import ReptileConfig
from trainables.datasets import data_root_in_use, load, user_cache
from trainables.errors import UserError
from trainables.evaluation import prepare_scorer
from trainables.opened import open_scorer
from trainables.pipeline import StudyContext
from trainables.reptile_trial import ReptileTrial
from trainables.tasks import EPISODES, samples_wanted, split_classes
from tuner.journal import Journal

SYSTEMS = ("ours", "stock")
BUDGET = 600.0  # seconds from the command to its end
TIMES_TARGET = 3.0  # as fast to the L that stock parts end with
SHOWN = (120.0, 240.0, 360.0, 480.0, 600.0)  # seconds at which the table looks
FRESH = 1000  # seed of the episodes that nets are compared on: no search saw them
HERE = Path(__file__).parent
PAGE, PLOT = "bench-e2e.md", "bench-e2e.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A trial's score as a search saw it.

    Attributes:
        at: seconds since the command.
        trial: its name.
        L: on the search's validation episodes, as many as it chose to take.
        updates: of the trial so far.
        config: of its nets.
        steps: of adaptation.
        weights: safetensors file.
    """

    at: float
    trial: str
    L: float
    updates: float
    config: dict[str, Any]
    steps: int
    weights: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of a search.

    Attributes:
        scored: in the order of time.
        finished: trials that were trained to the last rung or stopped for their scores.
    """

    scored: tuple[Scored, ...]
    finished: int

    @property
    def updates(self) -> float:
        """Of all trials."""
        last = {score.trial: score.updates for score in self.scored}
        return sum(last.values())

    def incumbents(self) -> list[Scored]:
        """Those that were the best when they came: what a user would take at that time."""
        best: list[Scored] = []
        for score in self.scored:
            if not best or score.L < best[-1].L:
                best.append(score)
        return best


def context_of(episode_seed: int) -> StudyContext:
    """What both systems score with: the set, its split and the embedding of `tuner.launch`."""
    images = load("omniglot", cache_dir=user_cache() / "images")
    split = split_classes(images)
    cache, threads = user_cache() / "scorers", joblib.cpu_count()
    nets = prepare_scorer(images, split, cache_dir=cache, threads=threads)
    return StudyContext(
        image_set=str(images.path),
        scorer=str(nets),
        split=split.to_dict(),
        rungs=(1.0,),
        episodes=(EPISODES,),
        samples=samples_wanted(images),
        device="cpu",
        store="",
        episode_seed=episode_seed,
    )


def characters(folder: Path) -> list[list[str]]:
    """The training characters as folders of drawings: what the reference code reads."""
    root = data_root_in_use(None)
    if not folder.exists():
        partly = folder.with_name(f"{folder.name}.partly")
        shutil.rmtree(partly, ignore_errors=True)
        (partly / Omniglot.folder).mkdir(parents=True)
        for archive in (root / Omniglot.folder).glob("*.zip"):
            shutil.unpack_archive(archive, partly / Omniglot.folder)
        partly.rename(folder)
    images = load("omniglot", cache_dir=user_cache() / "images")
    drawings = [
        (folder / Omniglot.folder / f"images_{images.classes[index]}").glob("*.png")
        for index in split_classes(images).train
    ]
    return [sorted(map(str, files)) for files in drawings]


def run_ours(seed: int, seconds: float, out: Path) -> Run:
    """`python -m tuner.launch reptile_omniglot`, as it is."""
    began = time.time()
    options = ["--budget", f"{seconds:g}s", "--seed", str(seed), "--storage", str(out)]
    _call([sys.executable, "-m", "tuner.launch", "reptile_omniglot", "--study", "s", *options], out)
    with Journal(out, "s") as journal:
        records = journal.records()
    scored = [
        Scored(
            at=rung.when - began,
            trial=str(record.number),
            L=rung.metrics["L"],
            updates=rung.metrics["updates"],
            config=dict(record.config),
            steps=int(rung.metrics["adapt_steps"]),
            weights=str(Path(rung.checkpoint) / "weights.safetensors"),
        )
        for record in records
        for rung in record.rungs
        if rung.when is not None
    ]
    finished = sum(record.state in ("COMPLETE", "PRUNED") for record in records)
    return Run(scored=tuple(sorted(scored, key=lambda s: s.at)), finished=finished)


def run_stock(seed: int, seconds: float, out: Path) -> Run:
    """`stock_search.py`."""
    out.mkdir(parents=True)
    job = out / "job.json"
    context = asdict(context_of(0))
    read = characters(out.parent / "omniglot")
    job.write_text(json.dumps({"characters": read, "context": context, "seed": seed}))
    began = time.time()
    script = str(HERE / "stock_search.py")
    options = ["--job", str(job), "--seconds", f"{seconds:g}", "--out", str(out)]
    _call([sys.executable, script, *options], out)
    scored, finished = [], 0
    for told in sorted((out / "ray").glob("train_*/result.json")):
        folder = told.parent
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        if not lines:  # the time was over before its first score
            continue
        params = {name: value for name, value in lines[0]["config"].items() if name != "job"}
        config = cpu_space(FixedTrial(params), ReptileConfig())
        finished += bool(lines[-1]["done"])
        scored += [
            Scored(
                at=line["timestamp"] - began,
                trial=folder.name,
                L=line["L"],
                updates=line["updates"],
                config=asdict(config),
                steps=config.adapt_steps,
                weights=str(folder / line["checkpoint_dir_name"] / "weights.safetensors"),
            )
            for line in lines
        ]
    return Run(scored=tuple(sorted(scored, key=lambda s: s.at)), finished=finished)


RUNNERS: dict[str, Callable[[int, float, Path], Run]] = {"ours": run_ours, "stock": run_stock}


def _call(command: Sequence[str], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "output").open("w") as output:
        code = subprocess.run(command, cwd=out, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        raise UserError(f"{' '.join(command)} ended with {code}: see {out / 'output'}.")


def kept_run(system: str, seed: int, seconds: float, work: Path) -> Run:
    """A run, or what is kept of it."""
    out = work / f"{system}-{seed}"
    kept = out / "run.json"
    if not kept.exists():
        shutil.rmtree(out, ignore_errors=True)
        run = RUNNERS[system](seed, seconds, out)
        kept.write_text(json.dumps(asdict(run)))
    read = json.loads(kept.read_text())
    scored = (Scored(**one) for one in read["scored"])
    in_time = tuple(score for score in scored if score.at <= seconds)
    return Run(scored=in_time, finished=read["finished"])


def fresh_scores(score: Scored) -> tuple[float, float]:
    """L and J of a net on validation episodes that no search saw."""
    kept = Path(score.weights).with_name("fresh.json")
    if not kept.exists():
        context = context_of(FRESH)
        samples = ReptileTrial.sample(
            score.config,
            safetensors.torch.load_file(score.weights),
            context,
            part="validation",
            episodes=range(EPISODES),
            stops=[score.steps],
        )
        metrics = open_scorer(context, "validation").score(samples[0]).metrics
        kept.write_text(json.dumps([metrics["L"], metrics["J"]]))
    L, J = json.loads(kept.read_text())
    return L, J


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Fresh L and J of the best net so far; `at` ascends."""

    system: str
    seed: int
    at: tuple[float, ...]
    L: tuple[float, ...]
    J: tuple[float, ...]
    updates: float
    trials: int
    finished: int

    def value(self, name: str, at: float) -> float | None:
        """The score of the best net at that time; None before the first."""
        return next(
            (v for t, v in zip(self.at[::-1], getattr(self, name)[::-1], strict=True) if t <= at),
            None,
        )

    def reaches(self, L: float) -> float | None:
        """When its best net's L was first as low."""
        return next((t for t, own in zip(self.at, self.L, strict=True) if own <= L), None)


def curve_of(system: str, seed: int, run: Run, progress: Progress) -> Curve:
    best = run.incumbents()
    told = f"scoring {system}, seed {seed}"
    fresh = [fresh_scores(score) for score in progress.track(best, description=told)]
    return Curve(
        system=system,
        seed=seed,
        at=tuple(score.at for score in best),
        L=tuple(L for L, _ in fresh),
        J=tuple(J for _, J in fresh),
        updates=run.updates,
        trials=len({score.trial for score in run.scored}),
        finished=run.finished,
    )


def measured(seeds: int, seconds: float, work: Path, console: Console) -> Iterator[Curve]:
    """All runs, in turns."""
    context_of(0)  # the caches are warm for both
    with Progress(console=console) as progress:
        turns = [(seed, system) for seed in range(seeds) for system in SYSTEMS]
        for seed, system in progress.track(turns, description="searching"):
            run = kept_run(system, seed, seconds, work)
            if not run.scored:
                raise UserError(f"{system} scored no trial with seed {seed}: see {work}.")
            yield curve_of(system, seed, run, progress)


def section(curves: Sequence[Curve], seconds: float) -> Section:
    """The table, and when ours was as good as stock parts in the end."""
    rows = [
        (
            curve.system,
            str(curve.seed),
            f"{curve.updates:,.0f}",
            f"{curve.finished} of {curve.trials}",
            *(_cell(curve, at) for at in SHOWN),
        )
        for curve in sorted(curves, key=lambda c: (c.system, c.seed))
    ]
    notes, misses = [], []
    for seed in sorted({curve.seed for curve in curves}):
        ours, stock = (
            next(c for c in curves if c.seed == seed and c.system == system) for system in SYSTEMS
        )
        reached, most = ours.reaches(stock.L[-1]), seconds / TIMES_TARGET
        when = "never" if reached is None else f"after {reached:.0f} s"
        met = reached is not None and reached <= most
        notes.append(
            f"Seed {seed}: ours is as good as stock parts in the end (L {stock.L[-1]:.2f}) {when} "
            f"(target: {most:.0f} s): {'met' if met else 'MISSED'}."
        )
        if not met:
            misses.append(f"time to stock's L, seed {seed}: {when}, target {most:.0f} s")
    return Section(
        title="From the command to the best net",
        about=f"`python -m tuner.launch reptile_omniglot --budget {seconds:g}s` beside "
        "`tests/benchmarks/stock_search.py` (a function in the style of the reference code, "
        "OptunaSearch, ASHAScheduler, MLflowLoggerCallback; the same space, nets, scores and "
        "seconds of training at a rung, and no settings to begin with). L / J of the net that had "
        "the lowest validation L so far, scored again on 20 episodes of the validation characters "
        "that no search saw, so many seconds after the command. Ours leaves the second half of its "
        "time to its finals.",
        columns=("system", "seed", "updates", "trials ended", *(f"{at:.0f} s" for at in SHOWN)),
        rows=rows,
        notes=tuple(notes),
        misses=tuple(misses),
    )


def _cell(curve: Curve, at: float) -> str:
    L, J = curve.value("L", at), curve.value("J", at)
    return "" if L is None or J is None else f"{L:.2f} / {J:.2f}"


def plot(curves: Sequence[Curve], seconds: float, path: Path) -> None:
    """Fresh L and J over wall time, a line a seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, name in zip(axes, ("L", "J"), strict=True):
        for curve in curves:
            ours = curve.system == "ours"
            axis.step(
                [*curve.at, seconds],
                [*getattr(curve, name), getattr(curve, name)[-1]],
                where="post",
                color="C0" if ours else "C1",
                linestyle="-" if ours else "--",
                label=curve.system if curve.seed == 0 else None,
            )
        axis.set_xlabel("seconds since the command")
        axis.set_ylabel(f"{name} of the best net so far")
        axis.set_xlim(0, seconds)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code: 1 if the target was missed."""
    parser = argparse.ArgumentParser(prog="make bench-e2e", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=BUDGET)
    parser.add_argument("--work", type=Path, default=Path("runs") / "bench-e2e")
    parser.add_argument("--out", type=Path, help=f"folder for {PAGE} and its plot (default: none)")
    arguments = parser.parse_args(argv)
    console = Console()
    torch.set_num_threads(joblib.cpu_count())
    try:
        curves = list(
            measured(arguments.seeds, arguments.seconds, arguments.work.absolute(), console)
        )
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on with the next run.", file=sys.stderr)
        return 130
    found = section(curves, arguments.seconds)
    text = f"# From the command to the best net\n\n`make bench-e2e`: {machine()}\n\n"
    text += found.markdown()
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if arguments.out is not None:
        plot(curves, arguments.seconds, arguments.out / PLOT)
        picture = f"\n\n![L and J over time]({PLOT})\n"
        (arguments.out / PAGE).write_text(text + picture, encoding="utf-8")
    for miss in found.misses:
        print(f"missed: {miss}", file=sys.stderr)
    return 1 if found.misses else 0


if __name__ == "__main__":
    sys.exit(main())
