"""A backlog over a link that is slow: it arrives, and the link lives meanwhile (ADR 20)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from synchro.config import PeerAddress, Settings
from synchro.ids import InstanceName
from synchro.instance import events as ev
from synchro.process.supervise import run_instance
from synchro.rpc.host import RpcHost, open_rpc_host
from synchro.server.applier import Status
from synchro.server.face import Face
from tests.shell.memory_set import applier_of, appliers_of, create_space, put, until, write
from tests.shell.test_grpc_set import free_addresses
from tests.slow_link import SlowLink, slow_link

KIB = 1024
SPACE = 600
"""Asynchronous."""


@dataclass
class Pair:
    """An owner, and a follower that sees it through the link."""

    host: RpcHost
    link: SlowLink
    settings: list[Settings]
    nursery: trio.Nursery
    owner: Face = field(init=False)
    follower: Face = field(init=False)
    _stop: list[trio.Event] = field(default_factory=lambda: [trio.Event(), trio.Event()])
    _ended: list[trio.Event] = field(default_factory=lambda: [trio.Event(), trio.Event()])

    async def start(self, number: int) -> Face:
        self._stop[number] = trio.Event()
        self._ended[number] = trio.Event()

        async def run(*, task_status: trio.TaskStatus[Face]) -> None:
            await run_instance(
                self.settings[number],
                host=self.host,
                log=structlog.get_logger(),
                stop=self._stop[number],
                task_status=task_status,
            )
            self._ended[number].set()

        return await self.nursery.start(run)  # type: ignore[no-any-return]

    async def start_follower(self) -> None:
        self.follower = await self.start(1)

    async def stop(self, number: int) -> None:
        self._stop[number].set()
        await self._ended[number].wait()

    async def write(self, count: int, size: int, *, first: int = 0) -> None:
        """`count` transactions with incompressible tuples of about `size` bytes."""
        for key in range(first, first + count):
            outcome = await write(self.owner, put(key, os.urandom(size // 2).hex(), space_id=SPACE))
            assert isinstance(outcome, ev.Committed)

    async def wait_count(self, count: int, *, within_s: float) -> None:
        with trio.fail_after(within_s):
            while not self.follower.node.is_ready or self.follower.node.core.memtx.count(SPACE) < count:  # noqa: ASYNC110
                await trio.sleep(0.02)


@asynccontextmanager
async def open_pair(
    directory: Path, *, beat_s: float, joined: bool = True, delay_s: float = 0.0
) -> AsyncIterator[Pair]:
    """With an asynchronous space. joined: the follower was there, and is stopped."""
    one, two = free_addresses(2)
    async with (
        open_rpc_host() as host,
        slow_link(one, delay_s=delay_s) as link,
        trio.open_nursery() as nursery,
    ):
        common = Settings(replication_timeout_s=beat_s, election_timeout_s=60.0, connect_timeout_s=3.0)
        paths = [str(directory / name) for name in ("one", "two")]
        settings = [
            replace(
                common,
                instance_name=InstanceName("instance001"),
                listen=one,
                peers=(PeerAddress("instance001", one),),
                wal_dir=paths[0],
                snapshot_dir=paths[0],
            ),
            replace(
                common,
                instance_name=InstanceName("instance002"),
                listen=two,
                peers=(PeerAddress("instance001", link.address), PeerAddress("instance002", two)),
                wal_dir=paths[1],
                snapshot_dir=paths[1],
            ),
        ]
        pair = Pair(host, link, settings, nursery)
        pair.owner = await pair.start(0)
        await until(lambda: pair.owner.node.is_ready)
        await create_space(pair.owner, SPACE, is_sync=False)
        if joined:
            await pair.start_follower()
            await until(lambda: pair.follower.node.is_ready and is_following(pair.follower))
            await pair.stop(1)
        yield pair
        for event in pair._stop:
            event.set()
        for event in pair._ended:
            await event.wait()
        nursery.cancel_scope.cancel()


def is_following(face: Face) -> bool:
    return any(applier.status is Status.FOLLOW for applier in appliers_of(face))


class Losses:
    """Counts how often the follower lost its stream."""

    def __init__(self, face: Face) -> None:
        self.count = 0
        plain = face.node.log

        class Log:
            def __getattr__(_, name: str) -> Any:
                return getattr(plain, name)

            def warning(_, event: str, **facts: Any) -> None:
                self.count += event == "upstream_lost"
                plain.warning(event, **facts)

        face.node.log = Log()


async def test_a_backlog_arrives_over_a_slow_link(tmp_path: Path) -> None:
    """300 KB at 100 KB/s with heartbeats of 250 ms: frames of 1 MiB were "timed out" without end."""
    async with open_pair(tmp_path, beat_s=0.25) as pair:
        await pair.write(100, 3 * KIB)
        pair.link.rate = 100 * KIB
        await pair.start_follower()
        losses = Losses(pair.follower)
        await pair.wait_count(100, within_s=60)
        assert losses.count == 0


async def write_large(face: Face, size: int, *, first: int = 0) -> None:
    """One transaction of `size` bytes in ten tuples."""
    ops = [put(first + key, os.urandom(size // 20).hex(), space_id=SPACE) for key in range(10)]
    outcome = await write(face, *ops)
    assert isinstance(outcome, ev.Committed), outcome


async def test_a_large_transaction_arrives_over_a_slow_link_and_as_a_whole(tmp_path: Path) -> None:
    """It is cut for the link, and joined again before the core: nothing of it is seen before all of it."""
    async with open_pair(tmp_path, beat_s=0.25) as pair:
        await write_large(pair.owner, 400 * KIB)
        pair.link.rate = 100 * KIB
        await pair.start_follower()
        losses = Losses(pair.follower)
        await until(lambda: pair.follower.node.is_ready)
        seen: set[int] = set()
        with trio.fail_after(60):
            while 10 not in seen:
                seen.add(pair.follower.node.core.memtx.count(SPACE))
                await trio.sleep(0.01)
        assert seen == {0, 10}
        assert losses.count == 0


async def test_heartbeats_are_not_late_while_a_backlog_comes(tmp_path: Path) -> None:
    """What is on its way is what the link carries in half a heartbeat, so no message is late."""
    beat_s = 0.5
    async with open_pair(tmp_path, beat_s=beat_s) as pair:
        await pair.write(80, 3 * KIB)
        pair.link.rate = 64 * KIB
        await pair.start_follower()
        await until(lambda: pair.follower.node.is_ready and is_connected(pair.follower))
        await trio.sleep(beat_s)  # the first window is a guess
        (applier,) = (a for a in appliers_of(pair.follower) if a.peer_id == pair.owner.node.core.self_id)
        worst = 0.0
        with trio.fail_after(60):
            while pair.follower.node.core.memtx.count(SPACE) < 80:
                beat_at = pair.owner.links.downstreams[pair.follower.node.core.self_id].sent_at
                worst = max(worst, applier.idle)
                assert trio.current_time() - beat_at < 2 * beat_s
                await trio.sleep(0.01)
        assert worst < 1.5 * beat_s


def is_connected(face: Face) -> bool:
    return any(applier.is_following for applier in appliers_of(face))


async def test_a_link_that_breaks_within_a_transaction_gives_all_of_it_or_nothing(tmp_path: Path) -> None:
    """What came of it is dropped with the stream; the next one begins it anew."""
    async with open_pair(tmp_path, beat_s=0.25) as pair:
        await write_large(pair.owner, 300 * KIB)
        pair.link.rate = 100 * KIB
        await pair.start_follower()
        await until(lambda: pair.follower.node.is_ready and is_connected(pair.follower))
        before = pair.link.passed[1]
        await until(lambda: pair.link.passed[1] > before + 100 * KIB)
        applier = applier_of(pair.follower, pair.owner.node.core.self_id)
        applier.reset()
        assert pair.follower.node.core.memtx.count(SPACE) == 0
        await pair.wait_count(10, within_s=60)
        assert is_connected(pair.follower)


async def test_a_join_over_a_slow_link_is_slow_and_succeeds(tmp_path: Path) -> None:
    """Chunks of 1 MiB did not come in time: the joiner began again without end. A transaction that follows
    the snapshot is cut as well."""
    async with open_pair(tmp_path, beat_s=0.1, joined=False) as pair:
        pair.settings = [replace(one, synchro_timeout_s=0.4) for one in pair.settings]
        await write_large(pair.owner, 300 * KIB)
        pair.link.rate = 100 * KIB
        await pair.start_follower()
        await pair.wait_count(10, within_s=60)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kib_per_s", "beat_s"), [(200, 1.0), (16, 1.0), (16, 0.5)])
async def test_a_backlog_at_the_slow_end(tmp_path: Path, kib_per_s: int, beat_s: float) -> None:
    """3 MB at 200 KB/s with default timeouts, and a minute's worth at 16 KB/s."""
    async with open_pair(tmp_path, beat_s=beat_s) as pair:
        seconds = 3072 // kib_per_s if kib_per_s > 100 else 60
        count = seconds * kib_per_s // 4
        await pair.write(count, 4 * KIB)
        pair.link.rate = kib_per_s * KIB
        await pair.start_follower()
        losses = Losses(pair.follower)
        await pair.wait_count(count, within_s=2.0 * seconds)
        assert losses.count == 0


@pytest.mark.long
@pytest.mark.timeout(1000)
async def test_the_largest_transaction_at_the_slow_end(tmp_path: Path) -> None:
    """8 MiB at 16 KB/s: nine minutes in which the link lives."""
    async with open_pair(tmp_path, beat_s=1.0) as pair:
        await write_large(pair.owner, 8 * KIB * KIB - 64 * KIB)
        pair.link.rate = 16 * KIB
        await pair.start_follower()
        losses = Losses(pair.follower)
        await pair.wait_count(10, within_s=900.0)
        assert losses.count == 0
