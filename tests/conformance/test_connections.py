"""What calls of one connection do to each other, and what becomes of them when it ends."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from synchro.wire.grpc_call import StatusCode
from tests.conformance.conftest import Pair
from tests.conformance.exchange import KIB, MIB, Exchange, Face, FaceOptions, Journal, Kind, pattern, summary
from tests.conformance.faces import FACES, open_face
from tests.conformance.scripted import Act, ScriptedServer
from tests.conformance.servers import OurServer

OK, UNAVAILABLE = StatusCode.OK, StatusCode.UNAVAILABLE


@pytest.fixture(params=list(FACES))
def face_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


# --- the end of a connection ------------------------------------------------------------------------------


def test_a_server_that_is_started_anew_loses_no_call_and_gets_none_twice(face_kind: str) -> None:
    """It lets calls in progress end and tells clients by GOAWAY which ones it has not looked at; those they
    repeat by themselves."""
    journal, count = Journal(), 600
    exchange = Exchange("Echo", (b"x",), metadata=(("x-call", "one of many"),), wait_for_ready=True)
    server = OurServer(journal=journal)
    server.__enter__()
    face = open_face(face_kind, server.address)
    try:
        with ThreadPoolExecutor(1) as pool:
            calls = pool.submit(face.many, exchange, count=count, at_once=20)
            for part in (100, 250, 400):
                journal.wait(f"{part} calls", lambda part=part: journal.begun.total() >= part)  # type: ignore[misc]
                server.call(server.server.stop, 5.0)
                server.__exit__()
                server = OurServer(server.address, journal=journal)
                server.__enter__()
            assert calls.result() == Counter({OK: count})
        assert journal.begun.total() == count
        assert len(journal.peers) >= 3
    finally:
        face.close()
        server.__exit__()


def test_a_stream_that_is_under_way_ends_well_on_a_server_that_stops(face_kind: str) -> None:
    """The client takes nothing for a while; meanwhile a call that is new finds no server."""
    exchange = Exchange("Count", (b"200 65536",), Kind.SERVER, pause_s=0.6)
    with OurServer() as server, ThreadPoolExecutor(2) as pool:
        face = open_face(face_kind, server.address)
        try:
            call = pool.submit(face.run, exchange)
            server.journal.wait("it is under way", lambda: server.journal.made[""] > 1)
            stop = pool.submit(server.call, server.server.stop, 10.0)
            links = server.server.listener.links
            server.journal.wait(
                "the client has heard of it",
                lambda: server.ask(lambda: all(link.h2.is_going_away for link in links)),
            )
            assert face.run(Exchange("Echo", (b"x",), timeout_s=5.0)).code is UNAVAILABLE
            outcome = call.result()
            stop.result()
        finally:
            face.close()
    assert (outcome.code, len(outcome.replies)) == (OK, 200)


def test_a_client_repeats_elsewhere_what_goaway_says_nobody_has_looked_at(face_kind: str) -> None:
    with ScriptedServer(Act.DISOWN) as server:
        face = open_face(face_kind, server.address)
        try:
            assert face.run(Exchange("Echo", (b"x",))).reply == b""
        finally:
            face.close()
        assert (server.calls, server.connections) == (2, 2)


def test_a_client_repeats_a_stream_that_was_refused(face_kind: str) -> None:
    """Those of grpcio leave it to their callers: a server that stops says GOAWAY, and one that is busy
    says so beforehand, by SETTINGS."""
    with ScriptedServer(Act.REFUSE) as server:
        face = open_face(face_kind, server.address)
        try:
            outcome = face.run(Exchange("Echo", (b"x",)))
        finally:
            face.close()
        is_repeated = face_kind in ("channel", "grpc-js")
        assert outcome.code is (OK if is_repeated else UNAVAILABLE)
        assert (server.calls, server.connections) == (2 if is_repeated else 1, 1)


def test_a_call_that_was_looked_at_ends_on_the_connection_that_goes_away(face_kind: str) -> None:
    with ScriptedServer(Act.ANSWER_AND_LEAVE) as server:
        face = open_face(face_kind, server.address)
        try:
            assert face.run(Exchange("Echo", (b"x",))).reply == b""
            assert (server.calls, server.connections) == (1, 1)
            assert face.run(Exchange("Echo", (b"x",))).reply == b""
            assert (server.calls, server.connections) == (2, 2)
        finally:
            face.close()


@pytest.mark.parametrize("act", [Act.TAKE_AND_LOSE, Act.LOSE])
def test_a_call_that_may_have_been_looked_at_is_not_repeated(face_kind: str, act: Act) -> None:
    with ScriptedServer(act) as server:
        face = open_face(face_kind, server.address)
        try:
            assert face.run(Exchange("Echo", (b"x",))).code is UNAVAILABLE
        finally:
            face.close()
        assert server.calls == 1


def test_pings_of_an_idle_connection_are_answered_and_counted_against_nobody(pair: Pair) -> None:
    face = pair.another(FaceOptions(keepalive_s=0.1))
    try:
        pair.server.journal.peers.clear()
        face.run(Exchange("Echo", (b"x",)))
        time.sleep(1.0)
        face.run(Exchange("Echo", (b"x",)))
        assert len(pair.server.journal.peers) == 1
    finally:
        face.close()


# --- many calls -------------------------------------------------------------------------------------------


def test_ten_thousand_calls_share_a_connection(pair: Pair) -> None:
    if pair.server_kind == "grpcio" and pair.face_kind == "grpcio":
        pytest.skip("says nothing of ours, and takes long")
    pair.server.journal.peers.clear()
    codes = pair.face.many(Exchange("EchoSync", (b"x" * 100,)), count=10_000, at_once=100)
    assert codes == Counter({OK: 10_000})
    assert len(pair.server.journal.peers) == 1


# --- windows ----------------------------------------------------------------------------------------------


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def is_answered(face: Face) -> bool:
    """While the others are still held up."""
    return face.run(Exchange("Echo", (b"neighbour",))).code is OK


def test_a_client_that_takes_nothing_stops_its_server_and_nobody_else(
    pair: Pair, pool: ThreadPoolExecutor
) -> None:
    journal, count, name = pair.server.journal, 1600, "a stream that nobody reads"
    exchange = Exchange(
        "Count",
        (b"%d %d" % (count, 64 * KIB),),
        Kind.SERVER,
        metadata=(("x-call", name),),
        pause_s=2.4,
    )
    journal.made.clear()
    call = pool.submit(pair.face.run, exchange)
    journal.wait("the server has begun", lambda: journal.made[name] > 1)
    time.sleep(0.6)
    assert journal.made[name] < count // 2
    assert is_answered(pair.face)
    # grpcio measures the link with such calls, and opens its windows further: to some 20 MiB.
    assert journal.made[name] < count // 2
    if pair.face_kind == "channel":
        assert journal.made[name] < 300
    outcome = call.result()
    assert outcome.code is OK
    assert [int.from_bytes(reply[:4], "big") for reply in outcome.replies] == list(range(count))


@pytest.mark.parametrize("streams", [1, 20])
def test_a_server_that_takes_nothing_stops_its_client_and_nobody_else(
    pair: Pair, pool: ThreadPoolExecutor, streams: int
) -> None:
    """Each holds its window, 1 MiB: 20 have more than the connection's, 16 MiB."""
    journal = pair.server.journal
    journal.gate = threading.Event()
    journal.begun.clear()
    messages = [pattern(64 * KIB)] * (2 * MIB // (64 * KIB))
    exchange = Exchange("Held", tuple(messages), Kind.CLIENT, metadata=(("x-call", "held"),))
    calls = [pool.submit(pair.face.run, exchange) for _ in range(streams)]
    try:
        journal.wait("all begun", lambda: journal.begun["held"] == streams)
        time.sleep(0.2)
        assert is_answered(pair.face)
        assert not any(call.done() for call in calls)
    finally:
        journal.gate.set()
    assert {call.result().reply for call in calls} == {summary(messages)}
