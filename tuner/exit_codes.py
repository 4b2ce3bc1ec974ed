"""How a command ends, beside 0: it did what was asked."""

from __future__ import annotations

import signal

NOTHING_SUCCEEDED = 1  # or a replay differs
CANNOT_BE_MET = 2
BROKEN_DOWN = 3  # a full disk, or Ray died: --resume goes on
NOT_IN_TIME = 4  # a study was asked to stop, and has not yet
INTERRUPTED = 128 + signal.SIGINT  # as shells have it
