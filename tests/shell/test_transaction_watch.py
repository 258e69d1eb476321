"""What one instance tells of transactions that wait, and of its disk: real nodes in one loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from synchro.config import ElectionMode
from synchro.errors import Loading
from synchro.ids import InstanceId, Lsn, RequestId
from synchro.instance import events as ev
from synchro.row import TxnId
from synchro.server.api import Undecided
from synchro.server.face import Face
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until

ID = RequestId(b"0123456789abcdef")
TOLD_S = 10.0


async def listen(face: Face, into: list[Any], txn: TxnId | None, request_id: RequestId | None) -> None:
    async for one in face.watch_transaction(txn, request_id, timeout_s=TOLD_S):
        into.append(one)


def others(own: InstanceId) -> list[InstanceId]:
    """Ids are given in the order in which instances joined."""
    return [InstanceId(n) for n in (1, 2, 3) if n != own]


@asynccontextmanager
async def alone(tmp_path: Path) -> AsyncIterator[tuple[MemorySet, Face, TxnId]]:
    """A set of three whose owner has a transaction that waits, while the others are down."""
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as made:
        owner = await made.start(1)
        await made.start(2)
        await made.start(3)
        await made.wait_ready()
        await until(lambda: len(owner.node.core.registered) == 3)
        promoted = await owner.call(ev.PromoteRequested, timeout_s=5.0)
        assert isinstance(promoted, ev.Promoted)
        await create_space(owner)
        await made.wait_equal()
        await made.kill(2, 3)
        await until(lambda: not owner.links.relays)
        outcomes: list[ev.Outcome] = []
        write = ev.ClientWrite(owner.new_call_id(), (put(1),), ID)
        owner.submit_writes([write], lambda _, outcome: outcomes.append(outcome), TOLD_S)
        await until(lambda: all(entry.txn for entry in owner.queue_entries()))
        (entry,) = owner.queue_entries()
        assert entry.txn is not None
        yield made, owner, entry.txn


async def test_a_watcher_hears_of_acks_and_of_the_end(tmp_path: Path) -> None:
    """[Q-48]: by its name and by its request id; who asks afterwards hears the end at once."""
    by_name: list[Any] = []
    by_id: list[Any] = []
    late: list[Any] = []
    async with alone(tmp_path) as (made, owner, txn), trio.open_nursery() as nursery:
        nursery.start_soon(listen, owner, by_name, txn, None)
        nursery.start_soon(listen, owner, by_id, None, ID)
        await until(lambda: bool(by_name and by_id))
        own = owner.node.core.number
        waiting = Undecided(txn, [own], others(own), 2)
        assert by_name == by_id == [waiting]
        await made.start(2)
        await until(lambda: len(by_name) > 1 and len(by_id) > 1)
        done = ev.FateKnown(ev.Fate.COMMITTED, txn)
        assert by_name[-1] == by_id[-1] == done
        await listen(owner, late, None, ID)
        assert late == [done]
        unknown: list[Any] = []
        await listen(owner, unknown, TxnId(own, Lsn(10**6)), None)
        assert [told.fate for told in unknown] == [ev.Fate.UNKNOWN]


async def test_a_watcher_whose_time_is_over_or_who_leaves_is_forgotten(tmp_path: Path) -> None:
    """[Q-43]: the transaction goes on, and nothing is kept for a watcher that is gone."""
    async with alone(tmp_path) as (_, owner, txn):
        told = [one async for one in owner.watch_transaction(txn, None, timeout_s=0.05)]
        assert told[-1] == ev.FateKnown(ev.Fate.PENDING, txn)
        watch = owner.watch_transaction(txn, None, timeout_s=TOLD_S)
        await anext(watch)
        await watch.aclose()  # type: ignore[attr-defined]
        assert len(owner.queue_entries()) == 1
        (pending,) = owner.node.core.limbo.entries
        assert not pending.waits  # type: ignore[attr-defined]
        assert not owner._txn_watches


async def test_the_queue_says_since_when_an_ack_is_missing(tmp_path: Path) -> None:
    """[I-27]: who is down, since it was heard last; who is there, since the transaction or it came."""
    async with alone(tmp_path) as (made, owner, _):
        (entry,) = owner.queue_entries()
        assert [(one.peer, one.is_connected) for one in entry.missing] == [
            (peer, False) for peer in others(owner.node.core.number)
        ]
        first = [one.since_s for one in entry.missing]
        await trio.sleep(0.02)
        (entry,) = owner.queue_entries()
        for one, before in zip(entry.missing, first, strict=True):
            assert one.since_s is not None and before is not None and one.since_s > before > 0
        await made.stop(1)
        again = await made.start(1)
        await made.wait_ready()
        (entry,) = again.queue_entries()
        assert [one.since_s for one in entry.missing] == [None, None]  # not heard in this life


async def test_a_barrier_covers_what_was_written(tmp_path: Path) -> None:
    """[W-48]: rows that wait for their quorum too; a stopping instance says so."""
    async with alone(tmp_path) as (made, owner, txn):
        synced = await owner.sync_wal(5.0)
        assert synced.get(txn.origin) >= txn.lsn
        await made.stop(1)
        with pytest.raises(Loading):
            await owner.sync_wal(5.0)
