"""A TCP proxy that lets through so many bytes a second, one budget for each direction of all connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

SOCKET_BYTES = 16 * 1024
"""Asked for as the size of the proxy's own socket buffers: what a slow link does not hold either."""


class SlowLink:
    """rate: bytes per second, may be changed at any time; None: as fast as it goes."""

    def __init__(self, target: str, rate: float | None = None, delay_s: float = 0.0) -> None:
        self.target = target
        self.rate = rate
        self.delay_s = delay_s
        self.address = ""
        self.passed = [0, 0]
        """Bytes to the target, and from it."""
        self._free_at = [0.0, 0.0]

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, way: int) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes]](10_000 if self.delay_s else 0)

        async def deliver() -> None:
            async for due, data in receive:
                await trio.sleep_until(due)
                await sink.send_all(data)
            await sink.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            async with send:
                async for data in _chunks(source, self):
                    if self.rate is not None:
                        now = trio.current_time()
                        begin = max(now, self._free_at[way])
                        self._free_at[way] = begin + len(data) / self.rate
                        await trio.sleep_until(self._free_at[way])
                    self.passed[way] += len(data)
                    await send.send((trio.current_time() + self.delay_s, data))

    async def _serve(self, client: trio.SocketStream) -> None:
        host, port = self.target.rsplit(":", 1)
        try:
            server = await trio.open_tcp_stream(host, int(port))
            for stream in (client, server):
                stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, SOCKET_BYTES)
                stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, SOCKET_BYTES)
            async with server, client, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, client, server, 0)
                nursery.start_soon(self._pump, server, client, 1)
        except* OSError:
            pass  # the end of a connection is a thing that links do
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def _chunks(source: trio.SocketStream, link: SlowLink) -> AsyncIterator[bytes]:
    while True:
        size = 65536 if link.rate is None else max(256, min(65536, int(link.rate / 50)))
        data = await source.receive_some(size)
        if not data:
            return
        yield data


@asynccontextmanager
async def slow_link(
    target: str, rate: float | None = None, *, delay_s: float = 0.0, port: int = 0
) -> AsyncIterator[SlowLink]:
    """target: host:port. delay_s: of each byte, one way."""
    link = SlowLink(target, rate, delay_s)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        link.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, link._serve, listeners)
        yield link
        nursery.cancel_scope.cancel()
