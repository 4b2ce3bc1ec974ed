"""Earlier studies, from which a new one's forecast learns: those in the storage folder, and short
records of those that ended on this machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.datasets import user_cache
from tuner.experiments import EXPERIMENTS
from tuner.journal import installed
from tuner.machine import keep_figures, processor
from tuner.outlook import Course, busyness, course_from, course_of
from tuner.setting import RESULT, Setting

MOST = 20  # the newest ones
AS_LONG = 3.0  # times as long, or as short, a budget may be: others go otherwise
PREPARED_SECONDS = 3.0  # nets that score are found in this time, and not learned


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Studies that one can learn from another.

    Attributes:
        pipeline: of their trials.
        scale: "cpu" or "paper".
        slots: trials side by side.
        machine: model of CPU, cores and GPUs.
        versions: of the packages that decide.
    """

    pipeline: str
    scale: str
    slots: int
    machine: tuple[str, float, float]
    versions: tuple[tuple[str, str], ...]


def machine_of(setting: Setting) -> tuple[str, float, float]:
    """The kind of machine or cluster: the driver's CPU, and all cores and cards."""
    return processor(), setting.cpus, setting.gpus


def kind_of(setting: Setting, plan: Mapping[str, Any]) -> Kind:
    """What a study has in common with those to learn from."""
    return Kind(
        pipeline=setting.experiment.pipeline,
        scale=plan["scale"],
        slots=plan["slots"],
        machine=machine_of(setting),
        versions=tuple(sorted(installed().items())),
    )


def courses(kind: Kind, storage: Path, budget_seconds: float) -> list[tuple[Course, Course]]:
    """Similar studies that ended: what arithmetic had said of them, and what came."""
    found: dict[str, tuple[float, Course, Course]] = {}
    for ended, budget, said, came in (*_recorded(kind), *_in_storage(kind, storage)):
        if 1 / AS_LONG <= budget / budget_seconds <= AS_LONG:
            found[ended] = (budget, said, came)
    newest = sorted(found)[-MOST:]  # ISO times
    return [found[ended][1:] for ended in newest]


def keep(kind: Kind, result: Mapping[str, Any]) -> None:
    """Record how a study came out, by its `result.json`, for forecasts in other storage folders."""
    if not _teaches(result):
        return
    said, came = said_and_came(result)
    ended = str(result["created"])
    content = {"ended": ended, "budget_seconds": result["plan"]["budget_seconds"]}
    content |= {"said": asdict(said), "came": asdict(came)}
    folder = _folder(kind)
    name = hashlib.sha256(ended.encode()).hexdigest()[:16]
    keep_figures(folder / f"{name}.json", content)
    with suppress(OSError):
        for old in _newest(folder.glob("*.json"))[MOST:]:
            old.unlink()


def said_and_came(result: Mapping[str, Any]) -> tuple[Course, Course]:
    """What arithmetic said of a study, and what came, out of its `result.json`.

    Raises:
        KeyError, TypeError, ValueError: it is of a version that noted less.
    """
    timings, plan = result["timings"], result["plan"]
    end = timings.get("finals", 0.0) + timings["test"]
    rest = timings["preparation"] + timings["search"] + end
    spent = sum(timings.get(name, 0.0) for name in ("imports", "data", "plan"))
    actual = result.get("actual") or {}
    said = course_of(
        plan,
        spent=spent,
        prepared=timings["preparation"] < PREPARED_SECONDS,
        busy=busyness(timings.get("imports")),
    )
    return said, Course(
        start=result["wall_seconds"] - rest,
        preparation=timings["preparation"],
        search=timings["search"],
        end=end,
        trials=len(result["trials"]),
        finished=sum(trial["state"] == "COMPLETE" for trial in result["trials"]),
        memory=actual.get("memory_bytes"),
        disk=actual.get("disk_bytes"),
    )


_Ended = tuple[str, float, Course, Course]  # when, budget, what was said, what came


def _folder(kind: Kind) -> Path:
    digest = hashlib.sha256(json.dumps(asdict(kind), sort_keys=True).encode()).hexdigest()
    return user_cache() / "studies" / f"{kind.pipeline}-{digest[:16]}"


def _newest(files: Iterator[Path]) -> list[Path]:
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def _read(files: Iterator[Path]) -> Iterator[Any]:
    with suppress(OSError):
        for path in _newest(files)[:MOST]:
            with suppress(OSError, ValueError):
                yield json.loads(path.read_text(encoding="utf-8"))


def _recorded(kind: Kind) -> Iterator[_Ended]:
    for kept in _read(_folder(kind).glob("*.json")):
        with suppress(ValueError, TypeError, KeyError):
            said, came = course_from(kept["said"]), course_from(kept["came"])
            yield str(kept["ended"]), float(kept["budget_seconds"]), said, came


def _in_storage(kind: Kind, storage: Path) -> Iterator[_Ended]:
    for result in _read(storage.glob(f"*/{RESULT}")):
        with suppress(ValueError, TypeError, KeyError):
            if _is_similar(result, kind) and _teaches(result):
                said, came = said_and_came(result)
                budget = float(result["plan"]["budget_seconds"])
                yield str(result["created"]), budget, said, came


def _is_similar(result: Mapping[str, Any], kind: Kind) -> bool:
    """Older files do not tell the machine: their trials side by side do."""
    build, plan = EXPERIMENTS.get(result["experiment"]), result["plan"]
    machine = tuple((result.get("actual") or {}).get("machine", kind.machine))
    return (
        build is not None
        and build(plan["scale"]).pipeline == kind.pipeline
        and (plan["scale"], plan["slots"], machine) == (kind.scale, kind.slots, kind.machine)
    )


def _teaches(result: Mapping[str, Any]) -> bool:
    """Whether it went its whole way, in one session: each has a start of its own. One that had all
    trials that were asked for does not tell how many there was time for."""
    resumed = "--resume" in result["commands"].get("searched_by", "")
    had_all = len(result["trials"]) >= result["plan"].get("most_trials", math.inf)
    return result["outcome"] == "finished" and not resumed and not had_all
