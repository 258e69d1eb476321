"""The files of TLS, as contexts for connections [S-11], ADR 39."""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import dataclass
from typing import Final

from synchro.wire.io import LayerFault
from synchro.wire.tls import ALPN, UNKNOWN_ISSUERS, TlsLayer

FILE_BYTES_MAX: Final = 4 << 20
"""A bundle of all public CAs has a quarter of a megabyte."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that HTTP/2 allows. TLS 1.3 has no others."""
TRIAL_ROUNDS: Final = 4

Stamp = tuple[tuple[int, int, int, int] | None, ...]


class UnusableFiles(Exception):
    """why: for a person; names the file, and what it is for."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Names of files in PEM form; "": there is none. cert: with the certificates between it and its CA."""

    cert: str = ""
    key: str = ""
    ca: str = ""


class ClientContext:
    """How one side connects: whom it believes, and what it shows of itself."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises `UnusableFiles`. Without `cert` the client shows no certificate."""
        self._context = _context(ssl.PROTOCOL_TLS_CLIENT, files)
        self._context.hostname_checks_common_name = False
        self._files = files

    def layer(self, host: str) -> TlsLayer:
        """Of one connection to this host, whose certificate must be of this name or address. Raises
        `ValueError` for a name that is none."""
        return TlsLayer(self._context, host)

    def check_own(self) -> None:
        """Look at the certificate that is shown, as the other end will. Raises `UnusableFiles` if everybody
        would refuse it, whichever CAs they believe."""
        server = _context(ssl.PROTOCOL_TLS_SERVER, self._files)
        server.verify_mode = ssl.CERT_REQUIRED
        client = _context(ssl.PROTOCOL_TLS_CLIENT, self._files)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        fault = _trial(TlsLayer(server), TlsLayer(client, "localhost"))
        error = fault and fault.__cause__
        if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code not in UNKNOWN_ISSUERS:
            raise UnusableFiles(f"{self._files.cert}: {error.verify_message.strip(' .')}")


class Certificates:
    """What an instance shows of itself, and whom it believes, when others connect and when it connects.

    Z1  The files that are used were read together: certificate and key fit, and with `own_host` the other
        instances would believe them. Files that do not stay unused, however often they are looked at.
    """

    def __init__(
        self, files: TlsFiles, *, client_certificates: ssl.VerifyMode, own_host: str | None = None
    ) -> None:
        """own_host: where other instances with the same `ca` connect; None: there are none. Raises
        `UnusableFiles`."""
        self._files = files
        self._client_certificates = client_certificates
        self._own_host = own_host
        self._stamp = _stamp_of(files)
        self._server, self._client = self._load()

    def server_layer(self) -> TlsLayer:
        """Of one more connection that the port took."""
        return TlsLayer(self._server)

    def client_layer(self, host: str) -> TlsLayer:
        """Of one more connection to another instance."""
        return self._client.layer(host)

    def renew(self) -> bool:
        """Take files over that have changed, for new connections; False: none has. Raises `UnusableFiles`
        once for each change: the former ones are used on."""
        stamp = _stamp_of(self._files)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._server, self._client = self._load()
        return True

    def _load(self) -> tuple[ssl.SSLContext, ClientContext]:
        server = _context(ssl.PROTOCOL_TLS_SERVER, self._files)
        server.verify_mode = self._client_certificates
        server.num_tickets = 0
        client = ClientContext(self._files)
        if self._own_host is not None and (fault := _trial(TlsLayer(server), client.layer(self._own_host))):
            raise UnusableFiles(
                f"{self._files.cert}: other instances would refuse it: {fault} (CA file {self._files.ca})"
            ) from fault
        return server, client


def _trial(server: TlsLayer, client: TlsLayer) -> LayerFault | None:
    """A handshake with itself, in memory: what another end would refuse is known at once."""
    try:
        for _ in range(TRIAL_ROUNDS):
            for sender, receiver in ((client, server), (server, client)):
                if data := sender.to_send(b""):
                    receiver.received(data)
    except LayerFault as fault:
        return fault
    return None


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([ALPN])
    # Without tickets each connection looks at certificates anew: a former one may be believed no more.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    if files.ca:
        _believe(context, files.ca)
    if files.cert:
        _show(context, files)
    return context


def _believe(context: ssl.SSLContext, path: str) -> None:
    data = read_pem(path, b"CERTIFICATE")
    try:
        context.load_verify_locations(cadata=data.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise UnusableFiles(f"{path}: its certificates cannot be read ({_reason(error)})") from error


def _show(context: ssl.SSLContext, files: TlsFiles) -> None:
    read_pem(files.cert, b"CERTIFICATE")
    key = read_pem(files.key, b"PRIVATE KEY")
    if b"ENCRYPTED" in key:
        raise UnusableFiles(
            f"{files.key}: the key is encrypted, and nobody is asked for its password; decrypt it: "
            f"openssl pkey -in {files.key} -out NEW"
        )
    try:
        context.load_cert_chain(files.cert, files.key, password=b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"{files.key}: the key does not fit the certificate {files.cert}"
        else:
            why = f"{files.cert}, {files.key}: certificate or key cannot be used ({_reason(error)})"
        raise UnusableFiles(why) from error
    except OSError as error:  # gone since it was read
        raise UnusableFiles(f"{files.cert}, {files.key}: {error.strerror}") from error


def read_pem(path: str, what: bytes) -> bytes:
    """The bytes of a file that has PEM blocks of this kind. Raises `UnusableFiles`."""
    try:
        # A pipe would be waited for.
        data = b""
        if is_file := stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UnusableFiles(f"{path} cannot be read: {error.strerror}") from error
    if not is_file or len(data) > FILE_BYTES_MAX:
        raise UnusableFiles(f"{path} cannot be used: it is no file of at most {FILE_BYTES_MAX} bytes")
    if what + b"-----" not in data:
        raise UnusableFiles(f"{path} has no {what.decode().lower()} in PEM form (-----BEGIN ...)")
    return data


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()


def _stamp_of(files: TlsFiles) -> Stamp:
    """Another one if a file was replaced or written."""
    return tuple(map(_stamp_of_file, (files.cert, files.key, files.ca)))


def _stamp_of_file(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
