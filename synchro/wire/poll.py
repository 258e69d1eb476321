"""Which sockets can be read or written. A poll descriptor can itself be polled, so trio waits for it."""

from __future__ import annotations

import select
import selectors
import socket
import sys
from typing import Final, Protocol

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
FOUND_MAX: Final = 256
"""Sockets found in one look; the others come in the next, so nobody starves."""


class Polled(Protocol):
    """Who has a socket among those that are looked at."""

    @property
    def is_urgent(self) -> bool:
        """It goes ahead of all that were found before it and had no turn yet."""

    def on_ready(self, events: int) -> None:
        """The socket can be read or written (READ, WRITE), or could when it was looked at."""


if sys.platform == "linux":

    class Poll:
        """Sockets and who has them. `selectors` would make room for all of them in each look."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._polled: dict[int, Polled] = {}

        def fileno(self) -> int:
            return self._epoll.fileno()

        def register(self, sock: socket.socket, events: int, polled: Polled) -> None:
            self._epoll.register(sock.fileno(), _mask(events))
            self._polled[sock.fileno()] = polled

        def modify(self, sock: socket.socket, events: int) -> None:
            self._epoll.modify(sock.fileno(), _mask(events))

        def unregister(self, sock: socket.socket) -> None:
            del self._polled[sock.fileno()]
            self._epoll.unregister(sock.fileno())

        def look(self) -> list[tuple[Polled, int]]:
            """Who is ready now, and for what. An error counts as both: who reads or writes hears of it."""
            polled = self._polled
            return [
                (
                    polled[descriptor],
                    (READ if events & ~select.EPOLLOUT else 0) | (WRITE if events & ~select.EPOLLIN else 0),
                )
                for descriptor, events in self._epoll.poll(0, FOUND_MAX)
            ]

        def close(self) -> None:
            self._epoll.close()

    def _mask(events: int) -> int:
        return (select.EPOLLIN if events & READ else 0) | (select.EPOLLOUT if events & WRITE else 0)

else:

    class Poll:
        """Sockets and who has them."""

        def __init__(self) -> None:
            self._selector = selectors.DefaultSelector()

        def fileno(self) -> int:
            return self._selector.fileno()

        def register(self, sock: socket.socket, events: int, polled: Polled) -> None:
            self._selector.register(sock, events, polled)

        def modify(self, sock: socket.socket, events: int) -> None:
            self._selector.modify(sock, events, self._selector.get_key(sock).data)

        def unregister(self, sock: socket.socket) -> None:
            self._selector.unregister(sock)

        def look(self) -> list[tuple[Polled, int]]:
            """Who is ready now, and for what."""
            return [(key.data, events) for key, events in self._selector.select(0)]

        def close(self) -> None:
            self._selector.close()
