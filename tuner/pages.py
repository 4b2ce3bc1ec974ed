"""What MLflow's pages show of a study before anybody has clicked: links, tables of runs, and texts.

Plain text and JSON; whoever writes them to a store is elsewhere.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence

from tuner.ranking import (
    BASELINES,
    COLUMNS,
    LABELS,
    SHORT,
    cells,
    gate_line,
    interval_cells,
    markdown_ranking,
)
from tuner.result import StudyResult

# Tag of an experiment: what MLflow's "Views" button offers, by the key that a link names it by.
VIEW = "mlflow.sharedViewState."
STUDIES = "studies"  # key of the view of an experiment's studies; a study's own is its run's id
KEY, PARENT = "kind", "mlflow.parentRunId"  # tags of runs, which views look for
INTERVAL = "{}_95"  # tag of a run: the ends of a score's 95 % interval
# Without it, MLflow 3 opens its pages for chat applications.
WORKFLOW = "workflowType=machine_learning"
ROWS = 12  # of trials in a run's description: a tag has no room for more
# Pictures in charts, by key: what a trial draws, a step a rung; and what a study's best does.
SAMPLES, CHAMPION = "pictures/samples", "pictures/champion"
NAME_WIDTH, SCORE_WIDTH = 360, 90  # pixels of a column


def run_page(experiment_id: str, run_id: str) -> str:
    """The part of a run's address that follows the server's."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{WORKFLOW}"


def view_page(experiment_id: str, key: str) -> str:
    """The same of a table of runs."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&{WORKFLOW}"


def experiment_tags(
    experiment: str, experiment_id: str, study: str, run_id: str, when: int
) -> dict[str, str]:
    """An experiment's description and its tables: its studies, and the trials of one of them.

    Args:
        experiment: its name.
        experiment_id: MLflow's.
        study: name of the study.
        run_id: of the study's run.
        when: Unix time in ms at which the study began.
    """
    scores = [f"metrics.`score/{name}`" for name in COLUMNS]
    tests = [f"metrics.`test/{name}`" for name in COLUMNS]
    first, second = (f"tags.`{INTERVAL.format(name)}`" for name in ("L", "J"))
    # A config has its rate whatever the optimiser; the sampler has one for each of them.
    settings = [f"params.`{name}`" for name in SHORT if not name.startswith("inner_lr_")]
    state = "tags.`state`"
    trials = [scores[0], first, scores[1], state, *scores[2:], "metrics.`training/rung`"]
    trials += ["metrics.`training/train_seconds`", *settings]
    studies = [tests[0], first, tests[1], second, state, *tests[2:], "params.`trials`"]
    return {
        "mlflow.note.content": _experiment_note(experiment, experiment_id, study, run_id),
        VIEW + STUDIES: _view(
            "Studies, best first", f"tags.`{KEY}` = 'study'", studies, CHAMPION, when
        ),
        VIEW + run_id: _view(
            f"Trials of {study}, best first", f"tags.`{PARENT}` = '{run_id}'", trials, SAMPLES, when
        ),
    }


def running_note(experiment_id: str, run_id: str) -> str:
    """The description of a study that has no result yet."""
    return f"No result yet: **[its trials, best first]({view_page(experiment_id, run_id)})**."


def trial_note(rung: int, metrics: Mapping[str, float], picture: str) -> str:
    """A trial's description: its scores, and what it draws.

    Args:
        rung: index of the rung at which it was scored last, from 0.
        metrics: its scores there.
        picture: Markdown that shows its grid.
    """
    values = zip(COLUMNS.values(), cells(metrics), strict=True)
    told = ", ".join(f"{heading} {value}" for heading, value in values if value)
    return (
        f"**{told}** at rung {rung + 1}. Each block is a class that it did not learn: the shots it "
        f"was given on top, what it drew below.\n\n{picture}"
    )


def study_note(result: StudyResult, runs: Mapping[int, str], table: str, picture: str) -> str:
    """A study's description: what to pick and why, then the pictures, then the ranking.

    Args:
        result: of the study.
        runs: pages of the trials, by number.
        table: page of the table of all its trials.
        picture: Markdown that shows the champion's grid; "" without one.
    """
    best = "" if result.best is None else _best(result, runs)
    text = (best, plain(result.verdict), tested(result), picture, _finals(result, runs))
    ranking = markdown_ranking(result, runs, rows=ROWS)
    heading = f"**Ranking** on validation classes ([all {len(result.trials)} trials]({table}))"
    return "\n\n".join(part for part in (*text, heading, ranking, _legend()) if part)


def tested(result: StudyResult) -> str:
    """A Markdown table of the test: the champion, the paper's recipe, and the baselines."""
    if result.test is None:
        return ""
    rows = {"this model": (result.test.metrics, result.test.intervals)}
    if (reference := result.reference) is not None:
        name = LABELS.get(reference.label, reference.label)
        rows[name] = (reference.test.metrics, reference.test.intervals)
    for name, title in BASELINES.items():
        if "test" in (parts := result.null_baselines.get(name, {})):
            rows[title] = (parts["test"], result.null_intervals.get(name, {}))
    lines = [
        f"| test, {result.test.episodes} episodes | {' | '.join(COLUMNS.values())} |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    lines += [f"| {name} | {' | '.join(interval_cells(*row))} |" for name, row in rows.items()]
    return "\n".join(lines)


def ends(interval: tuple[float, float]) -> str:
    """An interval as a tag holds it: a table sorts it as text, beside the score that it is of."""
    return "{:.2f} to {:.2f}".format(*interval)


def plain(text: str) -> str:
    """Text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(text, quote=False))


def _view(name: str, where: str, columns: Sequence[str], picture: str, when: int) -> str:
    """A saved view as MLflow 3.17 writes one: JSON that holds the page's state as JSON."""
    pinned = "attributes.`Run Name`"
    state = {
        "searchFilter": where,
        "orderByKey": columns[0],
        "orderByAsc": True,
        "selectedColumns": list(columns),
        "columnOrder": [pinned, *columns],
        "compareRunCharts": [_pictures(picture)],
        "compareRunSections": [_SECTION],
        "columnWidths": dict.fromkeys(columns, SCORE_WIDTH) | {pinned: NAME_WIDTH},
    }
    return json.dumps(
        {"name": name, "createdAt": when, "updatedAt": when, "state": json.dumps(state)}
    )


def _pictures(key: str) -> dict[str, object]:
    """A chart of the runs' pictures side by side, wide enough, without all their parameters."""
    return {
        "type": "IMAGE",
        "uuid": key,
        "metricSectionId": _SECTION["uuid"],
        "imageKeys": [key],
        "step": 0,
        "showRunParams": False,
        "runsCountToCompare": 10,
        "isGenerated": False,
        "deleted": False,
    }


_SECTION: Mapping[str, object] = {
    "uuid": "pictures",
    "name": "pictures",
    "columns": 1,
    "cardHeight": 640,  # pixels
    "display": True,
    "isReordered": False,
    "isGenerated": True,
    "deleted": False,
}


def _experiment_note(experiment: str, experiment_id: str, study: str, run_id: str) -> str:
    return (
        f"**[Trials of {plain(study)}, best first]({view_page(experiment_id, run_id)})** · "
        f"[its ranking and test]({run_page(experiment_id, run_id)}) · "
        f"[all studies, best first]({view_page(experiment_id, STUDIES)})\n\n"
        f"Few-shot generation, `{experiment}`: a run is a study, and the runs below it are its "
        "trials. L ranks them (real drawings have 0, lower is better); J is at best 1. L_95 and "
        f"J_95 are intervals over episodes. {_legend()}"
    )


def _best(result: StudyResult, runs: Mapping[int, str]) -> str:
    assert result.best is not None
    number = result.best.number
    where = runs.get(number)
    trial = f"[trial {number}]({where})" if where else f"trial {number}"
    return f"**The best is {trial}.** {plain(gate_line(result))}".strip()


def _finals(result: StudyResult, runs: Mapping[int, str]) -> str:
    if result.rematch is None:
        return ""
    lines = [
        f"| finals, {result.rematch.episodes} fresh episodes | {' | '.join(COLUMNS.values())} |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for one in result.rematch.finalists:
        name = f"trial {one.number}"
        name = f"[{name}]({runs[one.number]})" if one.number in runs else name
        lines.append(f"| {name} | {' | '.join(interval_cells(one.metrics, one.intervals))} |")
    return "\n".join(lines)


def _legend() -> str:
    return (
        "In names: w width, K inner steps, A steps of adaptation, lr learning rate, b batch, "
        "shape and tone how strongly shots are augmented."
    )
