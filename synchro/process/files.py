"""The files that an instance needs beside its configuration, looked at as its start will."""

from __future__ import annotations

import os
from collections.abc import Iterator

from synchro.config import Settings
from synchro.config.address import is_loopback
from synchro.errors import ConfigError
from synchro.process.certificates import certificates_of
from synchro.secret import read_secret


def problems_of(settings: Settings) -> Iterator[tuple[str, str]]:
    """Key and reason of each file that cannot be used: it would not start, or not log in at its peers."""
    try:
        certificates_of(settings)
    except ConfigError as error:
        yield "grpc.tls", error.message.removeprefix("grpc.tls: ").partition(". The instance was")[0]
    for name in _password_files(settings):
        try:
            read_secret(name)
        except ValueError as error:
            yield "grpc.advertise.peer.password_file", f"{error}: it could not log in at its peers"


def are_here(settings: Settings) -> bool:
    """Whether its files belong to this host: it listens where only this host connects, or some are here."""
    if is_loopback(settings.own_address.rpartition(":")[0] or settings.listen.rpartition(":")[0]):
        return True
    tls = (settings.tls_cert, settings.tls_key, settings.tls_ca)
    return any(map(os.path.exists, filter(None, (settings.wal_dir, *tls))))


def are_named(settings: Settings) -> bool:
    """Whether there is anything to look at."""
    return settings.has_tls or bool(_password_files(settings))


def _password_files(settings: Settings) -> list[str]:
    logins = (settings.peer_logins.default, *settings.peer_logins.by_address.values())
    return list(dict.fromkeys(login.password_file for login in logins if login and login.password_file))
