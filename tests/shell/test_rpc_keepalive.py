"""Links over which nothing is said stay, and the options of gRPC that see to it exist."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from synchro.config.options import BY_KEY
from synchro.rpc.host import RpcCall, open_rpc_host
from synchro.wire.connector import CLIENT_KEEPALIVE
from synchro.wire.link import Keepalive


def test_every_option_exists_in_the_library() -> None:
    """gRPC ignores an option that it does not have, in silence. Keys of our files begin like its options."""
    library = Path(cygrpc.__file__).read_bytes()
    root = Path(__file__).resolve().parents[2]
    used = {
        name.encode()
        for folder in ("synchro", "tests", "benchmarks")
        for path in (root / folder).rglob("*.py")
        if path.parent.name != "config"
        for name in re.findall(r'\("(grpc\.[a-z0-9_.]+)", ', path.read_text(encoding="utf-8"))
        if "_cython" not in name and not any(key.startswith(name) for key in BY_KEY)
    }
    assert {b"grpc.keepalive_time_ms", b"grpc.http2.max_ping_strikes"} <= used
    assert [name for name in sorted(used) if name + b"\0" not in library] == []
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms\0" not in library  # what was believed in once


@asynccontextmanager
async def watching(keepalive: Keepalive = CLIENT_KEEPALIVE) -> AsyncIterator[Any]:
    """A client that watches something that never changes; its replies after the first."""

    async def silent(request: Any, call: RpcCall) -> AsyncIterator[Any]:
        yield request
        await trio.sleep_forever()

    async with open_rpc_host() as host:
        server = await host.serve(
            "127.0.0.1:0", lambda s: s.add_method("/test.Quiet/Watch", host.server_stream(silent))
        )
        async with (
            host.channel(server.address, keepalive=keepalive) as channel,
            channel.server_stream("/test.Quiet/Watch", b"x") as replies,
        ):
            assert await anext(replies) == b"x"
            yield replies


async def test_a_quiet_link_survives_many_pings() -> None:
    """Five a second, each answered, on an otherwise silent link."""
    async with watching(Keepalive(after_s=0.2, timeout_s=5.0)) as replies:
        with trio.move_on_after(3) as still_there:
            await anext(replies)
        assert still_there.cancelled_caught


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_watching_client_lives_two_minutes() -> None:
    async with watching() as replies:
        with trio.move_on_after(125) as still_there:
            await anext(replies)
        assert still_there.cancelled_caught
