"""The end of a study: the best trials meet again, and the winner meets the test classes, once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from cluster.nodes import elsewhere
from trainables.evaluation import Scorer, Scores, augmented_shots
from trainables.grid import sample_grid
from trainables.image_set import ImageSet
from trainables.pipeline import EPISODES_AT_ONCE, StudyContext, load_pipeline
from trainables.tasks import Part
from tuner import forecast
from tuner.contenders import Contender, Tested, affordable_stops, earliest_best
from tuner.final_tasks import Model, first_over, got, kept_model, sample, trained_again
from tuner.forecast import Pace, affordable_episodes, own_stop
from tuner.journal import GPUS
from tuner.known_points import trial_seed
from tuner.trial_records import TrialRecord

FRESH = 1  # seed of the rematch's episodes; the search's have 0
OVERRUN = 1.3  # times its forecast that a training may take


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finals:
    """Runs last models on all slots of the study's Ray.

    Attributes:
        pipeline: of the experiment.
        context: of the search.
        last_context: of the test; its split's training classes are all but the test classes.
        images: what the shots are rows of.
        full: FLOPs of the last rung, as far as every model is trained.
        seed: of the study.
        slots: models side by side.
        cpus, gpus, threads: of one slot.
        console: where progress goes.
        avoided: ids of nodes that may run nothing.
    """

    pipeline: str
    context: StudyContext
    last_context: StudyContext
    images: ImageSet
    full: float
    seed: int
    slots: int
    cpus: float
    gpus: float
    threads: int
    console: Console
    avoided: frozenset[str] = frozenset()

    @property
    def fresh_context(self) -> StudyContext:
        """The search's, with episodes that no trial was chosen by."""
        return replace(self.context, episode_seed=FRESH)

    def rematch(
        self, records: Sequence[TrialRecord], scorer: Scorer, *, seeds: int, ends: float
    ) -> list[Contender]:
        """Train the best trials again and score them on fresh episodes -> the best by L first.

        What made a trial the best of many is in part luck: of its seed, and of the episodes that
        it was chosen by. Neither helps it here. There are fewer episodes, or there is no rematch,
        where there is no time.

        Args:
            records: trials with at least one scored rung.
            scorer: of the validation part, seeded with `FRESH`.
            seeds: trainings of each; a trial that one of them cannot train is out.
            ends: when it should be over, by `time.monotonic`.
        """
        training = forecast.training(records, turns=seeds, full=self.full, slots=self.slots)
        models: list[Model | None] = []
        if self._affordable(records, scorer, seeds=seeds, left=ends - time.monotonic() - training):
            numbers = " and ".join(str(record.number) for record in records)
            self._say(f"Finals: trial {numbers} trained again")
            models = self._trained(
                [(record, turn) for record in records for turn in range(1, seeds + 1)],
                self.fresh_context,
                "the best trials again, with other seeds",
            )
        left = ends - time.monotonic()
        total = self._affordable(records, scorer, seeds=seeds, left=left) if models else 0
        if not total:
            self._say("Finals: no time is left for a rematch, so the search alone decides")
            return []
        if total < len(scorer.episodes):
            self._say(f"Finals: time is left for {total} of {len(scorer.episodes)} fresh episodes")
        contenders = []
        for index, record in enumerate(records):
            own = [m for m in models[index * seeds : (index + 1) * seeds] if m is not None]
            one = None
            if len(own) == seeds:
                share = left / (len(models) + 1)  # the test adapts one model more
                one = self._contend(record, own, scorer, total, seconds=share)
            if one is None:
                self._say(f"Finals: trial {record.number} is out, it cannot be trained again")
            else:
                contenders.append(one)
        return sorted(contenders, key=lambda contender: contender.metrics["L"])

    def _affordable(
        self, records: Sequence[TrialRecord], scorer: Scorer, *, seeds: int, left: float
    ) -> int:
        """How many of the scorer's episodes all of the trials can meet in `left` seconds."""
        paces = [(Pace.of(record), own_stop(record)) for record in records]
        return affordable_episodes(
            len(scorer.episodes),
            len({episode.class_index for episode in scorer.episodes}),
            lambda n: seeds * sum(pace.episodes(n, stop, self.slots) for pace, stop in paces),
            left,
        )

    def _contend(
        self,
        record: TrialRecord,
        models: Sequence[Model],
        scorer: Scorer,
        total: int,
        *,
        seconds: float,
    ) -> Contender | None:
        """Score all seeds' models after as many steps as are best for them together: those that
        the trial was best at, or more, which scoring every trial with would have cost too much."""
        stops = self._stops(record, total, seconds)
        what = f"the finals: trial {record.number} adapts"
        scored = []
        for model in models:
            drawn = self._draw(record.config, model, self.fresh_context, total, stops, what)
            if drawn is None:
                return None
            scored.append([scorer.score(samples) for samples in drawn])
        by_stop = list(zip(*scored, strict=True))
        losses = [float(np.mean([s.metrics["L"] for s in seeds])) for seeds in by_stop]
        best = stops.index(earliest_best(stops, losses))
        return Contender(record=record, adapt_steps=stops[best], scores=by_stop[best])

    def _stops(self, record: TrialRecord, episodes: int, seconds: float) -> list[int]:
        own = own_stop(record)
        if "adapt_steps" not in record.config:  # its rungs have tried every stop there is time for
            return [own]
        each = Pace.of(record).episodes(episodes, 1, self.slots)
        return affordable_stops(own, int(record.config["adapt_steps"]), each=each, seconds=seconds)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def last_models(
        self, records: Sequence[TrialRecord], *, again: int, ends: float
    ) -> list[Model | None]:
        """Models trained on all classes but the test's, side by side; where that fails, those of
        the trials' last checkpoints, and None where these are damaged, too, which is said.

        Args:
            records: trials with at least one scored rung.
            again: number of this training; no earlier one of a trial may have had it.
            ends: when it should be over, by `time.monotonic`; a training is cut that has taken
                well over its forecast, and longer than this.
        """
        models = self._trained(
            [(record, again) for record in records],
            self.last_context,
            "on the validation classes, too",
            seconds=ends - time.monotonic() if len(records) <= self.slots else 0.0,
        )
        return [
            self._kept(record) if model is None else model
            for record, model in zip(records, models, strict=True)
        ]

    def _kept(self, record: TrialRecord) -> Model | None:
        checkpoint = record.rungs[-1].checkpoint
        asked: Any = kept_model.options(label_selector=self._where()).remote(checkpoint)
        model: Model = asked[0]
        why: str | None = got(asked[1])
        if why == "":
            return model
        self._say(
            f"Finals: trial {record.number} could not be trained again, and its weights in "
            f"{checkpoint} cannot be used ({why or 'the process that read them died'}): search on "
            "with --resume and more --budget"
        )
        return None

    def _trained(
        self,
        trainings: Sequence[tuple[TrialRecord, int]],
        context: StudyContext,
        what: str,
        *,
        seconds: float = 0.0,
    ) -> list[Model | None]:
        """Models of (trial, number of the training); None where a seed cannot be trained, or its
        process died twice. One is cut that has taken `seconds`, and well over its forecast."""

        def begin(record: TrialRecord, turn: int) -> Any:
            """References to a model, and to how far it was trained."""
            return trained_again.options(
                num_cpus=self.cpus,
                num_gpus=max(self.gpus, record.attrs.get(GPUS, 0.0)),
                num_returns=2,
                max_retries=0,
                label_selector=self._where(),
            ).remote(
                self._trial(record.config),
                asdict(context),
                trial_seed(self.seed, record.number, turn),
                self.full,
                max(seconds, OVERRUN * self.full * Pace.of(record).flop) or math.inf,
                self.threads,
            )

        tasks = [begin(*training) for training in trainings]
        with self.console.status(f"training {what}"):
            reached = [got(share) for _, share in tasks]
            died = [index for index, share in enumerate(reached) if share is None]
            tasks = [begin(*trainings[n]) if n in died else task for n, task in enumerate(tasks)]
            shares = [got(share) or 0.0 for _, share in tasks]
        for (record, _), share in zip(trainings, shares, strict=True):
            if 0 < share < 1:
                self._say(
                    f"Finals: time was left for {share:.0%} of trial {record.number}'s training"
                )
        return [model if share else None for (model, _), share in zip(tasks, shares, strict=True)]

    def test(
        self, record: TrialRecord, model: Model | None, scorer: Scorer, *, stop: int
    ) -> Tested | None:
        """Adapt a model to every test episode for `stop` steps, and score it; None without one, or
        where some of that failed twice, for want of memory or since a process died.

        Args:
            record: the trial that the model is of.
            model: of `last_models`.
            scorer: of the test part.
        """
        return None if model is None else self.test_model(record.config, model, scorer, stop=stop)

    def test_model(
        self, config: Mapping[str, Any], model: Model, scorer: Scorer, *, stop: int
    ) -> Tested | None:
        """The same for a model of any origin, of the experiment's pipeline.

        Args:
            config: that it was trained with.
        """
        total = len(scorer.episodes)
        drawn = self._draw(config, model, self.last_context, total, [stop], "testing")
        if drawn is None:
            return None
        (samples,) = drawn
        shots = np.stack([self.images.images[list(e.shots)] for e in scorer.episodes])
        return Tested(
            scores=scorer.score(samples),
            shots=shots,
            samples=samples,
            copy_thresholds=scorer.copy_thresholds,
            grid=sample_grid(shots, samples, classes=20),
            adapt_steps=stop,
        )

    def augmentation(self, record: TrialRecord, scorer: Scorer) -> Scores:
        """Scores of the shots as a trial augments them: what its nets have to be better than."""
        change = load_pipeline(self.pipeline).augmented
        return augmented_shots(scorer, partial(change, record.config))

    def _where(self) -> dict[str, str] | None:
        """Which nodes Ray may choose."""
        return elsewhere(self.avoided) if self.avoided else None

    def _trial(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"pipeline": self.pipeline, "config": dict(config)}

    def _draw(
        self,
        config: Mapping[str, Any],
        model: Model,
        context: StudyContext,
        total: int,
        stops: Sequence[int],
        what: str,
    ) -> npt.NDArray[np.uint8] | None:
        """Pictures of the first `total` episodes -> [stops, E, samples, C, S, S]; None where one
        of the tasks could not draw, twice."""
        remote = sample.options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, label_selector=self._where()
        )
        trial = self._trial(config)
        part: Part = "test" if context is self.last_context else "validation"
        starts = range(0, total, EPISODES_AT_ONCE)

        def begin(first: int) -> Any:
            return remote.remote(
                trial,
                model,
                asdict(context),
                part,
                range(first, min(first + EPISODES_AT_ONCE, total)),
                stops,
                self.threads,
            )

        over = track(
            _tried_twice(begin, starts),
            what,
            total=len(starts),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,  # each would leave a blank line
        )
        parts = dict(over)
        drawn = [own for first in starts if (own := parts[first]) is not None]
        return np.concatenate(drawn, axis=1) if len(drawn) == len(starts) else None


def _tried_twice(
    begin: Callable[[int], Any], starts: Sequence[int]
) -> Iterator[tuple[int, npt.NDArray[np.uint8] | None]]:
    """What the tasks of all starts give, whichever is over first; those that gave nothing are begun
    once more."""
    waiting, again = {begin(first): first for first in starts}, set(starts)
    while waiting:
        task = first_over(list(waiting))
        first, pictures = waiting.pop(task), got(task)
        if pictures is None and first in again:
            again.remove(first)
            waiting[begin(first)] = first
        else:
            yield first, pictures
