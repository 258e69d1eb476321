"""Ports for servers that are stopped and started again."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from typing import Final

PORTS: Final = range(10_000, 32_000)
"""Below those that the kernel gives to outgoing connections (32,768 and up), which would take the port of an
instance while it is stopped."""
_ports = itertools.cycle(PORTS)
for _ in range(os.getpid() * 101 % len(PORTS)):  # test processes side by side begin elsewhere
    next(_ports)


def free_ports(count: int) -> list[int]:
    """Ports that are free now, and that no other test of this process gets soon."""
    found: list[int] = []
    for port in itertools.islice(_ports, len(PORTS)):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no port is free")
