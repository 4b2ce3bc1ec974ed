import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from trainables.errors import UserError
from trainables.trainable import CROWDED, TIME
from tuner.journal import GPUS, Journal
from tuner.known_points import KnownPoint, check_known_point, trial_seed
from tuner.rungs import Rungs
from tuner.search import JournalSearch, last_checkpoint
from tuner.trial_records import RungRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A conditional space: `beta` exists for adam alone."""

    lr: float = 0.1
    optimiser: str = "sgd"
    beta: float = 0.0
    mode: str = "corrected"


def space(trial, base):
    optimiser = trial.suggest_categorical("optimiser", ["sgd", "adam"])
    beta = trial.suggest_float("beta", 0.0, 0.9) if optimiser == "adam" else base.beta
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    return replace(base, lr=lr, optimiser=optimiser, beta=beta)


PAPER = KnownPoint(label="paper", params={"lr": 0.1}, overrides={"mode": "faithful"})
GOOD = KnownPoint(label="good", params={"lr": 0.01, "optimiser": "sgd"})


def open_journal(tmp_path, points=()):
    journal = Journal(tmp_path, "study")
    journal.enqueue(points, space, Config())
    return journal


def search_of(journal, *, trials=4, seconds=60.0, rungs=None, gpus=0.0, slots=100):
    return JournalSearch(
        journal,
        rungs or Rungs(3, planned=trials),
        space=space,
        base=Config(),
        trials=trials,
        sampler="tpe",
        seed=0,
        deadline=time.time() + seconds,
        common={"threads": 1},
        gpus=gpus,
        slots=lambda: slots,
    )


def rung(k, value, *, decision="continue", checkpoint="/nowhere", complete=1.0):
    metrics = {"L": value, "rung": k, "train_flops": 1e9 * (k + 1), "complete": complete}
    return RungRecord(
        rung=k,
        metrics=metrics,
        losses=[(1.0, 2.0, 3.0)],
        checkpoint=str(checkpoint),
        seconds=1.0,
        decision=decision,
        episodes=[value],
    )


def checkpoint_in(folder):
    folder.mkdir(parents=True)
    torch.save({"done": 1}, folder / "state.pt")
    return folder


def test_known_points_come_first_and_then_the_sampler(tmp_path):
    with open_journal(tmp_path, [PAPER, GOOD]) as journal:
        search = search_of(journal, trials=3)
        paper, good, sampled = (search.suggest(str(i)) for i in range(3))
        assert search.suggest("4") is None
        assert paper["trial_config"]["mode"] == "faithful"
        assert paper["trial_config"]["lr"] == 0.1
        assert good["trial_config"] == {
            "lr": 0.01,
            "optimiser": "sgd",
            "beta": 0.0,
            "mode": "corrected",
        }
        assert sampled["trial_number"] == 2
        assert sampled["seed"] == trial_seed(0, 2)
        assert sampled["threads"] == 1
        assert sampled["resume_from"] is None
        assert [record.label for record in journal.records()] == ["paper", "good", ""]


@pytest.mark.parametrize(("slots", "out"), [(1, 1), (3, 3), (4, 5), (16, 20)])
def test_on_many_slots_some_trials_are_next(tmp_path, slots, out):
    with open_journal(tmp_path) as journal:
        search = search_of(journal, trials=30, slots=slots)
        handed = [search.suggest(str(n)) for n in range(30)]
        assert [config is not None for config in handed] == [n < out for n in range(30)]


def test_a_trial_that_needs_more_of_a_card_gets_it_and_so_do_those_beside_it(tmp_path):
    """Or Ray would give every small share that falls free to one of them."""
    there = checkpoint_in(tmp_path / "rung_0")
    with open_journal(tmp_path) as journal:
        rungs = Rungs(3, planned=9)
        search = search_of(journal, trials=9, rungs=rungs, gpus=0.25)
        assert [search.suggest(str(n))["gpus"] for n in range(3)] == [0.25] * 3
        journal.add_rung(1, rung(0, 1.0, checkpoint=there))
        journal.set_trial_attr(1, GPUS, 0.5)
        search.on_trial_complete("1", {"outcome": CROWDED})
        again = search.suggest("again")
        assert (again["trial_number"], again["part"], again["gpus"]) == (1, 2, 0.5)
        assert again["resume_from"] == str(there)
        search.on_trial_complete("0", {"outcome": TIME})
        assert search.suggest("3")["gpus"] == 0.5
        search.on_trial_complete("again", {"outcome": TIME})
        assert search.suggest("4")["gpus"] == 0.25
    with open_journal(tmp_path) as journal:  # after a kill
        search = search_of(journal, trials=9, gpus=0.25)
        shares = {c["trial_number"]: c["gpus"] for c in map(search.suggest, "abc")}
        assert shares[1] == 0.5


def test_nothing_begins_after_the_deadline(tmp_path):
    with open_journal(tmp_path) as journal:
        assert search_of(journal, seconds=-1).suggest("1") == Searcher.FINISHED
        assert journal.records() == ()


def test_who_begins_before_any_has_a_score_is_spared_by_the_clock(tmp_path):
    with open_journal(tmp_path) as journal:
        search = search_of(journal, rungs=(rungs := Rungs(3, planned=4)))
        spared = [search.suggest("0")["spared"], search.suggest("1")["spared"]]
        rungs.record(0, 1, [1.0])
        assert [*spared, search.suggest("2")["spared"]] == [True, True, False]


def test_a_config_survives_json_unchanged(tmp_path):
    with open_journal(tmp_path) as journal:
        config = search_of(journal).suggest("1")["trial_config"]
        assert journal.record(0).config == config == json.loads(json.dumps(config))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (KnownPoint(label="p", params={"lr": 7.0}), "`lr` = 7.0 is outside"),
        (KnownPoint(label="p", params={"lr": "fast"}), "`lr` = 'fast' is outside"),
        (KnownPoint(label="p", params={"optimiser": "rmsprop"}), "'rmsprop' is outside"),
        (KnownPoint(label="p", params={"learning_rate": 0.1}), "no parameter 'learning_rate'"),
        (KnownPoint(label="p", params={"beta": 0.5}), "no parameter 'beta'"),  # of sgd
        (KnownPoint(label="p", overrides={"modus": "x"}), "no config field 'modus'"),
    ],
)
def test_a_known_point_outside_the_space_is_refused(point, message):
    with pytest.raises(UserError, match=message) as caught:
        check_known_point(point, space, Config())
    assert "\n" not in str(caught.value)


def test_a_known_point_may_leave_parameters_open():
    check_known_point(KnownPoint(label="p"), space, Config())
    check_known_point(KnownPoint(label="p", params={"optimiser": "adam"}), space, Config())


def test_resuming_continues_running_trials_and_enqueues_nothing_twice(tmp_path):
    there = checkpoint_in(tmp_path / "rung_0")
    with open_journal(tmp_path, [PAPER, GOOD]) as journal:
        search = search_of(journal, trials=4)
        first = [search.suggest(str(i)) for i in range(2)]
        journal.add_rung(0, rung(0, 1.0, checkpoint=there))
        journal.add_rung(0, rung(1, 0.9, checkpoint=tmp_path / "gone"))
    with open_journal(tmp_path, [PAPER, GOOD]) as journal:  # after a kill
        search = search_of(journal, trials=4)
        again = [search.suggest(str(i)) for i in range(2)]
        for before, after in zip(first, again, strict=True):
            for key in ("trial_number", "trial_config", "seed"):
                assert before[key] == after[key]
        assert [config["resume_from"] for config in again] == [str(there), None]
        assert search.suggest("3")["trial_number"] == 2
        assert len(journal.records()) == 3


def test_an_end_that_was_decided_but_not_told_is_told_on_resume(tmp_path):
    with open_journal(tmp_path) as journal:
        search = search_of(journal, trials=3)
        for number in range(3):
            search.suggest(str(number))
    with open_journal(tmp_path) as journal:
        journal.add_rung(0, rung(0, 1.0, decision="pause"))
        journal.add_rung(1, rung(2, 0.5, decision="done"))
        journal.add_rung(2, rung(1, 0.7, decision="done", complete=0.0))
        search = search_of(journal, trials=3)
        assert search.suggest("3") == Searcher.FINISHED
        told = [(record.state, record.reason) for record in journal.records()]
        assert told == [("RUNNING", ""), ("COMPLETE", ""), ("PRUNED", "time")]
        assert journal.study.best_value == 0.5


def test_a_paused_trial_is_promoted_before_a_new_one_begins_and_survives_a_kill(tmp_path):
    there = checkpoint_in(tmp_path / "rung_0")
    with open_journal(tmp_path) as journal:
        rungs = Rungs(3, planned=4)
        search = search_of(journal, trials=4, rungs=rungs)
        for number, value in enumerate([1.0, 5.0, 5.5]):
            search.suggest(str(number))
            search.on_trial_complete(str(number))
            rungs.restore(0, number, [value], paused=True)
        assert search.suggest("3") is None  # no checkpoint is journalled yet
        for number, value in enumerate([1.0, 5.0, 5.5]):
            journal.add_rung(number, rung(0, value, decision="pause", checkpoint=there))
        promoted = search.suggest("4")
        assert (promoted["trial_number"], promoted["resume_from"]) == (0, str(there))
        assert (promoted["rungs_done"], promoted["part"]) == (1, 2)
        assert search.suggest("5")["trial_number"] == 3
    with open_journal(tmp_path) as journal:
        search = search_of(journal, trials=4)
        assert [search.suggest(str(n))["trial_number"] for n in range(2)] == [0, 3]
        assert [r.number for r in journal.records() if r.paused] == [1, 2]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_trial_that_died_while_it_was_paused_waits_only_if_its_checkpoint_is_there(
    tmp_path, checkpointed
):
    with open_journal(tmp_path) as journal:
        rungs = Rungs(3, planned=4)
        search = search_of(journal, trials=4, rungs=rungs)
        for number, value in enumerate([1.0, 5.0, 5.5]):
            search.suggest(str(number))
            rungs.restore(0, number, [value], paused=True)
        if checkpointed:
            journal.add_rung(0, rung(0, 1.0, decision="pause"))
        search.on_trial_complete("0", error=True)
        again = search.suggest("3")
        assert (again["trial_number"], again["rungs_done"]) == (0, int(checkpointed))
        assert rungs.paused == (2, 0, 0)
        assert search.suggest("4")["trial_number"] == 3


def test_a_searcher_waits_for_others_before_it_says_that_it_is_over(tmp_path):
    with open_journal(tmp_path) as journal:
        search = search_of(journal, trials=1)
        search.suggest("0")
        assert search.suggest("1") is None
        search.on_trial_complete("0")
        assert search.suggest("2") == Searcher.FINISHED


def test_a_trial_lost_between_asking_and_writing_its_config_is_asked_again(tmp_path):
    with open_journal(tmp_path) as journal:
        expected = search_of(journal).suggest("1")
    with open_journal(tmp_path / "other") as journal:
        search_of(journal)
        journal.study.ask()  # and then the driver dies
        resumed = search_of(journal).suggest("1")
        assert resumed["trial_number"] == 0
        assert resumed["trial_config"] == expected["trial_config"]


def test_pruned_trials_keep_their_values_by_fidelity(tmp_path):
    with open_journal(tmp_path) as journal:
        search_of(journal).suggest("1")
        journal.add_rung(0, rung(0, 1.5))
        journal.add_rung(0, rung(1, 1.25, decision="pause"))
        journal.end(0, "PRUNED", "asha: rung 1")
        trial = journal.study.trials[0]
        assert trial.intermediate_values == {1: 1.5, 3: 1.25}  # GFLOPs and the rung's index
        assert trial.value == 1.25
        record = journal.record(0)
        assert (record.score, record.fidelity) == (1.25, 2e9)
        assert [r.losses for r in record.rungs] == [[[1.0, 2.0, 3.0]]] * 2


def test_rungs_that_one_update_passes_together_keep_their_values(tmp_path):
    with open_journal(tmp_path) as journal:
        search_of(journal).suggest("1")
        for k, value in enumerate([1.5, 1.25]):
            scored = rung(k, value)
            at_once = {**scored.metrics, "train_flops": 4e9}
            journal.add_rung(0, replace(scored, metrics=at_once))
        assert journal.study.trials[0].intermediate_values == {4: 1.5, 5: 1.25}


def test_an_end_that_is_told_late_is_as_old_as_the_rung_that_decided_it(tmp_path):
    began = time.time()
    with open_journal(tmp_path) as journal:
        assert journal.began is None
        search = search_of(journal, trials=2)
        for number, decision in enumerate(["done", "pause"]):
            search.suggest(str(number))
            scored = rung(0, 1.0, decision=decision)
            journal.add_rung(number, replace(scored, when=began - 3600))  # and then the driver dies
    with open_journal(tmp_path) as journal:
        journal.settle()
        journal.end(1, "PRUNED", "asha: rung 0")
        decided, pruned = journal.records()
        assert [r.when for r in decided.rungs] == [began - 3600]
        assert decided.ended == began - 3600
        assert began - 1 <= decided.began <= pruned.began <= pruned.ended <= time.time() + 1
        assert journal.began == decided.began


def test_a_journal_that_holds_no_times_of_rungs_is_gone_on_with(tmp_path):
    with open_journal(tmp_path) as journal:
        search_of(journal).suggest("1")
        old = asdict(rung(0, 1.0)) | {"metrics": rung(1, 1.5).metrics}
        del old["rung"], old["when"]
        journal._storage.set_trial_intermediate_value(journal._id(0), 2, 1.5)
        journal.set_trial_attr(0, "rung/1", old)
    with open_journal(tmp_path) as journal:
        assert [(r.rung, r.when) for r in journal.record(0).rungs] == [(1, None)]
        journal.add_rung(0, rung(2, 1.0, decision="done"))
        journal.settle()
        assert journal.record(0).state == "COMPLETE"
        assert journal.study.trials[0].intermediate_values == {2: 1.5, 5: 1.0}
        assert time.time() - journal.record(0).ended < 60


def test_the_last_checkpoint_is_one_of_a_finished_rung(tmp_path):
    there = checkpoint_in(tmp_path / "here")
    with open_journal(tmp_path) as journal:
        search_of(journal).suggest("1")
        assert last_checkpoint(journal.record(0)) is None
        journal.add_rung(0, rung(0, 1.0, checkpoint=there))
        journal.add_rung(0, rung(1, 1.0, checkpoint=there.parent, complete=0.0))
        assert last_checkpoint(journal.record(0)) == str(there)


def test_a_cut_checkpoint_is_no_checkpoint(tmp_path):
    first, second = checkpoint_in(tmp_path / "rung_0"), checkpoint_in(tmp_path / "rung_1")
    with open_journal(tmp_path) as journal:
        search_of(journal).suggest("1")
        journal.add_rung(0, rung(0, 1.0, checkpoint=first))
        journal.add_rung(0, rung(1, 0.9, checkpoint=second))
        assert last_checkpoint(journal.record(0)) == str(second)
        for kept in (200, 0):
            os.truncate(second / "state.pt", kept)
            assert last_checkpoint(journal.record(0)) == str(first)


def test_a_promoted_trial_whose_checkpoint_was_lost_may_be_paused_there_again(tmp_path):
    with open_journal(tmp_path) as journal:
        search_of(journal).suggest("1")
        for _ in range(2):
            journal.add_rung(0, rung(0, 1.0, decision="pause"))
            assert journal.record(0).paused
            journal.promote(0)
            assert not journal.record(0).paused


def test_a_study_is_held_by_one_process(tmp_path):
    code = (
        "import sys, pathlib; from tuner.journal import Journal\n"
        "try: Journal(pathlib.Path(sys.argv[1]), 'study')\n"
        "except ValueError as error: print(error)\n"
    )
    with open_journal(tmp_path):
        told = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
    assert "is running already" in told.stdout
    assert told.stdout.count("\n") == 1
    open_journal(tmp_path).close()  # free again


def test_a_storage_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write to"):
        Journal(tmp_path / "file", "study")


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(0, 400))
def test_a_torn_journal_opens_and_can_be_written_again(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    with open_journal(folder) as journal:
        search_of(journal).suggest("1")
        journal.add_rung(0, rung(0, 1.0))
        path = journal.folder / "journal.log"
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])  # power was lost in a write
    for _ in range(2):  # what is written after the repair can be read again
        with open_journal(folder) as journal:
            before = len(journal.records())
            search_of(journal, trials=before + 1).suggest("1")
            assert len(journal.records()) <= before + 1


def test_attrs_are_kept(tmp_path):
    with open_journal(tmp_path) as journal:
        assert journal.attr("mlflow") is None
        journal.set_attr("mlflow", {"experiment_id": "1"})
        search_of(journal).suggest("1")
        journal.set_trial_attr(0, "mlflow_run_id", "abc")
    with open_journal(tmp_path) as journal:
        assert journal.attr("mlflow") == {"experiment_id": "1"}
        assert journal.trial_attr(0, "mlflow_run_id") == "abc"
        assert journal.record(0).attrs["mlflow_run_id"] == "abc"


def test_a_searcher_pickles_without_its_journal(tmp_path):
    with open_journal(tmp_path) as journal:
        assert len(pickle.dumps(search_of(journal))) < 200


def test_a_record_is_made_again_where_its_trial_has_changed(tmp_path):
    with Journal(tmp_path, "study") as journal:
        for _ in range(2):
            journal.ask(space, Config())
        before = journal.records()
        journal.add_rung(1, rung(0, 1.0))
        after = journal.records()
        assert after[0] is before[0] is journal.record(0)
        assert (len(before[1].rungs), len(after[1].rungs)) == (0, 1)
