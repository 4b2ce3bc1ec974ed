"""What nodes are asked before a study, and what is said of their answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray

from cluster.resources import Node
from trainables.addresses import impatient
from trainables.errors import UserError
from tuner import premises
from tuner.premises import SAME, packages, require_nodes

NODES = (Node(cpus=0, name="head", id="00"), Node(cpus=2, name="10.0.0.2", id="02"))


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has nodes say what they should, but for what is given."""

    def set_answer(said: Exception | None = None, *, writes: bool = True, **other: Any) -> None:
        good = {
            "missing": None,
            "versions": {name: version(name) for name in SAME},
            "shared": True,
            "unwritable": None,
        }

        def ask_each(
            nodes: Any, _question: Any, _modules: Any, _names: Any, folder: Path, **_: Any
        ):
            assert [node.name for node in nodes] == ["10.0.0.2"]  # the head runs no trials
            assert (folder / "driver").is_file()
            for node in nodes:
                if writes:
                    (folder / node.id).touch()
                yield node, said if said is not None else good | other

        monkeypatch.setattr(premises, "ask_each", ask_each)

    return set_answer


def test_nodes_that_have_all_are_accepted_and_nothing_is_left(
    answer: Callable[..., None], tmp_path: Path
) -> None:
    answer(versions={"torch": version("torch").partition("+")[0] + "+cu128"})
    require_nodes(NODES, tmp_path / "runs" / "not there yet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"missing": "ModuleNotFoundError: No module named 'torch'"}, "No module named 'torch'"),
        ({"versions": {"torch": "1.0.0"}}, r"10.0.0.2 has torch 1.0.0, and this command"),
        ({"shared": False}, r"must be shared by all nodes, and node 10.0.0.2 .* bucket"),
        ({"writes": False}, r"must be shared by all nodes"),  # it wrote, and not here
        ({"unwritable": "Read-only file system"}, r"cannot write .*Read-only file system"),
        ({"said": TimeoutError("it did not answer within 300 s")}, "did not answer within 300 s"),
    ],
)
def test_what_a_node_lacks_is_told_in_one_line(
    answer: Callable[..., None], tmp_path: Path, said: dict[str, Any], line: str
) -> None:
    answer(**said)
    with pytest.raises(UserError, match=line) as caught:
        require_nodes(NODES, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("torch", "answered", "line"),
    [
        (None, True, None),
        ("1.0.0", True, "has torch 1.0.0"),
        (None, False, "did not answer within"),
    ],
)
def test_a_node_that_joins_late_is_asked_the_same_and_nothing_is_left(
    torch: str | None,
    answered: bool,
    line: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: dict[str, Any] = {"missing": None, "shared": True, "unwritable": None}
    said["versions"] = {name: version(name) for name in SAME} | ({"torch": torch} if torch else {})

    def ask(node: Node, _question: Any, _modules: Any, _names: Any, place: Path) -> Any:
        assert (place / "driver").is_file()
        (place / node.id).touch()
        return said

    monkeypatch.setattr(premises, "ask", ask)
    monkeypatch.setattr(premises, "has_answered", lambda _asked: answered)
    monkeypatch.setattr(premises, "answer_to", lambda asked: asked)
    question = premises.Question(NODES[1], tmp_path)
    assert question.is_answered() is answered
    if not answered:
        monkeypatch.setattr(question, "_until", 0.0)
        assert question.is_answered()
    fault = question.fault()
    assert (fault is None) is (line is None)
    assert line is None or (fault is not None and line in fault)
    assert list(tmp_path.iterdir()) == []
    premises.Question(NODES[1], tmp_path).drop()
    assert list(tmp_path.iterdir()) == []


def test_a_node_looks_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent to it, run here."""
    monkeypatch.setattr(ray, "get_runtime_context", lambda: Mock(get_node_id=lambda: "02"))
    look, unknown = premises._look(), "nothing_of_the_kind"
    assert f"No module named '{unknown}'" in look([unknown], [], tmp_path)["missing"]
    seen = look(["json"], ["numpy"], tmp_path)
    assert (seen["missing"], seen["shared"]) == (None, False)
    assert seen["versions"] == {"numpy": version("numpy")}
    (tmp_path / "driver").touch()
    assert look([], [], tmp_path)["shared"]
    in_a_bucket = look([], [], (tmp_path / "driver").as_uri())  # where nothing can be written
    assert in_a_bucket["unwritable"]


def test_a_node_asks_googles_bucket_for_seconds() -> None:
    with premises._shared(Path("runs"), "gs://bucket/runs") as place:
        assert place == impatient("gs://bucket/runs") != "gs://bucket/runs"


def test_a_node_needs_no_mlflow() -> None:
    """The driver alone speaks to it, so that nodes need neither its packages nor its account."""
    code = (
        f"import importlib, sys\nfor name in {premises.MODULES}: importlib.import_module(name)\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_packages_are_sent(tmp_path: Path) -> None:
    assert {path.name for path in packages()} == {
        *("tuner", "trainables", "search_spaces", "cluster")
    }
    assert all((path / "__init__.py").is_file() for path in packages())
