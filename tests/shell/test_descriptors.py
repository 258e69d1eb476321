"""Running out of descriptors ends nothing, and connections cannot take those of files and peers."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from synchro import logs
from synchro.ids import Lsn
from synchro.rpc.host import RpcCall, RpcHost, RpcServer, open_rpc_host
from synchro.rpc.methods import Registrar
from synchro.storage.disk import RESERVE, RealDisk
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.journal import Journal
from synchro.storage.recovery import open_xlog
from synchro.storage.xlog import Ending
from synchro.wire.admission import CROWDED_SILENCE_S, PortLimits
from synchro.wire.limits import WireLimits
from synchro.wire.listener import PAUSE_S, Listener
from tests.shell.rpc_probe import until
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


async def echo(request: bytes, _: RpcCall) -> bytes:
    await trio.lowlevel.checkpoint()
    return request


async def silence(request: bytes, _: RpcCall) -> AsyncIterator[bytes]:
    yield request
    await trio.sleep_forever()


class Port:
    """A listening port, and sockets to it."""

    def __init__(self, host: RpcHost, server: RpcServer) -> None:
        self.host = host
        self.server = server
        self.address = server.address

    def silent(self) -> socket.socket:
        name, port = self.address.rsplit(":", 1)
        return socket.create_connection((name, int(port)))


@asynccontextmanager
async def open_port(**limits: Any) -> AsyncIterator[Port]:
    async with open_rpc_host() as host:

        def register(server: Registrar) -> None:
            server.add_method("/test.Test/Echo", host.unary(echo))
            server.add_method("/test.Test/Watch", host.server_stream(silence))

        yield Port(host, await host.serve("127.0.0.1:0", register, limits=PortLimits(**limits)))


async def is_ended(sock: socket.socket) -> bool:
    """The other side has closed it, or does soon."""
    sock.setblocking(False)
    with trio.move_on_after(12):
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
    """Admission.C1: a preface is no request; one that has made one may be silent for ever."""
    async with (
        open_port(first_request_s=1.8, first_bytes_s=0.3) as port,
        port.host.channel(port.address) as one,
        port.host.channel(port.address) as two,
    ):
        assert await one.unary("/test.Test/Echo", b"x") == b"x"
        watch = two.server_stream("/test.Test/Watch", b"x")
        await anext(watch)
        silent = port.silent()
        half = port.silent()
        half.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        began = trio.current_time()
        assert await is_ended(silent)
        assert 0.25 < trio.current_time() - began < 1.75
        assert await is_ended(half)
        assert trio.current_time() - began > 1.75
        assert port.server.ended == 2
        assert await one.unary("/test.Test/Echo", b"y") == b"y"
        with trio.move_on_after(0.2) as still_there:
            await anext(watch)
        assert still_there.cancelled_caught
        watch.close()


async def test_silent_connections_leave_room_for_who_speaks() -> None:
    """Admission.C1: as soon as few are free, those that say nothing are ended, oldest first."""
    async with open_port(connections_max=10, share=3) as port, port.host.channel(port.address) as client:
        crowd = [port.silent() for _ in range(30)]
        await trio.sleep(CROWDED_SILENCE_S + 0.3)
        await until(lambda: port.server.ended == 3)
        assert await client.unary("/test.Test/Echo", b"x") == b"x"
        for each in crowd:
            each.close()


async def test_the_log_says_when_connections_become_few() -> None:
    """Also of connections that all are used."""
    records: list[str] = []

    class Log:
        def warning(self, event: str, **facts: Any) -> None:
            records.append(event)

    async with open_rpc_host() as host:
        server = await host.serve(
            "127.0.0.1:0",
            lambda server: server.add_method("/test.Test/Echo", host.unary(echo)),
            limits=PortLimits(connections_max=4, share=2),
            log=Log(),
        )
        async with host.channel(server.address) as one, host.channel(server.address) as two:
            for channel in (one, two):
                assert await channel.unary("/test.Test/Echo", b"x") == b"x"
            assert records == []
            async with host.channel(server.address) as three:
                assert await three.unary("/test.Test/Echo", b"x") == b"x"
                assert records == ["connections_scarce"]


async def test_one_address_has_its_share_of_the_connections() -> None:
    """Off by default; what is refused is closed at once, and others go on."""
    async with open_port(per_address_max=3) as port, port.host.channel(port.address) as client:
        assert await client.unary("/test.Test/Echo", b"x") == b"x"
        taken = [port.silent() for _ in range(2)]
        refused = port.silent()
        assert await is_ended(refused)
        assert await client.unary("/test.Test/Echo", b"x") == b"x"
        taken[0].close()
        await trio.sleep(0.1)
        again = port.silent()
        with trio.move_on_after(0.2):
            assert not await is_ended(again)
        for each in (*taken, refused, again):
            each.close()


async def test_without_a_descriptor_for_a_connection_the_server_waits_and_does_not_spin() -> None:
    async with open_port() as port, port.host.channel(port.address) as client:
        assert await client.unary("/test.Test/Echo", b"x") == b"x"
        waiting = socket.socket()
        with no_descriptors():
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                name, number = port.address.rsplit(":", 1)
                waiting.connect((name, int(number)))
            before = time.thread_time()
            await trio.sleep(0.5)
            assert time.thread_time() - before < 0.1
            assert await client.unary("/test.Test/Echo", b"y") == b"y"
        with trio.fail_after(15):
            while len(port.server.listener.links) < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        waiting.close()


class WithoutRoom(socket.socket):
    """A listening socket for whose connections there is no descriptor."""

    def accept(self) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_port_of_several_addresses_waits_once_for_a_descriptor() -> None:
    """When there is no descriptor, connections wait at both sockets: one look finds both."""
    async with open_rpc_host() as host:
        sockets: list[socket.socket] = []
        for _ in range(2):
            sock = WithoutRoom(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            sockets.append(sock)
        listener = Listener(
            host.turns,
            sockets,
            limits=PortLimits(),
            wire_limits=WireLimits(),
            on_stream=lambda *_: None,
            log=logs.get_logger("test"),
        )
        clients = [socket.create_connection(sock.getsockname()) for sock in sockets]
        await trio.sleep(PAUSE_S + 0.1)
        for client in clients:
            client.close()
        listener.stop_listening()
