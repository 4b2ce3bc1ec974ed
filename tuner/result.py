"""The result of a study: what `result.json` holds, written, checked and read back.

`python -m tuner.result` prints the document's description, from which `docs/result.md` is made.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import jsonschema

from trainables.durable import write_whole
from trainables.errors import UserError
from trainables.outside import is_inside
from tuner import VERSION
from tuner.schemas import schema_of

if TYPE_CHECKING:
    from tuner.registered_models import Version

FORMAT = 1
Metrics = dict[str, float]
State = Literal["COMPLETE", "PRUNED", "FAIL"]
Outcome = Literal["finished", "interrupted", "nothing succeeded"]
PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The images; fields as in the schema."""

    name: str
    stand_in: bool
    fingerprint: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Scores of a trial at one rung; compute in FLOPs."""

    rung: int
    train_flops: float
    metrics: Metrics
    complete: bool = True  # older files have full rungs alone, or do not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One trial; fields as in the schema."""

    number: int
    label: str
    state: State
    reason: str
    params: dict[str, Any]
    config: dict[str, Any]
    seed: int
    updates: int
    train_flops: float
    train_seconds: float
    score_seconds: float
    rungs: tuple[Rung, ...]
    scores: Metrics | None
    mlflow_run_id: str | None
    checkpoint: str | None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The champion; `grid` and `weights` are paths as in the schema."""

    number: int
    label: str
    params: dict[str, Any]
    scores: Metrics
    grid: str | None
    weights: str | None
    config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontTrial:
    """A trial of the Pareto front, and its objectives by name."""

    number: int
    values: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Pareto:
    """Trials that no other beats in all objectives, best L first; directions by objective."""

    objectives: dict[str, str]
    front: tuple[FrontTrial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestScore:
    """The champion on the test classes, with 95 % intervals (low, high) by score."""

    __test__ = False  # no test case, whatever its name suggests to pytest

    classes: tuple[str, ...]
    episodes: int
    adapt_steps: int
    metrics: Metrics
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """One of the best trials, trained again; scores are means over seeds and fresh episodes, with
    95 % intervals over both."""

    number: int
    label: str
    adapt_steps: int
    metrics: Metrics
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rematch:
    """The best trials again, the winner first; `margin` is the 95 % interval of the second's L less
    the winner's."""

    seeds: int
    episodes: int
    finalists: tuple[Finalist, ...]
    margin: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Whether the alias `@champion` of the registered model `name` went to this study's best;
    fields as in the schema."""

    name: str
    crowned: bool
    reason: str
    against: int | None = None
    margin: tuple[float, float] | None = None
    against_run: str | None = None  # files of older studies have none
    decided: bool = True

    def is_against(self, version: Version | None) -> bool:
        """Whether the verdict is about this champion; a number alone may be another store's."""
        there = (None, None) if version is None else (version.number, version.run_id)
        return there == (self.against, self.against_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The paper's settings after as much training compute as any trial, on the test classes."""

    number: int
    label: str
    test: TestScore


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingPlace:
    """Where the runs are; `uri` without credentials."""

    uri: str
    experiment_id: str
    parent_run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study did and found; fields and units as in `result.schema.json`.

    Attributes:
        folder: of the study, which relative paths are relative to; not part of the file.
    """

    folder: Path = field(compare=False)
    study: str
    experiment: str
    created: str
    outcome: Outcome
    data: Data
    plan: dict[str, Any]
    wall_seconds: float
    timings: dict[str, float]
    trials: tuple[TrialResult, ...]
    null_baselines: dict[str, dict[str, Metrics]]
    fidelity: dict[str, float]
    rematch: Rematch | None
    best: Best | None
    test: TestScore | None
    reference: Reference | None
    gate: Gate | None
    verdict: str
    versions: dict[str, str]
    git_commit: str | None
    tracking: TrackingPlace | None
    commands: dict[str, str]
    pareto: Pareto | None = None  # files of older studies have none
    null_intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)  # nor
    forecast: dict[str, Any] | None = None  # nor
    actual: dict[str, Any] | None = None  # nor

    def to_dict(self) -> dict[str, Any]:
        """The document, plain JSON types only.

        Raises:
            ValueError: a number is not finite, or a value is not plain data; says where.
        """
        document = asdict(self)
        del document["folder"]
        if bad := next(_not_finite(document), None):
            raise ValueError(f"A result must hold finite numbers only, got {bad}.")
        plain: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **document}))
        return plain

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], folder: Path) -> Self:
        """Rebuild a result from a valid document."""
        fields = {name: value for name, value in document.items() if name != "format"}
        fields["data"] = Data(**fields["data"])
        fields["trials"] = tuple(_trial(trial) for trial in fields["trials"])
        if fields["best"] is not None:
            fields["best"] = Best(**fields["best"])
        if fields["test"] is not None:
            fields["test"] = _test(fields["test"])
        for name in ("fidelity", "rematch", "gate"):  # absent in earlier results
            fields.setdefault(name, {} if name == "fidelity" else None)
        if fields["rematch"] is not None:
            fields["rematch"] = _rematch(fields["rematch"])
        if fields["gate"] is not None:
            fields["gate"] = Gate(**fields["gate"] | {"margin": _ends(fields["gate"]["margin"])})
        if fields["reference"] is not None:
            test = _test(fields["reference"]["test"])
            fields["reference"] = Reference(**fields["reference"] | {"test": test})
        if fields.get("pareto") is not None:
            front = tuple(FrontTrial(**trial) for trial in fields["pareto"]["front"])
            fields["pareto"] = Pareto(**fields["pareto"] | {"front": front})
        fields["null_intervals"] = {
            name: {score: (low, high) for score, (low, high) in own.items()}
            for name, own in fields.get("null_intervals", {}).items()
        }
        if fields["tracking"] is not None:
            fields["tracking"] = TrackingPlace(**fields["tracking"])
        return cls(folder=folder, **fields)

    def write(self, path: Path) -> None:
        """Write the document, whole or not at all.

        Raises:
            ValueError: it would not be valid; nothing is written.
        """
        document = self.to_dict()
        validate(document)
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(path, f"{text}\n".encode())


def load(path: Path) -> StudyResult:
    """Read a `result.json`.

    Raises:
        UserError: it is missing, no JSON, does not follow the schema, or names files of the best
            trial outside of its folder, which would be published from there.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        validate(document)
        _require_own_files(document["best"] or {}, path.parent)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no result of a study: {error}") from error
    return StudyResult.from_dict(document, path.parent)


def _require_own_files(best: Mapping[str, Any], folder: Path) -> None:
    for name in ("grid", "weights", "config"):
        place = best.get(name)
        if place is not None and not is_inside(folder / place, folder):
            raise ValueError(f"$.best.{name}: {place!r} lies outside of the study's folder")


def validate(document: object) -> None:
    """Check a document against the schema.

    Raises:
        ValueError: the first thing that is wrong, with its place, in one line.
    """
    error = jsonschema.exceptions.best_match(_validator().iter_errors(document))
    if error is not None:
        message = str(error.message)
        short = message if len(message) <= 200 else f"{message[:80]} ... {message[-110:]}"
        raise ValueError(f"{error.json_path}: {short}")


def in_study(path: Path | None, folder: Path) -> str | None:
    """`path` as the file holds it: relative if it lies in the study's folder, else absolute."""
    if path is None:
        return None
    absolute, root = path.absolute(), folder.absolute()
    return str(absolute.relative_to(root) if absolute.is_relative_to(root) else absolute)


def versions() -> dict[str, str]:
    """Versions of Python, the frameworks and this project ("" if one is not installed)."""
    found = {"python": platform.python_version(), "few-shot-tuner": VERSION}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def git_commit() -> str | None:
    """Commit of this code, with "-dirty" if files differ; None if it is not a git checkout."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        # Constant arguments.
        done = subprocess.run(  # noqa: S603  # nosec B603
            command, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # else some other project's checkout
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None


def describe_schema() -> str:
    """The schema as a Markdown table, one row a property: the body of `docs/result.md`."""
    lines = ["| property | type | meaning |", "|---|---|---|"]
    for name, node in _properties(schema_of("result"), ""):
        lines.append(f"| `{name}` | {_type(node)} | {node.get('description', '')} |")
    lines += ["", "Scores (`metrics`, `scores`):", "", "| score | meaning |", "|---|---|"]
    scores = schema_of("result")["$defs"]["metrics"]["properties"]
    lines += [f"| `{name}` | {node['description']} |" for name, node in scores.items()]
    return "\n".join(lines) + "\n"


def _properties(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        yield f"{prefix}{name}", child
        yield from _properties(child, f"{prefix}{name}.")
        if "items" in child:
            yield from _properties(child["items"], f"{prefix}{name}[].")
        if child.get("$ref") == "#/$defs/baseline":
            yield from _properties(schema_of("result")["$defs"]["baseline"], f"{prefix}{name}.")


def _type(node: Mapping[str, Any]) -> str:
    if "const" in node:
        return json.dumps(node["const"])
    if "enum" in node:
        return " or ".join(json.dumps(value) for value in node["enum"])
    if "anyOf" in node:
        return " or ".join(_type(choice) for choice in node["anyOf"])
    if "$ref" in node:
        return "scores" if node["$ref"].endswith("metrics") else "object"
    kind = node["type"]
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema_of("result"))


def _trial(document: Mapping[str, Any]) -> TrialResult:
    rungs = tuple(Rung(**rung) for rung in document["rungs"])
    return TrialResult(**{**document, "rungs": rungs})


def _test(document: Mapping[str, Any]) -> TestScore:
    classes = tuple(document["classes"])
    return TestScore(**_with_intervals(document) | {"classes": classes})


def _rematch(document: Mapping[str, Any]) -> Rematch:
    finalists = tuple(Finalist(**_with_intervals(one)) for one in document["finalists"])
    margin = _ends(document["margin"])
    return Rematch(**{**document, "finalists": finalists, "margin": margin})


def _with_intervals(document: Mapping[str, Any]) -> dict[str, Any]:
    intervals = {name: (low, high) for name, (low, high) in document["intervals"].items()}
    return {**document, "intervals": intervals}


def _ends(margin: Any) -> tuple[float, float] | None:
    return None if margin is None else (margin[0], margin[1])


def _not_finite(value: Any, place: str = "$") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _not_finite(inner, f"{place}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place} = {value}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


if __name__ == "__main__":
    print(describe_schema(), end="")
