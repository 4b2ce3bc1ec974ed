"""What the site is made of beside `docs/`: files of the repository, and pages that are generated.

MkDocs calls these functions: https://www.mkdocs.org/user-guide/configuration/#hooks
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
HOME, COMMANDS = "index.md", "reference/commands.md"
OUTSIDE = ["CHANGELOG.md", "cluster/runtime_env.yaml", "cluster/Dockerfile"]
OUTSIDE += [
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.glob("cluster/*/*"))
    if "__pycache__" not in path.parts
]
FIRST = ("launch", "status", "logs", "stop", "report", "generate", "demo")  # then all others
HEAD = "---\nhide: [navigation]\n---\n"  # the home page has no neighbours to show
WIDTH = 80  # characters of --help
INTRODUCTION = """\
# Commands

What `--help` of every command prints. Each is `python -m tuner.NAME`, with the `.venv` of the
repository activated; bad input is answered in one line and by exit code 2, before anything begins.
`python -m tuner.result` has no options: it prints [the table of result.json](../result.md).
"""


def commands() -> list[str]:
    """Names of the modules of `tuner` that are commands with options, the usual ones first."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("tuner/*.py")}
    found = {name for name, text in texts.items() if "__main__" in text and "argv" in text}
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


def described(name: str) -> str:
    """A section of the page of commands: what `python -m tuner.NAME --help` prints."""
    told = subprocess.run(  # noqa: S603 - a module of ours
        [sys.executable, "-m", f"tuner.{name}", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": str(WIDTH), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    ).stdout
    return f"## tuner.{name}\n\n```text\n{told.rstrip()}\n```\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as the home page, the other files and the page of commands."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    home = HEAD + re.sub(r"\]\(docs/", "](", readme)
    with ThreadPoolExecutor() as pool:
        helps = "\n".join([INTRODUCTION, *pool.map(described, commands())])
    files.append(File.generated(config, HOME, content=home))
    files.append(File.generated(config, COMMANDS, content=helps))
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Links that leave `docs/` lead to the same files in the site, where they lie one level up."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    own = page.file.src_uri not in OUTSIDE
    return re.sub(rf"\]\({re.escape(up)}(?=\w)", f"]({up[3:]}", markdown) if own else markdown
