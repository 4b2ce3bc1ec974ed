"""The result file: what is written is read back, and what is wrong is refused with its place."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scored_trial import record

from trainables.errors import UserError
from tuner.interim import trial_result
from tuner.ranking import describe, number, print_ranking, ranked, short_parameters, trial_title
from tuner.result import (
    Best,
    Data,
    Finalist,
    FrontTrial,
    Gate,
    Pareto,
    Reference,
    Rematch,
    Rung,
    StudyResult,
    TestScore,
    TrackingPlace,
    TrialResult,
    describe_schema,
    git_commit,
    in_study,
    load,
    validate,
    versions,
)
from tuner.schemas import schema_of

SCORES = {"L": 1.25, "J": 0.3, "recognisability": 0.7, "coverage": 0.4, "copy_share": 0.05}
PLAN = {
    "scale": "cpu",
    "trials": 3,
    "rungs_flops": [1e12, 3e12],
    "episodes": [5, 10],
    "eta": 3,
    "slots": 2,
    "seed": 0,
    "budget_seconds": 600,
}


def trial(number: int, **changes: object) -> TrialResult:
    rungs = (
        Rung(rung=0, train_flops=1e12, metrics=SCORES),
        Rung(rung=1, train_flops=3e12, metrics=SCORES),
    )
    made = TrialResult(
        number=number,
        label="",
        state="COMPLETE",
        reason="",
        params={"width": 16, "inner_lr": 1e-3},
        config={"width": 16, "inner_lr": 1e-3, "latent": 64},
        seed=number,
        updates=900,
        train_flops=3e12,
        train_seconds=40.0,
        score_seconds=9.0,
        rungs=rungs,
        scores=SCORES,
        mlflow_run_id=None,
        checkpoint=f"trial-{number}/rung-1",
    )
    return replace(made, **changes)


def result(folder: Path, **changes: object) -> StudyResult:
    baselines = {
        name: {"validation": SCORES | {"J": j}, "test": SCORES | {"J": j}}
        for name, j in (("real", 0.86), ("copied_shots", 0.01), ("augmented_shots", 0.61))
    }
    made = StudyResult(
        folder=folder,
        study="reptile_omniglot",
        experiment="reptile_omniglot",
        created="2026-01-01T12:00:00+00:00",
        outcome="finished",
        data=Data(name="omniglot", stand_in=False, fingerprint="0123456789abcdef", source="/data"),
        plan=PLAN,
        wall_seconds=612.5,
        timings={"search": 580.0},
        trials=(
            trial(0, label="paper", scores=SCORES | {"L": 2.5}, train_seconds=21.4),
            trial(1),
            trial(2, state="PRUNED", reason="asha: rung 0", rungs=trial(2).rungs[:1]),
            trial(3, state="FAIL", reason="diverged", rungs=(), scores=None, checkpoint=None),
        ),
        null_baselines=baselines,
        fidelity={"0": 0.8},
        rematch=Rematch(
            seeds=1,
            episodes=20,
            finalists=(
                Finalist(
                    number=1,
                    label="",
                    adapt_steps=100,
                    metrics=SCORES,
                    intervals={"L": (1.0, 1.5)},
                ),
            ),
            margin=None,
        ),
        gate=Gate(
            name="reptile_omniglot",
            crowned=False,
            reason="version 3 stays: the new model has L +0.10 [-0.10, +0.30]",
            against=3,
            margin=(-0.1, 0.3),
        ),
        best=Best(
            number=1,
            label="",
            params={"width": 16},
            scores=SCORES,
            grid="trial-1/rung-1/grid.png",
            weights="trial-1/rung-1/weights.safetensors",
        ),
        test=TestScore(
            classes=("evaluation/Tibetan/character29",),
            episodes=20,
            adapt_steps=100,
            metrics=SCORES | {"J": 0.39},
            intervals={"J": (0.33, 0.45), "L": (1.0, 1.5), "copy_share": (0.02, 0.1)},
        ),
        reference=Reference(
            number=0,
            label="paper",
            test=TestScore(
                classes=("evaluation/Tibetan/character29",),
                episodes=20,
                adapt_steps=100,
                metrics=SCORES | {"J": 0.0},
                intervals={"J": (0.0, 0.0)},
            ),
        ),
        verdict="On test classes the champion is worse than strongly augmenting the shots.",
        versions={"python": "3.11.7"},
        git_commit=None,
        tracking=TrackingPlace(
            uri="sqlite:////runs/mlflow.db", experiment_id="1", parent_run_id="ab"
        ),
        commands={"mlflow_ui": "mlflow ui --port 5000"},
    )
    return replace(made, **changes)


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "study" / "result.json"
    written = result(path.parent)
    written.write(path)
    assert load(path) == written
    assert load(path).folder == path.parent
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_model_that_was_cut_before_its_first_step_has_a_result(tmp_path):
    made = result(tmp_path)
    assert made.test is not None
    replace(made, test=replace(made.test, adapt_steps=0)).write(tmp_path / "result.json")
    assert load(tmp_path / "result.json").test.adapt_steps == 0


finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.dictionaries(st.text(), st.one_of(st.integers(), finite, st.text(), st.booleans()))


@settings(deadline=None, max_examples=50)
@given(
    params=plain,
    scores=st.dictionaries(st.text(), finite),
    reason=st.text(),
    interval=st.tuples(finite, finite),
)
def test_any_plain_content_survives_json(params, scores, reason, interval):
    made = result(Path("runs"))
    assert made.test is not None
    changed = replace(
        made,
        trials=(trial(0, params=params, scores=scores, reason=reason, state="PRUNED"),),
        test=replace(made.test, metrics=scores, intervals={"J": interval}),
    )
    document = json.loads(json.dumps(changed.to_dict(), allow_nan=False))
    validate(document)
    assert StudyResult.from_dict(document, Path("elsewhere")) == changed


FRONT = Pareto(
    objectives={"L": "minimize", "coverage": "maximize"},
    front=(
        FrontTrial(number=1, values={"L": 0.5, "coverage": 0.25}),
        FrontTrial(number=0, values={"L": 0.75, "coverage": 0.5}),
    ),
)


def test_a_pareto_front_is_read_back_and_shown(tmp_path):
    made = result(tmp_path, pareto=FRONT)
    made.write(tmp_path / "result.json")
    assert load(tmp_path / "result.json") == made
    out = io.StringIO()
    print_ranking(made, Console(file=out, width=80))
    text = out.getvalue()
    assert "Pareto front of L (minimized), coverage (maximized): 2 trials" in text
    assert "trial 0 · paper's settings · w16 lr0.001: L .75, coverage .50" in text
    assert text.index("L .50, coverage .25") < text.index("L .75, coverage .50")


def test_a_file_from_before_there_were_fronts_is_read(tmp_path):
    document = result(tmp_path).to_dict()
    del document["pareto"]
    (tmp_path / "result.json").write_text(json.dumps(document))
    assert load(tmp_path / "result.json").pareto is None


def test_a_study_without_any_success_has_no_champion_and_no_test(tmp_path):
    bare = result(
        tmp_path,
        outcome="nothing succeeded",
        trials=(),
        null_baselines={},
        best=None,
        test=None,
        tracking=None,
    )
    bare.write(tmp_path / "result.json")
    assert load(tmp_path / "result.json") == bare


def test_a_number_that_is_not_finite_is_refused_with_its_place(tmp_path):
    bad = result(tmp_path, trials=(trial(0, scores=SCORES | {"fd": float("nan")}),))
    with pytest.raises(ValueError, match=r"\$\.trials\[0\]\.scores\.fd = nan"):
        bad.write(tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("study",), "", r"\$\.study"),
        (("outcome",), "won", r"\$\.outcome"),
        (("format",), 2, r"\$\.format"),
        (("data", "fingerprint"), "xyz", r"\$\.data\.fingerprint"),
        (("data", "stand_in"), "no", r"\$\.data\.stand_in"),
        (("plan", "trials"), 0, r"\$\.plan\.trials"),
        (("wall_seconds",), -1.0, r"\$\.wall_seconds"),
        (("trials", 0, "state"), "RUNNING", r"\$\.trials\[0\]\.state"),
        (("trials", 0, "extra"), 1, r"\$\.trials\[0\]: .*extra"),
        (("test", "intervals", "J"), [0.1], r"\$\.test\.intervals\.J"),
        (("null_baselines", "sneakers"), {}, r"\$\.null_baselines: .*sneakers"),
    ],
)
def test_the_schema_refuses_a_wrong_document_and_says_where(tmp_path, place, value, complaint):
    document = result(tmp_path).to_dict()
    node = document
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = value
    with pytest.raises(ValueError, match=complaint):
        validate(document)


@pytest.mark.parametrize("missing", ["plan", "best", "test", "verdict", "trials"])
def test_no_part_may_be_missing(tmp_path, missing):
    document = result(tmp_path).to_dict()
    del document[missing]
    with pytest.raises(ValueError, match=missing):
        validate(document)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": NaN}'])
def test_a_file_that_is_no_result_is_answered_in_one_line(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is no result of a study") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["grid", "weights", "config"])
@pytest.mark.parametrize("place", ["/etc/passwd", "../other/weights.safetensors", "link/passwd"])
def test_a_result_that_names_files_elsewhere_is_refused(tmp_path, name, place):
    """They would go to MLflow, and beside a report."""
    (tmp_path / "link").symlink_to("/etc")
    made = result(tmp_path)
    replace(made, best=replace(made.best, **{name: place})).write(tmp_path / "result.json")
    with pytest.raises(UserError, match=rf"\$\.best\.{name}: '{place}' lies outside"):
        load(tmp_path / "result.json")


def test_the_schema_is_valid_and_describes_every_property():
    jsonschema.Draft202012Validator.check_schema(schema_of("result"))

    def undescribed(node, place):
        for name, child in node.get("properties", {}).items():
            if not child.get("description"):
                yield f"{place}.{name}"
            yield from undescribed(child, f"{place}.{name}")
            yield from undescribed(child.get("items", {}), f"{place}.{name}[]")

    nodes = [schema_of("result"), *schema_of("result")["$defs"].values()]
    assert [place for node in nodes for place in undescribed(node, "")] == []


def test_the_documentation_is_in_step_with_the_schema():
    page = Path(__file__).parents[1] / "docs" / "result.md"
    assert describe_schema() in page.read_text(encoding="utf-8"), (
        "run `python -m tuner.result` and put what it prints into docs/result.md"
    )


def test_paths_are_relative_inside_the_study_only(tmp_path):
    assert in_study(tmp_path / "trial-1" / "grid.png", tmp_path) == "trial-1/grid.png"
    assert in_study(Path("/elsewhere/grid.png"), tmp_path) == "/elsewhere/grid.png"
    assert in_study(None, tmp_path) is None


def test_a_trial_tells_its_point_its_overrides_and_where_the_clock_cut_it(tmp_path):
    full = record(0, (1e9, 1.0), (2e9, 0.5), state="PRUNED")
    cut = replace(full.rungs[1], metrics={**full.rungs[1].metrics, "complete": 0.0})
    attrs = {"point": {"lr": 0.1}, "overrides": {"mode": "faithful"}}
    paper = replace(full, rungs=(full.rungs[0], cut), attrs=attrs)
    told = trial_result(paper, folder=tmp_path, seed=0, run_id=None)
    assert (told.params, told.overrides) == ({"lr": 0.1}, {"mode": "faithful"})
    assert [(rung.rung, rung.complete) for rung in told.rungs] == [(0, True), (1, False)]
    sampled = replace(full, params={"lr": 0.2})
    sampled = trial_result(sampled, folder=tmp_path, seed=0, run_id=None)
    assert (sampled.params, sampled.overrides) == ({"lr": 0.2}, {})
    assert [t.number for t in ranked([told, replace(sampled, number=1)])] == [1, 0]


def test_stopped_trials_rank_behind_finished_ones_whatever_their_loss(tmp_path):
    trials = (
        trial(0, state="FAIL", scores=None, rungs=()),
        trial(1, state="PRUNED", rungs=trial(1).rungs[:1], scores=SCORES | {"L": 0.1}),
        trial(2, state="PRUNED", scores=SCORES | {"L": 0.9}),
        trial(3, scores=SCORES | {"L": 2.0}),
        trial(4, scores=SCORES | {"L": 1.0}),
    )
    assert [t.number for t in ranked(trials)] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("width", [80, 120])
def test_the_ranking_shows_every_score_of_every_trial(tmp_path, width):
    out = io.StringIO()
    print_ranking(result(tmp_path), Console(file=out, width=width))
    text = out.getvalue()
    assert "paper's settings" in text
    assert "1.25" in text
    assert "2.50" in text
    assert "augmented shots" in text
    assert ".61" in text
    assert "J .39 [.33, .45]" in text
    assert "the best trial, 900 updates in 40 s: " in text
    assert "paper's settings, 900 updates in 21 s: " in text
    assert str(tmp_path / "trial-1/rung-1/grid.png") in text
    assert "mlflow ui: mlflow ui --port 5000" in text
    assert "worse than strongly augmenting the shots." in text


def test_how_far_rungs_told_the_end_is_named_for_what_it_is_and_not_judged(tmp_path):
    """What the search went by is another correlation, told when it went by it."""
    out = io.StringIO()
    made = result(tmp_path, fidelity={"0": 0.1, "1": 0.85})
    print_ranking(made, Console(file=out, width=120))
    told = "Rank correlation of L with the last rung's, of the trials that came there: "
    assert f"{told}rung 1 .10, rung 2 .85\n" in out.getvalue()


def test_a_long_ranking_is_cut_but_keeps_the_papers_settings(tmp_path):
    trials = [trial(n, scores=SCORES | {"L": 1.0 + n / 100}) for n in range(40)]
    trials[39] = replace(trials[39], label="paper")
    out = io.StringIO()
    print_ranking(result(tmp_path, trials=tuple(trials)), Console(file=out, width=120), rows=5)
    text = out.getvalue()
    assert "paper's settings" in text
    assert "and 34 more in result.json" in text  # 40 - 5 - 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.42, ".42"), (-0.5, "-.50"), (10.0, "10.00"), (1.0, "1.00"), (None, "")]
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_a_trial_is_named_after_its_point_or_its_parameters():
    params = {"inner_lr": 0.00123, "width": 16, "architecture": "dcgan", "inner_steps": 10}
    assert short_parameters(params) == "dcgan w16 K10 lr0.0012"
    assert describe("paper", params) == "paper's settings"
    assert describe("cheap", params) == "cheap"
    assert describe("", {"x": 1, "y": 0.5}) == "x=1 y=0.5"
    assert trial_title(7, "", params) == "trial 7 · dcgan w16 K10 lr0.0012"
    assert trial_title(0, "paper", params) == "trial 0 · paper's settings · dcgan w16 K10 lr0.0012"
    assert trial_title(2, "dcgan", params) == "trial 2 · dcgan w16 K10 lr0.0012", "named once"
    assert trial_title(3, "", {}) == "trial 3"


def test_versions_name_python_and_the_frameworks():
    assert versions()["python"].count(".") == 2
    assert versions()["torch"]


def test_the_commit_is_a_hash_or_nothing():
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
