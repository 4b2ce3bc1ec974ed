"""`launch all`: one study of every experiment, one after another, under one budget."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.durable import write_whole
from trainables.errors import UserError
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED, NOTHING_SUCCEEDED
from tuner.journal import DELIVERED, Journal
from tuner.journal_file import is_begun
from tuner.opening import conduct
from tuner.request import SIZE, Request, is_study_name
from tuner.result import load
from tuner.setting import RESULT, look_around
from tuner.tracking_uri import strip_credentials

RECORD, LOCK = "all.json", "all.lock"  # in the storage folder: what a resume goes by, and its lock
LEAST_SHARE = 0.5  # of an equal one, for those that come after studies that took too long
# What is recorded of a request, and what stands for an option that was not given.
OPTIONS: dict[str, Any] = {
    "trials": None,
    "budget_seconds": None,
    "scale": "auto",
    "seed": 0,
    "data_root": None,
    "size": SIZE,
    "tracking_uri": None,
    "address": None,
    "cpus_per_trial": None,
    "gpus_per_trial": None,
    "fast_gpu": True,
    "sampler": None,
    "objectives": None,
}


@dataclass(slots=True, kw_only=True)
class _Record:
    """What `RECORD` holds: the options, the seconds spent so far, and studies by experiment."""

    options: dict[str, Any]
    spent: float = 0.0
    studies: dict[str, str] = field(default_factory=dict)
    written: bool = False  # so that a resume finds it

    def write(self, path: Path) -> None:
        """The caller holds the lock."""
        content = {"options": self.options, "spent": self.spent, "studies": self.studies}
        write_whole(path, json.dumps(content, indent=1).encode())
        self.written = True

    def share(self, budget: float | None, left: int, of: int) -> float | None:
        """The next study's budget, of `left` that share what is left of `budget`."""
        if budget is None:
            return None
        return max((budget - self.spent) / left, LEAST_SHARE * budget / of)


def conduct_all(request: Request, names: tuple[str, ...]) -> int:
    """Run or resume the studies -> exit code: as `conduct`, and 1 if any of them gives 1.

    Args:
        request: its experiment is not looked at; a resume takes up what it leaves open from the
            request before. Its budget is shared by the studies that are not done.
    Raises:
        UserError: the request cannot be met, there is nothing to resume, or another process is
            running all of them in this storage.
    """
    with nullcontext() if request.dry_run else _alone(request.storage):
        return _conduct_held(request, names)


def _conduct_held(request: Request, names: tuple[str, ...]) -> int:
    path = request.storage / RECORD
    anew = request.resume and request.budget_seconds is not None
    record = _Record(options={})
    if request.resume:
        record = _recorded(path)
        request = _completed(request, record.options)
    record.options = _options(request)
    record.spent = 0.0 if anew else record.spent
    try:
        return _conduct_all(request, names, record, path, anew=anew)
    except (UserError, KeyboardInterrupt) as error:
        if not record.written or request.dry_run:
            raise
        _say_what_is_left(request)
        if isinstance(error, UserError):
            raise
        request.events.tell("interrupted", exit_code=INTERRUPTED)
        return INTERRUPTED
    except Exception as error:  # the record could not be written
        from tuner.breakdown import breakdown_behind  # and with it Ray

        breakdown = breakdown_behind(error, request.storage)
        if breakdown is None:
            raise
        then = "" if record.written else ", then run the same command again"
        print(f"Stopped: {breakdown}{then}", file=sys.stderr)
        request.events.tell("error", error=f"Stopped: {breakdown}", exit_code=BROKEN_DOWN)
        if record.written:
            _say_what_is_left(request)
        return BROKEN_DOWN


@contextmanager
def _alone(storage: Path) -> Iterator[None]:
    """No other process runs all experiments in this storage: both would write one record."""
    storage.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(storage / LOCK).acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"All experiments are running in {storage} already: wait for them, or choose another "
            "--storage."
        ) from None
    with held:
        yield


def _conduct_all(
    request: Request, names: tuple[str, ...], record: _Record, path: Path, *, anew: bool
) -> int:
    worst = 0
    done = [name for name in names if _is_done(request.storage, record.studies.get(name))]
    left = len(names) - len(done)
    for number, name in enumerate(names, start=1):
        _say(request, f"\n{number} of {len(names)}: {name}")
        study = record.studies.get(name)
        if name in done:
            path_of_result = request.storage / str(study) / RESULT
            _say(request, f"done, see {path_of_result}")
            worst = max(worst, _code(path_of_result))
            if not request.dry_run and _is_untold(request.storage, str(study)):
                own = replace(request, experiment=name, study=study, trials=None)
                worst = max(worst, conduct(replace(own, resume=True, budget_seconds=None)))
            continue
        share = record.share(request.budget_seconds, left, len(names))
        own = replace(request, experiment=name, budget_seconds=share, resume=False)
        if study is not None and is_begun(request.storage / study):
            # Its plan knows what is left of its share, unless there is another budget.
            own = replace(own, study=study, resume=True, budget_seconds=share if anew else None)
        elif not request.dry_run:
            own = replace(own, study=look_around(own, None).study)
            record.studies[name] = str(own.study)
        code = _timed(own, record, path)
        if code in (INTERRUPTED, BROKEN_DOWN):
            _say_what_is_left(request)
            return code
        worst = max(worst, code)
        left -= not request.dry_run  # which spends nothing
    if not request.dry_run:
        report = [sys.executable, "-m", "tuner.report", "table1", "--storage", str(request.storage)]
        _say(request, f"\nTable 1: {shlex.join(report)}")
    return worst


def _say(request: Request, line: str) -> None:
    if not request.quiet:
        print(line, flush=True)


def _timed(request: Request, record: _Record, path: Path) -> int:
    """Conduct a study, and record what it took, however it ends."""
    if request.dry_run:
        return conduct(request)
    record.write(path)
    began = time.monotonic()
    try:
        return conduct(request)
    except UserError:
        if not request.resume:  # its name may have become another process's
            del record.studies[request.experiment]
        raise
    finally:
        record.spent += time.monotonic() - began
        record.write(path)


def _options(request: Request) -> dict[str, Any]:
    """What a resume takes up, as plain data; passwords come from the environment, as they did."""
    options = {name: getattr(request, name) for name in OPTIONS}
    if request.data_root is not None:
        options["data_root"] = str(request.data_root.absolute())
    if request.tracking_uri is not None:
        options["tracking_uri"] = strip_credentials(request.tracking_uri)
    return options


def _completed(request: Request, options: dict[str, Any]) -> Request:
    """A request with the options of the one before, where it gives none anew."""
    left = {n: options[n] for n, unset in OPTIONS.items() if getattr(request, n) == unset}
    if left.get("data_root") is not None:
        left["data_root"] = Path(left["data_root"])
    if left.get("objectives") is not None:
        left["objectives"] = tuple(left["objectives"])
    return replace(request, **left)


def _recorded(path: Path) -> _Record:
    try:
        record = _Record(**json.loads(path.read_text(encoding="utf-8")), written=True)
        if not (set(OPTIONS) <= set(record.options) and record.spent >= 0):
            raise ValueError
        if not all(map(is_study_name, record.studies.values())):
            raise ValueError
    except FileNotFoundError:
        raise UserError(
            f"There is no run of all experiments in {path.parent} to resume: leave --resume out."
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} must be what a run of all experiments wrote, and is damaged or of another "
            "version: resume its studies one by one, by their experiments' names."
        ) from error
    return record


def _is_done(storage: Path, study: str | None) -> bool:
    return study is not None and (storage / study / RESULT).is_file()


def _code(result: Path) -> int:
    """Exit code of a study that is done."""
    return 0 if load(result).best is not None else NOTHING_SUCCEEDED


def _is_untold(storage: Path, study: str) -> bool:
    """Whether a study ended before MLflow had all of it."""
    if not (storage / study / "journal.log").is_file():
        return False
    with Journal(storage, study) as journal:
        return journal.attr(DELIVERED) is False


def _say_what_is_left(request: Request) -> None:
    words = [sys.executable, "-m", "tuner.launch", "all", "--resume"]
    words += ["--storage", request.bucket or str(request.storage)]
    words += ["--on-finish", shlex.join(request.on_finish)] if request.on_finish else []
    print(f"All that is left: {shlex.join(words)}", file=sys.stderr)
