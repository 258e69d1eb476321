"""The pairs of the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from tests.conformance.exchange import Face, FaceOptions
from tests.conformance.faces import open_face
from tests.conformance.servers import GrpcioServer, OurServer, Server

PAIRS: Final = {
    "ours and grpcio": ("ours", "grpcio"),
    "ours and grpc.aio": ("ours", "grpc.aio"),
    "ours and our channel": ("ours", "channel"),
    "ours and grpc-js": ("ours", "grpc-js"),
    "grpcio and our channel": ("grpcio", "channel"),
    "grpcio and grpcio": ("grpcio", "grpcio"),
}
"""Server and client. The last one shows that the tests demand what gRPC does, and not what only we do."""


@dataclass(frozen=True)
class Pair:
    server_kind: str
    face_kind: str
    server: Server
    face: Face

    def another(self, options: FaceOptions | None = None) -> Face:
        """A client of the same kind with a connection of its own. Close it."""
        return open_face(self.face_kind, self.server.address, options)


def open_server(kind: str) -> Server:
    return OurServer() if kind == "ours" else GrpcioServer()


@pytest.fixture(scope="module", params=list(PAIRS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    server_kind, face_kind = PAIRS[request.param]
    with open_server(server_kind) as server:
        face = open_face(face_kind, server.address)
        try:
            yield Pair(server_kind, face_kind, server, face)
        finally:
            face.close()
