"""Plugins: from files and packages, refused in one line, taken to workers, never found."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import extending
import pytest
from test_launch import pictures

from trainables.configs import ReptileConfig
from trainables.errors import UserError
from trainables.generators import GENERATORS
from trainables.pipeline import PIPELINES, load_pipeline
from tuner import launch, machine, plugins, replay
from tuner.experiments import EXPERIMENTS
from tuner.journal import Journal
from tuner.kept_trial import KeptTrial
from tuner.launch_options import build_parser, parse_request
from tuner.model import Model

HEAD = """
from dataclasses import replace
from tuner.extend import *
def bare(scale, **more):
    own = dict(scale=scale, name="own", data="omniglot", pipeline="reptile", pictures="", method="",
        base=ReptileConfig(), space=lambda trial, base: base)
    return Experiment(**own | more)
"""


@pytest.fixture(autouse=True)
def _unloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    for plugin in plugins.loaded():
        plugins._forget(plugin.name)


def plugin(folder: Path, text: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(HEAD + text, encoding="utf-8")
    return path


REGISTERS = """
@register_generator("own_net")
class Net(Network):
    def __init__(self, *, size, channels, width, latent): super().__init__({})
    def forward(self, weights, batch): ...
"""


def test_the_tutorial_adds_a_generator_in_less_than_40_lines() -> None:
    assert len(extending.files()["my_gan.py"].splitlines()) < 40


def test_the_tutorials_generator_and_data_make_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extending.write_files(tmp_path)
    monkeypatch.setattr(machine, "CALIBRATION_SECONDS", 0.01)
    (line,) = [line for line in extending.commands() if "--data" in line]
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "tuner.launch"]
    assert launch.main([*words[3:], "--storage", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "Study      my_gan-rings: rings from 4 pictures, meta-trained with a generator" in said
    assert "Data       rings from a plugin: 600 pictures" in said
    assert not (tmp_path / "runs").exists()


def test_the_help_lists_experiments_of_plugins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = extending.write_files(tmp_path)
    with pytest.raises(SystemExit):
        launch.main(["--help", "--plugin", str(path)])
    assert "my_gan; or" in " ".join(capsys.readouterr().out.split())
    assert launch.main(["my_gam", "--plugin", str(path)]) == 2
    assert "Did you mean 'my_gan'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = (", "line 8: SyntaxError: '(' was never closed"),
        ("x = 1\nx / 0", "line 9, `x / 0`: ZeroDivisionError: division by zero"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 1", "it registers nothing"),
        (
            REGISTERS.replace("own_net", "compact"),
            "The name 'compact' is another",
        ),
        (REGISTERS.replace("own_net", "dcgan"), "The name 'dcgan' is another"),
        (REGISTERS.replace("own_net", "own net"), "must be letters, digits and '_'"),
        (REGISTERS.replace("forward", "draw"), "Generator Net lacks the method forward"),
        (REGISTERS.replace("*, size,", "*,"), "Generator Net must be built with size, channels"),
        (REGISTERS.replace("(Network)", ""), "must be a class derived from Network"),
        (
            "@register_pipeline('own')\nclass Own:\n    def step(self): ...",
            "Pipeline Own lacks least_flops, train, state_dict",
        ),
        (
            "@register_data('mnist')\ndef read(size, report): ...",
            "'mnist' is another data set's",
        ),
        (
            "@experiment\ndef all(scale): return bare(scale)",
            "'all' is another experiment's",
        ),
        ("@experiment\ndef other(scale): return bare(scale)", "its function's name, got 'own'"),
        ("@experiment\ndef own(scale): return bare(scale, data='no')", "`data` must be one of"),
        ("@experiment\ndef own(scale): return bare(scale, pipeline='no')", "`pipeline` must be"),
        ("@experiment\ndef own(scale): return bare(scale, base=1)", "`base` must be a dataclass"),
        (
            "@experiment\ndef own(scale): return bare(scale, space=lambda t, b: replace(b, "
            "width=t.suggest_int('width', 0, 1)))",
            "yields an invalid config (`width` must be at least 1, got 0.) at {'width': 0}",
        ),
        (
            "@experiment\ndef own(scale): return bare(scale, "
            "known_points=[KnownPoint(label='a', params={'b': 1})])",
            "Known point 'a': the space has no parameter 'b'",
        ),
        ("@experiment\ndef own(scale): return 1 / 0", "return 1 / 0`: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    before = [dict(registry) for registry in plugins._registries().values()]
    path = plugin(tmp_path, text)
    assert launch.main(["own", "--plugin", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Plugin own.py: " in said
    assert told in said
    assert [dict(registry) for registry in plugins._registries().values()] == before
    assert plugins.loaded() == ()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.py", "cannot be read (No such file or directory)"),
        ("folder.py", "cannot be read (Is a directory)"),
        ("own.txt", "must name a Python file"),
        ("own-net.py", "rename it"),
        ("json.py", "There is a Python module 'json' already"),
        ("tuner.py", "There is a Python module 'tuner' already"),
    ],
)
def test_files_that_can_be_no_plugin_are_refused(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "folder.py").mkdir()
    if name not in ("missing.py", "folder.py"):
        plugin(tmp_path, REGISTERS, name)
    with pytest.raises(UserError) as caught:
        plugins.load([tmp_path / name])
    assert told in str(caught.value)


def test_a_plugin_that_was_changed_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = plugin(tmp_path, REGISTERS)
    plugins.load([path])
    first = GENERATORS["own_net"]
    plugins.load([path])
    assert GENERATORS["own_net"] is first
    plugin(tmp_path, REGISTERS + "\n")
    plugins.load([path])
    assert GENERATORS["own_net"] is not first
    assert [p.version for p in plugins.loaded()] == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert not (tmp_path / "__pycache__").exists()


def test_a_pipeline_of_ones_own_is_found_by_its_name(tmp_path: Path) -> None:
    text = "from trainables.reptile_trial import ReptileTrial\n"
    text += "@register_pipeline('own')\nclass Own(ReptileTrial): ...\n"
    text += "@experiment\ndef own(scale): return bare(scale, pipeline='own')"
    plugins.load([plugin(tmp_path, text)])
    assert load_pipeline("own").__name__ == "Own"
    assert plugins.experiments() == ("own",)
    assert EXPERIMENTS["own"]("cpu").pipeline == "own"
    plugins._forget("own.py")
    assert "own" not in PIPELINES


def package(folder: Path, name: str, text: str) -> None:
    """An installed one with an entry point."""
    (folder / f"{name}_package.py").write_text(HEAD + text, encoding="utf-8")
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[few_shot_tuner]\n{name} = {name}_package\n")


def test_installed_plugins_are_found_and_broken_ones_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package(tmp_path, "whole", REGISTERS)
    package(tmp_path, "broken", "1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert launch.main(["reptile_omniglot", "--trials", "0"]) == 2  # names nothing of theirs
    assert plugins.loaded() == ()
    assert launch.main(["nothing"]) == 2
    warned, error = capsys.readouterr().err.splitlines()[1:]
    assert warned == "warning: Plugin broken of broken 1.0: ZeroDivisionError: division by zero"
    assert "There is no experiment 'nothing'" in error
    assert plugins.records() == ({"name": "whole", "package": "whole 1.0"},)
    plugins.require(plugins.records(), "It")
    with pytest.raises(UserError, match=r"with another 'whole' \(whole 2.0\) than this one"):
        plugins.require([{"name": "whole", "package": "whole 2.0"}], "It")
    with pytest.raises(UserError, match=r"It needs the plugin 'gone': install 'gone 1.0'"):
        plugins.require([{"name": "gone", "package": "gone 1.0"}], "It")


def test_rays_processes_load_what_the_command_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plugins.environment() as nothing:
        assert nothing == {}
    plugins.load([extending.write_files(tmp_path)])
    with ExitStack() as stack:
        more = stack.enter_context(plugins.environment())
        assert json.loads(json.dumps(more)) == more
        module, _, hook = more["worker_process_setup_hook"].rpartition(".")
        assert (module, hook) == ("tuner.plugins", "load_sent")
        plugins._forget("my_gan.py")
        with pytest.raises(ValueError, match="`architecture` must be one of"):
            ReptileConfig(architecture="my_net")
        (sent,) = more["py_modules"]
        monkeypatch.syspath_prepend(Path(sent).parent)
        for name, value in more["env_vars"].items():
            monkeypatch.setenv(name, value)
        plugins.load_sent()
        assert ReptileConfig(architecture="my_net").architecture == "my_net"
        # A job's command names the file by a path of another machine; its job brings the rest.
        plugins._forget("my_gan.py")
        plugins.load(["/home/elsewhere/my_gan.py"])
        assert plugins.experiments() == ("my_gan",)
        with plugins.environment() as nothing:
            assert nothing == {}


def test_a_study_wants_the_plugins_it_began_with(tmp_path: Path) -> None:
    path = plugin(tmp_path, REGISTERS)
    plugins.load([path])
    recorded = plugins.records()
    study = tmp_path / "study"
    study.mkdir()
    plugins.keep_copies(study)
    assert (study / "plugins/own.py").read_bytes() == path.read_bytes()
    plugins.require(recorded, "Study 'own'")
    plugin(tmp_path, REGISTERS + "# changed\n")
    plugins.load([path])
    with pytest.raises(UserError, match=r"Study 'own' was made with another 'own.py'") as caught:
        plugins.require(recorded, "Study 'own'")
    assert "\n" not in str(caught.value)
    plugins.load([study / "plugins/own.py"])  # the way out
    plugins.require(recorded, "Study 'own'")


def test_nothing_is_imported_from_a_study_or_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs a plugin says which one to name, wherever a copy of it lies."""
    mark = tmp_path / "imported"
    text = f"open({str(mark)!r}, 'w')\n{REGISTERS}"
    folder = tmp_path / "runs/own/plugins"
    folder.mkdir(parents=True)
    path = plugin(folder, text)
    recorded = [{"name": "own.py", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]
    for place in (tmp_path / "runs/own", folder):
        monkeypatch.chdir(place)
        with pytest.raises(UserError, match=r"champion needs the plugin 'own.py': add --plugin"):
            plugins.require(recorded, "The champion")
    champion = tmp_path / "runs/own/champion"
    champion.mkdir()
    (champion / "config.json").write_text(json.dumps({"plugins": recorded}))
    with pytest.raises(UserError, match=r"champion needs the plugin 'own.py': add --plugin"):
        Model.open(str(champion))
    kept = KeptTrial(tags={}, settings={"context": {"plugins": recorded}}, points=[])
    monkeypatch.setattr(replay, "read_trial", lambda *_asked: kept)
    with pytest.raises(UserError, match=r"Run abc needs the plugin 'own.py'"):
        replay.replay_trial("abc", None, tmp_path / "runs", None)  # type: ignore[arg-type]
    with Journal(tmp_path / "runs", "earlier", anew=True) as journal:
        journal.set_attr("plugins", recorded)
    more: dict[str, Any] = {"storage": str(tmp_path / "runs")}
    words = ["reptile_omniglot", "--warm-start", "earlier", "--storage", more["storage"]]
    data = pictures(tmp_path / "pictures", 4, 8)
    with pytest.raises(UserError, match=r"study 'earlier' needs the plugin 'own.py'"):
        _conducted([*words, "--data", str(data), "--dry-run"])
    assert not mark.exists()


def _conducted(words: list[str]) -> None:
    from tuner.opening import conduct

    conduct(parse_request(build_parser().parse_args(words)))
