"""The asynchronous client: `synchro.aio.connect`, for asyncio and for trio."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from synchro.client.aio import AsyncClient, AsyncSpace
from synchro.client.blocking import DEFAULT_TIMEOUT_S
from synchro.client.routes import parse_endpoints

__all__ = ["AsyncClient", "AsyncSpace", "connect"]


def connect(
    endpoints: str | Iterable[str],
    *,
    user: str | None = None,
    password: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    **options: Any,
) -> Any:
    """As `synchro.connect`, inside a running loop. Use it with `async with`.

    In a trio program the client runs on an asyncio loop in a thread of its own; see `synchro.client.on_trio`.
    """
    if _is_trio():
        from synchro.client.on_trio import TrioClient

        return TrioClient(parse_endpoints(endpoints), timeout=timeout, **options)
    return AsyncClient(parse_endpoints(endpoints), timeout=timeout, **options)


def _is_trio() -> bool:
    import sys

    if "trio" not in sys.modules:
        return False
    import trio

    return trio.lowlevel.in_trio_run()
