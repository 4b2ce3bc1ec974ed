"""The options of the command line: what there is to ask for, and a request made of what was."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trainables.errors import UserError
from tuner.command_line import STORAGE, OneLineParser, add_plugin_option
from tuner.experiment_names import ALL, NAMES

if TYPE_CHECKING:
    from tuner.request import Request

# Here too, so that --help imports no framework.
SAMPLERS = ("tpe", "gp", "cmaes", "nsgaii", "random", "sobol")
OF_ONE = ("study", "data", "base", "target", "point", "warm_start", "plugin")  # not for all
SIZES = (32, 64, 128)

Group: TypeAlias = "argparse._ArgumentGroup"

DESCRIPTION = """\
Search the hyperparameters of a few-shot image generator: plan, train and compare trials on this
machine or a Ray cluster, keep everything in MLflow, test the best one once on unseen classes.
"""
EXAMPLES = """\
examples:
  python -m tuner.launch reptile_omniglot                 a search that fits this machine
  python -m tuner.launch reptile_omniglot --dry-run       the plan, and nothing started
  python -m tuner.launch reptile_omniglot --budget 1h     a longer one
  python -m tuner.launch reptile_omniglot --trials 1      the paper's settings alone
  python -m tuner.launch reptile_omniglot --data my/characters
  python -m tuner.launch reptile_omniglot --resume        go on where the last one stopped
  python -m tuner.launch reptile_omniglot --detach        in the background, looked after by
                                                          tuner.status, tuner.logs, tuner.stop
  python -m tuner.launch reptile_mnist --warm-start reptile_omniglot
  python -m tuner.launch all --budget 6h                  one after another, an hour each
  python -m tuner.launch my_gan --plugin my_gan.py        an experiment, nets or data of your own
  python -m tuner.launch reptile_omniglot --on-finish 'sh -c "mail -s $TUNER_STUDY me"'
  python -m tuner.launch --replay RUN_ID                  a trial once more, bit for bit

Exit codes: 0 done; 1 nothing succeeded, or a replay differs; 2 a request that cannot be met;
3 the disk is full or Ray died: --resume goes on; 130 interrupted.
"""


def build_parser(more: Sequence[str] = ()) -> argparse.ArgumentParser:
    """All options; frameworks are not imported for them.

    Args:
        more: experiments of plugins.
    """
    parser = OneLineParser(
        prog="python -m tuner.launch",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "experiment", nargs="?", help=f"what to search: {', '.join((*NAMES, *more))}; or {ALL}"
    )
    add_plugin_option(parser)
    _add_how_much(parser.add_argument_group("how much"))
    _add_data(parser.add_argument_group("data"))
    _add_where(parser.add_argument_group("where"))
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    parser.add_argument(
        "--detach",
        action="store_true",
        help="go on in the background once the study has begun: see tuner.status, tuner.logs and "
        "tuner.stop",
    )
    _add_told(parser.add_argument_group("what is told"))
    parser.add_argument(
        "--resume", action="store_true", help="go on with the last unfinished study, or --study"
    )
    parser.add_argument(
        "--replay",
        metavar="RUN_ID",
        help="train a trial again from its MLflow run, and compare the scores bit for bit",
    )
    return parser


def _add_how_much(group: Group) -> None:
    group.add_argument("--trials", type=int, help="at most (default: what the budget allows)")
    group.add_argument(
        "--budget", help="wall time such as 90s, 10m, 1h30m (default: 10m on CPUs, 24h on GPUs)"
    )
    group.add_argument(
        "--scale",
        choices=("auto", "cpu", "paper"),
        default="auto",
        help="size of the nets: cpu up to width 32, paper up to width 64 (default: by hardware)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of everything random but pre-training, which all seeds share (default: 0)",
    )
    group.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="Optuna's sampler of new settings: tpe (default), gp (Gaussian process), cmaes, "
        "nsgaii, random, sobol (a low-discrepancy sequence)",
    )
    group.add_argument(
        "--objectives",
        help="search for the Pareto front of some of L, coverage, copy_share, train_seconds, with "
        "commas between; L is always one of them (default: L alone)",
    )
    group.add_argument(
        "--point",
        action="append",
        metavar="SETTINGS",
        help="run these settings first: JSON, or a file of it such as a champion's config.json; "
        "what they leave open is sampled (repeatable)",
    )
    group.add_argument(
        "--warm-start",
        action="append",
        metavar="STUDY",
        help="run the 3 best settings of an earlier study first, or those of a champion, "
        "models:/NAME@champion (repeatable)",
    )


def _add_data(group: Group) -> None:
    group.add_argument(
        "--data-root",
        type=Path,
        help="folder in torchvision's layout (default: $FEWSHOT_DATA, else a cache, downloading)",
    )
    group.add_argument(
        "--data",
        type=Path,
        help="other pictures: a folder of class folders of your own, grey or in colour, or the "
        "name of a set (cifar100, omniglot, mnist, fashion_mnist)",
    )
    group.add_argument(
        "--size", type=int, choices=SIZES, default=32, help="pixels a side (default: 32)"
    )
    group.add_argument(
        "--target", help="classes to test on, with commas between (default: the paper's, 9)"
    )
    group.add_argument(
        "--base", help="classes to learn and search on (default: all but the target's)"
    )


def _add_where(group: Group) -> None:
    group.add_argument(
        "--storage",
        default=STORAGE,
        help="folder of all studies, shared by all nodes, or s3://... or gs://... (default: "
        f"{STORAGE})",
    )
    group.add_argument("--study", help="name of the study (default: the experiment's, numbered)")
    group.add_argument(
        "--tracking-uri",
        help="MLflow server or store, which trials' nodes need not reach; passwords come from the "
        "environment (default: SQLite in the storage folder)",
    )
    group.add_argument(
        "--address",
        help="of a running Ray: auto or host:port; ray://host:port or http://host:port to run "
        "there as a job (default: start one here)",
    )
    group.add_argument("--cpus-per-trial", type=float, help="default: 1")
    group.add_argument(
        "--gpus-per-trial",
        type=float,
        help="or the share of one (default: at paper scale as the largest nets need, else 0)",
    )
    group.add_argument(
        "--no-fast-gpu",
        dest="fast_gpu",
        action="store_false",
        help="float32 step by step on GPUs: no TF32, bfloat16 or CUDA graphs",
    )


def _add_told(group: Group) -> None:
    group.add_argument(
        "--quiet",
        action="store_true",
        help="warnings, errors, and at the end where the result is and which trial is the champion",
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="one JSON object an event on stdout, all else on stderr; see docs/events.md. With "
        "--dry-run, one object; with --detach, events.jsonl in the study's folder goes on",
    )
    group.add_argument(
        "--on-finish",
        metavar="CMD",
        help="run this, without a shell and for at most a minute, when the study has ended in any "
        "way (with `all`: after each), with TUNER_STUDY, TUNER_OUTCOME, TUNER_RESULT and "
        "TUNER_REPORT in its environment, as far as there are such; it is not kept with the study: "
        "a resume needs it again, and the command that is printed to go on has it",
    )
    group.add_argument(
        "--timings", action="store_true", help="show what the parts of the start and the run take"
    )


def parse_request(arguments: argparse.Namespace) -> Request:
    """The options, checked as far as they go without looking at the machine.

    Raises:
        UserError: one cannot be met, or two together cannot.
    """
    from tuner.objectives import parse_objectives
    from tuner.on_finish import parse_command
    from tuner.plan import parse_budget
    from tuner.request import Request
    from tuner.storage import parse_storage

    _require_experiment(arguments)
    _require_numbers_and_name(arguments)
    objectives = None if arguments.objectives is None else parse_objectives(arguments.objectives)
    _require_one_meaning(arguments, objectives)
    storage, bucket = parse_storage(arguments.storage)
    budget = None if arguments.budget is None else parse_budget(arguments.budget)
    return Request(
        experiment=arguments.experiment,
        trials=arguments.trials,
        budget_seconds=budget,
        scale=arguments.scale,
        seed=arguments.seed,
        data_root=arguments.data_root,
        data=arguments.data,
        size=arguments.size,
        target=_classes("target", arguments.target),
        base=_classes("base", arguments.base),
        storage=storage,
        bucket=bucket,
        study=arguments.study,
        tracking_uri=arguments.tracking_uri,
        address=arguments.address,
        cpus_per_trial=arguments.cpus_per_trial,
        gpus_per_trial=arguments.gpus_per_trial,
        dry_run=arguments.dry_run,
        resume=arguments.resume,
        timings=arguments.timings,
        sampler=arguments.sampler,
        objectives=objectives,
        points=tuple(arguments.point or ()),
        warm_start=tuple(arguments.warm_start or ()),
        fast_gpu=arguments.fast_gpu,
        detach=arguments.detach,
        plugins=tuple(map(Path, arguments.plugin)),
        quiet=arguments.quiet,
        on_finish=() if arguments.on_finish is None else parse_command(arguments.on_finish),
    )


def _require_experiment(arguments: argparse.Namespace) -> None:
    from tuner.experiments import find_experiment

    if arguments.experiment is None:
        raise UserError("An experiment must be named; see --help.")
    if arguments.experiment != ALL:
        find_experiment(arguments.experiment)
    elif any(getattr(arguments, name) not in (None, []) for name in OF_ONE):
        raise UserError(
            f"{ALL!r} runs every experiment on its own data, classes and settings: leave out "
            "--study, --data, --base, --target, --point, --warm-start and --plugin."
        )


def _require_numbers_and_name(arguments: argparse.Namespace) -> None:
    from tuner.request import RULE, is_study_name

    if arguments.trials is not None and arguments.trials < 1:
        raise UserError(f"--trials must be at least 1, got {arguments.trials}.")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed must be from 0 to 2**32 - 1, got {arguments.seed}.")
    if arguments.study is not None and not is_study_name(arguments.study):
        raise UserError(f"--study becomes a folder: it must be {RULE}; got {arguments.study!r}.")


def _require_one_meaning(arguments: argparse.Namespace, objectives: tuple[str, ...] | None) -> None:
    """Options that do not go together are refused."""
    from tuner.request import is_name

    if arguments.sampler == "cmaes" and objectives is not None and len(objectives) > 1:
        raise UserError(
            f"--sampler cmaes searches on one objective, got {','.join(objectives)}: choose "
            "another sampler, or leave out --objectives."
        )
    folder = arguments.data is not None and not is_name(arguments.data)
    if folder and arguments.data_root is not None:
        raise UserError("--data and --data-root name two sources of pictures: leave one out.")


def _classes(option: str, text: str | None) -> tuple[str, ...] | None:
    """Names with commas between; a class of Omniglot has slashes in its name, and no comma."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UserError(f"--{option} must name classes, with commas between, got {text!r}.")
    return names
