"""Running out of descriptors ends nothing, and connections cannot take those of files and peers."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
import trio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from synchro.config import FIRST_REQUEST_S
from synchro.ids import Lsn
from synchro.rpc.connections import CROWDED_SILENCE_S, Connections, parse_peer
from synchro.rpc.host import RpcCall, RpcHost, RpcServer, open_rpc_host
from synchro.storage.disk import RESERVE, RealDisk
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.journal import Journal
from synchro.storage.recovery import open_xlog
from synchro.storage.xlog import Ending
from tests.storage_world import SMALL, txn

# --- files --------------------------------------------------------------------------------------------


@pytest.fixture
def reserve() -> Iterator[None]:
    """What the test holds is given back."""
    yield
    RESERVE.hold(0)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """All that may be open is open. What other tests left behind is closed before, not meanwhile."""
    gc.collect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, highest + 10), hard))
    held: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def journal_in(directory: Path, disk: RealDisk) -> Journal:
    return Journal(
        disk,
        str(directory),
        instance_uuid="6f0d1e5e-0000-4000-8000-000000000001",
        new_salt=lambda: 7,
        limits=replace(SMALL, wal_max_size=1024),
    )


def lsns(disk: RealDisk, path: str) -> tuple[list[Lsn], Ending | None]:
    with open_xlog(disk, path) as reader:
        found = [one.lsn for _, _, txns in reader for one in txns]
        return found, reader.ending


def test_without_a_descriptor_rows_go_on_into_the_old_file(tmp_path: Path, reserve: None) -> None:
    """Nothing of the old file is touched before the new one is open: no end marker, no lost row."""
    RESERVE.hold(0)  # an instance that another test ran in this process may have left some
    disk = RealDisk()
    journal = journal_in(tmp_path, disk)
    journal.append([txn(1)], wall_time=0.0)
    with no_descriptors():
        journal.append([txn(2)], wall_time=1.0)
        journal.append([txn(3)], wall_time=1.5)
        assert not journal.rotate(1.7)
        assert journal.rotation_refused is not None
        assert journal.rotation_refused.errno == errno.EMFILE
        assert len(journal.files) == 1
    journal.append([txn(4)], wall_time=5.0)
    assert journal.rotation_refused is None
    assert len(journal.files) == 2
    assert lsns(disk, journal.files[0].path) == ([1, 2, 3], Ending.CLEAN)
    journal.close_clean(6.0)
    assert lsns(disk, journal.files[1].path)[0] == [4]


def test_the_reserve_is_for_files(tmp_path: Path, reserve: None) -> None:
    """A rotation, an identity and a look into the directory, while connections hold everything else."""
    disk = RealDisk()
    journal = journal_in(tmp_path, disk)
    identity = Identity("6f0d1e5e-0000-4000-8000-000000000001", "instance001")
    file = IdentityFile.create(disk, str(tmp_path), identity)
    journal.append([txn(1)], wall_time=0.0)
    assert RESERVE.hold(4) == 4
    with no_descriptors():
        for number in range(2, 12):
            journal.append([txn(number)], wall_time=float(number))
            file.save(replace(identity, replicaset_uuid=f"set {number}"))
            assert disk.listdir(str(tmp_path))
        assert journal.rotation_refused is None
        assert journal.rotations == 10
        file.close()
        found = IdentityFile.load(disk, str(tmp_path))
        assert found is not None and found.identity.replicaset_uuid == "set 11"
        found.close()
    journal.close_clean(12.0)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS, errno.ENOMEM])
def test_a_new_file_that_cannot_be_opened_is_no_damage(tmp_path: Path, error: int) -> None:
    class Refusing(RealDisk):
        is_refusing = False

        def create(self, path: str) -> Any:
            if self.is_refusing:
                raise OSError(error, os.strerror(error), path)
            return super().create(path)

        def open(self, path: str) -> Any:
            if self.is_refusing:
                raise OSError(error, os.strerror(error), path)
            return super().open(path)

    disk = Refusing()
    journal = journal_in(tmp_path, disk)
    for number in range(1, 5):
        journal.append([txn(number)], wall_time=float(number))
    assert journal.collect_garbage(journal.vclock) > 0  # one is kept as a spare
    disk.is_refusing = True
    for number in range(5, 9):
        journal.append([txn(number)], wall_time=float(2 * number))
    disk.is_refusing = False
    assert journal.rotate(30.0)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("spare")]
    assert lsns(disk, journal.files[-2].path) == ([4, 5, 6, 7, 8], Ending.CLEAN)
    journal.close_clean(31.0)


def test_a_spare_that_somebody_removed_is_not_missed_for_ever(tmp_path: Path) -> None:
    disk = RealDisk()
    journal = journal_in(tmp_path, disk)
    for number in range(1, 5):
        journal.append([txn(number)], wall_time=float(number))
    journal.collect_garbage(journal.vclock)
    for name in os.listdir(tmp_path):
        if name.startswith("spare"):
            (tmp_path / name).unlink()
    for number in range(5, 8):
        journal.append([txn(number)], wall_time=float(2 * number))
    assert journal.rotation_refused is None
    journal.close_clean(20.0)


def test_a_directory_made_anew_is_synced_anew(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    disk = RealDisk()
    for _ in range(2):
        directory.mkdir()
        IdentityFile.create(disk, str(directory), Identity("u", "instance001")).close()
        found = IdentityFile.load(disk, str(directory))
        assert found is not None
        found.close()
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


# --- connections -------------------------------------------------------------------------------------------


def test_addresses_as_grpc_writes_them() -> None:
    assert parse_peer("ipv4:127.0.0.1:50404") == ("127.0.0.1", 50404)
    assert parse_peer("ipv6:%5B::1%5D:50404") == ("::1", 50404)
    assert parse_peer("ipv6:[::ffff:10.0.0.1]:1") == ("10.0.0.1", 1)
    assert parse_peer("unix:/tmp/socket") is None
    assert parse_peer("") is None


class Port:
    """A listening port whose connections are watched."""

    def __init__(self, host: RpcHost, server: RpcServer, connections: Connections) -> None:
        self.host = host
        self.address = server.address
        self.port = int(server.address.rpartition(":")[2])
        self.connections = connections

    def silent(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port))

    def scan(self, now: float) -> None:
        self.connections.scan(self.port, now)


@asynccontextmanager
async def open_port(*, limit: int = 20, share: int = 2) -> AsyncIterator[Port]:
    async def echo(request: bytes, _: RpcCall) -> bytes:
        await trio.lowlevel.checkpoint()
        return request

    connections = Connections(limit=limit, share=share, log=structlog.get_logger())
    async with open_rpc_host() as host:
        methods: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(host.unary(echo))}

        def register(server: Any) -> None:
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
            health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)

        options = [("grpc.max_allowed_incoming_connections", limit)]
        server = await host.serve(
            "127.0.0.1:0", register, options=options, on_request=connections.note_request
        )
        yield Port(host, server, connections)


async def is_ended(sock: socket.socket) -> bool:
    """The other side has closed it, or does soon."""
    sock.setblocking(False)
    with trio.move_on_after(1):
        while True:
            try:
                if not sock.recv(4096):
                    return True
            except BlockingIOError:
                await trio.sleep(0.01)
            except ConnectionError:
                return True
    return False


async def test_a_connection_without_a_request_is_ended_and_others_are_not() -> None:
    async with (
        open_port() as port,
        port.host.channel(port.address) as one,
        port.host.channel(port.address) as two,
    ):
        assert await one.unary("/test.Test/Echo", b"x") == b"x"
        watch = two.server_stream(
            "/grpc.health.v1.Health/Watch",
            health_pb2.HealthCheckRequest(service=""),
            serializer=health_pb2.HealthCheckRequest.SerializeToString,
        )
        await anext(watch)  # a service that does not come from our own adapters
        silent = port.silent()
        half = port.silent()
        half.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")  # gRPC's own handshake is over
        await trio.sleep(0.2)
        port.scan(100.0)
        port.scan(100.0 + FIRST_REQUEST_S - 0.1)
        assert port.connections.ended == 0
        port.scan(100.0 + FIRST_REQUEST_S)
        assert port.connections.ended == 2
        assert await is_ended(silent)
        assert await is_ended(half)
        port.scan(1000.0)
        assert await one.unary("/test.Test/Echo", b"y") == b"y"
        with trio.move_on_after(0.2) as still_there:
            await anext(watch)
        assert still_there.cancelled_caught
        watch.close()


async def test_silent_connections_leave_room_for_who_speaks() -> None:
    async with open_port(limit=10, share=3) as port, port.host.channel(port.address) as client:
        crowd = [port.silent() for _ in range(30)]
        await trio.sleep(0.2)
        port.scan(0.0)
        port.scan(CROWDED_SILENCE_S)
        assert port.connections.ended == 3
        await trio.sleep(0.2)
        assert await client.unary("/test.Test/Echo", b"x") == b"x"
        for each in crowd:
            each.close()
