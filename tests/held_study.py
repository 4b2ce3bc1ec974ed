"""Holds a study until it is asked to stop: `python held_study.py FOLDER`, for tests of asking."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from tuner.hold import heeding_stop, hold, let_go

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lock = hold(Path(sys.argv[1]))
    try:
        with heeding_stop(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(600)
    except KeyboardInterrupt:
        let_go(lock)
