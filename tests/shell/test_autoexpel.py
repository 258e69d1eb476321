"""Members that the file does not name are removed, by the file alone [C-45]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
import trio

from synchro.config import ElectionMode, PeerAddress, Settings
from synchro.errors import ConfigError, QuorumWait
from synchro.ids import CallId, InstanceId
from synchro.instance import events as ev
from synchro.ro_reason import RoReason
from synchro.row import Dml
from synchro.server.api import Configuration
from synchro.server.autoexpel import Autoexpel, left_out
from synchro.server.face import Face
from synchro.server.node import Node
from tests.shell.memory_set import MemorySet, open_set, put, until, write
from tests.shell.test_members import number_of
from tests.shell.test_relay_applier import three

NAMES = frozenset(("instance001", "instance002", "instance003"))
ON: dict[str, Any] = {
    "autoexpel_enabled": True,
    "autoexpel_by": "prefix",
    "autoexpel_prefix": "instance",
    "configured": NAMES,
    "reconnect_timeout_s": 0.1,
}


@dataclass
class File:
    """The file on disk of one instance; None: it cannot be read."""

    now: frozenset[str] | None = NAMES

    async def names(self) -> frozenset[str]:
        await trio.lowlevel.checkpoint()
        if self.now is None:
            raise ConfigError("not YAML; nothing was changed")
        return self.now


def give_files(replicas: MemorySet) -> dict[str, File]:
    files: dict[str, File] = {}
    for face in replicas.nodes:
        files[face.node.settings.instance_name] = file = File()
        face.node.configuration = cast(Configuration, file)
    return files


def reload(face: Face, file: File, names: frozenset[str]) -> None:
    file.now = names
    face.node.change_settings(replace(face.node.settings, configured=names))
    face.node.config_was_read()


def members(face: Face) -> set[str | None]:
    return {name for _, name in face.node.core.memtx.catalog.members().values()}


async def test_who_is_not_in_the_file_leaves_when_it_is_read(tmp_path: Path) -> None:
    """Also one that is up; and not a word of it before somebody reads the file."""
    async with open_set(tmp_path, **ON) as replicas:
        owner, (leaver, other) = await three(replicas)
        files = give_files(replicas)
        left = str(leaver.node.settings.instance_name)
        for file in files.values():
            file.now = NAMES - {left}
        await trio.sleep(0.5)
        assert members(owner) == NAMES
        for face in (owner, other):
            reload(face, files[face.node.settings.instance_name], NAMES - {left})
        await until(lambda: leaver.node.ro_reason is RoReason.EXPELLED)
        assert members(owner) == NAMES - {left}
        assert isinstance(await write(owner, put(1)), ev.Committed)


@pytest.mark.effect_of("replication.autoexpel.enabled", "replication.autoexpel.by")
@pytest.mark.effect_of("replication.autoexpel.prefix")
async def test_it_may_be_turned_on_by_the_file_that_leaves_one_out(tmp_path: Path) -> None:
    """Nobody goes while it is off, nor for another prefix; then by one more reload."""
    off: dict[str, Any] = {"configured": NAMES, "reconnect_timeout_s": 0.1}
    async with open_set(tmp_path, **off) as replicas:
        owner, (leaver, _) = await three(replicas)
        left = str(leaver.node.settings.instance_name)
        file = give_files(replicas)[owner.node.settings.instance_name]
        reload(owner, file, NAMES - {left})
        for prefix in ("other", "instance"):
            await trio.sleep(0.3)
            assert members(owner) == NAMES
            settings = replace(owner.node.settings, autoexpel_enabled=True, autoexpel_by="prefix")
            owner.node.change_settings(replace(settings, autoexpel_prefix=prefix))
            reload(owner, file, NAMES - {left})
        await until(lambda: members(owner) == NAMES - {left})


async def test_who_does_not_answer_stays(tmp_path: Path) -> None:
    async with open_set(tmp_path, **ON) as replicas:
        owner, (away, _) = await three(replicas)
        files = give_files(replicas)
        await replicas.kill(number_of(away))
        reload(owner, files[owner.node.settings.instance_name], NAMES)
        await trio.sleep(0.5)
        assert members(owner) == NAMES


async def test_one_after_the_other_and_none_that_cannot_be_decided(tmp_path: Path) -> None:
    """Two are left out, and both are down: those who stay after a removal are two, and one is not there.
    One comes back: then the other can leave, whichever has the lower id, and then this one."""
    off = {**ON, "election_mode": ElectionMode.OFF, "read_only": True}
    async with open_set(tmp_path, **off) as replicas:
        owner = await replicas.start(1, read_only=False)
        for number in (2, 3):
            await replicas.start(number)
        await replicas.wait_ready()
        promoted = await owner.call(ev.PromoteRequested, timeout_s=10.0)
        assert isinstance(promoted, ev.Promoted), promoted
        await replicas.wait_equal()
        file = give_files(replicas)["instance001"]
        await replicas.stop(2)
        await replicas.stop(3)
        reload(owner, file, frozenset({"instance001"}))
        await trio.sleep(0.5)
        assert members(owner) == NAMES
        await replicas.start(3)
        await until(lambda: members(owner) == {"instance001"})


async def test_one_that_comes_later_is_not_left_out(tmp_path: Path) -> None:
    """Autoexpel.A1: it stands in a file that this instance has not read."""
    async with open_set(tmp_path, follows_all=True, **ON) as replicas:
        owner, _ = await three(replicas)
        give_files(replicas)
        peers = (*replicas.settings.peers, PeerAddress("instance004", "instance004"))
        await replicas.start(4, peers=peers, configured=NAMES | {"instance004"})
        await until(lambda: "instance004" in members(owner))
        await trio.sleep(0.5)
        assert "instance004" in members(owner)


async def test_the_file_is_looked_at_once_more(tmp_path: Path) -> None:
    """Autoexpel.A2: who was put back since stays, and while it cannot be read nobody goes."""
    async with open_set(tmp_path, **ON) as replicas:
        owner, (first, second) = await three(replicas)
        files = give_files(replicas)
        mine = files[owner.node.settings.instance_name]
        names = sorted(str(face.node.settings.instance_name) for face in (first, second))
        reload(owner, mine, NAMES - {names[0]})
        mine.now = None
        await trio.sleep(0.3)
        assert members(owner) == NAMES
        mine.now = NAMES
        await trio.sleep(0.3)
        assert members(owner) == NAMES


async def test_a_replica_removes_nobody(tmp_path: Path) -> None:
    async with open_set(tmp_path, **ON) as replicas:
        owner, (reader, other) = await three(replicas)
        files = give_files(replicas)
        name = str(other.node.settings.instance_name)
        reload(reader, files[reader.node.settings.instance_name], NAMES - {name})
        await trio.sleep(0.5)
        assert members(owner) == NAMES


def test_whom_it_concerns() -> None:
    found = {
        InstanceId(1): ("u1", "a-1"),
        InstanceId(2): ("u2", "a-2"),
        InstanceId(3): ("u3", "b-3"),
        InstanceId(4): ("u4", None),
        InstanceId(5): ("u5", "a-5"),
    }
    on = Settings(
        autoexpel_enabled=True,
        autoexpel_by="prefix",
        autoexpel_prefix="a-",
        configured=frozenset({"a-2"}),
    )
    assert left_out(on, found, "u1") == {"u5": "a-5"}
    assert left_out(replace(on, autoexpel_enabled=False), found, "u1") == {}


async def test_who_is_put_back_between_two_removals_stays() -> None:
    """Autoexpel.A2: the first cannot be decided, which takes time; meanwhile a person names the second."""
    asked: list[int] = []
    files = iter((frozenset({"instance001"}), frozenset({"instance001", "instance003"})))

    async def names() -> frozenset[str]:
        return next(files)

    async def call(event_of: Callable[[CallId], ev.ClientWrites], *, timeout_s: float) -> ev.Outcome:
        (write,) = event_of(CallId(1)).writes
        (op,) = write.ops
        assert isinstance(op, Dml) and op.key is not None
        asked.append(op.key[0])
        return ev.Rejected(QuorumWait("those who stay are too few"))

    async def pause(seconds: float) -> None:
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()

    members = {InstanceId(number): (f"uuid {number}", f"instance{number:03}") for number in (1, 2, 3)}
    node = SimpleNamespace(
        uuid="uuid 1",
        settings=replace(Settings(), **{**ON, "configured": frozenset({"instance001"})}),
        core=SimpleNamespace(
            is_writable=True, memtx=SimpleNamespace(catalog=SimpleNamespace(members=lambda: members))
        ),
        configuration=SimpleNamespace(names=names),
        calls=SimpleNamespace(call=call),
        config_reads=1,
        pause=pause,
        log=structlog.get_logger(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Autoexpel(cast(Node, node)).run)
    assert asked == [2]
