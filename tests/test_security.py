"""What docs/security.md promises is held by tests that exist, and no source calls the unsafe."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p
    for room in ("tuner", "trainables", "search_spaces", "cluster")
    for p in (ROOT / room).rglob("*.py")
)
PROMISED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/security.md").read_text())


def test_every_promise_names_a_test() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    promises = re.findall(r"^- \*\*.*?(?=^- |^#|\Z)", page, re.M | re.S)
    assert len(promises) > 10
    assert all("`tests/" in promise for promise in promises)


@pytest.mark.parametrize(("file", "name"), PROMISED)
def test_a_test_that_a_promise_names_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


# What a call must not be, by the end of its name; bandit and ruff know pickle, eval, exec, shells,
# YAML and PyTorch, in `make lint`.
UNSAFE: dict[str, Callable[[ast.Call], bool]] = {
    "np.load": lambda call: keyword(call, "allow_pickle") is not False,
    "torch.load": lambda call: keyword(call, "weights_only") is not True,
    "extractall": lambda call: True,
    "unpack_archive": lambda call: True,
    "extract_archive": lambda call: True,
    "joblib.load": lambda call: True,
    "load_model_from_registry": lambda call: True,
    "pytorch.load_model": lambda call: True,
    "pyfunc.load_model": lambda call: True,
    "Tuner.restore": lambda call: True,
    "read_pickle": lambda call: True,
    "safetensors.torch.load_file": lambda call: True,  # read_weights checks what it holds
}


def unsafe(text: str) -> Iterator[str]:
    """Calls in a source that `UNSAFE` names, with their lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            for end, is_bad in UNSAFE.items():
                if (called == end or called.endswith(f".{end}")) and is_bad(node):
                    yield f"line {node.lineno}: {called}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_or_unpacks_what_it_is_given(path: Path) -> None:
    assert list(unsafe(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "tar.extractall(folder)",
        "mlflow.pytorch.load_model(uri)",
        "tune.Tuner.restore(path, trainable)",
    ],
)
def test_the_check_sees_what_it_looks_for(line: str) -> None:
    assert len(list(unsafe(line))) == 1
