"""Measures what makes training quick on a GPU, each step of it: `make bench-gpu`.

Every net of the space trains at the paper's width in float32, with TF32 and bfloat16, and with the
step captured as a CUDA graph as well. Rounds go through all three before the next one begins.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from trainables.configs import ReptileConfig
from trainables.cuda_step import Stepper
from trainables.generators import ARCHITECTURES
from trainables.reptile import InnerLoop, build_gan, initial_weights, step_flops
from tuner.cards import speed_beside
from tuner.machine import Training

WIDTHS, TASKS, ROUNDS, SECONDS = (16, 64), 4, 5, 0.5
WAYS = ("float32", "TF32, bfloat16", "captured")
TOGETHER = (1, 2, 4, 8)  # trials on the card
PAGE = "bench-gpu.md"


def loop_of(config: ReptileConfig, way: str) -> InnerLoop:
    gan = build_gan(config)
    rng = torch.Generator("cuda").manual_seed(0)
    start = initial_weights(gan, torch.Generator().manual_seed(0))
    start.generator, start.critic = start.generator.cuda(), start.critic.cuda()
    shape = (TASKS, config.train_shots, config.channels, config.size, config.size)
    shots = torch.rand(*shape, generator=rng, device="cuda") * 2 - 1
    loop = InnerLoop(gan, config, start, shots, rng, fast=way != "float32")
    if way == "TF32, bfloat16":
        loop._stepper = Stepper(rng, fast=True, capture=False)
    return loop


def milliseconds(loop: InnerLoop, seconds: float) -> float:
    """Of one step of all tasks."""
    torch.cuda.synchronize()
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for _ in range(10):
            loop.step()
        torch.cuda.synchronize()
        steps += 10
    return 1e3 * (time.perf_counter() - begun) / steps


def one_trial(architecture: str, width: int) -> str:
    """A row of the table."""
    config = ReptileConfig(architecture=architecture, width=width)  # type: ignore[arg-type]
    loops = {way: loop_of(config, way) for way in WAYS}
    for loop in loops.values():
        milliseconds(loop, 0.1)
    rounds = [[milliseconds(loop, SECONDS) for loop in loops.values()] for _ in range(ROUNDS)]
    plain, lowered, captured = (statistics.median(way) for way in zip(*rounds, strict=True))
    rate = step_flops(config, config.train_shots) * TASKS / captured / 1e9
    return (
        f"| {architecture} | {width} | {plain:.2f} | {lowered:.2f} | {captured:.2f} "
        f"| {plain / captured:.1f} | {rate:.2f} |"
    )


def together(trials: int) -> str:
    training = Training(
        pipeline="reptile",
        config=asdict(ReptileConfig(width=64)),
        classes=835,
        device="cuda",
        threads=1,
        fast=True,
        beside=trials,
    )
    each = speed_beside(training) / 1e9
    return f"| {trials} | {each:.0f} | {each * trials:.0f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help=f"folder that {PAGE} is written to")
    out = parser.parse_args(arguments).out
    if not torch.cuda.is_available():
        sys.exit("`make bench-gpu` needs a GPU that torch can use, and this machine has none.")
    console = Console(stderr=True)
    jobs = [(net, width) for net in ARCHITECTURES for width in WIDTHS]
    alone = [one_trial(*job) for job in track(jobs, "one trial", console=console)]
    beside = [together(trials) for trials in track(TOGETHER, "side by side", console=console)]
    card = torch.cuda.get_device_name()
    text = "\n".join(
        [
            "# On a GPU",
            "",
            f"`make bench-gpu`, {card}, torch {torch.__version__}. One step of {TASKS} tasks,",
            f"{ReptileConfig().train_shots} pictures each: milliseconds, median of {ROUNDS}.",
            "",
            "| net | width | float32 | TF32, bfloat16 | and captured | speed-up | TFLOP/s |",
            "|---|---|---|---|---|---|---|",
            *alone,
            "",
            "Trials that share the card, the base of the space at width 64, captured: GFLOP/s.",
            "",
            "| trials | each | all |",
            "|---|---|---|",
            *beside,
            "",
        ]
    )
    print(text)
    if out:
        (out / PAGE).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
