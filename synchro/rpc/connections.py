"""Who is connected: ends connections without a first request, and keeps room for those that will make one.

gRPC bounds the number of connections and the time of its own handshake, but not how long a connection may
be silent after it, and it does not know a peer from a client. The sockets are gRPC's: they are found in
/proc, and only ever shut down, which gRPC sees as the end of the connection.

    C1  A connection without a request is ended after `FIRST_REQUEST_S`, or after `CROWDED_SILENCE_S`, oldest
        first, while fewer than `share` of `limit` are free: a peer that connects speaks at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

import trio

from synchro.config import FIRST_REQUEST_S

SCAN_S: Final = 1.0
"""Seconds between looks at the sockets."""
CROWDED_SCAN_S: Final = 0.1
"""Seconds between looks at the sockets while fewer than the share are free."""
SHARE_OF_LOOP: Final = 0.05
"""The largest share of the loop's time that goes into looks, however many sockets there are."""
CROWDED_SILENCE_S: Final = 0.5
"""Seconds that a connection gets for its first request while fewer than the share are free."""
SOCKETS_DIR: Final = "/proc/self/fd"

Address = tuple[str, int]


def parse_peer(peer: str) -> Address | None:
    """Parse what gRPC calls "ipv4:127.0.0.1:50404" or "ipv6:%5B::1%5D:50404"; None: no internet address."""
    kind, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    return _plain(host.strip("[]")), int(port)


def _plain(host: str) -> str:
    return host.lower().removeprefix("::ffff:").partition("%")[0]


class Connections:
    """The incoming connections of one listening port."""

    def __init__(self, *, limit: int, share: int, log: Any) -> None:
        """limit: what gRPC was told; share: how many of them stay free of silent ones."""
        self.limit = limit
        self.share = share
        self.ended = 0
        """How many connections were ended without a request."""
        self._log = log
        self._spoken: set[str] = set()
        self._first_seen: dict[Address, float] = {}
        self._is_crowded = False

    def note_request(self, peer: str) -> None:
        """A request came from this address, as gRPC writes it."""
        self._spoken.add(peer)

    async def run(self, port: int) -> None:
        """Look at the sockets until cancelled."""
        while True:
            began = trio.current_time()
            self.scan(port, began)
            took = trio.current_time() - began
            await trio.sleep(max(CROWDED_SCAN_S if self._is_crowded else SCAN_S, took / SHARE_OF_LOOP))

    def scan(self, port: int, now: float) -> None:
        found = _incoming(port)
        spoken = {address for peer in self._spoken if (address := parse_peer(peer)) in found}
        self._spoken = {peer for peer in self._spoken if parse_peer(peer) in spoken}
        known = self._first_seen
        self._first_seen = {address: known.get(address, now) for address in found if address not in spoken}
        free = self.limit - len(found)
        for since, address in sorted((since, address) for address, since in self._first_seen.items()):
            if now - since < (FIRST_REQUEST_S if free >= self.share else CROWDED_SILENCE_S):
                break
            if _shut_down(found[address], port, address):
                self.ended += 1
                free += 1
        if (free < self.share) != self._is_crowded:
            self._is_crowded = free < self.share
            if self._is_crowded:
                self._log.warning(
                    "connections_scarce",
                    connections=len(found),
                    limit=self.limit,
                    message="further ones may be refused: raise RLIMIT_NOFILE or limits.connections_max",
                )


def _incoming(port: int) -> dict[Address, int]:
    """Remote address -> descriptor of each connection to this port. Empty on a system without /proc: gRPC's
    own bounds remain."""
    found: dict[Address, int] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(SOCKETS_DIR):
            descriptor = int(name)
            address = _looked_at(descriptor, lambda sock: _remote(sock, port))
            if address is not None:
                found[address] = descriptor
    return found


def _looked_at(descriptor: int, look: Callable[[socket.socket], Address | None]) -> Address | None:
    """Inspect a socket without owning it: its descriptor stays gRPC's, which may close it at any moment."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:  # no socket
        return None
    try:
        return look(sock)
    except OSError:  # not connected
        return None
    finally:
        sock.detach()


def _remote(sock: socket.socket, port: int) -> Address | None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.getsockname()[1] != port:
        return None
    host, remote_port = sock.getpeername()[:2]
    return _plain(host), remote_port


def _shut_down(descriptor: int, port: int, address: Address) -> bool:
    """Shut a socket down through a copy of its descriptor, which cannot become another socket in between."""
    try:
        copy = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return False
    with copy:
        try:
            if _remote(copy, port) != address:
                return False
            copy.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
    return True
