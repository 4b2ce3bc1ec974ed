"""The command that goes on with a study, and the one that a session of it was begun by."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tuner.setting import SIZE, Request, Setting, is_name
from tuner.tracking_uri import resolve_uri, strip_credentials


def resume_command(setting: Setting, *more: str) -> str:
    """What goes on with this study, from any folder; credentials come from the environment, as
    they did."""
    request, uri = setting.request, setting.request.tracking_uri
    named = request.data is None or is_name(request.data)
    # Said even where the environment said it, which may be another one then.
    read = named and not setting.data.stand_in
    root = Path(setting.data.source) if read else request.data_root
    words = [sys.executable, "-m", "tuner.launch", request.experiment, "--resume"]
    words += ["--study", setting.study, "--storage", str(request.storage)]
    for option, value in (
        ("--scale", None if request.scale == "auto" else request.scale),
        ("--data-root", root and root.absolute()),
        ("--data", request.data and (request.data if named else request.data.absolute())),
        ("--size", None if request.size == SIZE else request.size),
        ("--target", request.target and ",".join(request.target)),
        ("--base", request.base and ",".join(request.base)),
        ("--address", request.address),
        ("--tracking-uri", uri and strip_credentials(resolve_uri(uri, request.storage))),
    ):
        if value:
            words += [option, str(value)]
    return shlex.join([*words, *more])


def typed_command(request: Request) -> str:
    """The command that a request came from, without where its data and results are."""
    words = ["python", "-m", "tuner.launch", request.experiment]
    words += ["--resume"] if request.resume else []
    budget = request.budget_seconds
    for option, value in (
        ("--budget", None if budget is None else f"{budget:.0f}s"),
        ("--trials", request.trials),
        ("--scale", None if request.scale == "auto" else request.scale),
        ("--seed", None if request.resume else str(request.seed)),
        ("--sampler", request.sampler),
        ("--objectives", request.objectives and ",".join(request.objectives)),
        ("--data", request.data),
        ("--size", None if request.size == SIZE else request.size),
        ("--target", request.target and ",".join(request.target)),
        ("--base", request.base and ",".join(request.base)),
        ("--cpus-per-trial", request.cpus_per_trial),
        ("--gpus-per-trial", request.gpus_per_trial),
        *(("--point", point) for point in request.points),
        *(("--warm-start", study) for study in request.warm_start),
    ):
        if value is not None:
            words += [option, str(value)]
    return shlex.join(words)
