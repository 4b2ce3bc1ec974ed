"""A study as its folder tells, for those who look at it from outside: nothing is locked or written.

Whoever reads a study that another process writes reads it here; the folder may be a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages.journal import JournalFileBackend

from trainables.errors import UserError
from tuner.hold import Holder, holder_of
from tuner.journal import PHASE, RESUME, require_format
from tuner.journal_file import LOG
from tuner.plan import Plan
from tuner.setting import RESULT
from tuner.trial_records import TrialRecord, record_of

State = Literal["running", "finished", "interrupted", "cut off"]


@dataclass(frozen=True, kw_only=True)
class Glance:
    """A study at one moment.

    Attributes:
        folder: of the study.
        state: "interrupted" if its last session ended in order, and "cut off" if that was killed;
            `--resume` goes on with both.
        holder: who runs it, or was killed.
        attrs: facts about the whole study, as the journal has them.
        records: all trials, in order of number.
    """

    folder: Path
    state: State
    holder: Holder | None
    attrs: Mapping[str, Any]
    records: tuple[TrialRecord, ...]

    @cached_property
    def plan(self) -> Plan | None:
        """None where it was cut off before it had one, or has none yet."""
        recorded = self.attrs.get("plan")
        return Plan.from_dict(recorded) if recorded else None

    @property
    def phase(self) -> Mapping[str, Any] | None:
        """What a running study does, as the attribute `PHASE` has it; None before it says so."""
        phase: Mapping[str, Any] | None = self.attrs.get(PHASE)
        if phase is None or self.holder is None or self.state != "running":
            return None
        return phase if phase["since"] >= self.holder.since else None

    @property
    def resume(self) -> str:
        """The command that goes on with it."""
        if self.plan is None:
            return "the same command again"
        words = f"--resume --study {self.folder.name} --storage {self.folder.parent}"
        older = f"python -m tuner.launch {self.attrs.get('experiment')} {words}"
        return str(self.attrs.get(RESUME, older))


def glance(folder: Path) -> Glance:
    """Look at a study, which may be running, also while its journal is being written.

    Raises:
        UserError: its journal cannot be read.
    """
    holder = holder_of(folder)  # first: what it wrote before it let go is read
    attrs, records = _read(folder)
    return Glance(
        folder=folder, state=_state(folder, holder), holder=holder, attrs=attrs, records=records
    )


def _state(folder: Path, holder: Holder | None) -> State:
    if holder is not None and holder.alive:
        return "running"
    if (folder / RESULT).is_file():
        return "finished"
    return "interrupted" if holder is None else "cut off"


def _read(folder: Path) -> tuple[Mapping[str, Any], tuple[TrialRecord, ...]]:
    """Facts and trials. Optuna's reader passes a last line by that is not whole yet."""
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / LOG)))
    except (OSError, ValueError) as error:
        raise UserError(f"The journal in {folder} cannot be read ({error}).") from error
    studies = storage.get_all_studies()
    if not studies:  # it begins this moment
        return {}, ()
    (study,) = studies
    require_format(study.user_attrs, folder)
    trials = storage.get_all_trials(study._study_id, deepcopy=False)
    return study.user_attrs, tuple(map(record_of, trials))
