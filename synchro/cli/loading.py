"""Writing many tuples: in batches, with a bar on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from synchro.cli.connection import options
from synchro.cli.formatting import is_terminal

if TYPE_CHECKING:
    from synchro.client import Client

LOAD_THREADS: Final = 4
LOAD_TIMEOUT_MIN_S: Final = 30.0
"""Of one batch: many rows take longer than one."""


def load(db: Client, ops: Iterable[Any], batch: int, total: int | None = None) -> int:
    """Write operations in batches, a few at a time; a bar on a terminal. Returns how many."""
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

    done = 0
    waiting: set[Future[int]] = set()

    def write(some: list[Any]) -> int:
        db.execute(some, omit_tuples=True, timeout=max(options.timeout_s, LOAD_TIMEOUT_MIN_S))
        return len(some)

    with progress(total, "loading") as advance, ThreadPoolExecutor(LOAD_THREADS) as pool:
        for some in batches(ops, batch):
            waiting.add(pool.submit(write, some))
            if len(waiting) >= 2 * LOAD_THREADS:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    done += future.result()
                    advance(done)
        for future in waiting:
            done += future.result()
            advance(done)
    return done


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    some: list[Any] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


class progress:
    """A bar on a terminal, nothing elsewhere. Called with how much is done."""

    def __init__(self, total: int | None, text: str) -> None:
        self._total = total
        self._text = text
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> progress:
        if is_terminal():
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            )
            self._bar.start()
            self._task = self._bar.add_task(self._text, total=self._total)
        return self

    def __call__(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
