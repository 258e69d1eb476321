"""The shell around one core: calls and their ends, time, limits, disk failures, checkpoints."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from synchro.config import ElectionMode, FencingMode, Limits
from synchro.errors import DiskFailed, Loading, ReadOnly, SyncQueueFull, WalIo
from synchro.failpoints import REGISTRY
from synchro.ids import CallId
from synchro.instance import events as ev
from synchro.ro_reason import RoReason
from synchro.server.face import Face
from tests.shell.memory_set import MemorySet, create_space, frame, has_told_all, open_set, put, until, write
from tests.steady_clock import SteadyClock


async def alone(replicas: MemorySet) -> Face:
    """A set of one: its quorum is itself."""
    face = await replicas.start(1)
    await until(lambda: face.node.is_ready and face.node.core.is_writable)
    return face


async def majority_lost(replicas: MemorySet) -> Face:
    """The leader of three, alone, still leader for a moment: its writes wait for a quorum."""
    for number in (1, 2, 3):
        await replicas.start(number)
    await replicas.wait_ready()
    leader = await replicas.wait_leader()
    await create_space(leader)
    await replicas.wait_equal()
    await until(lambda: leader.node.core.raft.has_healthy_quorum)  # until then newcomers pause fencing [E-32]
    for face in replicas.nodes:
        if face is not leader:
            replicas.network.cut(leader.node.settings.instance_name, face.node.settings.instance_name)
    return leader


async def test_a_write_is_committed_and_on_disk(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await create_space(face)
        outcome = await write(face, put(1))
        assert isinstance(outcome, ev.Committed)
        assert outcome.txn is not None
        assert face.node.wal.vclock.get(outcome.txn.origin) >= outcome.txn.lsn


async def test_every_write_of_a_frame_gets_its_own_outcome(tmp_path: Path) -> None:
    """Calls.N2: one step for the frame, and an error touches its own call only."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await create_space(face)
        got: dict[int, ev.Outcome] = {}
        writes = frame(face, [put(1)], [put(1, space_id=999)], [put(2)])
        face.submit_writes(writes, got.__setitem__, 5.0)
        await until(lambda: len(got) == 3)
        kinds = [type(got[write.call_id]) for write in writes]
        assert kinds == [ev.Committed, ev.Rejected, ev.Committed]


async def test_time_over_is_answered_and_nothing_is_rolled_back(tmp_path: Path) -> None:
    """[Q-42]: outcome unknown; the entry stays and commits when the quorum is back, if nobody else led."""
    async with open_set(tmp_path, election_fencing_mode=FencingMode.OFF) as replicas:
        leader = await majority_lost(replicas)
        got: list[ev.Outcome] = []
        leader.submit_writes(frame(leader, [put(1)]), lambda _, outcome: got.append(outcome), 0.2)
        with trio.fail_after(15):
            await until(lambda: bool(got))
        assert isinstance(got[0], ev.OutcomeUnknown | ev.Rejected)
        replicas.network.heal()
        await replicas.wait_leader()


async def test_an_abandoned_call_is_never_answered(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await create_space(face)
        got: list[ev.Outcome] = []
        (write_1,) = frame(face, [put(1)])
        face.submit_writes([write_1], lambda _, outcome: got.append(outcome), 5.0)
        face.abandon(write_1.call_id)
        face.abandon(CallId(123456))
        await until(lambda: face.node.core.memtx.get(512, 0, (1,)) is not None)
        assert got == []


async def test_more_waiting_calls_than_allowed_are_refused(tmp_path: Path) -> None:
    """`waiting_calls_max`: refused with a reason, nothing was written."""
    limits = replace(Limits(), waiting_calls_max=2)
    async with open_set(tmp_path, size=1, limits=limits) as replicas:
        face = await alone(replicas)
        await create_space(face)
        got: dict[int, ev.Outcome] = {}
        face.submit_writes(frame(face, *([put(key)] for key in range(4))), got.__setitem__, 5.0)
        refused = [outcome for outcome in got.values() if isinstance(outcome, ev.Rejected)]
        assert len(refused) == 2
        assert all(isinstance(outcome.error, SyncQueueFull) for outcome in refused)
        await until(lambda: len(got) == 4)


async def test_calls_before_the_start_is_over_say_loading(tmp_path: Path) -> None:
    """[M-19]; but what is known is shown [I-1]."""
    async with open_set(tmp_path, size=3) as replicas:
        face = await replicas.start(1)
        with pytest.raises(Loading):
            face.ensure_ready()
        assert face.info()["status"] == "loading"
        assert (face.info()["ro"], face.info()["ro_reason"]) == (True, "loading")
        assert face.watch_facts().ro_reason is RoReason.LOADING
        assert face.leader() is None


async def test_wait_applied_ends_when_rows_are_decided(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await create_space(face)
        target = face.node.core.vclock
        assert await face.wait_applied(target, timeout_s=0)
        ahead = target.follow(face.node.core.self_id, target.get(face.node.core.self_id) + 1)  # type: ignore[arg-type]
        assert not await face.wait_applied(ahead, timeout_s=0.05)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, face, put(1))
            assert await face.wait_applied(ahead, timeout_s=5)


async def test_a_failed_sync_ends_the_instance(tmp_path: Path) -> None:
    """[L-30]: never retried; waiting callers hear OutcomeUnknown, the error names file and offset."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await create_space(face)
        REGISTRY.set("wal.before_fsync", "error", times=1)
        try:
            outcome = await write(face, put(1))
        finally:
            REGISTRY.clear()
        assert isinstance(outcome, ev.OutcomeUnknown)
        member = replicas.members["instance001"]
        with trio.fail_after(20):
            await member.ended.wait()
        assert isinstance(member.error, DiskFailed)
        assert member.error.details["file"].endswith(".xlog")
        late = await write(face, put(2))
        assert isinstance(late, ev.Rejected)


async def test_a_full_disk_is_answered_and_the_instance_goes_on(tmp_path: Path) -> None:
    """ADR 8: WAL_IO, nothing was written, LSNs are used again."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await create_space(face)
        before = face.node.core.vclock
        REGISTRY.set("wal.before_write", "error", error=28, times=1)
        try:
            outcome = await write(face, put(1))
        finally:
            REGISTRY.clear()
        assert isinstance(outcome, ev.Rejected)
        assert outcome.error.reason == "WAL_IO"
        assert face.node.core.vclock == before
        assert isinstance(await write(face, put(2)), ev.Committed)


async def test_a_checkpoint_is_enough_to_recover_from(tmp_path: Path) -> None:
    """[W-30], [W-31]: a second one at the same vclock does nothing."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await create_space(face)
        for key in range(20):
            await write(face, put(key))
        await until(lambda: has_told_all(face))
        vclock = await face.checkpoint()
        assert await face.checkpoint() == vclock
        await write(face, put(20))
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        assert face.node.core.memtx.count(512) == 21


async def test_a_checkpoint_without_room_is_refused_and_nothing_else(tmp_path: Path) -> None:
    """With a reason of its own for the caller; the older snapshot and the log are whole."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await create_space(face)
        await write(face, put(1))
        REGISTRY.set("snapshot.before_rename", "error", error=errno.EMFILE, times=1)
        try:
            with pytest.raises(WalIo, match="no data is lost"):
                await face.checkpoint()
        finally:
            REGISTRY.clear()
        assert isinstance(await write(face, put(2)), ev.Committed)
        await until(lambda: has_told_all(face))
        await face.checkpoint()


async def test_info_has_the_shape_of_box_info(tmp_path: Path) -> None:
    """[I-16], [I-25]: exactly these keys under synchro."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        tree = face.info()
        assert set(tree["synchro"]) == {"queue", "quorum"}
        assert set(tree["synchro"]["queue"]) == {
            "owner", "term", "len", "size", "busy", "age", "confirm_lag",
        }  # fmt: skip
        assert tree["id"] == 1  # [I-2]
        assert (tree["uuid"], tree["name"]) == (face.node.uuid, "instance001")  # [I-3]
        assert tree["lsn"] == tree["vclock"][1] > 0  # [I-4], [I-6]
        assert tree["signature"] == sum(tree["vclock"].values())  # [I-5]
        assert (tree["ro"], tree["ro_reason"]) == (False, None)  # [I-7]
        assert tree["status"] == "running"  # [I-8]
        assert tree["listen"] == "instance001"  # [I-10]
        assert tree["replicaset"] == {"uuid": face.node.replicaset_uuid, "name": "replicaset001"}  # [I-12]
        assert tree["replication"][1] == {
            "id": 1, "uuid": face.node.uuid, "name": "instance001", "lsn": tree["lsn"],
        }  # fmt: skip # [I-13]
        term = tree["election"]["term"]
        assert tree["election"] == {
            "state": "leader", "term": term, "vote": 1, "leader": 1, "leader_idle": 0.0,
            "leader_name": "instance001",
        }  # fmt: skip # [I-15], [I-20]
        assert tree["synchro"]["queue"]["term"] == term


async def test_watch_tells_each_change(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1)
        async for facts in face.watch():
            if facts.can_read and facts.is_writable:
                break
        assert facts.leader is not None
        assert facts.leader.name == "instance001"


async def test_a_leader_with_strict_fencing_is_the_first_to_give_up_a_silent_link(tmp_path: Path) -> None:
    """[A-27], [E-30], [L-18]: it has resigned before the others may elect somebody."""
    async with open_set(tmp_path, election_fencing_mode=FencingMode.STRICT) as replicas:
        for number in (1, 2, 3):
            await replicas.start(number)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        death = leader.node.settings.death_timeout_s
        assert leader.links.silence_s == death / 2
        assert {face.links.silence_s for face in replicas.nodes if face is not leader} == {death}


async def test_other_leaders_wait_as_long_as_everybody(tmp_path: Path) -> None:
    """[A-27]: soft fencing knows a lost quorum only when the links are dead."""
    async with open_set(tmp_path, size=1, election_fencing_mode=FencingMode.SOFT) as replicas:
        face = await alone(replicas)
        assert face.node.core.raft.is_leader
        assert face.links.silence_s == face.node.settings.death_timeout_s


@pytest.mark.parametrize("fencing", [FencingMode.STRICT, FencingMode.SOFT])
async def test_a_leader_that_stood_still_takes_no_write_in_its_first_turn(
    tmp_path: Path, fencing: FencingMode
) -> None:
    """[L-18]: others may have elected a leader meanwhile, and a client is heard before any peer. With soft
    fencing most pauses end before somebody stands, so it leads until its links are dead."""
    async with open_set(tmp_path, election_fencing_mode=fencing) as replicas:
        for number in (1, 2, 3):
            await replicas.start(number)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        await create_space(leader, is_sync=False)
        assert isinstance(await write(leader, put(1)), ev.Committed)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, SteadyClock)
        clock.pause(leader.node.settings.death_timeout_s)
        outcome = await write(leader, put(2))
        if fencing is FencingMode.SOFT:
            assert isinstance(outcome, ev.Committed)
        else:
            assert isinstance(outcome, ev.Rejected)
            assert isinstance(outcome.error, ReadOnly)


async def promoted(replicas: MemorySet) -> Face:
    """Three, without automatic elections; the first owns the queue."""
    nodes = [await replicas.start(number) for number in (1, 2, 3)]
    await replicas.wait_ready()
    await until(lambda: all(face.node.core.raft.healthy_count == 3 for face in nodes))
    outcome = await nodes[0].call(ev.PromoteRequested, timeout_s=3.0)
    assert isinstance(outcome, ev.Promoted)
    await create_space(nodes[0])
    await replicas.wait_equal()
    return nodes[0]


async def test_with_elections_off_a_sync_that_takes_long_deposes_nobody(tmp_path: Path) -> None:
    """ADR 16: more than a death timeout; the write waits for it and is done."""
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as replicas:
        owner = await promoted(replicas)
        term = owner.node.core.raft.volatile_term
        REGISTRY.set("wal.before_fsync", "delay", delay_s=4 * owner.node.settings.death_timeout_s, times=1)
        try:
            outcome = await write(owner, put(1))
        finally:
            REGISTRY.clear()
        assert isinstance(outcome, ev.Committed)
        assert owner.node.core.raft.volatile_term == term and owner.node.core.is_writable


async def test_a_leader_whose_disk_is_stuck_resigns_when_elections_are_turned_on(tmp_path: Path) -> None:
    """ADR 16: it was known before, when nobody would have taken over."""
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as replicas:
        owner = await promoted(replicas)
        node = owner.node
        REGISTRY.set("wal.delay")
        try:
            owner.submit_writes([ev.ClientWrite(owner.new_call_id(), [put(1)])], lambda *_: None, 10.0)
            await until(lambda: node._is_wal_stuck)
            assert node.core.raft.is_leader
            node.change_settings(replace(node.settings, election_mode=ElectionMode.MANUAL))
            await until(lambda: not node.core.raft.is_leader)
        finally:
            REGISTRY.clear()


async def test_the_hint_where_to_write_names_nobody_who_is_dead(tmp_path: Path) -> None:
    """The owner stays the owner of the queue, but it leads no more."""
    async with open_set(tmp_path, election_mode=ElectionMode.MANUAL) as replicas:
        owner = await promoted(replicas)
        others = [face for face in replicas.nodes if face is not owner]
        hints = [face.leader() for face in others]
        assert [hint and hint.name for hint in hints] == ["instance001", "instance001"]
        for face in others:
            replicas.network.cut("instance001", face.node.settings.instance_name)
        await until(lambda: all(face.leader() is None for face in (owner, *others)))
        assert {face.watch_facts().ro_reason for face in others} == {RoReason.ELECTION}
        assert {face.node.core.limbo.owner_id for face in others} == {owner.node.core.self_id}


async def test_an_answer_says_whether_its_instance_takes_writes(tmp_path: Path) -> None:
    """In the header, from the moment on at which that changes, though no row is written: by elections, and by
    the configuration."""
    async with open_set(tmp_path) as replicas:
        leader = await majority_lost(replicas)
        await until(lambda: not leader.node.core.is_writable)
        assert not leader.header().is_writable
        replicas.network.heal()
        heir = await replicas.wait_leader()
        assert heir.header().is_writable
    async with open_set(tmp_path / "alone", size=1) as replicas:
        face = await alone(replicas)
        for is_read_only in (False, True, False):
            face.node.change_settings(replace(face.node.settings, read_only=is_read_only))
            assert face.header().is_writable is not is_read_only


async def test_who_cannot_reach_the_leader_names_it_as_long_as_a_peer_sees_it(tmp_path: Path) -> None:
    async with open_set(tmp_path, election_mode=ElectionMode.MANUAL) as replicas:
        owner = await promoted(replicas)
        third = next(n for n in replicas.nodes if n.node.settings.instance_name == "instance003")
        replicas.network.cut("instance001", "instance003")
        await until(lambda: not third.node.core.raft.is_leader_seen)
        hint = third.leader()
        assert hint is not None and hint.id == owner.node.core.self_id


async def test_a_promote_that_comes_before_the_links_waits_for_them(tmp_path: Path) -> None:
    """[P-11]: as after a restart of all."""
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as replicas:
        owner = await promoted(replicas)
        for other in ("instance002", "instance003"):
            replicas.network.cut("instance001", other)
        await until(lambda: not owner.node.core.raft.has_healthy_quorum)
        third = next(n for n in replicas.nodes if n.node.settings.instance_name == "instance003")
        replicas.network.cut("instance002", "instance003")
        await until(lambda: not third.node.core.raft.has_healthy_quorum)
        term = third.node.core.raft.volatile_term
        got: list[ev.Outcome] = []

        async def promote() -> None:
            got.append(await third.call(ev.PromoteRequested, timeout_s=10.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(promote)
            await trio.sleep(0.3)
            assert not got and third.node.core.raft.volatile_term == term
            replicas.network.heal()
        assert isinstance(got[0], ev.Promoted)
