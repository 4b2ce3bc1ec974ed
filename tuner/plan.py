"""Hardware and a budget become a plan: trials, rungs, what runs side by side. Pure."""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import lru_cache
from typing import Any, Self

from cluster.resources import Card, Node, counted
from trainables.errors import UserError
from trainables.pipeline import EPISODES_AT_ONCE
from tuner.experiments import Scale
from tuner.objectives import OBJECTIVES
from tuner.rungs import Rungs

ETA = 3
RUNGS = 3  # a full trial trains 9 times as long as one that is stopped at once
FEWEST_TRIALS = 12
MOST_TRIALS = 10_000
FEWEST_EPISODES = 5
FEW_CLASSES = 5
MANY_SLOTS = 6  # from here on three finalists are trained side by side, twice each
DEFAULT_BUDGET_SECONDS: dict[Scale, float] = {"cpu": 600.0, "paper": 86_400.0}
START_SECONDS = 30.0  # Ray, the actors and their imports
FINISH_SECONDS = 150.0  # the champion adapts to all validation and test classes, and longer
# Of a pre-trained model, whose adaptation is counted as its training: baselines and writing.
FINISH_PRETRAINED_SECONDS = 60.0
# Large classes are scored picture by picture: CPU time of baselines, finals and tests, shared by
# as many threads as there are slots.
LARGE_SCORING_SECONDS = 190.0
SHORTEST_SEARCH = 0.5  # of the budget, where it is too short for start and finish
TOLERANCE = 1.1  # times its budget that a study may take
SCORING_TIME: dict[Scale, float] = {"cpu": 0.25, "paper": 0.1}  # share of a trial's time
# That is about half as much of its compute: few shots at a time make small, slow matrix products,
# and what is drawn has to be embedded.
SCORING_COMPUTE: dict[Scale, float] = {"cpu": 0.12, "paper": 0.05}
MARGIN = 0.95  # of the search time is planned; a machine slower than measured uses the rest
SEARCHES = 8  # simulated, of at most so many trials:
SIMULATED_TRIALS = 60
SOURCES = 2  # pre-trained, one a slot: the space's and the reference's
RETRAININGS = 2  # of the winner and of the reference, on all classes but the test's
NOISE = 0.2  # of an episode's score, in units of how far trials are apart at most

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one study will do, as the journal and the result keep it.

    Attributes:
        scale: which sizes of nets are searched.
        budget_seconds: wall time of the study, from Ray's start to the end of the test.
        search_seconds: the part of it in which trials run.
        trials: that the time is planned for.
        most_trials: how many there may be; more than `trials` only while time is left.
        rungs: cumulative training FLOPs at which trials are scored and compared.
        episodes: scoring episodes at each rung.
        eta: each rung has `eta` times the training of the one before.
        slots: trials side by side.
        cpus_per_trial, gpus_per_trial, threads: what each gets.
        device: torch device of the trials.
        seed: of the sampler, the trials and the split.
        sampler: which of `SAMPLERS` says what new trials are like.
        objectives: what it searches on; ASHA and the choice of the champion go by L, the first.
        samples: generated pictures an episode.
        flops_per_second: measured training speed of one trial among `slots`.
        finalists: best trials that meet again after the search.
        final_seeds: fresh trainings of each of them.
        source_seconds: of pre-training in the search, and as much again in the finals; 0 if every
            trial trains its model from nothing.
        rest_seconds: what start, later pre-training and finals need beside the search.
        card: what a GPU holds and trials need of it; None where that was not measured.
        fast_gpu: whether GPUs compute in TF32 and bfloat16, and replay captured steps.
    """

    scale: Scale
    budget_seconds: float
    search_seconds: float
    trials: int
    most_trials: int
    rungs: tuple[float, ...]
    episodes: tuple[int, ...]
    eta: int
    slots: int
    cpus_per_trial: float
    gpus_per_trial: float
    threads: int
    device: str
    seed: int
    samples: int
    flops_per_second: float
    finalists: int
    final_seeds: int
    sampler: str = "tpe"  # as studies had it before there was a choice
    objectives: tuple[str, ...] = ("L",)
    source_seconds: float = 0.0  # of older studies nothing is known, nor of the next
    rest_seconds: float = 0.0
    card: Card | None = None
    fast_gpu: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def with_budget(self, budget_seconds: float) -> Self:
        """The same rungs within another budget: what is not search takes as long as before."""
        rest = self.rest_seconds or self.budget_seconds - self.search_seconds
        search = max(SHORTEST_SEARCH * budget_seconds, budget_seconds - rest)
        return replace(self, budget_seconds=budget_seconds, search_seconds=search)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a plan from plain data."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        if (card := data.get("card")) is not None:
            fields["card"] = Card(**card)
        return cls(**fields)


def parse_budget(text: str, option: str = "--budget") -> float:
    """Seconds of "90", "90s", "10m", "1h30m" or "2d".

    Raises:
        UserError: it is none of these, or not positive.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if not parts or "".join(n + u for n, u in parts) != text or seconds <= 0:
        raise UserError(
            f"{option} must be a positive time such as 90s, 10m or 1h30m, got {text!r}."
        )
    return seconds


def episode_counts(available: int, classes: int) -> tuple[int, ...]:
    """Scoring episodes at each rung. Each means an adaptation, so there are no more of them than
    make scoring a quarter of a trial's time; the finals have all. Where classes are few, all have
    equally many, and fewer: many pictures of each episode are scored, and after too few steps of
    adaptation the wrong trials are the best."""
    if classes > FEW_CLASSES:
        wanted = [max(FEWEST_EPISODES, round(available * share)) for share in (0.25, 0.4, 0.6)]
    else:
        least = math.ceil(3 / classes)
        turns = (max(least, round(available * share / classes)) for share in (1 / 6, 1 / 3, 1 / 3))
        wanted = [classes * turn for turn in turns]
    return tuple(min(available, count) for count in wanted)


def make_plan(
    *,
    scale: Scale,
    budget_seconds: float,
    trials: int | None,
    validation_episodes: int,
    validation_classes: int,
    test_episodes: int,
    large_classes: bool,
    slots: int,
    threads: int,
    cpus_per_trial: float,
    gpus_per_trial: float,
    device: str,
    seed: int,
    samples: int,
    flops_per_second: float,
    source_seconds: float = 0.0,
    sampler: str = "tpe",
    objectives: tuple[str, ...] = ("L",),
    card: Card | None = None,
    fast_gpu: bool = False,
) -> Plan:
    """Spend a budget: more of it buys longer trials as well as more of them.

    Args:
        trials: how many, or None for the plan's choice.
        validation_episodes: that trials can be scored on.
        validation_classes: that these are of.
        test_episodes: that the champion and the reference are tested on.
        large_classes: whether every episode is compared with hundreds of pictures.
        flops_per_second: training speed of one trial while all slots train.
        source_seconds: of a pre-training, which happens in the search and again in the finals, for
            the reference, too; 0 if every trial trains its model from nothing.
        sampler, objectives, card, fast_gpu: as in `Plan`.
    """
    source_seconds *= math.ceil(SOURCES / slots)
    finish = FINISH_PRETRAINED_SECONDS if source_seconds > 0 else FINISH_SECONDS
    once = START_SECONDS + finish + 2 * source_seconds
    once += LARGE_SCORING_SECONDS / slots if large_classes else 0.0
    relative = (budget_seconds - once) * slots / (2 * DEFAULT_BUDGET_SECONDS["cpu"])
    count = trials or max(FEWEST_TRIALS, round(FEWEST_TRIALS * max(0.0, relative) ** 0.5))
    # Of the search time, a full trial's training:
    share = MARGIN * (1 - SCORING_TIME[scale]) / makespan(count, slots)
    left = max(SHORTEST_SEARCH * budget_seconds, budget_seconds - once)
    finalists, seeds = final_field(count, slots, pretrained=source_seconds > 0)
    episodes = episode_counts(validation_episodes, validation_classes)
    rounds: float = math.ceil(finalists * seeds / slots) + math.ceil(RETRAININGS / slots)
    if source_seconds > 0:
        episodes = episodes[1:2] * RUNGS  # one fine-tuning is scored at all rungs
        # A pre-trained model is fine-tuned anew to every episode: its training in the finals.
        drawn = finalists * in_a_row(validation_episodes, slots)
        rounds = (drawn + RETRAININGS * in_a_row(test_episodes, slots)) / episodes[0]
    fine = left / (1 + rounds * share)
    full = share * fine
    return Plan(
        scale=scale,
        budget_seconds=budget_seconds,
        search_seconds=fine + source_seconds,
        trials=count,
        most_trials=trials or MOST_TRIALS,
        rungs=tuple(full * flops_per_second / ETA**step for step in reversed(range(RUNGS))),
        episodes=episodes,
        eta=ETA,
        slots=min(slots, count),
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        threads=threads,
        device=device,
        seed=seed,
        samples=samples,
        flops_per_second=flops_per_second,
        finalists=finalists,
        final_seeds=seeds,
        sampler=sampler,
        objectives=objectives,
        source_seconds=source_seconds,
        rest_seconds=once - source_seconds + rounds * full,
        card=card,
        fast_gpu=fast_gpu,
    )


def in_a_row(episodes: int, slots: int) -> int:
    """How many of `episodes` one slot adapts to, if all slots share them."""
    turns = math.ceil(math.ceil(episodes / EPISODES_AT_ONCE) / slots)
    return min(episodes, turns * EPISODES_AT_ONCE)


def final_field(trials: int, slots: int, *, pretrained: bool) -> tuple[int, int]:
    """Finalists, and fresh trainings of each: as many as the slots train in one go, at least 2
    and at most 3 finalists of 1 to 3 trainings. Where trials share one pre-trained model, a fresh
    fine-tuning comes with every fresh episode, and one a finalist is enough."""
    finalists = min(trials, 2 if slots < MANY_SLOTS else 3)
    return finalists, 1 if pretrained else min(3, max(1, slots // finalists))


def describe(plan: Plan, nodes: Sequence[Node], *, grows: bool = False) -> list[str]:
    """The plan for people, a line each."""
    rungs = ", ".join(f"{rung / plan.flops_per_second:.0f} s" for rung in plan.rungs)
    rate = plan.flops_per_second / 1e9
    more = " or more" if plan.most_trials > plan.trials else ""
    searched = ", ".join(f"{name} ({OBJECTIVES[name]}d)" for name in plan.objectives)
    most = "asked for" if too_short(plan) else "about"
    several = [f"Search     for what nothing beats in all of {searched}; ASHA goes by L"]
    return [
        f"Hardware   {hardware(nodes)}: {counted(plan.slots, 'trial')} side by side, each with "
        f"{counted(plan.cpus_per_trial, 'CPU')}, {counted(plan.gpus_per_trial, 'GPU')} and "
        f"{counted(plan.threads, 'thread')}"
        + ("; more nodes are asked for while trials wait" if grows else ""),
        *_gpus(plan),
        f"Plan       {plan.trials} trials{more} at {plan.scale} scale by {plan.sampler}, seed "
        f"{plan.seed}; each trains about {rungs} (its {len(plan.rungs)} rungs, of the same "
        f"compute for all, at {rate:.0f} GFLOP/s), scored on "
        f"{', '.join(map(str, plan.episodes))} episodes; ASHA pauses those far behind",
        f"Time       {most} {clock(plan.budget_seconds)} once all is prepared: "
        f"{clock(plan.search_seconds)} of search, "
        f"then the best {plan.finalists} meet again, trained with other seeds, and the winner is "
        "tested on classes nobody has seen",
        *(several if len(plan.objectives) > 1 else []),
    ]


def hardware(nodes: Sequence[Node]) -> str:
    """What there is, for people; of one machine nobody needs the count."""
    count = f"{len(nodes)} nodes, " if len(nodes) > 1 else ""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{count}{counted(cpus, 'CPU')}, {counted(gpus, 'GPU')}"


def _gpus(plan: Plan) -> list[str]:
    """What is computed on GPUs and how; nothing where there are none."""
    if not plan.gpus_per_trial:
        return []
    how = "TF32, bfloat16 and captured steps" if plan.fast_gpu else "float32, step by step"
    if plan.card is None:
        return [f"GPUs       {how}"]
    total, overhead, peak = (size / 2**30 for size in astuple(plan.card))
    return [
        f"GPUs       {math.floor(1 / plan.gpus_per_trial)} trials a card: of its {total:.1f} GiB "
        f"the largest nets took {peak:.1f} and their process {overhead:.1f} more when they were "
        f"tried; {how}"
    ]


def too_short(plan: Plan) -> list[str]:
    """A warning where the search takes a share of the budget that start and finish need."""
    needed = plan.search_seconds + plan.rest_seconds
    if needed <= TOLERANCE * plan.budget_seconds:
        return []
    enough = math.ceil((2 * needed - plan.budget_seconds) / 60)
    return [
        "WARNING    the budget is shorter than what start and finish need beside a search: this "
        f"may take {clock(needed)}, and {enough} minutes are enough for this study"
    ]


def clock(seconds: float) -> str:
    """Such as 9:05 or 1:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@lru_cache(maxsize=64)
def makespan(trials: int, slots: int) -> float:
    """Training wall time of a search, in full trials: the mean over simulated searches.

    The scheduler's own rule decides on scores that are uniform among trials, and noisy; the first
    trial is the reference, which runs to the end. Beyond `SIMULATED_TRIALS` time grows with them,
    and more slots than that are as fast with a share of the trials as that many with theirs.
    """
    if slots > SIMULATED_TRIALS:
        trials, slots = max(1, round(trials * SIMULATED_TRIALS / slots)), SIMULATED_TRIALS
    fewer = min(trials, SIMULATED_TRIALS)
    lengths = [_simulate(fewer, slots, seed) for seed in range(SEARCHES)]
    return statistics.fmean(lengths) * trials / fewer


def _simulate(trials: int, slots: int, seed: int) -> float:
    rng = random.Random(seed)
    quality = [rng.random() for _ in range(trials)]
    rungs = Rungs(RUNGS, planned=trials)
    reached = [-1] * trials
    running: list[tuple[float, int]] = []  # (time of its next rung, trial)
    begun, now = 0, 0.0

    def free() -> int | None:
        nonlocal begun
        promoted = rungs.promotable(no_more=begun == trials and not running)
        if promoted is not None:
            rungs.promote(promoted)
        elif begun < trials:
            begun += 1
            return begun - 1
        return promoted

    while True:
        while len(running) < slots and (trial := free()) is not None:
            running.append((now + _length(reached[trial] + 1), trial))
        if not running:
            return now
        running.sort()
        now, trial = running.pop(0)
        reached[trial] += 1
        rung = reached[trial]
        scores = [rng.gauss(quality[trial], NOISE) for _ in range(FEWEST_EPISODES)]
        if rung == RUNGS - 1:
            rungs.restore(rung, trial, scores, paused=False)
        elif rungs.record(rung, trial, scores, reference=trial == 0):
            running.append((now + _length(rung + 1), trial))


def _length(rung: int) -> float:
    """Training from the rung before to this one, in full trials."""
    reached = ETA ** (rung - RUNGS + 1)
    return float(reached - (ETA ** (rung - RUNGS) if rung else 0.0))
