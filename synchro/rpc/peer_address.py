"""Where a call comes from, of what gRPC writes of it: "ipv4:127.0.0.1:50404", "ipv6:%5B::1%5D:1"."""

from __future__ import annotations

from urllib.parse import unquote


def host_of(peer: str) -> str:
    """The IP address; "" if it is not known."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
