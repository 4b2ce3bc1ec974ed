"""The final round of one study: baselines, the best trials again, the test, and the champion."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import ray
import torch
from torch import Tensor

from trainables.evaluation import Scorer, Scores, make_scorer, nearest_class, null_baselines
from trainables.pipeline import StudyContext
from trainables.published import at_hand
from trainables.tasks import Part, Split
from tuner import forecast
from tuner.champion import Challenge, identity
from tuner.champion_folder import CHAMPION, save_champion
from tuner.contenders import Played
from tuner.finals import Finals
from tuner.forecast import Pace, own_stop
from tuner.plan import Plan
from tuner.registered_models import Models
from tuner.result import Gate
from tuner.setting import Setting
from tuner.standing import ranked_trials
from tuner.tracking_uri import resolve_uri
from tuner.trial_records import TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ended:
    """What the final round brought.

    Attributes:
        baselines: scores of what learns nothing, by name and part.
        played: what the finals brought.
        gate: whether the study's best becomes the champion; None without a best.
        rematch_seconds: that the best trials took to meet again.
    """

    baselines: dict[str, dict[str, Scores]]
    played: Played
    gate: Gate | None
    rematch_seconds: float


def challenge_of(setting: Setting) -> Challenge:
    """A study's challenge of its experiment's champion; nothing is asked yet."""
    request = setting.request
    uri = resolve_uri(request.tracking_uri, request.storage)
    return Challenge(partial(Models, uri), setting.title, own_identity(setting), setting.folder)


def own_identity(setting: Setting) -> dict[str, str]:
    """What a study's model must have in common with another to meet it."""
    pipeline, data = setting.experiment.pipeline, setting.data
    return identity(pipeline, data.fingerprint, setting.split, setting.images)


class FinalRound:
    """Runs it on the Ray that is there.

    Args:
        setting, plan: of the study.
        search: what its trials shared.
        last: what the test does; all classes but the test's are to train on.
        avoided: ids of nodes that may run nothing.
    """

    def __init__(
        self,
        setting: Setting,
        plan: Plan,
        search: StudyContext,
        last: StudyContext,
        *,
        avoided: frozenset[str] = frozenset(),
    ) -> None:
        self.setting, self.plan = setting, plan
        self._contexts: dict[Part, StudyContext] = {"validation": search, "test": last}
        self._rematch_seconds = 0.0
        torch.set_num_threads(plan.threads)  # as trials have it
        self._finals = Finals(
            pipeline=setting.experiment.pipeline,
            context=search,
            last_context=last,
            images=setting.images,
            full=plan.rungs[-1],
            seed=plan.seed,
            slots=plan.slots,
            cpus=plan.cpus_per_trial,
            gpus=plan.gpus_per_trial,
            threads=plan.threads,
            console=setting.console,
            avoided=avoided,
        )

    def run(self, records: Sequence[TrialRecord], *, ends: float) -> Ended:
        """All of it, over by `ends` as `time.monotonic` has it."""
        # First, so that the rest knows how much time there is.
        baselines = self._baselines()
        challenge = challenge_of(self.setting)
        played = self._play(records, ends=ends, gate=challenge.is_likely())
        if played.augmentation is not None:
            baselines["own_augmentation"] = {"test": played.augmentation}
        gate = None
        if played.champion is not None:
            gate = challenge.without_meeting() or challenge.meet(
                played.champion.scores, self._finals, self._test_scorer
            )
        return Ended(
            baselines=baselines, played=played, gate=gate, rematch_seconds=self._rematch_seconds
        )

    def meet_late(self, challenge: Challenge, samples: npt.NDArray[np.uint8]) -> Gate:
        """The champion plays against pictures of the study's best that were kept.

        Args:
            samples: of the test episodes, uint8 [E, n, C, S, S].
        """
        self.setting.say("Finals: the present champion meets the test classes")
        scorer = self._test_scorer
        return challenge.meet(scorer.score(samples), self._finals, scorer)

    def _play(self, records: Sequence[TrialRecord], *, ends: float, gate: bool) -> Played:
        """The best trials meet again; the winner, trained on all classes but the test's, meets
        these, and so do the paper's settings. `gate`: and so will a champion that is there."""
        setting, plan, finals = self.setting, self.plan, self._finals
        scorer = self._test_scorer
        ranked = ranked_trials(records, plan.rungs[-1])[: plan.finalists]
        if not ranked:
            return Played()
        reference = next((r for r in records if r.attrs.get("reference") and r.rungs), None)
        ends -= forecast.testing(
            ranked, reference, gate=gate, episodes=len(scorer.episodes), slots=finals.slots
        )
        slowest = max(ranked, key=lambda record: Pace.of(record).flop)
        last = [slowest, *([] if reference is None else [reference])]
        training = forecast.training(last, turns=1, full=finals.full, slots=finals.slots)
        began = time.monotonic()
        contenders = finals.rematch(
            ranked,
            self._scorer("validation", finals.fresh_context),
            seeds=plan.final_seeds,
            ends=ends - training - plan.source_seconds,
        )
        self._rematch_seconds = time.monotonic() - began
        winner = contenders[0].record if contenders else ranked[0]
        stop = contenders[0].adapt_steps if contenders else own_stop(winner)
        setting.say(f"Finals: trial {winner.number} meets the test classes")
        others = [r for r in (reference,) if r is not None and r is not winner]
        models = finals.last_models([winner, *others], again=plan.final_seeds + 1, ends=ends)
        champion = finals.test(winner, models[0], scorer, stop=stop)
        if models[0] is None:  # which was said
            return Played(contenders=contenders)
        if champion is None:
            setting.say(f"Finals: trial {winner.number} could not be tested, memory is too small")
            return Played(contenders=contenders)
        settings = {
            "pipeline": finals.pipeline,
            "config": dict(winner.config),
            "plugins": list(self._contexts["test"].plugins),
        }
        weights: dict[str, Tensor] = ray.get(models[0])
        kept = save_champion(
            setting.folder / CHAMPION,
            settings,
            weights,
            champion,
            data=setting.data.name,
            reals=scorer.reals,
        )
        tested = [(r, finals.test(r, models[1], scorer, stop=own_stop(r))) for r in others]
        return Played(
            contenders=contenders,
            champion=champion,
            kept=kept,
            reference=next(((r, done) for r, done in tested if done is not None), None),
            augmentation=finals.augmentation(winner, scorer),
        )

    def _baselines(self) -> dict[str, dict[str, Scores]]:
        """Scores of what learns nothing, by name and part."""
        scorers = {
            "validation": self._scorer("validation", self._contexts["validation"]),
            "test": self._test_scorer,
        }
        found: dict[str, dict[str, Scores]] = {}
        for part, context in self._contexts.items():
            base = Split.from_dict(context.split).train
            scores = null_baselines(scorers[part])
            scores["nearest_class"] = nearest_class(scorers[part], self.setting.images, base)
            for name, own in scores.items():
                found.setdefault(name, {})[part] = own
        return found

    @cached_property
    def _test_scorer(self) -> Scorer:
        return self._scorer("test", self._contexts["test"])

    def _scorer(self, part: Part, context: StudyContext) -> Scorer:
        return make_scorer(
            self.setting.images,
            Split.from_dict(context.split),
            at_hand(context.scorer),
            part=part,
            seed=context.episode_seed,
            workers=max(1, len(os.sched_getaffinity(0)) // self.plan.threads),
        )
