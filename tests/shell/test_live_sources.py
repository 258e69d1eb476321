"""The list of sources changes while instances run. [M-45], [M-46]."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trio.testing

from synchro.config import ElectionMode, PeerAddress
from synchro.errors import RemoteProtocolError
from synchro.instance import events as ev
from synchro.server.applier import Status
from synchro.server.face import Face
from synchro.vclock import Vclock
from tests.shell.memory_set import MemorySet, appliers_of, create_space, open_set, put, until, write


async def masters(made: MemorySet) -> list[Face]:
    """All writable, without an owner; each follows each."""
    faces = [await made.start(number) for number in range(1, len(made.settings.peers) + 1)]
    await made.wait_ready()
    await until(lambda: all(face.links.connected == len(faces) for face in faces))
    await create_space(faces[0], is_sync=False)
    await made.wait_equal()
    return faces


def follow(face: Face, *addresses: str, follows_all: bool = False) -> None:
    """These and no others, from now on. Named by their addresses, as files without the others have them."""
    peers = tuple(PeerAddress(address, address) for address in addresses)
    face.node.change_settings(replace(face.node.settings, peers=peers, follows_all=follows_all))


async def insert(face: Face, key: int) -> Vclock:
    """Returns the vclock behind it."""
    assert isinstance(await write(face, put(key)), ev.Committed)
    return face.node.core.vclock.without_local()


def has(face: Face, vclock: Vclock) -> bool:
    return face.node.core.vclock.covers(vclock)


@pytest.mark.effect_of("replication.peers")
async def test_without_sources_it_is_on_its_own(tmp_path: Path) -> None:
    """[M-46]: it gets nothing more, serves those who follow it, and goes on where it was."""
    async with open_set(tmp_path, 2, election_mode=ElectionMode.OFF) as made:
        one, two = await masters(made)
        follow(two)
        await until(lambda: not two.links.appliers)
        await until(lambda: not one.links.relays)
        missed = await insert(one, 1)
        own = await insert(two, 2)
        await until(lambda: has(one, own))
        assert not has(two, missed)
        item = two.info()["replication"][one.node.core.self_id]
        assert "upstream" not in item and "downstream" in item
        assert set(two.info()["replication"]) == {1, 2}, "it is a member still"
        follow(two, "instance001")
        await made.wait_equal()
        assert has(two, missed)


async def test_streams_that_stand_are_left_alone(tmp_path: Path) -> None:
    """[M-45]: of three, one loses one source and keeps the other; then a name for an address is no change."""
    async with open_set(tmp_path, 3, election_mode=ElectionMode.OFF) as made:
        one, _, three = await masters(made)
        kept = three.links.appliers["instance002"]
        follow(three, "instance002", "instance003")
        await until(lambda: set(three.links.appliers) == {"instance002"})
        assert three.links.appliers["instance002"] is kept and kept.is_following
        await insert(one, 1)
        await made.wait_equal()  # through the second


async def test_another_list_starts_a_source_that_had_stopped(tmp_path: Path) -> None:
    """[M-45], [C-44]: the same list does not."""
    async with open_set(tmp_path, 2, election_mode=ElectionMode.OFF) as made:
        one, two = await masters(made)
        (applier,) = appliers_of(two)
        applier.stop(RemoteProtocolError("a row that nobody knows"))
        await until(lambda: applier.status is Status.STOPPED)
        peers = two.node.settings.peers
        two.node.change_settings(replace(two.node.settings, synchro_timeout_s=9.0))
        await trio.testing.wait_all_tasks_blocked()
        assert applier.status is Status.STOPPED
        two.node.change_settings(replace(two.node.settings, peers=peers[:1]))  # its own address is left out
        await until(lambda: applier.status is Status.FOLLOW)
        await insert(one, 1)
        await made.wait_equal()


async def test_a_stopped_source_gives_its_place_to_another_address(tmp_path: Path) -> None:
    """Another name for the same instance: the stopped applier does not hold it any more."""
    async with open_set(tmp_path, 2, election_mode=ElectionMode.OFF) as made:
        one, two = await masters(made)
        (applier,) = appliers_of(two)
        applier.stop(RemoteProtocolError("a row that nobody knows"))
        await until(lambda: applier.status is Status.STOPPED)
        made.network.endpoints["elsewhere"] = made.network.endpoints["instance001"]
        follow(two, "elsewhere")
        await until(lambda: [a.is_following for a in appliers_of(two)] == [True])
        assert list(two.links.appliers) == ["elsewhere"]
        await insert(one, 1)
        await made.wait_equal()


async def test_a_list_that_changes_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """Rows flow meanwhile; each is applied once."""
    async with open_set(tmp_path, 3, election_mode=ElectionMode.OFF) as made:
        one, two, three = await masters(made)
        lists = [(), ("instance001",), ("instance002", "instance001"), ("instance002",), ("instance003",)]
        for round_, names in enumerate(lists * 3):
            follow(three, *names)
            await insert(one, 10 + round_)
            await insert(two, 100 + round_)
        follow(three, "instance001", "instance002")
        await made.wait_equal()
        assert three.node.core.vclock.without_local() == one.node.core.vclock.without_local()


async def test_a_member_that_was_learnt_is_taken_over_by_the_configuration(tmp_path: Path) -> None:
    """One that joined is followed because it called; once a file names it, a list without it lets it go."""
    async with open_set(tmp_path, 2, election_mode=ElectionMode.OFF, follows_all=True) as made:
        one, two = await masters(made)
        peers = (*made.settings.peers, PeerAddress("instance003", "instance003"))
        three = await made.start(3, peers=peers)
        await until(lambda: "instance003" in one.links.appliers and one.links.connected == 3)
        learnt = one.links.appliers["instance003"]
        one.node.change_settings(replace(one.node.settings, peers=peers))
        await trio.testing.wait_all_tasks_blocked()
        assert one.links.appliers["instance003"] is learnt and learnt.is_following
        one.node.change_settings(replace(one.node.settings, peers=peers[:2], follows_all=False))
        await until(lambda: set(one.links.appliers) == {"instance002"})
        await insert(three, 1)
        await made.wait_equal()  # through the second
        assert two.links.connected == 3


async def test_nobody_begins_a_set_because_its_sources_were_taken_away(tmp_path: Path) -> None:
    """[M-10], [M-13]: it waits for two others; without them in its list it goes on waiting."""
    async with open_set(tmp_path, 3, connect_timeout_s=3600.0) as made:
        one = await made.start(1)
        await until(lambda: "connected to 1 of 3" in one.node.waits_for)
        peers = one.node.settings.peers
        follow(one)
        await until(lambda: "taken away" in one.node.waits_for)
        one.node.change_settings(replace(one.node.settings, peers=peers))
        for number in (2, 3):
            await made.start(number)
        await made.wait_ready()
        assert len({face.node.replicaset_uuid for face in made.nodes}) == 1


async def test_a_source_that_follows_nobody_and_was_put_back_says_whom_to_follow(tmp_path: Path) -> None:
    """[M-38], [A-3]: the one that follows it is ahead of it and sends nothing. It takes no writes until
    it has its rows back, and names the command by which they come."""
    async with open_set(tmp_path, 2, election_mode=ElectionMode.OFF) as made:
        one, two = await masters(made)
        await made.stop(1)
        shutil.copytree(tmp_path / "instance001", tmp_path / "copy")
        one = await made.start(1)
        await until(lambda: one.node.is_ready and len(one.links.following) == 1)
        rows = await insert(one, 1)
        await until(lambda: has(two, rows))
        await made.stop(1)
        shutil.rmtree(tmp_path / "instance001")
        shutil.copytree(tmp_path / "copy", tmp_path / "instance001")
        one = await made.start(1, peers=(), follows_all=False)
        await until(lambda: one.node.is_ready and bool((one.info()["amnesia"] or {}).get("must_hear")))
        advice = one.info()["amnesia"]["next"]
        command = """synchro config set replication.peers '["instance002"]' -i instance001"""
        assert advice == f"it follows nobody, so they do not come: {command}"
        assert not one.node.core.is_writable
        follow(one, "instance002")
        await until(lambda: one.info()["amnesia"] is None and has(one, rows))
        await until(lambda: one.node.core.is_writable)
