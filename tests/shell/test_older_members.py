"""Instances of an older version read no shared transactions in which calls have no request id (ADR 13): they
are not sent any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import msgpack
import pytest
import trio

from synchro.errors import ProtocolVersion
from synchro.ids import RequestId
from synchro.instance import events as ev
from synchro.row import RowType, Txn
from synchro.server.face import Face
from synchro.server.join import serve_join
from synchro.server.peer_messages import Accepted, Frame, Hello, JoinRequest, JoinRows, JoinSnapshotEnd
from synchro.storage import row_body, schema_ops, xrow
from synchro.vclock import Vclock
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write


async def crowd(face: Face, first: int, *, has_ids: bool = False) -> None:
    """Five callers whose writes arrive together."""
    keys = range(first, first + 5)
    puts = row_body.insert_all(RowType.REPLACE, 512, [msgpack.packb((key, "v")) for key in keys])
    ids = [RequestId(b"%016d" % key) if has_ids else None for key in keys]
    done: list[ev.Outcome] = []
    calls = [face.new_call_id() for _ in keys]
    face.submit_puts(ev.ClientPuts(calls, puts, ids, [None] * 5), lambda _, told: done.append(told), 5.0)
    await until(lambda: len(done) == 5)
    assert not any(isinstance(told, ev.Rejected) for told in done)


async def subscribed(
    replicas: MemorySet, leader: Face, away: Face, after: Vclock, *, takes_unnamed: bool
) -> list[Txn]:
    """What a member gets that comes back and says so in its Hello."""
    name = away.node.settings.instance_name
    term = leader.node.core.raft.term
    hello = Hello(leader.node.replicaset_uuid, away.node.uuid, name, after, term, 1 << 20)
    hello = replace(hello, takes_parts=True, takes_unnamed=takes_unnamed)
    until_lsn = leader.node.core.vclock.get(leader.node.core.self_id)
    got: list[Txn] = []
    transport = replicas.network.transport(name)
    async with transport.subscribe(leader.node.settings.instance_name, hello) as stream:
        assert isinstance(await stream.receive(), Accepted)
        with trio.fail_after(20):
            while not got or got[-1].lsn < until_lsn:
                message = await stream.receive()
                assert isinstance(message, Frame)
                if message.rows:
                    got += xrow.decode_txns(message.rows)
    return got


async def test_a_member_of_an_older_version_is_told_why_it_gets_no_more(tmp_path: Path) -> None:
    """Relay.Y7: of what was written while all read it. A member that reads it gets it; the older one hears
    what to do, and never meets bytes that it would take for damage."""
    async with open_set(tmp_path, size=2) as replicas:
        for number in (1, 2):
            await replicas.start(number)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        await create_space(leader)
        await replicas.wait_equal()
        (away,) = (face for face in replicas.nodes if face is not leader)
        before = leader.node.core.vclock.without_local()
        await crowd(leader, 0, has_ids=True)
        between = leader.node.core.vclock.without_local()
        await crowd(leader, 10)
        assert isinstance(await write(leader, put(50)), ev.Committed)
        await replicas.wait_equal()
        await replicas.stop(int(away.node.settings.instance_name[-1]))
        await until(lambda: not leader.links.relays)

        got = await subscribed(replicas, leader, away, before, takes_unnamed=True)
        assert [txn.has_unnamed for txn in got if txn.is_shared] == [False, True]
        for after in (before, between):
            with pytest.raises(ProtocolVersion, match="does not read; it was not sent"):
                await subscribed(replicas, leader, away, after, takes_unnamed=False)


async def test_an_instance_of_an_older_version_joins_where_it_can_read_all(tmp_path: Path) -> None:
    """ADR 13: what stands in the snapshot has no such form. It hears what to do if rows behind it have; once
    it is a member none are written."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face)
        await crowd(face, 0)
        join = serve_join(face.node, face.links, JoinRequest(str(uuid4()), "late"))
        await anext(join)
        await crowd(face, 10)
        with pytest.raises(ProtocolVersion, match="run the version there that the others run"):
            async for _ in join:
                pass

    async with open_set(tmp_path / "other", size=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face)
        await crowd(face, 0)
        items = [item async for item in serve_join(face.node, face.links, JoinRequest(str(uuid4()), "late"))]
        assert any(isinstance(item, JoinSnapshotEnd) for item in items)
        rows = b"".join(item.rows for item in items if isinstance(item, JoinRows))
        assert not any(txn.has_unnamed for txn in xrow.decode_txns(rows))
        assert not face.node.core.state.all_read_unnamed


async def test_who_knows_no_policies_gets_no_rows_of_a_set_that_has_some(tmp_path: Path) -> None:
    """ADR 44: it would stop where the others go on, and take a stamp for damage."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face, is_sync=False)
        before = [
            item async for item in serve_join(face.node, face.links, JoinRequest(str(uuid4()), "early"))
        ]
        assert any(isinstance(item, JoinSnapshotEnd) for item in before)
    async with open_set(tmp_path / "other", size=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face, is_sync=False)
        (op,) = schema_ops.alter_space(face.node.core.memtx, 512, conflict="last_write_wins")
        alter = row_body.dml_from_values(op.type, op.space_id, key=op.key, ops=op.ops)
        assert isinstance(await write(face, alter), ev.Committed)
        with pytest.raises(ProtocolVersion, match="does not know"):
            await anext(serve_join(face.node, face.links, JoinRequest(str(uuid4()), "late")))
        knows = JoinRequest(str(uuid4()), "newer", takes_policies=True)
        assert [item async for item in serve_join(face.node, face.links, knows)]
        assert face.node.core.state.not_reading_policies  # it joined, and has not said so in a Hello
        (op,) = schema_ops.alter_space(face.node.core.memtx, 512, conflict="skip")
        alter = row_body.dml_from_values(op.type, op.space_id, key=op.key, ops=op.ops)
        refused = await write(face, alter)
        assert isinstance(refused, ev.Rejected) and isinstance(refused.error, ProtocolVersion)
