"""Rows, acks and heartbeats between instances: over links that break, and to peers that do not fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.config import ElectionMode, PeerAddress
from synchro.errors import ConfigError, IllegalParams, RemoteProtocolError
from synchro.ids import InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.server.applier import Applier, Status
from synchro.server.face import Face
from synchro.server.join import serve_join
from synchro.server.peer_messages import Accepted, Frame, Hello, JoinRequest, LinkLost, PeerAck
from synchro.server.transport import Subscription
from synchro.storage import row_body, xrow
from synchro.storage.xlog import crc32c
from tests.shell.memory_set import (
    MemorySet,
    applier_of,
    appliers_of,
    create_space,
    frame,
    open_set,
    put,
    until,
    write,
)


async def three(replicas: MemorySet) -> tuple[Face, list[Face]]:
    """(leader, followers), with a synchronous space, all links up."""
    for number in (1, 2, 3):
        await replicas.start(number)
    await replicas.wait_ready()
    leader = await replicas.wait_leader()
    await create_space(leader)
    await until(lambda: all(is_meshed(face) for face in replicas.nodes))
    await replicas.wait_equal()
    return leader, [face for face in replicas.nodes if face is not leader]


def is_meshed(face: Face) -> bool:
    return len(face.links.relays) == 2 and all(a.status is Status.FOLLOW for a in appliers_of(face))


async def test_rows_reach_everyone_and_acks_come_back(tmp_path: Path) -> None:
    """[A-2], [A-26]: what is committed lies on a quorum, and `downstream` shows what was acknowledged."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        for key in range(30):
            assert isinstance(await write(leader, put(key)), ev.Committed)
        await replicas.wait_equal()
        mine = leader.node.core.vclock.without_local()
        await until(lambda: all(d.acked.covers(mine) for d in leader.links.downstreams.values()))
        assert all(face.node.core.memtx.count(512) == 30 for face in followers)


async def test_upstream_and_downstream_are_shown(tmp_path: Path) -> None:
    """[I-13a..c], [A-10]; [L-25]: only rows move the lag, so it does not grow while there are none."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        number = int(followers[0].node.core.self_id)
        await until(lambda: "lag" in leader.info()["replication"][number]["upstream"])  # a heartbeat came
        part = leader.info()["replication"][number]
        assert part["upstream"]["status"] == "follow"
        assert part["upstream"]["idle"] < 1
        assert part["upstream"]["lag"] >= 0
        assert part["downstream"]["status"] == "follow"
        assert part["downstream"]["idle"] < 1
        assert 0 not in part["downstream"]["vclock"]

        down = leader.links.downstreams[followers[0].node.core.self_id]
        await until(lambda: down.acked.covers(leader.node.core.vclock) and down.lag > 0)
        lag = down.lag
        for _ in range(3):
            sent_at = down.sent_at
            await until(lambda at=sent_at: down.sent_at > at)  # type: ignore[misc]
        assert down.lag == lag


async def test_a_cut_follower_is_shown_and_catches_up(tmp_path: Path) -> None:
    """[A-28], [A-42], [M-49]: it asks for everything after its vclock; nothing is lost or doubled."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        away = followers[0]
        for face in (leader, followers[1]):
            replicas.network.cut(away.node.settings.instance_name, face.node.settings.instance_name)
        await until(lambda: all(a.status is Status.DISCONNECTED for a in appliers_of(away)))
        down = leader.info()["replication"][int(away.node.core.self_id)]["downstream"]
        assert down["status"] == "stopped"
        assert down["message"]
        for key in range(10):
            assert isinstance(await write(leader, put(key)), ev.Committed)
        assert away.node.core.memtx.count(512) == 0
        replicas.network.heal()
        await replicas.wait_equal()
        assert away.node.core.memtx.count(512) == 10
        await until(lambda: all(a.status is Status.FOLLOW for a in appliers_of(away)))  # [M-41]
        await until(lambda: leader.links.downstreams[away.node.core.self_id].is_following)


async def test_a_confirm_is_acknowledged_together_with_what_comes_next(tmp_path: Path) -> None:
    """[A-26]: nobody waits for its ack. With no heartbeat in the meantime the next row's ack tells of it."""
    async with open_set(tmp_path, replication_timeout_s=5.0) as replicas:
        leader, followers = await three(replicas)
        me, downstreams = leader.node.core.self_id, leader.links.downstreams.values()

        def is_acked(lsn: int) -> bool:
            return all(down.acked.get(me) >= lsn for down in downstreams)

        for key in range(3):
            outcome = await write(leader, put(key))
            assert isinstance(outcome, ev.Committed)
            assert outcome.txn is not None
            row = outcome.txn.lsn
            await until(partial(is_acked, row))
            await replicas.wait_equal()
            assert leader.node.core.vclock.get(me) == row + 1  # CONFIRM
            assert not is_acked(row + 1)
        assert all(face.node.core.memtx.count(512) == 3 for face in followers)


async def test_rows_without_room_wait_at_the_applier(tmp_path: Path) -> None:
    """[W-16]: they are taken up when the disk has written, in order; heartbeats are heard as they come."""
    async with open_set(tmp_path) as replicas:
        tiny = replace(replicas.settings.limits, wal_queue_bytes_max=2)  # one batch of rows at a time
        await replicas.start(1)
        await replicas.start(2, limits=tiny, election_mode=ElectionMode.VOTER)
        await replicas.start(3, limits=tiny, election_mode=ElectionMode.VOTER)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        assert leader.node.settings.instance_name == "instance001"
        await create_space(leader)
        outcomes: list[ev.Outcome] = []
        for key in range(200):
            leader.submit_writes(frame(leader, [put(key)]), lambda _, outcome: outcomes.append(outcome), 10.0)
            await trio.lowlevel.checkpoint()
        await until(lambda: len(outcomes) == 200)
        assert all(isinstance(outcome, ev.Committed) for outcome in outcomes)
        await replicas.wait_equal()
        assert all(face.node.core.memtx.count(512) == 200 for face in replicas.nodes)
        assert all(not a._kept and a._kept.size == 0 for n in replicas.nodes for a in appliers_of(n))


async def test_rows_go_round_a_cut_link(tmp_path: Path) -> None:
    """[A-39], [M-48]: the third instance passes them on."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        replicas.network.cut(leader.node.settings.instance_name, followers[0].node.settings.instance_name)
        assert isinstance(await write(leader, put(1)), ev.Committed)
        await until(lambda: followers[0].node.core.memtx.get(512, 0, (1,)) is not None)


async def test_a_subscriber_hears_heartbeats_and_is_dropped_when_it_says_nothing(tmp_path: Path) -> None:
    """[M-33]: first the answer, the Raft state and a heartbeat. [A-25]: then one each interval. [A-27]: four
    intervals without an ack are the end."""
    async with open_set(tmp_path, size=2) as replicas:
        for number in (1, 2):
            await replicas.start(number)
        await replicas.wait_ready()
        await replicas.wait_leader()
        await replicas.wait_equal()
        one, two = replicas.members["instance001"].face, replicas.members["instance002"].face
        await replicas.stop(2)
        await until(lambda: not one.links.relays)
        hello = Hello(
            one.node.replicaset_uuid,
            two.node.uuid,
            "instance002",
            one.node.core.vclock,
            one.node.core.raft.term,
            1 << 20,
        )
        transport = replicas.network.transport("instance002")
        async with transport.subscribe("instance001", hello) as stream:
            accepted = await stream.receive()
            assert isinstance(accepted, Accepted)
            assert (accepted.id, accepted.replicaset_uuid) == (
                one.node.core.self_id,
                one.node.replicaset_uuid,
            )
            assert accepted.vclock == one.node.core.vclock.without_local()
            frame = await stream.receive()
            assert isinstance(frame, Frame)
            assert frame.raft is not None and frame.heartbeat is not None and not frame.rows
            later: list[Accepted | Frame] = []
            with pytest.raises(LinkLost, match="timed out"):
                await receive_all(stream, later)
            beats = [m for m in later if isinstance(m, Frame) and m.heartbeat is not None and not m.rows]
            assert beats


async def receive_all(stream: Subscription, messages: list[Accepted | Frame]) -> None:
    while True:
        messages.append(await stream.receive())


async def test_the_log_is_kept_for_an_instance_that_is_away(tmp_path: Path) -> None:
    """[W-41], [W-42]: it comes back and gets the rows, not a new copy of everything."""
    async with open_set(tmp_path, checkpoint_count=1) as replicas:
        leader, followers = await three(replicas)
        away, rest = followers
        number = int(away.node.settings.instance_name[-1])
        await replicas.stop(number)
        gone_at = away.node.core.vclock
        for key in range(3):
            assert isinstance(await write(leader, put(key)), ev.Committed)
            await leader.checkpoint()
        assert gone_at.covers(leader.node.wal.files[0].vclock)

        back = await replicas.start(number)
        await until(lambda: back.node.is_ready)
        await replicas.wait_equal()
        assert back.node.core.memtx.count(512) == 3
        await until(
            lambda: all(d.acked.covers(leader.node.core.vclock) for d in leader.links.downstreams.values())
        )
        assert isinstance(await write(leader, put(9)), ev.Committed)
        await leader.checkpoint()
        assert not gone_at.covers(leader.node.wal.files[0].vclock)
        assert rest.node.is_ready


async def test_a_conflict_stops_one_applier_until_it_is_restarted(tmp_path: Path) -> None:
    """[A-40], [A-41]: the other links go on, and so does the relay to the same peer."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        applier = applier_of(followers[0], leader.node.core.self_id)
        applier.stop(RemoteProtocolError("made up"))
        await until(lambda: applier.status is Status.STOPPED)
        assert applier.message == "made up"
        assert isinstance(await write(leader, put(1)), ev.Committed)
        followers[0].restart_upstream(leader.node.settings.instance_name)
        await until(lambda: applier.status is Status.FOLLOW)
        assert applier.message is None


async def test_an_unregistered_subscriber_is_told_to_come_again(tmp_path: Path) -> None:
    """[M-32], [A-40]: its `_cluster` row may be on its way."""
    async with open_set(tmp_path) as replicas:
        leader, _ = await three(replicas)
        assert await refusal(replicas, leader, instance_uuid="00000000-0000-4000-8000-000000000001") == (
            "UNKNOWN_REPLICA"
        )
        assert await refusal(replicas, leader, replicaset_uuid="another") == "REPLICASET_UUID_MISMATCH"
        assert await refusal(replicas, leader, instance_uuid=leader.node.uuid) == "CONNECTION_TO_SELF"
        assert is_meshed(leader)


async def test_a_term_that_no_peer_can_have_ends_its_stream_and_nothing_else(tmp_path: Path) -> None:
    """With a Hello, an ack and a frame; who hears it keeps its term."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        term = leader.node.core.raft.volatile_term
        far = Term(term + 2**32 + 1)
        assert await refusal(replicas, leader, instance_uuid=followers[0].node.uuid, term=far) == "PROTOCOL"
        relay: Any = next(iter(leader.links.relays.values()))
        with pytest.raises(RemoteProtocolError, match="was not adopted"):
            relay._on_ack(PeerAck(ev.Ack(leader.node.core.vclock.without_local(), far), credit=1 << 20))
        applier = applier_of(followers[0], leader.node.core.self_id)
        with pytest.raises(RemoteProtocolError, match="was not adopted"):
            applier._on_message(Frame(far))
        assert {face.node.core.raft.volatile_term for face in replicas.nodes} == {term}
        assert isinstance(await write(leader, put(1)), ev.Committed)


async def test_a_bad_row_stops_one_applier_and_is_named(tmp_path: Path) -> None:
    """In `info` and in the log; the instance lives and serves, other streams go on."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        face, source = followers[0], leader.node.core.self_id
        lsn = Lsn(face.node.core.vclock.get(source) + 1)
        bad = row_body.dml_from_values(RowType.REPLACE, 999, value=(1,))
        with structlog.testing.capture_logs() as records:
            face.node.step(ev.TxnsReceived(source, [xrow.encode_ops([bad], source, lsn, 0)]))
            applier = applier_of(face, source)
            await until(lambda: applier.status is Status.STOPPED)
        part = face.info()["replication"][int(source)]["upstream"]
        assert part["status"] == "stopped"
        assert f"(at {source}:{lsn})" in part["message"]
        (record,) = [record for record in records if record["event"] == "upstream_stopped"]
        assert (record["txn"], record["at"], record["space"]) == (f"{source}:{lsn}",) * 2 + ("#999",)
        assert isinstance(await write(leader, put(1)), ev.Committed)  # through the third


async def test_a_skipped_conflict_is_a_warning_and_a_number(tmp_path: Path) -> None:
    """[A-35]: `conflicts_skipped` of the member whose row it is; absent while there is none."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        assert "conflicts_skipped" not in face.info()["replication"][1]
        face.node.core.conflicts_skipped[InstanceId(1)] = 3  # type: ignore[index]
        face.node.core.last_skipped[InstanceId(1)] = {"space": "bands"}  # type: ignore[index]
        assert face.info()["replication"][1]["conflicts_skipped"] == 3
        with structlog.testing.capture_logs() as records:
            face.node._dispatch(ev.Notice("conflict_skipped", {"origin": 1, "lsn": 2}, is_warning=True))
        ((record),) = records
        assert (record["event"], record["log_level"]) == ("conflict_skipped", "warning")


async def refusal(replicas: MemorySet, face: Face, **changes: object) -> str:
    facts: dict[str, object] = {
        "vclock": face.node.core.vclock,
        "term": face.node.core.raft.term,
        "replicaset_uuid": face.node.replicaset_uuid,
        "instance_uuid": "00000000-0000-4000-8000-000000000009",
        "name": "stranger",
    } | changes
    hello = Hello(credit=1, **facts)  # type: ignore[arg-type]
    transport = replicas.network.transport("stranger")
    try:
        async with transport.subscribe(face.node.settings.instance_name, hello) as stream:
            with trio.fail_after(20):
                await stream.receive()
    except LinkLost as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - the reason is what the test looks at
        return str(getattr(error, "reason", error))
    return "accepted"


async def test_a_second_join_of_the_same_uuid_is_refused(tmp_path: Path) -> None:
    """[M-20]: one outstanding join per UUID."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        request = JoinRequest("00000000-0000-4000-8000-000000000001", "late")
        first = serve_join(face.node, face.links, request)
        await anext(first)
        with pytest.raises(ConfigError, match="duplicate connection"):
            await anext(serve_join(face.node, face.links, request))
        await first.aclose()
        assert face.links.joins == {}


async def test_a_new_subscription_replaces_the_old_one(tmp_path: Path) -> None:
    """A half dead connection must not keep an instance out that came back."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        old = leader.links.relays[followers[0].node.core.self_id]
        applier = applier_of(followers[0], leader.node.core.self_id)
        applier.reset()
        await until(lambda: leader.links.relays.get(followers[0].node.core.self_id) not in (None, old))
        await until(lambda: is_meshed(leader))
        assert isinstance(await write(leader, put(1)), ev.Committed)


async def test_an_asynchronous_master_master_pair_converges(tmp_path: Path) -> None:
    """[A-1], [A-3], [A-30]: nobody owns the queue; rows of both go both ways, each once."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        one, two = await replicas.start(1), await replicas.start(2)
        await replicas.wait_ready()
        await until(lambda: all(a.status is Status.FOLLOW for n in replicas.nodes for a in appliers_of(n)))
        await create_space(one, is_sync=False)
        await replicas.wait_equal()
        for key in range(10):
            await write(one, put(key))
            await write(two, put(100 + key))
        await replicas.wait_equal()
        assert one.node.core.memtx.count(512) == two.node.core.memtx.count(512) == 20


async def test_a_duplicate_key_stops_the_applier_of_the_second(tmp_path: Path) -> None:
    """[A-52]: both inserted the same key; each keeps its own, and says so."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        one, two = await replicas.start(1), await replicas.start(2)
        await replicas.wait_ready()
        await create_space(one, is_sync=False)
        await replicas.wait_equal()
        replicas.network.cut("instance001", "instance002")
        await until(lambda: not one.links.relays and not two.links.relays)
        for face, value in ((one, "a"), (two, "b")):
            op = row_body.dml_from_values(RowType.INSERT, 512, value=(5, value))
            assert isinstance(await write(face, op), ev.Committed)
        replicas.network.heal()
        appliers = [*appliers_of(one), *appliers_of(two)]
        await until(lambda: all(a.status is Status.STOPPED for a in appliers))
        assert all("Duplicate key exists" in (a.message or "") for a in appliers)


@pytest.mark.parametrize("counts", [True, False])
async def test_what_is_shown_of_a_subscriber_begins_anew_with_each_hello(
    tmp_path: Path, counts: bool
) -> None:
    """A re-seed has less than the life before: the log is kept from there, and `downstream` shows it; what it
    once acknowledged it is told (S14) [W-41], [I-13c]."""
    async with open_set(tmp_path, size=2, checkpoint_count=1) as replicas:
        for number in (1, 2):
            await replicas.start(number)
        await replicas.wait_ready()
        one, two = (replicas.members[f"instance00{n}"].face for n in (1, 2))
        leader = await replicas.wait_leader()
        await create_space(leader)
        early = leader.node.core.vclock.without_local()
        assert isinstance(await write(leader, put(1)), ev.Committed)
        await replicas.wait_equal()
        stays, number = (one, 2) if leader is one else (two, 1)
        away = replicas.members[f"instance00{number}"].face
        me = away.node.core.self_id
        await until(lambda: stays.links.downstreams[me].acked.covers(stays.node.core.vclock))
        former = stays.links.downstreams[me].acked
        await replicas.stop(number)
        await until(lambda: not stays.links.relays)
        hello = Hello(
            stays.node.replicaset_uuid,
            away.node.uuid,
            away.node.settings.instance_name,
            early,
            stays.node.core.raft.term,
            1 << 20,
            counts=counts,
        )
        transport = replicas.network.transport(away.node.settings.instance_name)
        async with transport.subscribe(stays.node.settings.instance_name, hello) as stream:
            accepted = await stream.receive()
            assert isinstance(accepted, Accepted)
            assert accepted.last_ack == former
            shown = stays.info()["replication"][int(me)]["downstream"]["vclock"]
            assert shown == {int(i): int(lsn) for i, lsn in early}
            assert stays.snapshotter is not None
            assert early.covers(stays.snapshotter._floor(stays.node.core.vclock, []))


@pytest.mark.parametrize("word", ["name", "id", "uuid", "address"])
async def test_an_upstream_is_restarted_by_any_word_that_info_has_for_it(tmp_path: Path, word: str) -> None:
    """Where sources are addresses, the name that `info` prints is understood too."""
    async with open_set(tmp_path, size=2) as replicas:
        one = await replicas.start(1)
        peers = (PeerAddress("instance002", "instance002"), PeerAddress("h:1", "h:1"))
        replicas.network.endpoints["h:1"] = replicas.members["instance001"].peers
        two = await replicas.start(2, peers=peers)
        await replicas.wait_ready()
        await until(lambda: any(a.status is Status.FOLLOW for a in appliers_of(two)))
        applier = two.links.appliers["h:1"]
        assert isinstance(applier, Applier)
        applier.stop(RemoteProtocolError("made up"))
        await until(lambda: applier.status is Status.STOPPED)
        part = two.info()["replication"][int(one.node.core.self_id)]
        words = {"name": part["name"], "id": str(part["id"]), "uuid": part["uuid"], "address": "h:1"}
        two.restart_upstream(words[word])
        await until(lambda: applier.status is Status.FOLLOW)
        with pytest.raises(IllegalParams, match="no upstream"):
            two.restart_upstream("instance009")


async def test_info_names_a_subscriber_and_where_it_listens(tmp_path: Path) -> None:
    """Whoever asks a master finds its replicas, though no address of theirs is configured there."""
    async with open_set(tmp_path, size=2) as replicas:
        await replicas.start(1)
        await replicas.start(2)
        await replicas.wait_ready()
        one, two = (replicas.members[f"instance00{n}"].face for n in (1, 2))
        await until(lambda: two.node.core.self_id in one.links.relays)
        down = one.info()["replication"][int(two.node.core.self_id)]["downstream"]
        assert (down["name"], down["address"]) == ("instance002", "instance002")


@pytest.mark.parametrize("takes_parts", [True, False])
async def test_a_transaction_is_cut_only_for_a_subscriber_that_takes_parts(
    tmp_path: Path, takes_parts: bool
) -> None:
    """ADR 20: an older one gets it as a whole, also when it is larger than what may be on its way; a newer
    one gets as much as its receipts allow."""
    async with open_set(tmp_path, size=2, replication_timeout_s=0.5) as replicas:
        for number in (1, 2):
            await replicas.start(number)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        await create_space(leader, 600, is_sync=False)
        await replicas.wait_equal()
        (away,) = (face for face in replicas.nodes if face is not leader)
        before = leader.node.core.vclock.without_local()
        assert isinstance(
            await write(leader, *(put(key, "x" * 50_000, space_id=600) for key in range(6))), ev.Committed
        )
        await replicas.wait_equal()
        await replicas.stop(int(away.node.settings.instance_name[-1]))
        await until(lambda: not leader.links.relays)
        hello = Hello(
            leader.node.replicaset_uuid,
            away.node.uuid,
            away.node.settings.instance_name,
            before,
            leader.node.core.raft.term,
            1 << 20,
            takes_parts=takes_parts,
        )
        transport = replicas.network.transport(away.node.settings.instance_name)
        async with transport.subscribe(leader.node.settings.instance_name, hello) as stream:
            assert isinstance(await stream.receive(), Accepted)
            parts: list[bytes] = []
            received = 0
            ack = ev.Ack(before, leader.node.core.raft.term)
            with trio.fail_after(20):
                while True:
                    message = await stream.receive()
                    assert isinstance(message, Frame)
                    if not message.rows:
                        continue
                    parts.append(message.rows)
                    received += len(message.rows)
                    if not message.rows_continue:
                        break
                    if message.wants_receipt:
                        stream.send_nowait(PeerAck(ack, 1 << 20, received=received))
        (txn,) = xrow.decode_txns(b"".join(parts))
        assert len(txn.ops) == 6
        assert (len(parts) > 1) is takes_parts
        if takes_parts:
            assert max(map(len, parts[:2])) <= 4 * 1024


async def test_parts_that_break_the_rules_end_the_stream(tmp_path: Path) -> None:
    """Memory is bounded by the credit, and what is no transaction when it is joined is refused."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        applier = applier_of(followers[0], leader.node.core.self_id)
        part = b"\x00" * (1 << 20)
        endless = Frame(leader.node.core.raft.term, rows=part, rows_crc=crc32c(part), rows_continue=True)
        limits = leader.node.settings.limits
        last = max(limits.message_bytes_max, limits.txn_bytes_max + limits.relay_frame_bytes_max)
        for _ in range((limits.peer_credit_bytes + last) // len(part)):
            applier._on_frame(endless)
        with pytest.raises(RemoteProtocolError, match="more rows than it had credit for"):
            applier._on_frame(endless)
        applier.restart()
        await until(lambda: not applier._kept.has_parts and applier.status is Status.FOLLOW)
        applier._on_frame(endless._replace(rows=b"abc", rows_crc=crc32c(b"abc")))
        with pytest.raises(RemoteProtocolError, match="rows from"):
            applier._on_frame(endless._replace(rows=b"def", rows_crc=crc32c(b"def"), rows_continue=False))
        applier.restart()
        await until(lambda: not applier._kept.has_parts and applier.status is Status.FOLLOW)
        assert isinstance(await write(leader, put(1)), ev.Committed)
        await replicas.wait_equal()
