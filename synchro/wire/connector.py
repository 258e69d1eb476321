"""The calling side's connection to one address: made when it is wanted, and made anew when it is lost."""

from __future__ import annotations

import random
import socket
from typing import Final

import trio

from synchro.wire.backoff import Backoff
from synchro.wire.io import ClientLayer, plain_client
from synchro.wire.limits import WireLimits
from synchro.wire.link import Keepalive, Link
from synchro.wire.turns import Turns

CONNECT_S: Final = 5.0
"""Seconds for one attempt: all addresses of the name, and the first SETTINGS of the server."""
CLIENT_KEEPALIVE: Final = Keepalive(after_s=10.0, timeout_s=5.0)


class CannotConnect(Exception):
    """There is no connection, and nothing was sent. why: for a person."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Connector:
    """One connection at a time to `address`, host:port.

    N1  `link` is a connection on which calls may begin, or None.
    N2  At most one attempt goes on; after one that failed the next waits as `Backoff` says.
    """

    def __init__(
        self,
        turns: Turns,
        nursery: trio.Nursery,
        address: str,
        *,
        limits: WireLimits,
        keepalive: Keepalive = CLIENT_KEEPALIVE,
        connect_s: float | None = None,
        layer: ClientLayer = plain_client,
    ) -> None:
        """connect_s: seconds for one attempt; None: `CONNECT_S`. layer: what lies between the socket and
        HTTP/2 of each connection."""
        self.address = address
        self.link: Link | None = None
        self._turns = turns
        self._nursery = nursery
        self._limits = limits
        self._keepalive = keepalive
        self._connect_s = CONNECT_S if connect_s is None else connect_s
        self._layer = layer
        self._links: set[Link] = set()  # all that are not closed: one that drains may be among them
        self._attempt: trio.Event | None = None
        self._scope = trio.CancelScope()  # of the attempt
        self._why = ""
        self._backoff = Backoff(random.random)
        self._is_closed = False

    def usable(self) -> Link | None:
        """The connection, if a call may begin on it."""
        link = self.link
        if link is not None and (link.is_over or link.h2.peer_is_going_away):
            link = self.link = None
        return link

    async def get(self, *, wait_for_ready: bool) -> Link:
        """Return a connection. Raises `CannotConnect` if none can be made, unless the caller waits for it."""
        while (link := self.usable()) is None:
            if self._is_closed:
                raise CannotConnect("the channel is closed")
            now = trio.current_time()
            if now < self._backoff.retry_at and not wait_for_ready:
                raise CannotConnect(self._why)
            if self._attempt is None:
                self._attempt = trio.Event()
                self._nursery.start_soon(self._connect, self._attempt)
            attempt = self._attempt
            await attempt.wait()
            if not wait_for_ready and self.usable() is None and not self._is_closed:
                raise CannotConnect(self._why)
        return link

    def give_up(self, link: Link) -> None:
        """Begin no further call on this connection; those that go on may end."""
        link.h2.goaway()
        link.mark()
        if self.link is link:
            self.link = None

    def close(self) -> None:
        """Close the connection; calls on it are lost."""
        self._is_closed = True
        self._scope.cancel()
        for link in list(self._links):
            link.h2.goaway()
            link.write()
            link.close("the channel was closed")

    def check(self) -> None:
        """Assert Connector.N1 and Connector.N2, for tests."""
        assert self.link is None or self.link in self._links
        assert self.link is None or self._attempt is None or self.usable() is None

    async def _connect(self, attempt: trio.Event) -> None:
        """One attempt, when the time for it has come."""
        try:
            with trio.CancelScope() as self._scope:
                if self._is_closed:
                    return
                await trio.sleep_until(self._backoff.retry_at)
                await self._try()
        finally:
            self._attempt = None
            attempt.set()

    async def _try(self) -> None:
        why, link = "", None
        with trio.move_on_after(self._connect_s) as limit:
            try:
                link = await self._open()
            # ValueError: of a name that is none; RuntimeError: no thread can be begun that looks it up
            except (OSError, ValueError, RuntimeError) as error:
                why = _reason(error)
        if limit.cancelled_caught:
            why = "connection timed out"
        if link is not None and not link.is_over and not link.h2.peer_is_going_away:
            self.link = link
            self._backoff.succeeded()
            return
        if link is not None:
            why = link.fault_heard or link.why or "the other end takes no calls"
            link.mark()  # it ends when it has said so
        self._why = f"failed to connect to {self.address}: {why}"
        self._backoff.failed(trio.current_time())

    async def _open(self) -> Link:
        """Connect to the first address of the name that answers, and wait for the server's SETTINGS."""
        name, _, port = self.address.rpartition(":")
        host = name.strip("[]")
        layer = self._layer(host)
        stream = await trio.open_tcp_stream(host, int(port))
        link = Link(
            self._turns,
            socket.socket(fileno=stream.socket.detach()),
            is_client=True,
            limits=self._limits,
            keepalive=self._keepalive,
            on_closed=self._on_closed,
            layer=layer,
        )
        self._links.add(link)
        known = trio.Event()
        link.on_settled = known.set
        link.on_over = known.set
        try:
            await known.wait()
        except trio.Cancelled:
            link.close("no answer")
            raise
        return link

    def _on_closed(self, link: Link) -> None:
        self._links.discard(link)
        if self.link is link:
            self.link = None


def _reason(error: BaseException) -> str:
    """The words of the system for the first address that failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return _reason(error.exceptions[0])
    return (getattr(error, "strerror", None) or str(error)).lower()
