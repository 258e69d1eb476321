"""Calls that wait for their outcome, and reads that wait until something is applied."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count, groupby
from typing import Final

import trio

from synchro.errors import DiskFailed, SyncQueueFull
from synchro.ids import CallId
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.replication.read_barrier import ReadPosition
from synchro.vclock import Vclock

Respond = Callable[[CallId, ev.Outcome], None]
Timeouts = float | Sequence[float]
"""Seconds: one for all calls, or one for each."""

EXPIRED_AT_ONCE: Final = 500
"""Calls that are told that their time is over, before all else has its turn."""
EXPIRIES_MIN: Final = 1000
"""So many expiries may be kept of calls that were answered: they are looked through when there are more."""
_LEAVING: Final = "the process is leaving; nothing was written"


class Calls:
    """N2  Every call in here gets one outcome, or is abandoned; there are at most `waiting_max`, and those
        that waited when it was lowered.
    N4  `_expiries` has at most `EXPIRIES_MIN` entries, or twice as many as were of calls that waited when it
        was looked through last.

    step: gives an event to the core, which may answer before it returns. Nothing is admitted any more after
    `close`.
    """

    def __init__(self, step: Callable[[ev.Event], None], waiting_max: int) -> None:
        self._step = step
        self._waiting_max = waiting_max
        self._excess = 0
        """How many more waited when `waiting_max` was lowered."""
        self._is_closed = False
        self._ids = count(1)
        self._waiting: dict[CallId, Respond] = {}
        self._expiries: list[tuple[float, int, int]] = []
        self._expiries_max = EXPIRIES_MIN
        self._expiry_timer = trio.CancelScope()
        self._readers: list[tuple[Callable[[], bool], trio.Event]] = []
        """What each waits for, in what is applied."""

    def limit_changed(self, waiting_max: int) -> None:
        """More are admitted from now on, or none before there are fewer."""
        self._waiting_max = waiting_max
        self._excess = max(0, len(self._waiting) - waiting_max)

    # --------------------------------------------------------------------------------------------- from rpc

    def new_id(self) -> CallId:
        return CallId(next(self._ids))

    def submit(
        self,
        make_event: Callable[[CallId], ev.Event],
        on_outcome: Callable[[ev.Outcome], None],
        *,
        timeout_s: float = math.inf,
    ) -> CallId:
        call_id = self.new_id()
        if self._room <= 0:
            on_outcome(self._refusal())
            return call_id
        self._waiting[call_id] = lambda _, outcome: on_outcome(outcome)
        if timeout_s < math.inf:
            self._expire_at(trio.current_time() + timeout_s, call_id, call_id)
        self._step(make_event(call_id))
        return call_id

    def submit_writes(
        self, writes: Sequence[ev.ClientWrite], on_outcome: Respond, timeout_s: Timeouts
    ) -> None:
        room = max(0, self._room)
        if len(writes) > room:
            for write in writes[room:]:
                on_outcome(write.call_id, self._refusal())
            writes = writes[:room]
            timeout_s = timeout_s if isinstance(timeout_s, float | int) else timeout_s[:room]
        if writes:
            self._step_calls(
                [write.call_id for write in writes], ev.ClientWrites(writes), on_outcome, timeout_s
            )

    def submit_puts(self, puts: ev.ClientPuts, on_outcome: Respond, timeout_s: Timeouts) -> None:
        if len(puts.call_ids) > self._room:
            self.submit_writes(puts.writes(), on_outcome, timeout_s)
        else:
            self._step_calls(puts.call_ids, puts, on_outcome, timeout_s)

    def abandon(self, call_id: CallId) -> None:
        if self._waiting.pop(call_id, None) is not None:
            self._step(ev.RequestAbandoned(call_id))

    async def call(self, make_event: Callable[[CallId], ev.Event], *, timeout_s: float) -> ev.Outcome:
        outcome: ev.Outcome | None = None
        done = trio.Event()

        def on_outcome(result: ev.Outcome) -> None:
            nonlocal outcome
            outcome = result
            done.set()

        call_id = self.submit(make_event, on_outcome)
        try:
            with trio.move_on_after(timeout_s):
                await done.wait()
            if outcome is None:
                self._step(ev.CallExpired(call_id))
                await done.wait()
        finally:
            self.abandon(call_id)
        assert outcome is not None
        return outcome

    @property
    def _room(self) -> int:
        return 0 if self._is_closed else self._waiting_max - len(self._waiting)

    def _refusal(self) -> ev.Rejected:
        if self._is_closed:
            return ev.Rejected(DiskFailed(_LEAVING))
        limit = self._waiting_max
        return ev.Rejected(
            SyncQueueFull(f"{limit} calls wait for their outcome already; nothing was written", limit=limit)
        )

    def _step_calls(
        self, call_ids: Sequence[CallId], event: ev.Event, on_outcome: Respond, timeout_s: Timeouts
    ) -> None:
        """call_ids: consecutive."""
        self._waiting.update(dict.fromkeys(call_ids, on_outcome))
        now, first = trio.current_time(), call_ids[0]
        if isinstance(timeout_s, float | int):
            self._expire_at(now + timeout_s, first, call_ids[-1])
        else:
            for each_s, group in groupby(timeout_s):
                last = first + sum(1 for _ in group) - 1
                self._expire_at(now + each_s, first, last)
                first = CallId(last + 1)
        self._step(event)

    # -------------------------------------------------------------------------------------------- from node

    def answer(self, replies: Iterable[tuple[CallId, ev.Outcome]]) -> None:
        waiting = self._waiting
        for call_id, outcome in replies:
            respond = waiting.pop(call_id, None)
            if respond is not None:
                respond(call_id, outcome)

    def answer_all(self, outcome: ev.Outcome) -> None:
        waiting, self._waiting = self._waiting, {}
        for call_id, respond in waiting.items():
            respond(call_id, outcome)

    def close(self) -> None:
        self._is_closed = True

    # --------------------------------------------------------------------------------------------- expiries

    async def run_expiry_timer(self) -> None:
        """Tell the core of calls whose time is over; one entry a frame, not a call. Until cancelled."""
        while True:
            next_at = self._expiries[0][0] if self._expiries else math.inf
            self._expiry_timer = trio.CancelScope(deadline=next_at)
            with self._expiry_timer:
                await trio.sleep_forever()
            now, steps = trio.current_time(), 0
            while self._expiries and (self._expiries[0][0] <= now or not self._waits(*self._expiries[0])):
                _, first, last = heapq.heappop(self._expiries)
                for number in range(first, last + 1):
                    if CallId(number) in self._waiting:
                        self._step(ev.CallExpired(CallId(number)))
                        steps += 1
                        if steps % EXPIRED_AT_ONCE == 0:
                            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    def _waits(self, _deadline: float, first: int, last: int) -> bool:
        return any(map(self._waiting.__contains__, range(first, last + 1)))

    def _expire_at(self, deadline: float, first: int, last: int) -> None:
        heapq.heappush(self._expiries, (deadline, first, last))
        if len(self._expiries) > self._expiries_max:
            # Most calls are answered long before their time is over, which may be hours.
            self._expiries = [one for one in self._expiries if self._waits(*one)]
            heapq.heapify(self._expiries)
            self._expiries_max = max(EXPIRIES_MIN, 2 * len(self._expiries))  # Calls.N4
        if self._expiries[0][0] < self._expiry_timer.deadline:
            self._expiry_timer.deadline = self._expiries[0][0]

    def check(self) -> None:
        assert len(self._waiting) <= self._waiting_max + self._excess  # Calls.N2
        assert len(self._expiries) <= self._expiries_max  # Calls.N4

    # ---------------------------------------------------------------------------------------------- readers

    async def wait_applied(
        self, core: Instance, vclock: Vclock, *, timeout_s: float, is_decided: bool = True
    ) -> bool:
        """See `Instance.has_applied`; False: not in time, or `wake_all_readers`."""
        return await self._wait_applied(partial(core.has_applied, vclock, is_decided=is_decided), timeout_s)

    async def wait_reached(self, core: Instance, position: ReadPosition, *, timeout_s: float) -> bool:
        """See `Instance.has_reached`; False as above."""
        return await self._wait_applied(partial(core.has_reached, position), timeout_s)

    async def _wait_applied(self, is_applied: Callable[[], bool], timeout_s: float) -> bool:
        await trio.lowlevel.checkpoint()
        if is_applied():
            return True
        waiter = (is_applied, applied := trio.Event())
        self._readers.append(waiter)
        try:
            with trio.move_on_after(timeout_s):
                await applied.wait()
        finally:
            if waiter in self._readers:
                self._readers.remove(waiter)
        return is_applied()

    def wake_readers(self) -> None:
        """After each step."""
        if self._readers:
            for waiter in [one for one in self._readers if one[0]()]:
                self._readers.remove(waiter)
                waiter[1].set()

    def wake_all_readers(self) -> None:
        for _, applied in self._readers:
            applied.set()
