"""Only the space a study was begun with may go on with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_search import GOOD, PAPER, Config, open_journal, search_of, space

from trainables.errors import UserError
from tuner.compatible import require_same_space, require_same_versions
from tuner.experiments import EXPERIMENTS, find_experiment
from tuner.journal import Journal


def wider(trial: Any, base: Config) -> Config:
    return replace(base, lr=trial.suggest_float("lr", 1e-5, 1.0, log=True))


def with_another(trial: Any, base: Config) -> Config:
    trial.suggest_int("steps", 1, 5)
    return space(trial, base)


def with_less(trial: Any, base: Config) -> Config:
    optimiser = trial.suggest_categorical("optimiser", ["sgd", "adam"])
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    return replace(base, lr=lr, optimiser=optimiser)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with open_journal(tmp_path, [PAPER, GOOD]) as journal:
        search = search_of(journal, trials=6)
        for number in range(6):
            search.suggest(str(number))
        assert {record.config["optimiser"] for record in journal.records()} == {"sgd", "adam"}
        yield journal


@pytest.mark.parametrize("package", ["few-shot-tuner", "optuna"])
def test_another_version_of_what_chooses_settings_is_refused(
    journal: Journal, package: str
) -> None:
    assert require_same_versions(journal) == ""
    begun = journal.attr("versions")
    journal.set_attr("versions", {**begun, package: "0.0.1"})
    with pytest.raises(
        UserError, match=f"begun with {package} 0.0.1, and {begun[package]} is"
    ) as e:
        require_same_versions(journal)
    assert f"install {package}==0.0.1" in str(e.value)
    assert "\n" not in str(e.value)


def test_another_version_of_what_computes_is_said(journal: Journal) -> None:
    begun = journal.attr("versions")
    journal.set_attr("versions", {**begun, "torch": "1.0", "ray": "1.1"})
    told = require_same_versions(journal)
    assert told == f"ray 1.1 then, {begun['ray']} now, torch 1.0 then, {begun['torch']} now"


def test_the_same_space_goes_on(journal: Journal) -> None:
    require_same_space(journal, space, Config())


@pytest.mark.parametrize(
    ("other", "base", "words"),
    [
        (wider, Config(), "`lr` FloatDistribution.* then, FloatDistribution"),
        (with_another, Config(), "`steps` is new"),
        (with_less, Config(), "`beta` FloatDistribution.* then, absent now"),
        (space, Config(mode="other"), "`mode` = 'corrected' then, 'other' now"),
    ],
)
def test_another_space_is_refused_with_what_differs(
    journal: Journal, other: Callable[..., Config], base: Config, words: str
) -> None:
    # An overridden point has no parameters to compare, and its config is what it was.
    with pytest.raises(UserError, match=words) as caught:
        require_same_space(journal, other, base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_experiment_goes_on_with_its_own_studies(tmp_path: Path, name: str) -> None:
    made = find_experiment(name)("cpu")
    with Journal(tmp_path, "study") as journal:
        journal.enqueue(made.known_points, made.space, made.base)
        for _ in range(8):
            journal.ask(made.space, made.base)
    with Journal(tmp_path, "study") as journal:
        require_same_space(journal, made.space, made.base)
        with pytest.raises(UserError, match="another search space"):
            require_same_space(journal, made.space, replace(made.base, size=64))


def test_another_format_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path, "study") as journal:
        journal.set_attr("format", 0)
    for _ in range(2):  # and the study is let go of again
        with pytest.raises(UserError, match=r"in journal format 0, and .* reads format 1"):
            Journal(tmp_path, "study")
