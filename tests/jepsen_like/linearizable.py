"""Is there an order of the operations on one key that fits one register? The search of Wing, Gong and Lowe.

An operation takes effect at one moment between its call and its end. The search takes, one after the other,
an operation that began before every other open one ended, and whose result fits the state; what it has tried
- (set of operations taken, state) - it never tries again. Operations with an unknown outcome have no end:
they may be taken at any time or never.

The register: read, write, insert (takes effect only if there is no value; says whether it did) and delete
(says what it removed, None if nothing).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.jepsen_like.history import INF, Op

Value = object


def apply(state: Value, op: Op) -> tuple[bool, Value]:
    """Whether the result fits, and the state afterwards."""
    known = op.is_known
    match op.f:
        case "read":
            return op.result == state, state
        case "write":
            return True, op.value
        case "insert":
            takes_effect = state is None
            return not known or op.result == takes_effect, op.value if takes_effect else state
        case "delete":
            return not known or op.result == state, None
    raise AssertionError(f"unknown operation {op.f}")


class TooLong(Exception):
    """The search was given up; such a run counts as failed."""


def is_linearizable(ops: Sequence[Op], *, first: Value = None, seconds: float = 60.0) -> bool:
    """ops: those of one key that did not fail; reads without a known result do not matter."""
    deadline = time.monotonic() + seconds
    chosen = sorted((op for op in ops if op.f != "read" or op.is_known), key=lambda op: op.began)
    count = len(chosen)
    must = sum(1 << number for number, op in enumerate(chosen) if op.end != INF)
    # A stack of (taken, state, next candidate); `taken` is a bit mask over `chosen`.
    seen: set[tuple[int, Value]] = set()
    stack: list[tuple[int, Value]] = [(0, first)]
    steps = 0
    while stack:
        taken, state = stack.pop()
        if taken & must == must:
            return True
        if (taken, state) in seen:
            continue
        seen.add((taken, state))
        steps += 1
        if steps % 1024 == 0 and time.monotonic() > deadline:
            raise TooLong(f"{count} operations, {len(seen)} states")
        # Only an operation that began before the first end among the open ones can be next.
        first_end = INF
        candidates: list[int] = []
        for number in range(count):
            if taken >> number & 1:
                continue
            op = chosen[number]
            if op.began > first_end:
                break
            candidates.append(number)
            first_end = min(first_end, op.end)
        for number in reversed(candidates):
            op = chosen[number]
            if op.began > first_end:
                continue
            fits, after = apply(state, op)
            # What is unknown and changes nothing need not be taken.
            if fits and not (op.end == INF and after == state):
                stack.append((taken | 1 << number, after))
    return False


def smallest_failing_prefix(ops: Sequence[Op], first: Value = None) -> list[Op]:
    """The operations up to the end after which no order fits any more: what to print."""
    ends = sorted(op.end for op in ops if op.end != INF)
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if is_linearizable(prefix(ops, ends[middle]), first=first):
            low = middle + 1
        else:
            high = middle
    return prefix(ops, ends[low]) if ends else list(ops)


def prefix(ops: Sequence[Op], until: float) -> list[Op]:
    """What had begun by then; what ended later is still open."""
    cut: list[Op] = []
    for op in ops:
        if op.began > until:
            continue
        if op.end <= until:
            cut.append(op)
        elif op.f != "read":
            cut.append(Op(op.f, op.key, op.value, None, op.began, INF, "info", op.process, op.node))
    return cut
