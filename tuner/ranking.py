"""How trials are named, ordered and shown: titles of runs, and the table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from tuner.result import Pareto, StudyResult, TrialResult

# The scores shown in every table, best first in what they say, and their headings.
COLUMNS = {
    "L": "L",
    "J": "J",
    "recognisability": "recog.",
    "coverage": "cover.",
    "copy_share": "copies",
}
SCORE_WIDTHS = {heading: max(4, len(heading)) for heading in COLUMNS.values()}
TESTED = ("J", "L", "recognisability", "coverage", "copy_share")
LABELS = {"paper": "paper's settings"}
BASELINES = {
    "real": "real drawings",
    "augmented_shots": "augmented shots",
    "own_augmentation": "shots, augmented as the best trial's",
    "copied_shots": "copied shots",
    "nearest_class": "nearest base class",
}
# What tells trials apart at a glance, in this order; other parameters are left to MLflow.
SHORT = {
    "architecture": "{}",
    "width": "w{}",
    "inner_steps": "K{}",
    "adapt_steps": "A{}",
    "inner_lr": "lr{}",
    "inner_lr_adam": "lr{}",
    "inner_lr_sgd": "lr{}",
    "lr": "lr{}",
    "batch": "b{}",
    "augment_shape": "shape{}",
    "augment_tone": "tone{}",
}


def short_parameters(params: Mapping[str, Any]) -> str:
    """A few parameters in a few words: "figr_dcgan w16 K10 lr0.001"."""
    known = [name for name in SHORT if name in params]
    words = [SHORT[name].format(_short(params[name])) for name in known]
    if not words:
        words = [f"{name}={_short(value)}" for name, value in list(params.items())[:3]]
    return " ".join(words)


def describe(label: str, params: Mapping[str, Any]) -> str:
    """What a trial is: the name of a known point, else its parameters in short."""
    return LABELS.get(label, label) or short_parameters(params)


def trial_title(number: int, label: str, params: Mapping[str, Any]) -> str:
    """A trial's name for people: "trial 0 · paper's settings · dcgan w16 K10 lr0.001"."""
    words = [LABELS.get(label, label), short_parameters(params)]
    if label == params.get("architecture"):  # a point that is named after its nets
        del words[0]
    return " · ".join([f"trial {number}", *filter(None, words)])


def number(value: float | None) -> str:
    """Two decimals, without the leading zero: .42; an empty cell for nothing."""
    if value is None:
        return ""
    text = f"{round(value, 2) + 0.0:.2f}"  # without the sign of a zero
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def fitted_table(widths: Mapping[str, int], width: int) -> Table:
    """An empty table that is never wider than `width` characters.

    Args:
        widths: heading -> characters; the column "settings" gets what the others leave.
        width: of the terminal.
    """
    gap = 2
    left = width - sum(widths.values()) - gap * (len(widths) - 1)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading, columns in widths.items():
        if heading == "settings":
            table.add_column(heading, width=min(40, max(6, left)), no_wrap=True)
        else:
            justify: Literal["left", "right"] = "left" if heading == "state" else "right"
            table.add_column(heading, justify=justify, no_wrap=True, width=columns)
    return table


def ranked(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Finished trials by L, then stopped ones by how far they came and L, then failed ones.

    A lower rung scores with less training and fewer episodes, so its L does not compare.
    """

    def key(trial: TrialResult) -> tuple[int, int, float, int]:
        order = {"COMPLETE": 0, "PRUNED": 1, "FAIL": 2}[trial.state]
        reached = max((rung.rung for rung in trial.rungs if rung.complete), default=-1)
        loss = trial.scores["L"] if trial.scores else float("inf")
        return (order, 0 if order == 0 else -reached, loss, trial.number)

    return sorted(trials, key=key)


def print_ranking(result: StudyResult, console: Console, *, rows: int = 20) -> None:
    """Print what came out: the ranking, the baselines, the test, the pictures, what to type next.

    Args:
        result: of the study.
        console: where to.
        rows: of trials at most; the paper's settings are always among them.
    """
    console.print(_table(result, console, rows))
    for line in (*_fidelity(result), *_rematch(result)):
        console.print(Text(line), soft_wrap=True)
    if result.pareto is not None:
        _print_front(result, result.pareto, console, rows)
    if result.test is not None:
        _print_tests(result, console)
    for line in (failures(result.trials), result.verdict, gate_line(result), _picture(result)):
        if line:
            console.print(Text(line), soft_wrap=True)
    for name, command in result.commands.items():
        console.print(Text(f"{name.replace('_', ' ')}: {command}"), soft_wrap=True)


def failures(trials: Sequence[TrialResult]) -> str:
    """Such as "3 of 20 trials failed: 2 diverged, 1 worker died"; "" if none did."""
    kinds = Counter(t.reason.partition(":")[0] for t in trials if t.state == "FAIL")
    if not kinds:
        return ""
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{kinds.total()} of {len(trials)} trials failed: {told}"


def markdown_ranking(result: StudyResult, pages: Mapping[int, str], *, rows: int = 20) -> str:
    """The ranking as a Markdown table; titles link to `pages`, by trial number."""
    lines = [f"| rank | trial | state | {' | '.join(COLUMNS.values())} |"]
    lines.append("|---" * (3 + len(COLUMNS)) + "|")
    for rank, trial in enumerate(ranked(result.trials)[:rows], start=1):
        title = trial_title(trial.number, trial.label, trial.params | trial.overrides)
        if trial.number in pages:
            title = f"[{title}]({pages[trial.number]})"
        scores = " | ".join(cells(trial.scores))
        lines.append(f"| {rank} | {title} | {state_word(trial)} | {scores} |")
    for name, title in BASELINES.items():
        if "validation" in result.null_baselines.get(name, {}):
            scores = " | ".join(cells(result.null_baselines[name]["validation"]))
            lines.append(f"| | {title} | | {scores} |")
    return "\n".join(lines)


def _table(result: StudyResult, console: Console, rows: int) -> Table:
    widths = {"rank": 4, "trial": 5, "settings": 0, "state": 9, **SCORE_WIDTHS, "updates": 7}
    if narrow := console.width < 90:
        del widths["updates"]
    table = fitted_table(widths, console.width)
    table.title = f"{result.study}: validation scores, by progress and L (lower is better)"
    table.title_justify = "left"
    trials = list(enumerate(ranked(result.trials), start=1))
    shown = [(rank, t) for rank, t in trials if rank <= rows or t.label == "paper"]
    for rank, trial in shown:
        table.add_row(
            str(rank),
            str(trial.number),
            Text(describe(trial.label, trial.params)),
            state_word(trial),
            *cells(trial.scores),
            *([] if narrow else [str(trial.updates)]),
            style="bold" if result.best and trial.number == result.best.number else "",
        )
    if len(shown) < len(trials):
        table.add_row("", "", f"... and {len(trials) - len(shown)} more in result.json")
    table.add_section()
    for name, title in BASELINES.items():
        if "validation" in result.null_baselines.get(name, {}):
            scores = result.null_baselines[name]["validation"]
            table.add_row("", "", title, "", *cells(scores))
    return table


def _print_front(result: StudyResult, pareto: Pareto, console: Console, rows: int) -> None:
    """The trials that nobody beats in all objectives."""
    names = ", ".join(f"{_word(n)} ({d}d)" for n, d in pareto.objectives.items())
    lines = [f"Pareto front of {names}: {len(pareto.front)} trials that no other beats in all"]
    trials = {trial.number: trial for trial in result.trials}
    for one in pareto.front[:rows]:
        told = ", ".join(f"{_word(n)} {number(one.values[n])}" for n in pareto.objectives)
        trial = trials[one.number]
        lines.append(f"  {trial_title(one.number, trial.label, trial.params)}: {told}")
    if len(pareto.front) > rows:
        lines.append(f"  ... and {len(pareto.front) - rows} more in result.json")
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _print_tests(result: StudyResult, console: Console) -> None:
    """The champion, and what it is compared with, on the classes that nobody has seen."""
    assert result.test is not None
    classes, episodes = len(result.test.classes), result.test.episodes
    lines = [
        f"Test ({episodes} episodes of {classes} never used class{'es' * (classes != 1)}, 95 % "
        "intervals):",
    ]
    if (best := result.best) is not None:
        told = _scores(result.test.metrics, result.test.intervals)
        lines.append(f"  the best trial, {_training(result, best.number)}: {told}")
    if (reference := result.reference) is not None:
        label = LABELS.get(reference.label, reference.label)
        told = _scores(reference.test.metrics, reference.test.intervals)
        lines.append(f"  {label}, {_training(result, reference.number)}: {told}")
    for name, title in BASELINES.items():
        if "test" in result.null_baselines.get(name, {}):
            scores = result.null_baselines[name]["test"]
            told = ", ".join(f"{_word(n)} {number(scores[n])}" for n in TESTED if n in scores)
            lines.append(f"  {title}: {told}")
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _training(result: StudyResult, number: int) -> str:
    """What a trial's training was: equal compute is not equal time, which depends on the nets."""
    trial = next(t for t in result.trials if t.number == number)
    return f"{trial.updates} updates in {trial.train_seconds:.0f} s"


def _scores(metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> str:
    parts = []
    for name in TESTED:
        if name not in metrics:
            continue
        text = f"{_word(name)} {number(metrics[name])}"
        if name in intervals:
            low, high = intervals[name]
            text += f" [{number(low)}, {number(high)}]"
        parts.append(text)
    return ", ".join(parts)


def _fidelity(result: StudyResult) -> list[str]:
    if not result.fidelity:
        return []
    told = ", ".join(
        f"rung {int(rung) + 1} {number(value)}" for rung, value in result.fidelity.items()
    )
    return [f"Rank correlation of L with the last rung's, of the trials that came there: {told}"]


def _rematch(result: StudyResult) -> list[str]:
    if (rematch := result.rematch) is None:
        return []
    lines = [
        f"Finals on validation classes ({rematch.episodes} fresh episodes, {rematch.seeds} fresh "
        f"training{'s' * (rematch.seeds > 1)} each, 95 % intervals):"
    ]
    for one in rematch.finalists:
        title = f"trial {one.number} ({LABELS.get(one.label, one.label)})" if one.label else ""
        lines.append(f"  {title or f'trial {one.number}'}: {_scores(one.metrics, one.intervals)}")
    if rematch.margin is not None:
        low, high = rematch.margin
        sure = "" if low > 0 else ", so that chance may have chosen"
        lines.append(f"  the second's L less the winner's: {number(low)} to {number(high)}{sure}")
    return lines


def gate_line(result: StudyResult) -> str:
    if (gate := result.gate) is None:
        return ""
    now = "goes to this study's best" if gate.crowned else "is not this study's best"
    if not gate.decided:
        now = "is not decided (a plain --resume asks again)"
    return f"models:/{gate.name}@champion {now}: {gate.reason}"


def _word(score: str) -> str:
    return score.replace("_", " ")


def _picture(result: StudyResult) -> str:
    if result.best is None or result.best.grid is None:
        return ""
    return f"Best pictures (trial {result.best.number}): {result.folder / result.best.grid}"


def state_word(trial: TrialResult) -> str:
    """How a trial ended, in a word or two."""
    if trial.state != "PRUNED":
        return {"COMPLETE": "complete", "FAIL": "failed"}[trial.state]
    return "cut: time" if trial.reason.startswith("time") else "stopped"


def cells(scores: Mapping[str, float] | None) -> list[str]:
    """The scores of `COLUMNS`, for people."""
    return [number(scores.get(name) if scores else None) for name in COLUMNS]


def interval_cells(
    scores: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> list[str]:
    """The same with their 95 % intervals, of those that have one: .42 [.31, .53]."""
    told = dict(zip(COLUMNS, cells(scores), strict=True))
    for name in told.keys() & intervals.keys():
        low, high = intervals[name]
        told[name] += f" [{number(low)}, {number(high)}]"
    return list(told.values())


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
