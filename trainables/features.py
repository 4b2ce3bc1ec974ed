"""What scoring learns from the training classes, once: embedding, recogniser, copy threshold.

The embedding carries the distances between distributions; the recogniser, another net, says whose
class a picture is; the threshold says how near to a shot an honest new drawing ever comes. None
of them sees a validation or test class.

A set of few, large classes (MNIST, FashionMNIST) has too few of them to learn from, so there every
class that is scored has an embedding of its own, which learns from all but itself and the test
classes, and the recogniser is a classifier of all classes. They only ever score, and held-out
pictures are not looked at.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainables.built_once import Report, build_once
from trainables.errors import UserError, one_line
from trainables.feature_training import train_net
from trainables.image_set import ImageSet, to_stderr
from trainables.metrics import copy_distances
from trainables.models.feature_net import FeatureNet, Recipe
from trainables.tasks import Split, class_rows, large_classes, make_episodes
from trainables.weights import read_weights

VERSION = 3  # raise it when anything below changes what is learned
SHOTS = 4
CALIBRATION = 6000  # held-out drawings behind the copy threshold, at least
COPY_PERCENTILE = 1.0
HEAD = ("head.weight", "head.bias")


EMBEDDING = Recipe(name="embedding", widths=(32, 64, 128), features=64, most_steps=800)
RECOGNISER = Recipe(name="recogniser", widths=(16, 48, 96), features=128, most_steps=1500)
RECIPES = (EMBEDDING, RECOGNISER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Features in which the scores take distances."""

    net: FeatureNet
    centre: Tensor  # of the features over the training classes, [64]
    spread: Tensor  # their standard deviation, [64]

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return features of pictures, [N, C, S, S] -> [N, 64].

        They are standardised on the training classes and divided by sqrt(64), so that the
        squared distance between two typical drawings is about 2.
        """
        raw = self.net.run(images)
        scaled = (raw - self.centre) / (self.spread * math.sqrt(len(self.spread)))
        return scaled.double().numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringNets:
    """The learned parts of scoring, opened from a folder of `prepare_scorer`."""

    embeddings: Mapping[str, Embedding]  # "embedding", or of each scored class "embedding-<index>"
    recogniser: FeatureNet
    copy_threshold: float  # of `metrics.copy_distances`
    head: tuple[Tensor, Tensor] | None  # weight and bias over all classes, of a classifier

    @property
    def embed(self) -> Embedding:
        """The embedding that all classes share."""
        return self.embeddings["embedding"]

    def embedding_for(self, index: int) -> Embedding:
        """The embedding of one large class."""
        return self.embeddings[f"embedding-{index}"]

    def recognise(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return features of length 1, whose nearest neighbours share a class, [N, 128]."""
        return F.normalize(self.recogniser.run(images)).double().numpy()

    def classify(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Return the class index of each picture, [N, C, S, S] -> [N]; of large classes only."""
        if self.head is None:
            raise ValueError("These scoring nets are of a set of small classes.")
        return F.linear(self.recogniser.run(images), *self.head).argmax(1).numpy()


def prepare_scorer(
    images: ImageSet,
    split: Split,
    *,
    cache_dir: Path,
    seed: int = 0,
    threads: int,
    report: Report = to_stderr,
    steps: int | None = None,
) -> Path:
    """Train what scoring needs on the training classes, or find it in the cache.

    The folder's name is a hash of the pictures, the training classes, the recipes and the seed,
    and it appears only when it is whole. Of several processes one trains and the others wait.

    Args:
        images: the set.
        split: its `train` classes are learned from.
        cache_dir: parent of the folder; created if absent.
        seed: of weights, order and augmentation; one seed and number of threads is one result.
        threads: of torch, while this trains.
        report: receives a line of progress every few seconds.
        steps: training steps of either net in place of the recipes' (for quick trials).
    Returns:
        the folder, for `Scorer`.
    Raises:
        UserError: a training class has too few pictures, or the cache folder is not writable.
    """
    return build_once(
        cache_dir.absolute() / _folder_name(images, split, seed, steps),
        name="scoring nets",
        damage=_damage,
        build=lambda folder: _learn(folder, images, split, seed, threads, report, steps),
        report=report,
    )


def open_scoring_nets(folder: Path) -> ScoringNets:
    """Open what `prepare_scorer` has made.

    Raises:
        UserError: the folder is absent or damaged.
    """
    try:
        return _open(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"The scoring nets must be whole, got {str(folder)!r} ({one_line(error)}); "
            "delete the folder and they are trained again."
        ) from error


def _open(folder: Path) -> ScoringNets:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    embeddings: dict[str, Embedding] = {}
    for name in meta["sha256"]:
        recipe = RECOGNISER if name == "recogniser" else EMBEDDING
        state = _intact(folder / f"{name}.safetensors", meta["sha256"][name])
        centre, spread = state.pop("centre"), state.pop("spread")
        if not centre.shape == spread.shape == (recipe.features,):
            raise ValueError(f"{name} is standardised by {len(centre)} and {len(spread)} numbers")
        head = [state.pop(part) for part in HEAD if part in state]
        with torch.device("meta"):
            net = FeatureNet(recipe, meta["channels"])
        net.load_state_dict(state, assign=True)
        net.to(memory_format=torch.channels_last)  # halves the time of scoring
        net.eval().requires_grad_(False)
        if recipe is EMBEDDING:
            embeddings[name] = Embedding(net=net, centre=centre, spread=spread)
        else:
            recogniser, classifier = net, head
    return ScoringNets(
        embeddings=embeddings,
        recogniser=recogniser,
        copy_threshold=float(meta["copy_threshold"]),
        head=(classifier[0], classifier[1]) if classifier else None,
    )


def _intact(path: Path, digest: str) -> dict[str, Tensor]:
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ValueError(f"{path.name} is not what was written")
    return read_weights(path)


def _damage(folder: Path) -> str | None:
    try:
        open_scoring_nets(folder)
    except UserError as error:
        return str(error.__cause__)
    return None


def _folder_name(images: ImageSet, split: Split, seed: int, steps: int | None) -> str:
    request: dict[str, Any] = {
        "version": VERSION,
        "fingerprint": images.fingerprint,
        "shape": images.images.shape[1:],
        "train": split.train,
        "recipes": [asdict(recipe) for recipe in RECIPES],
        "seed": seed,
        "steps": steps,
    }
    if large_classes(images):
        request["nets"] = [[name, list(classes)] for name, _, classes in _nets(images, split)]
    if images.images.shape[1] > 1:
        request["copies"] = "edges"  # what comes in at the side of a moved copy
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", images.name)[:40]
    return f"scorer-{readable}-{images.images.shape[-1]}-{digest[:16]}"


def _nets(images: ImageSet, split: Split) -> list[tuple[str, Recipe, Sequence[int]]]:
    """What is learned: name, recipe, and the classes to tell apart."""
    if not large_classes(images):
        return [("embedding", EMBEDDING, split.train), ("recogniser", RECOGNISER, split.train)]
    known = sorted((*split.train, *split.validation))
    own = [
        (f"embedding-{index}", EMBEDDING, [c for c in known if c != index])
        for index in (*split.validation, *split.test)
    ]
    return [*own, ("recogniser", RECOGNISER, range(len(images.classes)))]


def _learn(
    folder: Path,
    images: ImageSet,
    split: Split,
    seed: int,
    threads: int,
    report: Report,
    steps: int | None,
) -> None:
    """Train the nets and write what scoring needs into an empty folder."""
    started = time.monotonic()
    threshold = copy_threshold(images, split, seed=seed)
    sums, accuracy = {}, {}
    with _threads(threads):
        for number, (name, recipe, classes) in enumerate(_nets(images, split)):
            state, accuracy[name] = train_net(
                recipe,
                images,
                classes,
                [seed, number],
                report,
                steps,
                shifts_alone=recipe is EMBEDDING and large_classes(images),
            )
            if not (recipe is RECOGNISER and large_classes(images)):
                for part in HEAD:
                    del state[part]
            path = folder / f"{name}.safetensors"
            save_file(state, path)
            sums[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    meta = {
        "version": VERSION,
        "channels": images.images.shape[1],
        "classes": len(split.train),
        "copy_threshold": threshold,
        "training_accuracy": accuracy,
        "seconds": round(time.monotonic() - started, 1),
        "sha256": sums,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    report(f"scoring nets ready in {time.monotonic() - started:.0f} s")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def copy_threshold(images: ImageSet, split: Split, *, seed: int) -> float:
    """Distance to the nearest of four shots that 99 of 100 new drawings of the class exceed.

    All training classes are asked, the small ones of a set with few of them many times over, so
    that the percentile does not hang on a few drawings.
    """
    rows = class_rows(images.labels)
    drawings = sum(min(16, len(rows[index]) - SHOTS) for index in split.train)
    episodes = make_episodes(
        images,
        split.train,
        shots=SHOTS,
        seed=seed,
        per_class=max(1, math.ceil(CALIBRATION / max(1, drawings))),
    )
    distances = [
        copy_distances(images.images[list(e.reals)], images.images[list(e.shots)]) for e in episodes
    ]
    return float(np.percentile(np.concatenate(distances), COPY_PERCENTILE))
