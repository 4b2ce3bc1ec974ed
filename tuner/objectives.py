"""What a study may search on beside L, and which trials nobody beats in all of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Literal

from trainables.errors import UserError

Direction = Literal["minimize", "maximize"]

# By the name of the score; `docs/result.md` says what they are.
OBJECTIVES: Mapping[str, Direction] = {
    "L": "minimize",
    "coverage": "maximize",
    "copy_share": "minimize",
    "train_seconds": "minimize",
}


def parse_objectives(text: str) -> tuple[str, ...]:
    """The objectives of "coverage,train_seconds": L, by which ASHA decides, and those named.

    Raises:
        UserError: one of them is none of `OBJECTIVES`, or there are none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = next((name for name in names if name not in OBJECTIVES), None)
    if wrong is not None or not names:
        near = difflib.get_close_matches(wrong or "", OBJECTIVES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"--objectives must be some of {', '.join(OBJECTIVES)}, with commas between, got "
            f"{wrong or text!r}.{hint}"
        )
    return tuple(dict.fromkeys(["L", *names]))


def losses(values: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
    """`values` of the objectives `names` with signs that make lower better."""
    signs = (1.0 if OBJECTIVES[name] == "minimize" else -1.0 for name in names)
    return tuple(sign * value for sign, value in zip(signs, values, strict=True))


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates: is nowhere worse and somewhere better.

    Args:
        points: losses (lower is better), equally many of each; equal points are all kept.
    """

    def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
        return tuple(one) != tuple(other) and all(a <= b for a, b in zip(one, other, strict=True))

    return [
        index
        for index, point in enumerate(points)
        if not any(dominates(other, point) for other in points)
    ]
