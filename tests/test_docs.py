"""Commands that the documents tell of can be parsed; those of README and tutorial are run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from picture_files import drawing_png, omniglot_files, write_pictures, write_zip
from PIL import Image
from shell_commands import fenced_blocks, made, parse, simple_commands

ROOT = Path(__file__).parents[1]
README, TUTORIAL = ROOT / "README.md", ROOT / "docs/tutorial.md"
PAGES = [README, *sorted(ROOT.glob("docs/**/*.md"))]
GENERATED = ROOT / "docs/reference/commands.md"
NOTEBOOK = ROOT / "docs/notebook.ipynb"

ELSEWHERE = {"source", "jq"}  # programs that are neither ours nor our libraries'
DESCRIBE = ["python", "-m", "tuner.result"]  # has no options to parse
# The only thing that is changed about a command that trains when it is run here.
SMALLER = ["--budget", "2m", "--trials", "1"]
# Runs until Ctrl-C; only a free port is chosen for it.
SERVERS = (["python", "-m", "tuner.demo"], ["mlflow", "ui"])
# What is in README or tutorial and is not run here, and what does it instead, or why nothing does.
NOT_RUN = {
    "make test": "this is part of it",
    "source .venv/bin/activate": "the tests' environment is active",
    "make search ARGS=...": "with whatever options; it is run with some",
    "make docs": "a test builds the site",
    "python -m tuner.launch all --budget 96m": "an hour and a half",
    "python -m tuner.report table1 --out docs": "it is run without --out",
} | dict.fromkeys(
    ("make bench", "make bench-e2e", "make bench-search", "make bench-scaling"),
    "minutes to hours of measuring",
)


def is_command(words: Sequence[str], start: Sequence[str]) -> bool:
    return list(words[: len(start)]) == list(start)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- what can be seen without running anything


def commands(page: Path) -> Iterator[list[str]]:
    """Those in blocks, and ours in the text."""
    for block in fenced_blocks(page):
        yield from simple_commands(block)
    yield from quoted_commands(prose(page))


def quoted_commands(text: str) -> Iterator[list[str]]:
    """Ours, also after variables of the environment."""
    ours = r"`((?:\w+=\S+ )*(?:make [^`]+|python -m tuner\.\w+[^`]*))`"
    for quoted in re.findall(ours, text):
        yield from simple_commands(quoted.replace("\n", " "))


def prose(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def check(words: list[str]) -> None:
    """Whether a command could run: its program is known, and takes the options."""
    program = Path(words[0]).name
    if program == "make":
        for command in made(words):
            check(command)
    elif is_command(words, ["python", "-m", "pytest"]):
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/")), words
    elif program not in ELSEWHERE and words != DESCRIBE:
        assert parse(words), f"no program that is known here: {words}"


@pytest.mark.parametrize("page", [p for p in PAGES if any(commands(p))], ids=name)
def test_every_command_of_a_page_can_be_parsed(page: Path) -> None:
    for words in commands(page):
        check(words)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("make serach", "No rule to make target 'serach'"),
        ("make search ARGS='--no-such-option'", "unrecognized arguments"),
        ("make bench ARGS='--no-such-option'", "unrecognized arguments"),
        ("make bench --parts tracking", "unrecognized option"),
        ("python -m tuner.launch reptile_omniglot --no-such-option", "unrecognized arguments"),
        ("python -m tuner.launch reptile_omniglt", "Did you mean 'reptile_omniglot'"),
        ("python -m tuner.stop --follow night", "unrecognized arguments"),
        ("python -m tuner.wait night", "No module named"),
        ("python -m pytest tests/test_nothing.py", "test_nothing"),
        ("mlflow ui --no-such-option", "(?i)no such option"),
        ("kubectl get pods", "no program that is known here"),
    ],
)
def test_a_command_that_is_not_right_is_found(wrong: str, why: str) -> None:
    with pytest.raises(Exception, match=why):
        check(shlex.split(wrong))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("`make docs` builds", ["make", "docs"]),
        ('`make search ARGS="--trials 1"`', ["make", "search", "ARGS=--trials 1"]),
        ("`FEWSHOT_DATA=/my/data make search`", ["make", "search"]),
        ("`python -m tuner.demo`", ["python", "-m", "tuner.demo"]),
        ("`python -m tuner.report\ntable1`", ["python", "-m", "tuner.report", "table1"]),
    ],
)
def test_a_command_in_the_text_is_seen(text: str, words: list[str]) -> None:
    assert list(quoted_commands(text)) == [words]


def test_what_is_not_run_of_readme_and_tutorial_has_a_reason() -> None:
    pages = (README, TUTORIAL)
    run = {shlex.join(w) for p in pages for b in fenced_blocks(p) for w in simple_commands(b)}
    quoted = {shlex.join(words) for page in pages for words in quoted_commands(prose(page))}
    assert quoted - run <= set(NOT_RUN)
    assert set(NOT_RUN) <= quoted | run, "no reason is left without its command"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose(page)):
        if not re.match(r"https?:", target):
            file = (page.parent / target).resolve()
            assert file.exists() or file == GENERATED, target


def rows(page: Path, experiment: str | None = None) -> dict[str, dict[str, str]]:
    """The table below a heading as row -> column -> cell; of Table 1, those of an experiment."""
    text = page.read_text(encoding="utf-8")
    if experiment is not None:
        text = text.partition(f"### {experiment}\n")[2]
    (table,) = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)[:1]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    heads, _rule, *cells = lines
    titles = [" ".join(row[: heads.index("MSE")]) for row in cells]
    found = [dict(zip(heads, row, strict=True)) for row in cells]
    return dict(zip(titles, found, strict=True))


@pytest.mark.parametrize("experiment", ["Reptile, Omniglot", "DCGAN, FashionMNIST"])
def test_figures_of_the_explanation_are_those_of_table_1(experiment: str) -> None:
    table = rows(ROOT / "docs/results.md")
    told = rows(ROOT / "docs/copying.md", experiment)
    assert len(told) >= 4
    for what, cells in told.items():
        measured = table[f"{experiment} {what}"]
        for score, cell in cells.items():
            if score != "what":
                assert cell == measured[score].partition(" ")[0], (what, score)


def test_the_notebook_is_kept_without_what_it_printed() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells  # type: ignore[no-untyped-call]
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


# --- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: mkdocs.yml makes a warning an error."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    more = {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=os.environ | more)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_for_nothing_elsewhere(site: Path) -> None:
    pages = list(site.glob("**/*.html"))
    assert len(pages) > len(PAGES), "cluster/ and CHANGELOG.md, too"
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=.?(?:\w+:)?//", text)


@pytest.mark.slow
def test_the_site_has_every_commands_help(site: Path) -> None:
    page = (site / "reference/commands/index.html").read_text(encoding="utf-8")
    for module in ROOT.glob("tuner/*.py"):
        text = module.read_text(encoding="utf-8")
        if f'prog="python -m tuner.{module.stem}"' in text or f'("{module.stem}", ' in text:
            assert f"usage: python -m tuner.{module.stem}" in page


# --- what is run


class Shell:
    """Runs commands as a reader would, in a folder of her own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
        if "FEWSHOT_DATA" not in os.environ:
            self.environment["FEWSHOT_DATA"] = str(write_small_omniglot(folder / "data"))
            self.environment["XDG_CACHE_HOME"] = str(folder / "cache")
        for number, shot in enumerate("abcd"):
            (folder / f"{shot}.png").write_bytes(drawing_png(3 + number))
        write_pictures(folder / "my" / "characters", classes=6, count=10)

    def read(self, page: Path) -> None:
        """Run what a page says, in its order."""
        for block in fenced_blocks(page):
            for words in simple_commands(block):
                if shlex.join(words) in NOT_RUN:
                    continue
                if any(is_command(words, server) for server in SERVERS):
                    self.serve(words)
                else:
                    self.run(self.small(words))

    def small(self, words: list[str]) -> list[str]:
        """The same command with SMALLER, if it is one that trains; make with this Python."""
        if words[0] == "make":
            ours = ["-f", str(ROOT / "Makefile"), "-o", ".venv/.ready", f"PY={sys.executable}"]
            return ["make", *ours, *words[1:], f"ARGS={shlex.join(SMALLER)}"]
        trains = is_command(words, ["python", "-m", "tuner.launch"])
        return words + SMALLER if trains and not {"--dry-run", "--help"} & set(words) else words

    def run(self, words: list[str]) -> None:
        print("$", shlex.join(words), flush=True)
        done = subprocess.run(words, cwd=self.folder, env=self.environment, text=True, timeout=1800)
        assert done.returncode == 0, words
        if "--out" in words:
            Image.open(self.folder / words[words.index("--out") + 1]).verify()

    def serve(self, words: list[str]) -> None:
        """Start it, see that its page is there, and press Ctrl-C."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        words = [*words, "--port", str(port)]
        print("$", shlex.join(words), flush=True)
        # Jobs in a shell's background ignore Ctrl-C, and so would what they start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            words, cwd=self.folder, env=self.environment, start_new_session=True
        )
        try:
            until_answered(f"http://127.0.0.1:{port}/", process)
            os.killpg(process.pid, signal.SIGINT)  # a terminal tells all of its group
            process.wait(120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def write_small_omniglot(root: Path) -> Path:
    """Omniglot's layout where the real set is not at hand."""
    for stem, alphabets in (("images_background", 9), ("images_evaluation", 4)):
        files = omniglot_files(stem, alphabets=alphabets, characters=4, drawings=20)
        write_zip(root / "omniglot-py" / f"{stem}.zip", files)
    return root


def until_answered(url: str, process: subprocess.Popen[Any], patience: float = 180.0) -> None:
    ends = time.monotonic() + patience
    while True:
        assert process.poll() is None, f"it ended by itself: {process.returncode}"
        assert time.monotonic() < ends, f"no answer from {url}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(1)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_the_commands_of_the_readme_do_what_they_say(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.read(README)
    assert (tmp_path / "runs/reptile_omniglot/champion/grid.png").is_file()
    assert (tmp_path / "runs/night/result.json").is_file()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_the_tutorial_leads_where_it_says_and_its_study_can_be_opened(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.read(TUTORIAL)
    assert (tmp_path / "runs/reptile_omniglot-characters/result.json").is_file()
    script = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/report.md").read_text(), re.S)
    ast.parse(script[0])
    shell.run(["python", "-c", script[0]])
    run_notebook(tmp_path / "runs/reptile_omniglot", shell.environment)


def run_notebook(study: Path, environment: dict[str, str]) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(env=environment | {"STUDY": str(study)}, cwd=str(ROOT / "docs"))
    figures = [o for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
    kinds = {kind for figure in figures for kind in figure.data}
    assert {"application/vnd.plotly.v1+json", "image/png", "text/html"} <= kinds
