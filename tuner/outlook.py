"""What a whole study will take, before it is paid for: arithmetic on its plan, and a range learned
from how earlier studies came out. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

# Of two cores that do nothing else, where nothing was recorded.
IMPORT_SECONDS = 5.0
BEFORE_SECONDS = 8.0  # imports, data that is ready, the measurement of speed
STORES_SECONDS = 12.0  # MLflow's store and Ray begin
NETS_SECONDS = 100.0  # the nets that score, of pictures that were not prepared before
ACTORS_SECONDS = 6.0  # until the first trial can see that the search is over
TEST_SECONDS = 20.0  # baselines and tests, where no time is left for finals
DRIVER_BYTES = 2.0e9  # resident: Python, torch, Ray, MLflow and the pictures
TRIAL_BYTES = 1.2e9  # resident, of a trial's process
CHECKPOINT_BYTES = 28e6  # kept of a trial, all its rungs together
FULL_SHARE = 1 / 3  # of the planned trials come to the last rung

PARTS = ("start", "preparation", "search", "end")  # of a study's time
# How it came / how it was forecast, over the studies of `docs/results.md`: the centre, and the
# spread of the logarithm. They weigh as much as `WEIGHT` studies.
DEFAULT = {
    "start": (1.0, 0.4),
    "preparation": (1.0, 0.4),
    "search": (1.02, 0.04),
    "end": (0.8, 0.2),
    "trials": (1.5, 0.4),
    "finished": (1.2, 0.45),
    "memory": (1.0, 0.3),
    "disk": (1.0, 0.6),
}
WEIGHT = 2.0
FARTHEST = 3.0  # spreads of the default that a study may be from its centre
SIGMAS = 1.64  # from the centre to either end of a range, which holds nine of ten studies


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Nine of ten studies end between `low` and `high`."""

    low: float
    expected: float
    high: float

    def at_most(self, most: float) -> Range:
        """The same where there cannot be more."""
        return Range(
            low=min(self.low, most), expected=min(self.expected, most), high=min(self.high, most)
        )

    def times(self, other: Range) -> Range:
        """A product."""
        return Range(
            low=self.low * other.low,
            expected=self.expected * other.expected,
            high=self.high * other.high,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a study takes, as arithmetic has it or as it came; None where nobody knows.

    Attributes:
        start: seconds of all that is in none of the other parts.
        preparation: seconds, of the nets that score.
        search: seconds.
        end: seconds of finals and tests.
        trials: begun.
        finished: trials that came to the last rung.
        memory: bytes, of the driver and of all trials side by side, at most.
        disk: bytes of the study's folder.
    """

    start: float
    preparation: float
    search: float
    end: float
    trials: float
    finished: float
    memory: float | None
    disk: float | None

    @property
    def seconds(self) -> float:
        """Of the whole command."""
        return self.start + self.preparation + self.search + self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a study should take; `learned_from` counts the earlier studies behind it."""

    seconds: Range
    trials: Range
    finished: Range
    memory_bytes: Range
    disk_bytes: Range
    learned_from: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild it."""
        ranges = {name: Range(**value) for name, value in data.items() if name != "learned_from"}
        return cls(**ranges, learned_from=data["learned_from"])


def busyness(imports: float | None) -> float:
    """How many times longer all takes than on a machine that does nothing else, by the seconds that
    the imports took; 1 where nobody knows."""
    return max(1.0, (imports or 0.0) / IMPORT_SECONDS)


def course_of(
    plan: Mapping[str, Any], *, spent: float, prepared: bool, busy: float = 1.0
) -> Course:
    """What arithmetic makes of a plan.

    Args:
        plan: `Plan.to_dict`, or as `result.json` has it.
        spent: seconds until there was a plan; 0 if nobody knows.
        prepared: whether the nets that score are there already.
        busy: as `busyness` has it.
    """
    trials, search = plan["trials"], plan["search_seconds"]
    return Course(
        start=max(spent, BEFORE_SECONDS) + busy * STORES_SECONDS,
        preparation=0.0 if prepared else busy * NETS_SECONDS,
        # Both fit into the budget, as far as it is long enough for them.
        search=max(search, busy * ACTORS_SECONDS),
        end=max(
            plan["budget_seconds"] - search,
            busy * TEST_SECONDS + plan.get("source_seconds", 0.0),
        ),
        trials=trials,
        finished=max(1.0, FULL_SHARE * trials),
        memory=DRIVER_BYTES + plan["slots"] * TRIAL_BYTES,
        disk=CHECKPOINT_BYTES * trials,
    )


def forecast(
    plan: Course, earlier: Sequence[tuple[Course, Course]], *, most: float = math.inf
) -> Forecast:
    """What a study should take.

    The ratios of what came to what arithmetic had said are taken to be log-normal; with few of
    them, the default holds for the most part.

    Args:
        plan: what arithmetic says.
        earlier: the same of similar studies, and what came.
        most: trials that were asked for; the search ends with them, and the finals may use what
            it leaves of its time.
    """
    ratios = {name: _ratio(name, earlier) for name in DEFAULT}

    def ranged(name: str) -> Range:
        (centre, spread), value = ratios[name], getattr(plan, name)
        return Range(
            low=value * math.exp(centre - SIGMAS * spread),
            expected=value * math.exp(centre),
            high=value * math.exp(centre + SIGMAS * spread),
        )

    begun = ranged("trials")
    share = Range(  # of the search, until those that were asked for have ended
        low=most / begun.high, expected=most / begun.expected, high=most / begun.low
    ).at_most(1.0)
    rest = [ranged(part) for part in PARTS if part != "search"]
    return Forecast(
        seconds=_total([ranged("search").times(share), *rest]),
        trials=begun.at_most(most),
        finished=ranged("finished").at_most(most),
        memory_bytes=ranged("memory"),
        disk_bytes=ranged("disk").times(share),
        learned_from=len(earlier),
    )


def _ratio(name: str, earlier: Sequence[tuple[Course, Course]]) -> tuple[float, float]:
    """Centre and spread of the logarithm of what came / what was said; one study that went wholly
    otherwise teaches no more than one at `FARTHEST`."""
    default, spread = math.log(DEFAULT[name][0]), DEFAULT[name][1]
    both = [(getattr(said, name), getattr(came, name)) for said, came in earlier]
    off_by = [math.log(came / said) - default for said, came in both if said and came]
    most = FARTHEST * spread
    found = [default + min(most, max(-most, off)) for off in off_by]
    count = WEIGHT + len(found)
    centre = (WEIGHT * default + sum(found)) / count
    off = WEIGHT * (spread**2 + (default - centre) ** 2) + sum((x - centre) ** 2 for x in found)
    return centre, math.sqrt(off / count)


def _total(parts: Sequence[Range]) -> Range:
    """Of parts whose errors have nothing to do with one another."""
    expected = sum(part.expected for part in parts)
    return Range(
        low=expected - math.hypot(*(part.expected - part.low for part in parts)),
        expected=expected,
        high=expected + math.hypot(*(part.high - part.expected for part in parts)),
    )


def course_from(data: Mapping[str, Any]) -> Course:
    """Rebuild a course from plain data.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    known: dict[str, Any] = {field.name: data[field.name] for field in fields(Course)}
    if not all(value is None or 0 <= value < math.inf for value in known.values()):
        raise ValueError("A course must be of finite numbers from 0 on.")
    return Course(**known)
