"""A server that follows a script, on the `h2` library: what a server may do to a call unseen."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, Self

import h2.config
import h2.connection
import h2.errors
import h2.events

HEAD: Final = [(":status", "200"), ("content-type", "application/grpc")]
OK: Final = [("grpc-status", "0")]
NEVER_LOOKED_AT: Final = 0


class Act(Enum):
    """What becomes of a call."""

    ANSWER = auto()
    REFUSE = auto()
    """RST_STREAM with REFUSED_STREAM."""
    DISOWN = auto()
    """GOAWAY that says that nobody has looked at it."""
    ANSWER_AND_LEAVE = auto()
    """GOAWAY that says that it was looked at, and then the answer."""
    TAKE_AND_LOSE = auto()
    """GOAWAY that says that it was looked at, and then the end of the connection."""
    LOSE = auto()
    """The end of the connection, and nothing said."""


class ScriptedServer:
    """Acts on the first call as `first` says, and answers all others with an empty message."""

    def __init__(self, first: Act) -> None:
        self.calls = 0
        self.connections = 0
        self._first = first
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._sockets.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _next_act(self) -> Act:
        with self._lock:
            self.calls += 1
            return self._first if self.calls == 1 else Act.ANSWER

    def _serve(self, sock: socket.socket) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        with contextlib.suppress(OSError):
            sock.sendall(connection.data_to_send())
            while data := sock.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.StreamEnded) and not self._act(
                        connection, int(event.stream_id or 0), sock.sendall
                    ):
                        sock.shutdown(socket.SHUT_RDWR)
                        return
                sock.sendall(connection.data_to_send())

    def _act(self, connection: Any, stream_id: int, send: Callable[[bytes], None]) -> bool:
        """Whether the connection goes on."""

        def leave(last_id: int) -> None:
            """Not by h2's own, behind which it takes nothing more."""
            payload = last_id.to_bytes(4, "big") + bytes(4)
            send(connection.data_to_send() + b"\0\0\x08\x07\0\0\0\0\0" + payload)

        match self._next_act():
            case Act.REFUSE:
                connection.reset_stream(stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            case Act.DISOWN:
                leave(NEVER_LOOKED_AT)
            case Act.TAKE_AND_LOSE:
                leave(stream_id)
                return False
            case Act.LOSE:
                return False
            case act:
                if act is Act.ANSWER_AND_LEAVE:
                    leave(stream_id)
                connection.send_headers(stream_id, HEAD)
                connection.send_data(stream_id, bytes(5))
                connection.send_headers(stream_id, OK, end_stream=True)
        return True
