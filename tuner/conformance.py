"""Whether a plugin keeps the rules: python -m tuner.conformance --plugin my_gan.py

The same checks are cases for pytest, in the tests of a plugin of one's own:

    import pytest
    from tuner.conformance import cases

    @pytest.mark.parametrize("case", cases("my_gan.py"), ids=str)
    def test_it_keeps_the_rules(case):
        case()
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainables.errors import UserError, one_line
from tuner import plugins
from tuner.command_line import OneLineParser, answer
from tuner.exit_codes import NOTHING_SUCCEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One rule and what must keep it; calling it checks.

    Attributes:
        subject: in words, such as "generator my_net".
        check: raises AssertionError, or whatever the checked code raises.
        of: what is given to the check.
    """

    subject: str
    check: Callable[[Any], None]
    of: Any

    def __call__(self) -> None:
        """Check it."""
        self.check(self.of)

    def __str__(self) -> str:
        return f"{self.subject}: {self.check.__doc__}"


def cases(*files: str | Path) -> list[Case]:
    """All rules of all that plugins register.

    Args:
        files: of plugins; without any, the plugins of installed packages.
    Raises:
        UserError: one cannot be loaded, or an experiment of it cannot be run.
    """
    plugins.load(files)
    if not files:
        plugins.load_installed()
    names = {Path(file).name for file in files}
    found = []
    for plugin, registry, name in plugins.registered():
        if plugin.name in names or not files:
            found += cases_of(registry, name)
    return found


def cases_of(registry: str, name: str) -> list[Case]:
    """The rules of one thing.

    Args:
        registry: "generators", "experiments" or "data"; a pipeline's rules are those of the
            experiments that use it.
        name: in it.
    """
    from tuner import rules
    from tuner.experiments import EXPERIMENTS

    if registry == "generators":
        return [Case(subject=f"generator {name}", check=rule, of=name) for rule in rules.GENERATOR]
    if registry == "data":
        return [Case(subject=f"data set {name}", check=rule, of=name) for rule in rules.DATA]
    if registry == "pipelines":
        return []
    made = EXPERIMENTS[name]("cpu")
    base = replace(made.base, size=32, channels=1)
    trial = rules.Subject(pipeline=made.pipeline, config=base)
    return [
        *(Case(subject=f"experiment {name}", check=rule, of=name) for rule in rules.EXPERIMENT),
        *(Case(subject=f"trial of {name}", check=rule, of=trial) for rule in rules.PIPELINE),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    parser = OneLineParser(
        prog="python -m tuner.conformance",
        description="Check that what plugins register keeps the rules. Exit codes: 0 all hold; 1 "
        "some do not; 2 a plugin cannot be loaded.",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file (repeatable; default: those of installed packages)",
    )
    return answer(lambda: _checked(cases(*parser.parse_args(argv).plugin)))


def _checked(every: Sequence[Case]) -> int:
    """Say of each case whether it holds -> exit code.

    Raises:
        UserError: there is none.
    """
    if not every:
        raise UserError(
            "There must be something to check: name a --plugin that registers a generator, an "
            "experiment or a data set, or install one. A pipeline's rules are those of an "
            "experiment that uses it."
        )
    import torch

    torch.set_num_threads(1)  # sums in one order
    broken = 0
    for case in every:
        print(f"{case} ... ", end="", flush=True)
        try:
            case()
        except Exception as error:  # the plugin's code
            broken += 1
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            print(f"BROKEN: {kind}{one_line(error)}")
        else:
            print("ok")
    print(f"{len(every) - broken} of {len(every)} rules hold")
    return NOTHING_SUCCEEDED if broken else 0


if __name__ == "__main__":
    sys.exit(main())
