"""The command that goes on with a study, and the one that a session of it was begun by."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from trainables.datasets import PUBLISHED
from tuner.request import SIZE, Request, is_name
from tuner.setting import Setting
from tuner.tracking_uri import resolve_uri, strip_credentials


def resume_command(setting: Setting, *more: str) -> str:
    """What goes on with this study, from any folder; credentials come from the environment, as
    they did."""
    request, uri = setting.request, setting.request.tracking_uri
    named = request.data is None or is_name(request.data)
    # Said even where the environment said it, which may be another one then.
    read = named and setting.data.name in PUBLISHED
    root = Path(setting.data.source) if read else request.data_root
    words = [sys.executable, "-m", "tuner.launch", request.experiment, "--resume"]
    words += ["--study", setting.study, "--storage", request.bucket or str(request.storage)]
    words += _given(
        *(("--plugin", path.absolute()) for path in request.plugins),
        ("--data-root", root and root.absolute()),
        ("--data", request.data and (request.data if named else request.data.absolute())),
        *_subject(request),
        ("--address", request.address),
        ("--tracking-uri", uri and strip_credentials(resolve_uri(uri, request.storage))),
        ("--on-finish", shlex.join(request.on_finish) or None),
    )
    return shlex.join([*words, *more])


def ways_on(setting: Setting) -> str:
    """What to type about a study that goes on in the background."""
    storage = setting.request.storage
    default = storage == Path("runs").absolute()
    study = setting.study if default else shlex.quote(str(setting.folder))
    return (
        f"Study {setting.study} goes on in the background:\n"
        f"  python -m tuner.status {study}\n"
        f"  python -m tuner.logs {study} --follow\n"
        f"  python -m tuner.stop {study}"
    )


def typed_command(request: Request) -> str:
    """The command that a request came from, without where its data and results are."""
    words = ["python", "-m", "tuner.launch", request.experiment]
    words += ["--resume"] if request.resume else []
    words += [] if request.fast_gpu else ["--no-fast-gpu"]
    budget = request.budget_seconds
    words += _given(
        *(("--plugin", path) for path in request.plugins),
        ("--budget", None if budget is None else f"{budget:.0f}s"),
        ("--trials", request.trials),
        ("--seed", None if request.resume else request.seed),
        ("--sampler", request.sampler),
        ("--objectives", request.objectives and ",".join(request.objectives)),
        ("--data", request.data),
        *_subject(request),
        ("--cpus-per-trial", request.cpus_per_trial),
        ("--gpus-per-trial", request.gpus_per_trial),
        *(("--point", point) for point in request.points),
        *(("--warm-start", study) for study in request.warm_start),
    )
    return shlex.join(words)


def _subject(request: Request) -> list[tuple[str, object]]:
    """Options that say which nets, pictures and classes a study is of."""
    return [
        ("--scale", None if request.scale == "auto" else request.scale),
        ("--size", None if request.size == SIZE else request.size),
        ("--target", request.target and ",".join(request.target)),
        ("--base", request.base and ",".join(request.base)),
    ]


def _given(*options: tuple[str, object]) -> list[str]:
    """The words of those that have a value."""
    return [word for name, value in options if value is not None for word in (name, str(value))]
