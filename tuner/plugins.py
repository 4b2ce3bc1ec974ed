"""Plugins: code of the user's own, named on the command line or installed, and never anything else.

A file is one module, which is loaded under its own name; an installed one is an entry point of the
group `few_shot_tuner`. What is loaded here is loaded in all of Ray's processes, too: files travel
in the runtime environment, and each is known by its content. A study records which plugins it began
with, and asks for the same ones ever after; it never loads them itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

from trainables.errors import UserError, one_line

GROUP = "few_shot_tuner"  # of entry points
FOLDER = "few_shot_tuner_plugins"  # with the files, where Ray brings them
SENT = "FEW_SHOT_TUNER_PLUGINS"  # names what Ray brings, in its processes' environment
COPIES = "plugins"  # folder of copies, in a study's


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin that is loaded.

    Attributes:
        name: of its file, or of its entry point.
        version: SHA-256 of its file; of an installed one, the package and its version.
        path: of its file; None if it is installed.
    """

    name: str
    version: str
    path: Path | None = None

    @property
    def record(self) -> dict[str, str]:
        """What it is known by later, as plain data."""
        return {"name": self.name, "package" if self.path is None else "sha256": self.version}


@dataclass(slots=True)
class _Loaded:
    plugin: Plugin
    names: list[tuple[str, str]]  # what it registered: registry, name


_loaded: dict[str, _Loaded] = {}


def loaded() -> tuple[Plugin, ...]:
    """All plugins of this process, in the order they were loaded in."""
    return tuple(each.plugin for each in _loaded.values())


def records() -> tuple[dict[str, str], ...]:
    """What a study notes of the plugins of this process."""
    return tuple(plugin.record for plugin in loaded())


def load(paths: Sequence[str | Path]) -> None:
    """Load plugins from files; what is loaded already is left alone.

    Args:
        paths: Python files. In a Ray job that we submitted, names of files that came with it.
    Raises:
        UserError: there is no such file, it is broken, registers nothing, or something that cannot
            be used; says where. Nothing of it stays registered.
    """
    for path in map(Path, paths):
        name = path.name
        _load_file(_brought(name) if name in (r["name"] for r in _sent()) else path)


def load_installed(warn: Callable[[str], None] | None = None) -> None:
    """Load the plugins of installed packages; those that cannot be are said, and left out.

    Args:
        warn: shows a line; standard error if None.
    """
    for entry in entry_points(group=GROUP):
        if entry.name not in _loaded:
            try:
                _load_entry(entry)
            except UserError as error:
                (warn or _to_stderr)(f"warning: {error}")


def experiments() -> tuple[str, ...]:
    """Names of the experiments of all plugins of this process."""
    return tuple(name for _plugin, registry, name in registered() if registry == "experiments")


def registered() -> tuple[tuple[Plugin, str, str], ...]:
    """What plugins registered: which one, in "experiments", "pipelines", "generators" or "data",
    under which name."""
    return tuple((each.plugin, *names) for each in _loaded.values() for names in each.names)


def require(recorded: Sequence[Mapping[str, str]], who: str) -> None:
    """See to it that the plugins that something was made with are loaded; installed ones are
    loaded now, and files never, whatever a record says of them.

    Args:
        recorded: as `records` gave them.
        who: needs them, at the beginning of a sentence.
    Raises:
        UserError: one is not, or it is another version; says which one to name.
    """
    if any("package" in wanted for wanted in recorded):
        load_installed()
    for wanted in recorded:
        name, installed = wanted["name"], wanted.get("package")
        way = f"add --plugin with its path (a study keeps a copy in its folder {COPIES})"
        if installed is not None:
            way = f"install {installed!r}"
        if name not in _loaded:
            raise UserError(f"{who} needs the plugin {name!r}: {way}.")
        if (now := _loaded[name].plugin.record) != dict(wanted):
            was, here = (next(v[:20] for k, v in r.items() if k != "name") for r in (wanted, now))
            raise UserError(
                f"{who} was made with another {name!r} ({was}) than this one ({here}): {way}, or "
                "begin a new study."
            )


def keep_copies(folder: Path) -> None:
    """Copy the files of all plugins into a study's folder, for people."""
    for plugin in loaded():
        if plugin.path is not None:
            (folder / COPIES).mkdir(exist_ok=True)
            shutil.copyfile(plugin.path, folder / COPIES / plugin.name)


@contextmanager
def environment() -> Iterator[dict[str, Any]]:
    """A Ray runtime environment whose processes load what this one has; {} where there is nothing,
    or the job that this process runs in has brought it."""
    if not _loaded or SENT in os.environ:
        yield {}
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, FOLDER)
        folder.mkdir()
        for plugin in loaded():
            if plugin.path is not None:
                shutil.copyfile(plugin.path, folder / plugin.name)
        yield {
            "py_modules": [str(folder)],
            "env_vars": {SENT: json.dumps(records())},
            "worker_process_setup_hook": f"{__name__}.{load_sent.__name__}",
        }


def load_sent() -> None:
    """Load what Ray has brought; it calls this in each of its processes, before anything else."""
    load_again([_brought(r["name"]) if "sha256" in r else r["name"] for r in _sent()])


def again() -> list[Path | str]:
    """What `load_again` loads in another process of this machine."""
    return [plugin.path or plugin.name for plugin in loaded()]


def load_again(plugins: Sequence[Path | str]) -> None:
    """Load files, and entry points by name, that another process of this study has found sound."""
    for plugin in plugins:
        if isinstance(plugin, Path):
            _load_file(plugin, sound=True)
        elif plugin not in _loaded:
            for entry in entry_points(group=GROUP, name=plugin):
                _load_entry(entry)


def _sent() -> list[dict[str, str]]:
    sent: list[dict[str, str]] = json.loads(os.environ.get(SENT, "[]"))
    return sent


def _brought(name: str) -> Path:
    spec = find_spec(FOLDER)
    if spec is None or spec.submodule_search_locations is None:
        raise UserError(f"Ray has not brought the plugin {name!r} to this node.")
    return Path(next(iter(spec.submodule_search_locations)), name)


def _load_file(path: Path, *, sound: bool = False) -> None:
    if path.suffix != ".py":
        raise UserError(f"--plugin must name a Python file, such as my_gan.py, got {str(path)!r}.")
    try:
        path, content = path.resolve(), path.read_bytes()
    except OSError as error:
        raise UserError(
            f"--plugin must name a Python file, and {str(path)!r} cannot be read "
            f"({error.strerror}): give its path."
        ) from error
    plugin = Plugin(name=path.name, version=hashlib.sha256(content).hexdigest(), path=path)
    if plugin.name in _loaded and _loaded[plugin.name].plugin.version == plugin.version:
        return
    _forget(plugin.name)
    if not sound:
        _require_own_name(path)

    def execute() -> None:
        loader = _Content(path, content)
        module = module_from_spec(ModuleSpec(path.stem, loader, origin=str(path)))
        sys.modules[path.stem] = module  # what it defines is found by name wherever it is unpickled
        loader.exec_module(module)

    try:
        _register(plugin, execute, sound=sound)
    except UserError:
        sys.modules.pop(path.stem, None)
        raise


def _require_own_name(path: Path) -> None:
    """Its module hides no other one, but a file of that name beside which the command is run."""
    name = path.stem
    if not name.isidentifier():
        raise UserError(
            f"A plugin's file is named as a module is, by letters, digits and '_', got "
            f"{path.name!r}: rename it."
        )
    if (spec := find_spec(name)) is None:
        return
    place = Path(spec.origin or "").resolve()
    if place != path and place.parent != Path.cwd():
        raise UserError(f"There is a Python module {name!r} already: rename {path.name}.")


def _load_entry(entry: EntryPoint) -> None:
    package = "" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    _register(Plugin(name=entry.name, version=package), entry.load, sound=False)


def _register(plugin: Plugin, execute: Callable[[], Any], *, sound: bool) -> None:
    """Run a plugin's code and note what it registers, all of it or nothing.

    Args:
        sound: True spares what another process has looked at.
    Raises:
        UserError: whatever is wrong with it, with the place.
    """
    registries = _registries()
    before = {kind: set(registry) for kind, registry in registries.items()}

    def added() -> list[tuple[str, str]]:
        every = [(kind, n) for kind, registry in registries.items() for n in registry]
        return [(kind, name) for kind, name in every if name not in before[kind]]

    try:
        execute()
        if not added():
            raise UserError("it registers nothing, see docs/extending.md")
        for kind, name in [] if sound else added():
            if kind == "experiments":
                _require_sound(name)
    except (Exception, SystemExit) as error:  # the plugin's code
        for kind, name in added():
            del registries[kind][name]
        what = (
            f"Plugin {plugin.name}" if plugin.path else f"Plugin {plugin.name} of {plugin.version}"
        )
        raise UserError(f"{what}: {_told(error, plugin.path)}") from error
    _loaded[plugin.name] = _Loaded(plugin, added())


def _registries() -> dict[str, Any]:
    """All that plugins can add to."""
    from trainables.added_data import ADDED
    from trainables.generators import GENERATORS
    from trainables.pipeline import PIPELINES
    from tuner.experiments import EXPERIMENTS

    return {
        "data": ADDED,
        "generators": GENERATORS,
        "pipelines": PIPELINES,
        "experiments": EXPERIMENTS,
    }


def _require_sound(name: str) -> None:
    from tuner.experiments import require_sound

    require_sound(name)


def _forget(name: str) -> None:
    """Another version of it is loaded in its place."""
    if (old := _loaded.pop(name, None)) is not None:
        registries = _registries()
        for kind, registered in old.names:
            del registries[kind][registered]
        sys.modules.pop(Path(name).stem, None)


def _told(error: BaseException, path: Path | None) -> str:
    """An error, its kind unless it is one of ours, and the line of the plugin that it came from."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: {kind}{error.msg}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if path is not None and frame.filename == str(path)
    ]
    place = f"line {frames[-1].lineno}, `{frames[-1].line}`: " if frames else ""
    return f"{place}{kind}{one_line(error)}"


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")


class _Content(SourceLoader):
    """Runs what was read, and hashed, once; writes nothing beside it."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = str(path), content

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002
        """Where it was read, for tracebacks."""
        return self._path

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002
        """What was read there."""
        return self._content
