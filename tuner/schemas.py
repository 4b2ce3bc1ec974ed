"""The JSON Schemas (2020-12) of what scripts read: `result.json`, and the events of `--json`."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any, Literal


@functools.cache
def schema_of(what: Literal["result", "events"]) -> dict[str, Any]:
    """The schema of a result, or of an event; not to be modified."""
    text = resources.files("tuner").joinpath(f"{what}.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
