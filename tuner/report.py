"""Tables over finished studies; runs nothing.

python -m tuner.report table1
"""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainables.errors import UserError
from tuner.experiments import find_experiment
from tuner.result import StudyResult, TestScore, load

# Table 1 of the paper: MSE, SSIM, BRISQUE; in its order.
PUBLISHED: dict[str, tuple[str, float, float, float | None]] = {
    "reptile_mnist": ("Reptile, MNIST", 4104.78, 0.73, None),
    "reptile_omniglot": ("Reptile, Omniglot", 4320.69, 0.91, None),
    "reptile_fashion_mnist": ("Reptile, FashionMNIST", 10877.69, 0.60, 80.34),
    "dcgan_fashion_mnist": ("DCGAN, FashionMNIST", 3689.11, 0.84, 77.432),
    "cgan_fashion_mnist": ("CGAN, FashionMNIST", 3436.85, 0.80, 77.1049),
    "infogan_fashion_mnist": ("InfoGAN, FashionMNIST", 3863.17, 0.75, 74.67),
}
# What is known of how the published rows came about (the samples and the code behind them).
REMARKS = {
    "dcgan_fashion_mnist": "Published samples copy two of the four shots.",
    "cgan_fashion_mnist": "Not few-shot as published: the code trains on all 6,000 boots, and the "
    "published samples are one training picture.",
    "infogan_fashion_mnist": "Not few-shot as published: the code trains on all 6,000 boots.",
}
SCORES = {
    "mse_rgb_sum": "MSE",
    "ssim": "SSIM",
    "fd": "FD",
    "kid": "KID",
    "density": "density",
    "coverage": "coverage",
    "recognisability": "recognised",
    "copy_share": "copies",
    "L": "L",
    "J": "J",
}
NARROW = ("mse_rgb_sum", "ssim", "copy_share", "L", "J")  # in terminals of less than `WIDE`
WIDE = 130
BASELINES = {
    "real": "real pictures (ceiling)",
    "augmented_shots": "shots, strongly augmented",
    "copied_shots": "shots, copied (floor)",
}
NOTES = """\
MSE and SSIM are of each sample and its nearest shot, MSE summed over three equal channels: of the
readings that the paper leaves open, the one its published samples fit best. Copying the shots
wins both. FD, KID and what follows compare with pictures that no model was given; J (best 1) and L
(best 0) hold copies against a model. J in brackets: 95 % interval over episodes."""

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Table 1</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem }}
  table {{ border-collapse: collapse }}
  th, td {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd }}
  th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left }}
</style>
<h1>Table 1</h1>
{table}
<ul>
{notes}
</ul>
</html>
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    experiment: str
    what: str
    scores: Mapping[str, float]
    interval: tuple[float, float] | None = None

    def cells(self, names: Iterable[str] = tuple(SCORES)) -> list[str]:
        """Scores, for people."""
        return [self._cell(name) for name in names]

    def _cell(self, name: str) -> str:
        if name not in self.scores:
            return ""
        value = self.scores[name]
        text = f"{value:,.0f}" if name in ("mse_rgb_sum", "kid") else f"{value:.2f}"
        if name == "J" and self.interval:
            text += f" [{self.interval[0]:.2f}, {self.interval[1]:.2f}]"
        return text


def newest_results(storage: Path) -> dict[str, StudyResult]:
    """The newest finished study of each experiment on its real data.

    Raises:
        UserError: there is none; or a result cannot be read.
    """
    newest: dict[str, StudyResult] = {}
    for path in sorted(storage.glob("*/result.json")):
        result = load(path)
        if (
            result.test is None
            or result.experiment not in PUBLISHED
            or result.data.name != find_experiment(result.experiment)("cpu").data
        ):
            continue
        if (held := newest.get(result.experiment)) is None or held.created < result.created:
            newest[result.experiment] = result
    if not newest:
        raise UserError(
            f"There must be finished studies on real data in {str(storage)!r}, and there are "
            "none: run python -m tuner.launch first, or name another --storage."
        )
    return newest


def table1(results: Mapping[str, StudyResult]) -> list[Row]:
    """The rows of Table 1, experiment by experiment; what was not run has its published row."""
    rows = []
    for name, (title, mse, ssim, _brisque) in PUBLISHED.items():
        rows.append(Row(title, "paper, as published", {"mse_rgb_sum": mse, "ssim": ssim}))
        if (result := results.get(name)) is None:
            continue
        if result.reference is not None:
            rows.append(_tested(title, "paper's recipe, our code", result.reference.test))
        if result.test is not None:
            rows.append(_tested(title, "our champion", result.test))
        for baseline, what in BASELINES.items():
            if "test" in result.null_baselines.get(baseline, {}):
                rows.append(Row(title, what, result.null_baselines[baseline]["test"]))
    return rows


def _tested(title: str, what: str, test: TestScore) -> Row:
    return Row(title, what, test.metrics, test.intervals.get("J"))


def remarks(results: Mapping[str, StudyResult]) -> list[str]:
    """What a reader has to know of single rows."""
    lines = [f"{PUBLISHED[name][0]}: {text}" for name, text in REMARKS.items()]
    lines += [
        f"{PUBLISHED[name][0]}: study {result.study}, seed {result.plan['seed']}, "
        f"{len(result.trials)} trials in {result.wall_seconds / 60:.0f} minutes. {result.verdict}"
        for name in PUBLISHED
        if (result := results.get(name)) is not None
    ]
    missing = [PUBLISHED[name][0] for name in PUBLISHED if name not in results]
    return [*lines, f"Not run yet: {'; '.join(missing)}."] if missing else lines


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The table with full numbers; columns by the scores' names."""
    columns = ["experiment", "what", *SCORES, "J_low", "J_high"]
    data = [
        {"experiment": row.experiment, "what": row.what, **row.scores}
        | ({"J_low": row.interval[0], "J_high": row.interval[1]} if row.interval else {})
        for row in rows
    ]
    return pd.DataFrame(data, columns=columns)


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the table for people."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    names = SCORES if console.width >= WIDE else NARROW
    for name in names:
        table.add_column(SCORES[name], justify="right", no_wrap=True)
    for row, before in zip(rows, [None, *rows], strict=False):
        if before is None or before.experiment != row.experiment:
            table.add_section()
            table.add_row(Text(row.experiment, style="bold"))
        table.add_row(Text(f"  {row.what}"), *row.cells(names))
    console.print(table)


def write_table(rows: Sequence[Row], lines: Sequence[str], folder: Path) -> list[Path]:
    """Write table1.md, table1.csv and table1.html -> their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = pd.DataFrame(
        [[row.experiment, row.what, *row.cells()] for row in rows],
        columns=["experiment", "what", *SCORES.values()],
    )
    paths = [folder / f"table1.{suffix}" for suffix in ("md", "csv", "html")]
    notes = [NOTES.replace("\n", " "), *lines]
    told = "\n".join(f"- {line}" for line in notes)
    markdown = shown.to_markdown(index=False, disable_numparse=True)
    paths[0].write_text(f"# Table 1\n\n{markdown}\n\n{told}\n", encoding="utf-8")
    frame(rows).to_csv(paths[1], index=False)
    items = "\n".join(f"<li>{html.escape(line)}</li>" for line in notes)
    page = PAGE.format(table=shown.to_html(index=False, border=0), notes=items)
    paths[2].write_text(page, encoding="utf-8")
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tuner.report", description="Tables over finished studies; runs nothing."
    )
    parser.add_argument("table", choices=["table1"], help="the paper's Table 1 beside ours")
    parser.add_argument(
        "--storage", type=Path, default=Path("runs"), help="folder of all studies (default: runs)"
    )
    parser.add_argument("--out", type=Path, help="where the files go (default: the storage folder)")
    arguments = parser.parse_args(argv)
    try:
        results = newest_results(arguments.storage)
        rows, lines = table1(results), remarks(results)
        paths = write_table(rows, lines, arguments.out or arguments.storage)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    print_table(rows, console)
    for line in (NOTES.replace("\n", " "), *lines, *map(str, paths)):
        console.print(Text(line), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
