"""A server of HTTP/2 on blocking sockets and threads, for any client. Tests say what befalls a call."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ConnectionFault
from synchro.wire.headers import HeaderList
from synchro.wire.limits import WireLimits
from synchro.wire.streams import Http2Stream, Nobody

Act: TypeAlias = "Callable[[WireConnection, Http2Stream], None]"


class WireServer:
    """act: is told of each call when it has begun. `calls`: how many that were."""

    def __init__(self, act: Act, *, is_mute: bool = False) -> None:
        self.act = act
        self.is_mute = is_mute
        self.calls = 0
        self.connections: list[WireConnection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = WireConnection(self, sock)
            self.connections.append(connection)
            connection.thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for connection in self.connections:
            connection.close()
            connection.thread.join()


class WireConnection(Nobody):
    """One connection, in a thread of its own. It is also the owner of its calls."""

    def __init__(self, server: WireServer, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.messages: list[bytes] = []
        self.h2 = Http2Connection(
            is_client=False, limits=WireLimits(), clock=time.monotonic, on_stream=self._on_stream
        )
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            while True:
                if not self.server.is_mute:
                    self.flush()
                data = self.sock.recv(65536)
                if not data:
                    break
                if not self.server.is_mute:
                    self.h2.receive(data)
        except (OSError, ConnectionFault):
            pass
        self.sock.close()

    def flush(self) -> None:
        while data := self.h2.take():
            self.sock.sendall(data)

    def close(self) -> None:
        """Write what there is to say, and close."""
        try:
            if not self.server.is_mute:
                self.flush()
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _on_stream(self, stream: Http2Stream, headers: HeaderList) -> None:
        stream.owner = self
        self.server.calls += 1
        self.server.act(self, stream)

    def on_message(self, data: bytes) -> None:
        self.messages.append(data)


@contextmanager
def wire_server(act: Act, *, is_mute: bool = False) -> Iterator[WireServer]:
    server = WireServer(act, is_mute=is_mute)
    try:
        yield server
    finally:
        server.close()
