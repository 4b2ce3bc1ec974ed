"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"tuner", "trainables", "search_spaces", "cluster"}
FRAMEWORKS = {"ray", "optuna", "mlflow", "torch"}

ALLOWED = {
    "cluster": {"cluster", "ray"},
    "trainables": {"trainables", "torch"},
    "search_spaces": {"search_spaces", "trainables", "optuna"},
    "tuner": {"tuner", "trainables", "search_spaces", "cluster", "ray", "optuna", "torch"},
}
EXCEPTIONS = {
    "trainables/trainable.py": {"ray"},  # the Ray adapter
    "tuner/run_store.py": {"mlflow"},  # the store behind tracking
    "tuner/registered_models.py": {"mlflow"},  # what reads its models
    "tuner/store_failures.py": {"mlflow"},  # what tells its errors
    "tuner/store_client.py": {"mlflow"},  # what opens it
    "tuner/kept_trial.py": {"mlflow"},  # what reads a trial of it
    "tuner/served.py": {"mlflow"},  # what MLflow serves
}


def _sources() -> list[Path]:
    return [path for package in sorted(OURS) for path in sorted((ROOT / package).rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            yield node.module or ""


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stay_in_their_rooms(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    allowed = ALLOWED[path.relative_to(ROOT).parts[0]] | EXCEPTIONS.get(name, set())
    roots = {module.partition(".")[0] for module in _imports(path)}
    assert roots & (OURS | FRAMEWORKS) <= allowed


def test_every_package_is_packaged() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for init in ROOT.glob("*/**/__init__.py"):
        folder = init.parent.relative_to(ROOT)
        if folder.parts[0] in OURS:
            assert f'"{".".join(folder.parts)}"' in text
