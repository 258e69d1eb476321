"""Addresses to listen on and to connect to: `HOST:PORT`, `[::1]:PORT`, or a bare port on 127.0.0.1."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from synchro.config import ClientAuth, Settings
from synchro.errors import ConfigError

WILDCARDS: Final = frozenset({"", "0.0.0.0", "::", "*"})


def without_login(uri: str) -> tuple[str, str | None]:
    """`user:password@host:port` -> host:port and user; the password is dropped, never kept or logged."""
    login, at, rest = uri.rpartition("@")
    return (rest, login.partition(":")[0]) if at else (uri, None)


def split(address: str) -> tuple[str, int]:
    """host:port, [v6]:port or a bare port; raises ValueError that says what is wrong."""
    if "@" in address:
        raise ValueError("an address to listen on has no login")
    if "?" in address or "://" in address or "/" in address:
        raise ValueError("expected HOST:PORT, without scheme and parameters")
    host, colon, port = address.rpartition(":")
    if not colon:
        host = "127.0.0.1"
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets: [::1]:3301")
    if not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
        raise ValueError(f"expected HOST:PORT with a port from 0 to 65535, got {address!r}")
    if not re.fullmatch(r"[A-Za-z0-9._:%*-]*", host):
        raise ValueError(f"{host!r} is not a host name or address")
    return host, int(port)


def join(host: str, port: int) -> str:
    host = "0.0.0.0" if host in ("", "*") else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_connectable(address: str) -> bool:
    host, port = split(address)
    return port != 0 and host not in WILDCARDS


def needs_insecure(settings: Settings) -> bool:
    """True if others than this host could connect, and nothing keeps strangers out or passwords secret: no
    TLS, or neither certificates of clients nor users in the configuration (`--insecure`)."""
    host = settings.listen.rpartition(":")[0].strip("[]")
    if not settings.listen or settings.listen.startswith("unix:") or host == "localhost":
        return False
    has_users = settings.credentials is not None and bool(settings.credentials.users)
    if settings.has_tls and (has_users or settings.client_auth is ClientAuth.REQUIRE):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def check_listen(settings: Settings, *, insecure: bool) -> None:
    """Refuse to listen where anybody could write, unless the operator said so. Raises `ConfigError`."""
    if needs_insecure(settings) and not insecure:
        raise ConfigError(
            f"grpc.listen is {settings.listen}, which other hosts can reach: without TLS they read what is "
            "sent, and without credentials or certificates of clients anybody who connects may read and "
            "write. The instance was not started.\n"
            "next:  listen on 127.0.0.1, or set grpc.tls, with credentials or client_auth: require, or add "
            "--insecure if the network itself is trusted",
            key="grpc.listen",
        )


def check_has_address(settings: Settings) -> None:
    """An instance that does not listen can be started only if it is cut off on purpose (`isolated`): nobody
    could follow it, write to it or read from it. Raises `ConfigError`."""
    is_isolated = not settings.peers and settings.read_only
    if not settings.listen and not is_isolated:
        raise ConfigError(
            f"{settings.instance_name} has no address to listen on, so nobody could reach it. "
            "It was not started.\n"
            "next:  give it grpc.listen, or isolated: true if it is to run cut off",
            key="grpc.listen",
            instance=settings.instance_name,
        )
