"""What a stream or a batch that was given up may still do: nothing. (S3, S13, [L-10], [L-30], [W-15])"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from synchro.errors import RemoteProtocolError
from synchro.instance import events as ev
from synchro.row import FLAG_COMMIT, Row
from synchro.server.applier import Status
from synchro.server.peer_messages import Hello, LinkLost
from synchro.storage import xrow
from tests.shell.memory_set import MemorySet, applier_of, open_set, put, until, write
from tests.shell.test_relay_applier import is_meshed, three
from tests.shell.test_wal import log, make_wal
from tests.sim.disk import Fault
from tests.storage_world import new_instance, raft_state, txn, vclock


async def test_rows_of_a_stream_that_was_cut_back_do_not_reach_the_core(tmp_path: Path) -> None:
    """They follow rows that are gone, so the core would call them a gap and stop the upstream for good."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        source = leader.node.core.self_id
        applier = applier_of(followers[0], source)
        lsn = leader.node.core.vclock.get(source) + 5
        op = put(1)
        row = Row(op.type, source, lsn, lsn, FLAG_COMMIT, op)  # type: ignore[arg-type]
        frame = xrow.encode_txn((row,)).data
        applier._kept.keep(frame, 0.0)
        applier.wake_rows()  # the task that hands rows over is awake already when the cut comes
        applier._acks.hand(xrow.decode_txns(frame), 0.0, is_syncing=False)
        applier.rows_cut_back()
        await trio.sleep(0.05)
        await until(lambda: applier.status is Status.FOLLOW and is_meshed(leader))
        assert applier._stopped is None
        assert isinstance(await write(leader, put(2)), ev.Committed)


async def test_an_upstream_that_is_stopped_while_its_link_is_down_stays_stopped(tmp_path: Path) -> None:
    """[A-40]: a row of it may wait in the core longer than the link lives, and fail then."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        applier = applier_of(followers[0], leader.node.core.self_id)
        replicas.network.cut(followers[0].node.settings.instance_name, leader.node.settings.instance_name)
        await until(lambda: applier.status is Status.DISCONNECTED)
        await trio.sleep(0.02)
        applier.stop(RemoteProtocolError("made up"))
        replicas.network.heal()
        await until(lambda: applier.status is Status.STOPPED)
        applier.restart()
        await until(lambda: applier.status is Status.FOLLOW)


async def test_an_echo_of_an_old_heartbeat_does_not_make_a_read_linearizable(tmp_path: Path) -> None:
    """[Q-62]: heartbeats that were sent before the read was asked for carry a lower number than its round."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        links = [applier_of(f, leader.node.core.self_id) for f in followers]
        number = leader.node.core.read_barrier.show()
        await until(lambda: [link._acks.vclock_sync for link in links if link] == [number, number])
        outcome = await leader.call(ev.ReadBarrierRequested, timeout_s=2.0)
        assert outcome == ev.ReadReady()
        assert leader.node.core.read_barrier.show() == number + 1


async def subscribe(replicas: MemorySet, address: str, hello: Hello, alive: list[int], me: int) -> None:
    transport = replicas.network.transport(hello.name)
    try:
        async with transport.subscribe(address, hello) as stream:
            await stream.receive()
            alive.append(me)
            while True:
                await stream.receive()
    except LinkLost:
        if me in alive:
            alive.remove(me)


async def test_of_several_subscriptions_of_one_instance_only_the_last_lives(tmp_path: Path) -> None:
    """Two that come while the old one ends must not both be served: acks of both would count."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        away = followers[0]
        peer = away.node.core.self_id
        facts: dict[str, Any] = {
            "replicaset_uuid": leader.node.replicaset_uuid,
            "instance_uuid": away.node.uuid,
            "name": away.node.settings.instance_name,
            "vclock": away.node.core.vclock,
            "term": away.node.core.raft.term,
            "credit": 1 << 20,
        }
        alive: list[int] = []
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(
                    subscribe, replicas, leader.node.settings.instance_name, Hello(**facts), alive, number
                )
            await until(lambda: len(alive) == 1)
            await trio.sleep(0.3)
            assert len(alive) <= 1
            assert peer in leader.links.relays
            nursery.cancel_scope.cancel()
        await until(lambda: is_meshed(leader))


async def test_client_rows_without_room_do_not_take_hard_state_down() -> None:
    """[L-30], ADR 8: the rows are cut back; who asked for the term asks again, and it has the reserve."""
    disk, journal = new_instance()
    journal.append(log(1, 1), 1.0)
    wal, seen = make_wal(disk, journal)
    disk.faults[disk.calls + 1] = Fault.SHORT
    wal.submit(log(2, 3))
    wal.submit([raft_state(1, 2)], has_control=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        await seen.until_cut()
        assert seen.cuts[0][0] == vclock(_1=1) and not seen.written
        wal.submit([raft_state(1, 2)], has_control=True)
        wal.submit([txn(2)])
        await seen.until_written(vclock(_1=2))
        wal.stop()
    assert len(seen.written) == 2  # each in a batch of its own
