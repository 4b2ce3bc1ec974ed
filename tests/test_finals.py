"""The rematch of the best, and how long they may adapt, by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from toy_pipeline import toy_context

from trainables.pipeline import Diverged, StudyContext
from tuner import breakdown, final_tasks, finals, forecast
from tuner.breakdown import Breakdown
from tuner.contenders import Contender, affordable_stops, earliest_best, margin
from tuner.final_tasks import PIECES, first_over, got, sample, train_within, trained_again
from tuner.finals import Finals
from tuner.known_points import trial_seed
from tuner.trial_records import RungRecord, TrialRecord


def test_all_the_time_there_is_goes_to_longer_adaptation() -> None:
    # At .5 s a step 100 s are 200 steps, and three times the limit of 100 are 150 s.
    assert affordable_stops(10, 100, each=0.5, seconds=100) == [10, 50, 100, 200]
    assert affordable_stops(50, 100, each=0.5, seconds=100) == [50, 100, 200]
    assert affordable_stops(50, 100, each=0.5, seconds=1000) == [50, 75, 150, 300]
    assert affordable_stops(50, 400, each=0.5, seconds=40) == [50, 80]  # less than its limit
    assert affordable_stops(100, 100, each=0.5, seconds=0) == [100]


@given(own=st.integers(1, 500), each=st.floats(1e-6, 1), seconds=st.floats(-10, 1e4))
def test_the_own_stop_is_always_there_and_the_rest_fits(
    own: int, each: float, seconds: float
) -> None:
    first, *rest = affordable_stops(own, 500, each=each, seconds=seconds)
    assert first == own
    assert all(own < stop <= 1500 and stop * each <= seconds for stop in rest)


def test_of_stops_as_good_as_the_best_the_earliest_is_taken():
    assert earliest_best([100, 200, 300], [0.5, 0.44, 0.4]) == 200
    assert earliest_best([100, 200, 300], [0.5, 0.39, 0.46]) == 200
    assert earliest_best([100], [2.0]) == 100


# The rematch

EPISODES = 6
HARD = np.linspace(0, 2, EPISODES)  # of each episode, alike for all


UNDRAWABLE = 99.0


class Told:
    """Scores that a model's pictures spell out."""

    def __init__(self, loss: float) -> None:
        self.metrics = {"L": loss, "J": 0.5, "copy_share": 0.0}
        self.metrics |= dict.fromkeys(("recognisability", "coverage", "density"), 0.5)

    def contributions(self, name: str) -> Any:
        return self.metrics[name] + (HARD - HARD.mean() if name == "L" else 0 * HARD)


class Reader:
    """A scorer of pictures that are their own scores."""

    episodes = tuple(SimpleNamespace(class_index=n % 3) for n in range(EPISODES))

    def score(self, samples: Any) -> Told:
        return Told(float(samples))


class Rigged(Finals):
    """No Ray: a model is its loss, which depends on how often its trial was trained."""

    losses: ClassVar[dict[int, list[float | None]]]
    totals: ClassVar[list[int]]

    def _trained(self, trainings: Any, context: Any, what: str, seconds: float = 0.0) -> Any:
        return [self.losses[record.number][turn] for record, turn in trainings]

    def _draw(
        self, config: Any, model: Any, context: Any, total: int, stops: Any, what: str
    ) -> Any:
        assert context.episode_seed != self.context.episode_seed
        self.totals.append(total)
        return None if model == UNDRAWABLE else [np.array(model) for _ in stops]


def record(number: int, loss: float) -> TrialRecord:
    metrics = {"L": loss, "complete": 1.0, "train_flops": 9e9, "adapt_steps": 5.0}
    # 1 s an episode and a step, .5 s for drawing and scoring an episode.
    metrics |= {"train_seconds": 100.0, "updates": 100.0}
    metrics |= {"score_seconds": 50.0, "score_steps": 100.0}
    rung = RungRecord(
        rung=0, metrics=metrics, losses=(), checkpoint="", seconds=1.0, decision="done", episodes=()
    )
    return TrialRecord(
        number=number, label="", state="COMPLETE", reason="", params={}, config={}, rungs=(rung,),
        attrs={},
    )  # fmt: skip


def rigged() -> Rigged:
    context = StudyContext(**toy_context())
    return Rigged(
        pipeline="toy", context=context, last_context=context, images=None, full=9e9,
        seed=0, slots=1, cpus=1, gpus=0, threads=1, console=Console(),
    )  # fmt: skip


def rematch(
    losses: dict[int, list[float | None]], seeds: int = 1, seconds: float = math.inf
) -> list[Contender]:
    """Contenders of trials whose loss in the search comes first, then those of fresh seeds."""

    Rigged.losses, Rigged.totals = losses, []
    records = [record(number, own[0]) for number, own in losses.items()]
    records.sort(key=lambda r: r.score)
    return rigged().rematch(records, Reader(), seeds=seeds, ends=time.monotonic() + seconds)


def test_a_lucky_seed_loses():
    """Trial 0 was the best of the search by its seed alone."""
    first, second = rematch({0: [0.1, 1.0], 1: [0.5, 0.6]})
    assert (first.record.number, second.record.number) == (1, 0)
    assert margin([first, second]) == pytest.approx((0.4, 0.4))  # episodes are paired


def test_the_mean_over_seeds_decides():
    first, _ = rematch({0: [0.1, 0.2, 1.0], 1: [0.5, 0.4, 0.6]}, seeds=2)
    assert first.record.number == 1
    assert first.metrics["L"] == pytest.approx(0.5)
    low, high = first.intervals()["L"]
    assert low < 0.5 < high


def test_a_trial_that_a_seed_cannot_train_is_out():
    assert [c.record.number for c in rematch({0: [0.1, None], 1: [0.5, 0.6]})] == [1]
    assert rematch({0: [0.1, None]}) == []
    assert margin(rematch({0: [0.1, 0.2]})) is None


def test_a_model_that_cannot_be_drawn_is_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert [c.record.number for c in rematch({0: [0.1, UNDRAWABLE], 1: [0.5, 0.6]})] == [1]
    assert "trial 0 is out" in capsys.readouterr().out


def test_short_time_takes_episodes_first_and_then_the_rematch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two finalists at 5 s of adaptation and .5 s of scoring an episode: 6 episodes take 66 s."""
    both: dict[int, list[float | None]] = {0: [0.1, 0.2], 1: [0.5, 0.6]}
    assert len(rematch(both, seconds=70)) == 2
    assert Rigged.totals == [6, 6]
    assert capsys.readouterr().out == "Finals: trial 0 and 1 trained again\n"
    assert rematch(both, seconds=60) == []
    assert Rigged.totals == []
    assert "no time is left for a rematch" in capsys.readouterr().out


def test_fewer_episodes_are_of_all_classes_alike() -> None:
    counts = [forecast.affordable_episodes(18, 3, float, left) for left in (18, 17, 9, 6, 5)]
    assert counts == [18, 15, 9, 6, 0]
    assert [forecast.affordable_episodes(20, 20, float, left) for left in (20, 13, 4)] == [
        20,
        13,
        0,
    ]
    assert forecast.affordable_episodes(3, 1, float, 3) == 3


# Forecasts


def with_rungs(*metrics: dict[str, float], **config: float) -> TrialRecord:
    rungs = tuple(
        RungRecord(rung=n, metrics=m, losses=(), checkpoint="", seconds=1.0, decision="done",
                   episodes=())
        for n, m in enumerate(metrics)
    )  # fmt: skip
    return TrialRecord(
        number=0, label="", state="COMPLETE", reason="", params={}, config=config, rungs=rungs,
        attrs={},
    )  # fmt: skip


def test_a_pace_is_the_last_rungs_without_what_happens_once_a_process() -> None:
    """10 s of opening a scorer are in both of the first rung's times; then 2 s a step."""
    first = {"train_seconds": 30.0, "updates": 10.0, "score_seconds": 13.0, "score_steps": 6.0}
    last = {"train_seconds": 70.0, "updates": 30.0, "score_seconds": 16.0, "score_steps": 12.0}
    assert forecast.Pace.of(with_rungs(first, last)) == forecast.Pace(flop=0, step=2, score=0.5)
    assert forecast.Pace.of(with_rungs(first)).step == 3
    assert forecast.Pace.of(with_rungs(first, first)).step == 3  # the clock cut it at once


def test_what_comes_after_the_rematch_by_hand() -> None:
    """Meta-training at 1e-9 s a FLOP, adaptation at .1 s a step: 5 episodes of 20 steps take 10 s
    on one slot, for the champion, for the one before it and for the paper's settings, and 5 s of
    the paper's scores each."""
    metrics = {"train_seconds": 9.0, "train_flops": 9e9, "score_seconds": 10.0}
    metrics |= {"score_steps": 100.0, "adapt_steps": 20.0}
    record = with_rungs(metrics, adapt_steps=40.0)
    assert forecast.testing([record], record, gate=True, episodes=5, slots=1) == 3 * 15
    assert forecast.testing([record], None, gate=False, episodes=5, slots=1) == 15
    assert forecast.training([record] * 3, turns=2, full=9e9, slots=4) == pytest.approx(18)


# In Ray's processes


def test_a_training_is_cut_by_the_clock_between_its_pieces() -> None:
    done: list[float] = []
    assert train_within(done.append, 40.0, math.inf) == 1
    assert done == [40 * (n + 1) / PIECES for n in range(PIECES)]

    def slow(flops: float) -> None:
        time.sleep(0.02)

    assert train_within(slow, 40.0, 0.03) < 1


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried"), Diverged("nan")]
)
def test_what_does_not_fit_gives_no_model_and_no_pictures(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_more: Any) -> None:
        raise error

    broken = SimpleNamespace(sample=fail)
    monkeypatch.setattr(final_tasks, "load_pipeline", lambda _name: fail)
    trial = {"pipeline": "toy", "config": {}}
    assert trained_again._function(trial, toy_context(), 0, 1.0, 1.0, 1) == (None, 0.0)
    monkeypatch.setattr(final_tasks, "load_pipeline", lambda _name: broken)
    assert sample._function(trial, {}, toy_context(), "test", range(1), [1], 1) is None


def test_a_dead_process_gives_nothing_and_a_dead_ray_ends_the_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def died(_reference: Any) -> None:
        raise final_tasks.ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(final_tasks.ray, "get", died)
    monkeypatch.setattr(final_tasks.ray, "wait", lambda tasks, **_: (tasks[:1], tasks[1:]))
    monkeypatch.setattr(breakdown, "dead_processes", list)
    assert got(None) is None
    monkeypatch.setattr(breakdown, "dead_processes", lambda: ["raylet"])
    with pytest.raises(Breakdown, match="raylet"):
        got(None)


def test_what_a_dead_ray_will_never_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its control store tasks are neither over nor lost."""
    dead: list[list[str]] = [[], ["gcs_server"]]
    monkeypatch.setattr(final_tasks.ray, "wait", lambda tasks, **_: ([], tasks))
    monkeypatch.setattr(breakdown, "dead_processes", lambda: dead.pop(0))
    with pytest.raises(Breakdown, match="gcs_server"):
        first_over([None])
    assert not dead


class Remote:
    """A task whose process dies as often as is told; `ray` answers for it."""

    def __init__(self, deaths: dict[Any, int], answer: Any) -> None:
        self.deaths, self.answer = deaths, answer
        self.begun: list[Any] = []

    def options(self, **_options: Any) -> Remote:
        return self

    def remote(self, *given: Any) -> Any:
        key = next(part for part in given if isinstance(part, int | range))
        self.begun.append(key)
        dies = self.begun.count(key) <= self.deaths.get(key, 0)

        def task() -> Any:
            if dies:
                raise final_tasks.ray.exceptions.WorkerCrashedError
            return self.answer(*given)

        return (f"model {len(self.begun)}", task) if isinstance(key, int) else task


class Reading:
    """A task that reads a checkpoint."""

    def __init__(self, read: Callable[[str], tuple[Any, str]]) -> None:
        self.read = read

    def options(self, **_options: Any) -> Reading:
        return self

    def remote(self, folder: str) -> tuple[Any, Callable[[], str]]:
        model, wrong = self.read(folder)
        return model, lambda: wrong


def run_by(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Rigged:
    monkeypatch.setattr(final_tasks.ray, "get", lambda task: task())
    monkeypatch.setattr(final_tasks.ray, "wait", lambda tasks, **_: (tasks[-1:], tasks[:-1]))
    monkeypatch.setattr(breakdown, "dead_processes", list)
    monkeypatch.setattr(finals, "trained_again", remote)
    monkeypatch.setattr(finals, "sample", remote)
    return rigged()


def test_a_training_whose_process_dies_is_made_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [trial_seed(0, number, 1) for number in range(4)]
    remote = Remote({seeds[1]: 1, seeds[2]: 2}, lambda _t, _c, seed, *_: float(seed != seeds[3]))
    last = run_by(remote, monkeypatch)
    trainings = [(record(number, 0.5), 1) for number in range(4)]
    models = Finals._trained(last, trainings, last.context, "once more")
    assert models == ["model 1", "model 5", None, None]
    assert remote.begun == [*seeds, seeds[1], seeds[2]]  # what cannot be trained is not tried again


def test_pictures_whose_process_dies_are_drawn_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(_trial: Any, _model: Any, _context: Any, _part: str, episodes: range, *_: Any) -> Any:
        return np.array([list(episodes)])

    chunks = [range(5), range(5, 10), range(10, 12)]
    remote = Remote({chunks[0]: 1}, draw)
    last = run_by(remote, monkeypatch)
    drawn = Finals._draw(last, {}, "model", last.context, 12, [1], "testing")
    assert drawn is not None
    assert drawn.tolist() == [list(range(12))]
    assert remote.begun == [*chunks, chunks[0]]
    remote = Remote({chunks[1]: 2}, draw)
    last = run_by(remote, monkeypatch)
    assert Finals._draw(last, {}, "model", last.context, 12, [1], "testing") is None


def test_a_champion_that_cannot_be_trained_is_its_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = run_by(Remote({}, None), monkeypatch)
    monkeypatch.setattr(finals, "kept_model", Reading(lambda folder: (f"kept {folder}", "")))
    Rigged.losses = {0: [0.1, None], 1: [0.5, 0.6]}
    made = last.last_models([record(0, 0.1), record(1, 0.5)], again=1, ends=math.inf)
    assert made == ["kept ", 0.6]


def test_a_checkpoint_whose_weights_are_damaged_is_said_and_not_tested(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A truncated file, and none."""

    safetensors.torch.save_file({"net": torch.ones(9)}, tmp_path / "weights.safetensors")
    whole = (tmp_path / "weights.safetensors").read_bytes()
    last = run_by(Remote({}, None), monkeypatch)
    monkeypatch.setattr(finals, "kept_model", Reading(final_tasks.kept_model._function))
    Rigged.losses = {0: [0.1, None]}
    for content in (whole[:-9], b""):
        (tmp_path / "weights.safetensors").write_bytes(content)
        cut = record(0, 0.1)
        cut = replace(cut, rungs=(replace(cut.rungs[0], checkpoint=str(tmp_path)),))
        (model,) = last.last_models([cut], again=1, ends=math.inf)
        assert model is None
        assert last.test(cut, model, Reader(), stop=1) is None
        told = capsys.readouterr().out
        assert f"its weights in {tmp_path} cannot be used (" in told
        assert told.endswith("search on with --resume and more --budget\n")
