"""Measures how fast trials train, and what everything around them costs: `make bench`.

Every comparison is of paired runs, A B A B, and a ratio of medians: seconds alone say more about a
machine than about a program.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import around
import numpy as np
import numpy.typing as npt
import torch
from bench_search import Section, machine
from figr_reference import FigrReference
from PIL import Image
from rich.console import Console
from stock_search import FolderOfCharacters
from test_figr_reference import FAITHFUL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from trainables.configs import ReptileConfig
from trainables.memory import keep_freed_memory
from trainables.reptile import MetaTraining, meta_iteration_flops
from trainables.tensors import to_tensor

Bytes = npt.NDArray[np.uint8]

NETS = {
    "FIGR's DCGAN, width 16": replace(FAITHFUL, width=16),
    "FIGR's DCGAN, width 8": replace(FAITHFUL, width=8),
    "compact": ReptileConfig(architecture="compact"),
    "plane": ReptileConfig(architecture="plane"),
}
TIMES_TARGETS = {16: 1.8, 8: 2.5}  # as fast as the plain implementation, by width
RATE_TARGET = 0.6  # of a matrix product's, for FIGR's nets
CUBE = 2048  # side of that product
PAIRS = 7
SECONDS = 10.0  # of training side by side
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def paired(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of each, run in turns; the first turn warms up and does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(PAIRS + 1):
        for run, taken in zip((one, other), seconds, strict=True):
            began = time.perf_counter()
            run()
            if turn:
                taken.append(time.perf_counter() - began)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def noise(characters: int = 20, drawings: int = 20) -> Bytes:
    """Black and white pictures of Omniglot's size, [C, K, 105, 105]; speed sees no characters."""
    rng = np.random.default_rng(0)
    return (rng.random((characters, drawings, 105, 105)) > 0.9).astype(np.uint8) * 255


def engine(config: ReptileConfig, pictures: Bytes) -> Callable[[], object]:
    """A meta-iteration of ours, its task's pictures drawn from memory [C, K, S, S]."""
    keep_freed_memory()  # as every trial does
    training = MetaTraining(config, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)

    def iterate() -> object:
        tasks = pictures[rng.integers(len(pictures), size=config.meta_batch)]
        shots = tasks[:, rng.choice(pictures.shape[1], config.train_shots, replace=False)]
        return training.iterate(to_tensor(shots[:, :, None]))

    return iterate


def plain(width: int, pictures: Bytes, folder: Path) -> Callable[[], object]:
    """A meta-iteration of the plain implementation, its task's pictures read from files."""
    files = [
        [folder / f"{index}-{number}.png" for number in range(len(own))]
        for index, own in enumerate(pictures)
    ]
    for names, own in zip(files, pictures, strict=True):
        for name, picture in zip(names, own, strict=True):
            Image.fromarray(picture).convert("1").save(name)
    reference = FigrReference(width, FAITHFUL.inner_steps, torch.Generator().manual_seed(0))
    characters = FolderOfCharacters(files, size=32, seed=0)
    return lambda: reference.iterate(characters.task(FAITHFUL.train_shots))


@contextmanager
def process_of(
    build: Callable[..., Callable[[], object]], *arguments: object
) -> Iterator[Callable[[], object]]:
    """What `build` makes, run in a process of its own with one thread."""
    with ProcessPoolExecutor(1, initializer=_begin, initargs=(build, arguments)) as pool:
        yield lambda: pool.submit(_run).result()


_runs: list[Callable[[], object]] = []  # of such a process


def _begin(build: Callable[..., Callable[[], object]], arguments: Sequence[object]) -> None:
    torch.set_num_threads(1)
    _runs.append(build(*arguments))


def _run() -> None:
    _runs[-1]()


def training() -> Section:
    """FIGR's algorithm by our engine and by the plain implementation, each in its own process."""
    pictures, rows, misses = noise(), [], []
    for width, target in TIMES_TARGETS.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            process_of(engine, replace(FAITHFUL, width=width), pictures[:, :, :32, :32]) as ours,
            process_of(plain, width, pictures, Path(folder)) as theirs,
        ):
            fast, slow = paired(ours, theirs)
        times = slow / fast
        rows.append((str(width), f"{slow:.3f}", f"{fast:.3f}", f"{times:.2f}", f"{target:g}"))
        if times < target:
            misses.append(f"training at width {width}: {times:.2f} times as fast, not {target:g}")
    return Section(
        title="A meta-iteration in faithful mode",
        about="FIGR's algorithm and nets, n = 4, K = 10, one thread, each in a process of its own, "
        "ours as a trial's; the plain implementation is `tests/benchmarks/figr_reference.py`, "
        "whose losses and weights ours are equal to.",
        columns=("width", "plain, s", "ours, s", "times as fast", "target"),
        rows=rows,
        misses=tuple(misses),
    )


def rate() -> Section:
    """Operations a second of convolutions and of whole meta-iterations, beside those of a matrix
    product."""
    square = torch.rand(CUBE, CUBE)
    pictures, rows, misses = noise()[:, :, :32, :32], [], []
    for name, config in NETS.items():
        run = engine(config, pictures)
        ours, product = paired(run, lambda: square @ square)
        operations, most = meta_iteration_flops(config), 2 * CUBE**3 / product
        alone, whole = operations / seconds_in_products(run), operations / ours
        share = alone / most
        shares = f"{share:.0%}", f"{whole / most:.0%}"
        rates = (f"{each / 1e9:.0f}" for each in (most, alone, whole))
        rows.append((name, *rates, *shares))
        if config.faithful and share < RATE_TARGET:
            misses.append(
                f"convolutions of {name}: {share:.0%} of a product's, not {RATE_TARGET:.0%}"
            )
    return Section(
        title="Operations a second",
        about=f"GFLOP/s of a product of matrices of {CUBE} x {CUBE}, of a meta-iteration's "
        "convolutions and products alone, and of all of it; one thread.",
        columns=("nets", "product", "convolutions", "all", "share", "share of all"),
        rows=rows,
        misses=tuple(misses),
    )


class Stopwatch(TorchDispatchMode):
    """Adds up the seconds of those operations whose floating-point operations are counted."""

    seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        began = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.seconds += time.perf_counter() - began
        return result


def seconds_in_products(run: Callable[[], object]) -> float:
    """That convolutions and matrix products take in a run, the median of some."""
    watches = [Stopwatch() for _ in range(PAIRS)]
    for watch in watches:
        with watch:
            run()
    return statistics.median(watch.seconds for watch in watches)


def slots() -> Section:
    """Meta-iterations a second of one trial with all threads, and of one a core."""
    cores = os.cpu_count() or 1
    rows = []
    for name, config in NETS.items():
        alone = _together(config, 1, cores)
        many = _together(config, cores, 1)
        rows.append((name, f"{alone:.2f}", f"{many:.2f}", f"{many / alone:.2f}"))
    return Section(
        title="Trials side by side",
        about=f"Meta-iterations a second, summed, over {SECONDS:g} s.",
        columns=("nets", f"1 trial, {cores} threads", f"{cores} trials, 1 thread each", "ratio"),
        rows=rows,
    )


def _together(config: ReptileConfig, trials: int, threads: int) -> float:
    with ProcessPoolExecutor(trials) as pool:
        return sum(pool.map(_iterations_a_second, [config] * trials, [threads] * trials))


def _iterations_a_second(config: ReptileConfig, threads: int) -> float:
    torch.set_num_threads(threads)
    iterate, done = engine(config, noise()[:, :, :32, :32]), 0
    iterate()
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS:
        iterate()
        done += 1
    return done / spent


def _sections(parts: Sequence[str]) -> Iterator[Section]:
    torch.set_num_threads(1)
    for part in parts:
        yield PARTS[part]()


PARTS: dict[str, Callable[[], Section]] = {
    "training": training,
    "rate": rate,
    "slots": slots,
    "parts": around.parts_of_a_trial,
    "memory": around.memory,
    "tracking": around.trackers,
    "bookkeeping": around.bookkeeping,
    "many": around.many_slots,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code: 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--append", action="store_true", help=f"to docs/{PAGE.name}, too")
    arguments = parser.parse_args(argv)
    console, misses = Console(), []
    told = [f"# {datetime.now(UTC):%Y-%m-%d}", machine()]
    for section in _sections(arguments.parts):
        console.print(section.markdown(), markup=False, highlight=False, soft_wrap=True)
        told.append(section.markdown())
        misses += section.misses
    told += [f"Missed: {miss}." for miss in misses]
    if arguments.append:
        with PAGE.open("a", encoding="utf-8") as page:
            page.write("\n\n".join(["", *told]).replace("\n# ", "\n## ") + "\n")
    for miss in misses:
        print(f"missed: {miss}", file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
