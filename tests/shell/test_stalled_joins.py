"""Joins that take nothing: few are served at a time, they share what they hold, and they end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
import trio

from synchro.config import Limits, PeerAddress, Settings
from synchro.errors import Loading
from synchro.instance import events as ev
from synchro.process.supervise import run_instance
from synchro.rpc import status
from synchro.rpc.generated.peer.v1 import replication_pb2 as pb
from synchro.rpc.host import RpcHost, open_rpc_host
from synchro.rpc.peer_transport import SERVICE, open_grpc_transport
from synchro.server.face import Face
from synchro.server.join import serve_join
from synchro.server.peer_messages import JoinEnd, JoinRequest, JoinStart
from synchro.wire.failure import CallFailed
from tests.shell.memory_set import create_space, open_set, put, until, write
from tests.shell.test_grpc_set import free_addresses

SPACE = 600


@asynccontextmanager
async def open_one(directory: Path, rows: int) -> AsyncIterator[tuple[RpcHost, Face]]:
    """An instance with `rows` tuples of 1 KiB."""
    (address,) = free_addresses(1)
    settings = Settings(
        listen=address,
        peers=(PeerAddress("instance001", address),),
        wal_dir=str(directory),
        snapshot_dir=str(directory),
        replication_timeout_s=0.25,
        limits=Limits(join_calls_max=3),
    )
    stop = trio.Event()
    async with open_rpc_host() as host, trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[Face]) -> None:
            await run_instance(
                settings, host=host, log=structlog.get_logger(), stop=stop, task_status=task_status
            )

        face: Face = await nursery.start(run)
        await until(lambda: face.node.is_ready)
        await create_space(face, SPACE, is_sync=False)
        for first in range(0, rows, 500):
            ops = [put(key, "x" * 1024, space_id=SPACE) for key in range(first, min(first + 500, rows))]
            assert isinstance(await write(face, *ops), ev.Committed)
        yield host, face
        stop.set()


async def stalled_join(host: RpcHost, address: str, refused: list[str], *, takes_parts: bool) -> None:
    """Asks, and reads nothing until the call ends."""
    request = pb.JoinRequest(
        protocol_version=1, instance_uuid=str(uuid4()), instance_name="stalled", takes_parts=takes_parts
    )
    async with host.channel(address) as channel:
        try:
            async with channel.duplex(
                SERVICE + "Join",
                serializer=pb.JoinRequest.SerializeToString,
                deserializer=pb.JoinResponse.FromString,
                in_bytes_max=1,
            ) as stream:
                stream.send_nowait(request)
                await trio.sleep_forever()
        except CallFailed as error:
            known = status.from_rpc_error(error)
            refused.append(error.message if known is None else known.reason)


@pytest.mark.parametrize("takes_parts", [True, False])
async def test_stalled_joins_are_few_share_one_view_and_end(tmp_path: Path, takes_parts: bool) -> None:
    """200 of them held 1.6 GB. A joiner that reads gets its turn; nobody who took nothing is registered."""
    async with open_one(tmp_path, 8_000) as (host, face), trio.open_nursery() as nursery:
        assert face.node.listen is not None
        refused: list[str] = []
        for _ in range(40):
            nursery.start_soon(
                lambda: stalled_join(host, face.node.listen or "", refused, takes_parts=takes_parts)
            )
        limit = 3
        most = 0
        while len(refused) < 30:
            most = max(most, len(face.links.joins))
            assert face.links.join_view is None or face.links.join_view.users <= limit
            await trio.sleep(0.005)
        assert most == limit
        assert set(refused) == {Loading.reason}
        with trio.fail_after(3 * face.node.settings.death_timeout_s):
            while face.links.joins:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert face.links.join_view is None
        assert len(face.node.core.memtx.catalog.members()) == 1
        if not takes_parts:  # those that stalled are still there for gRPC, and hold a message each
            await stalled_join(host, face.node.listen, refused, takes_parts=False)
            assert refused[-1] == Loading.reason
            assert not face.links.joins
        async with (
            open_grpc_transport(host, "joiner") as transport,
            transport.join(face.node.listen, JoinRequest(str(uuid4()), "joiner")) as stream,
        ):
            while not isinstance(await stream.receive(), JoinEnd):
                pass
        nursery.cancel_scope.cancel()


async def test_joins_that_share_a_view_get_all_that_was_written_since(tmp_path: Path) -> None:
    """The later one gets the older view, and the rest from the log, which is kept for it."""
    async with open_set(tmp_path, size=1, checkpoint_count=1) as replicas:
        face = await replicas.start(1)
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face)
        first = serve_join(face.node, face.links, JoinRequest(str(uuid4()), "first"))
        start = await anext(first)
        assert isinstance(start, JoinStart)
        for key in range(3):
            assert isinstance(await write(face, put(key)), ev.Committed)
            await face.checkpoint()
        second = serve_join(face.node, face.links, JoinRequest(str(uuid4()), "second"))
        again = await anext(second)
        assert isinstance(again, JoinStart)
        assert again.vclock == start.vclock
        await first.aclose()
        await face.checkpoint()
        items = [item async for item in second]
        end = items[-1]
        assert isinstance(end, JoinEnd)
        assert end.vclock.covers(face.node.core.vclock)
        assert not face.links.joins
        assert face.links.join_view is None


async def test_a_view_that_is_too_old_is_not_shared(tmp_path: Path) -> None:
    async with open_set(tmp_path, size=1) as replicas:
        face = await replicas.start(1, limits=Limits(join_view_age_s=0.0))
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        await create_space(face)
        first = serve_join(face.node, face.links, JoinRequest(str(uuid4()), "first"))
        start = await anext(first)
        assert isinstance(await write(face, put(1)), ev.Committed)
        second = serve_join(face.node, face.links, JoinRequest(str(uuid4()), "second"))
        later = await anext(second)
        assert isinstance(start, JoinStart)
        assert isinstance(later, JoinStart)
        assert later.vclock != start.vclock
        await first.aclose()
        assert face.links.join_view is not None
        await second.aclose()
        assert face.links.join_view is None
        assert not face.links.joins


@pytest.mark.effect_of("limits.join_calls_max")
async def test_joiners_of_an_older_version_are_counted_by_the_limit_of_now(tmp_path: Path) -> None:
    async with open_one(tmp_path, 500) as (host, face), trio.open_nursery() as nursery:
        refused: list[str] = []

        def begin() -> None:
            nursery.start_soon(lambda: stalled_join(host, face.node.listen or "", refused, takes_parts=False))

        def limit(number: int) -> None:
            settings = face.node.settings
            limits = replace(settings.limits, join_calls_max=number)
            face.node.change_settings(replace(settings, limits=limits))

        limit(1)
        begin()
        await until(lambda: len(face.links.joins) == 1)
        begin()
        await until(lambda: refused == [Loading.reason])
        limit(2)
        begin()
        await until(lambda: len(face.links.joins) == 2)
        nursery.cancel_scope.cancel()
