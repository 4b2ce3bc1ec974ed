"""What a user can mend: said in one line, answered with exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """A request that cannot be met: the rule, the value and the way out, in one line."""


def one_line(error: BaseException) -> str:
    """Return the text of an error without line breaks, or its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
