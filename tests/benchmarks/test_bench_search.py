import importlib.metadata
import json
from types import SimpleNamespace

import bench_search
import hartmann
import pools
import pytest
import recorded
from ray.tune.schedulers import FIFOScheduler
from simulation import Entrant, Ladder, Pool, incumbent, our_pool, play, stock_pool

from tuner.journal import Journal
from tuner.trial_records import RungRecord

LADDER = Ladder(steps=(1, 3, 9), costs=(1 / 9, 1 / 3, 1.0))


def by_number(values):
    """Without noise: a trial scores the same everywhere."""
    return lambda config, rung: [values[config["trial_number"]]] * 3


def to_the_end(trials):
    return Entrant(search=Pool(trials), scheduler=FIFOScheduler())


def test_time_is_what_slots_side_by_side_need():
    """Two slots, half a trial to each rung: 0 and 1 take until 1, then 2 until 2."""
    ladder = Ladder(steps=(1, 3), costs=(0.5, 1.0))
    played = play(to_the_end(3), ladder, by_number([3, 1, 2]), slots=2)
    told = [(p.config["trial_number"], p.rung, p.cost) for p in played]
    assert told == [(0, 0, 1), (1, 0, 1), (0, 1, 2), (1, 1, 2), (2, 0, 3), (2, 1, 4)]
    assert incumbent(played).config["trial_number"] == 1


def test_what_is_not_scored_within_the_budget_is_never_scored():
    played = play(to_the_end(3), LADDER, by_number([3, 1, 2]), budget=1.2)
    assert [(p.config["trial_number"], p.rung) for p in played] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert incumbent(played).config["trial_number"] == 0  # lower rungs do not compare


@pytest.mark.parametrize("make", [our_pool, stock_pool])
def test_who_decides_saves_cost_and_keeps_the_best_of_exact_scores(make):
    values = [(7 * trial) % 27 for trial in range(27)]
    played = play(make(27, LADDER), LADDER, by_number(values))
    assert incumbent(played).score == 0
    assert played[-1].cost < 27 / 2


def test_stock_asha_stops_nothing_where_scores_come_worst_first_and_ours_pauses():
    """Every trial is the best so far when it is scored."""
    values = list(range(27, 0, -1))
    stock, ours = (
        play(make(27, LADDER), LADDER, by_number(values)) for make in (stock_pool, our_pool)
    )
    assert stock[-1].cost == pytest.approx(27)
    assert ours[-1].cost < 27 * 0.9
    assert incumbent(ours).score == 1


def test_all_methods_meet_the_same_trials():
    kept = {method: pools.retention(method, 0.0, 0) for method in pools.METHODS}
    assert all(one.best and one.regret == 0 for one in kept.values())
    assert kept["random search"].cost == pytest.approx(1)


def curves(full):
    return recorded.Curves(study="toy", data="toys", ladder=LADDER, full=full, trials=len(full))


def test_a_replay_draws_whole_curves_and_keeps_what_episodes_have_in_common():
    """Trial b is 1 above trial a on every episode, so no draw can turn them round."""
    a = ((0.0, 5.0), (0.0, 5.0), (0.0, 5.0))
    b = tuple(tuple(score + 1 for score in rung) for rung in a)
    for repeat in range(5):
        kept = pools.replay("random search", curves((b, a)), 6, repeat)
        assert kept.best
        assert kept.regret == 0


def test_curves_are_taken_out_of_a_study_that_is_running(tmp_path):
    def rung(number, complete=1.0):
        metrics = {"L": 0.5, "rung": number, "complete": complete, "train_flops": 1e9}
        return RungRecord(
            rung=number,
            metrics=metrics,
            losses=[],
            checkpoint="",
            seconds=1.0,
            decision="continue",
            episodes=[0.25, 0.75],
        )

    with Journal(tmp_path / "runs", "toy") as journal:
        journal.set_attr("data", {"name": "toys"})
        journal.set_attr("plan", {"rungs": [1e9, 3e9]})
        for rungs in ([rung(0), rung(1)], [rung(0), rung(1, complete=0.0)], []):
            trial = journal.study.ask()
            for one in rungs:
                journal.add_rung(trial.number, one)
        before = (tmp_path / "runs/toy/journal.log").read_bytes()
        (study,) = recorded.record([tmp_path / "runs"], tmp_path / "curves.json")
        assert (tmp_path / "runs/toy/journal.log").read_bytes() == before
    assert study.full == (((0.25, 0.75), (0.25, 0.75)),)
    assert study.trials == 2
    assert study.ladder == Ladder(steps=(1, 3), costs=(1 / 3, 1.0))


def test_what_is_recorded_can_be_replayed():
    for study in recorded.load():
        if len(study.full) > 1:
            assert pools.replay("ours", study, 9, 0).cost <= 1


def test_a_storage_without_studies_is_refused(tmp_path, capsys):
    assert bench_search.main(["--record", str(tmp_path)]) == 2
    assert "No study with scored trials" in capsys.readouterr().err


class Bowl:
    """A function with MFHartmann's signature: lowest at .5, above it by the distance to fidelity
    100."""

    def __init__(self, fidelities, bias, noise, seed):
        self.fidelities = fidelities

    def __call__(self, z, point):
        above = 1 - z / self.fidelities
        return hartmann.OPTIMA["hartmann3"] + sum((x - 0.5) ** 2 for x in point) + above


@pytest.mark.parametrize("method", sorted(hartmann.METHODS))
def test_every_method_gets_nearer_to_an_optimum_with_more_budget(method, monkeypatch):
    monkeypatch.setattr(hartmann, "_generators", lambda: SimpleNamespace(MFHartmann3=Bowl))
    early, late = hartmann.regrets(method, "hartmann3", "good", 5, (4.0, 12.0))
    assert 0 <= late < early


def test_a_missing_package_is_named_before_anything_runs(monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert bench_search.main([]) == 2
    out, err = capsys.readouterr()
    assert "make bench-search" in err
    assert not out


class Inline:
    """Workers in this process."""

    def __init__(self, jobs, console):
        pass

    def run(self, title, work, calls):
        return [work(*call) for call in calls]


def test_the_page_says_what_was_measured_and_how_to_repeat_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_search, "Workers", Inline)
    monkeypatch.setattr(
        recorded, "load", lambda: [curves(((tuple([1.0] * 3),) * 3,) * bench_search.FEWEST_CURVES)]
    )
    words = ["--parts", "retention", "replay", "--repeats", "2", "--out", str(tmp_path)]
    assert bench_search.main(words) in (0, 1)
    page = (tmp_path / bench_search.PAGE).read_text(encoding="utf-8")
    assert f'make bench-search ARGS="{" ".join(words)}"' in page
    for method in pools.METHODS:
        assert page.count(f"| {method} ") == 3  # two noises and a recorded study
    assert page.count("target") == 4
    assert page.count("2 studies (seeds 0 to 1)") == 2
    assert "## Retention and cost" in capsys.readouterr().out


def kept(share, cost):
    """Ten studies, that share of which kept the best."""
    return [pools.Kept(best=n < 10 * share, cost=cost, regret=0.0) for n in range(10)]


@pytest.mark.parametrize(
    ("share", "cost", "missed"),
    [
        (0.9, 1.5, []),
        (0.8, 1.4, ["retention at noise 0.1: 0.800, target at least 0.85"]),
        (0.4, 1.0, ["retention at noise 0.1: 0.400", "retention at noise 0.3: 0.400"]),
        (0.9, 1.6, ["cost at noise 0.1: 1.600 times", "cost at noise 0.3: 1.600 times"]),
    ],
)
def test_a_missed_target_is_named_and_is_a_failure(share, cost, missed, monkeypatch, capsys):
    played = {"ours": kept(share, cost), "stock ASHA": kept(0.2, 1.0)}
    monkeypatch.setattr(bench_search, "_played", lambda *_a: played)
    assert bench_search.main(["--parts", "retention"]) == (1 if missed else 0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert len(lines) == len(missed)
    for line, words in zip(lines, missed, strict=True):
        assert line.startswith(f"missed: {words}")
    noises = {words.split(":")[0][-3:] for words in missed}
    assert out.count("MISSED") == len(noises)


def test_too_few_curves_are_said_to_be(monkeypatch):
    monkeypatch.setattr(recorded, "load", lambda: [curves((((1.0,),) * 3,))])
    section = bench_search.replay(Inline(1, None), 1)
    assert section.rows == [("toy: 1 of 1", "too few full curves", "", "", "")]


def test_the_recorded_file_is_plain_data():
    content = json.loads(recorded.RECORDED.read_text(encoding="utf-8"))
    for study in content["studies"]:
        assert study["rungs"] == sorted(study["rungs"])
