"""Figures of a study's report: Optuna's own plots where they serve, and the course of all trials.

Trials are compared at the first rung, where all of them have had the same training. Every figure is
plain data for plotly's script. Colours are of Okabe and Ito's, with other marks and dashes, too;
text and grid take the page's colours, whatever its mode.
"""

from __future__ import annotations

import html
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.visualization import (
    plot_parallel_coordinate,
    plot_param_importances,
    plot_pareto_front,
    plot_slice,
)

from tuner.ranking import ranked, trial_title
from tuner.report_tables import state
from tuner.result import StudyResult, TrialResult

BLUE, VERMILLION, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6f6f6f"
MOST_TRIALS = 500  # that are drawn, the best ones
BEST_SHARE = 0.25  # of the trials, that stand out and that importance is of
FEWEST_TRIALS = 5  # that are compared by their settings
SHOWN_SETTINGS = 6  # the most important ones
SPREAD = 20.0  # times the least value that the largest is, from where on a scale is logarithmic
HEIGHT = 380
MARGIN = {"l": 60, "r": 16, "t": 36, "b": 56}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure for plotly's script.

    Attributes:
        title: what it shows, in words.
        figure: JSON.
        least: pixels of width that it needs; where there are fewer it scrolls.
        height: in pixels.
    """

    title: str
    figure: Mapping[str, Any]
    least: int = 300
    height: int = HEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class Plots:
    """All figures of a report; those are missing that there are too few trials for.

    Attributes:
        compared: trials whose settings the figures on settings are of.
        importances: by setting, the largest first; they add up to 1.
    """

    curves: Plot | None
    importance: Plot | None = None
    parallel: Plot | None = None
    slices: tuple[Plot, ...] = ()
    pareto: tuple[Plot, ...]
    compared: int = 0
    importances: Mapping[str, float] = field(default_factory=dict)


def plots_of(result: StudyResult) -> Plots:
    """Draw a study; nothing is drawn of what nobody scored."""
    trials = [trial for trial in ranked(result.trials) if trial.rungs][:MOST_TRIALS]
    with warnings.catch_warnings():  # what is experimental in Optuna is none of the reader's
        warnings.simplefilter("ignore")
        return _drawn(result, trials)


def _drawn(result: StudyResult, trials: Sequence[TrialResult]) -> Plots:
    curves = _curves(result, trials) if trials else None
    pareto = tuple(_fronts(result))
    if (study := _at_first_rung(trials)) is None:
        return Plots(curves=curves, pareto=pareto)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    importances = get_param_importances(study, evaluator=evaluator)
    main = list(importances)[:SHOWN_SETTINGS]
    return Plots(
        curves=curves,
        importance=_importance(study, evaluator, len(importances)),
        parallel=_parallel(study, main),
        slices=tuple(_slice(study, name) for name in main),
        pareto=pareto,
        compared=len(_done(study)),
        importances={html.unescape(name): value for name, value in importances.items()},
    )


# Of trials by how they ended: colour, mark and dash.
STYLES: Mapping[str, tuple[str, str, str]] = {
    "complete": (BLUE, "circle", "solid"),
    "stopped": (GREY, "x", "dot"),
    "cut: time": (VERMILLION, "triangle-up", "dash"),
    "failed": (VERMILLION, "cross", "dashdot"),
    "running": (GREEN, "square", "solid"),
    "paused": (GREEN, "square-open", "dot"),
}
BEST = (GREEN, "star", "solid")


def _curves(result: StudyResult, trials: Sequence[TrialResult]) -> Plot:
    """L over training compute, a line for each trial; rungs are upright lines."""
    best = None if result.best is None else result.best.number
    figure = go.Figure()
    for word in STYLES:
        own = [trial for trial in trials if state(trial) == word and trial.number != best]
        if own:
            figure.add_trace(_lines(own, f"{word} ({len(own)})", *STYLES[word]))
    champion = [trial for trial in trials if trial.number == best]
    if champion:
        trace = _lines(champion, "the best", *BEST)
        trace.line.width, trace.marker.size = 4, 13
        figure.add_trace(trace)
    _mark_rungs(figure, [flops / 1e9 for flops in result.plan["rungs_flops"]])
    figure.update_yaxes(title="L (lower is better)")
    return _plot("How L fell with training, trial by trial", figure, height=460)


def _mark_rungs(figure: go.Figure, rungs: Sequence[float]) -> None:
    """Upright lines on a logarithmic axis, on which a note has its place as a logarithm."""
    line = {"color": GREY, "width": 1, "dash": "dash"}
    figure.update_layout(
        shapes=[
            {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}
            for x in rungs
        ],
        annotations=[
            {
                "text": f"rung {rung}",
                "x": math.log10(x),
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
            }
            for rung, x in enumerate(rungs, start=1)
        ],
    )
    figure.update_xaxes(
        title="training compute [GFLOP]",
        type="log",
        tickvals=list(rungs),
        ticktext=[f"{x:,.0f}" for x in rungs],
        showgrid=False,
    )


def _lines(
    trials: Sequence[TrialResult], name: str, colour: str, mark: str, dash: str
) -> go.Scatter:
    """Many trials as one trace, whose line is broken between them."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str | None] = []
    for trial in trials:
        title = html.escape(trial_title(trial.number, trial.label, trial.params))
        for rung in trial.rungs:
            x.append(rung.train_flops / 1e9)
            y.append(rung.metrics["L"])
            texts.append(title)
        x.append(None)
        y.append(None)
        texts.append(None)
    return go.Scatter(
        x=x,
        y=y,
        text=texts,
        name=name,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 1.5},
        marker={"color": colour, "symbol": mark, "size": 8},
        hovertemplate="%{text}<br>L %{y:.2f} after %{x:,.0f} GFLOP<extra></extra>",
    )


def _at_first_rung(trials: Sequence[TrialResult]) -> optuna.Study | None:
    """An Optuna study of L at the first rung, where it can be compared; trials that the clock cut
    before it, and those whose settings are not the search space's alone, are left out."""
    known = {
        trial.number: (trial.params, trial.rungs[0].metrics["L"])
        for trial in trials
        if trial.params and not trial.overrides
        if trial.rungs[0].rung == 0 and trial.rungs[0].complete
    }
    if len(known) < FEWEST_TRIALS or len({value for _, value in known.values()}) < 2:
        return None
    ranges = _ranges([params for params, _ in known.values()])
    return _study(
        ["minimize"],
        {number: _optuna_trial(*one, ranges) for number, one in known.items()},
    )


def _study(
    directions: Sequence[Any], trials: Mapping[int, optuna.trial.FrozenTrial]
) -> optuna.Study:
    """A study in memory, whose trials have their own numbers: failed ones fill the gaps."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=directions)
    gap = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
    study.add_trials([trials.get(number, gap) for number in range(max(trials) + 1)])
    return study


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Its trials without those that fill gaps."""
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def _optuna_trial(
    params: Mapping[str, Any], value: float, ranges: Mapping[str, BaseDistribution]
) -> optuna.trial.FrozenTrial:
    named = {html.escape(name): own for name, own in params.items()}
    return optuna.trial.create_trial(
        params={name: _value(own, ranges[name]) for name, own in named.items()},
        distributions={name: ranges[name] for name in named},
        value=value,
    )


def _value(value: Any, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return html.escape(str(value))  # plotly takes some tags for its own
    return value


def _ranges(points: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """What was tried of each setting, which is all that a result knows of the search space."""
    tried: dict[str, list[Any]] = {}
    for params in points:
        for name, value in params.items():
            tried.setdefault(name, []).append(value)
    return {html.escape(name): _range(values) for name, values in tried.items()}


def _range(values: Sequence[Any]) -> BaseDistribution:
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return CategoricalDistribution(sorted({html.escape(str(value)) for value in values}))
    low, high = min(values), max(values)
    log = low > 0 and high / low >= SPREAD
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _importance(study: optuna.Study, evaluator: PedAnovaImportanceEvaluator, count: int) -> Plot:
    figure = plot_param_importances(study, evaluator=evaluator)
    figure.update_traces(marker_color=BLUE, textposition="outside", cliponaxis=False)
    longest = max(max(bars.x, default=0.0) for bars in figure.data)
    figure.update_xaxes(title="importance", range=[0, 1.25 * longest])  # numbers stand beside bars
    figure.update_yaxes(title="")
    return _plot("Which settings L at the first rung depends on", figure, height=120 + 24 * count)


def _parallel(study: optuna.Study, names: Sequence[str]) -> Plot:
    """The best quarter of the trials before the others."""
    figure = plot_parallel_coordinate(study, params=list(names), target_name="L")
    values = [trial.value or 0.0 for trial in _done(study)]
    best = sorted(values)[max(0, int(BEST_SHARE * len(values)) - 1)]
    front: list[Any] = []
    back: list[Any] = []
    for value, line in zip(values, figure.data, strict=False):  # the last trace is a colour bar
        colour, width, place = (VERMILLION, 3, front) if value <= best else (GREY, 1, back)
        line.update(line={"color": colour, "width": width}, opacity=0.85)
        place.append(line)
    figure = go.Figure([*back, *front], figure.layout)
    wide = {**MARGIN, "r": 80}  # names of the outer axes are as long as others
    return _plot("Trials as lines through their settings", figure, least=800, margin=wide)


def _slice(study: optuna.Study, name: str) -> Plot:
    figure = plot_slice(study, params=[name], target_name="L")
    marker = {"color": BLUE, "showscale": False, "size": 8, "line": {"color": GREY, "width": 1}}
    figure.update_traces(marker=marker)
    return _plot(f"L at the first rung by {html.unescape(name)}", figure, height=290)


def _fronts(result: StudyResult) -> list[Plot]:
    """L against each other objective, with the trials that nobody beats in all of them."""
    if result.pareto is None:
        return []
    names = list(result.pareto.objectives)
    front = {trial.number for trial in result.pareto.front}
    last = max((trial.train_flops for trial in result.trials), default=0.0)
    shown = [
        trial
        for trial in result.trials
        if trial.scores is not None
        and all(name in trial.scores for name in names)
        and (trial.number in front or trial.train_flops >= last / 2)
    ]
    if not shown:
        return []
    trials = {
        trial.number: optuna.trial.create_trial(values=[trial.scores[name] for name in names])
        for trial in shown[:MOST_TRIALS]
        if trial.scores is not None
    }
    study = _study(list(result.pareto.objectives.values()), trials)
    return [_front(study, names, other) for other in range(1, len(names))]


def _front(study: optuna.Study, names: Sequence[str], other: int) -> Plot:
    def pair(trial: optuna.trial.FrozenTrial) -> Sequence[float]:
        return trial.values[0], trial.values[other]

    figure = plot_pareto_front(
        study, targets=pair, target_names=[names[0], names[other]], include_dominated_trials=True
    )
    styles = ((GREY, "x"), (VERMILLION, "circle"))
    for trace, (colour, mark) in zip(figure.data, styles, strict=False):
        trace.marker = {"color": colour, "symbol": mark, "size": 10}
    return _plot(f"{names[0]} and {names[other]}: the Pareto front", figure)


def _plot(
    title: str,
    figure: Any,
    *,
    least: int = 300,
    height: int = HEIGHT,
    margin: Mapping[str, int] = MARGIN,
) -> Plot:
    figure.update_layout(
        template="none",
        title=None,
        autosize=True,
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin=margin,
        legend={"orientation": "h", "y": -0.22, "x": 0},
        hoverlabel={"namelength": -1},
    )
    figure.update_xaxes(automargin=True, gridcolor=GREY, zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor=GREY, zeroline=False)
    document: dict[str, Any] = json.loads(figure.to_json())
    return Plot(title=title, figure=document, least=least, height=height)
