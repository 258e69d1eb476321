"""The TLS of one instance: its files at the start, and newer ones while it runs [S-11], ADR 39."""

from __future__ import annotations

import ssl
from typing import Any, Final

import trio

from synchro.config import ClientAuth, Settings
from synchro.errors import ConfigError
from synchro.threads import in_thread
from synchro.wire.certificates import Certificates, TlsFiles, UnusableFiles

LOOK_S: Final = 1.0
"""How often the files are looked at."""
_VERIFY: Final = {
    ClientAuth.OFF: ssl.CERT_NONE,
    ClientAuth.REQUEST: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRE: ssl.CERT_REQUIRED,
}


def certificates_of(settings: Settings) -> Certificates | None:
    """None: the instance has no TLS. Raises `ConfigError`: it is not started with files that others would
    refuse."""
    if not settings.has_tls:
        return None
    files = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_ca)
    try:
        return Certificates(
            files, client_certificates=_VERIFY[settings.client_auth], own_host=_own_host(settings)
        )
    except UnusableFiles as error:
        raise ConfigError(f"grpc.tls: {error.why}. The instance was not started", key="grpc.tls") from error


def _own_host(settings: Settings) -> str | None:
    """Where the others connect; None: there are none, or they are told another way."""
    host = settings.own_address.rpartition(":")[0].strip("[]")
    return host if host and len(settings.peers) > 1 else None


async def watch(certificates: Certificates, log: Any) -> None:
    """Use files that were replaced, for new connections. Bad ones are named once, and the former ones are
    used on. They are read in a thread: a file system that does not answer holds up nothing else."""
    while True:
        await trio.sleep(LOOK_S)
        try:
            if await in_thread(certificates.renew, abandon_on_cancel=True):
                log.info("certificates_renewed")
        except UnusableFiles as error:
            log.warning(
                "certificates_not_renewed", message=f"{error.why}; the former files are used on for new links"
            )
