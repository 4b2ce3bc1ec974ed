"""The blocks of docs/extending.md, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/extending.md"


def files() -> dict[str, str]:
    """The Python files that it shows, by name."""
    found = re.findall(r'```python title="(\w+\.py)"\n(.*?)```', PAGE.read_text("utf-8"), re.S)
    return dict(found)


def commands() -> list[str]:
    """The commands that it shows."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines()]


def write_files(folder: Path) -> Path:
    """Write them there -> the generator's."""
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder / "my_gan.py"
