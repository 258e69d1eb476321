"""Long work on the loop, a slice at a time, so that heartbeats and other calls never wait for long.

Z1  At most one slice of all such work runs between two rounds of everything else, however many callers there
    are; they take turns in the order they came.
Z2  What is read in slices is one frozen view: what a call tells was true at one moment.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final, TypeVar

import trio

T = TypeVar("T")

SLICE_S: Final = 0.004
"""Seconds of a slice, if its steps are shorter."""


def slice_end() -> float:
    """When a slice that begins now is over, on the clock of `time.perf_counter`."""
    return time.perf_counter() + SLICE_S


def work_off(work: Iterator[None], end: float | None = None) -> bool:
    """Work until `end`, or for one slice. Returns whether all is done; else more must be called for, in a
    later round."""
    if end is None:
        end = slice_end()
    return all(time.perf_counter() <= end for _ in work)


class Slices:
    """The slices of one process, shared by all services (slices.Z1, slices.Z2)."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn with work that cannot be divided; the next turn comes after everybody else had
        theirs."""
        async with self._lock:
            yield
            await trio.lowlevel.checkpoint()

    async def run(self, steps: Generator[None, None, T]) -> T:
        """Run all steps, each of which takes about a millisecond, and return what the generator returns."""
        while True:
            async with self.turn():
                end = slice_end()
                while time.perf_counter() < end:
                    try:
                        next(steps)
                    except StopIteration as stop:
                        made: T = stop.value
                        return made


def filled(target: Any, make: Iterable[Any], rows: int = 100) -> Generator[None, None, None]:
    """Put what an iterator makes into a repeated field of a message, that many items a step: to take all of
    a million from a list afterwards, and to let go of the list, would be one long step."""
    items = iter(make)
    while some := list(islice(items, rows)):
        target.extend(some)
        yield


def mapped(make: Iterable[T], rows: int = 100) -> Generator[None, None, list[T]]:
    """Return a list of what an iterator makes, that many items a step."""
    made: list[T] = []
    for number, item in enumerate(make, 1):
        made.append(item)
        if number % rows == 0:
            yield
    return made
