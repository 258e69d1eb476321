"""What clients saw, and whether one register per key explains it.

The order in which versions of a key became committed is known from the logs, so linearizability needs no
search: each operation has a place in that order, and an operation that ended before another one began must
not have a later place. That is stricter than asking whether *some* order fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INF = float("inf")


@dataclass(slots=True)
class Seen:
    """One operation on one key. value: written, or read (None: no tuple). ended: INF = never answered."""

    is_write: bool
    key: object
    value: object
    began: float
    ended: float
    name: str = ""


def check_register(order: Sequence[object], ops: Sequence[Seen]) -> str | None:
    """What is wrong with the operations on one key; None if they fit.

    order: values in the order they were committed; values are unique, None stands for "deleted" and is
    found by its number. Operations whose value is not in `order` have not happened; a read of such a value
    is wrong.
    """
    place = {value: index for index, value in enumerate(order, 1)}
    placed: list[tuple[Seen, int]] = []
    for op in ops:
        at = 0 if op.value is None else place.get(op.value)
        if at is None:
            if op.is_write:
                continue
            return f"read {op.value!r} of key {op.key!r}, which was never committed ({op.name})"
        placed.append((op, at))
    # Sweep in the order of beginnings: everything that had ended before must not be later in the order.
    by_end = sorted(placed, key=lambda item: item[0].ended)
    latest_write, latest_read = (0, None), (0, None)  # type: tuple[int, Seen | None], tuple[int, Seen | None]
    ended = 0
    for op, at in sorted(placed, key=lambda item: item[0].began):
        while ended < len(by_end) and by_end[ended][0].ended < op.began:
            done, done_at = by_end[ended]
            ended += 1
            if done.is_write and done_at > latest_write[0]:
                latest_write = (done_at, done)
            if not done.is_write and done_at > latest_read[0]:
                latest_read = (done_at, done)
        before = max(latest_write, latest_read, key=lambda item: item[0])
        if before[0] > at or (op.is_write and before[0] == at and before[1] is not None):
            return f"{op} has place {at}, but {before[1]}, which ended before, has place {before[0]}"
    return None
