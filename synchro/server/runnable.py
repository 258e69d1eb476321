"""Which tasks of trio wait for their turn: so that a step knows whether it would keep one of them waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class RunnableTasks(trio.abc.Instrument):
    """The tasks that can run, without the one that runs: each from the moment it is scheduled to its step.

    Both hooks are methods of a built-in type, as they take part of every step of every task. Tasks that were
    scheduled before this is installed are not known.
    """

    def __init__(self) -> None:
        self._tasks: set[trio.lowlevel.Task] = set()
        self.task_scheduled = self._tasks.add  # type: ignore[method-assign, assignment]
        self.before_task_step = self._tasks.discard  # type: ignore[method-assign, assignment]

    @property
    def is_alone(self) -> bool:
        """Whether no other task can run before the running step ends."""
        return not self._tasks


@contextmanager
def runnable_tasks() -> Iterator[RunnableTasks]:
    """As long as the context lasts."""
    tasks = RunnableTasks()
    trio.lowlevel.add_instrument(tasks)
    try:
        yield tasks
    finally:
        trio.lowlevel.remove_instrument(tasks)
