"""Ctrl-C and SIGTERM while a study runs: both end it with the line that tells the way on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handlers_put_back() -> Iterator[None]:
    """Whatever is done about signals in here, afterwards it is as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hook = sys.unraisablehook
    try:
        heed_sigterm()
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def heed_sigterm() -> None:
    """SIGTERM is Ctrl-C; Ray has handlers of its own, which leave without a word."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def heed_while_closing() -> None:
    """Both may cut short what closes, which may take long."""
    _heed(signal.default_int_handler)
    sys.unraisablehook = _unless_interrupted


def ignore_signals() -> None:
    """Neither does anything any more."""
    _heed(signal.SIG_IGN)


def _heed(handler: Any) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _unless_interrupted(told: sys.UnraisableHookArgs) -> None:
    """Ctrl-C amid a callback of Python's own is lost; while all is closed it needs no traceback."""
    if not issubclass(told.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(told)
