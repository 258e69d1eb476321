"""TLS of a client: its files, for channels of grpcio and for connections of our own [S-11], ADR 39."""

from __future__ import annotations

from typing import Any

import grpc

from synchro.errors import IllegalParams
from synchro.wire.certificates import ClientContext, TlsFiles, UnusableFiles, read_pem
from synchro.wire.tls import TlsLayer


class Security:
    """Whom a client believes, and what it shows of itself. The files are read once, here."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises `IllegalParams`: nothing was sent."""
        if not files.ca:
            raise IllegalParams("TLS needs cacert, the file of the CAs that are believed; nothing was sent")
        if bool(files.cert) is not bool(files.key):
            raise IllegalParams("cert and key belong together; nothing was sent")
        try:
            self._context = ClientContext(files)
            if files.cert:
                self._context.check_own()
            ca = read_pem(files.ca, b"CERTIFICATE")
            cert = read_pem(files.cert, b"CERTIFICATE") if files.cert else None
            key = read_pem(files.key, b"PRIVATE KEY") if files.key else None
        except UnusableFiles as error:
            raise IllegalParams(f"{error.why}; nothing was sent") from error
        self.credentials: Any = grpc.ssl_channel_credentials(ca, key, cert)

    def layer(self, host: str) -> TlsLayer:
        """Below HTTP/2 of one connection to this host. Raises `ValueError` for a name that is none."""
        return self._context.layer(host)
