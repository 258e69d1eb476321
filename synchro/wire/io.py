"""What lies between the bytes of a socket and those of HTTP/2, without I/O of its own.

Plain TCP has nothing there. TLS is an `ssl.SSLObject` with two `ssl.MemoryBIO`: what it has to say of itself
comes out of `to_send`, so a connection needs neither another path nor a task for each write.
"""

from __future__ import annotations

from typing import Protocol


class ByteLayer(Protocol):
    """One direction each: bytes that came, bytes that go."""

    def received(self, data: bytes) -> bytes:
        """Take bytes of the socket, return those for HTTP/2. Raises `LayerFault`."""

    def to_send(self, data: bytes) -> bytes:
        """Take bytes of HTTP/2, return those for the socket; with b"": what the layer itself has to say."""


class LayerFault(Exception):
    """The bytes of the peer are not those of this layer; the connection is over."""


class Plain:
    """TCP as it is."""

    def received(self, data: bytes) -> bytes:
        return data

    def to_send(self, data: bytes) -> bytes:
        return data


PLAIN = Plain()
