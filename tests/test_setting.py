"""What is known before a study runs, and what a resumed one goes by."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from joblib.externals import loky
from picture_files import write_mnist
from test_launch import pictures

from cluster.resources import Card, Node
from trainables.errors import UserError
from trainables.reptile_trial import ReptileTrial
from tuner import cards, preparation
from tuner.journal import Journal
from tuner.launch_options import build_parser, parse_request
from tuner.machine import Speed, measured_speed
from tuner.opening import new_plan, show
from tuner.plan import Plan
from tuner.preparation import search_context
from tuner.request import NAME, Request
from tuner.resume_command import resume_command, typed_command
from tuner.resumption import is_finished, recorded_plan, reopened, search_on
from tuner.setting import Setting, _open_data, look_around
from tuner.shares import shares_of, training_of

SPEED = Speed(flops_per_second=1e10, source_seconds=0.0, when=0.0)


def planned(setting: Setting) -> Plan:
    """At a speed that nobody measured."""
    return new_plan(setting, shares_of(setting), SPEED)


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Request(
        experiment="reptile_omniglot",
        trials=None,
        budget_seconds=600.0,
        scale="cpu",
        seed=0,
        data_root=None,
        data=pictures(tmp_path / "my pictures", classes=4, each=8),
        size=32,
        target=None,
        base=None,
        storage=tmp_path / "runs",
        study=None,
        tracking_uri="http://me:secret@host:5000",
        address=None,
        cpus_per_trial=None,
        gpus_per_trial=None,
        dry_run=False,
        resume=False,
    )


def begun(setting: Setting) -> Journal:
    journal = Journal(setting.request.storage, setting.study)
    journal.set_attr("data", asdict(setting.data))
    journal.set_attr("plan", planned(setting).to_dict())
    return journal


def taken(setting: Setting) -> Path:
    """A study of that name has begun -> its folder."""
    with Journal(setting.request.storage, setting.study) as journal:
        journal.set_attr("plan", {})
    return setting.folder


def test_the_name_of_a_users_folder_becomes_a_study_that_is_one_word(request_: Request) -> None:
    setting = look_around(request_, None)
    assert setting.title == setting.study == "reptile_omniglot-my-pictures"


def test_the_name_of_a_long_folder_can_be_given_back_by_study(
    request_: Request, tmp_path: Path
) -> None:
    names = [f"{'long ' * 40}{letter}" for letter in "ab"]
    studies = set()
    for name in names:
        setting = look_around(
            replace(request_, data=pictures(tmp_path / name, classes=4, each=8), size=64), None
        )
        taken(setting)
        numbered = look_around(setting.request, None).study
        assert numbered == f"{setting.study}-2"
        assert re.fullmatch(NAME, numbered)
        studies.add(setting.study)
    assert len(studies) == 2


@pytest.mark.parametrize("name", ["2024", "my pictures 2"])
def test_a_folder_that_is_called_like_a_number_is_no_later_study_of_another(
    request_: Request, tmp_path: Path, name: str
) -> None:
    numbered = replace(request_, data=pictures(tmp_path / name, classes=4, each=8))
    taken(look_around(numbered, None))
    assert look_around(request_, None).study == "reptile_omniglot-my-pictures"
    title = look_around(numbered, None).title
    assert not title.removeprefix("reptile_omniglot-").isdecimal()


def test_a_dry_run_without_data_plans_on_the_stand_in_and_announces_the_download(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEWSHOT_DATA", raising=False)
    absent = replace(request_, experiment="reptile_mnist", data=None, dry_run=True)
    setting = look_around(absent, None)
    assert setting.study == "reptile_mnist"
    show(planned(setting), setting, SPEED)
    said = capsys.readouterr().out
    assert "mnist is not here yet: a run downloads it first" in said
    assert "STAND-IN" not in said
    resumed = replace(absent, resume=True)  # of a study that had no network either
    with pytest.raises(UserError, match="no study of 'reptile_mnist-standin-digits'"):
        look_around(resumed, None)


def test_a_dry_run_on_a_named_set_that_is_absent_says_that_a_run_downloads_it(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEWSHOT_DATA", raising=False)
    with pytest.raises(UserError, match="cifar100 is not here yet: a run downloads it first"):
        look_around(replace(request_, data=Path("cifar100"), dry_run=True), None)


@pytest.mark.parametrize(("classes", "told"), [(6, True), (7, False)])
def test_few_classes_to_train_on_are_told(
    request_: Request,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    classes: int,
    told: bool,
) -> None:
    data = pictures(tmp_path / "few", classes=classes, each=8)  # two are not trained on
    setting = look_around(replace(request_, data=data), None)
    show(planned(setting), setting, SPEED)
    assert ("scores of so few classes say little: 4 to train on" in capsys.readouterr().out) == told


def test_a_containers_quota_is_all_the_cpus_there_are(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loky.backend.context, "_cpu_count_cgroup", lambda _count: 1)
    assert look_around(request_, None).cpus == 1


def test_the_next_study_gets_a_number_and_resume_takes_the_newest(request_: Request) -> None:
    first = look_around(request_, None)
    taken(first)
    second = look_around(request_, None)
    assert second.study == f"{first.study}-2"
    assert second.title == first.title
    taken(second)
    resume = replace(request_, resume=True)
    assert look_around(resume, None).study == second.study
    (second.folder / "result.json").touch()
    assert look_around(resume, None).study == first.study  # the last unfinished one
    (first.folder / "result.json").touch()
    assert look_around(resume, None).study == second.study


def test_a_resumed_study_keeps_its_rungs_and_a_new_budget_is_searched(request_: Request) -> None:
    setting = look_around(request_, None)
    with begun(setting):
        pass
    again = replace(request_, resume=True, budget_seconds=7200.0, trials=40)
    resumed = look_around(again, None)
    with reopened(resumed) as journal:
        before, plan = journal.attr("plan"), recorded_plan(journal, resumed)
    assert list(plan.rungs) == list(before["rungs"])
    rest = before["budget_seconds"] - before["search_seconds"]
    assert plan.search_seconds == 7200.0 - rest
    assert plan.trials == plan.most_trials == 40


def test_what_a_resume_asked_for_holds_for_the_next_one(request_: Request) -> None:
    setting = look_around(request_, None)
    with begun(setting) as journal:
        journal.set_attr("search_seconds", 400.0)
        (setting.folder / "result.json").write_text("the first")
        more = replace(setting, request=replace(request_, resume=True, budget_seconds=7200.0))
        wanted = recorded_plan(journal, more)
        search_on(journal, more)
        plain = replace(setting, request=replace(request_, resume=True, budget_seconds=None))
        assert not is_finished(plain)
        assert (setting.folder / "result.1.json").read_text() == "the first"
        assert recorded_plan(journal, plain) == wanted
        assert journal.attr("search_seconds") == 0.0

        journal.set_attr("search_seconds", 50.0)  # and then it was killed
        search_on(journal, plain)
        assert journal.attr("search_seconds") == 50.0
        (setting.folder / "result.json").write_text("the second")
        trials = replace(plain, request=replace(plain.request, trials=40))
        search_on(journal, trials)
        assert journal.attr("search_seconds") == 0.0
        assert (setting.folder / "result.2.json").read_text() == "the second"
        plan = recorded_plan(journal, plain)
        assert (plan.budget_seconds, plan.most_trials) == (7200.0, 40)


@pytest.mark.parametrize("asked", [{"sampler": "random"}, {"objectives": ("L", "coverage")}])
def test_a_study_keeps_the_search_it_began_with(request_: Request, asked: Any) -> None:
    setting = look_around(replace(request_, sampler="sobol"), None)
    with begun(setting):
        pass
    resumed = look_around(replace(request_, resume=True), None)
    with reopened(resumed) as journal:
        assert recorded_plan(journal, resumed).sampler == "sobol"
        other = replace(resumed, request=replace(resumed.request, **asked))
        with pytest.raises(UserError, match=r"began with --.* leave --.* out"):
            recorded_plan(journal, other)


def test_a_finished_study_says_so(request_: Request) -> None:
    setting = look_around(request_, None)
    with begun(setting):
        pass
    (setting.folder / "result.json").write_text("{}")
    resumed = look_around(replace(request_, resume=True, budget_seconds=None), None)
    assert is_finished(resumed)
    assert not is_finished(replace(resumed, request=replace(resumed.request, trials=40)))


def test_another_optuna_cannot_search_on_and_may_deliver(
    request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = look_around(replace(request_, budget_seconds=None), None)
    with begun(setting) as journal:
        versions = journal.attr("versions")
        journal.set_attr("versions", {**versions, "torch": "1.0"})
        recorded_plan(journal, setting)
        assert f"torch 1.0 then, {versions['torch']} now" in capsys.readouterr().out
        journal.set_attr("versions", {**versions, "optuna": "1.0"})
        with pytest.raises(UserError, match=r"begun with optuna 1\.0"):
            recorded_plan(journal, setting)
        (setting.folder / "result.json").touch()
        recorded_plan(journal, setting)


def test_other_data_cannot_go_on_with_a_study(request_: Request, tmp_path: Path) -> None:
    setting = look_around(request_, None)
    with begun(setting) as journal:
        journal.set_attr("data", {**asdict(setting.data), "fingerprint": "another"})
        with pytest.raises(UserError, match="the same --data-root"):
            recorded_plan(journal, setting)


def test_another_experiment_or_scale_cannot_go_on_with_a_study(request_: Request) -> None:
    setting = look_around(request_, None)
    with begun(setting) as journal:
        with pytest.raises(UserError, match="add --scale cpu"):
            recorded_plan(journal, look_around(replace(request_, scale="paper"), None))
        journal.set_attr("experiment", "reptile_mnist")
        with pytest.raises(UserError, match="one of reptile_mnist, not of reptile_omniglot"):
            recorded_plan(journal, setting)


def test_a_damaged_pre_training_is_told_before_the_workers_replace_it(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = look_around(request_, None)
    (request_.storage / "pretrained" / "dcgan-mine-3-0123").mkdir(parents=True)
    monkeypatch.setattr(preparation, "prepare_scorer", lambda *_args, **_options: "nets")
    search_context(setting, planned(setting))
    assert "dcgan-mine-3-0123 was damaged" in capsys.readouterr().out


def test_the_resume_command_leads_to_the_same_places_without_credentials(
    request_: Request,
) -> None:
    setting = look_around(request_, None)
    command = resume_command(setting)
    assert f"--study {setting.study}" in command
    assert "my pictures'" in command
    assert "--tracking-uri http://host:5000" in command
    assert "secret" not in command


def test_what_a_study_was_run_by_is_the_same_request_typed_again(request_: Request) -> None:
    asked = replace(
        request_,
        trials=20,
        seed=3,
        size=64,
        target=("b", "a c"),
        base=("d",),
        sampler="gp",
        objectives=("L", "coverage"),
        cpus_per_trial=2.0,
        fast_gpu=False,
        points=('{"width": 16}',),
        warm_start=("earlier", "models:/mine@champion"),
    )
    command = typed_command(asked)
    assert "secret" not in command
    again = parse_request(build_parser().parse_args(shlex.split(command)[3:]))
    places = {"storage": asked.storage, "tracking_uri": asked.tracking_uri}
    assert replace(again, **places) == asked


def test_the_resume_command_finds_the_data_again_without_the_environment(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "sets/MNIST/raw", per_class=(20, 20))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_DATA", "sets")
    asked = replace(request_, experiment="reptile_mnist", data=None, tracking_uri="sqlite:///m.db")
    setting = look_around(asked, None)
    command = shlex.split(resume_command(setting))

    monkeypatch.delenv("FEWSHOT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    monkeypatch.chdir("/")
    arguments = build_parser().parse_args(command[3:])
    again = parse_request(arguments)
    assert again.tracking_uri == f"sqlite:///{tmp_path}/m.db"
    images, _ = _open_data(again, setting.experiment, lambda _line: None)
    assert images.fingerprint == setting.data.fingerprint


GIB = 2**30


def on_gpus(request: Request, monkeypatch: pytest.MonkeyPatch, **there: Any) -> Setting:
    """A simulated machine: one trial's largest nets take 9 of a card's 80 GiB."""
    card = Card(total=80 * GIB, overhead=GIB, peak=8 * GIB)
    monkeypatch.setattr(cards, "probed", lambda *_a, **_o: there.get("card", card))
    monkeypatch.setattr(cards, "speed_beside", lambda training: 8e12 / training.beside)
    monkeypatch.setattr(ReptileTrial, "training_speed", lambda *_a, fast: 8e12 if fast else 1e12)
    found = look_around(replace(request, scale="paper"), None)
    node = Node(cpus=there.get("cpus", 16.0), gpus=there.get("gpus", 1.0))
    return replace(found, nodes=(node,))


def measured_plan(setting: Setting) -> tuple[Plan, Speed]:
    shares = shares_of(setting)
    speed = measured_speed(training_of(setting, shares))
    return new_plan(setting, shares, speed), speed


@pytest.mark.parametrize(
    ("there", "share", "slots"),
    [
        ({}, 0.125, 8),  # 72 promised GiB
        ({"cpus": 4.0}, 0.25, 4),
        ({"gpus": 2.0}, 0.125, 16),
        ({"gpus": 4.0, "cpus": 6.0}, 0.5, 6),
        ({"card": Card(total=8 * GIB, overhead=GIB, peak=8 * GIB)}, 1.0, 1),
        ({"card": None}, 1.0, 1),  # a cluster's, or too small
    ],
)
def test_what_the_largest_nets_need_says_how_many_trials_share_a_card(
    request_: Request,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: dict[str, Any],
    share: float,
    slots: int,
) -> None:
    setting = on_gpus(request_, monkeypatch, **there)
    made, speed = measured_plan(setting)
    assert (made.gpus_per_trial, made.slots, made.device) == (share, slots, "cuda")
    assert made.fast_gpu
    neighbours = round(1 / share)
    assert made.flops_per_second == pytest.approx(8e12 / neighbours)
    show(made, setting, speed)
    said = capsys.readouterr().out
    assert (f"{neighbours} trials a card: of its" in said) == (made.card is not None)


def test_gpus_that_were_asked_for_are_not_measured(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = on_gpus(request_, monkeypatch)
    monkeypatch.setattr(cards, "probed", lambda *_a, **_o: pytest.fail("it was"))
    asked = replace(setting.request, gpus_per_trial=1.0, fast_gpu=False)
    made, _ = measured_plan(replace(setting, request=asked))
    assert (made.gpus_per_trial, made.card, made.fast_gpu) == (1.0, None, False)
    assert made.flops_per_second == 1e12
    none, _ = measured_plan(replace(setting, nodes=(Node(cpus=16.0),)))
    assert (none.gpus_per_trial, none.device, none.fast_gpu) == (0.0, "cpu", False)


def test_how_gpus_compute_reaches_the_trials(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = on_gpus(request_, monkeypatch)
    monkeypatch.setattr(preparation, "prepare_scorer", lambda *_args, **_options: "nets")
    made, _ = measured_plan(setting)
    assert search_context(setting, made).fast_gpu
    assert not search_context(setting, replace(made, fast_gpu=False)).fast_gpu


def test_few_trials_do_not_leave_out_the_points_that_were_asked_for(request_: Request) -> None:
    asked = replace(request_, points=('{"critic_steps": 2}',), trials=4)
    with pytest.raises(UserError, match="--trials must be at least 5 to run the built-in"):
        measured_plan(look_around(asked, None))
