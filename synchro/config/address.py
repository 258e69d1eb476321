"""Addresses to listen on and to connect to: `HOST:PORT`, `[::1]:PORT`, or a bare port on 127.0.0.1."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import unquote

from synchro.config import ClientAuth, Settings
from synchro.errors import ConfigError
from synchro.secret import Secret

WILDCARDS: Final = frozenset({"", "0.0.0.0", "::", "*"})
_NO_PARAMS: Final[Mapping[str, str]] = MappingProxyType({})


class Uri(NamedTuple):
    """`user:password@host:port?key=value&key=value` in its parts [S-10]. Only what stands between `@` and `?`
    is ever shown."""

    address: str
    """As it stands there; see `split`."""
    user: str = ""
    """"": no login is named."""
    password: Secret | None = None
    """None: none is named, as in `user@host:port`."""
    params: Mapping[str, str] = _NO_PARAMS

    def shown(self) -> str:
        """As it may be shown: with a mark in place of the password."""
        password = "" if self.password is None else f":{self.password.mark()}"
        return f"{self.user}{password}@{self.address}" if self.user else self.address


def parse_uri(text: str) -> Uri:
    """User, password and values may be percent-encoded, as `%40` for `@`. Raises `ValueError` for a login
    without a user and for parameters that are none."""
    login, at, rest = text.rpartition("@")
    address, _, query = rest.partition("?")
    user, colon, password = login.partition(":")
    if at and not user:
        raise ValueError("a login begins with the name of the user: user:password@host:port")
    params = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError("parameters are key=value, with & between")
        params[key] = unquote(value)
    return Uri(address, unquote(user), Secret(unquote(password)) if colon else None, params)


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host, an address or a name, stays on this machine for sure."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


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
        # Not shown: it may be a password, of a login without a host.
        raise ValueError("expected HOST:PORT with a port from 0 to 65535")
    if not re.fullmatch(r"[A-Za-z0-9._:%*-]*", host):
        raise ValueError(f"{host!r} is not a host name or address")
    return host, int(port)


def join(host: str, port: int) -> str:
    host = "0.0.0.0" if host in ("", "*") else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_connectable(address: str) -> bool:
    host, port = split(address)
    return port != 0 and host not in WILDCARDS


def client_address(settings: Settings) -> str:
    """Where a client reaches it: where it listens, or what it advertises if that is no address; "":
    nowhere."""
    is_address = settings.listen and is_connectable(settings.listen)
    return settings.listen if is_address else settings.own_address


def needs_insecure(settings: Settings) -> bool:
    """True if others than this host could connect, and nothing keeps strangers out or passwords secret: no
    TLS, or neither certificates of clients nor users in the configuration (`--insecure`)."""
    host = settings.listen.rpartition(":")[0].strip("[]")
    if not settings.listen or settings.listen.startswith("unix:") or host == "localhost":
        return False
    has_users = settings.credentials is not None and bool(settings.credentials.users)
    if settings.has_tls and (has_users or settings.client_auth is ClientAuth.REQUIRE):
        return False
    return not is_loopback(host)


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
