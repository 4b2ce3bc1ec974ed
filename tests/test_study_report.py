"""A study's report in words: the headline, comparisons, audit and costs of small results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scored_trial import record
from test_result import PLAN, SCORES, result, trial

from tuner.report_audit import audit, cost, forecast_table
from tuner.report_tables import settings_table, state
from tuner.result import Data, FrontTrial, Pareto, Rung
from tuner.study_report import Comparison, Mark, report_of
from tuner.table_cells import decimal

HERE = Path("runs/reptile_omniglot")


@pytest.mark.parametrize(
    ("j", "words", "told"),
    [
        (0.73, "better than", "0.12 above the mark to beat"),
        (0.39, "worse than", "0.22 below the mark to beat"),
        (0.73, "not distinguishable from", "level with the mark to beat within chance"),
    ],
)
def test_the_headline_says_who_won_and_by_how_much(j: float, words: str, told: str) -> None:
    made = result(HERE, verdict=f"On test classes the champion is {words} strongly augmenting.")
    assert made.test is not None
    made = replace(made, test=replace(made.test, metrics=made.test.metrics | {"J": j}))
    headline = report_of(made, storage="runs").headline
    assert headline == f"Trial 1 · w16 won: J {j:.2f} on classes it had never seen, {told}"


def test_a_best_that_was_not_tested_says_so() -> None:
    made = replace(result(HERE), test=None, reference=None)
    told = report_of(made, storage="runs")
    assert "is the best, untested: J 0.30, L 1.25" in told.headline
    assert any("was not tested" in line for line in told.notices)
    assert told.verdict == told.copying == ""
    leading = report_of(replace(made, outcome="interrupted"), storage="runs")
    assert "leads so far" in leading.headline


def test_nothing_is_told_of_a_study_in_which_nothing_succeeded() -> None:
    made = result(HERE, outcome="nothing succeeded", best=None, test=None, reference=None)
    made = replace(made, trials=made.trials[3:], gate=None, rematch=None, null_baselines={})
    told = report_of(made, storage="runs")
    assert told.headline.startswith("Nothing succeeded")
    assert "Nothing succeeded. 1 of 1 trials failed: 1 diverged." in told.notices
    assert told.comparisons == told.candidates == ()
    assert told.trials.rows[0][3] == "failed"


def test_stand_ins_and_lone_trials_are_announced() -> None:
    data = Data(name="strokes", stand_in=True, fingerprint="0" * 16, source="embedded")
    made = result(HERE, data=data, trials=(trial(1),))
    notices = report_of(made, storage="runs").notices
    assert notices[0].startswith("STAND-IN DATA: strokes")
    assert any(line.startswith("One trial alone") for line in notices)
    assert report_of(made, storage="runs").paper.rows == (), "no row of the paper's is of strokes"


def test_marks_are_in_order_and_in_place() -> None:
    j, loss = report_of(result(HERE), storage="runs").comparisons
    assert [mark.value for mark in j.marks] == [0.86, 0.61, 0.39, 0.01, 0.0]
    assert [mark.title for mark in j.marks if mark.ours] == ["the best trial"]
    assert [mark.text for mark in j.marks if mark.ours] == ["0.39 [0.33, 0.45]"]
    assert [mark.value for mark in j.marks if mark.to_beat] == [0.61]
    assert loss.limit == 1.5  # the upper end of the widest interval
    axis = Comparison(score="L", meaning="", limit=2.0, marks=())
    assert [axis.place(value) for value in (-1.0, 0.5, 3.0)] == [0.0, 25.0, 100.0]
    assert Mark(title="x", value=-0.001, ends=(-0.004, 0.5)).text == "0.00 [0.00, 0.50]"


def test_copying_is_told_beside_what_copies() -> None:
    told = report_of(result(HERE), storage="runs").copying
    assert told.startswith("5.0% of the best trial's samples [2.0%, 10.0%] are nearer")
    assert "5.0% of real drawings" in told


def test_finalists_come_first_with_their_intervals() -> None:
    best, second, third = report_of(result(HERE), storage="runs").candidates
    assert best.best
    assert best.trial.number == 1
    assert ("L", "1.25 [1.00, 1.50]") in best.scores
    assert "fresh episodes" in best.note
    assert (second.trial.number, third.trial.number) == (0, 2)
    assert third.standing == "rank 3 of the search, stopped, rung 1/2"


def test_a_trial_of_the_search_says_why_its_j_has_no_interval() -> None:
    known = record(2, (1e12, 1.25))
    known = replace(known, rungs=(replace(known.rungs[0], episodes=[1.0, 1.5]),))
    _best, second, third = report_of(result(HERE), [known], storage="runs").candidates
    assert second.note == "in the search"
    assert third.note.startswith("in the search, which keeps L alone by episode")
    assert ("L", "1.25 [1.00, 1.50]") in third.scores
    assert ("J", "0.30") in third.scores


def test_the_published_row_stands_beside_ours() -> None:
    told = report_of(result(HERE), storage="runs")
    assert told.paper.rows[0][:3] == ("paper, as published", "4,321", "0.91")
    assert told.paper.bold is not None
    assert told.paper.rows[told.paper.bold][0] == "our champion"
    assert any(line.startswith("Few-shot as published") for line in told.remarks)


def test_a_pareto_front_names_its_objectives() -> None:
    front = (FrontTrial(number=1, values={"L": 1.25, "coverage": 0.4}),)
    pareto = Pareto(objectives={"L": "minimize", "coverage": "maximize"}, front=front)
    table = report_of(result(HERE, pareto=pareto), storage="runs").pareto
    assert table.headings == ("trial", "L (minimized)", "coverage (maximized)")
    assert table.rows == (("trial 1 · w16 lr0.001", "1.25", "0.40"),)


def test_commands_reproduce_and_use_the_best() -> None:
    made = result(HERE)
    trials = tuple(replace(t, mlflow_run_id=f"run{t.number}") for t in made.trials)
    assert made.gate is not None
    made = replace(made, trials=trials, gate=replace(made.gate, crowned=True))
    told = report_of(made, storage="my runs")
    (replay,) = told.reproduce
    place = "--storage 'my runs' --tracking-uri sqlite:////runs/mlflow.db"
    assert replay.line == f"python -m tuner.launch --replay run1 {place}"
    generate, demo, mlflow = (command.line for command in told.use)
    assert generate.startswith("python -m tuner.generate reptile_omniglot --shots a.png")
    assert generate.endswith(f"--out new.png {place}")
    assert demo == f"python -m tuner.demo reptile_omniglot {place}"
    assert mlflow == "mlflow ui --port 5000"
    kept = replace(made, study="mine", gate=replace(made.gate, crowned=False))
    assert (
        report_of(kept, storage="runs").use[1].line
        == "python -m tuner.demo mine --tracking-uri sqlite:////runs/mlflow.db"
    )


def test_a_study_is_searched_again_by_one_command_from_any_folder() -> None:
    launch = "python -m tuner.launch my_gan"
    commands = {
        "searched_by": f"{launch} --plugin my_gan.py --seed 0 --data rings && {launch} --resume",
        "search_on": f"/bin/{launch} --resume --study mine --storage '/my runs' "
        "--plugin /me/my_gan.py --data-root /sets --data rings --budget 600s",
    }
    made = result(HERE, commands=commands, tracking=None)
    again = {
        command.purpose: command.line for command in report_of(made, storage="/my runs").reproduce
    }
    assert again["Search again"] == (
        f"{launch} --seed 0 --plugin /me/my_gan.py --data-root /sets --data rings "
        "--storage '/my runs'"
    )
    (bare,) = report_of(
        replace(made, commands={"searched_by": f"{launch} --data rings"}), storage="runs"
    ).reproduce
    assert bare.line == f"{launch} --data rings"


def rungs(*losses: float) -> tuple[Rung, ...]:
    return tuple(
        Rung(rung=k, train_flops=3.0**k * 1e12, metrics=SCORES | {"L": loss})
        for k, loss in enumerate(losses)
    )


def test_the_audit_compares_rungs_by_hand() -> None:
    trials = (
        trial(0, rungs=rungs(3.0, 1.0)),
        trial(1, rungs=rungs(1.0, 2.0)),
        trial(2, rungs=rungs(2.0, 3.0)),
        trial(3, rungs=rungs(0.5), state="PRUNED", reason="asha: rung 0"),
        trial(4, rungs=rungs(2.5), state="PRUNED", reason="asha: rung 0"),
        trial(5, rungs=rungs(2.5), state="PRUNED", reason="running"),
    )
    told = audit(result(HERE, trials=trials), ())
    # Ranks 3, 1, 2 against 1, 2, 3: 1 - 6 (4 + 1 + 1) / (3 * 8) = -0.5.
    assert told.rungs.rows == (
        ("1", "1,000", "5", "6", "2", "0.50", "-0.50", ""),
        ("2", "3,000", "10", "3", "0", "", "", ""),
    )
    assert "-0.50 at rung 1" in told.told
    assert "So few trials say little" in told.told


def test_costs_add_up() -> None:
    told = cost(result(HERE, wall_seconds=100.0, timings={"search": 60.0, "test": 30.0}))
    assert [(part.text) for part in told.parts] == ["1:00 (60 %)", "0:30 (30 %)", "0:10 (10 %)"]
    assert told.parts[-1].title == "the rest"
    assert told.states.rows[0][:3] == ("complete", "2", "61")
    early = (trial(0), trial(1, train_flops=1e12, rungs=rungs(1.0)))
    lines = cost(result(HERE, trials=early)).told
    assert any("4.00 TFLOP together" in line and "left 33% of it out" in line for line in lines)


def test_a_forecast_stands_beside_what_came() -> None:
    forecast = {
        name: {"low": 0.5 * value, "expected": value, "high": 2 * value}
        for name, value in (
            ("seconds", 600.0),
            ("trials", 12.0),
            ("finished", 4.0),
            ("memory_bytes", 2.0**31),
            ("disk_bytes", 2.0**29),
        )
    }
    came = {"seconds": 700.0, "trials": 20, "finished": 4, "memory_bytes": None}
    told = forecast_table(forecast | {"learned_from": 1}, came)
    assert told.caption.endswith("learned from 1 earlier study")
    assert told.rows == (
        ("time", "10:00", "5:00 to 20:00", "11:40"),
        ("trials begun", "12", "6 to 24", "20"),
        ("trials that came to the last rung", "4", "2 to 8", "4"),
        ("memory [GiB]", "2.0", "1.0 to 4.0", ""),
        ("disk [GiB]", "0.50", "0.25 to 1.00", ""),
    )
    assert forecast_table(None, None).rows == ()
    made = result(HERE, forecast=forecast | {"learned_from": 0}, actual=came, wall_seconds=700.0)
    line = "Forecast: 10:00, and nine times of ten from 5:00 to 20:00. It took 11:40, 17% more."
    assert cost(made).told[0] == line


def test_what_older_files_lack_is_left_out() -> None:
    bare = {key: PLAN[key] for key in ("rungs_flops", "eta", "slots", "seed", "trials", "scale")}
    made = result(HERE, plan=bare, timings={}, versions={}, commands={}, fidelity={})
    told = report_of(made, storage="runs")
    assert told.reproduce == ()
    assert [command.line.split()[2] for command in told.use] == ["tuner.generate", "tuner.demo"]
    assert told.cost.parts == ()


def test_settings_tell_what_was_tried() -> None:
    trials = (
        trial(0, params={"lr": 0.1, "net": "a", "on": True}),
        trial(1, params={"lr": 0.5, "net": "b", "on": True, "width": 16}),
    )
    rows = settings_table(result(HERE, trials=trials)).rows
    assert rows == (
        ("lr", "", "0.1 to 0.5", "2"),
        ("net", "", "a, b", "2"),
        ("on", "", "True", "2"),
        ("width", "16", "16", "1"),
    )


def test_trials_that_are_not_over_say_so() -> None:
    assert state(trial(0, state="PRUNED", reason="running")) == "running"
    assert state(trial(0, state="PRUNED", reason="time")) == "cut: time"
    assert [decimal(v) for v in (None, -0.001, 1.0)] == ["", "0.00", "1.00"]
