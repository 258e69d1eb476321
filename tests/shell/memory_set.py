"""Instances of one replica set in one trio loop: links in memory, files on the real disk, no gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog
import trio

from synchro.config import ElectionMode, PeerAddress, Settings
from synchro.errors import SynchroError
from synchro.ids import InstanceId, InstanceName
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.server.applier import Applier
from synchro.server.directory import DataDirectory
from synchro.server.face import Face
from synchro.server.lifecycle import Lifecycle, assemble
from synchro.server.peers import Peers
from synchro.storage import row_body, schema
from synchro.storage.disk import RealDisk
from synchro.testing.memory_network import MemoryNetwork

PATIENCE_S = 40.0
"""Of a test that waits for something to become true; the CI machine may be slow."""


class PanicHost:
    """Stands for the RPC host: remembers the bug that would have ended the process."""

    def __init__(self) -> None:
        self.bugs: list[BaseException] = []
        token = trio.lowlevel.current_trio_token()
        self.call_when_idle = self.call_from_thread = token.run_sync_soon

    def call_at_rest(self, function: Callable[[], None]) -> None:
        function()

    def panic(self, error: BaseException) -> None:
        self.bugs.append(error)


@dataclass
class Member:
    name: str
    face: Face
    peers: Peers
    stop: trio.Event
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    error: SynchroError | None = None


class MemorySet:
    def __init__(self, nursery: trio.Nursery, directory: Path, settings: Settings, size: int) -> None:
        self._nursery = nursery
        self._directory = directory
        self.network = MemoryNetwork(nursery)
        self.host = PanicHost()
        names = [f"instance{n:03}" for n in range(1, size + 1)]
        self.settings = replace(settings, peers=tuple(PeerAddress(name, name) for name in names))
        self.members: dict[str, Member] = {}

    async def start(self, number: int, *, disk: RealDisk | None = None, **changes: Any) -> Face:
        name = f"instance{number:03}"
        path = str(self._directory / name)
        settings = replace(
            self.settings, instance_name=InstanceName(name), wal_dir=path, snapshot_dir=path, **changes
        )
        return (await self.start_at(name, settings, disk)).face

    async def start_at(self, address: str, settings: Settings, disk: RealDisk | None = None) -> Member:
        """An instance of these settings, which peers reach at this address."""
        directory = DataDirectory.open(disk or RealDisk(), settings)
        face = assemble(
            settings=settings,
            directory=directory,
            transport=self.network.transport(address),
            hooks=self.host,
            log=structlog.get_logger().bind(instance=address),
            on_panic=self.host.panic,
        )
        member = Member(address, face, Peers(face.node, face.links), trio.Event())
        self.members[address] = member

        @asynccontextmanager
        async def open_port() -> AsyncIterator[str]:
            self.network.endpoints[address] = member.peers
            try:
                yield address
            finally:
                del self.network.endpoints[address]

        async def run(*, task_status: trio.TaskStatus[Face]) -> None:
            try:
                with member.scope:
                    await Lifecycle(face, member.peers, member.stop, open_port).run(task_status)
            except SynchroError as error:
                member.error = error
            except BaseExceptionGroup as group:
                member.error = first_error(group)
            finally:
                directory.close()
                member.ended.set()

        await self._nursery.start(run)
        return member

    async def stop(self, number: int) -> None:
        member = self.members[f"instance{number:03}"]
        member.stop.set()
        await member.ended.wait()

    async def kill(self, *numbers: int) -> None:
        """At once and without a word, as `kill -9`: the log has no end marker."""
        members = [self.members[f"instance{number:03}"] for number in numbers]
        for member in members:
            member.scope.cancel()
        for member in members:
            await member.ended.wait()

    async def stop_all(self) -> None:
        for member in self.members.values():
            member.stop.set()
        for member in self.members.values():
            await member.ended.wait()

    @property
    def nodes(self) -> list[Face]:
        return [member.face for member in self.members.values() if not member.ended.is_set()]

    async def wait_leader(self) -> Face:
        await until(lambda: any(n.node.is_ready and n.node.core.is_writable for n in self.nodes))
        return next(n for n in self.nodes if n.node.is_ready and n.node.core.is_writable)

    async def wait_ready(self) -> None:
        await until(lambda: all(n.node.is_ready for n in self.nodes))

    async def wait_equal(self) -> None:
        """All have the same rows, and the queue is empty everywhere."""
        await until(
            lambda: (
                len({n.node.core.vclock.without_local() for n in self.nodes}) == 1
                and not any(len(n.node.core.limbo) for n in self.nodes)
                and all(has_told_all(n) for n in self.nodes)
            )
        )


def first_error(group: BaseExceptionGroup[BaseException]) -> SynchroError:
    for error in group.exceptions:
        if isinstance(error, SynchroError):
            return error
        if isinstance(error, BaseExceptionGroup):
            return first_error(error)
    raise group


@asynccontextmanager
async def open_set(directory: Path, size: int = 3, **changes: Any) -> AsyncIterator[MemorySet]:
    settings = Settings(
        election_mode=ElectionMode.CANDIDATE,
        replication_timeout_s=0.1,
        election_timeout_s=0.5,
        connect_timeout_s=3.0,
        synchro_timeout_s=3.0,
    )
    async with trio.open_nursery() as nursery:
        made = MemorySet(nursery, directory, replace(settings, **changes), size)
        yield made
        with trio.fail_after(PATIENCE_S):
            await made.stop_all()
        assert made.host.bugs == []
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - states of many parts have no one event
            await trio.sleep(0.01)


def has_told_all(face: Face) -> bool:
    """What it committed as an owner is announced in its log."""
    core = face.node.core
    return not (core.limbo.is_announcement_due or core.limbo.is_busy or core.state.log.in_flight)


async def write(face: Face, *ops: Any, timeout_s: float = 5.0) -> ev.Outcome:
    """One transaction."""
    outcomes: list[ev.Outcome] = []
    face.submit_writes(frame(face, ops), lambda _, outcome: outcomes.append(outcome), timeout_s)
    await until(lambda: bool(outcomes))
    return outcomes[0]


def frame(face: Face, *transactions: Sequence[Any]) -> list[ev.ClientWrite]:
    """What a stream hands to the node in one go."""
    return [ev.ClientWrite(face.new_call_id(), ops) for ops in transactions]


async def create_space(face: Face, space_id: int = 512, *, is_sync: bool = True) -> None:
    await until(lambda: face.node.is_ready and face.node.core.is_writable)  # perhaps an orphan
    flags = {"is_sync": True} if is_sync else {}
    space = (space_id, schema.ADMIN, f"space{space_id}", "memtx", 0, flags, ())
    index = (space_id, 0, "primary", "tree", {"unique": True}, ((0, "unsigned"),))
    for target, row in ((schema.SPACE_ID, space), (schema.INDEX_ID, index)):
        outcome = await write(face, row_body.dml_from_values(RowType.INSERT, target, value=row))
        assert isinstance(outcome, ev.Committed), outcome
    await until(lambda: has_told_all(face))


def put(key: int, value: str = "x", *, space_id: int = 512) -> Any:
    return row_body.dml_from_values(RowType.REPLACE, space_id, value=(key, value))


def appliers_of(face: Face) -> list[Applier]:
    """The real ones behind what `links` shows of them."""
    return [applier for applier in face.links.appliers.values() if isinstance(applier, Applier)]


def applier_of(face: Face, peer: InstanceId) -> Applier:
    applier = face.links.find_applier(peer)
    assert isinstance(applier, Applier)
    return applier
