"""TLS without sockets [S-11]: bytes of one end are handed to the other, in any pieces."""

from __future__ import annotations

import contextlib
import ssl

import pytest

from synchro.wire.certificates import Certificates, ClientContext, TlsFiles
from synchro.wire.frames import ErrorCode
from synchro.wire.io import PLAIN, LayerFault
from synchro.wire.tls import HANDSHAKE_BYTES_MAX, NO_ALPN, NO_TLS, PLAIN_CLIENT, TlsLayer, words_of
from tests.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> TlsFiles:
    return authority.issue("node")


@pytest.fixture
def server(files: TlsFiles) -> TlsLayer:
    return Certificates(files, client_certificates=ssl.CERT_REQUIRED).server_layer()


@pytest.fixture
def client(files: TlsFiles) -> TlsLayer:
    return ClientContext(files).layer("127.0.0.1")


def carry(sender: TlsLayer, receiver: TlsLayer, *, piece: int = 1 << 20, data: bytes = b"") -> bytes:
    """What the receiver gets for HTTP/2 of what the sender has to say."""
    sent = sender.to_send(data)
    return b"".join(receiver.received(sent[at : at + piece]) for at in range(0, len(sent), piece))


def shake_hands(client: TlsLayer, server: TlsLayer, *, piece: int = 1 << 20) -> None:
    for _ in range(3):
        assert carry(client, server, piece=piece) == b""
        assert carry(server, client, piece=piece) == b""
    assert client.is_ready and server.is_ready


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_what_one_end_says_is_what_the_other_hears(client: TlsLayer, server: TlsLayer, piece: int) -> None:
    shake_hands(client, server, piece=piece)
    for size in (1, 100, 40_000):
        data = bytes(range(256)) * (size // 256 + 1)
        assert carry(client, server, data=data, piece=max(piece, size // 50)) == data
        assert carry(server, client, data=data, piece=max(piece, size // 50)) == data


def test_a_certificate_is_of_the_hosts_that_it_names(authority: Authority) -> None:
    hosts = ["10.0.0.7", "::1", "db1.example", "*.cluster.example"]
    shown = authority.issue("shown", hosts=[*hosts, "127.0.0.1"])
    server = Certificates(shown, client_certificates=ssl.CERT_REQUIRED).server_layer()
    client = ClientContext(shown).layer("127.0.0.1")
    assert server.shows_certificate_of("10.0.0.7") is None  # not yet
    shake_hands(client, server)
    for host in ("10.0.0.7", "::1", "0:0::1", "db1.example", "DB1.example.", "a.cluster.example"):
        assert server.shows_certificate_of(host) is True, host
    for host in ("10.0.0.8", "::2", "db2.example", "example", "a.b.cluster.example", "cluster.example", ""):
        assert server.shows_certificate_of(host) is False, host


def test_who_shows_no_certificate_is_not_taken_for_anybody(files: TlsFiles) -> None:
    server = Certificates(files, client_certificates=ssl.CERT_OPTIONAL).server_layer()
    client = ClientContext(TlsFiles(ca=files.ca)).layer("127.0.0.1")
    shake_hands(client, server)
    assert server.shows_certificate_of("127.0.0.1") is None
    assert PLAIN.shows_certificate_of("127.0.0.1") is None


def test_what_is_said_before_the_handshake_is_over_waits_for_it(client: TlsLayer, server: TlsLayer) -> None:
    hello = client.to_send(b"preface")
    assert b"preface" not in hello
    assert server.received(hello) == b""
    heard = b""
    for _ in range(2):
        carry(server, client, data=b"")
        heard += carry(client, server)
    assert heard == b"preface"


def test_plain_bytes_are_refused_and_told_so_in_plain_words(server: TlsLayer) -> None:
    with pytest.raises(LayerFault, match=PLAIN_CLIENT):
        server.received(b"PRI * HTTP/2.0\r\n")
    told = server.to_send(b"SETTINGS and secrets")
    assert ErrorCode.INADEQUATE_SECURITY.to_bytes(4, "big") in told and PLAIN_CLIENT.encode() in told
    assert b"secrets" not in told
    assert server.received(b"more") == b"" and server.to_send(b"more") == b""  # TlsLayer.Y1


def test_a_server_without_tls_is_named(client: TlsLayer) -> None:
    with pytest.raises(LayerFault, match=NO_TLS):
        client.received(b"\0\0\0\4\0\0\0\0\0")


@pytest.mark.parametrize("offer", [[], ["http/1.1"]])
def test_a_client_that_does_not_speak_http2_is_refused(
    server: TlsLayer, files: TlsFiles, offer: list[str]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)
    if offer:
        context.set_alpn_protocols(offer)
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = context.wrap_bio(came, goes, server_hostname="localhost")

    def shake() -> None:
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                other.do_handshake()
            server.received(goes.read())
            came.write(server.to_send(b"never"))

    with pytest.raises(LayerFault, match="ALPN h2"):
        shake()
    came.write(server.to_send(b""))
    assert NO_ALPN.encode() in other.read(1000)
    assert not server.is_ready


def test_a_server_that_does_not_speak_http2_is_refused(client: TlsLayer, files: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = context.wrap_bio(came, goes, server_side=True)
    came.write(client.to_send(b"preface"))
    with pytest.raises(ssl.SSLWantReadError):
        other.do_handshake()
    with pytest.raises(LayerFault, match="ALPN h2"):
        client.received(goes.read())
    assert b"preface" not in client.to_send(b"")


def take_all(server: TlsLayer, *data: bytes) -> None:
    for part in data:
        server.received(part)


def test_a_handshake_without_end_is_ended(server: TlsLayer) -> None:
    """TlsLayer.Y2: a greeting of 128 KiB, which OpenSSL would wait for."""
    hello = b"\x16\x03\x01\x3f\xfc\x01\x01\xff\xff" + bytes(0x3FF8)
    more = b"\x16\x03\x01\x3f\xfc" + bytes(0x3FFC)
    with pytest.raises(LayerFault, match=f"more than {HANDSHAKE_BYTES_MAX} bytes"):
        take_all(server, hello, *[more] * (HANDSHAKE_BYTES_MAX // len(more) + 1))


def test_an_older_tls_is_named(server: TlsLayer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = context.wrap_bio(came, goes, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        other.do_handshake()
    with pytest.raises(LayerFault, match=r"TLS 1\.2 is the oldest"):
        server.received(goes.read())


def test_a_name_that_is_none_is_a_value_error(files: TlsFiles) -> None:
    with pytest.raises(ValueError, match="server_hostname"):
        ClientContext(files).layer("")


def test_a_cause_without_words_is_told_as_openssl_has_it() -> None:
    assert words_of(ssl.SSLError(1, "what"), whose="x").startswith("TLS failed")
