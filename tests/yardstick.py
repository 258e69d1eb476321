"""How fast the machine is at this moment: limits of processor time were set on one, and hold on others."""

from __future__ import annotations

import time
from typing import Final

NORMAL_S: Final = 0.04
"""What the piece of work took where the limits were set."""


def slowness() -> float:
    """How many times as long a piece of work takes here as it took there; at least 1."""
    began, total = time.thread_time(), 0
    for number in range(300_000):
        total += number & 7
    return max(1.0, (time.thread_time() - began) / NORMAL_S)
