"""The champion of an experiment: the model behind the alias `@champion` of MLflow's registry.

It changes only if a new model is better on the same episodes by more than chance: the paired
interval of the difference in L lies below zero.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import ray
from safetensors import SafetensorError

from trainables.errors import UserError, one_line
from trainables.evaluation import Scorer, Scores
from trainables.image_set import ImageSet
from trainables.tasks import Split
from trainables.weights import read_weights
from tuner import bootstrap
from tuner.breakdown import breakdown_behind
from tuner.champion_folder import FILES
from tuner.contenders import Tested
from tuner.finals import Finals
from tuner.registered_models import Version
from tuner.result import Gate
from tuner.store_failures import is_passing
from tuner.tracking_uri import reason

WAITS = (1.0, 4.0, 10.0)  # seconds between questions that a registry did not answer
T = TypeVar("T")


class Registry(Protocol):
    """What the gate asks of a model registry; any failure to answer is an exception."""

    def champion(self, name: str) -> Version | None:
        """The version that bears the alias."""

    def download(self, name: str, version: int, file: str, folder: Path) -> Path:
        """One of a version's `FILES`, copied below `folder`."""


def identity(pipeline: str, fingerprint: str, split: Split, images: ImageSet) -> dict[str, str]:
    """What two models must have in common to meet on the same episodes.

    Args:
        pipeline: name in PIPELINES.
        fingerprint: of the images.
        split: of the study; models of other test classes may have been trained on these.
        images: the set.
    """
    classes = json.dumps(split.to_dict(), sort_keys=True).encode()
    return {
        "pipeline": pipeline,
        "data_fingerprint": fingerprint,
        "split": hashlib.sha256(classes).hexdigest()[:16],
        "picture": "x".join(map(str, images.images.shape[1:])),  # channels, pixels, pixels
    }


class Challenge:
    """A study's challenge of its experiment's champion, who is asked for once.

    It may change meanwhile: nothing is decided then, which whoever moves the alias has to check.
    """

    def __init__(
        self, registry: Callable[[], Registry], name: str, own: Mapping[str, str], folder: Path
    ) -> None:
        """Nothing is asked yet.

        Args:
            registry: opens the one with the champion.
            name: of the registered model.
            own: `identity` of the new model.
            folder: of the study.
        """
        self._open, self._name, self._own, self._folder = registry, name, own, folder

    @cached_property
    def _registry(self) -> Registry:
        return self._open()

    @cached_property
    def present(self) -> Version | None:
        """The champion, if there is one; a failure to answer is not kept, and asked again."""
        return self._registry.champion(self._name)

    def is_likely(self) -> bool:
        """Whether there seems to be a champion that the new model will have to meet."""
        try:
            return self.present is not None and not self._differences()
        except Exception:  # whatever stores and drivers raise; it is asked again
            return False

    def stands(self, gate: Gate, run_id: str | None) -> bool:
        """Whether an earlier verdict is one still.

        Args:
            gate: the verdict.
            run_id: the study's run, whose model may be the champion already.
        """
        if not (gate.decided and gate.crowned):
            return gate.decided
        try:
            present = self.present
        except Exception:  # as above; the alias moves only if the verdict stands then
            return True
        return gate.is_against(present) or (present is not None and present.run_id == run_id)

    def without_meeting(self) -> Gate | None:
        """The verdict if it needs no meeting; None if it does.

        Raises:
            Breakdown: the disk is full, or Ray died: the study can be resumed, and they meet then.
        """
        try:
            present = _answer(lambda: self.present)
        except Exception as error:  # whatever stores and drivers raise
            return self.undecided(error)
        if present is None:
            return Gate(
                name=self._name, crowned=True, reason=f"{self._name} had no champion before"
            )
        if other := self._differences():
            return Gate(
                name=self._name,
                crowned=False,
                against=present.number,
                against_run=present.run_id,
                reason=f"version {present.number} is of another {' and '.join(other)}, so that "
                "they cannot meet; it stays",
            )
        return None

    def meet(self, new: Scores, finals: Finals, scorer: Scorer) -> Gate:
        """Let the champion, whom `without_meeting` has found, play the test episodes, too.

        Args:
            new: scores of the new model.
            finals: runs the champion.
            scorer: of the test part.
        Raises:
            Breakdown: as above.
        """
        present = self.present
        assert present is not None, self._name
        try:
            theirs = _tested(self._registry, self._name, present, finals, scorer)
            if theirs is None:
                raise MemoryError("it cannot draw in the memory that there is")
        except Exception as error:  # whatever stores, drivers and damaged files raise
            return self.undecided(error)
        return decide(self._name, present, new, theirs.scores)

    def undecided(self, error: Exception) -> Gate:
        """The verdict where they could not meet, for now.

        Raises:
            Breakdown: as above.
        """
        if (breakdown := breakdown_behind(error, self._folder)) is not None:
            raise breakdown from error
        cause = getattr(error, "cause", None)  # what Ray brings from another process
        told = f"the champion could not be met: {reason(cause or error)}"
        return Gate(name=self._name, crowned=False, decided=False, reason=told)

    def _differences(self) -> list[str]:
        tags = {} if self.present is None else self.present.tags
        return [key for key, value in self._own.items() if tags.get(key) != value]


def decide(name: str, present: Version, new: Scores, old: Scores) -> Gate:
    """The gate itself."""
    ours, theirs = new.contributions("L")[None], old.contributions("L")[None]
    low, high = bootstrap.paired_interval(ours, theirs)
    change = float(np.mean(ours) - np.mean(theirs))
    told = f"L {change:+.2f} [{low:+.2f}, {high:+.2f}] on the same episodes"
    if high < 0:
        why = f"better than version {present.number}: {told}"
    else:
        why = f"version {present.number} stays: the new model has {told}"
    return Gate(
        name=name,
        crowned=high < 0,
        reason=why,
        against=present.number,
        against_run=present.run_id,
        margin=(low, high),
    )


def _answer(ask: Callable[[], T]) -> T:
    """What a registry answers; an outage may pass."""
    for seconds in WAITS:
        try:
            return ask()
        except Exception as error:
            if not is_passing(error):
                raise
            time.sleep(seconds)
    return ask()


def _tested(
    registry: Registry, name: str, version: Version, finals: Finals, scorer: Scorer
) -> Tested | None:
    with tempfile.TemporaryDirectory() as folder:
        config_path, weights_path = (
            _answer(partial(registry.download, name, version.number, file, Path(folder)))
            for file in FILES
        )
        try:
            told: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
            config, stop = dict(told["config"]), int(told["adapt_steps"])
            weights = read_weights(weights_path)
        except (ValueError, LookupError, TypeError, SafetensorError) as error:
            raise UserError(
                f"the files of version {version.number} are damaged ({one_line(error)}): give the "
                "alias to another version in MLflow, or delete it there"
            ) from error
    return finals.test_model(config, ray.put(weights), scorer, stop=stop)
