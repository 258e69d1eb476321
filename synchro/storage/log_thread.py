"""The thread of the log, and how what came of its job gets back to the loop's thread. [W-47], ADR 34.

Two ways lead back. Usually the thread asks the loop to look, which costs as much as a fast disk needs for a
sync. A loop with nothing else to do waits for the thread itself, for a bounded time.

Knows no trio: `wal.py` decides when a wait is in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, TypeAlias

Job: TypeAlias = Callable[[], object]
ToLoop: TypeAlias = Callable[[Callable[[], None]], object]
"""Called in any thread; calls its argument soon in the loop's."""
OnOutcome: TypeAlias = Callable[[object, BaseException | None], None]
"""Called in the loop's thread with what a job returned, or raised; it must not raise."""

WAIT_S: Final = 0.002
"""The most that the loop's thread is blocked for one job: some syncs of a fast disk, and nothing beside the
time in which a link is given up."""
CALM_JOBS: Final = 8
"""Jobs in a row, each shorter than `WAIT_S`, after which a disk that was slow is waited for again."""


class Outcome(NamedTuple):
    """What a job returned, what it raised, and the seconds that it took in the thread."""

    result: object
    error: BaseException | None
    took_s: float


class LogThread:
    """A thread that does one job after the other; the loop's thread gives them and takes what came of each.

    H1  `has_job`: from `do` until its outcome is taken. There is at most one job.
    H2  Each outcome is taken once, in the loop's thread and in the order of the jobs: by `wait`, or by the
        look that the thread asks for when it finds nobody waiting. A look that finds nothing does nothing,
        so it does no harm that both may follow one job.
    H3  `wait` blocks for `wait_s` at the most, and once a job: a disk that hangs costs this one time.
    H4  After a job that took `wait_s` or more, and at the start, `may_wait` is false until `CALM_JOBS` in a
        row took less: a slow disk is not waited for.
    """

    def __init__(
        self,
        ask_to_look: ToLoop,
        on_outcome: OnOutcome,
        *,
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """clock: monotonic seconds, read in the thread before and after each job."""
        self._ask_to_look = ask_to_look
        self._on_outcome = on_outcome
        self._wait_s = wait_s
        self._clock = clock
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self._has_waited = False
        """For the job that is there."""
        self._calm_jobs = 0
        """Jobs in a row that took less than `wait_s`; it stops at `CALM_JOBS`."""
        self.has_job = False
        self.is_waited_for = False
        """`wait` is blocking; the thread looks at it when its outcome lies there."""
        threading.Thread(target=self._run, name="wal", daemon=True).start()

    @property
    def may_wait(self) -> bool:
        """Whether `wait` is allowed (LogThread.H3, LogThread.H4)."""
        return self.has_job and not self._has_waited and self._calm_jobs == CALM_JOBS

    def do(self, job: Job) -> None:
        assert not self.has_job  # LogThread.H1
        self.has_job = True
        self._has_waited = False
        self._jobs.put(job)

    def wait(self) -> bool:
        """Block until the job is done and take its outcome. False: it is not done in time; the thread will
        ask to look as if nobody had waited."""
        assert self.may_wait
        self._has_waited = True
        self.is_waited_for = True
        try:
            outcome = self._outcomes.get(timeout=self._wait_s)
        except Empty:
            self.is_waited_for = False
            # Either the thread finds nobody waiting, and asks to look; or its outcome lay there before it
            # looked, and so before this second attempt.
            return self._take()
        self.is_waited_for = False
        self._settle(outcome)
        return True

    def look(self) -> None:
        """Take an outcome if one is there."""
        self._take()

    def end(self) -> None:
        """After the job that it has."""
        self._jobs.put(None)

    def check(self) -> None:
        """LogThread.H1..H4, between two calls."""
        assert not self.is_waited_for  # LogThread.H3: it is set inside of `wait` only
        assert self._outcomes.qsize() <= self.has_job  # LogThread.H1
        assert self._jobs.qsize() <= 1 + self.has_job  # with the end
        assert 0 <= self._calm_jobs <= CALM_JOBS  # LogThread.H4

    def _take(self) -> bool:
        try:
            outcome = self._outcomes.get_nowait()
        except Empty:
            return False
        self._settle(outcome)
        return True

    def _settle(self, outcome: Outcome) -> None:
        assert self.has_job  # LogThread.H2
        self.has_job = False
        is_calm = outcome.took_s < self._wait_s
        self._calm_jobs = min(self._calm_jobs + 1, CALM_JOBS) if is_calm else 0
        self._on_outcome(outcome.result, outcome.error)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            began = self._clock()
            result, error = attempt(job)
            del job
            self._outcomes.put(Outcome(result, error, self._clock() - began))
            del result, error
            if not self.is_waited_for:
                self._ask_to_look(self.look)


def attempt(job: Job) -> tuple[object, BaseException | None]:
    """What it returned, and what it raised."""
    try:
        return job(), None
    except BaseException as error:  # noqa: BLE001 - it is raised again where somebody waits for it
        return None, error
