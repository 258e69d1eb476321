"""Python's cyclic garbage collector, kept from stopping an instance for longer than its peers wait.

A collection looks at every tracked object of its generations. With half a million rows a full one took 200 to
600 ms, and one of the middle generation 150 ms at the usual thresholds: near enough to four short heartbeats
for a busy leader to lose its leadership.
"""

from __future__ import annotations

import gc
from typing import Any, Final

YOUNG: Final = 50_000
"""Objects made and kept before the youngest generation is looked at."""
MIDDLE: Final = 10
"""Such rounds before the middle one is: half a million objects, 30 to 50 ms."""


def _freeze(phase: str, info: dict[str, Any]) -> None:
    """What a collection of the middle generation left is rows, requests and indexes: long lived, without
    cycles. It is taken out of all later ones. A cycle that is alive at this moment and dies later is never
    freed; there are few, and the next freezing needs half a million more objects that stay."""
    if phase == "stop" and info["generation"] == 1:
        gc.freeze()


def tune_garbage_collector() -> None:
    """At the start, and after data was loaded: nothing of it is garbage. Acts on the whole process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, 1_000)
    if _freeze not in gc.callbacks:
        gc.callbacks.append(_freeze)


def release_memory() -> None:
    """Data that was loaded is not used any more, though it was taken out of all collections."""
    gc.unfreeze()
    gc.collect()
