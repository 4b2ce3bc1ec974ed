"""What a table's cell shows of a number."""

from __future__ import annotations


def decimal(value: float | None, digits: str = ".2f") -> str:
    """Rounded as `format` does it, to two decimals as a rule, without the sign of a zero; nothing
    for None."""
    if value is None:
        return ""
    text = format(value, digits)
    return text if any(digit in text for digit in "123456789") else text.removeprefix("-")


def short(value: object) -> str:
    """A setting's value, for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
