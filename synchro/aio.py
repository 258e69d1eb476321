"""The asynchronous client: `synchro.aio.connect`, for asyncio and for trio."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Literal

# Before gRPC is imported, and unless the user chose; see synchro.client.forks and synchro.client.channel.
if "grpc" not in sys.modules and (
    "GRPC_ENABLE_FORK_SUPPORT" not in os.environ or "GRPC_FORKS_CHOSEN_BY" in os.environ
):
    os.environ.update({"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_FORKS_CHOSEN_BY": str(os.getpid())})

from synchro.client.aio import AsyncClient, AsyncOpenTransaction, AsyncSpace, AsyncUsers
from synchro.client.channel import security_of
from synchro.client.login import login_of
from synchro.client.plans import DEFAULT_TIMEOUT_S, ClientOptions
from synchro.client.routes import addresses_of, parse_uris
from synchro.secret import Secret

__all__ = ["AsyncClient", "AsyncOpenTransaction", "AsyncSpace", "AsyncUsers", "connect"]


def connect(
    endpoints: str | Iterable[str],
    *,
    user: str | None = None,
    password: str | Secret | None = None,
    password_file: str | None = None,
    cacert: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    read_from: Literal["leader", "any"] = "leader",
    read_your_writes: bool = True,
    follow_leader: bool = True,
    wait_for_connection: bool = True,
) -> AsyncClient:
    """As `synchro.connect`, inside a running loop. Use it with `async with`.

    In a trio program everything goes on in trio's thread; see `synchro.client.on_trio`.
    """
    uris = parse_uris(endpoints)
    options = ClientOptions(
        timeout,
        read_from,
        read_your_writes,
        follow_leader,
        wait_for_connection,
        security_of(cacert, cert, key, uris=uris),
        login_of(uris, user, password, password_file),
    )
    if _is_trio():
        from synchro.client.on_trio import TrioClient

        return TrioClient(addresses_of(uris), options)
    return AsyncClient(addresses_of(uris), options)


def _is_trio() -> bool:
    if "trio" not in sys.modules:
        return False
    import trio

    return trio.lowlevel.in_trio_run()
