"""Optimizers, to the bit those of `torch.optim`."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.optimizers import Adam, GradientDescent

Weights = list[Tensor]
PAIRS: dict[str, tuple[Callable[[Weights], Any], Callable[[Weights], Any]]] = {
    "descent": (
        lambda w: GradientDescent(w, 0.1),
        lambda w: torch.optim.SGD(w, lr=0.1),
    ),
    "adam": (lambda w: Adam(w, 0.01), lambda w: torch.optim.Adam(w, lr=0.01)),
    "fused": (
        lambda w: Adam(w, 0.01, (0.0, 0.9), fused=True),
        lambda w: torch.optim.Adam(w, lr=0.01, betas=(0.0, 0.9), fused=True),
    ),
}


def _numbers(seed: int) -> Weights:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng) for shape in [(2, 3, 4, 4), (2, 5), (7,)]]


@pytest.mark.parametrize("name", PAIRS)
def test_steps_are_those_of_torch(name: str) -> None:
    ours, theirs = ([w.requires_grad_() for w in _numbers(0)] for _ in range(2))
    own, other = PAIRS[name][0](ours), PAIRS[name][1](theirs)
    for turn in range(1, 5):
        gradients = _numbers(turn)
        own.step(gradients)
        for weight, gradient in zip(theirs, gradients, strict=True):
            weight.grad = gradient
        other.step()
    assert not any(torch.equal(a, b) for a, b in zip(ours, _numbers(0), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_adam_goes_on_where_it_was_saved_and_begins_again_in_place(fused: bool) -> None:
    straight, stopped = Adam(_numbers(0), 0.01, fused=fused), Adam(_numbers(0), 0.01, fused=fused)
    straight.step(_numbers(1))
    stopped.step(_numbers(1))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    weights = [weight.clone() for weight in stopped._weights]
    resumed = Adam(weights, 0.01, fused=fused)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    straight.step(_numbers(2))
    resumed.step(_numbers(2))
    assert all(torch.equal(a, b) for a, b in zip(weights, straight._weights, strict=True))

    resumed.restart()
    fresh = Adam([weight.clone() for weight in weights], 0.01, fused=fused)
    resumed.step(_numbers(3))
    fresh.step(_numbers(3))
    assert all(torch.equal(a, b) for a, b in zip(weights, fresh._weights, strict=True))


def test_a_state_of_another_net_is_refused() -> None:
    other = Adam([torch.zeros(3)], 0.01)
    with pytest.raises(ValueError, match="must be"):
        other.load_state_dict(Adam([torch.zeros(1)], 0.01).state_dict())


def test_training_does_without_the_compiler_and_what_belongs_to_it() -> None:
    code = (
        "import sys, torch\n"
        "from trainables.configs import ReptileConfig\n"
        "from trainables.reptile import MetaTraining, step_flops\n"
        "import trainables.transfer_trial, trainables.trainable\n"
        "config = ReptileConfig(size=16, width=2, latent=4, outer_optimizer='adam')\n"
        "assert step_flops(config, 2) > 0\n"
        "training = MetaTraining(config, torch.Generator().manual_seed(0))\n"
        "training.iterate(torch.zeros(1, 2, 1, 16, 16))\n"
        "unused = ('torch._dynamo', 'torch._inductor', 'triton', 'sympy')\n"
        "print([name for name in unused if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
