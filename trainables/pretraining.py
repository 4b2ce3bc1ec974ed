"""Pre-trained GANs: trained once for every study that wants the same, and found again.

The weights depend on the nets, the pre-training hyperparameters, the pictures, the base classes
and the seed, and on nothing else; a hash of these is the name of their folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainables.addresses import below, is_address
from trainables.built_once import Report, build_once
from trainables.configs import TransferConfig
from trainables.datasets import user_cache
from trainables.errors import one_line
from trainables.image_set import ImageSet
from trainables.pipeline import Diverged
from trainables.published import fetch, put
from trainables.reptile import Pair
from trainables.tensors import to_tensor
from trainables.transfer import (
    PRETRAIN_AVERAGING,
    AdversarialSteps,
    Batch,
    build_gan,
)
from trainables.weights import read_weights, require_shapes

VERSION = 2  # raise it when anything below changes what is learned
SECONDS_BETWEEN_REPORTS = 2.0
FILES = ("weights.safetensors", "meta.json")
REQUEST = ("version", "source", "fingerprint", "classes", "seed")  # what the weights depend on


@dataclass(frozen=True, slots=True)
class Source:
    """A pre-trained GAN: its weights [P], and the mean picture of each base class [L, C, S, S]."""

    weights: Pair
    means: Tensor


def pretrained(
    config: TransferConfig,
    images: ImageSet,
    classes: Sequence[int],
    *,
    seed: int,
    store: str,
    device: str,
    report: Report,
) -> Source:
    """Pre-train on `classes`, or take what the store holds.

    Args:
        config: `config.source()` of it counts.
        images: the set; held-out pictures are not looked at.
        classes: base classes.
        seed: of weights, order and noise.
        store: folder of all pre-trained weights, shared by trials, studies and nodes; or address of
            one in a bucket, of which this machine keeps a copy.
        device: to train on.
    Raises:
        Diverged: the losses left the finite numbers.
        UserError: the store cannot be written.
    """
    config = TransferConfig(**config.source())
    request = {
        "version": VERSION,
        "source": config.source(),
        "fingerprint": images.fingerprint,
        "classes": list(map(int, classes)),
        "seed": seed,
    }
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", images.name)[:40]
    name = f"{config.method}-{name}-{len(classes)}-{_digest(request)}"
    shared = below(store, name) if is_address(store) else None
    kept = Path(store).absolute() if shared is None else user_cache() / "pretrained"

    def build(place: Path) -> None:
        if shared is not None and fetch(shared, place, FILES):
            if _damage(place, name) is None:
                return
            for path in place.iterdir():
                path.unlink()
        _train(place, config, images, classes, seed, device, request, report)
        if shared is not None:
            put(place, shared, FILES)

    folder = build_once(
        kept / name,
        name=f"pre-training {config.method} on {len(classes)} classes",
        damage=_damage,
        build=build,
        report=report,
    )
    return _open(folder, name)


def damaged_sources(store: Path) -> Iterator[str]:
    """What is wrong in the store, a line each: nobody hears the workers that train it again."""
    for folder in sorted(store.glob("[!.]*")):
        if folder.is_dir() and (wrong := _damage(folder)) is not None:
            yield f"pre-training {folder} was damaged ({wrong}): trained again where it is needed"


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


def _open(folder: Path, name: str) -> Source:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if not name.endswith(f"-{_digest({key: meta[key] for key in REQUEST})}"):
        raise ValueError("it was trained for another request")
    path = folder / "weights.safetensors"
    if hashlib.sha256(path.read_bytes()).hexdigest() != meta["sha256"]:
        raise ValueError(f"{path.name} is not what was written")
    config = TransferConfig(**meta["source"])
    return source_of(config, read_weights(path), len(meta["classes"]))


def source_of(config: TransferConfig, weights: Mapping[str, Tensor], labels: int) -> Source:
    """A pre-trained GAN out of what a file holds.

    Raises:
        ValueError: it is of other nets, pictures or base classes.
    """
    gan = build_gan(config, labels)
    shapes = {
        "generator": (gan.generator.size,),
        "critic": (gan.critic.size,),
        "means": (labels, config.channels, config.size, config.size),
    }
    require_shapes(weights, shapes)
    return Source(Pair(weights["generator"], weights["critic"]), weights["means"])


def _damage(folder: Path, name: str | None = None) -> str | None:
    """What is wrong with weights, which are called as their folder is unless they get a `name`."""
    try:
        _open(folder, folder.name if name is None else name)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        return one_line(error)
    return None


def _train(
    folder: Path,
    config: TransferConfig,
    images: ImageSet,
    classes: Sequence[int],
    seed: int,
    device: str,
    request: dict[str, Any],
    report: Report,
) -> None:
    began = time.monotonic()
    weights = pretrain(config, images, classes, seed=seed, device=device, report=report)
    means = class_means(images, classes)
    path = folder / "weights.safetensors"
    save_file(
        {
            "generator": weights.generator.cpu().contiguous(),
            "critic": weights.critic.cpu().contiguous(),
            "means": means,
        },
        path,
    )
    meta = request | {
        "class_names": [images.classes[index] for index in classes],
        "seconds": round(time.monotonic() - began, 1),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def pretrain(
    config: TransferConfig,
    images: ImageSet,
    classes: Sequence[int],
    *,
    seed: int,
    device: str,
    report: Report,
) -> Pair:
    """Train a GAN on all pictures of `classes` that are not held out -> weights [P].

    Raises:
        Diverged: the losses left the finite numbers.
    """
    gan = build_gan(config, len(classes))
    first = torch.Generator().manual_seed(seed)  # on the CPU, so that a seed is a network
    start = Pair(gan.generator.initial(first).to(device), gan.critic.initial(first).to(device))
    rng = torch.Generator(device).manual_seed(seed)
    steps = AdversarialSteps(
        gan,
        config,
        start,
        prior=torch.full((1, len(classes)), 1 / len(classes), device=device),
        real=_BaseSource(images, classes, config.pretrain_batch, rng),
        batch=config.pretrain_batch,
        lr=config.pretrain_lr,
        frozen=frozenset(),
        averaging=PRETRAIN_AVERAGING,
        rng=rng,
    )
    began = due = time.monotonic()
    for done in range(config.pretrain_steps):
        losses = steps.step()
        if time.monotonic() >= due:
            due = time.monotonic() + SECONDS_BETWEEN_REPORTS
            if not all(math.isfinite(float(loss)) for loss in losses):
                raise Diverged(f"pre-training of {config.source()} left the finite numbers")
            left = (due - began) / (done + 1) * (config.pretrain_steps - done - 1)
            share = (done + 1) / config.pretrain_steps
            report(f"pre-training {config.method}: {share:.0%} done, {left:.0f} s left")
    pair = Pair(gan.generator.flat(steps.average)[0], gan.critic.flat(steps.critic)[0])
    if not (pair.generator.isfinite().all() and pair.critic.isfinite().all()):
        raise Diverged(f"pre-training of {config.source()} left the finite numbers")
    return pair


def class_means(images: ImageSet, classes: Sequence[int]) -> Tensor:
    """Mean picture of each class, without what is held out -> [L, C, S, S] in [-1, 1]."""
    rows = [np.flatnonzero((images.labels == index) & ~images.held_out) for index in classes]
    return torch.stack([to_tensor(images.images[own]).mean(0) for own in rows])


class _BaseSource:
    """Batches of the base classes, every picture as likely as any other."""

    def __init__(
        self, images: ImageSet, classes: Sequence[int], batch: int, rng: torch.Generator
    ) -> None:
        position = np.full(len(images.classes), -1)
        position[list(classes)] = np.arange(len(classes))
        rows = np.flatnonzero((position[images.labels] >= 0) & ~images.held_out)
        self._pictures = torch.from_numpy(images.images[rows])
        self._labels = torch.from_numpy(position[images.labels[rows]])
        self._count, self._batch, self._rng = len(classes), batch, rng

    def __call__(self) -> Batch:
        device = self._rng.device
        size = (self._batch,)
        drawn = torch.randint(len(self._labels), size, generator=self._rng, device=device).cpu()
        pictures = self._pictures[drawn].to(device).float().div_(127.5).sub_(1)
        labels = torch.nn.functional.one_hot(self._labels[drawn].to(device), self._count)
        return Batch(pictures[None], labels.float()[None])
