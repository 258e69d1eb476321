"""Calls that wait for their outcome: each has its own time, and what is answered is forgotten."""

from __future__ import annotations

from typing import Any, cast

import trio
import trio.testing

from synchro.errors import SyncTimeout
from synchro.ids import CallId, InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.row import Puts, RowType
from synchro.server.calls import EXPIRIES_MIN, Calls
from synchro.vclock import Vclock


class World:
    """Calls, and a core that answers when it is told to, or when their time is over."""

    def __init__(self, waiting_max: int = 10_000) -> None:
        self.steps: list[ev.Event] = []
        self.told: dict[CallId, ev.Outcome] = {}
        self.calls = Calls(self._step, waiting_max)

    def _step(self, event: ev.Event) -> None:
        self.steps.append(event)
        if isinstance(event, ev.CallExpired):
            self.answer(event.call_id, ev.OutcomeUnknown(SyncTimeout("no quorum", acked=1, needed=2)))

    def answer(self, call_id: CallId, outcome: ev.Outcome) -> None:
        self.calls.answer([(call_id, outcome)])

    def submit(self, timeout_s: Any, count: int) -> list[CallId]:
        ids = [self.calls.new_id() for _ in range(count)]
        puts = Puts(RowType.INSERT, 512, [b""] * count, [()] * count)
        event = ev.ClientPuts(ids, puts, [None] * count, [None] * count)
        self.calls.submit_puts(event, self.told.__setitem__, timeout_s)
        return ids


async def test_each_call_of_one_step_has_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    """Those that arrived together may wait for as long as each asked."""
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.calls.run_expiry_timer)
        together = world.submit(5.0, 3)
        each = world.submit([1.0, 3.0, 3.0, 2.0], 4)
        for after, gone in ((1.5, [0]), (2.5, [0, 3]), (3.5, [0, 1, 2, 3])):
            await trio.sleep_until(after)
            assert world.told.keys() == {each[n] for n in gone}
        world.answer(together[1], ev.Submitted(None))
        await trio.sleep_until(6)
        assert [event.call_id for event in world.steps if isinstance(event, ev.CallExpired)] == [
            each[0],
            each[3],
            each[1],
            each[2],
            together[0],
            together[2],
        ]
        nursery.cancel_scope.cancel()


async def test_those_without_room_are_refused_and_the_others_keep_their_times(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Calls.N2"""
    world = World(waiting_max=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.calls.run_expiry_timer)
        ids = world.submit([1.0, 2.0, 3.0, 4.0], 4)
        assert world.told.keys() == set(ids[2:])
        await trio.sleep_until(1.5)
        assert world.told.keys() == {ids[0], *ids[2:]}
        nursery.cancel_scope.cancel()


async def test_expiries_of_answered_calls_do_not_pile_up() -> None:
    """Calls.N4: clients may give their calls hours, and be answered at once."""
    world = World()
    stays = world.submit(3600.0, 1)
    for _ in range(5 * EXPIRIES_MIN):
        for call_id in world.submit([1800.0, 3600.0], 2):
            world.answer(call_id, ev.Submitted(None))
        world.calls.check()
    assert stays[0] not in world.told
    many = [call_id for _ in range(3 * EXPIRIES_MIN) for call_id in world.submit(3600.0, 1)]
    world.calls.check()
    for call_id in (*many, *stays):
        world.answer(call_id, ev.Submitted(None))
    for _ in range(8 * EXPIRIES_MIN):
        world.answer(world.submit(3600.0, 1)[0], ev.Submitted(None))
        world.calls.check()


class NothingApplied:
    """A core to which no row comes."""

    def has_applied(self, _vclock: Vclock, *, is_decided: bool) -> bool:
        return False


async def test_a_reader_that_leaves_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """Else each step would look at it until its rows came, which may be never."""
    calls, core = World().calls, cast(Instance, NothingApplied())
    with trio.move_on_after(1):
        await calls.wait_applied(core, Vclock({InstanceId(1): Lsn(5)}), timeout_s=60.0)
    assert not await calls.wait_applied(core, Vclock(), timeout_s=1.0)
    assert calls._readers == []
