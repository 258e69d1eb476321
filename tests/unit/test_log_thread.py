"""The thread of the log: each outcome is taken once, and the loop is blocked for a bounded time. [W-47]"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from synchro.storage.log_thread import CALM_JOBS, WAIT_S, LogThread

SOON_S = 10.0


class Desk:
    """The loop's side: what the thread asked to be called, and what became of the jobs.

    now: the clock of the thread; a job takes the time by which it moves it."""

    def __init__(self, wait_s: float) -> None:
        self.now = 0.0
        self.asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.results: list[object] = []
        self.errors: list[BaseException | None] = []
        self.thread = LogThread(self.asked.put, self._on_outcome, wait_s=wait_s, clock=lambda: self.now)

    def _on_outcome(self, result: object, error: BaseException | None) -> None:
        self.results.append(result)
        self.errors.append(error)

    def look(self) -> None:
        """As the thread asked for it."""
        self.asked.get(timeout=SOON_S)()
        self.thread.check()

    def run(self, job: Callable[[], object]) -> None:
        self.thread.do(job)
        self.look()

    def slow_job(self) -> None:
        self.now += WAIT_S


@contextmanager
def desk(wait_s: float = WAIT_S, *, is_calm: bool = True) -> Iterator[Desk]:
    made = Desk(wait_s)
    try:
        if is_calm:
            for _ in range(CALM_JOBS):
                made.run(lambda: None)
            made.results.clear()
            made.errors.clear()
        yield made
    finally:
        made.thread.end()


def test_what_a_job_returned_or_raised_comes_by_a_look_that_the_thread_asks_for() -> None:
    with desk() as it:
        error = OSError("no")

        def fail() -> None:
            raise error

        it.run(lambda: "first")
        it.run(fail)
        assert it.results == ["first", None] and it.errors == [None, error]
        assert not it.thread.has_job


def test_who_waits_takes_it_and_nobody_is_asked_to_look() -> None:
    """LogThread.H2: the job ends while the loop's thread is blocked."""
    with desk(wait_s=SOON_S) as it:

        def job() -> str:
            while not it.thread.is_waited_for:
                time.sleep(0)
            return "done"

        it.thread.do(job)
        assert it.thread.may_wait
        assert it.thread.wait()
        assert it.results == ["done"] and it.asked.empty()
        it.thread.check()


def test_a_look_after_the_outcome_was_taken_does_nothing() -> None:
    """LogThread.H2: the thread asked before anybody waited; then `wait` finds the outcome there."""
    with desk(wait_s=SOON_S) as it:
        it.thread.do(lambda: "first")
        late = it.asked.get(timeout=SOON_S)
        assert it.thread.wait()
        late()
        assert it.results == ["first"]

        it.thread.do(lambda: "second")
        second = it.asked.get(timeout=SOON_S)
        late()  # still the one of the first job: it finds what the second left, which is as good
        second()
        assert it.results == ["first", "second"] and not it.thread.has_job


def test_a_job_that_hangs_blocks_for_the_bound_and_once() -> None:
    """LogThread.H3: then the loop goes on; the outcome comes by a look."""
    may_end = threading.Event()
    with desk() as it:
        it.thread.do(lambda: may_end.wait(SOON_S))
        assert it.thread.may_wait
        began = time.monotonic()
        assert not it.thread.wait()
        assert time.monotonic() - began < SOON_S / 2  # far less; the machine may be busy
        assert not it.thread.may_wait and it.thread.has_job and it.results == []
        it.thread.check()
        may_end.set()
        it.look()
        assert it.results == [True]


def test_after_a_slow_job_nobody_waits_until_the_disk_is_calm() -> None:
    """LogThread.H4: `CALM_JOBS` in a row; a slow one among them begins the count anew. At the start nothing
    is known of the disk."""
    with desk(is_calm=False) as it:
        for _ in range(3):
            for _ in range(CALM_JOBS):
                it.thread.do(lambda: None)
                assert not it.thread.may_wait
                it.look()
            it.thread.do(it.slow_job)
            assert it.thread.may_wait
            it.look()
            for _ in range(CALM_JOBS - 1):
                it.run(lambda: None)
            it.thread.do(it.slow_job)
            assert not it.thread.may_wait
            it.look()


def test_each_outcome_is_taken_once_and_in_order_whoever_comes_first() -> None:
    """LogThread.H2: jobs that end just when a wait runs out, thousands of them."""
    rng = random.Random(1)
    bound = 0.000_05
    with desk(wait_s=bound) as it:
        for number in range(4_000):
            end = time.perf_counter() + rng.uniform(0, 2 * bound)

            def job(number: int = number, end: float = end) -> int:
                while time.perf_counter() < end:
                    time.sleep(0)
                return number

            it.thread.do(job)
            if rng.random() < 0.8:
                it.thread.wait()
            while it.thread.has_job:
                it.look()
        assert it.results == list(range(4_000))
        while not it.asked.empty():
            it.look()
        assert len(it.results) == 4_000
