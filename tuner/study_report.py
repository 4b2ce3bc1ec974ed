"""What a study's report says: its result becomes a headline, comparisons and tables of words.

Pure: nothing is read, drawn or marked up here. `report_page` shows it, with `plots` and `pictures`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise, takewhile

import numpy as np

from cluster.resources import counted
from tuner import bootstrap
from tuner.command_line import STORAGE, options_of, words_of
from tuner.ranking import (
    BASELINES,
    COLUMNS,
    failures,
    ranked,
    trial_title,
)
from tuner.report_audit import Audit, Cost, audit, cost
from tuner.report_tables import (
    Table,
    facts,
    paper_table,
    pareto_table,
    reached,
    remarks_on,
    settings_table,
    state,
    trials_table,
)
from tuner.result import StudyResult, TrialResult
from tuner.table1 import SCORES
from tuner.table_cells import decimal, short
from tuner.tracking_uri import default_uri
from tuner.trial_records import TrialRecord
from tuner.verdict import side_of_mark

SHOWN = 6  # of the best trials, with their pictures
MARK = "augmented_shots"  # the baseline to beat
Ends = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One line of a comparison: what was scored, and its 95 % interval, if it is known."""

    title: str
    value: float
    ends: Ends | None = None
    ours: bool = False  # the study's best
    to_beat: bool = False

    @property
    def text(self) -> str:
        """Such as ".73 [.64, .82]"."""
        return interval_text(self.value, self.ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Marks on one axis from 0 to `limit`, best first."""

    score: str
    meaning: str
    limit: float
    marks: tuple[Mark, ...]

    def place(self, value: float) -> float:
        """Where a value lies on the axis, 0 to 100."""
        return round(100 * min(max(value / self.limit, 0.0), 1.0), 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One of the best trials."""

    trial: TrialResult
    title: str
    best: bool
    standing: str  # its place in the search, and how it ended
    scores: tuple[tuple[str, str], ...]  # name and value of each
    note: str  # of which episodes they are
    settings: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to type, and what for."""

    purpose: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the page and its twin show in words; tables are empty where there is nothing."""

    study: str
    date: str
    headline: str
    verdict: str
    notices: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    comparisons: tuple[Comparison, ...]
    compared_on: str
    copying: str
    candidates: tuple[Candidate, ...]
    rematch: str
    paper: Table
    remarks: tuple[str, ...]
    settings: Table
    trials: Table
    pareto: Table
    audit: Audit
    cost: Cost
    reproduce: tuple[Command, ...]
    use: tuple[Command, ...]
    versions: Table


def report_of(
    result: StudyResult,
    records: Sequence[TrialRecord] = (),
    *,
    storage: str,
    notices: Sequence[str] = (),
) -> Report:
    """The report of a study, however it went.

    Args:
        result: of it, or what `interim_result` makes of one that has none.
        records: its journal's trials, where the journal can be read: scores by episode.
        storage: of all studies, as commands name it.
        notices: to be told before everything else.
    """
    order = ranked(result.trials)
    candidates = _candidates(result, order, {r.number: r for r in records})
    return Report(
        study=result.study,
        date=datetime.fromisoformat(result.created).strftime("%d %B %Y, %H:%M"),
        headline=_headline(result),
        verdict=result.verdict if result.test is not None else "",
        notices=(*notices, *_notices(result)),
        facts=tuple(facts(result)),
        comparisons=tuple(_comparisons(result)),
        compared_on=_compared_on(result),
        copying=_copying(result),
        candidates=candidates,
        rematch=_rematch(result),
        paper=paper_table(result),
        remarks=remarks_on(result),
        settings=settings_table(result),
        trials=trials_table(result, order),
        pareto=pareto_table(result),
        audit=audit(result, records),
        cost=cost(result),
        reproduce=tuple(_reproduce(result, storage)),
        use=tuple(_use(result, storage)),
        versions=Table(
            caption="Versions",
            headings=("package", "version"),
            rows=tuple(result.versions.items()),
        ),
    )


def interval_text(value: float, ends: Ends | None) -> str:
    """A score and its interval, for people."""
    if ends is None:
        return decimal(value)
    return f"{decimal(value)} [{decimal(ends[0])}, {decimal(ends[1])}]"


def _title(result: StudyResult) -> str:
    assert result.best is not None
    title = trial_title(result.best.number, result.best.label, result.best.params)
    return title[0].upper() + title[1:]


def _headline(result: StudyResult) -> str:
    if result.best is None:
        if result.outcome == "nothing succeeded":
            return "Nothing succeeded: no trial came as far as being scored"
        return "No trial has been scored yet"
    title = _title(result)
    if result.test is None:
        told = "leads so far" if result.outcome == "interrupted" else "is the best, untested"
        scores = ", ".join(
            f"{name} {decimal(result.best.scores[name])}"
            for name in ("J", "L")
            if name in result.best.scores
        )
        return f"{title} {told}: {scores} on the classes that the search looks at"
    ours = result.test.metrics.get("J")
    mark = result.null_baselines.get(MARK, {}).get("test", {}).get("J")
    if ours is None:
        return f"{title} is the best"
    told = f"{title} won: J {decimal(ours)} on classes it had never seen"
    side = side_of_mark(result.verdict)  # by episodes in pairs, which both scores do not tell
    if mark is None or not side:
        return told
    if side == "not distinguishable":
        return f"{told}, level with the mark to beat within chance"
    where = "above" if side == "better" else "below"
    return f"{told}, {decimal(abs(ours - mark))} {where} the mark to beat"


def _notices(result: StudyResult) -> Iterator[str]:
    if result.data.stand_in:
        yield (
            f"STAND-IN DATA: {result.data.name} is embedded and stands in for the real pictures. "
            "Its scores say nothing about the real set, and this model knows nothing of it."
        )
    if result.outcome == "nothing succeeded" and (told := failures(result.trials)):
        yield f"Nothing succeeded. {told}."
    scored = sum(trial.scores is not None for trial in result.trials)
    if scored == 1:
        yield "One trial alone was scored: nothing was compared, and its settings were not chosen."
    if result.best is not None and result.test is None and result.outcome == "finished":
        yield "The best trial was not tested, so that its scores are those it was chosen by."


def _compared_on(result: StudyResult) -> str:
    part = "test" if result.test is not None else "validation"
    if part == "test":
        assert result.test is not None
        classes = counted(len(result.test.classes), "class", "es")
        return f"{result.test.episodes} episodes of {classes} that no trial saw"
    return "episodes of the classes that the search looks at"


def _comparisons(result: StudyResult) -> Iterator[Comparison]:
    for score, meaning in (
        ("J", "quality, 1 is perfect: higher is better"),
        ("L", "what the search minimises, real drawings are 0: lower is better"),
    ):
        marks = list(_marks(result, score))
        if not any(mark.ours for mark in marks) or len(marks) < 2:
            continue
        marks.sort(key=lambda mark: (mark.value, mark.title), reverse=score == "J")
        highest = max(max(mark.value, *(mark.ends or (0.0,))) for mark in marks)
        limit = 1.0 if score == "J" else max(1.0, math.ceil(2 * highest) / 2)
        yield Comparison(score=score, meaning=meaning, limit=limit, marks=tuple(marks))


def _marks(result: StudyResult, score: str) -> Iterator[Mark]:
    if result.best is None:
        return
    part = "test" if result.test is not None else "validation"
    ours, ends = result.best.scores, {}
    if result.test is not None:
        ours, ends = result.test.metrics, result.test.intervals
    if score in ours:
        yield Mark(title="the best trial", value=ours[score], ends=ends.get(score), ours=True)
    if result.reference is not None and score in result.reference.test.metrics:
        test = result.reference.test
        yield Mark(
            title="the paper's recipe, our code",
            value=test.metrics[score],
            ends=test.intervals.get(score),
        )
    for name, title in BASELINES.items():
        scores = result.null_baselines.get(name, {}).get(part, {})
        known = result.null_intervals.get(name, {}) if part == "test" else {}
        if score in scores:
            yield Mark(
                title=title + (" (the mark to beat)" if name == MARK else ""),
                value=scores[score],
                ends=known.get(score),
                to_beat=name == MARK,
            )


def _copying(result: StudyResult) -> str:
    """What the copy test says of the champion, in a sentence."""
    if result.test is None or "copy_share" not in result.test.metrics:
        return ""
    share, ends = result.test.metrics["copy_share"], result.test.intervals.get("copy_share")
    told = f"{share:.1%} of the best trial's samples"
    if ends is not None:
        told += f" [{ends[0]:.1%}, {ends[1]:.1%}]"
    told += (
        " are nearer to one of their four shots than 99% of real new drawings are, mirrored and "
        "shifted shots included."
    )
    others = [
        f"{result.null_baselines[name]['test']['copy_share']:.1%} of {title}"
        for name, title in (
            ("real", "real drawings"),
            (MARK, "the augmented shots"),
            ("copied_shots", "the copied shots"),
        )
        if "copy_share" in result.null_baselines.get(name, {}).get("test", {})
    ]
    return f"{told} So are {', '.join(others)}." if others else told


def _candidates(
    result: StudyResult, order: Sequence[TrialResult], records: Mapping[int, TrialRecord]
) -> tuple[Candidate, ...]:
    """The champion, the other finalists, and then the best of the search."""
    finalists = {} if result.rematch is None else {f.number: f for f in result.rematch.finalists}
    first = [] if result.best is None else [result.best.number]
    ranks = {trial.number: rank for rank, trial in enumerate(order, start=1)}
    scored = [trial for trial in order if trial.scores is not None]
    places = {n: place for place, n in enumerate(dict.fromkeys([*first, *finalists]))}
    scored.sort(key=lambda trial: places.get(trial.number, len(places)))
    found = []
    for trial in scored[:SHOWN]:
        assert trial.scores is not None
        metrics, ends, note = trial.scores, _search_ends(records.get(trial.number)), "in the search"
        if ends:
            note += ", which keeps L alone by episode, so that no other score has an interval"
        if (again := finalists.get(trial.number)) is not None:
            metrics, ends = again.metrics, again.intervals
            note = "in the finals, trained again, on fresh episodes"
        found.append(
            Candidate(
                trial=trial,
                title=trial_title(trial.number, trial.label, trial.params),
                best=trial.number in first,
                standing=f"rank {ranks[trial.number]} of the search, {state(trial)}, "
                f"rung {reached(result, trial)}",
                scores=tuple(
                    (SCORES[name], interval_text(metrics[name], ends.get(name)))
                    for name in COLUMNS
                    if name in metrics
                ),
                note=note,
                settings=", ".join(f"{k} {short(v)}" for k, v in trial.params.items()),
            )
        )
    return tuple(found)


def _search_ends(record: TrialRecord | None) -> dict[str, Ends]:
    """95 % interval of L over the search's episodes."""
    if record is None or not record.rungs or len(record.rungs[-1].episodes) < 2:
        return {}
    return {"L": bootstrap.interval(np.array([record.rungs[-1].episodes]))}


def _rematch(result: StudyResult) -> str:
    if (rematch := result.rematch) is None:
        return ""
    told = (
        f"{counted(len(rematch.finalists), 'trial')} met again: "
        f"{counted(rematch.seeds, 'fresh training')} each, {rematch.episodes} fresh episodes."
    )
    if rematch.margin is None:
        return told
    low, high = rematch.margin
    sure = "" if low > 0 else ", so that chance may have chosen between them"
    return f"{told} The second's L less the winner's: {decimal(low)} to {decimal(high)}{sure}."


def _reproduce(result: StudyResult, storage: str) -> Iterator[Command]:
    trial = next(
        (t for t in result.trials if result.best is not None and t.number == result.best.number),
        None,
    )
    if trial is not None and trial.mlflow_run_id and result.tracking is not None:
        words = ["tuner.launch", "--replay", trial.mlflow_run_id, *_where(result, storage)]
        yield Command(
            purpose="Train the best trial again, and compare its scores bit for bit",
            line=shlex.join(["python", "-m", *words]),
        )
    if again := _search_again(result, storage):
        yield Command(purpose="Search again", line=shlex.join(again))
    if result.commands.get("search_on"):
        yield Command(purpose="Go on with this study", line=result.commands["search_on"])


def _search_again(result: StudyResult, storage: str) -> list[str]:
    """The command that began the study, of all that were typed, with what it was begun on as the
    command that goes on has it: in full, and where the environment named it, too."""
    typed = [*takewhile("&&".__ne__, words_of(result.commands.get("searched_by", "")))]
    begun_on = ("--plugin", "--data", "--data-root", "--address")
    known = options_of(result.commands.get("search_on", ""), *begun_on)
    given = set(known[::2])
    words = [word for before, word in pairwise(["", *typed]) if not {before, word} & given]
    return words and [*words, *known, *_places(result, storage)]


def _where(result: StudyResult, storage: str) -> list[str]:
    """Options that name the study's places and plugins, as far as commands do not find them."""
    plugins = options_of(result.commands.get("search_on", ""), "--plugin")
    return _places(result, storage) + plugins


def _places(result: StudyResult, storage: str) -> list[str]:
    words = [] if storage == STORAGE else ["--storage", storage]
    tracking = result.tracking
    if tracking is not None and tracking.uri != default_uri(result.folder.parent):
        words += ["--tracking-uri", tracking.uri]
    return words


def _use(result: StudyResult, storage: str) -> Iterator[Command]:
    if result.best is not None and result.best.weights is not None:
        crowned = result.gate is not None and result.gate.crowned
        name = result.gate.name if result.gate is not None and crowned else result.study
        shots = ["--shots", "a.png", "b.png", "c.png", "d.png", "--count", "64", "--out", "new.png"]
        for purpose, words in (
            ("Draw a class of your own from four pictures of it", ["tuner.generate", name, *shots]),
            ("Try it in a browser", ["tuner.demo", name]),
        ):
            line = shlex.join(["python", "-m", *words, *_where(result, storage)])
            yield Command(purpose=purpose, line=line)
    for name, purpose in (
        ("mlflow_ui", "MLflow: every trial's curves, grids and weights"),
        ("mlflow_page", "This study there"),
        ("mlflow_trials", "Its trials there, the best first"),
    ):
        if result.commands.get(name):
            yield Command(purpose=purpose, line=result.commands[name])
