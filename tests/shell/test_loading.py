"""An instance that reads its files has its port open, and answers LOADING with how far it is [M-19]."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from synchro.errors import Loading
from synchro.failpoints import REGISTRY
from synchro.ids import INITIAL_TERM
from synchro.instance import events as ev
from synchro.replication.bootstrap_choice import JoinFrom, choose, own_ballot
from synchro.ro_reason import RoReason
from synchro.rpc import health
from synchro.server.peer_messages import Hello, JoinRequest
from synchro.storage.disk import File, RealDisk
from synchro.vclock import EMPTY_VCLOCK
from tests.mesh import uuid_of
from tests.shell.memory_set import MemorySet, create_space, open_set, put, until, write


class GatedDisk(RealDisk):
    """The log is read when the gate is open; its header, and how long it is, before."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.waits = threading.Event()
        self._opened = 0
        self._gated: File | None = None

    def open(self, path: str) -> File:
        file = super().open(path)
        if path.endswith(".xlog"):
            self._opened += 1
            if self._opened == 3:
                self._gated = file
        return file

    def pread(self, file: File, size: int, offset: int) -> bytes:
        if file == self._gated:
            self.waits.set()
            assert self.gate.wait(15)
        return super().pread(file, size, offset)


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    REGISTRY.clear()


async def a_set_that_was_stopped(replicas: MemorySet, size: int = 2) -> None:
    faces = [await replicas.start(number) for number in range(1, size + 1)]
    leader = await replicas.wait_leader()
    await create_space(leader)
    for key in range(20):
        assert isinstance(await write(leader, put(key)), ev.Committed)
    await replicas.wait_equal()
    assert all(face.info()["loading"] is None for face in faces)
    await replicas.stop_all()


async def test_while_files_are_read_everything_but_questions_is_refused(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        await a_set_that_was_stopped(replicas, 3)
        REGISTRY.set("recovery.delay", times=1)
        face = await replicas.start(1)
        peers = replicas.members["instance001"].peers
        await until(lambda: REGISTRY.armed["recovery.delay"].waiting > 0)

        info = face.info()
        assert (info["status"], info["ro_reason"], info["id"]) == ("loading", "loading", None)
        assert info["loading"]["stage"] == "recovery"
        assert face.node.ro_reason is RoReason.LOADING
        assert health.states(face.watch_facts()) == {
            "": True,
            health.DATA_SERVICE: False,
            "rw": False,
            "quorum": False,
        }
        with pytest.raises(Loading, match=r"stage: recovery"):
            face.ensure_ready()
        with pytest.raises(Loading):
            _ = face.instance
        with pytest.raises(Loading):
            await anext(peers.serve_join(JoinRequest(uuid_of(9), "instance009")))
        hello = Hello(face.node.replicaset_uuid, "u", "instance002", EMPTY_VCLOCK, INITIAL_TERM, 1)
        with pytest.raises(Loading):
            await peers.serve_subscriber(hello, None)  # type: ignore[arg-type]
        assert not face.node.can_change_settings

        REGISTRY.clear()
        await until(lambda: face.node.is_ready)
        assert face.info()["loading"] is None


async def test_peers_see_that_it_is_loading_and_follow_it_then(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        await a_set_that_was_stopped(replicas, 3)
        REGISTRY.set("recovery.delay", times=1)
        await replicas.start(1)
        await until(lambda: REGISTRY.armed["recovery.delay"].waiting > 0)
        two = await replicas.start(2)
        await replicas.start(3)
        await until(lambda: two.node.is_ready and "instance001" in two.links.appliers)  # a moment later
        upstream = two.links.appliers["instance001"]
        await until(lambda: upstream.facts()["status"] == "loading")
        assert "hasn't finished yet (stage: recovery" in upstream.facts()["message"]
        REGISTRY.clear()
        await replicas.wait_leader()
        await until(lambda: upstream.facts()["status"] == "follow")


async def test_who_reads_its_files_has_a_set_for_those_who_have_none(tmp_path: Path) -> None:
    """A newcomer waits for it, and makes no set of its own beside it."""
    async with open_set(tmp_path) as replicas:
        await a_set_that_was_stopped(replicas)
        REGISTRY.set("recovery.delay", times=1)
        face = await replicas.start(1)
        await until(lambda: REGISTRY.armed["recovery.delay"].waiting > 0)
        ballot = replicas.members["instance001"].peers.ballot()
        assert ballot.is_booted
        assert ballot.is_ro
        assert ballot.replicaset_uuid == face.node.directory.identity.replicaset_uuid
        me = own_ballot(replicas.settings, "u")
        role = choose(replicas.settings, me, {"instance001": ballot}, total=2, is_time_over=True)
        assert isinstance(role, JoinFrom)


async def test_how_far_it_is(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        await a_set_that_was_stopped(replicas, 1)
        disk = GatedDisk()
        face = await replicas.start(1, disk=disk)
        await until(disk.waits.is_set)
        loading = face.info()["loading"]
        assert loading["stage"] == "recovery"
        assert loading["message"].startswith("log: 0.0 of ")
        assert loading["snapshot"]["bytes"] == loading["snapshot"]["of"] > 0
        assert (loading["log"]["bytes"], loading["log"]["rows"]) == (0, 0)
        assert loading["log"]["of"] > 0
        with pytest.raises(Loading, match=r"\(stage: recovery, log: 0.0 of .* MiB, 0 rows\)"):
            face.ensure_ready()
        disk.gate.set()
        await until(lambda: face.node.is_ready)
        assert face.info()["loading"] is None


async def test_it_can_be_stopped_while_it_reads(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        await a_set_that_was_stopped(replicas, 1)
        disk = GatedDisk()
        await replicas.start(1, disk=disk)
        await until(disk.waits.is_set)
        replicas.members["instance001"].stop.set()
        disk.gate.set()
        with trio.fail_after(20):
            await replicas.members["instance001"].ended.wait()
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready)


async def test_a_joiner_tells_how_much_came(tmp_path: Path) -> None:
    async with open_set(tmp_path) as replicas:
        first = await replicas.start(1)
        await replicas.start(2)
        leader = await replicas.wait_leader()
        await create_space(leader)
        for key in range(50):
            assert isinstance(await write(leader, put(key)), ev.Committed)
        await until(lambda: first.node.is_ready)
        REGISTRY.set("relay.final_join_delay")
        late = await replicas.start(3)
        await until(lambda: REGISTRY.armed["relay.final_join_delay"].waiting > 0)
        await until(lambda: bool(late.info()["loading"].get("from")))
        await until(lambda: late.info()["loading"]["snapshot"]["tuples"] >= 50)
        loading = late.info()["loading"]
        assert loading["stage"] == "join"
        assert loading["from"] == leader.node.settings.instance_name
        assert loading["snapshot"]["tuples"] == loading["snapshot"]["of"]
        assert loading["snapshot"]["bytes"] > 0
        REGISTRY.clear()
        await until(lambda: late.node.is_ready)
