"""What a call leaves behind goes without the garbage collector, which an instance runs rarely: once 50,000
objects stay (server/garbage.py). A transaction of 7 MiB is few objects, and some hundred of them were the
memory of the machine."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
import trio

from synchro.config import Limits
from synchro.rpc.calls import RpcCall
from synchro.rpc.generated.v1.data_pb2 import ExecuteRequest
from synchro.rpc.host import open_rpc_host
from synchro.wire import frames
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import request_block
from synchro.wire.streams import Http2Stream
from tests.shell.rpc_probe import Probe
from tests.shell.services_world import Client, insert, serving, with_bands
from tests.shell.stranger import Stranger, frame, message, rst

TIMES: Final = 20
TEXT: Final = "x" * 300_000


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left() -> Counter[str]:
    """Calls of the server that are still in memory, their streams, and their requests."""
    found = Counter[str]()
    for one in gc.get_objects():
        if isinstance(one, RpcCall | ExecuteRequest) or (
            isinstance(one, Http2Stream) and not one._connection.is_client
        ):
            found[type(one).__name__] += 1
    return found


async def call(client: Client, name: str, **fields: Any) -> None:
    """The request is made and gone before it is sent: what is found is the server's."""
    path, request, _ = client.path(name)
    data = request(**fields).SerializeToString()
    with suppress(CallFailed):
        await client.channel.unary(path, data, serializer=bytes, deserializer=bytes, timeout=10)


async def write(client: Client, key: int) -> None:
    await call(client, "Execute", ops=[insert(key, "x")])


async def write_much(client: Client, key: int) -> None:
    await call(client, "Execute", ops=[insert(10 * key + n, TEXT) for n in range(2)])


async def is_refused(client: Client, key: int) -> None:
    await call(client, "Execute", ops=[insert(key, "x", space="none")])


async def is_refused_by_the_core(client: Client, key: int) -> None:
    await call(client, "Execute", ops=[insert(1, "x")])


async def is_too_much(client: Client, key: int) -> None:
    await call(client, "Execute", ops=[insert(10 * key + n, TEXT) for n in range(4)])


async def read(client: Client, key: int) -> None:
    await call(client, "Select", space="bands")


async def look(client: Client, key: int) -> None:
    await call(client, "GetInfo")


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "use", [write, write_much, is_refused, is_refused_by_the_core, is_too_much, read, look]
)
async def test_calls_leave_no_garbage(use: Callable[[Client, int], Awaitable[None]]) -> None:
    async with serving(Limits(txn_bytes_max=1_000_000)) as (_, client):
        await with_bands(client, is_sync=True)
        before = left()
        for key in range(TIMES):
            await use(client, key)
        await trio.sleep(0.1)
        more = left() - before
        assert all(count <= TIMES // 4 for count in more.values()), more


@pytest.mark.usefixtures("no_collector")
async def test_requests_that_end_in_the_middle_leave_no_garbage() -> None:
    """A message that is complete, in a call that is reset before it is."""
    async with open_rpc_host() as host:
        server = await host.serve("127.0.0.1:0", Probe(host).register)
        before = left()
        with Stranger(server.address) as stranger:
            stranger.hello()
            for number in range(1, 2 * TIMES, 2):
                block = request_block("/test.Test/Echo", "localhost")
                stranger.say(frame(frames.HEADERS, frames.END_HEADERS, number, block))
                stranger.say(message(number, bytes(10_000), end=False), rst(number))
            assert await trio.to_thread.run_sync(stranger.is_served)
            more = left() - before
            assert not more, more
