"""TLS between a socket and HTTP/2, without I/O [S-11], and its failures in words. ADR 39."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from typing import Any, Final

from synchro.wire import frames
from synchro.wire.frames import ErrorCode
from synchro.wire.io import LayerFault

ALPN: Final = "h2"
HANDSHAKE_BYTES_MAX: Final = 64 * 1024
"""What the other end may send until the handshake is over. Chains of certificates have a few kilobytes."""
READ_BYTES: Final = 64 * 1024
_HANDSHAKE: Final = 0x16
_ALERT: Final = 0x15
"""First bytes of records; nothing else can stand first in TLS."""

NO_CERTIFICATE: Final = "the client shows no certificate, and this port demands one"
NO_TLS: Final = "the other end does not speak TLS"
PLAIN_CLIENT: Final = "no TLS, on a port that speaks TLS only"
NO_ALPN: Final = "the other end does not agree on HTTP/2 (ALPN h2)"
NOTHING_IN_COMMON: Final = "no version of TLS, or no cipher, in common: TLS 1.2 is the oldest here"

UNKNOWN_ISSUERS: Final = frozenset({2, 7, 18, 19, 20, 21})
"""Of OpenSSL's X509_V_ERR_*: no way leads from the certificate to one that is believed."""
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": NO_CERTIFICATE,
    "HTTP_REQUEST": PLAIN_CLIENT,
    "NO_SHARED_CIPHER": NOTHING_IN_COMMON,
    "NO_PROTOCOLS_AVAILABLE": NOTHING_IN_COMMON,
    "UNSUPPORTED_PROTOCOL": NOTHING_IN_COMMON,
    "WRONG_SSL_VERSION": NOTHING_IN_COMMON,
    "WRONG_VERSION_NUMBER": NO_TLS,
}
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "the other end demands a certificate, and this one shows none",
    "UNKNOWN_CA": "the other end refuses this certificate: it does not believe who signed it (unknown CA)",
    "CERTIFICATE_EXPIRED": "the other end refuses this certificate: it has expired",
    "CERTIFICATE_REVOKED": "the other end refuses this certificate: it is revoked",
    "UNSUPPORTED_CERTIFICATE": "the other end refuses this certificate: it is not made for this purpose",
    "BAD_CERTIFICATE": "the other end refuses this certificate: name, dates or signature are not right",
    "CERTIFICATE_UNKNOWN": "the other end refuses this certificate",
    "ACCESS_DENIED": "the other end refuses this certificate",
    "DECRYPT_ERROR": "the other end refuses this certificate: the key does not fit it",
    "PROTOCOL_VERSION": NOTHING_IN_COMMON,
    "INSUFFICIENT_SECURITY": NOTHING_IN_COMMON,
    "HANDSHAKE_FAILURE": "the other end refuses the handshake: nothing in common, or no certificate is shown",
    "NO_APPLICATION_PROTOCOL": NO_ALPN,
}
"""What the other end says of the end of a connection."""


def words_of(error: ssl.SSLError, *, whose: str) -> str:
    """The cause, for a person. whose: of the certificate that was looked at, such as "the client"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.strip(" .")
        if error.verify_code in UNKNOWN_ISSUERS:
            why = f"no CA of the own file signed it ({why})"
        return f"the certificate of {whose} is refused: {why}"
    reason = getattr(error, "reason", None) or ""
    if reason in _REASONS:
        return _REASONS[reason]
    _, is_alert, alert = reason.partition("_ALERT_")
    if is_alert and alert in _ALERTS:
        return _ALERTS[alert]
    return f"TLS failed: {reason.replace('_', ' ').lower() or error}"


class TlsLayer:
    """A `ByteLayer` of TLS, of either end.

    Y1  Before the handshake has ended with ALPN h2, and after a fault, no byte of HTTP/2 passes in either
        direction. There is no way back to plain TCP.
    Y2  The other end sends at most `HANDSHAKE_BYTES_MAX`, and one read, before the handshake is over.
    """

    def __init__(self, context: ssl.SSLContext, name: str | None = None) -> None:
        """name: host that the certificate of the server must be of; None: this is the server. Raises
        `ValueError` for a name that is none."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=name is None, server_hostname=name)
        self._is_server = name is None
        self._whose = "the client" if name is None else name
        self._is_over = False
        self._is_shaken = False
        self._heard = 0  # bytes, until the handshake is over
        self._waiting = b""  # for HTTP/2's other end, until then
        if not self._is_server:
            self._shake_hands()

    @property
    def is_ready(self) -> bool:
        return self._is_shaken and not self._is_over

    def shows_certificate_of(self, host: str) -> bool | None:
        """Whether the other end shows a certificate of this host, an address or a name; None: it shows
        none."""
        shown = self._tls.getpeercert() if self.is_ready else None
        return _is_of(shown, host) if shown else None

    def received(self, data: bytes) -> bytes:
        if self._is_over:
            return b""
        if not self._heard:
            self._look_at(data)
        self._in.write(data)
        try:
            if not self._is_shaken:
                self._heard += len(data)
                self._shake_hands()
            return self._read() if self._is_shaken else b""
        except ssl.SSLError as error:
            raise self._fault(words_of(error, whose=self._whose)) from error

    def to_send(self, data: bytes) -> bytes:
        if self.is_ready:
            if self._waiting:
                data, self._waiting = self._waiting + data, b""
            if data:
                self._tls.write(data)
        elif not self._is_over:
            self._waiting += data
        return self._out.read()

    def _look_at(self, data: bytes) -> None:
        """Who speaks no TLS is named, and a client is told in its own tongue."""
        if self._is_server and data[:1] != bytes([_HANDSHAKE]):
            self._out.write(_goodbye(PLAIN_CLIENT))
            raise self._fault(PLAIN_CLIENT)
        if data[0] not in (_HANDSHAKE, _ALERT):
            raise self._fault(NO_TLS)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            if self._heard > HANDSHAKE_BYTES_MAX:
                raise self._fault(f"a handshake of more than {HANDSHAKE_BYTES_MAX} bytes") from None
            return
        if self._tls.selected_alpn_protocol() != ALPN:
            if self._is_server:
                self._tls.write(_goodbye(NO_ALPN))
            raise self._fault(NO_ALPN)
        self._is_shaken = True

    def _read(self) -> bytes:
        parts = []
        try:
            while part := self._tls.read(READ_BYTES):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass  # all was read; the socket tells of the end
        return b"".join(parts)

    def _fault(self, why: str) -> LayerFault:
        self._is_over = True
        self._waiting = b""
        return LayerFault(why)


def _is_of(certificate: Mapping[str, Any], host: str) -> bool:
    """By its alternative names (RFC 6125; a star stands for the first label)."""
    names = [(str(kind), str(name)) for kind, name in certificate.get("subjectAltName", ())]
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        labels = host.lower().rstrip(".").split(".")
        return any(
            name.lower().split(".") in (labels, ["*", *labels[1:]]) for kind, name in names if kind == "DNS"
        )
    return any(kind == "IP Address" and ipaddress.ip_address(name) == wanted for kind, name in names)


def _goodbye(why: str) -> bytes:
    """All that is said on a connection that is served nothing. Without SETTINGS grpcio takes it for what
    cannot be connected; else it would try again as often as it can, and its call would wait."""
    return frames.goaway(0, ErrorCode.INADEQUATE_SECURITY, why.encode())
