"""What must hold on every node of a cluster before a study begins there."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cluster
import search_spaces
import trainables
import tuner
from cluster.nodes import answer_to, ask, ask_each, has_answered, silent
from cluster.resources import Node
from trainables.addresses import impatient
from trainables.errors import UserError, one_line
from trainables.pipeline import PIPELINES

ANSWER_SECONDS = 300.0  # a node's first process imports torch, from a slow disk perhaps
SAME = ("torch", "numpy", "scipy", "safetensors")  # packages that scores and checkpoints depend on
MODULES = (  # all that a node is asked for
    "trainables.trainable",
    "tuner.final_tasks",
    *(place.partition(":")[0] for place in PIPELINES.values() if isinstance(place, str)),
)


def packages() -> tuple[Path, ...]:
    """Folders of this project's packages, for nodes that do not have them."""
    ours = (tuner, trainables, search_spaces, cluster)
    return tuple(Path(package.__path__[0]).resolve() for package in ours)


def require_nodes(nodes: Sequence[Node], storage: Path, bucket: str | None = None) -> None:
    """Every node that may run trials has what these import, in the same versions, and shares the
    storage folder with this process: found out on the node itself.

    Args:
        nodes: of the cluster.
        storage: folder of all studies; it need not exist.
        bucket: address of the storage, if it is one.
    Raises:
        UserError: a node has not; nothing was started there, and nothing is left behind.
    """
    working = [node for node in nodes if node.cpus or node.gpus]
    with _shared(storage, bucket) as place:
        answers = ask_each(working, _look(), MODULES, SAME, place, seconds=ANSWER_SECONDS)
        faults = [
            fault
            for node, answer in answers
            if (fault := _fault(node, answer, place, bucket or storage)) is not None
        ]
    if faults:
        others = f" (and {len(faults) - 1} more of {len(working)})" if faults[1:] else ""
        raise UserError(faults[0] + others)


class Question:
    """The same to one node, which answers while something else is done."""

    def __init__(self, node: Node, storage: Path, bucket: str | None = None) -> None:
        """Ask; as `require_nodes`.

        Raises:
            OSError: the storage cannot be written.
        """
        self._node, self._storage = node, bucket or storage
        self._until = time.monotonic() + ANSWER_SECONDS
        self._left = ExitStack()
        self._place = self._left.enter_context(_shared(storage, bucket))
        self._asked = ask(node, _look(), MODULES, SAME, self._place)

    def is_answered(self) -> bool:
        """Whether it has, or is not waited for any more."""
        return has_answered(self._asked) or time.monotonic() > self._until

    def fault(self) -> str | None:
        """What the node lacks, and the way out; None where it has all."""
        late = not has_answered(self._asked)
        answer = silent(ANSWER_SECONDS) if late else answer_to(self._asked)
        with self._left:
            return _fault(self._node, answer, self._place, self._storage)

    def drop(self) -> None:
        """Leave nothing behind of a question whose answer nobody wants any more."""
        self._left.close()


def _shared(storage: Path, bucket: str | None) -> AbstractContextManager[Path | str]:
    """What a node looks for."""
    return _folder_beside(storage) if bucket is None else nullcontext(impatient(bucket))


@contextmanager
def _folder_beside(storage: Path) -> Iterator[Path]:
    """A folder with a file in it, in the storage or where that will be made."""
    place = next(there for there in (storage, *storage.parents) if there.exists())
    folder = Path(tempfile.mkdtemp(prefix=".few-shot-tuner-", dir=place))
    try:
        (folder / "driver").touch()  # what a node looks for
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _look() -> Any:
    """What is run on a node; a closure, which is sent by value, since nothing of ours may be there
    to import."""

    def look(modules: Sequence[str], names: Sequence[str], place: Path | str) -> dict[str, Any]:
        import importlib
        import importlib.metadata
        import pathlib

        import pyarrow.fs
        import ray

        seen: dict[str, Any] = {"missing": None, "versions": {}, "shared": True, "unwritable": None}
        try:
            for module in modules:
                importlib.import_module(module)
            seen["versions"] = {name: importlib.metadata.version(name) for name in names}
        except Exception as error:  # a broken library may raise anything
            seen["missing"] = " ".join(f"{type(error).__name__}: {error}".split())
        try:
            own = ray.get_runtime_context().get_node_id()
            if isinstance(place, str):
                store, root = pyarrow.fs.FileSystem.from_uri(place)
                with store.open_output_stream(f"{root}/.node-{own}"):
                    pass
                store.delete_file(f"{root}/.node-{own}")
            elif pathlib.Path(place, "driver").is_file():
                pathlib.Path(place, own).touch()
            else:
                seen["shared"] = False
        except OSError as error:
            seen["unwritable"] = " ".join((error.strerror or str(error)).split())
        return seen

    return look


def _fault(
    node: Node,
    answer: Mapping[str, Any] | Exception,
    place: Path | str,
    storage: Path | str,
) -> str | None:
    """What is wrong with a node, and the way out."""
    if isinstance(answer, Exception):
        return f"Node {node.name} cannot run trials: {one_line(answer)}."
    if answer["missing"] is not None:
        return (
            f"Node {node.name} cannot import what trials need ({answer['missing']}): "
            "install requirements.lock there, or submit the command as a job with a runtime "
            "environment, see README."
        )
    for name, found in answer["versions"].items():
        if _public(found) != (ours := _public(version(name))):
            return (
                f"Node {node.name} has {name} {found}, and this command {ours}: install "
                "requirements.lock there, or submit the command as a job with a runtime "
                "environment, see README."
            )
    if answer["unwritable"] is not None:
        return (
            f"Node {node.name} cannot write to --storage {storage} ({answer['unwritable']}): all "
            "nodes must be able to; a bucket's credentials come from each node's own environment."
        )
    unseen = isinstance(place, Path) and not (place / node.id).exists()  # on a disk of its own
    if unseen or not answer["shared"]:
        return (
            f"--storage must be shared by all nodes, and node {node.name} has another {storage} "
            "than this command, or none: name a folder on a shared file system (NFS), or a bucket "
            "(s3://..., gs://...)."
        )
    return None


def _public(version_: str) -> str:
    """Without "+cpu" or "+cu128": torch is built for each hardware."""
    return version_.partition("+")[0]
