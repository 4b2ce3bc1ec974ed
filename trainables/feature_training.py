"""How the nets behind scoring learn to tell the training classes apart."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.augment import augment
from trainables.built_once import Report
from trainables.change import Change
from trainables.image_set import ImageSet
from trainables.models.feature_net import FeatureNet, Recipe

BATCH = 64
EPOCHS, FEWEST_STEPS = 6, 300
LABEL_SMOOTHING = 0.05
LR, WEIGHT_DECAY = 3e-3, 1e-2
AUGMENTATION = Change.affine(0.65)  # +-10 degrees, +-2 px, +-6.5 %
SHIFT = 2  # pixels, where pictures are not turned
NOISE = 0.1  # largest standard deviation; without it the scores overreact to noise
BLURRED = 0.25  # share of pictures
SECONDS_BETWEEN_REPORTS = 2.0


def train_net(
    recipe: Recipe,
    images: ImageSet,
    classes: Sequence[int],
    entropy: Sequence[int],
    report: Report,
    steps: int | None,
    *,
    shifts_alone: bool = False,
) -> tuple[dict[str, Tensor], float]:
    """Train one net to tell `classes` apart -> its state with that of its head, accuracy at the
    end; label i of the head is `classes[i]`.

    Args:
        shifts_alone: pictures are moved by whole pixels, and neither turned nor scaled: a net that
            has learned to look past turns takes turned copies for new pictures.
    """
    pixels, labels = _training_part(images, classes)
    generator = torch.Generator().manual_seed(_seed(entropy))
    with torch.random.fork_rng(devices=[]):  # modules draw their weights globally
        torch.manual_seed(_seed(entropy))
        net = FeatureNet(recipe, pixels.shape[1]).to(memory_format=torch.channels_last)
        head = nn.Linear(recipe.features, len(classes))
    if steps is None:
        epochs = EPOCHS * len(labels) // BATCH
        steps = min(recipe.most_steps, max(FEWEST_STEPS, epochs))
    parameters = [*net.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps, pct_start=0.2)
    progress = _Progress(f"{recipe.name}, {len(classes)} classes", steps, report)
    order, correct = _epochs(len(labels), generator), 0.0
    for step in range(steps):
        batch = next(order)
        logits = head(net(_distort(pixels[batch], generator, shifts_alone)))
        loss = F.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
        optimiser.zero_grad()
        torch.autograd.backward([loss])
        optimiser.step()
        schedule.step()
        right = (logits.argmax(1) == labels[batch]).float().mean().item()
        correct += 0.02 * (right - correct)
        progress(step + 1)
    state = {name: value.contiguous() for name, value in net.eval().state_dict().items()}
    # A few thousand pictures fix 64 means and deviations well enough.
    some = torch.randperm(len(pixels), generator=generator)[:4096]
    features = net.run(pixels[some].numpy())
    state["centre"] = features.mean(0)
    state["spread"] = features.std(0).clamp(min=1e-3)
    state |= {f"head.{name}": value.detach() for name, value in head.named_parameters()}
    return state, correct


def _seed(entropy: Sequence[int]) -> int:
    return int(np.random.default_rng(entropy).integers(2**63))


def _training_part(images: ImageSet, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return pictures of `classes` that are not held out, uint8, with labels from 0."""
    position = np.full(len(images.classes), -1)
    position[list(classes)] = np.arange(len(classes))
    labels = position[images.labels]
    rows = np.flatnonzero((labels >= 0) & ~images.held_out)
    return torch.from_numpy(images.images[rows]), torch.from_numpy(labels[rows])


def _epochs(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of indices for ever, every picture once before any twice."""
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < BATCH:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:BATCH]
        left = left[BATCH:]


def _distort(pixels: Tensor, generator: torch.Generator, shifts_alone: bool) -> Tensor:
    """Turn uint8 pictures into inputs that are moved, some blurred, and a little noisy."""
    images = pixels.float().div_(127.5).sub_(1)
    if shifts_alone:
        images = _shifted(images, generator)
    else:
        images = augment(images, AUGMENTATION, generator)
    each = (len(images), 1, 1, 1)
    margin = F.pad(images, (1, 1, 1, 1), value=-1.0)
    blurred = F.avg_pool2d(margin, 3, stride=1)
    images = torch.where(torch.rand(each, generator=generator) < BLURRED, blurred, images)
    level = NOISE * torch.rand(each, generator=generator)
    return images + level * torch.randn(images.shape, generator=generator)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move every picture by up to `SHIFT` pixels along each axis; background comes in."""
    count, size = len(images), images.shape[-1]
    margin = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT), value=-1.0)
    down, right = torch.randint(2 * SHIFT + 1, (2, count, 1), generator=generator)
    rows, columns = torch.arange(size) + down, torch.arange(size) + right
    which = torch.arange(count)[:, None, None]
    moved = margin.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


class _Progress:
    """Says now and then how far a loop is and how long it will still take."""

    def __init__(self, name: str, total: int, report: Report) -> None:
        self.name, self.total, self.report = name, total, report
        self.started = time.monotonic()
        self.due = self.started + SECONDS_BETWEEN_REPORTS

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now < self.due and done < self.total:
            return
        self.due = now + SECONDS_BETWEEN_REPORTS
        left = (now - self.started) / done * (self.total - done)
        self.report(f"{self.name}: {done / self.total:.0%} learned, {left:.0f} s left")
