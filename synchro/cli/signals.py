"""Verbs that have something to undo end in order, however they are told to end."""

from __future__ import annotations

import signal
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def interrupt_at_signals() -> None:
    """SIGTERM, and SIGHUP of a terminal that is closed, are as Ctrl-C from now on. What is ignored stays
    ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
