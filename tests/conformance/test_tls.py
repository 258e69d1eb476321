"""The same calls over mutual TLS [S-11], with grpcio and with ours at either end."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import grpc
import pytest

from synchro.wire.certificates import Certificates, TlsFiles
from synchro.wire.grpc_call import StatusCode
from tests.certificates import CLIENT, Authority
from tests.conformance.conftest import Pair
from tests.conformance.exchange import MESSAGE_BYTES_MAX, MIB, Exchange, FaceOptions, Kind, pattern, summary
from tests.conformance.faces import open_face
from tests.conformance.servers import GrpcioServer, OurServer, Server

PAIRS: Final = {
    "ours and grpcio": ("ours", "grpcio"),
    "ours and grpc.aio": ("ours", "grpc.aio"),
    "ours and our channel": ("ours", "channel"),
    "grpcio and our channel": ("grpcio", "channel"),
}


def open_server(kind: str, files: TlsFiles) -> Server:
    if kind == "ours":
        used = Certificates(files, client_certificates=ssl.CERT_REQUIRED)
        return OurServer(layer=used.server_layer)
    ca, key, cert = (Path(path).read_bytes() for path in (files.ca, files.key, files.cert))
    return GrpcioServer(credentials=grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True))


@pytest.fixture(scope="module", params=list(PAIRS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    server_kind, face_kind = PAIRS[request.param]
    authority = Authority(tmp_path_factory.mktemp("tls"))
    client = authority.issue("client", hosts=["client"], purposes=[CLIENT])
    with open_server(server_kind, authority.issue("server")) as server:
        face = open_face(face_kind, server.address, FaceOptions(tls=client))
        try:
            yield Pair(server_kind, face_kind, server, face)
        finally:
            face.close()


@pytest.mark.parametrize("size", [0, 1, 16_384, MIB + 1, MESSAGE_BYTES_MAX])
def test_a_message_comes_back_as_it_was_sent(pair: Pair, size: int) -> None:
    message = pattern(size)
    assert pair.face.run(Exchange("Echo", (message,))).reply == message


def test_streams_of_all_kinds(pair: Pair) -> None:
    messages = [pattern(size) for size in (0, 1, 5 * MIB, 0, 1000)]
    counted = pair.face.run(Exchange("Count", (b"300 10000",), Kind.SERVER))
    assert [int.from_bytes(reply[:4], "big") for reply in counted.replies] == list(range(300))
    assert pair.face.run(Exchange("Sum", tuple(messages), Kind.CLIENT)).reply == summary(messages)
    both = pair.face.run(Exchange("EchoBoth", tuple(messages), Kind.BOTH))
    assert (both.code, both.replies) == (StatusCode.OK, messages)


@pytest.mark.parametrize(
    ("exchange", "code"),
    [
        (Exchange("Hang", timeout_s=0.3), StatusCode.DEADLINE_EXCEEDED),
        (Exchange("Hang", cancel_after_s=0.3), StatusCode.CANCELLED),
    ],
)
def test_deadlines_and_cancels_reach_the_handler(pair: Pair, exchange: Exchange, code: StatusCode) -> None:
    journal, name = pair.server.journal, code.name
    assert pair.face.run(replace(exchange, metadata=(("x-call", name),))).code is code
    journal.wait("the handler is cancelled", lambda: journal.cancelled[name] == 1)


def test_many_calls_at_a_time(pair: Pair) -> None:
    codes = pair.face.many(Exchange("Echo", (b"x" * 100,)), count=2000, at_once=64)
    assert codes == {StatusCode.OK: 2000}
