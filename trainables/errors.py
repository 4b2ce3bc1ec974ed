"""What a user can mend: said in one line, answered with exit code 2."""


class UserError(ValueError):
    """A request that cannot be met: the rule, the value and the way out, in one line."""
