"""What those are told who watch an instance, and what its log says of it: [E-45], [E-50], [E-51]."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import structlog
import trio

from synchro.config import ElectionMode
from synchro.instance import events as ev
from synchro.server.api import WatchFacts
from tests.shell.memory_set import PATIENCE_S, open_set, until

STATES_MAX = 100


async def next_told(states: AsyncIterator[WatchFacts], what: str) -> WatchFacts:
    """The next state that a watcher gets."""
    with trio.move_on_after(PATIENCE_S):
        return await anext(states)
    pytest.fail(f"a watcher was not told {what} within {PATIENCE_S:.0f} s")


async def test_who_watches_hears_of_term_role_leader_and_owner(tmp_path: Path) -> None:
    """[E-50]: on the new leader, on the old one, and on the third."""
    async with (
        open_set(tmp_path, 3, election_mode=ElectionMode.MANUAL) as made,
        trio.open_nursery() as nursery,
    ):
        for number in (1, 2, 3):
            await made.start(number)
        await made.wait_leader()
        await made.wait_ready()
        old = await made.wait_leader()
        new = next(face for face in made.nodes if face is not old)
        told: dict[int, list[WatchFacts]] = {}

        async def watch(number: int) -> None:
            async for facts in made.nodes[number].watch():
                seen = told.setdefault(number, [])
                seen.append(facts)
                assert len(seen) < STATES_MAX, "it is told of states without end"

        for number in range(3):
            nursery.start_soon(watch, number)
        await until(lambda: len(told) == 3)
        term = old.node.core.raft.term
        before = [seen[0] for seen in told.values()]
        assert {(facts.term, facts.queue_owner) for facts in before} == {(term, old.node.core.self_id)}
        assert isinstance(await new.call(ev.PromoteRequested, timeout_s=20), ev.Promoted)
        owner = new.node.core.self_id
        await until(lambda: all(seen[-1].queue_owner == owner for seen in told.values()))
        for number, seen in told.items():
            last = seen[-1]
            assert last.term == term + 1 and last.leader is not None and last.leader.id == owner
            assert last.is_writable is (made.nodes[number] is new)
            assert last.election_state == ("leader" if made.nodes[number] is new else "follower")
            assert all(one != another for one, another in pairwise(seen))
        nursery.cancel_scope.cancel()


async def test_a_watcher_that_was_away_gets_the_newest_state(tmp_path: Path) -> None:
    """[E-51]: it is not told of each state that it missed."""
    async with open_set(tmp_path, 1) as made:
        face = await made.start(1)
        await made.wait_leader()
        states = face.watch()
        assert (await next_told(states, "how it is now")).is_writable
        for is_read_only in (True, False, True):
            face.node.change_settings(replace(face.node.settings, read_only=is_read_only))
        assert not (await next_told(states, "the newest state")).is_writable
        with trio.move_on_after(0.2) as nothing_more:
            await anext(states)
        assert nothing_more.cancelled_caught


async def test_the_log_says_when_an_instance_begins_and_ends_to_take_writes(tmp_path: Path) -> None:
    """[E-45]: by whatever it is caused, and once."""
    with structlog.testing.capture_logs() as records:
        async with open_set(tmp_path, 1) as made:
            face = await made.start(1)
            await made.wait_leader()

            def told() -> list[tuple[str, str | None]]:
                names = ("became_writable", "became_read_only")
                return [(one["event"], one["ro_reason"]) for one in records if one["event"] in names]

            assert told()[-1] == ("became_writable", None)
            known = len(told())
            for is_read_only in (True, True, False):
                face.node.change_settings(replace(face.node.settings, read_only=is_read_only))
            assert told()[known:] == [("became_read_only", "config"), ("became_writable", None)]


async def test_who_may_not_write_by_a_new_election_mode_says_so_at_once(tmp_path: Path) -> None:
    """Nobody owns the queue, so all write; a voter waits for somebody else to be elected. Of who leads, and
    of the term, nothing changes by that."""
    async with open_set(tmp_path, 1, election_mode=ElectionMode.OFF) as made:
        face = await made.start(1)
        await until(lambda: face.node.has_core and face.header().is_writable)
        for mode in (ElectionMode.VOTER, ElectionMode.OFF):
            face.node.change_settings(replace(face.node.settings, election_mode=mode))
            assert face.header().is_writable is face.node.core.is_writable is (mode is ElectionMode.OFF)


async def test_a_later_life_of_an_instance_says_a_higher_number_of_its_definitions(tmp_path: Path) -> None:
    """A client reads names again when the number differs. The catalog counts anew at each start, so it may
    come to the number of the former life with other definitions."""
    async with open_set(tmp_path, 1) as made:
        face = await made.start(1)
        await made.wait_leader()
        first = face.header().schema_version
        face.node.core.memtx.catalog.schema_version += 1
        assert face.header().schema_version == first + 1
        await made.stop(1)
        face = await made.start(1)
        await made.wait_leader()
        assert face.header().schema_version > first + 1
