"""Each failpoint bites where it says, and what it held goes on when it is cleared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from synchro.config import ElectionMode
from synchro.errors import DiskFailed, IllegalParams, WalIo
from synchro.failpoints import REGISTRY
from synchro.ids import InstanceId
from synchro.instance import events as ev
from synchro.server.applier import Status
from synchro.server.face import Face
from synchro.storage import row_body, schema_ops
from tests.shell.memory_set import MemorySet, applier_of, create_space, open_set, put, until, write

BEYOND_DEATH_S = 0.6
"""The death timeout of these sets is 0.4 s."""
ONE, TWO, THREE = InstanceId(1), InstanceId(2), InstanceId(3)


@pytest.fixture(autouse=True)
def nothing_is_left_armed() -> Iterator[None]:
    yield
    REGISTRY.clear()


@asynccontextmanager
async def alone(directory: Path) -> AsyncIterator[tuple[MemorySet, Face]]:
    """A set of one with an asynchronous space: each write is one batch of its log."""
    async with open_set(directory, size=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face, is_sync=False)
        try:
            yield replicas, face
        finally:
            REGISTRY.clear()


@asynccontextmanager
async def three(directory: Path) -> AsyncIterator[tuple[MemorySet, Face, list[Face]]]:
    """One who leads for good, with a synchronous space, and two who follow."""
    async with open_set(directory) as replicas:
        leader = await replicas.start(1)
        followers = [await replicas.start(n, election_mode=ElectionMode.VOTER) for n in (2, 3)]
        await replicas.wait_ready()
        await until(lambda: leader.node.core.is_writable)
        await create_space(leader)
        await replicas.wait_equal()
        await until(lambda: all(face.links.connected == 3 for face in replicas.nodes))
        try:
            yield replicas, leader, sorted(followers, key=lambda face: face.node.core.self_id)
        finally:
            REGISTRY.clear()


def count(face: Face) -> int:
    return face.node.core.memtx.count(512)


def is_blocked(name: str, times: int = 1) -> bool:
    return REGISTRY.waiting(name) >= times


async def refused(face: Face, key: int) -> WalIo:
    outcome = await write(face, put(key))
    assert isinstance(outcome, ev.Rejected), outcome
    assert isinstance(outcome.error, WalIo)
    return outcome.error


async def committed(face: Face, key: int) -> None:
    outcome = await write(face, put(key))
    assert isinstance(outcome, ev.Committed), outcome


async def begin(face: Face, key: int) -> list[ev.Outcome]:
    """A write that may have to wait; its outcome comes into the list."""
    got: list[ev.Outcome] = []
    face.submit_writes([ev.ClientWrite(face.new_call_id(), [put(key)])], lambda _, o: got.append(o), 10.0)
    return got


# --- the log ----------------------------------------------------------------------------------------------


async def test_wal_delay_holds_a_batch_and_not_the_loop(tmp_path: Path) -> None:
    async with alone(tmp_path) as (_, face):
        wal = face.node.wal
        before = wal.vclock
        REGISTRY.set("wal.delay")
        got = await begin(face, 1)
        await until(partial(is_blocked, "wal.delay"))
        assert face.info()["status"] == "running"
        assert (wal.vclock, got) == (before, [])
        assert wal.stats.submitted == wal.stats.txns + 1
        REGISTRY.clear()
        await until(lambda: bool(got))
        assert isinstance(got[0], ev.Committed)
        assert wal.stats.submitted == wal.stats.txns


async def test_tx_completion_delay_comes_after_the_disk(tmp_path: Path) -> None:
    async with alone(tmp_path) as (_, face):
        before = face.node.core.vclock
        REGISTRY.set("tx.completion_delay")
        got = await begin(face, 1)
        await until(partial(is_blocked, "tx.completion_delay"))
        assert face.node.wal.vclock.get(ONE) == before.get(ONE) + 1
        assert (face.node.core.vclock, got) == (before, [])
        REGISTRY.clear()
        await until(lambda: bool(got))


async def test_wal_fail_counts_batches_and_not_marks(tmp_path: Path) -> None:
    async with alone(tmp_path) as (_, face):
        REGISTRY.set("wal.fail", skip=2, times=1)
        for key in (1, 2):
            await committed(face, key)
            await trio.sleep(0.1)  # a mark is written meanwhile
        error = await refused(face, 3)
        assert "nothing was written" in error.message
        await committed(face, 4)
        assert count(face) == 3
        armed = REGISTRY.last("wal.fail")
        assert armed is not None and armed.triggers == 1


@pytest.mark.parametrize("name", ["wal.fail", "wal.fail_late", "wal.partial_write"])
async def test_what_a_write_left_behind_does_not_come_back(tmp_path: Path, name: str) -> None:
    """ADR 8: the cut-back's own write goes through, and a restart finds nothing of the batch."""
    async with alone(tmp_path) as (replicas, face):
        await committed(face, 1)
        REGISTRY.set(name, times=1)
        await refused(face, 2)
        await replicas.kill(1)
        REGISTRY.clear()
        again = await replicas.start(1)
        await until(lambda: again.node.is_ready and again.node.core.is_writable)
        assert [again.node.core.memtx.get(512, 0, (key,)) is not None for key in (1, 2)] == [True, False]
        await committed(again, 3)


async def test_wal_fail_with_another_error_is_the_end(tmp_path: Path) -> None:
    """[L-30]: only a disk without room is cut back."""
    async with alone(tmp_path) as (replicas, face):
        REGISTRY.set("wal.fail", value=5)
        outcome = await write(face, put(1))
        assert isinstance(outcome, ev.OutcomeUnknown)
        await replicas.members["instance001"].ended.wait()
        assert isinstance(replicas.members["instance001"].error, DiskFailed)


async def test_a_disk_stays_full_until_it_is_freed(tmp_path: Path) -> None:
    """What it has in reserve is for elections: the instance leads again while its disk is full [L-30]."""
    async with alone(tmp_path) as (_, face):
        await committed(face, 1)
        term = face.node.core.raft.term
        REGISTRY.set("wal.no_space")
        await refused(face, 2)
        await refused(face, 3)
        await until(lambda: face.node.core.raft.term > term and face.node.core.is_writable)
        await refused(face, 4)
        assert "No space left" in face.info()["no_room"]
        REGISTRY.clear()
        await until(lambda: face.node.core.is_writable)
        await committed(face, 5)
        assert count(face) == 2


# --- relays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relay.send_delay", "relay.before_send"])
async def test_rows_for_one_peer_wait_and_its_link_lives(tmp_path: Path, name: str) -> None:
    async with three(tmp_path) as (replicas, leader, (two, other)):
        REGISTRY.set(name, peers=[TWO])
        await committed(leader, 1)
        await until(partial(is_blocked, name))
        await trio.sleep(BEYOND_DEATH_S)
        assert (count(two), count(other)) == (0, 1)
        assert applier_of(two, ONE).status is Status.FOLLOW
        REGISTRY.clear()
        await replicas.wait_equal()
        assert count(two) == 1


@pytest.mark.parametrize("name", ["relay.send_slow", "applier.ack_slow"])
async def test_a_slow_link_takes_its_time_each_time(tmp_path: Path, name: str) -> None:
    async with three(tmp_path) as (_, leader, _followers):
        REGISTRY.set(name, value=0.3)
        for key in (1, 2):
            began = trio.current_time()
            await committed(leader, key)
            assert trio.current_time() - began > 0.15
        armed = REGISTRY.last(name)
        assert armed is not None and armed.triggers >= 4


@pytest.mark.parametrize("name", ["relay.ack_read_delay", "applier.ack_delay"])
async def test_held_acks_hold_the_quorum_and_not_the_links(tmp_path: Path, name: str) -> None:
    async with three(tmp_path) as (replicas, leader, followers):
        REGISTRY.set(name)
        waits = leader.node.core.limbo.waits_started
        got = await begin(leader, 1)
        me = leader.node.core.self_id
        await until(
            lambda: all(f.node.core.vclock.get(me) >= leader.node.core.vclock.get(me) for f in followers)
        )
        await until(partial(is_blocked, name, 2))
        await trio.sleep(BEYOND_DEATH_S)
        assert got == []
        assert leader.node.core.limbo.waits_started == waits + 1
        assert leader.links.relays.keys() == {TWO, THREE}
        assert all(applier_of(face, ONE).status is Status.FOLLOW for face in followers)
        assert leader.node.core.raft.is_leader
        REGISTRY.clear()
        await until(lambda: bool(got))
        assert isinstance(got[0], ev.Committed)
        await replicas.wait_equal()


BEFORE_COMMIT = "relay.before_local_commit"


async def test_peers_have_and_acknowledge_a_row_before_its_owner_commits_it(tmp_path: Path) -> None:
    """Links and the trust in the log stay (S14): no ack above the own vclock comes to the core, of a stream
    that begins anew neither."""
    async with three(tmp_path) as (replicas, leader, followers):
        core = leader.node.core
        before = core.vclock.get(ONE)
        REGISTRY.set(BEFORE_COMMIT)
        got = await begin(leader, 1)
        await until(lambda: all(f.node.core.vclock.get(ONE) > before for f in followers))
        downs = [leader.links.downstreams[peer] for peer in (TWO, THREE)]
        await until(lambda: all(down.acked.get(ONE) > before for down in downs))
        applier_of(followers[0], ONE).reset()  # of both at once would take the quorum
        await trio.sleep(BEYOND_DEATH_S)
        await until(lambda: all(applier_of(face, ONE).status is Status.FOLLOW for face in followers))
        assert (core.vclock.get(ONE), got, is_blocked(BEFORE_COMMIT)) == (before, [], True)
        assert [count(face) for face in (leader, *followers)] == [0, 0, 0]
        assert core.acks_count and core.raft.is_leader
        REGISTRY.clear()
        await until(lambda: bool(got))
        assert isinstance(got[0], ev.Committed)
        await replicas.wait_equal()
        assert [count(face) for face in (leader, *followers)] == [1, 1, 1]


async def test_an_asynchronous_row_is_seen_by_peers_before_its_origin_commits_it(tmp_path: Path) -> None:
    async with three(tmp_path) as (replicas, leader, followers):
        await create_space(leader, 513, is_sync=False)
        await replicas.wait_equal()
        REGISTRY.set(BEFORE_COMMIT)
        got: list[ev.Outcome] = []
        call = ev.ClientWrite(leader.new_call_id(), [put(1, space_id=513)])
        leader.submit_writes([call], lambda _, outcome: got.append(outcome), 10.0)
        await until(lambda: [f.node.core.memtx.count(513) for f in followers] == [1, 1])
        assert (leader.node.core.memtx.count(513), got) == (0, [])
        REGISTRY.clear()
        await until(lambda: bool(got))
        assert isinstance(got[0], ev.Committed)


async def test_a_row_that_peers_had_first_is_committed_when_its_owner_dies(tmp_path: Path) -> None:
    """S3: it is on the disk of all, so whoever leads next decides that it is done."""
    async with three(tmp_path) as (replicas, leader, followers):
        REGISTRY.set(BEFORE_COMMIT)
        got = await begin(leader, 1)
        before = leader.node.core.vclock.get(ONE)
        await until(lambda: all(f.node.core.vclock.get(ONE) > before for f in followers))
        await replicas.kill(1)
        REGISTRY.clear()
        assert not any(isinstance(outcome, ev.Committed) for outcome in got)
        again = await replicas.start(1)
        await replicas.wait_leader()
        await replicas.wait_equal()
        assert [count(face) for face in (again, *followers)] == [1, 1, 1]


async def test_before_local_commit_counts_batches_with_own_data(tmp_path: Path) -> None:
    """What elections and the queue write, and rows of others, are no passes; a cut-back takes nothing away
    of what was held."""
    async with alone(tmp_path) as (_, face):
        REGISTRY.set(BEFORE_COMMIT, skip=2, times=1)
        await committed(face, 1)
        assert isinstance(await face.call(ev.PromoteRequested, timeout_s=10), ev.Promoted)
        await committed(face, 2)
        third = await begin(face, 3)
        await until(partial(is_blocked, BEFORE_COMMIT))
        REGISTRY.set("wal.fail", times=1)
        fourth = await begin(face, 4)
        await until(lambda: bool(third and fourth))
        assert isinstance(third[0], ev.Committed)
        assert isinstance(fourth[0], ev.Rejected)
        assert count(face) == 3
        armed = REGISTRY.last(BEFORE_COMMIT)
        assert armed is not None and (armed.passes, armed.triggers) == (3, 1)


@pytest.mark.parametrize("name", ["relay.no_heartbeat", "relay.control_delay"])
async def test_without_heartbeats_a_link_is_dead(tmp_path: Path, name: str) -> None:
    async with three(tmp_path) as (_, _leader, (two, other)):
        REGISTRY.set(name, peers=[TWO])
        await until(lambda: applier_of(two, ONE).status is Status.DISCONNECTED)
        assert applier_of(two, ONE).message == "timed out"
        assert applier_of(other, ONE).status is Status.FOLLOW
        REGISTRY.clear()
        await until(lambda: applier_of(two, ONE).status is Status.FOLLOW)


# --- appliers ---------------------------------------------------------------------------------------------


async def test_a_failed_apply_stops_one_stream_until_it_is_restarted(tmp_path: Path) -> None:
    async with three(tmp_path) as (replicas, leader, followers):
        REGISTRY.set("applier.apply_fail", times=1, peers=[ONE])
        await committed(leader, 1)
        stopped = [applier_of(face, ONE) for face in followers]
        await until(lambda: any(applier.status is Status.STOPPED for applier in stopped))
        [broken] = [face for face in followers if applier_of(face, ONE).status is Status.STOPPED]
        assert "Error injection 'applier.apply_fail'" in (applier_of(broken, ONE).message or "")
        assert count(broken) == 0
        broken.restart_upstream("instance001")
        await replicas.wait_equal()
        assert count(broken) == 1


# --- beginnings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.replication_request_delay", "join.delay", "relay.final_join_delay"])
async def test_who_joins_waits(tmp_path: Path, name: str) -> None:
    async with open_set(tmp_path) as replicas:
        leader = await replicas.start(1)
        await replicas.start(2, election_mode=ElectionMode.VOTER)
        await replicas.wait_ready()
        await until(lambda: leader.node.core.is_writable)
        is_registered = name == "relay.final_join_delay"
        REGISTRY.set(name)
        late = await replicas.start(3, election_mode=ElectionMode.VOTER)
        await until(partial(is_blocked, name))
        assert not late.node.is_ready
        names = {name for _, name in leader.node.core.memtx.catalog.members().values()}
        assert ("instance003" in names) is is_registered
        REGISTRY.clear()
        await until(lambda: late.node.is_ready)


@pytest.mark.parametrize(
    "name", ["applier.subscribe_delay", "net.replication_request_delay", "relay.journal_open_delay"]
)
async def test_who_comes_back_lacks_rows_until_it_may_ask(tmp_path: Path, name: str) -> None:
    async with three(tmp_path) as (replicas, leader, _followers):
        await replicas.stop(3)
        await committed(leader, 1)
        REGISTRY.set(name)
        back = await replicas.start(3, election_mode=ElectionMode.VOTER)
        await until(partial(is_blocked, name))
        await trio.sleep(BEYOND_DEATH_S)
        assert count(back) == 0
        REGISTRY.clear()
        await replicas.wait_equal()
        assert count(back) == 1


async def test_a_term_on_disk_that_nobody_knows_yet(tmp_path: Path) -> None:
    async with three(tmp_path) as (_, leader, (follower, _)), trio.open_nursery() as nursery:
        term = leader.node.core.raft.term
        REGISTRY.set("raft.term_persisted_delay")
        nursery.start_soon(partial(leader.call, ev.DemoteRequested, timeout_s=10))
        await until(partial(is_blocked, "raft.term_persisted_delay"))
        assert (leader.node.core.raft.term, follower.node.core.raft.term) == (term, term)
        REGISTRY.clear()
        await until(lambda: follower.node.core.raft.term > term)


async def test_a_promote_that_is_won_and_not_written(tmp_path: Path) -> None:
    async with three(tmp_path) as (_, leader, _), trio.open_nursery() as nursery:
        core = leader.node.core
        REGISTRY.set("raft.promote_delay")
        assert isinstance(await leader.call(ev.DemoteRequested, timeout_s=10), ev.Demoted)
        nursery.start_soon(partial(leader.call, ev.PromoteRequested, timeout_s=10))
        await until(partial(is_blocked, "raft.promote_delay"))
        assert core.raft.is_leader and core.limbo.term < core.raft.term and not core.is_writable
        REGISTRY.clear()
        await until(lambda: core.limbo.term == core.raft.term and core.is_writable)


async def test_a_confirm_that_is_decided_and_not_written(tmp_path: Path) -> None:
    """Who wrote is told when the quorum has the row; the others do not see it before the CONFIRM."""
    async with three(tmp_path) as (_, leader, followers):
        REGISTRY.set("limbo.worker_delay")
        await committed(leader, 1)
        await until(partial(is_blocked, "limbo.worker_delay"))
        assert [count(face) for face in (leader, *followers)] == [1, 0, 0]
        REGISTRY.clear()
        await until(lambda: [count(face) for face in followers] == [1, 1])


# --- the clock --------------------------------------------------------------------------------------------


async def test_a_clock_that_is_behind_loses_where_the_last_write_wins(tmp_path: Path) -> None:
    """ADR 44: the later of two writes, by a clock an hour behind, is the older one everywhere; with the clock
    put right the next write wins."""
    async with open_set(tmp_path, 2, election_mode=ElectionMode.OFF) as replicas:
        faces = [await replicas.start(1), await replicas.start(2)]
        await until(lambda: all(f.node.is_ready and f.node.core.is_writable for f in faces))
        one, two = faces
        await create_space(one, is_sync=False)
        (op,) = schema_ops.alter_space(one.node.core.memtx, 512, conflict="last_write_wins")
        await until(lambda: not one.node.core.state.not_reading_policies)
        alter = row_body.dml_from_values(op.type, op.space_id, key=op.key, ops=op.ops)
        assert isinstance(await write(one, alter), ev.Committed)
        await replicas.wait_equal()

        async def meanwhile(key: int) -> None:
            for face, other in ((one, "instance002"), (two, "instance001")):
                face.links.cut({other}, incoming=True, outgoing=True)
            await write(one, put(key, "first"))
            await write(two, put(key, "second"))
            one.links.heal({"instance002"})
            two.links.heal({"instance001"})
            await replicas.wait_equal()

        two.node.shift_clock(-3600.0)
        await meanwhile(1)
        assert {face.node.core.memtx.get(512, 0, (1,)) for face in faces} == {(1, "first")}
        two.node.shift_clock(0.0)
        await meanwhile(2)
        assert {face.node.core.memtx.get(512, 0, (2,)) for face in faces} == {(2, "second")}


async def test_lag_is_told_by_two_clocks(tmp_path: Path) -> None:
    """[A-20]: a source whose clock is behind by an hour seems to be late by an hour."""
    async with three(tmp_path) as (_, leader, (follower, _other)):
        applier = applier_of(follower, ONE)
        leader.node.shift_clock(-3600.0)
        await committed(leader, 1)
        await until(lambda: (applier.lag or 0.0) > 3000.0)
        leader.node.shift_clock(3600.0)
        await committed(leader, 2)
        await until(lambda: applier.lag == 0.0)


@pytest.mark.parametrize("skew", [1e9 + 1, -1e9 - 1, float("nan"), float("inf")])
async def test_a_clock_is_not_shifted_before_1970_nor_without_end(tmp_path: Path, skew: float) -> None:
    async with alone(tmp_path) as (_, face):
        face.node.shift_clock(5.0)
        with pytest.raises(IllegalParams, match="nothing was changed"):
            face.node.shift_clock(skew)
        assert face.node.clock.skew_s == 5.0
        await committed(face, 1)
