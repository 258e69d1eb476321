"""What each way to call makes of the same failure (grpcio blocking, grpcio for asyncio, our own channel), and
what the streams of writes make of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

import synchro
import synchro.aio
from synchro.client import CannotConnect, ConnectionLost
from synchro.client.channel import CHANNEL_OPTIONS, CONNECT_S
from synchro.client.data_stream import WIRE_LIMITS
from synchro.client.errors import of_rpc_error
from synchro.errors import NoLeader, SynchroError, Unimplemented
from synchro.rpc.channel import RpcChannel
from synchro.rpc.status import DETAILS_KEY, to_status
from synchro.wire import frames, grpc_call
from synchro.wire.failure import CallFailed
from synchro.wire.frames import ErrorCode
from synchro.wire.grpc_call import StatusCode
from synchro.wire.headers import header_block
from synchro.wire.streams import Http2Stream
from synchro.wire.turns import open_helper_nursery, open_turns
from tests.shell.wire_server import Act, WireConnection, wire_server

import grpc  # isort: skip - after channel.py, which sets its environment

PATH = "/synchro.v1.SchemaService/CreateSpace"

# --- ways to call ---------------------------------------------------------------------------------------


def with_blocking(address: str, timeout: float) -> SynchroError:
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            call: Any = channel.unary_unary(PATH)
            call(b"", timeout=timeout)
        except grpc.RpcError as error:
            return of_rpc_error(error, address)
    raise AssertionError("it did not fail")


def with_aio(address: str, timeout: float) -> SynchroError:
    async def main() -> SynchroError:
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            try:
                call: Any = channel.unary_unary(PATH)
                await call(b"", timeout=timeout)
            except grpc.RpcError as error:
                return of_rpc_error(error, address)
        raise AssertionError("it did not fail")

    return asyncio.run(main())


def with_our_own(address: str, timeout: float) -> SynchroError:
    async def main() -> SynchroError:
        async with open_turns() as turns, open_helper_nursery() as nursery:
            channel = RpcChannel(turns, nursery, address, limits=WIRE_LIMITS, connect_s=CONNECT_S)
            try:
                await channel.unary(PATH, b"", timeout=timeout)
            except CallFailed as error:
                return of_rpc_error(error, address)
            finally:
                channel.close()
                nursery.cancel_scope.cancel()
        raise AssertionError("it did not fail")

    return trio.run(main)


CALLS: dict[str, Callable[[str, float], SynchroError]] = {
    "blocking": with_blocking,
    "aio": with_aio,
    "own": with_our_own,
}

# --- failures -------------------------------------------------------------------------------------------


def status(code: StatusCode, text: str, error: SynchroError | None = None) -> Act:
    metadata = [] if error is None else [(DETAILS_KEY, to_status(error).SerializeToString())]

    def act(connection: WireConnection, stream: Http2Stream) -> None:
        stream.send_headers(grpc_call.trailers(code, text, metadata, whole=True), end=True)

    return act


def reset(code: ErrorCode) -> Act:
    return lambda connection, stream: stream.reset(code)


def hang(connection: WireConnection, stream: Http2Stream) -> None:
    pass


def break_off(connection: WireConnection, stream: Http2Stream) -> None:
    connection.sock.close()


def go_away(connection: WireConnection, stream: Http2Stream) -> None:
    connection.h2.goaway(last_id=0)
    connection.close()


def be_no_grpc(connection: WireConnection, stream: Http2Stream) -> None:
    stream.send_headers(header_block([(b":status", b"503"), (b"content-type", b"text/html")]), end=True)


def be_too_long(connection: WireConnection, stream: Http2Stream) -> None:
    stream.send_headers(grpc_call.RESPONSE_HEAD)
    connection.flush()
    head = frames.HEAD.pack(5 << 8 | frames.DATA, 0, stream.id)
    connection.sock.sendall(head + frames.PREFIX.pack(0, 17 << 20))


REFUSED, MUTE, NOBODY = "refused", "mute", "nobody"


@dataclass(frozen=True)
class Failure:
    """What happens, and what its callers are told; own: by our own channel, which may know more."""

    how: Act | str
    kind: type[SynchroError]
    words: str = ""
    is_silent: bool = False
    own: type[SynchroError] | None = None
    timeout: float = 5.0


FAILURES: dict[str, Failure] = {
    "refused": Failure(REFUSED, CannotConnect, "cannot connect to {}: connection refused"),
    "a name of nobody": Failure(NOBODY, CannotConnect),
    "silent": Failure(MUTE, CannotConnect, is_silent=True),
    "silent until the deadline": Failure(MUTE, ConnectionLost, own=CannotConnect, timeout=0.5),
    "no answer": Failure(hang, ConnectionLost, "no answer from {} in time", timeout=1.0),
    "broken off": Failure(break_off, ConnectionLost),
    "reset": Failure(reset(ErrorCode.INTERNAL_ERROR), ConnectionLost),
    "cancelled": Failure(reset(ErrorCode.CANCEL), ConnectionLost),
    "refused stream": Failure(reset(ErrorCode.REFUSED_STREAM), ConnectionLost, own=CannotConnect),
    "goes away": Failure(go_away, ConnectionLost, own=CannotConnect),
    "unavailable": Failure(status(StatusCode.UNAVAILABLE, "Socket closed"), ConnectionLost),
    "unavailable elsewhere": Failure(
        # A proxy says so; grpcio says the same of itself.
        status(StatusCode.UNAVAILABLE, "failed to connect to all addresses"),
        CannotConnect,
        own=ConnectionLost,
    ),
    "unknown method": Failure(status(StatusCode.UNIMPLEMENTED, "unknown"), Unimplemented, "{} does not have"),
    "an error of ours": Failure(
        status(StatusCode.UNAVAILABLE, "x", NoLeader("nobody leads", term=7)), NoLeader, "nobody leads"
    ),
    "a status of gRPC": Failure(status(StatusCode.PERMISSION_DENIED, "no"), ConnectionLost),
    "no gRPC": Failure(be_no_grpc, ConnectionLost),
    "too long": Failure(be_too_long, ConnectionLost),
}


@contextmanager
def failing(failure: Failure) -> Iterator[str]:
    """The address of who fails so."""
    if failure.how == NOBODY:
        yield "no-such-host.invalid:3301"
    elif failure.how == REFUSED:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            yield f"127.0.0.1:{held.getsockname()[1]}"
    else:
        act = hang if isinstance(failure.how, str) else failure.how
        with wire_server(act, is_mute=failure.how == MUTE) as server:
            yield server.address


@pytest.mark.parametrize("way", CALLS)
@pytest.mark.parametrize("what", FAILURES)
def test_one_failure_is_one_error(what: str, way: str) -> None:
    failure = FAILURES[what]
    kind = failure.own if way == "own" and failure.own is not None else failure.kind
    with failing(failure) as address:
        error = CALLS[way](address, failure.timeout)
        assert type(error) is kind, (error, error.details)
        assert error.message.startswith(failure.words.format(address)), error.message
        is_silent = kind is CannotConnect and (failure.is_silent or failure.how == MUTE)
        assert ("silent" in error.details) is is_silent, error.details
        if kind in (CannotConnect, ConnectionLost):
            assert error.details["endpoint"] == address
    if what == "an error of ours":
        assert error.details["term"] == "7"


# --- writes ---------------------------------------------------------------------------------------------


def with_write(face: str, address: str) -> SynchroError:
    """How a write ends that goes to this leader only, once."""

    async def main() -> SynchroError:
        options: dict[str, Any] = {"timeout": 0.6, "follow_leader": False, "wait_for_connection": False}
        async with synchro.aio.connect(address, **options) as db:
            db._api.plans.session.good_endpoint = address
            try:
                await db.space("s").insert([1])
            except SynchroError as error:
                return error
        raise AssertionError("it did not fail")

    return asyncio.run(main()) if face == "asyncio" else trio.run(main)


NOT_DONE = ("refused", "a name of nobody", "silent", "refused stream", "goes away")
"""Nothing was sent, or nobody has looked at it."""
OPEN = ("no answer", "broken off", "reset", "cancelled", "unavailable", "no gRPC", "too long")


@pytest.mark.parametrize("face", ["asyncio", "trio"])
@pytest.mark.parametrize("what", NOT_DONE + OPEN)
def test_a_write_is_unknown_only_where_it_may_have_been_done(what: str, face: str) -> None:
    with failing(FAILURES[what]) as address:
        error = with_write(face, address)
    if what in OPEN:
        assert isinstance(error, synchro.OutcomeUnknown), error
    else:
        assert isinstance(error, CannotConnect), error
