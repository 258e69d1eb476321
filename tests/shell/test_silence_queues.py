"""The longest silence of the loop when what was gathered for long is decided, or taken in, at once.

As in `test_silence.py`, but of what waits: a full queue, a full way to the disk, a million remembered
requests, definitions over data, and the same on the side that receives it. Instances of a set share one
loop here, so what is measured is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.lowlevel

from synchro.config import MIB, ElectionMode, Limits
from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.instance import events as ev
from synchro.queue.request_table import RequestRecord, RequestTableState
from synchro.row import FLAG_COMMIT, Confirm, Dml, Promote, Row, RowType, Txn
from synchro.server.applier import Applier
from synchro.server.face import Face
from synchro.server.kept_rows import STEP_BYTES_MAX
from synchro.storage import row_body, schema, xrow
from tests.shell.memory_set import MemorySet, create_space, open_set, until, write
from tests.shell.test_grpc_set import open_grpc_set
from tests.shell.test_silence import (
    HALF_A_HEARTBEAT_S,
    Watch,
)
from tests.yardstick import slowness

LIMITS = Limits()
SPACE, OTHER = 512, 513
CALLERS = LIMITS.waiting_calls_max - 100


@asynccontextmanager
async def watched() -> AsyncIterator[Watch]:
    watch = Watch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        yield watch
        nursery.cancel_scope.cancel()


async def silence_of(watch: Watch, act: Callable[[], Awaitable[object]]) -> float:
    await trio.sleep(0.01)
    watch.longest_s = 0.0
    await act()
    await trio.sleep(0.05)
    return watch.longest_s / slowness()


def request_id(number: int) -> RequestId:
    return RequestId(number.to_bytes(16, "big"))


def small(number: int, space: int = SPACE) -> Dml:
    return row_body.dml_from_values(RowType.REPLACE, space, value=(number, "x"))


def large(number: int, space: int = SPACE) -> Dml:
    """As many objects as a tuple can have."""
    maps = MIB - 96
    data = b"\xdd" + (maps + 1).to_bytes(4, "big") + msgpack.packb(number) + b"\x80" * maps
    return row_body.insert_dml(RowType.REPLACE, space, data)


async def fill(face: Face, make: Callable[[int], Dml], *, until_full: Callable[[], bool], step: int) -> int:
    """Transactions of one row until there is no room. The last of them have somebody who waits."""
    number = 0

    def ignore(*_: object) -> None: ...

    while not until_full():
        number += step
        wait = ev.WaitMode.NONE if number < 24_000 and step > 1 else ev.WaitMode.COMPLETE
        calls = [face.new_call_id() for _ in range(step)]
        writes = [
            ev.ClientWrite(call, [make(number - step + n)], request_id(call), wait=wait)
            for n, call in enumerate(calls)
        ]
        face.submit_writes(writes, ignore, 1000.0)
        await trio.lowlevel.checkpoint()
    return number


@asynccontextmanager
async def lonely_owner(directory: Path) -> AsyncIterator[Face]:
    """It owns the queue, and its second member is silent: the test says what comes from there."""
    changes: dict[str, Any] = {"election_mode": ElectionMode.OFF, "replication_timeout_s": 1.0}
    with trio.fail_after(150):
        async with open_grpc_set(directory, 1, **changes) as (face,):
            await until(lambda: face.node.is_ready)
            await face.call(ev.PromoteRequested, timeout_s=5.0)
            await create_space(face)
            await create_space(face, OTHER, is_sync=False)
            uuid = "00000000-0000-4000-8000-000000000002"
            await face.call(lambda call: ev.RegisterRequested(call, uuid, "silent"), timeout_s=5.0)
            await until(lambda: len(face.node.core.registered) == 2 and not len(face.node.core.limbo))
            yield face


def ack_all(face: Face) -> None:
    core = face.node.core
    face.node.step(
        ev.AckReceived(InstanceId(2), ev.Ack(core.vclock.without_local(), core.raft.term, 0, True))
    )


def new_owner(face: Face) -> list[Txn]:
    """Rows of instance 2 that take the queue over and hold nothing of what is in it."""
    limbo, me = face.node.core.limbo, InstanceId(2)
    term, lsn = Term(limbo.term + 1), Lsn(face.node.core.vclock.get(me) + 1)
    promote = Promote(limbo.owner_id, limbo.confirmed_lsn, term, limbo.term)
    confirm = Confirm(me, lsn)
    return [
        xrow.encode_txn((Row(RowType.PROMOTE, me, lsn, lsn, FLAG_COMMIT, promote),)),
        xrow.encode_txn((Row(RowType.CONFIRM, me, Lsn(lsn + 1), Lsn(lsn + 1), FLAG_COMMIT, confirm),)),
    ]


async def fill_queue(face: Face, make: Callable[[int], Dml]) -> int:
    limbo, step = face.node.core.limbo, 500 if make is small else 1
    count = await fill(face, make, until_full=lambda: limbo.is_full, step=step)
    await until(lambda: face.node.core.vclock == face.node.core.volatile_vclock)
    return count


@pytest.mark.parametrize("make", [small, pytest.param(large, marks=pytest.mark.long)])
async def test_a_full_queue_is_decided_in_one_go(tmp_path: Path, make: Callable[[int], Dml]) -> None:
    """Thirty thousand commits, or sixteen that replace a million objects each, and the same undone: what was
    undone was packed again to count its memory, 2.4 s."""
    async with lonely_owner(tmp_path) as face, watched() as watch:
        silences = {}

        async def decide() -> None:
            while (
                len(face.node.core.limbo) or face.node.core.waiting_unprepared
            ):  # what waited for room comes after
                ack_all(face)
                await trio.sleep(0.01)
            await until(lambda: not face.node.core.memtx.has_dead)

        async def lose() -> None:
            rows = new_owner(face)
            face.node.step(ev.FrameTermSeen(Term(face.node.core.limbo.term + 1)))
            face.node.step(ev.TxnsReceived(InstanceId(2), rows))
            await until(lambda: face.node.core.limbo.owner_id == 2 and not face.node.core.memtx.has_dead)

        for what in ("commit", "commit over others"):
            await fill_queue(face, make)
            assert face.node.core.limbo.is_full
            silences[what] = await silence_of(watch, decide)
        await fill_queue(face, make)
        silences["rollback"] = await silence_of(watch, lose)
        assert not len(face.node.core.limbo)
        face.node.core.memtx.check()
        assert max(silences.values()) < HALF_A_HEARTBEAT_S, silences


async def test_a_full_way_to_the_disk(tmp_path: Path) -> None:
    """Everything on its way is synced at once."""
    async with lonely_owner(tmp_path) as face, watched() as watch:
        log = face.node.core.state.log

        async def submit() -> None:
            count, room = 0, LIMITS.wal_queue_bytes_max
            calls: list[ev.ClientWrite] = []
            while log.bytes < room and count < 40_000:
                calls = [
                    ev.ClientWrite(face.new_call_id(), [small(n, OTHER)], wait=ev.WaitMode.NONE)
                    for n in range(count, count + 500)
                ]
                count += 500
                face.submit_writes(calls, lambda *_: None, 100.0)
                if count % 5_000 == 0:
                    await trio.lowlevel.checkpoint()
            await until(lambda: face.node.core.vclock == face.node.core.volatile_vclock)

        assert await silence_of(watch, submit) < HALF_A_HEARTBEAT_S


def remembered(count: int) -> RequestTableState:
    origin, term = InstanceId(1), Term(1)
    return RequestTableState(
        tuple((request_id(n), RequestRecord(origin, Lsn(n), term)) for n in range(1, count + 1))
    )


@pytest.mark.parametrize(
    "count", [100_000, pytest.param(LIMITS.remembered_requests_max, marks=pytest.mark.long)]
)
async def test_all_requests_that_are_remembered(tmp_path: Path, count: int) -> None:
    """New ones that push others out, a snapshot of them, and a start over them."""
    slow = {"replication_timeout_s": 1.0, "election_timeout_s": 5.0}
    limits = Limits(remembered_requests_max=count)
    with trio.fail_after(120):
        async with open_set(tmp_path, 2, limits=limits, **slow) as group:
            first = await group.start(1)
            async with watched() as watch:
                second = await group.start(2)
                owner = await group.wait_leader()
                await create_space(owner)
                await group.wait_ready()
                await group.wait_equal()
                for face in (first, second):
                    face.node.core.state.requests.restore(remembered(count))
                silences = {}

                async def write_many() -> None:
                    done: list[ev.Outcome] = []
                    for start in range(2_000_000, 2_010_000, 500):
                        writes = [
                            ev.ClientWrite(owner.new_call_id(), [small(n)], request_id(n))
                            for n in range(start, start + 500)
                        ]
                        owner.submit_writes(writes, lambda _, outcome: done.append(outcome), 60.0)
                        await trio.lowlevel.checkpoint()
                    await until(lambda: len(done) == 10_000)
                    await group.wait_equal()

                silences["insertion and eviction"] = await silence_of(watch, write_many)
                assert owner.node.core.state.requests.find(request_id(1)) is None
                silences["snapshot"] = await silence_of(watch, owner.checkpoint)
                number = int(owner.node.settings.instance_name[-1])
                await group.stop(number)

                async def start_again() -> None:
                    await group.start(number)
                    await until(lambda: len(group.nodes) == 2 and all(n.node.is_ready for n in group.nodes))

                silences["recovery"] = await silence_of(watch, start_again)
                again = group.members[f"instance00{number}"].face
                assert len(again.node.core.state.requests) == count
            assert max(silences.values()) < HALF_A_HEARTBEAT_S, silences


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[tuple[MemorySet, Face, Face]]:
    """An owner and a follower, in one loop."""
    changes: dict[str, Any] = {"election_mode": ElectionMode.OFF, "replication_timeout_s": 1.0}
    with trio.fail_after(100):
        async with open_set(directory, 2, **changes) as group:
            nodes = [await group.start(number) for number in (1, 2)]
            await group.wait_ready()
            owner = min(nodes, key=lambda face: face.node.core.self_id)
            await owner.call(ev.PromoteRequested, timeout_s=5.0)
            await create_space(owner)
            await create_space(owner, OTHER, is_sync=False)
            await group.wait_equal()
            yield group, owner, next(face for face in nodes if face is not owner)


def number_of(face: Face) -> int:
    return int(face.node.settings.instance_name[-1])


async def test_a_follower_that_gets_a_full_queue(tmp_path: Path) -> None:
    """Rows of all of it, then their CONFIRM; its own recovery before."""
    async with pair(tmp_path) as (group, owner, follower), watched() as watch:
        await group.stop(number_of(follower))
        await fill_queue(owner, small)
        watch.longest_s = 0.0
        again = await group.start(number_of(follower))
        await until(lambda: not len(owner.node.core.limbo) and not owner.node.core.waiting_unprepared)
        await until(lambda: again.node.core.memtx.count(SPACE) == owner.node.core.memtx.count(SPACE) > 30_000)
        assert watch.longest_s / slowness() < HALF_A_HEARTBEAT_S


async def test_several_definitions_at_once(tmp_path: Path) -> None:
    """Three indexes and a format in one transaction; then a truncate, and changes of a local space beside."""
    async with pair(tmp_path) as (group, owner, follower), watched() as watch:
        memtx, rows = owner.node.core.memtx, 2 * LIMITS.ddl_rows_at_once
        for start in range(0, rows, 500):
            ops = [small(n, OTHER) for n in range(start, start + 500)]
            assert isinstance(await write(owner, *ops), ev.Committed)
        await group.wait_equal()
        flags: dict[str, object] = {"unique": False}
        parts = (((1, "string"),), ((1, "string"), (0, "unsigned")), ((0, "unsigned"), (1, "string")))
        ops = [
            row_body.dml_from_values(
                RowType.INSERT, schema.INDEX_ID, value=(OTHER, number, f"i{number}", "tree", flags, part)
            )
            for number, part in enumerate(parts, 1)
        ]
        form = ({"name": "id", "type": "unsigned"}, {"name": "text", "type": "string"})
        space: tuple[object, ...] = (OTHER, schema.ADMIN, f"space{OTHER}", "memtx", 0, {}, form)
        ops.append(row_body.dml_from_values(RowType.REPLACE, schema.SPACE_ID, value=space))
        silences, outcomes = {}, list[ev.Outcome]()

        async def change(*ops: Dml) -> None:
            outcomes.append(await write(owner, *ops, timeout_s=30.0))
            await group.wait_equal()
            for face in (owner, follower):
                await until(partial(lambda face: not face.node.core.memtx.has_dead, face))

        silences["indexes and format"] = await silence_of(watch, lambda: change(*ops))
        for face in (owner, follower):
            assert len(face.node.core.memtx.catalog.indexes(OTHER)) == 4
        truncate = [
            row_body.dml_from_values(RowType.REPLACE, schema.TRUNCATE_ID, value=(space_id, 1))
            for space_id in (SPACE, OTHER)
        ]
        silences["truncate"] = await silence_of(watch, lambda: change(*truncate))
        assert memtx.count(OTHER) == follower.node.core.memtx.count(OTHER) == 0
        assert all(isinstance(outcome, ev.Committed) for outcome in outcomes)
        assert max(silences.values()) < HALF_A_HEARTBEAT_S, silences


async def test_truncate_among_changes_of_a_local_space(tmp_path: Path) -> None:
    """It is one change among the others, and stands above what they prepared."""
    async with lonely_owner(tmp_path) as face, watched() as watch:
        local = 514
        space = (local, schema.ADMIN, "local", "memtx", 0, {"group_id": 1}, ())
        index = (local, 0, "primary", "tree", {"unique": True}, ((0, "unsigned"),))
        for target, row in ((schema.SPACE_ID, space), (schema.INDEX_ID, index)):
            op = row_body.dml_from_values(RowType.INSERT, target, value=row)
            call = face.new_call_id()
            face.submit_writes([ev.ClientWrite(call, [op])], lambda *_: None, 10.0)
            while len(face.node.core.limbo) or face.node.core.vclock != face.node.core.volatile_vclock:
                ack_all(face)
                await trio.sleep(0.01)
        for start in range(0, 60_000, 1_000):
            await write(face, *[small(n, local) for n in range(start, start + 1_000)])
        truncate = row_body.dml_from_values(RowType.REPLACE, schema.TRUNCATE_ID, value=(local, 1))
        outcomes = list[ev.Outcome]()

        async def change() -> None:
            ops = [small(n, local) for n in range(400)]
            outcomes.append(await write(face, *ops, truncate, *ops))
            await until(lambda: not face.node.core.memtx.has_dead)

        assert await silence_of(watch, change) < HALF_A_HEARTBEAT_S
        assert isinstance(outcomes[0], ev.Committed), outcomes
        assert face.node.core.memtx.count(local) == 400


async def test_a_large_frame_is_applied_in_steps(tmp_path: Path) -> None:
    """A MiB of the smallest rows, handed over in one go, was half a second of work."""
    async with pair(tmp_path) as (_, owner, follower):
        applier = follower.links.appliers[owner.node.settings.instance_name]
        assert isinstance(applier, Applier)
        rows = [xrow.encode_ops([small(n)], InstanceId(1), Lsn(n), FLAG_COMMIT) for n in range(1, 28_000)]
        large_one = xrow.encode_ops([small(n) for n in range(5_000)], InstanceId(1), Lsn(28_000), FLAG_COMMIT)
        data = b"".join(bytes(txn.data) for txn in (*rows, large_one, *rows))
        parts = applier._kept.cut(data)
        assert b"".join(parts) == data
        assert len(data) // STEP_BYTES_MAX <= len(parts) < 2 * len(data) // STEP_BYTES_MAX
        assert [part for part in parts if len(part) > STEP_BYTES_MAX] == [large_one.data]
        assert sum(len(xrow.decode_txns(part)) for part in parts) == 2 * len(rows) + 1


MEASURED = {
    "tuple_bytes_max": "test_silence: a million values; test_a_full_queue_is_decided_in_one_go[large]",
    "batch_ops_max": "test_silence: all rows of a transaction, a run of definitions",
    "txn_bytes_max": "test_silence: all rows of a transaction, frames of large transactions",
    "select_bytes_max": "test_silence: selects of everything",
    "select_tuples_max": "test_silence: selects of everything",
    "connections_max": "each costs a turn when it speaks; test_descriptors",
    "connections_bytes_max": "a number; test_wire_port_limits",
    "connections_per_address_max": "a number; test_admission",
    "waiting_calls_max": "test_a_full_queue_is_decided_in_one_go[small]: thousands wait for one decision",
    "wal_queue_bytes_max": "test_a_full_way_to_the_disk",
    "wal_block_bytes_max": "in the thread of the disk",
    "wal_lead_bytes": "in the thread of the disk",
    "wal_control_reserve_bytes": "in the thread of the disk",
    "wal_max_size": "in the thread of the disk",
    "relay_ring_bytes": "test_a_follower_that_gets_a_full_queue",
    "relay_frame_bytes_max": "test_a_large_frame_is_applied_in_steps",
    "joins_max": "a view is taken as for a snapshot, and packed in a thread; test_stalled_joins",
    "join_calls_max": "as joins_max",
    "join_view_age_s": "no work",
    "join_chunk_bytes_max": "packed and checked in a thread",
    "peer_credit_bytes": "test_a_follower_that_gets_a_full_queue",
    "message_bytes_max": "test_silence: seven million empty operations",
    "stream_out_bytes_max": "test_silence: frames",
    "stream_in_bytes_max": "test_silence: frames",
    "remembered_requests_max": "test_all_requests_that_are_remembered",
    "remembered_drops_max": "ten thousand ranges; test_request_filter and test_fates go beyond it",
    "update_ops_max": "test_silence: operations",
    "ddl_rows_at_once": "test_several_definitions_at_once; test_silence: create_index",
    "txn_values_max": "test_silence: a million arrays; test_bounded_work: a million empty maps",
    "turn_work_bytes_max": "test_silence: splices, four at once",
    "txn_work_bytes_max": "test_silence: splices",
    "tombstones_max": "test_last_write_wins: very many tombstones",
    "open_transactions_max": "a number; each works on its own messages only",
    "open_transactions_bytes_max": "a number; a commit looks at SEEN_TUPLES_MAX tuples again at the most",
    "anonymous_max": "a dictionary of so many; looked through when one comes",
}
"""Where the work under each limit is measured at its maximum, or why there is none on the loop."""


def test_every_limit_has_its_measurement() -> None:
    assert {field.name for field in fields(Limits)} == MEASURED.keys()
