"""Every generator, pipeline and experiment keeps the rules that a plugin's author can check."""

from __future__ import annotations

from pathlib import Path

import extending
import pytest

from trainables.configs import ReptileConfig, TransferConfig
from trainables.generators import GENERATORS
from trainables.pipeline import PIPELINES
from tuner import conformance, plugins, rules
from tuner.experiments import EXPERIMENTS

SMALL = {
    "reptile": ReptileConfig(
        width=2, latent=4, inner_steps=1, train_shots=2, meta_batch=1, adapt_steps=4, averaging=0.1
    ),
    "transfer": TransferConfig(width=2, latent=4, batch=2, pretrain_batch=4, pretrain_steps=2),
}
PARTS = {
    "generator": [("generators", name) for name in sorted(GENERATORS)],
    "experiment": [("experiments", name) for name in sorted(EXPERIMENTS)],
}
CASES = [
    case
    for place in (*PARTS["generator"], *PARTS["experiment"])
    for case in conformance.cases_of(*place)
    if not case.subject.startswith("trial of")  # of full size
] + [
    conformance.Case(
        subject=f"pipeline {name}", check=rule, of=rules.Subject(pipeline=name, config=config)
    )
    for name, config in SMALL.items()
    for rule in rules.PIPELINE
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ours_keep_the_rules(case: conformance.Case) -> None:
    case()


def test_there_are_small_configs_of_all_pipelines() -> None:
    assert set(SMALL) == {name for name, place in PIPELINES.items() if isinstance(place, str)}


BROKEN = """
import torch
from tuner.extend import Network, Parameter, register_generator

@register_generator("broken")
class Broken(Network):
    def __init__(self, *, size, channels, width, latent):
        self.shape = channels, size, size
        weight = Parameter((latent, channels * size**2), bound=1.0)
        super().__init__({"weight": weight, "unused": Parameter((1,))})
    def forward(self, weights, batch):
        pixels = torch.bmm(batch, weights["weight"]) + torch.rand(())
        return (pixels + pixels.mean()).view(*batch.shape[:2], *self.shape)
"""


def test_what_breaks_the_rules_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken_net.py").write_text(BROKEN)
    assert conformance.main(["--plugin", str(tmp_path / "broken_net.py")]) == 1
    plugins._forget("broken_net.py")
    told = capsys.readouterr().out
    assert "in [-1, 1] ... BROKEN: pictures reach " in told
    assert "bit for bit ... BROKEN: two calls draw other pictures" in told
    assert "touch each other ... BROKEN: a task's pictures depend on another task" in told
    assert "finite gradient ... BROKEN: unused is not used" in told
    assert "a config of it is plain data, and stays itself ... ok" in told
    assert "of 8 rules hold" in told


def test_a_plugin_that_cannot_be_loaded_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main(["--plugin", "missing.py"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("file", ["my_gan.py", "my_rings.py"])
def test_the_tutorials_plugins_keep_the_rules(file: str, tmp_path: Path) -> None:
    extending.write_files(tmp_path)
    try:
        found = conformance.cases(tmp_path / file)
        assert found
        for case in found:
            if not case.subject.startswith("trial of"):  # of full size: `make test-all`
                case()
    finally:
        plugins._forget(file)
