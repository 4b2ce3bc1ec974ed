"""The card of a registered model: what it is for, how good it is, and where it comes from.

After Mitchell et al., Model Cards for Model Reporting, 2019, https://arxiv.org/abs/1810.03993
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from tuner.command_line import options_of
from tuner.pages import plain, run_page, tested
from tuner.ranking import cells, gate_line
from tuner.result import StudyResult

MOST = 5000  # characters that MLflow's registry takes
LICENCES = {
    "omniglot": "Omniglot, B. Lake and others: MIT",
    "mnist": "MNIST, Y. LeCun and C. Cortes: CC BY-SA 3.0",
    "fashion_mnist": "Fashion-MNIST, Zalando SE: MIT",
    "cifar100": "CIFAR-100, A. Krizhevsky: no licence is stated; cite its technical report",
}
USE = (
    "**Intended use.** New pictures of a class from four pictures of it, for research on few-shot "
    "generation: `python -m tuner.generate {name} --shots a.png b.png c.png d.png --out "
    "new.png{plugins}`."
)
LIMITS = (
    "**Limits.** It knows the kind of pictures it was trained on, at {size} x {size} pixels, and "
    "nothing else. It can copy: {copies} of its test pictures are nearer to a shot than real "
    "drawings are, so measure the distance to the shots before calling a picture new. Scores are "
    "of {classes} test {noun} and say nothing of people, faces or text, for which it was not made."
)


def model_note(name: str, experiment: str) -> str:
    """The description of a registered model, which all its versions share."""
    return (
        f"Few-shot image generators found by searches of `{experiment}`: given four pictures of a "
        "class, they draw more of it. A study's best becomes a version; the alias **@champion** "
        "moves to it only if it beats the champion on the same test episodes by more than chance. "
        f"Each version's description is its card. In code: `models:/{name}@champion`."
    )


def version_note(
    result: StudyResult, tags: Mapping[str, str], experiment_id: str, run_id: str
) -> str:
    """The card of one version.

    Args:
        result: of the study, with its verdict on the champion.
        tags: of the version; "pipeline" says whether it was pre-trained.
        experiment_id: MLflow's, of the study.
        run_id: of the study's run.
    """
    assert result.best is not None, "a model is of a best trial"
    assert result.gate is not None, "and has met the champion, if there was one"
    parts = [
        f"{_headline(result)}{plain(gate_line(result))}. {plain(result.verdict)}",
        tested(result),
        USE.format(name=result.gate.name, plugins=_plugins(result)),
        _limits(result),
        _data(result),
        _lineage(result, tags, experiment_id, run_id),
    ]
    return "\n\n".join(part for part in parts if part)[:MOST]


def _headline(result: StudyResult) -> str:
    """The scores first: lists of versions show the first words alone, as text."""
    if result.test is None:
        return ""
    loss, joint, *_ = cells(result.test.metrics)
    return f"L {loss}, J {joint} on test classes. "


def _plugins(result: StudyResult) -> str:
    """What its command must name beside."""
    options = options_of(result.commands.get("search_on", ""), "--plugin")
    return "".join(f" {shlex.quote(word)}" for word in options)


def _limits(result: StudyResult) -> str:
    if result.test is None:
        return "**Limits.** It was never tested: its scores are those that the search chose it by."
    count = len(result.test.classes)
    return LIMITS.format(
        size=_settings(result).get("size", "?"),
        copies=f"{result.test.metrics['copy_share']:.0%}",
        classes=count,
        noun="class" if count == 1 else "classes",
    )


def _data(result: StudyResult) -> str:
    data = result.data
    licence = LICENCES.get(data.name, "of your own; its licence is yours to know")
    if data.stand_in:
        licence = "an embedded stand-in, generated or of scikit-learn, in place of the real set"
    return f"**Data.** {plain(data.name)} (`{data.fingerprint}`; {licence})."


def _lineage(result: StudyResult, tags: Mapping[str, str], experiment_id: str, run_id: str) -> str:
    assert result.best is not None
    number = result.best.number
    trial = next(trial for trial in result.trials if trial.number == number)
    lines = [f"study [{plain(result.study)}]({run_page(experiment_id, run_id)})"]
    if trial.mlflow_run_id is None:
        lines.append(f"trial {number}")
    else:
        lines.append(f"[trial {number}]({run_page(experiment_id, trial.mlflow_run_id)})")
    lines.append(f"commit `{result.git_commit or 'unknown'}`")
    settings = _settings(result)
    if tags.get("pipeline") == "transfer":
        lines.append(
            f"pre-trained as {settings['method']} on the base classes for "
            f"{settings['pretrain_steps']} steps of {settings['pretrain_batch']}, "
            f"lr {settings['pretrain_lr']:g}"
        )
    lines.append(f"seed {result.plan['seed']}, torch {result.versions.get('torch', 'unknown')}")
    steps = result.test.adapt_steps if result.test else "?"
    lines.append(f"then trained again on all classes but the test's; adapted in {steps} steps")
    return f"**Lineage.** {'; '.join(lines)}. Its settings are in `config.json` beside it."


def _settings(result: StudyResult) -> Mapping[str, object]:
    assert result.best is not None
    return next(t.config for t in result.trials if t.number == result.best.number)
