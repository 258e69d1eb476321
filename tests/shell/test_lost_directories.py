"""An identity that names a replica set never makes another one; it joins its own again, or waits.

Real files, links in memory. "Emptied" means what our own advice says: snapshots and logs are removed, the
identity file is kept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.config import BootstrapStrategy, ElectionMode, Settings
from synchro.errors import AlreadyRunning, Corruption, DiskFailed, RemoteProtocolError, ReplicasetUuidMismatch
from synchro.ids import InstanceName
from synchro.instance import events as ev
from synchro.ro_reason import RoReason
from synchro.server import join
from synchro.server.directory import DataDirectory
from synchro.server.peer_messages import JoinRequest
from synchro.storage.disk import RealDisk
from synchro.storage.names import IDENTITY_NAME
from tests.shell.memory_set import PATIENCE_S, MemorySet, create_space, open_set, put, until, write
from tests.shell.test_lost_logs import formed, keys, node_of, remove_all, remove_data, start_all

ALL = (1, 2, 3)


def directory(tmp_path: Path, number: int) -> Path:
    return tmp_path / f"instance{number:03}"


async def a_set_with_rows(replicas: MemorySet) -> tuple[int, int, int]:
    """Stopped, one after the other. On a busy machine another one may lead meanwhile."""
    a, b, c = await formed(replicas)
    with trio.fail_after(PATIENCE_S):
        for key in range(5):
            while not isinstance(await write(await replicas.wait_leader(), put(key)), ev.Committed):  # noqa: ASYNC110 - an election has no event
                await trio.sleep(0.1)
    await replicas.wait_equal()
    for number in (b, c, a):
        await replicas.stop(number)
    return a, b, c


def waits(records: list[Any], number: int) -> list[str]:
    """What an instance says while it waits for its set."""
    return [
        record["message"]
        for record in records
        if record["event"] == "bootstrap_waiting" and record["instance"] == f"instance{number:03}"
    ]


async def test_a_directory_that_is_gone_under_a_configured_uuid_is_not_trusted(tmp_path: Path) -> None:
    """ADR 14, S14: the new directory has the same UUID as the old one, so it looks as if only its join had
    been killed. It was trusted, and elected one that lacked what the old directory had acknowledged."""
    uuids = {number: f"{number}aaaaaaa-0000-4000-8000-000000000000" for number in ALL}
    async with open_set(tmp_path, election_mode=ElectionMode.CANDIDATE) as replicas:
        for number in ALL:
            await replicas.start(number, instance_uuid=uuids[number])
        leader = await replicas.wait_leader()
        await replicas.wait_ready()
        await create_space(leader)
        await replicas.wait_equal()
        a = next(number for number in ALL if node_of(replicas, number) is leader)
        emptied, behind = (number for number in ALL if number != a)
        name = "instance{:03}".format
        for other in (a, emptied):
            replicas.network.cut(name(behind), name(other))
        assert isinstance(await write(leader, put(7)), ev.Committed)
        await replicas.kill(a, emptied)
        shutil.rmtree(directory(tmp_path, emptied))
        replicas.network.heal()
        again = await replicas.start(emptied, instance_uuid=uuids[emptied])
        await until(lambda: again.node.is_ready)
        assert again.node.core.has_amnesia
        await trio.sleep(1.0)  # several elections
        assert not any(node_of(replicas, number).node.core.is_writable for number in (emptied, behind))
        await replicas.start(a, instance_uuid=uuids[a])
        await replicas.wait_leader()
        await replicas.wait_equal()
        assert 7 in keys(again)
        await until(lambda: not again.node.core.has_amnesia)


async def test_a_new_set_that_was_not_made_gives_no_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S14, ADR 14: the word of a person holds for a new set, which was not made for want of room."""

    def full(*_args: Any, **_more: Any) -> None:
        raise DiskFailed("no room for the snapshot")

    async with open_set(tmp_path, election_mode=ElectionMode.CANDIDATE, connect_timeout_s=0.3) as replicas:
        a, b, c = await formed(replicas)
        name = "instance{:03}".format
        for other in (a, b):
            replicas.network.cut(name(c), name(other))
        assert isinstance(await write(node_of(replicas, a), put(7)), ev.Committed)
        await replicas.kill(a, b)
        await replicas.kill(c)
        remove_data(directory(tmp_path, b))
        replicas.network.heal()
        as_told: dict[str, Any] = {
            "bootstrap_strategy": BootstrapStrategy.CONFIG,
            "bootstrap_leader": name(b),
        }
        with monkeypatch.context() as patch:
            patch.setattr("synchro.server.first_start.write_snapshot", full)
            with contextlib.suppress(RuntimeError):
                await replicas.start(b, new_set=True, **as_told)
            await replicas.members[name(b)].ended.wait()
        await replicas.start(c, **as_told)
        again = await replicas.start(b)
        await until(lambda: again.node.is_ready)
        assert again.node.core.has_amnesia
        await trio.sleep(1.0)  # several elections
        assert not any(node_of(replicas, number).node.core.is_writable for number in (b, c))


async def test_a_join_that_is_killed_before_it_noted_that_its_name_was_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S14, [M-25]: the source had registered the new UUID by then, which tells of no former life; the record
    of the one that it replaced does."""

    def slow(*args: Any) -> Any:
        time.sleep(1.0)  # in a worker thread
        return checked(*args)

    async with open_set(tmp_path) as replicas:
        a, _, c = await formed(replicas)
        leader = node_of(replicas, a)
        await replicas.kill(c)
        shutil.rmtree(directory(tmp_path, c))
        checked = join._checked
        with monkeypatch.context() as patch:
            patch.setattr(join, "_checked", slow)
            face = await replicas.start(c)
            uuid = face.node.uuid
            await until(lambda: uuid in dict(leader.node.core.memtx.catalog.members().values()))
            assert not face.node.directory.identity.amnesia
            await replicas.kill(c)
        face = await replicas.start(c)
        await until(lambda: face.node.has_core)
        assert face.node.core.has_amnesia


async def test_a_second_join_to_a_set_where_the_name_was_known_gives_no_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADR 14: behind `--new-set` of a directory of another set. The first join registers it and breaks."""
    async with open_set(tmp_path) as replicas:
        _, _, c = await formed(replicas)
        await replicas.kill(c)
        path = str(directory(tmp_path, c))
        shutil.rmtree(path)
        settings = replace(
            replicas.settings, instance_name=InstanceName(f"instance{c:03}"), wal_dir=path, snapshot_dir=path
        )
        foreign = DataDirectory.open(RealDisk(), settings)
        foreign.save(replace(foreign.identity, replicaset_uuid="99999999-0000-4000-8000-000000000000"))
        foreign.close()
        store, tries = join._store, list[int]()

        def broken(*args: Any) -> None:
            tries.append(len(tries))
            if len(tries) == 1:
                raise RemoteProtocolError("cut off")
            store(*args)

        monkeypatch.setattr(join, "_store", broken)
        face = await replicas.start(c, new_set=True)
        await until(lambda: face.node.has_core)
        assert len(tries) == 2
        assert face.node.core.has_amnesia or face.node.directory.identity.amnesia


async def test_who_was_registered_meanwhile_joins_by_a_new_view(tmp_path: Path) -> None:
    """[M-25], ADR 9: a joiner learns from the snapshot that its name was a member before. One that others
    still use may be older than that."""

    def asks(number: int, uuid: str) -> JoinRequest:
        return JoinRequest(uuid, f"instance{number:03}")

    async with open_set(tmp_path, size=1, election_mode=ElectionMode.OFF) as replicas:
        one = await replicas.start(1)
        await until(lambda: one.node.is_ready)
        view = partial(join._shared_view, one.node, one.links)
        with view(asks(3, "3")) as used:
            await join.register(one.node, "2aaaaaaa-0000-4000-8000-000000000000", "instance002")
            with view(asks(3, "3")) as shared, view(asks(2, "another")) as newer:
                assert shared is used and newer is not used
                assert "instance002" in newer.known
            with view(asks(9, "2aaaaaaa-0000-4000-8000-000000000000")) as newer:
                assert newer is not used


async def test_two_of_three_emptied_join_again_and_a_person_decides(tmp_path: Path) -> None:
    """They join from the third without a vote or a write, and stay in amnesia (ADR 9). The word of a person
    for one of them is enough: then the last one hears everybody."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        uuids = [node_of(replicas, number).node.uuid for number in ALL]
        remove_data(directory(tmp_path, b))
        remove_data(directory(tmp_path, c))
        await start_all(replicas, b, c, a)
        await until(lambda: all(len(face.links.following) == 2 for face in replicas.nodes))
        await trio.sleep(1.5)  # three election timeouts
        assert not any(face.node.core.is_writable for face in replicas.nodes)
        assert [node_of(replicas, number).node.uuid for number in ALL] == uuids
        for number, other in ((b, c), (c, b)):
            info = node_of(replicas, number).info()["amnesia"]
            whys = {one["name"]: one["why"] for one in info["must_hear"]}
            assert whys == {f"instance{other:03}": "has amnesia too"}
            assert "--force-trust" in info["next"]
            assert keys(node_of(replicas, number)) == list(range(5))

        await replicas.stop(b)
        await replicas.start(b, force_trust=True)
        leader = await replicas.wait_leader()
        assert isinstance(await write(leader, put(5)), ev.Committed)
        await replicas.wait_equal()
        assert all(keys(face) == list(range(6)) for face in replicas.nodes)
        await until(lambda: not any(face.node.directory.identity.amnesia for face in replicas.nodes))


async def test_a_member_killed_while_it_joins_again_starts_that_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log is there, its snapshot is not. No snapshot was lost: nothing of that log was acknowledged."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        remove_data(directory(tmp_path, c))
        await start_all(replicas, a, b)
        await replicas.wait_leader()

        def full(*_: Any, **__: Any) -> None:
            raise DiskFailed("no room for the snapshot")

        with monkeypatch.context() as patch:
            patch.setattr(join, "write_snapshot", full)
            await replicas.start(c)
            await replicas.members[f"instance{c:03}"].ended.wait()
        assert list(directory(tmp_path, c).glob("*.xlog")), "it came that far"
        await replicas.start(c)
        await until(lambda: node_of(replicas, c).node.is_ready)
        await replicas.wait_equal()
        assert keys(node_of(replicas, c)) == list(range(5))
        await until(lambda: not node_of(replicas, c).node.directory.identity.amnesia)


async def test_all_emptied_wait_and_each_names_the_command(tmp_path: Path) -> None:
    """Nobody makes a new set by himself; when a person says so on every member, it is a new one."""
    async with open_set(tmp_path, connect_timeout_s=0.3) as replicas:
        await a_set_with_rows(replicas)
        former = node_of(replicas, 1).node.directory.identity.replicaset_uuid
        for number in ALL:
            remove_data(directory(tmp_path, number))
        with structlog.testing.capture_logs() as records:
            for number in ALL:
                await replicas.start(number)
            await until(lambda: all("Nobody has it" in (waits(records, n) or [""])[-1] for n in ALL))
            await trio.sleep(0.7)  # more than `connect_timeout`: a majority is not enough either
        for number in ALL:
            assert not node_of(replicas, number).node.has_core
            last = waits(records, number)[-1]
            assert "--new-set" in last
            assert "gives up" in last
            others = [f"instance{other:03} (its data is gone too)" for other in ALL if other != number]
            assert all(other in last for other in others)

        for number in ALL[:2]:
            await replicas.stop(number)
            await replicas.start(number, new_set=True)
        await trio.sleep(0.7)
        assert not any(face.node.has_core for face in replicas.nodes)  # the third may have been forgotten
        await replicas.stop(3)
        await replicas.start(3, new_set=True)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        assert {face.node.directory.identity.replicaset_uuid for face in replicas.nodes} != {former}
        await create_space(leader)
        assert isinstance(await write(leader, put(1)), ev.Committed)
        assert not any(face.node.directory.identity.amnesia for face in replicas.nodes)


async def test_the_data_may_come_back_while_the_others_wait(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        remove_data(directory(tmp_path, b))
        with structlog.testing.capture_logs() as records:
            await replicas.start(b)
            await until(lambda: bool(waits(records, b)))
        assert f"instance{a:03} (does not answer)" in waits(records, b)[-1]
        assert "--new-set" not in waits(records, b)[-1]  # others may have it
        await start_all(replicas, a, c)
        await until(lambda: node_of(replicas, b).node.is_ready)
        await replicas.wait_leader()
        await replicas.wait_equal()
        await until(lambda: not node_of(replicas, b).node.directory.identity.amnesia)
        assert keys(node_of(replicas, b)) == list(range(5))


async def test_a_new_set_is_not_made_beside_an_emptied_member(tmp_path: Path) -> None:
    """Two directories are quite new, which is a majority; the third names a set whose members may come
    back."""
    async with open_set(tmp_path, connect_timeout_s=0.3) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        remove_data(directory(tmp_path, a))
        for number in (b, c):
            remove_data(directory(tmp_path, number))
            (directory(tmp_path, number) / IDENTITY_NAME).unlink()
        with structlog.testing.capture_logs() as records:
            for number in ALL:
                await replicas.start(number)
            await until(lambda: bool(waits(records, c)))
            await until(lambda: f"instance{a:03} lost the data" in (waits(records, b) or [""])[-1])
            await trio.sleep(0.7)
        assert not any(face.node.has_core for face in replicas.nodes)
        assert f"instance{a:03} lost the data" in waits(records, b)[-1]


async def test_who_is_told_to_forget_a_set_that_lives_joins_it_in_amnesia(tmp_path: Path) -> None:
    """`--new-set` by mistake must not launder what was acknowledged."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        remove_data(directory(tmp_path, b))
        await replicas.start(b)  # waits: the flag is on disk
        await replicas.stop(b)
        await start_all(replicas, a, c)
        await replicas.wait_leader()
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(b, new_set=True)
            await until(lambda: face.node.is_ready)
            await until(lambda: not face.node.directory.identity.amnesia)
        assert "amnesia" in {r["event"] for r in records if r["instance"] == f"instance{b:03}"}


async def test_forgetting_a_set_whose_data_is_here_is_refused(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        await a_set_with_rows(replicas)
        with pytest.raises(RuntimeError, match="without calling task_status"):
            await replicas.start(1, new_set=True)
        error = replicas.members["instance001"].error
        assert error is not None
        assert "--new-set is refused" in error.message
        await start_all(replicas, 1, 2, 3)
        assert keys(await replicas.wait_leader()) == list(range(5))


async def test_a_decision_that_was_not_needed_is_said(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        with structlog.testing.capture_logs() as records:
            await replicas.start(1, new_set=True)
            await replicas.wait_leader()
            await replicas.stop(1)
            await replicas.start(1, force_trust=True)
            await replicas.wait_leader()
        events = [record["event"] for record in records]
        assert "new_set_unused" in events
        assert "force_trust_unused" in events
        assert "amnesia_overruled" not in events


async def test_an_emptied_member_does_not_join_another_set(tmp_path: Path) -> None:
    """Its peers were made anew: a person must say that the old set is given up."""
    async with open_set(tmp_path, connect_timeout_s=0.3) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        for number in (b, c):
            for path in directory(tmp_path, number).iterdir():
                path.unlink()
        await start_all(replicas, b, c)
        remove_data(directory(tmp_path, a))
        await replicas.start(a)
        member = replicas.members[f"instance{a:03}"]
        await member.ended.wait()
        assert isinstance(member.error, ReplicasetUuidMismatch)
        assert "--new-set" in member.error.message
        await replicas.start(a, new_set=True)
        await until(lambda: node_of(replicas, a).node.is_ready)
        assert not node_of(replicas, a).node.directory.identity.amnesia


async def test_alone_an_emptied_instance_says_what_to_do(tmp_path: Path) -> None:
    """There is nobody to wait for."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1)
        await replicas.wait_leader()
        former = face.node.directory.identity.replicaset_uuid
        await replicas.stop(1)
        remove_data(directory(tmp_path, 1))
        await replicas.start(1)
        member = replicas.members["instance001"]
        await member.ended.wait()
        assert member.error is not None
        assert "--new-set" in member.error.message
        assert str(former) in member.error.message
        face = await replicas.start(1, new_set=True)
        await replicas.wait_leader()
        assert face.node.directory.identity.replicaset_uuid not in (None, former)


# --- snapshots -------------------------------------------------------------------------------------------


async def test_a_damaged_snapshot_is_set_aside_and_is_no_floor(tmp_path: Path) -> None:
    """The instance starts from the older one and the log, says so once, and its next checkpoints clean up."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1)
        await replicas.wait_leader()
        await create_space(face)
        for key in range(3):
            assert isinstance(await write(face, put(key)), ev.Committed)
            await face.checkpoint()
        await replicas.stop(1)
        home = directory(tmp_path, 1)
        newest = max(home.glob("*.snap"))
        newest.write_bytes(b"")
        with structlog.testing.capture_logs() as records:
            face = await replicas.start(1)
            await replicas.wait_leader()
        warned = [record for record in records if record["event"] == "snapshot_damaged"]
        assert [record["file"] for record in warned] == [f"{newest}.damaged"]
        assert keys(face) == [0, 1, 2]
        for key in range(3, 6):
            assert isinstance(await write(face, put(key)), ev.Committed)
            await face.checkpoint()
        kept = sorted(path.name for path in home.glob("*.snap"))
        assert len(kept) == 2
        assert face.node.wal.files[0].vclock.signature >= int(newest.name.split(".")[0])
        await replicas.stop(1)


async def test_the_advice_for_a_damaged_snapshot_works(tmp_path: Path) -> None:
    """Nothing can take its place: the error names the file and the next step, which is carried out here."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        home = directory(tmp_path, b)
        snapshot = max(home.glob("*.snap"))
        snapshot.write_bytes(snapshot.read_bytes()[:-1])
        await start_all(replicas, a, c)
        await replicas.start(b)
        member = replicas.members[f"instance{b:03}"]
        await member.ended.wait()
        assert member.error is not None
        assert member.error.details["file"] == str(snapshot)
        assert "start the instance with --rejoin" in member.error.message
        face = await replicas.start(b, rejoin=True)
        await until(lambda: face.node.is_ready and not face.node.directory.identity.amnesia)
        await replicas.wait_leader()
        await replicas.wait_equal()
        assert keys(face) == list(range(5))


async def test_a_join_again_leaves_nothing_of_the_former_life(tmp_path: Path) -> None:
    """An old snapshot, or one that was set aside, must not be found by a later recovery."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        home = directory(tmp_path, b)
        snapshot = max(home.glob("*.snap"))
        snapshot.rename(f"{snapshot}.damaged")
        for path in home.glob("*.xlog"):
            path.rename(f"{path}.inprogress")
        await start_all(replicas, a, c, b)
        await replicas.wait_leader()
        await replicas.wait_equal()
        assert not list(home.glob("*.damaged"))
        assert not list(home.glob("*.inprogress"))


async def test_a_directory_that_comes_back_after_an_empty_one_took_its_place(tmp_path: Path) -> None:
    """[M-25], S10: the empty one has a new UUID, and the name and id of the old one, whose LSNs it goes on
    with. The old files are those of nobody: nothing is taken from them, and who starts them is told."""
    async with open_set(tmp_path, size=2, election_mode=ElectionMode.OFF) as replicas:
        one, two = await replicas.start(1), await replicas.start(2)
        await until(lambda: all(face.node.is_ready and face.node.core.is_writable for face in (one, two)))
        await create_space(one, is_sync=False)
        await replicas.wait_equal()
        await replicas.stop(2)
        directory(tmp_path, 2).rename(tmp_path / "old")
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and two.node.core.is_writable)
        assert isinstance(await write(two, put(1, "of the new one")), ev.Committed)
        await replicas.wait_equal()
        await replicas.stop(2)
        directory(tmp_path, 2).rename(tmp_path / "new")
        (tmp_path / "old").rename(directory(tmp_path, 2))
        old = await replicas.start(2)
        await until(lambda: old.node.is_ready and old.node.core.read_only_reason() is RoReason.EXPELLED)
        assert isinstance(await write(old, put(2, "of the old one")), ev.Rejected)
        await replicas.stop(2)
        directory(tmp_path, 2).rename(tmp_path / "old")
        (tmp_path / "new").rename(directory(tmp_path, 2))
        two = await replicas.start(2)
        await until(lambda: two.node.is_ready and two.node.core.is_writable)
        assert isinstance(await write(two, put(3)), ev.Committed)
        await replicas.wait_equal()
        assert keys(one) == keys(two) == [1, 3]


async def test_without_elections_nobody_is_told_to_wait_for_a_vote(tmp_path: Path) -> None:
    """S14: who lost its log takes writes again when it has heard all; only a vote that it may have given is
    still unknown, until the term is over, and without elections no term ends by itself."""
    async with open_set(tmp_path, election_mode=ElectionMode.OFF) as replicas:
        await start_all(replicas, 1, 2, 3)
        one, two = (node_of(replicas, number) for number in (1, 2))
        await until(lambda: len(one.links.following) == 2)
        assert isinstance(await one.call(ev.PromoteRequested, timeout_s=PATIENCE_S), ev.Promoted)
        assert isinstance(await one.call(ev.DemoteRequested, timeout_s=PATIENCE_S), ev.Demoted)
        await replicas.wait_equal()
        await replicas.stop(1)
        remove_all(directory(tmp_path, 1))
        one = await replicas.start(1)
        await until(lambda: one.node.is_ready and one.node.core.acks_count)
        info = one.info()["amnesia"]
        assert info["message"] == "its log is whole again; it votes when this term is over"
        assert info["next"] == "nothing has to be done; a promote begins the next one"
        await until(lambda: len(two.links.following) == 2)
        assert isinstance(await two.call(ev.PromoteRequested, timeout_s=PATIENCE_S), ev.Promoted)
        await until(lambda: one.info()["amnesia"] is None)


async def test_without_its_identity_the_data_is_left_alone(tmp_path: Path) -> None:
    """No new identity is made beside the data of another one; the advice works."""
    async with open_set(tmp_path) as replicas:
        a, b, c = await a_set_with_rows(replicas)
        home = directory(tmp_path, b)
        identity = home / "instance.identity"
        kept = identity.read_bytes()
        identity.unlink()
        with pytest.raises(Corruption, match=r"move all files.*to join anew"):
            await replicas.start(b)
        assert not identity.exists()
        identity.write_bytes(kept)
        await start_all(replicas, a, b, c)
        await replicas.wait_equal()
        await replicas.stop(b)

        for path in home.iterdir():
            path.unlink()
        face = await replicas.start(b)
        await until(lambda: face.node.is_ready and face.info()["amnesia"] is None)
        await replicas.wait_equal()


@pytest.mark.parametrize("call", ["listdir", "unlink", "sync_dir"])
def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A bare OSError told neither what the start was about nor what to do."""
    settings = Settings(wal_dir=str(tmp_path), snapshot_dir=str(tmp_path))
    opened = DataDirectory.open(RealDisk(), settings)
    left = tmp_path / "00000000000000000000.xlog"
    left.write_bytes(b"x")

    def refuse(path: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(opened.disk, call, refuse)
    with pytest.raises(DiskFailed, match="Read-only file system") as info:
        opened.begin_first_start()
    opened.close()
    assert info.value.details["file"] == str(left if call == "unlink" else tmp_path)
    assert info.value.details["errno"] == str(errno.EROFS)


def test_nobody_shares_his_snapshots(tmp_path: Path) -> None:
    """Two instances with logs of their own, and one place for snapshots: who joins first would delete those
    of the other, and so would each that makes a new one."""
    shared = tmp_path / "snapshots"
    first = Settings(wal_dir=str(tmp_path / "1"), snapshot_dir=str(shared))
    second = Settings(wal_dir=str(tmp_path / "2"), snapshot_dir=str(shared))
    opened = DataDirectory.open(RealDisk(), first)
    with pytest.raises(AlreadyRunning, match=str(shared)):
        DataDirectory.open(RealDisk(), second)
    assert os.listdir(second.wal_dir) == ["instance.lock"]
    opened.close()
    DataDirectory.open(RealDisk(), second).close()


def test_one_directory_with_two_names_is_locked_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    settings = Settings(wal_dir=str(tmp_path / "data"), snapshot_dir=str(tmp_path / "link"))
    DataDirectory.open(RealDisk(), settings).close()


@pytest.mark.parametrize("what", ["link", "file", "identity"])
def test_what_is_no_directory_is_named(tmp_path: Path, what: str) -> None:
    """A mount that is missing leaves links to nothing. The words of the system alone were told, as "File
    exists"."""
    at = tmp_path / "data"
    if what == "link":
        at.symlink_to("nowhere")
    elif what == "file":
        at.write_text("")
    else:
        at /= IDENTITY_NAME
        at.mkdir(parents=True)
    path = str(tmp_path / "data")
    with pytest.raises(DiskFailed, match=r"nothing was started\. Next: ") as info:
        DataDirectory.open(RealDisk(), Settings(wal_dir=path, snapshot_dir=path))
    why = "cannot be used: Is a directory" if what == "identity" else "is no directory"
    assert info.value.message.startswith(f"{at} {why}; ")
    assert info.value.details["file"] == str(at)
