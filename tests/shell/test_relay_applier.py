"""Rows, acks and heartbeats between instances: over links that break, and to peers that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from synchro import instance_events as ev
from synchro.config import ElectionMode
from synchro.errors import ConfigError, RemoteProtocolError
from synchro.row import RowType
from synchro.server.applier import Status
from synchro.server.join import serve_join
from synchro.server.node import Node
from synchro.server.transport import Hello, JoinRequest, LinkLost
from synchro.storage import xrow
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write


async def three(replicas: MemorySet) -> tuple[Node, list[Node]]:
    """(leader, followers), with a synchronous space, all links up."""
    for number in (1, 2, 3):
        await replicas.start(number)
    await replicas.wait_ready()
    leader = await replicas.wait_leader()
    await create_space(leader)
    await until(lambda: all(is_meshed(node) for node in replicas.nodes))
    await replicas.wait_equal()
    return leader, [node for node in replicas.nodes if node is not leader]


def is_meshed(node: Node) -> bool:
    return len(node.relays) == 2 and all(a.status is Status.FOLLOW for a in node.appliers.values())


async def test_rows_reach_everyone_and_acks_come_back(tmp_path: Path) -> None:
    """[A-26]: what is committed lies on a quorum, and `downstream` shows what was acknowledged."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        for key in range(30):
            assert isinstance(await write(leader, put(key)), ev.Committed)
        await replicas.wait_equal()
        mine = leader.core.vclock.without_local()
        await until(lambda: all(d.acked.covers(mine) for d in leader.downstreams.values()))
        assert all(node.core.memtx.count(512) == 30 for node in followers)


async def test_upstream_and_downstream_are_shown(tmp_path: Path) -> None:
    """[I-13a..c]"""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        part = leader.info()["replication"][int(followers[0].core.self_id)]
        assert part["upstream"]["status"] == "follow"
        assert part["upstream"]["idle"] < 1
        assert part["downstream"]["status"] == "follow"
        assert 0 not in part["downstream"]["vclock"]


async def test_a_cut_follower_is_shown_and_catches_up(tmp_path: Path) -> None:
    """[A-28], [M-49]: it asks for everything after its vclock; nothing is lost or doubled."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        away = followers[0]
        for node in (leader, followers[1]):
            replicas.network.cut(away.settings.instance_name, node.settings.instance_name)
        await until(lambda: all(a.status is Status.DISCONNECTED for a in away.appliers.values()))
        down = leader.info()["replication"][int(away.core.self_id)]["downstream"]
        assert down["status"] == "stopped"
        assert down["message"]
        for key in range(10):
            assert isinstance(await write(leader, put(key)), ev.Committed)
        assert away.core.memtx.count(512) == 0
        replicas.network.heal()
        await replicas.wait_equal()
        assert away.core.memtx.count(512) == 10


async def test_rows_go_round_a_cut_link(tmp_path: Path) -> None:
    """[A-39]: the third instance passes them on."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        replicas.network.cut(leader.settings.instance_name, followers[0].settings.instance_name)
        assert isinstance(await write(leader, put(1)), ev.Committed)
        await until(lambda: followers[0].core.memtx.get(512, 0, (1,)) is not None)


async def test_a_conflict_stops_one_applier_until_it_is_restarted(tmp_path: Path) -> None:
    """[A-40], [A-41]: the other links go on, and so does the relay to the same peer."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        applier = followers[0].find_applier(leader.core.self_id)
        assert applier is not None
        applier.stop(RemoteProtocolError("made up"))
        await until(lambda: applier.status is Status.STOPPED)
        assert applier.message == "made up"
        assert isinstance(await write(leader, put(1)), ev.Committed)
        followers[0].restart_upstream(leader.settings.instance_name)
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
        assert await refusal(replicas, leader, instance_uuid=leader.uuid) == "CONNECTION_TO_SELF"
        assert is_meshed(leader)


async def refusal(replicas: MemorySet, node: Node, **changes: str) -> str:
    facts = {
        "replicaset_uuid": node.replicaset_uuid,
        "instance_uuid": "00000000-0000-4000-8000-000000000009",
        "name": "stranger",
    } | changes
    hello = Hello(vclock=node.core.vclock, term=node.core.raft.term, credit=1, **facts)  # type: ignore[arg-type]
    transport = replicas.network.transport("stranger")
    try:
        async with transport.subscribe(node.settings.instance_name, hello) as stream:
            with trio.fail_after(5):
                await stream.receive()
    except LinkLost as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - the reason is what the test looks at
        return str(getattr(error, "reason", error))
    return "accepted"


async def test_a_second_join_of_the_same_uuid_is_refused(tmp_path: Path) -> None:
    """[M-20]: one outstanding join per UUID."""
    async with open_set(tmp_path, size=1) as replicas:
        node = await replicas.start(1)
        await until(lambda: node.is_ready and node.core.is_writable)
        request = JoinRequest("00000000-0000-4000-8000-000000000001", "late")
        first = serve_join(node, request)
        await anext(first)
        with pytest.raises(ConfigError, match="duplicate connection"):
            await anext(serve_join(node, request))
        await first.aclose()
        assert node.joins == {}


async def test_a_new_subscription_replaces_the_old_one(tmp_path: Path) -> None:
    """A half dead connection must not keep an instance out that came back."""
    async with open_set(tmp_path) as replicas:
        leader, followers = await three(replicas)
        old = leader.relays[followers[0].core.self_id]
        applier = followers[0].find_applier(leader.core.self_id)
        assert applier is not None
        applier.reset()
        await until(lambda: leader.relays.get(followers[0].core.self_id) not in (None, old))
        await until(lambda: is_meshed(leader))
        assert isinstance(await write(leader, put(1)), ev.Committed)


async def test_an_asynchronous_master_master_pair_converges(tmp_path: Path) -> None:
    """[A-1], [A-30]: nobody owns the queue; rows of both go both ways, each once."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        one, two = await replicas.start(1), await replicas.start(2)
        await replicas.wait_ready()
        await until(
            lambda: all(a.status is Status.FOLLOW for n in replicas.nodes for a in n.appliers.values())
        )
        await create_space(one, is_sync=False)
        await replicas.wait_equal()
        for key in range(10):
            await write(one, put(key))
            await write(two, put(100 + key))
        await replicas.wait_equal()
        assert one.core.memtx.count(512) == two.core.memtx.count(512) == 20


async def test_a_duplicate_key_stops_the_applier_of_the_second(tmp_path: Path) -> None:
    """[A-52]: both inserted the same key; each keeps its own, and says so."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        one, two = await replicas.start(1), await replicas.start(2)
        await replicas.wait_ready()
        await create_space(one, is_sync=False)
        await replicas.wait_equal()
        replicas.network.cut("instance001", "instance002")
        await until(lambda: not one.relays and not two.relays)
        for node, value in ((one, "a"), (two, "b")):
            op = xrow.dml_from_values(RowType.INSERT, 512, value=(5, value))
            assert isinstance(await write(node, op), ev.Committed)
        replicas.network.heal()
        appliers = [*one.appliers.values(), *two.appliers.values()]
        await until(lambda: all(a.status is Status.STOPPED for a in appliers))
        assert all("Duplicate key exists" in (a.message or "") for a in appliers)
