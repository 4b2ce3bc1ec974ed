"""A study's report as files: one HTML page that needs nothing else, and its Markdown twin.

Whatever comes from a study is text in both. The page runs no script but its own two, which its
policy names by their hashes, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from trainables.durable import write_whole
from trainables.errors import UserError
from trainables.grid import GRID
from tuner.champion_folder import CHAMPION
from tuner.glance import Glance, glance
from tuner.interim import interim_result
from tuner.pictures import Picture, copying_of, grid_of
from tuner.places import bring
from tuner.plots import BEST_SHARE, MOST_TRIALS, Plots, plots_of
from tuner.result import StudyResult, load
from tuner.setting import REPORT, REPORT_TWIN, RESULT
from tuner.study_report import Report, report_of
from tuner.trial_records import TrialRecord

_CHECKPOINT_DEPTH = 3  # names below a study's folder: session, trial, checkpoint


def report_on(folder: Path, *, storage: str, out: Path | None = None) -> Path:
    """Write the report of a study, whether it runs, was interrupted or is finished -> its page.

    Args:
        folder: of the study.
        storage: of all studies, as commands name it.
        out: where the files go; the study's folder if None.
    Raises:
        UserError: its journal cannot be read, or it has no plan yet.
        OSError: the files cannot be written.
    """
    study = glance(folder)
    result, notices = _result_of(study)
    return write_report(result, study.records, storage=storage, out=out, notices=notices)


def write_report(
    result: StudyResult,
    records: Sequence[TrialRecord],
    *,
    storage: str,
    out: Path | None = None,
    notices: Sequence[str] = (),
) -> Path:
    """The same of a result that is known; arguments as of `report_of`."""
    report = report_of(result, records, storage=storage, notices=notices)
    shown = _shown(result, report, {record.number: record for record in records})
    folder = result.folder if out is None else out
    write_whole(folder / REPORT_TWIN, markdown_of(shown).encode())
    write_whole(folder / REPORT, page_of(shown).encode())
    return folder / REPORT


def page_of(shown: Mapping[str, Any]) -> str:
    """The HTML page."""
    plots: Plots = shown["plots"]
    figures = (plots.curves, plots.importance, plots.parallel, *plots.slices, *plots.pareto)
    scripts = [get_plotlyjs(), _template_file("report.js")] if any(figures) else []
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            shown,
            parts=_parts(shown),
            scripts=[_as_it_is(script) for script in scripts],
            hashes=" ".join(map(_hash, scripts)) or "'none'",
        )
    )


def markdown_of(shown: Mapping[str, Any]) -> str:
    """Its twin."""
    environment = _environment(finalize=_plain)
    environment.filters |= {"code": _code, "address": _address}
    text = environment.get_template("report.md.j2").render(shown)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _result_of(study: Glance) -> tuple[StudyResult, list[str]]:
    """Its result, or what the journal tells of one that has none; and what has to be said."""
    path, notices = study.folder / RESULT, []
    if path.is_file():
        try:
            return load(path), []
        except UserError as error:
            notices.append(
                f"This is what the journal tells, since the result cannot be read: {error}"
            )
    if study.plan is None:
        raise UserError(
            f"Study {study.folder.name!r} has no plan yet, so that there is nothing to report: "
            "wait until it searches."
        )
    if study.state == "running":
        notices.append(
            f"This study is running; the report is of {datetime.now():%d %B, %H:%M}. What is to be "
            "beaten is measured, and the best is tested, at its end."
        )
    elif study.state != "finished":
        notices.append(f"This study was {study.state} before its end. Go on with: {study.resume}")
    return interim_result(study), notices


def _shown(
    result: StudyResult, report: Report, records: Mapping[int, TrialRecord]
) -> dict[str, Any]:
    """What both files are made of."""
    folder = result.folder
    plots = plots_of(result)
    grid = copying = None
    if result.best is not None and result.best.grid is not None:
        grid = grid_of(folder / result.best.grid, folder)
        if result.test is not None:
            copying = copying_of(folder / CHAMPION, folder)
    return {
        "report": report,
        "plots": plots,
        "grid": grid,
        "copying": copying,
        "grids": _grids(report, records, folder),
        "importance": _importance(result, plots),
    }


def _grids(report: Report, records: Mapping[int, TrialRecord], folder: Path) -> dict[int, Picture]:
    """Of the trials that are shown, from their last checkpoints, which may have been moved with the
    study, or are brought from its bucket."""
    found = {}
    for candidate in report.candidates:
        number, place = candidate.trial.number, candidate.trial.checkpoint
        if (record := records.get(number)) is not None and record.rungs:
            place = str(bring(record.rungs[-1].checkpoint, folder))
        if place is not None:
            names = PurePosixPath(place).parts[-_CHECKPOINT_DEPTH:]
            picture = grid_of(folder.joinpath(*names, GRID), folder)
            if picture is not None:
                found[number] = picture
    return found


def _importance(result: StudyResult, plots: Plots) -> str:
    """How to read the figures on settings."""
    trials, settings = plots.compared, len(plots.importances)
    best = sum(bool(trial.rungs) for trial in result.trials) > MOST_TRIALS
    of = f" of the {MOST_TRIALS} best" if best else ""
    hint = ": take it as a hint, not as a finding" if trials < 10 * settings else ""
    return (
        "Trials come to the first rung with the same training, so that is where their settings "
        "are compared: by how the best quarter of the trials differs from all of them (PED-ANOVA). "
        f"That is {trials} trials{of}, {max(1, int(BEST_SHARE * trials))} of them in the best "
        f"quarter, for {settings} settings{hint}."
    )


def _parts(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchors and titles of the parts that the page has."""
    report, plots = shown["report"], shown["plots"]
    parts = (
        ("copies", "Does it copy?", shown["copying"] or report.copying),
        ("best", "Best trials", report.candidates),
        ("curves", "Learning curves", plots.curves),
        ("settings", "Settings", plots.importance),
        ("front", "Trade-offs", report.pareto.rows),
        ("paper", "Beside the paper", report.paper.rows),
        ("cost", "Cost", True),
        ("next", "Use it, repeat it", True),
        ("details", "Details", True),
    )
    return [(anchor, title) for anchor, title, there in parts if there]


def _environment(**options: Any) -> Environment:
    return Environment(
        autoescape=True,
        loader=PackageLoader("tuner"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def _template_file(name: str) -> str:
    return resources.files("tuner").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _plain(value: Any) -> Markup:
    """Text for Markdown, whose signs and HTML it must not be taken for."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return _as_it_is(re.sub(r"([\\`*_\[\]|~>])", r"\\\1", text))


def _code(line: str) -> Markup:
    """A line that is indented, where Markdown knows no signs."""
    return _as_it_is(" ".join(line.split()))


def _address(file: str) -> Markup:
    return _as_it_is(quote(file))


def _as_it_is(text: str) -> Markup:
    return Markup(text)  # noqa: S704  # nosec B704  # a script of our own, or Markdown made here
