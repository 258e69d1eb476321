"""Which tasks of trio run: so that a step knows whether it would keep anybody waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from trio.lowlevel import Task


class RunnableTasks(trio.abc.Instrument):
    """What trio does, as far as a step must know it.

    trio works in rounds: it polls all sockets, and then lets each task that can run make one step. A step
    that `is_alone` knows therefore that the last poll found nothing, for others, to read or to write, and
    that no task waits for its turn. What came since the poll it cannot know.

    Both hooks are methods of a built-in type: each takes part of every round.
    """

    def __init__(self) -> None:
        self._seen: deque[Task | float] = deque(maxlen=3)
        """A task that was scheduled, or the timeout of a poll; newest last."""
        self.task_scheduled = self._seen.append  # type: ignore[method-assign, assignment]
        self.after_io_wait = self._seen.append  # type: ignore[method-assign, assignment]

    @property
    def is_alone(self) -> bool:
        """Whether the running step is the only one of its round, and no other task can run: one task was
        scheduled between the last two polls, and none since."""
        seen = self._seen
        return len(seen) == 3 and type(seen[2]) is not Task and type(seen[0]) is not Task


@contextmanager
def runnable_tasks() -> Iterator[RunnableTasks]:
    """As long as the context lasts."""
    tasks = RunnableTasks()
    trio.lowlevel.add_instrument(tasks)
    try:
        yield tasks
    finally:
        trio.lowlevel.remove_instrument(tasks)
