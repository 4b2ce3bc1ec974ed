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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import ray
import safetensors.torch

from trainables.evaluation import Scorer
from trainables.image_set import ImageSet
from trainables.tasks import Split
from tuner import bootstrap
from tuner.breakdown import breakdown_behind
from tuner.finals import Finals, Tested
from tuner.run_store import Version, is_passing

FILES = ("config.json", "weights.safetensors")
WAITS = (1.0, 4.0, 10.0)  # seconds between questions that a registry did not answer
T = TypeVar("T")


class Registry(Protocol):
    """What the gate asks of a model registry; any failure to answer is an exception."""

    def champion(self, name: str) -> Version | None:
        """The version that bears the alias."""

    def download(self, name: str, version: int, file: str, folder: Path) -> Path:
        """One of a version's `FILES`, copied below `folder`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a new model becomes the champion.

    Attributes:
        name: of the registered model.
        crowned: the alias moves to the new model.
        reason: one sentence.
        against: the champion's version before, if there was one.
        against_run: the MLflow run that it came from.
        margin: 95 % interval of the new model's L less the champion's, if they were compared.
    """

    name: str
    crowned: bool
    reason: str
    against: int | None = None
    margin: tuple[float, float] | None = None
    against_run: str | None = None


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


def can_meet(registry: Registry, name: str, own: Mapping[str, str]) -> bool:
    """Whether there seems to be a champion that a new model will have to meet."""
    try:
        present = registry.champion(name)
    except Exception:  # whatever stores and drivers raise; the gate asks again
        return False
    return present is not None and not _differences(present, own)


def challenge(
    registry: Registry,
    name: str,
    tested: Tested,
    own: Mapping[str, str],
    finals: Finals,
    scorer: Scorer,
    folder: Path,
) -> Verdict:
    """Let the new model meet the champion on the test episodes.

    Args:
        registry: where the champion is.
        name: of the registered model.
        tested: the new model.
        own: its `identity`.
        finals: runs the champion.
        scorer: of the test part.
        folder: of the study.
    Raises:
        Breakdown: the disk is full, or Ray died: the study can be resumed, and they meet then.
    """
    try:
        present = _answer(lambda: registry.champion(name))
        if present is None:
            return Verdict(name=name, crowned=True, reason=f"{name} had no champion before")
        if other := _differences(present, own):
            return Verdict(
                name=name,
                crowned=False,
                against=present.number,
                against_run=present.run_id,
                reason=f"version {present.number} is of another {' and '.join(other)}, so that "
                "they cannot meet; it stays",
            )
        theirs = _tested(registry, name, present, finals, scorer)
        if theirs is None:
            raise MemoryError("it cannot draw in the memory that there is")
    except Exception as error:  # whatever stores, drivers and damaged files raise
        if (breakdown := breakdown_behind(error, folder)) is not None:
            raise breakdown from error
        told = " ".join(str(error).split())[:200]
        return Verdict(name=name, crowned=False, reason=f"the champion could not be met: {told}")
    return decide(name, present, tested, theirs)


def decide(name: str, present: Version, new: Tested, old: Tested) -> Verdict:
    """The gate itself."""
    ours, theirs = new.scores.contributions("L")[None], old.scores.contributions("L")[None]
    low, high = bootstrap.paired_interval(ours, theirs)
    change = float(np.mean(ours) - np.mean(theirs))
    told = f"L {change:+.2f} [{low:+.2f}, {high:+.2f}] on the same episodes"
    if high < 0:
        reason = f"better than version {present.number}: {told}"
    else:
        reason = f"version {present.number} stays: the new model has {told}"
    return Verdict(
        name=name,
        crowned=high < 0,
        reason=reason,
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


def _differences(present: Version, own: Mapping[str, str]) -> list[str]:
    return [key for key, value in own.items() if present.tags.get(key) != value]


def _tested(
    registry: Registry, name: str, version: Version, finals: Finals, scorer: Scorer
) -> Tested | None:
    with tempfile.TemporaryDirectory() as folder:
        config_path, weights_path = (
            _answer(partial(registry.download, name, version.number, file, Path(folder)))
            for file in FILES
        )
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(weights_path)
    stop = int(config["adapt_steps"])
    return finals.test_model(config["config"], ray.put(weights), scorer, stop=stop)
