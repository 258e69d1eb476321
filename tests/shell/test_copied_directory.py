"""A copied data directory that serves beside the original (ADR 23); one peer at two addresses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import structlog
import trio

from synchro.config import ElectionMode, PeerAddress, Settings
from synchro.ids import InstanceName
from synchro.instance import events as ev
from synchro.process.supervise import run_instance
from synchro.ro_reason import RoReason
from synchro.rpc.host import open_rpc_host
from synchro.server.applier import Status
from synchro.server.face import Face
from synchro.server.peer_messages import Hello
from tests.shell.memory_set import Member, MemorySet, appliers_of, create_space, open_set, put, until, write
from tests.shell.test_grpc_set import free_addresses
from tests.shell.test_relay_applier import is_meshed, three


async def start_at(replicas: MemorySet, directory: Path, name: str, address: str) -> Member:
    """An instance of this name, of the files in `directory`, at an address that the others do not know."""
    settings = replace(
        replicas.settings,
        instance_name=InstanceName(name),
        wal_dir=str(directory),
        snapshot_dir=str(directory),
        listen=address,
    )
    return await replicas.start_at(address, settings)


async def with_copy(replicas: MemorySet, directory: Path, number: int = 3) -> tuple[Face, Member]:
    """(the original, its copy): both run."""
    name = f"instance{number:03}"
    await replicas.stop(number)
    shutil.copytree(directory / name, directory / "copy")
    original = await replicas.start(number)
    await until(lambda: original.node.is_ready and is_meshed(original))
    return original, await start_at(replicas, directory / "copy", name, "elsewhere")


def doubled(face: Face, of: Face) -> list[dict[str, str]]:
    return face.info()["replication"][int(of.node.core.self_id)].get("doubled", [])  # type: ignore[no-any-return]


def is_served(relaying: Face, face: Face) -> bool:
    relay = relaying.links.relays.get(face.node.core.self_id)
    return relay is not None and relay.life.start_id == face.node.start_id


async def test_a_copied_directory_is_named_by_all_and_neither_of_the_two_counts(tmp_path: Path) -> None:
    """They cut each other's streams without end; now all four say who and where, within two heartbeats of the
    copy's first word, and the two others go on."""
    async with open_set(tmp_path, replication_timeout_s=0.25) as replicas:
        _, followers = await three(replicas)
        number = int(followers[0].node.settings.instance_name[-1])
        original, copy = await with_copy(replicas, tmp_path, number)
        await until(lambda: copy.face.node.is_ready)
        began = trio.current_time()
        others = [face for face in replicas.nodes if face not in (original, copy.face)]
        all_four = [*others, original, copy.face]
        await until(lambda: all(doubled(face, original) for face in all_four))
        assert trio.current_time() - began < 2 * 0.25 + 5  # and a busy machine
        for face in all_four:
            places = {(life["address"], life["start_id"]) for life in doubled(face, original)}
            assert places == {
                (original.node.address, original.node.start_id),
                ("elsewhere", copy.face.node.start_id),
            }
        for twin in (original, copy.face):
            assert not twin.node.core.raft.trusted
            assert twin.node.core.read_only_reason() is RoReason.DOUBLED
            outcome = await write(twin, put(1))
            assert isinstance(outcome, ev.Rejected)
            assert "identity" in outcome.error.message
        owner = await replicas.wait_leader()
        assert owner in others
        assert isinstance(await write(owner, put(1)), ev.Committed)
        await trio.sleep(6 * 0.25)  # longer than a death timeout: it stays so while both answer
        assert all(doubled(face, original) for face in all_four)
        assert not any(original.node.core.self_id in face.links.relays for face in others)


async def test_when_one_of_two_falls_silent_the_other_takes_its_place(tmp_path: Path) -> None:
    """Whichever it is; and what one of them missed meanwhile comes to it."""
    async with open_set(tmp_path) as replicas:
        _, followers = await three(replicas)
        number = int(followers[0].node.settings.instance_name[-1])
        original, copy = await with_copy(replicas, tmp_path, number)
        others = [face for face in replicas.nodes if face not in (original, copy.face)]
        await until(lambda: copy.face.node.is_ready and all(doubled(face, original) for face in others))
        owner = await replicas.wait_leader()
        assert isinstance(await write(owner, put(7)), ev.Committed)
        copy.stop.set()
        await copy.ended.wait()
        await until(lambda: original.node.core.raft.trusted and is_meshed(original))
        assert not any(doubled(face, original) for face in replicas.nodes)
        await replicas.wait_equal()
        assert original.node.core.memtx.get(512, 0, (7,)) is not None


async def test_the_copy_stays_when_the_original_goes(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        _, followers = await three(replicas)
        number = int(followers[0].node.settings.instance_name[-1])
        original, copy = await with_copy(replicas, tmp_path, number)
        others = [face for face in replicas.nodes if face not in (original, copy.face)]
        await until(lambda: copy.face.node.is_ready and all(doubled(face, original) for face in others))
        await replicas.stop(number)
        await until(lambda: copy.face.node.core.raft.trusted)
        await until(lambda: all(a.status is Status.FOLLOW for a in appliers_of(copy.face) if a.peer_id))
        assert all(copy.face.node.core.self_id in face.links.relays for face in others)


async def test_a_doubled_leader_resigns_and_another_one_leads(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        leader, _ = await three(replicas)
        name = leader.node.settings.instance_name
        shutil.copytree(tmp_path / name, tmp_path / "copy")  # while it serves: as after a power cut
        copy = await start_at(replicas, tmp_path / "copy", name, "elsewhere")
        await until(lambda: copy.face.node.is_ready and not leader.node.core.is_writable)
        owner = await replicas.wait_leader()
        assert owner not in (leader, copy.face)
        assert isinstance(await write(owner, put(1)), ev.Committed)
        assert (
            leader.node.core.limbo.owner_id == owner.node.core.self_id
            or leader.node.core.read_only_reason() is RoReason.DOUBLED
        )


async def test_twins_that_meet_know_it_without_others(tmp_path: Path) -> None:
    """The copy has the original's address under another name: nobody else is there to tell them."""
    async with open_set(tmp_path, size=1, election_mode=ElectionMode.OFF) as replicas:
        original = await replicas.start(1)
        await until(lambda: original.node.is_ready)
        shutil.copytree(tmp_path / "instance001", tmp_path / "copy")
        replicas.settings = replace(
            replicas.settings,
            peers=(PeerAddress("instance001", "elsewhere"), PeerAddress("old", "instance001")),
        )
        copy = await start_at(replicas, tmp_path / "copy", "instance001", "elsewhere")
        await until(lambda: copy.face.node.is_ready)
        await until(lambda: all(doubled(face, original) for face in (original, copy.face)))
        reasons = {face.node.core.read_only_reason() for face in (original, copy.face)}
        assert reasons == {RoReason.DOUBLED}
        copy.stop.set()
        await until(lambda: original.node.core.read_only_reason() is not RoReason.DOUBLED)


async def test_a_restart_is_no_double(tmp_path: Path) -> None:
    """Its old streams may still be there: the new ones take their place at once."""
    async with open_set(tmp_path) as replicas:
        _, followers = await three(replicas)
        number = int(followers[0].node.settings.instance_name[-1])
        for _ in range(3):
            await replicas.stop(number)
            again = await replicas.start(number)
            await until(lambda face=again: face.node.is_ready and is_meshed(face))  # type: ignore[misc]
            assert not any(doubled(face, again) for face in replicas.nodes)
            assert again.node.core.raft.trusted


async def test_a_half_dead_connection_of_the_life_before_is_replaced_within_a_heartbeat(
    tmp_path: Path,
) -> None:
    """Its host lost power, so nobody closed it; it says nothing more, and the restarted one is no double."""
    async with open_set(tmp_path, replication_timeout_s=1.0) as replicas:
        leader, followers = await three(replicas)
        away = followers[0]
        number = int(away.node.settings.instance_name[-1])
        await replicas.stop(number)
        await until(lambda: away.node.core.self_id not in leader.links.relays)
        hello = Hello(
            leader.node.replicaset_uuid,
            away.node.uuid,
            away.node.settings.instance_name,
            away.node.core.vclock.without_local(),
            leader.node.core.raft.term,
            1 << 20,
            start_id=away.node.start_id,
            address=away.node.address,
        )
        transport = replicas.network.transport("instance009")
        async with transport.subscribe(leader.node.settings.instance_name, hello) as stream:
            await stream.receive()
            back = await replicas.start(number)
            began = trio.current_time()
            await until(lambda: back.node.is_ready and is_served(leader, back))
            # Not when the death timeout of its former stream is over.
            assert trio.current_time() - began < back.node.settings.death_timeout_s - 0.5
            assert not any(doubled(face, back) for face in replicas.nodes)
        assert isinstance(await write(await replicas.wait_leader(), put(1)), ev.Committed)


async def test_of_two_addresses_of_one_instance_one_is_used(tmp_path: Path) -> None:
    """Two streams would cut each other off without end. When the one fails the other is used."""
    async with open_set(tmp_path, size=2) as replicas:
        one = await replicas.start(1)
        own, other = PeerAddress("instance002", "instance002"), PeerAddress("instance001", "instance001")
        second = PeerAddress("h:2", "h:2")
        replicas.network.endpoints["h:2"] = replicas.members["instance001"].peers
        two = await replicas.start(2, peers=(own, other, second))
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        await create_space(leader)
        await until(lambda: any(a.status is Status.FOLLOW for a in appliers_of(two)))
        (relay,) = one.links.relays.values()
        (used,) = (a for a in appliers_of(two) if a.status is Status.FOLLOW)
        (waiting,) = (a for a in appliers_of(two) if a is not used)
        await until(lambda: waiting.message is not None)
        await trio.sleep(1.0)
        assert list(one.links.relays.values()) == [relay]
        shown = two.info()["replication"][int(one.node.core.self_id)]["upstream"]
        assert shown["status"] == "follow"
        assert [part["peer"] for part in shown["waiting"]] == [waiting.address.address]
        assert "same instance" in shown["waiting"][0]["message"]

        replicas.network.cuts.add(("instance002", used.address.address))
        used.reset()
        await until(lambda: waiting.status is Status.FOLLOW)
        assert isinstance(await write(await replicas.wait_leader(), put(1)), ev.Committed)
        assert two.links.find_applier(one.node.core.self_id) is waiting


async def test_over_grpc_both_lives_hear_of_each_other(tmp_path: Path) -> None:
    """The refusal names both in its details; each of the two reads it from its peer."""
    one, two, elsewhere = free_addresses(3)
    peers = (PeerAddress("instance001", one), PeerAddress("instance002", two))
    stops = [trio.Event() for _ in range(4)]
    async with open_rpc_host() as host, trio.open_nursery() as nursery:

        async def start(number: int, name: str, listen: str, directory: str) -> Face:
            path = str(tmp_path / directory)
            settings = Settings(
                instance_name=InstanceName(name),
                listen=listen,
                peers=peers,
                wal_dir=path,
                snapshot_dir=path,
                replication_timeout_s=0.25,
            )

            async def run(*, task_status: trio.TaskStatus[Face]) -> None:
                await run_instance(
                    settings,
                    host=host,
                    log=structlog.get_logger(),
                    stop=stops[number],
                    task_status=task_status,
                )

            return await nursery.start(run)  # type: ignore[no-any-return]

        first = await start(0, "instance001", one, "1")
        original = await start(1, "instance002", two, "2")
        await until(lambda: first.node.is_ready and original.node.is_ready and len(first.links.relays) == 1)
        shutil.copytree(tmp_path / "2", tmp_path / "copy")
        copy = await start(2, "instance002", elsewhere, "copy")
        await until(lambda: copy.node.is_ready)
        await until(lambda: all(doubled(face, original) for face in (first, original, copy)))
        for face in (first, original, copy):
            assert {life["address"] for life in doubled(face, original)} == {two, elsewhere}
        part = original.info()["replication"][int(first.node.core.self_id)]["upstream"]
        assert "two live processes have the identity" in part["message"]
        stops[1].set()
        await until(lambda: not doubled(copy, copy) and first.links.relays.keys() == {copy.node.core.self_id})
        back = await start(3, "instance002", two, "2")  # it comes again, when the other has its place
        await until(lambda: back.node.is_ready)
        await until(lambda: all(doubled(face, original) for face in (first, back, copy)))
        for stop in stops:
            stop.set()


async def test_who_still_starts_shows_its_life_too(tmp_path: Path) -> None:
    """Else the original takes a copy that starts at the address of a peer for itself, once and for all."""
    async with open_set(tmp_path) as replicas:
        face = await replicas.start(1)
        assert not face.node.has_core
        ballot = replicas.members["instance001"].peers.ballot()
        assert (ballot.start_id, ballot.address) == (face.node.start_id, face.node.address)
