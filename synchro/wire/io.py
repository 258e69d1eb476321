"""What lies between the bytes of a socket and those of HTTP/2, without I/O of its own.

Plain TCP has nothing there. TLS (`tls.py`) is an `ssl.SSLObject` with two `ssl.MemoryBIO`: what it has to say
of itself comes out of `to_send`, so a connection needs neither another path nor a task for each write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class ByteLayer(Protocol):
    """One direction each: bytes that came, bytes that go."""

    @property
    def is_ready(self) -> bool:
        """Whether bytes of HTTP/2 may pass. False before a handshake has ended, and after a fault."""

    def shows_certificate_of(self, host: str) -> bool | None:
        """Whether the other end shows a certificate of this host, an address or a name; None: it shows
        none."""

    def received(self, data: bytes) -> bytes:
        """Take bytes of the socket, return those for HTTP/2. Raises `LayerFault`."""

    def to_send(self, data: bytes) -> bytes:
        """Take bytes of HTTP/2, return those for the socket; with b"": what the layer itself has to say.
        After a fault that is what the other end is told of it."""


class LayerFault(Exception):
    """The bytes of the peer are not those of this layer; the connection is over when `to_send(b"")` is
    written. Its text is for a person."""


class Plain:
    """TCP as it is."""

    is_ready = True

    def shows_certificate_of(self, host: str) -> bool | None:
        return None

    def received(self, data: bytes) -> bytes:
        return data

    def to_send(self, data: bytes) -> bytes:
        return data


PLAIN = Plain()

ServerLayer = Callable[[], ByteLayer]
"""The layer of one more connection that a port took."""
ClientLayer = Callable[[str], ByteLayer]
"""The layer of one more connection to this host, an address or a name without port."""


def plain_server() -> ByteLayer:
    return PLAIN


def plain_client(host: str) -> ByteLayer:
    return PLAIN
