"""Train a trial once more from its MLflow record alone, and compare the scores bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trainables.errors import UserError
from trainables.image_set import open_image_set
from trainables.published import at_hand
from trainables.trainable import FAIL, TrialTrainable
from tuner.exit_codes import NOTHING_SUCCEEDED
from tuner.kept_trial import KeptTrial, read_trial
from tuner.plugins import require
from tuner.tracking import metric_name
from tuner.tracking_uri import resolve_uri

CLOCKED = "_seconds"  # ending of what no two runs have alike


def replay_trial(
    run_id: str,
    uri: str | None,
    storage: Path,
    console: Console,
    trainable: type[TrialTrainable] = TrialTrainable,
) -> int:
    """Train the trial of an MLflow run again, to its last full rung -> 0 if all scores are equal, 1
    if not.

    Equal is meant to the last bit, which holds on one machine with the recorded number of threads.

    Args:
        run_id: of the trial.
        uri: of its tracking store, None for the one in `storage`.
        storage: folder of all studies.
        console: where the scores go, side by side.
        trainable: the Ray adapter, used without Ray.
    Raises:
        UserError: there is no such run, it is no trial or holds too little, or the data is another.
    """
    kept = read_trial(resolve_uri(uri, storage), run_id)
    require(kept.settings["context"].get("plugins", ()), f"Run {run_id}")
    _require_same_data(kept, run_id)
    # Pre-training is looked for, or written, in this storage, whatever place the record names.
    context = kept.settings["context"] | {"store": str(storage / "pretrained")}
    trial = trainable.__new__(trainable)
    trial.setup(kept.settings | {"context": context, "deadline": math.inf, "resume_from": None})
    same = True
    for rung, recorded in enumerate(_full_rungs(kept)):
        result = trial.step()
        if result["outcome"] == FAIL:
            console.print(f"rung {rung}: failed, {result['reason']}", markup=False)
            return NOTHING_SUCCEEDED
        replayed = {metric_name(name): value for name, value in result["metrics"].items()}
        same &= _compare(rung, recorded, replayed, console)
    console.print("All scores are equal." if same else "Scores differ.")
    return 0 if same else NOTHING_SUCCEEDED


def _full_rungs(kept: KeptTrial) -> list[Mapping[str, float]]:
    """What was recorded at each rung, but where the clock cut the trial on its way to one."""
    ends = kept.settings["context"]["rungs"]
    return [
        point
        for point, end in zip(kept.points, ends, strict=False)
        if point["training/train_flops"] >= end
    ]


def _require_same_data(kept: KeptTrial, run_id: str) -> None:
    context = kept.settings["context"]
    for place in filter(None, (context["image_set"], context["scorer"])):
        if not at_hand(place).exists():
            raise UserError(
                f"Run {run_id} used {place}, which is gone: run its experiment on the same data "
                "once more, which builds it again."
            )
    if not context["image_set"]:
        return
    wanted = kept.tags["data_fingerprint"]
    found = open_image_set(at_hand(context["image_set"])).fingerprint
    if found != wanted:
        raise UserError(
            f"Run {run_id} trained on data with fingerprint {wanted}, and {context['image_set']} "
            f"now has {found}: bring the same data back."
        )


def _compare(
    rung: int, recorded: Mapping[str, float], replayed: Mapping[str, float], console: Console
) -> bool:
    table = Table("score", "recorded", "replayed", "", title=f"rung {rung}", title_justify="left")
    same = True
    for name in sorted(recorded):
        if not name.endswith(CLOCKED):
            equal = recorded[name] == replayed.get(name)
            same &= equal
            table.add_row(
                name, repr(recorded[name]), repr(replayed.get(name)), "" if equal else "differs"
            )
    console.print(table)
    return same
