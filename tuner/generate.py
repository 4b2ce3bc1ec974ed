"""Command line: new pictures of what a few given ones show, made by a champion.

python -m tuner.generate MODEL --shots a.png b.png c.png d.png --out new.png
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainables.errors import UserError
from trainables.tasks import MOST_SHOTS
from tuner import plugins
from tuner.command_line import OneLineParser, add_plugin_option, add_storage_option, answer
from tuner.model import MOST_PICTURES, Copying, Model, as_png

COUNT = 64  # pictures, unless asked for otherwise
DESCRIPTION = """\
New pictures of what a few given ones show: the champion of a study is adapted to them, as
Algorithm 2 of the paper has it, and draws. Photographed ink on paper works: the ink is found, and
brought to what the model's data looks like. Prints how many of the new pictures are copies.
"""

Bytes = npt.NDArray[np.uint8]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    return answer(lambda: _generate(_parser().parse_args(argv)))


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m tuner.generate", description=DESCRIPTION)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="an experiment, whose champion is meant; a study; models:/NAME@champion or "
        "models:/NAME/3; or the folder of a study or of a champion",
    )
    parser.add_argument(
        "--shots",
        nargs="+",
        required=True,
        metavar="FILE",
        help=f"1 to {MOST_SHOTS} pictures of one thing, or one folder of them; models are trained "
        "for 4",
    )
    parser.add_argument("--count", type=int, default=COUNT, help=f"new pictures ({COUNT})")
    parser.add_argument("--out", type=Path, help="a PNG of all: the shots on top, new ones below")
    parser.add_argument("--out-dir", type=Path, help="a new folder for each picture as a PNG")
    parser.add_argument("--seed", type=int, default=0, help="the same one, the same pictures (0)")
    parser.add_argument("--steps", type=int, help="of adaptation (default: the model's own)")
    add_storage_option(parser)
    parser.add_argument(
        "--tracking-uri", help="of the registered models (default: SQLite in the storage folder)"
    )
    add_plugin_option(parser)
    return parser


def _generate(arguments: argparse.Namespace) -> int:
    from trainables.shots import read_shots, shot_files

    files = shot_files(arguments.shots)
    if not 1 <= arguments.count <= MOST_PICTURES:
        raise UserError(f"--count must be 1 to {MOST_PICTURES}, got {arguments.count}.")
    _require_places(arguments.out, arguments.out_dir)
    plugins.load(arguments.plugin)
    model = Model.open(
        arguments.model, storage=arguments.storage, tracking_uri=arguments.tracking_uri
    )
    shots = read_shots(files, model.card)
    steps = model.steps if arguments.steps is None else arguments.steps
    pictures = _drawn(model, shots, arguments.count, arguments.seed, steps)
    print(f"{model.title}: {steps} steps of adaptation to {len(shots)} shots")
    for line in told(model.scores(shots, pictures)):
        print(line)
    try:
        if arguments.out is not None:
            _write_grid(arguments.out, shots, pictures)
            print(f"{arguments.out}: the shots on top, {len(pictures)} new pictures below")
        if arguments.out_dir is not None:
            _write_each(arguments.out_dir, pictures)
            print(f"{arguments.out_dir}: {len(pictures)} new pictures, one file each")
    except OSError as error:
        raise UserError(
            f"The pictures cannot be written ({error}): name another --out or --out-dir."
        ) from error
    return 0


def told(copying: Copying) -> list[str]:
    """How near new pictures come to the shots, for people."""
    copies, count = int(copying.copies.sum()), len(copying.copies)
    return [
        f"{copies} of {count} are near copies of a shot: {copying.copy_share:.0%}, "
        f"of real pictures {copying.real_copy_share:.0%}",
        f"distance to the nearest shot {copying.distance:.2f}, of real pictures "
        f"{copying.real_distance:.2f} (medians; 0 is a copy, 1 an empty picture)",
    ]


def _drawn(model: Model, shots: Bytes, count: int, seed: int, steps: int) -> Bytes:
    import torch
    from rich.console import Console
    from rich.progress import Progress

    torch.set_num_threads(1)  # sums of several threads differ from machine to machine
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("adapting", total=max(1, steps))
        drawn = model.draw(
            shots,
            count=count,
            seed=seed,
            stops=[steps],
            progress=lambda done, _: progress.update(task, completed=done),
        )
        return next(drawn)[1]


def _require_places(out: Path | None, out_dir: Path | None) -> None:
    """Refuse what cannot be written, or would be written over, before anything begins."""
    if out is None and out_dir is None:
        raise UserError("Name where new pictures go: --out FILE.png, --out-dir FOLDER, or both.")
    if out is not None and out.suffix.lower() != ".png":
        raise UserError(f"--out must be a PNG file, got {str(out)!r}.")
    for option, path in (("--out", out), ("--out-dir", out_dir)):
        if path is None:
            continue
        if os.path.lexists(path):
            raise UserError(f"{option} must be new, and {str(path)!r} exists: name another.")
        if not (path.absolute().parent.is_dir() and os.access(path.absolute().parent, os.W_OK)):
            raise UserError(
                f"{option} must lie in a folder that can be written, got {str(path)!r}: make it, "
                "or name another."
            )


def _write_grid(out: Path, shots: Bytes, pictures: Bytes) -> None:
    from trainables.durable import write_whole
    from trainables.grid import shots_grid

    write_whole(out, as_png(shots_grid(shots, pictures).transpose(2, 0, 1)))


def _write_each(folder: Path, pictures: Bytes) -> None:
    whole = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(whole, ignore_errors=True)  # a kill left it
    try:
        whole.mkdir()
        for number, picture in enumerate(pictures):
            (whole / f"{number:04}.png").write_bytes(as_png(picture))
        whole.rename(folder)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
