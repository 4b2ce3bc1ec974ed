"""The runs of one study in MLflow: found again or made, and which rungs are in them already."""

from __future__ import annotations

import getpass
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tuner.pages import KEY, PARENT, experiment_tags, run_page, running_note
from tuner.result import TrackingPlace
from tuner.run_store import NOTE, RunStore, flatten
from tuner.tracking_uri import strip_credentials

MARKER = "training/rung"  # metric that is written last of a rung: where it is, all of the rung is
RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """Of a trial: what its run is called, the label of its known point, or "", and the Unix time
    in ms."""

    title: str
    label: str
    when: int


class StudyRuns:
    """One run for the study and one below it for each trial; its calls wait for the store.

    Trials are looked up by their study's run and their number, so a resumed study goes on in the
    runs it began.

    Attributes:
        place: where the runs are; before the store was opened, where an earlier session had them.
        tags: what every run is tagged with.
        new: (trial number, run id) that nobody has noted yet.
        settled: trials that an earlier session told the end of.
        adopted: trials whose run an earlier session made.
        begun: those of them whose parameters are written.
    """

    def __init__(
        self,
        uri: str,
        *,
        storage: Path,
        experiment: str,
        study: str,
        study_id: str,
        plan: Mapping[str, Any],
        tags: Mapping[str, str],
        place: TrackingPlace | None,
        when: int,
    ) -> None:
        """Nothing is asked of the store yet; arguments as of `Tracker`, and `when` in ms."""
        self.place = place
        self.tags = {"study": study, **_source(experiment), **tags}
        self.new: deque[tuple[int, str]] = deque()
        self.settled: frozenset[int] = frozenset()
        self.adopted: frozenset[int] = frozenset()
        self.begun: frozenset[int] = frozenset()
        self._uri, self._storage, self._experiment = uri, storage, experiment
        self._study, self._study_id, self._plan, self._when = study, study_id, plan, when
        self._store: RunStore | None = None
        self._trials: dict[int, str] = {}
        self._tried: set[int] = set()  # to make a run of, in this session
        self._rungs: dict[int, set[int]] = {}

    def open(self, *, make: bool) -> None:
        """Connect, and find the runs there are; once.

        Args:
            make: a run for the study where the store has none of it.
        Raises:
            UserError: it has none, and none is to be made.
        """
        if self._store is not None:
            return
        store = RunStore(self._uri, experiment=self._experiment, storage=self._storage)
        self.place = TrackingPlace(
            uri=strip_credentials(self._uri),
            experiment_id=store.experiment_id,
            parent_run_id=self._study_run(store, make=make),
        )
        states: dict[int, str] = {}
        for run_id, tags in store.children(self.place.parent_run_id):
            # The oldest run counts, should a lost answer have made two.
            if (number := int(tags["trial"])) not in states:
                self._trials[number], states[number] = run_id, tags.get("state", "")
        self.new.extend(self._trials.items())  # a kill may have come before they were noted
        # "state" is the last thing written of a start, and of an end.
        self.adopted = frozenset(states)
        self.begun = frozenset(number for number, state in states.items() if state)
        self.settled = frozenset(n for n, state in states.items() if state in RUN_STATUS)
        self._store = store

    @property
    def store(self) -> RunStore:
        """The store, once it is open."""
        assert self._store is not None, "the store is not open"
        return self._store

    @property
    def study(self) -> str:
        """The study's own run."""
        assert self.place is not None, "the store is not open"
        return self.place.parent_run_id

    def trial(self, number: int, beginning: Beginning) -> str:
        """A trial's run, made at its first use."""
        if number not in self._trials:
            found = None
            if number in self._tried:  # the answer may have been lost after the run was made
                found = next(self.store.children(self.study, trial=str(number)), None)
            self._tried.add(number)
            self._trials[number] = self._create(number, beginning) if found is None else found[0]
            self.new.append((number, self._trials[number]))
        return self._trials[number]

    def pages(self) -> dict[int, str]:
        """Where MLflow shows each trial, by number."""
        assert self.place is not None, "the store is not open"
        where = self.place.experiment_id
        return {number: run_page(where, run_id) for number, run_id in self._trials.items()}

    def rungs(self, number: int) -> set[int]:
        """The rungs that a trial's run has whole; whoever writes one adds it."""
        if number not in self._rungs:
            adopted = number in self.adopted
            points = self.store.history(self._trials[number], MARKER) if adopted else []
            self._rungs[number] = {int(rung) for _, rung in points}
        return self._rungs[number]

    def _study_run(self, store: RunStore, *, make: bool) -> str:
        run_id = None if self.place is None else self.place.parent_run_id
        if run_id is None or not store.is_active(run_id):
            if not make:
                raise UserError(f"it does not have the study's run {run_id}")
            run_id = self._found_or_made(store)
        store.reopen(run_id)
        store.log_tags(run_id, {"state": "running"})
        store.tag_experiment(
            experiment_tags(self._experiment, store.experiment_id, self._study, run_id, self._when)
        )
        return run_id

    def _found_or_made(self, store: RunStore) -> str:
        """The study's run: a kill, or a lost answer, may have come before anybody noted it."""
        own = {KEY: "study", "study_id": self._study_id}
        tags: Mapping[str, str] = {}
        there: Mapping[str, str] = {}
        if (found := next(store.tagged(own), None)) is None:
            run_id = store.create(self._study, self.tags | own, self._when)
        else:
            run_id, tags = found
            there = store.params(run_id)  # which cannot be changed
        note = {} if NOTE in tags else {NOTE: running_note(store.experiment_id, run_id)}
        plan = {name: value for name, value in flatten(self._plan).items() if name not in there}
        store.log_params(run_id, plan, note)
        return run_id

    def _create(self, number: int, beginning: Beginning) -> str:
        tags = {
            **self.tags,
            PARENT: self.study,
            KEY: "trial",
            "trial": str(number),
        }
        if beginning.label:
            tags["label"] = beginning.label
        return self.store.create(beginning.title, tags, beginning.when)


def _source(experiment: str) -> dict[str, str]:
    """What MLflow's pages show as a run's author and source."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = ""
    return {
        "mlflow.user": user,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": f"tuner.launch {experiment}",
    }
