"""Settings of the command line and of earlier studies: found in the space, or refused in a line."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from test_launch import pictures, refuse
from test_samplers import rung
from test_setting import planned, request_  # noqa: F401 - a fixture

from trainables.errors import UserError
from tuner.experiments import Experiment, find_experiment
from tuner.journal import Journal
from tuner.known_points import KnownPoint, Probe
from tuner.registered_models import MODEL
from tuner.request import Request
from tuner.resumption import record_plan, reopened
from tuner.run_store import RunStore
from tuner.rungs import Rungs
from tuner.search import JournalSearch
from tuner.setting import look_around
from tuner.tracking_uri import resolve_uri
from tuner.warm_start import best_of, known_settings, settings_point

REPTILE = find_experiment("reptile_omniglot")("cpu")
TRANSFER = find_experiment("dcgan_fashion_mnist")("cpu")


def point(settings: dict[str, Any], experiment: Experiment = REPTILE) -> dict[str, Any]:
    return dict(settings_point("point", settings, experiment).params)


def config_of(params: dict[str, Any], experiment: Experiment, seed: int = 0) -> dict[str, Any]:
    return asdict(experiment.space(Probe(params, seed=seed), experiment.base))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("experiment", [REPTILE, TRANSFER], ids=lambda e: e.name)
def test_a_whole_config_is_found_again(experiment: Experiment, seed: int) -> None:
    """Through its parameters' other names and their conditions, whatever the data's size was."""
    config = config_of({}, experiment, seed)
    found = point(config | {"size": 64, "channels": 3}, experiment)
    assert config_of(found, experiment, seed=99) == config


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"inner_steps": 7}, {"inner_steps": 7}),
        ({"inner": {"steps": 7, "optimizer": "sgd"}}, {"inner_steps": 7, "inner_optimizer": "sgd"}),
        ({"params": {"width": 8}, "number": 3}, {"width": 8}),
        ({"trial_config": {"width": 8}, "seed": 3}, {"width": 8}),
        ({"pipeline": "reptile", "config": {"width": 8}, "adapt_steps": 900}, {"width": 8}),
        ({"inner_steps": 7.0}, {"inner_steps": 7}),
        # What a setting depends on comes with it.
        ({"inner_lr_sgd": 0.01}, {"inner_lr_sgd": 0.01, "inner_optimizer": "sgd"}),
        (
            {"inner_optimizer": "adam", "inner_lr": 0.01},
            {"inner_optimizer": "adam", "inner_lr_adam": 0.01},
        ),
        # The space's own value of what is not searched here.
        ({"mode": "corrected", "meta_batch": 2}, {"meta_batch": 2}),
    ],
)
def test_some_settings_leave_the_rest_open(
    settings: dict[str, Any], params: dict[str, Any]
) -> None:
    assert point(settings) == params


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inner_steps": 500}, "`inner_steps` = 500 is outside of 5 to 20."),
        ({"inner_steps": 7.5}, "`inner_steps` = 7.5 is outside of 5 to 20."),
        ({"augment_tone": "0.5"}, "`augment_tone` = '0.5' is outside of 0.0 to 1.0."),
        ({"augment_tone": None}, "`augment_tone` = None is outside of 0.0 to 1.0."),
        ({"width": 64}, "`width` = 64 is outside of 8, 16, 32."),
        ({"inner_lr": 9.0}, "`inner_lr_adam` = 9.0 is outside of 0.001 to 0.02."),
        ({"inner_lr": 0.01}, "may be inner_lr_adam or inner_lr_sgd: name the one that is meant"),
        ({"inner_stepps": 5}, "no setting 'inner_stepps'. Did you mean 'inner_steps'?"),
        (
            {"mode": "faithful"},
            "`mode` = 'faithful' is outside of the space, which has 'corrected'",
        ),
        (
            {"inner_optimizer": "sgd", "inner_lr_adam": 0.01},
            "`inner_lr_adam` = 0.01 is a parameter that the other settings leave no place for",
        ),
        ({}, "there are no settings in it"),
        ({"size": 64}, "there are no settings in it"),
    ],
)
def test_what_the_space_does_not_hold_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        point(settings)
    assert str(caught.value).startswith("point: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# Earlier studies


class BeforeLayers:
    """A trial of the time when Reptile's adaptation had one kind of augmentation."""

    def __init__(self, trial: Any) -> None:
        self._trial = trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        if name == "adapt_augmentation":
            return "fresh"
        return self._trial.suggest_categorical(name, choices)


def test_a_study_from_before_a_parameter_ran_with_its_default(tmp_path: Path) -> None:
    def space(trial: Any, base: Any) -> Any:
        return REPTILE.space(BeforeLayers(trial), base)

    with Journal(tmp_path, "old") as journal:
        journal.study.sampler = RandomSampler(seed=0)
        journal.ask(space, REPTILE.base)
        assert "adapt_augmentation" not in journal.record(0).params
        journal.add_rung(0, rung(2, 0.1, decision="done"))
        journal.end(0, "COMPLETE", "")
        journal.set_attr("experiment", "reptile_mnist")
        journal.set_attr("plan", {"scale": "cpu", "rungs": [1e9, 2e9, 3e9]})
    (point,) = best_of("old", tmp_path, REPTILE)
    assert point.params["adapt_augmentation"] == "fresh"


def earlier(storage: Path, name: str = "before", experiment: str = "reptile_mnist") -> list[int]:
    """A study of 7 trials, in which 4, 2, 5 are the best that came far -> these."""
    made = find_experiment(experiment)("cpu")
    with Journal(storage, name) as journal:
        journal.study.sampler = RandomSampler(seed=3)
        journal.enqueue(made.known_points[:1], made.space, made.base)  # the paper's
        for number, value in enumerate((0.1, 0.9, 0.4, 0.0, 0.2, 0.5, 0.6)):
            journal.ask(made.space, made.base)
            far = number != 3  # the best score of all, after the first rung
            k = 2 if far else 0
            journal.add_rung(number, rung(k, value, decision="done" if far else "pause"))
            journal.end(number, "COMPLETE" if far else "PRUNED", "" if far else "asha: rung 0")
        journal.set_attr("experiment", experiment)
        journal.set_attr("plan", {"scale": "cpu", "rungs": [1e9, 2e9, 3e9]})
    return [4, 2, 5]


def test_an_earlier_study_gives_its_best_that_lie_in_the_space(tmp_path: Path) -> None:
    """Also one of other pictures; the paper's settings, which are outside of it, run anyway."""
    best = earlier(tmp_path)
    points = best_of("before", tmp_path, REPTILE)
    assert [p.label for p in points] == [f"warm start: before trial {n}" for n in best]
    with Journal(tmp_path, "before") as journal:
        assert [p.params for p in points] == [journal.record(n).params for n in best]


def test_points_that_run_anyway_are_not_run_twice(tmp_path: Path) -> None:
    earlier(tmp_path)
    known = REPTILE.known_points[1]
    champion = best_of("before", tmp_path, REPTILE)[0]
    points = [json.dumps(dict(known.params)), json.dumps(dict(champion.params))]
    asked = known_settings(
        points, ["before"], storage=tmp_path, tracking_uri=None, experiment=REPTILE
    )
    labels = [p.label for p in asked]
    assert labels[0].startswith('point: {"')
    assert len(labels[0]) < 80
    assert labels[1:] == ["warm start: before trial 2", "warm start: before trial 5"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{width: 7}", "--point must be settings as JSON, got '{width: 7}'"),
        ("list.json", "--point must be a JSON object"),
        (".", "got '.' (Is a directory)"),
    ],
)
def test_what_holds_no_settings_is_refused(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.json").write_text("[1]")
    with pytest.raises(UserError) as caught:
        known_settings([text], [], storage=tmp_path, tracking_uri=None, experiment=REPTILE)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_are_short_and_keep_what_tells_points_apart(tmp_path: Path) -> None:
    file = tmp_path / ("folder" * 20) / "config.json"
    file.parent.mkdir()
    text = '{"inner_steps": 7, "critic_steps": 2, "train_shots": 5, "meta_batch": 3}'
    file.write_text(text.replace("7", "8"))
    asked = known_settings(
        [str(file), text], [], storage=tmp_path, tracking_uri=None, experiment=REPTILE
    )
    assert [len(p.label) for p in asked] == [len("point: ") + 60] * 2
    assert asked[0].label.endswith("folder/config.json")
    assert asked[1].label.startswith('point: {"inner_steps": 7, ')


def test_studies_that_cannot_help_are_refused(tmp_path: Path) -> None:
    earlier(tmp_path)
    earlier(tmp_path, "boots", "dcgan_fashion_mnist")
    Journal(tmp_path, "empty").close()
    before = sorted(tmp_path.rglob("*"))
    for study, words in (
        ("nowhere", "models:/NAME@champion, got 'nowhere'"),
        ("../before", "got '../before'"),
        ("..", "got '..'"),
        ("models:/../../x@champion", "got 'models:/../../x@champion'"),
        ("models:/a' or name != 'b@champion", 'got "models:/a'),
        ("before/", "got 'before/'"),
        ("boots", "is one of 'dcgan_fashion_mnist', whose settings are not those of 'reptile_o"),
        ("empty", "has no scored trial"),
    ):
        with pytest.raises(UserError) as caught:
            best_of(study, tmp_path, REPTILE)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with Journal(tmp_path, "before"), pytest.raises(UserError, match="is running already"):
        best_of("before", tmp_path, REPTILE)
    wide = replace(REPTILE, space=find_experiment("reptile_omniglot")("paper").space)
    with Journal(tmp_path, "before") as journal:
        narrow = [r.number for r in journal.records() if r.params.get("width") == 8]
    assert set(narrow) & {2, 4, 5}, "the draws have changed: choose another seed"
    with pytest.raises(UserError, match="`width` = 8 is outside of 16, 32, 64"):
        best_of("before", tmp_path, wide)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own
def test_a_registered_champion_gives_its_settings(tmp_path: Path) -> None:
    uri = resolve_uri(None, tmp_path)
    config = config_of({"adapt_augmentation": "fresh"}, REPTILE, seed=5)
    older = {name: value for name, value in config.items() if name != "adapt_augmentation"}
    (tmp_path / "config.json").write_text(json.dumps({"pipeline": "reptile", "config": older}))
    store = RunStore(uri, experiment="any", storage=tmp_path)
    run = store.create("study", {}, when=0)
    store.log_file(run, tmp_path / "config.json", MODEL)
    asked: Any = {"storage": tmp_path, "tracking_uri": None, "experiment": REPTILE}
    version = store.register("mine", run, MODEL, {})
    with pytest.raises(UserError, match="has no champion of 'mine'"):
        known_settings([], ["models:/mine@champion"], **asked)
    store.crown("mine", version)
    (found,) = known_settings([], ["models:/mine@champion"], **asked)
    assert found.label == "warm start: models:/mine@champion (version 1)"
    assert config_of(dict(found.params), REPTILE, seed=99) == config
    with pytest.raises(UserError, match="there is no setting"):
        known_settings([], ["models:/mine@champion"], **asked | {"experiment": TRANSFER})


# From the command line to the trials


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--point", '{"width": 7}'], 'point: {"width": 7}: `width` = 7 is outside of 8, 16, 32.'),
        (["--point", "nowhere.json"], "got 'nowhere.json' (No such file or directory)"),
        (["--warm-start", "models:/x@champion"], "mlflow.db has no champion of 'x'"),
    ],
)
def test_bad_points_are_answered_before_anything_is_made(
    options: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = pictures(tmp_path / "pictures", classes=4, each=8)
    argv = ["reptile_omniglot", "--data", str(data), *options]
    assert words in refuse(capsys, tmp_path / "runs", *argv)


def test_all_experiments_take_no_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refuse(capsys, tmp_path / "runs", "all", "--point", "{}")
    assert "leave out --study" in error


def test_they_run_after_the_known_ones_and_once_even_if_resumed(
    request_: Request,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = earlier(request_.storage)
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text('{"inner_steps": 7}')
    asked = replace(request_, study="s", points=("mine.json",), warm_start=("before",))
    expected = [
        *(p.label for p in REPTILE.known_points),
        "point: mine.json",
        *(f"warm start: before trial {n}" for n in best),
        "",
    ]
    setting = look_around(asked, None)
    with Journal(request_.storage, "s") as journal:  # killed before the search began
        record_plan(journal, setting, planned(setting))
    again = replace(asked, resume=True)
    for request, suggestions in ((again, 6), (replace(again, points=(), warm_start=()), 9)):
        resumed = look_around(request, None)
        with reopened(resumed) as journal:
            made = resumed.experiment
            journal.enqueue(made.known_points, made.space, made.base)
            search = JournalSearch(
                journal,
                Rungs(3, planned=20),
                space=made.space,
                base=made.base,
                trials=20,
                sampler="tpe",
                seed=0,
                deadline=float("inf"),
                common={},
            )
            for n in range(suggestions):
                search.suggest(str(n))
    with Journal(request_.storage, "s") as journal:
        records = journal.records()
    assert [r.label for r in records] == expected
    assert {r.state for r in records} == {"RUNNING"}
    assert records[4].params["inner_steps"] == 7
    assert (
        KnownPoint(label=records[5].label, params=records[5].params)
        == best_of("before", request_.storage, REPTILE)[0]
    )
