"""The paper's Table 1 beside finished studies, as text, Markdown, CSV and HTML; runs nothing."""

from __future__ import annotations

import html
import re
import shutil
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainables.errors import UserError
from trainables.tasks import FIXED_SPLITS
from tuner.experiments import find_experiment
from tuner.journal_file import is_begun
from tuner.request import SIZE
from tuner.result import StudyResult, TestScore, load
from tuner.studies import study_folders
from tuner.table_cells import decimal, short

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
MANY_SHOT = ("cgan_fashion_mnist", "infogan_fashion_mnist")
SCORES = {
    "mse_rgb_sum": "MSE",
    "ssim": "SSIM",
    "brisque": "BRISQUE",
    "fd": "FD",
    "kid": "KID",
    "density": "density",
    "coverage": "coverage",
    "recognisability": "recognised",
    "copy_share": "copies",
    "L": "L",
    "J": "J",
}
WIDE = 150  # characters; three tables where there are fewer
NARROW = (
    ("mse_rgb_sum", "ssim", "brisque", "fd", "kid"),
    ("density", "coverage", "recognisability", "copy_share"),
    ("L", "J"),
)
AS_LONG = 0.8  # of the most training; the newest of the studies that had as much is taken
IN_TERMINAL = ("L", "J")  # whose intervals are shown there; the files have all there are
WHOLE = ("mse_rgb_sum", "kid")  # numbers without decimals
BASELINES = {
    "real": "real pictures (ceiling)",
    "augmented_shots": "shots, strongly augmented",
    "own_augmentation": "shots, augmented as ours",
    "copied_shots": "shots, copied (floor)",
    "nearest_class": "nearest base class",
}
NOTES = """\
MSE and SSIM are of each sample and its nearest shot, MSE summed over three equal channels: of the
readings that the paper leaves open, the one its published samples fit best. Copying the shots
wins both. BRISQUE (64 pixels, bilinear) differs less between methods than between real pictures.
FD, KID and what follows compare with pictures that no model was given; J (best 1) and L (best 0)
hold copies against a model. In brackets: 95 % intervals over episodes. "Augmented as ours" is the
champion's own augmentation of the shots themselves, without its nets: where it scores better, they
lose more than they add. Among the settings below, `layer` means that it is part of the generator
and changes all that is drawn; else the nets learn to draw what it makes of the shots. Real new
boots have an SSIM of about .5 with the nearest of four shots, so the .75 to .84 of the paper are
the mark of copies. The other readings of MSE and SSIM are in results.csv.
Every row is of one training, of the same episodes for all rows of an experiment, and 256 pictures
an episode (Omniglot, with 20 drawings of a character: 16, and one threshold of copying for all).
Equal compute is that of all training steps, those of pre-training included. L and J depend on the
embedding that pictures are compared in, so they compare rows of this table, not tables."""

COMMANDS = """\
The commands below find the real data in the folder that `FEWSHOT_DATA` names, or download it;
`python -m tuner.launch all` runs the six, and shares its `--budget` among those that are left."""

ALT = "Blocks of four shots and, below the line, new pictures"
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Table 1</title>
<style>
  :root {{ color-scheme: light dark }}
  body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem }}
  body > * {{ margin-inline: 1rem }}
  .wide {{ overflow-x: auto }}
  table {{ border-collapse: collapse; font-size: 13px }}
  th, td {{ padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #8886 }}
  img {{ max-width: 100%; image-rendering: pixelated }}
  th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; white-space: nowrap }}
</style>
<h1>Table 1</h1>
<div class="wide">
{table}
</div>
<ul>
{notes}
</ul>
<p>{commands}</p>
{sections}
</html>
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    experiment: str
    what: str
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    study: str = ""  # that it is from

    def cells(self, names: Iterable[str], intervals: Container[str]) -> list[str]:
        """Scores, for people; with `intervals` where there are some."""
        return [self._cell(name, intervals) for name in names]

    def _cell(self, name: str, intervals: Container[str]) -> str:
        if name not in self.scores:
            return ""
        digits = ",.0f" if name in WHOLE else ".2f"
        text = decimal(self.scores[name], digits)
        if name in intervals and name in self.intervals:
            low, high = (decimal(end, digits) for end in self.intervals[name])
            text += f" [{low}, {high}]"
        return text


def find_results(storage: Path) -> tuple[dict[str, StudyResult], list[str]]:
    """A finished study of each experiment on its real data -> these, and what could not be read.

    Of several the newest of those that trained about as much as any: a short try replaces none.

    Raises:
        UserError: there is none.
    """
    found: dict[str, list[StudyResult]] = {}
    unread = []
    for path in sorted(storage.glob("*/result.json")):
        try:
            result = load(path)
        except UserError as error:
            unread.append(f"Skipped: {error}")
            continue
        if belongs(result):
            found.setdefault(result.experiment, []).append(result)
    if not found:
        raise UserError(
            f"There must be finished studies on real data in {str(storage)!r}, and there are "
            "none: run python -m tuner.launch first, or name another --storage."
        )
    return {name: _newest(results) for name, results in found.items()}, unread


def _newest(results: Sequence[StudyResult]) -> StudyResult:
    most = max(map(_training, results))
    return max((r for r in results if _training(r) >= AS_LONG * most), key=lambda r: r.created)


def _training(result: StudyResult) -> float:
    return sum(trial.train_flops for trial in result.trials)


def belongs(result: StudyResult) -> bool:
    """Whether a study has tested what a row of Table 1 is about, in the size it is about."""
    if result.test is None or result.experiment not in PUBLISHED:
        return False
    # The registered model has the title, which a folder or classes of the user's own change.
    if result.gate is not None and result.gate.name != result.experiment:
        return False
    data = find_experiment(result.experiment)("cpu").data
    expected = FIXED_SPLITS[data][1] if data in FIXED_SPLITS else result.test.classes
    sizes = {trial.config.get("size", SIZE) for trial in result.trials}
    return result.data.name == data and result.test.classes == expected and sizes == {SIZE}


def unfinished(storage: Path) -> list[str]:
    """Experiments of which a study has begun in its default place, and none is finished there."""
    begun = [folder for folder in study_folders(storage) if is_begun(folder)]
    return [
        name
        for name in PUBLISHED
        if any(
            re.fullmatch(rf"{name}(-\d+)?", place.name) and not (place / "result.json").exists()
            for place in begun
        )
    ]


def table1(results: Mapping[str, StudyResult]) -> list[Row]:
    """The rows of Table 1, experiment by experiment; what was not run has its published row."""
    rows = []
    for name, (title, mse, ssim, brisque) in PUBLISHED.items():
        scores = {"mse_rgb_sum": mse, "ssim": ssim}
        scores |= {} if brisque is None else {"brisque": brisque}
        rows.append(Row(title, "paper, as published", scores))
        if (result := results.get(name)) is None:
            continue
        if result.reference is not None:
            test = result.reference.test
            rows.append(_tested(title, "paper's recipe, our code", test, result.study))
        if result.test is not None:
            rows.append(_tested(title, "our champion", result.test, result.study))
        for baseline, what in BASELINES.items():
            if "test" in result.null_baselines.get(baseline, {}):
                drawn = result.null_baselines[baseline]["test"]
                ends = result.null_intervals.get(baseline, {})
                rows.append(Row(title, what, drawn, ends, result.study))
    return rows


def _tested(title: str, what: str, test: TestScore, study: str) -> Row:
    return Row(title, what, test.metrics, test.intervals, study)


def remarks(results: Mapping[str, StudyResult], begun: Sequence[str] = ()) -> list[str]:
    """What a reader has to know of single rows; `begun` experiments are not finished."""
    lines = [f"{PUBLISHED[name][0]}: {text}" for name, text in REMARKS.items()]
    few = [title for name, (title, *_) in PUBLISHED.items() if name not in MANY_SHOT]
    lines.append(
        f"Few-shot as published: {'; '.join(few)}. All of our rows are: 4 pictures of the class."
    )
    lines += [
        f"{PUBLISHED[name][0]}, study {results[name].study}: {results[name].verdict}"
        for name in _run(results)
    ]
    missing = [name for name in PUBLISHED if name not in results]
    for told, names in (
        ("Not finished yet", [name for name in missing if name in begun]),
        ("Not run yet", [name for name in missing if name not in begun]),
    ):
        if names:
            lines.append(f"{told}: {'; '.join(PUBLISHED[name][0] for name in names)}.")
    return lines


def _run(results: Mapping[str, StudyResult]) -> list[str]:
    return [name for name in PUBLISHED if name in results]


@dataclass(frozen=True, slots=True)
class Section:
    """What is told of one study.

    Attributes:
        title: of its row.
        command: or commands, that it was run by.
        told: in sentences, after that.
        champion: which trial, and its settings.
        grid: file of its pictures, if it is there.
    """

    title: str
    command: str
    told: str
    champion: str
    grid: Path | None

    def markdown(self, picture: str) -> str:
        """For a page beside `picture`, a copy of the grid."""
        command = self.command.replace("`", "'")  # one would end the code
        lines = [f"## {self.title}", f"`{command}`: {_plain(self.told)}", _plain(self.champion)]
        return "\n\n".join([*lines, *([f"![{ALT}]({picture})"] if self.grid else [])])

    def html(self, picture: str) -> str:
        """The same."""
        title, command, told, champion = map(
            html.escape, (self.title, self.command, self.told, self.champion)
        )
        image = f'<img src="{picture}" alt="{ALT}">' if self.grid else ""
        return (
            f"<h2>{title}</h2>\n<p><code>{command}</code>: {told}</p>\n<p>{champion}</p>\n{image}"
        )


def _plain(text: str) -> str:
    """Text for Markdown, whose readers take HTML for HTML."""
    return html.escape(text, quote=False)


def sections(results: Mapping[str, StudyResult]) -> dict[str, Section]:
    """What is told of every study, by experiment."""
    return {name: _section(name, results[name]) for name in _run(results)}


def _section(name: str, result: StudyResult) -> Section:
    best, test = result.best, result.test
    assert best is not None
    assert test is not None
    commit, _, dirty = (result.git_commit or "").partition("-")
    told = f", commit {commit[:10]}{' with changes' if dirty else ''}" if commit else ""
    fixed = {key: value for key, value in _config(result).items() if key not in best.params}
    grid = None if best.grid is None else result.folder / best.grid
    return Section(
        title=PUBLISHED[name][0],
        command=result.commands.get("searched_by") or _planned_command(name, result.plan),
        told=f"{len(result.trials)} trials in {result.wall_seconds / 60:.1f} minutes"
        f"{_searched(result)}{told}. {result.verdict}",
        champion=f"The champion is trial {best.number}{f' ({best.label})' if best.label else ''}, "
        f"drawn after {test.adapt_steps} steps on the shots. Searched: {_listed(best.params)}. "
        f"Beside these: {_listed(fixed)}.",
        grid=grid if grid is not None and grid.is_file() else None,
    )


def _planned_command(name: str, plan: Mapping[str, Any]) -> str:
    """What a study of before commands were kept was probably run by."""
    budget, seed = plan["budget_seconds"], plan["seed"]
    return f"python -m tuner.launch {name} --budget {budget:.0f}s --seed {seed}"


def _searched(result: StudyResult) -> str:
    """Of the minutes, those of the search itself."""
    seconds = result.timings.get("search")
    if seconds is None:
        return ""
    slots = int(result.plan["slots"])
    return f" ({seconds / 60:.1f} of search on {slots} slot{'s' if slots > 1 else ''})"


def _config(result: StudyResult) -> Mapping[str, Any]:
    """The champion's."""
    assert result.best is not None
    number = result.best.number
    return next((trial.config for trial in result.trials if trial.number == number), {})


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {short(value)}" for key, value in settings.items())


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """All scores and intervals with full numbers; columns by their names."""
    data = [
        {"experiment": row.experiment, "what": row.what, "study": row.study, **row.scores}
        | {f"{name}_low": ends[0] for name, ends in row.intervals.items()}
        | {f"{name}_high": ends[1] for name, ends in row.intervals.items()}
        for row in rows
    ]
    return pd.DataFrame(data)


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the table for people, in parts where the lines are short."""
    for names in (tuple(SCORES),) if console.width >= WIDE else NARROW:
        console.print(_table(rows, names, IN_TERMINAL))


def _table(rows: Sequence[Row], names: Sequence[str], intervals: Container[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(SCORES[name], justify="right", no_wrap=True)
    for row, before in zip(rows, [None, *rows], strict=False):
        if before is None or before.experiment != row.experiment:
            table.add_section()
            table.add_row(Text(row.experiment, style="bold"))
        table.add_row(Text(f"  {row.what}"), *row.cells(names, intervals))
    return table


def write_table(
    results: Mapping[str, StudyResult], rows: Sequence[Row], lines: Sequence[str], folder: Path
) -> list[Path]:
    """Write results.md, results.csv and results.html, with the grids beside them -> their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = pd.DataFrame(
        [[row.experiment, row.what, *row.cells(SCORES, SCORES)] for row in rows],
        columns=["experiment", "what", *SCORES.values()],
    )
    paths = [folder / f"results.{suffix}" for suffix in ("md", "csv", "html")]
    notes = [NOTES.replace("\n", " "), *lines]
    told = "\n".join(f"- {_plain(line)}" for line in notes)
    markdown = shown.to_markdown(index=False, disable_numparse=True)
    pages = sections(results)
    for name, section in pages.items():
        if section.grid is not None:
            shutil.copyfile(section.grid, folder / f"{name}.png")
    own = [section.markdown(f"{name}.png") for name, section in pages.items()]
    text = [f"# Table 1\n\n{markdown}\n\n{told}", COMMANDS, *own]
    paths[0].write_text("\n\n".join(text) + "\n", encoding="utf-8")
    frame(rows).to_csv(paths[1], index=False)
    items = "\n".join(f"<li>{html.escape(line)}</li>" for line in notes)
    page = PAGE.format(
        table=shown.to_html(index=False, border=0),
        notes=items,
        commands=html.escape(COMMANDS.replace("`", "")),
        sections="\n".join(section.html(f"{name}.png") for name, section in pages.items()),
    )
    paths[2].write_text(page, encoding="utf-8")
    return paths


def show(storage: Path, out: Path | None = None) -> None:
    """Print Table 1, and write it to `out`, or to the storage folder.

    Raises:
        UserError: there is no finished study in `storage`.
        OSError: it cannot be written.
    """
    results, unread = find_results(storage)
    rows, lines = table1(results), remarks(results, unfinished(storage))
    paths = write_table(results, rows, lines, out or storage)
    for line in unread:
        print(line, file=sys.stderr)
    console = Console()
    print_table(rows, console)
    for line in (NOTES.replace("\n", " "), *lines, *map(str, paths)):
        console.print(Text(line), soft_wrap=True)
