"""What strangers see at the socket who take too much of a port or of a call, or too much time, while an
honest client is answered in time. Each limit is taken out once, to see that it is what stops them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import pytest

from synchro.rpc import calls
from synchro.wire import admission, frames, listener
from synchro.wire.admission import PortLimits
from synchro.wire.frames import PREFACE, WINDOW_MAX, ErrorCode
from synchro.wire.grpc_call import StatusCode
from synchro.wire.limits import KIB, MIB, WireLimits
from synchro.wire.link import Keepalive, Link
from tests.conformance.servers import OurServer
from tests.shell.stranger import Stranger, call, frame, head, message, number, rst, under_attack, window

WITHOUT: Final = 10**9
"""A limit that is not there."""
QUIET: Final = Keepalive(after_s=WITHOUT, timeout_s=1.0)
SETTINGS: Final = frames.settings({})


def link_of(server: OurServer, stranger: Stranger) -> Link:
    """The server's end of a connection."""
    port = stranger.sock.getsockname()[1]

    def found() -> list[Link]:
        return [link for link in server.server.listener.links if link.peer.endswith(f":{port}")]

    server.journal.wait("it is accepted", lambda: len(server.ask(found)) == 1)
    return server.ask(found)[0]


# --- one call ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1024, WITHOUT])
def test_calls_beyond_those_at_a_time_are_refused(limit: int) -> None:
    """REFUSED_STREAM: nobody has looked at them. SETTINGS had said so."""
    limits = replace(WireLimits(), streams_max=min(limit, 2**31 - 1))
    with under_attack(wire_limits=limits) as (server, _), Stranger(server.address) as stranger:
        stranger.hello().say(*(call(2 * n + 1, "Hang") for n in range(1030)))
        assert stranger.is_served()
        server.journal.wait("begun", lambda: server.journal.begun[""] >= min(limit, 1030))
        refused = {2 * n + 1: ErrorCode.REFUSED_STREAM for n in range(limit, 1030)}
        assert stranger.resets == refused


@pytest.mark.parametrize("limit", [16 * MIB, WITHOUT])
def test_a_message_that_is_too_large_is_refused_when_it_begins(limit: int) -> None:
    begin = b"\0" + number(16 * MIB + 1) + bytes(1000)
    limits = replace(WireLimits(), message_bytes_max=limit)
    with under_attack(wire_limits=limits) as (server, _), Stranger(server.address) as stranger:
        stranger.hello().say(head(1, "Echo"), frame(frames.DATA, 0, 1, begin))
        assert stranger.is_served()
        assert stranger.statuses == ({1: StatusCode.RESOURCE_EXHAUSTED} if limit < WITHOUT else {})


@pytest.mark.parametrize("window_bytes", [128 * KIB, MIB])
def test_data_beyond_the_window_of_a_call_end_it(window_bytes: int) -> None:
    limits = replace(WireLimits(), stream_window_bytes=window_bytes)
    with under_attack(wire_limits=limits) as (server, _), Stranger(server.address) as stranger:
        stranger.hello().say(head(1, "Held"), *[message(1, bytes(10_000), end=False)] * 40)
        assert stranger.is_served()
        is_beyond = window_bytes < 400_000
        assert stranger.resets == ({1: ErrorCode.FLOW_CONTROL_ERROR} if is_beyond else {})
        server.journal.gate.set()


@pytest.mark.parametrize("limit", [5 * MIB, WITHOUT])
def test_answers_that_the_client_does_not_take_are_kept_up_to_a_limit(limit: int) -> None:
    """A window of 0 that is never opened: CVE-2019-9517."""
    limits = replace(WireLimits(), queued_bytes_max=limit)
    with under_attack(wire_limits=limits) as (server, _), Stranger(server.address) as stranger:
        stranger.hello(initial_window_size=0)
        stranger.say(*(call(2 * n + 1, "Large", b"1000000") for n in range(20)))
        assert stranger.is_served()
        assert set(stranger.resets.values()) == ({ErrorCode.ENHANCE_YOUR_CALM} if limit < WITHOUT else set())
        link = link_of(server, stranger)
        queued = server.ask(lambda: link.h2.queued_bytes)
        assert queued <= limit
        assert (queued > 19 * MIB * 0.95) == (limit == WITHOUT)


@pytest.mark.parametrize("linger_s", [0.1, WITHOUT])
@pytest.mark.parametrize("method", ["Echo", "EchoSync", "EchoTogether", "EchoBoth"])
def test_an_answer_that_nobody_takes_is_given_up(
    method: str, linger_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LINGER_S", linger_s)
    with under_attack() as (server, _), Stranger(server.address) as stranger:
        stranger.hello(initial_window_size=0).say(call(1, method, bytes(1000)))
        stranger.hear(lambda: stranger.resets, 1.0)
        assert stranger.resets == ({1: ErrorCode.CANCEL} if linger_s < WITHOUT else {})
        assert stranger.is_served()


@pytest.mark.parametrize(
    ("piece", "code"),
    [
        (window(0, 0), ErrorCode.PROTOCOL_ERROR),
        (window(0, WINDOW_MAX), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: WINDOW_MAX + 1}), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 1}), ErrorCode.PROTOCOL_ERROR),
        (head(1, "Held") + window(1, WINDOW_MAX - 65_535) + SETTINGS, None),
        (
            head(1, "Held")
            + window(1, WINDOW_MAX - 65_535)
            + frames.settings({frames.INITIAL_WINDOW_SIZE: 65_536}),
            ErrorCode.FLOW_CONTROL_ERROR,
        ),
    ],
)
def test_windows_that_cannot_be_end_the_connection(piece: bytes, code: ErrorCode | None) -> None:
    with under_attack() as (server, _), Stranger(server.address) as stranger:
        stranger.hello().say(piece)
        if code is None:
            assert stranger.is_served()
        else:
            assert stranger.ends()
        assert stranger.goaway is code
        server.journal.gate.set()


@pytest.mark.parametrize(
    ("more", "code"), [(0, ErrorCode.PROTOCOL_ERROR), (WINDOW_MAX, ErrorCode.FLOW_CONTROL_ERROR)]
)
def test_windows_of_a_call_that_cannot_be_end_the_call(more: int, code: ErrorCode) -> None:
    with under_attack() as (server, _), Stranger(server.address) as stranger:
        stranger.hello().say(head(1, "HangBoth"), window(1, more))
        assert stranger.is_served()
        assert stranger.resets == {1: code}
        server.journal.wait("the handler is cancelled", lambda: server.journal.cancelled[""] == 1)


# --- who does not read, and who does not speak ------------------------------------------------------------


@pytest.mark.parametrize("keepalive", [Keepalive(after_s=0.3, timeout_s=0.3), QUIET])
def test_who_reads_nothing_costs_little_and_is_closed(keepalive: Keepalive) -> None:
    """Windows without end, and a socket that nobody reads. The answer to our PING cannot come."""
    count = 4000
    with (
        under_attack(keepalive=keepalive) as (server, _),
        Stranger(server.address, receive_bytes=4096) as stranger,
    ):
        stranger.hello(initial_window_size=WINDOW_MAX)
        stranger.say(window(0, WINDOW_MAX - 65_535), call(1, "Count", b"%d 65536" % count))
        server.journal.wait("it has begun", lambda: server.journal.made[""] > 0)
        link = link_of(server, stranger)
        time.sleep(1.5)
        assert server.ask(lambda: link.is_over) == (keepalive is not QUIET)
        held = server.ask(lambda: len(link._backlog) + link.h2.queued_bytes)
        assert held < 10 * MIB
        assert server.journal.made[""] < count // 2


@pytest.mark.parametrize("limit", [8 * MIB, WITHOUT])
def test_who_asks_and_does_not_read_holds_a_bounded_amount(limit: int) -> None:
    """60 MB of answers; the windows let all of them go, the socket does not."""
    limits = replace(WireLimits(), queued_bytes_max=limit)
    with (
        under_attack(wire_limits=limits) as (server, _),
        Stranger(server.address, receive_bytes=4096) as stranger,
    ):
        stranger.hello(initial_window_size=WINDOW_MAX).say(window(0, WINDOW_MAX - 65_535))
        link = link_of(server, stranger)
        for first in range(0, 600, 10):
            stranger.say(*(call(2 * (first + n) + 1, "Large", b"100000") for n in range(10)))
        time.sleep(0.3)
        held = server.ask(lambda: len(link._backlog) + link.h2.queued_bytes)
        assert (held < limit + 2 * WireLimits().unsent_data_bytes_max) and (held > 40 * MIB) == (
            limit == WITHOUT
        )


@pytest.mark.parametrize("limit", [1000, WITHOUT])
def test_who_asks_on_and_reads_nothing_is_closed(limit: int) -> None:
    """Empty answers are under no window: they are counted."""
    limits = replace(WireLimits(), unsent_frames_max=limit)
    with (
        under_attack(wire_limits=limits) as (server, _),
        Stranger(server.address, receive_bytes=4096) as stranger,
    ):
        stranger.hello(initial_window_size=WINDOW_MAX).say(window(0, WINDOW_MAX - 65_535))
        link = link_of(server, stranger)
        stranger.say(call(1, "Large", b"4000000"))
        server.journal.wait("it is stuck", lambda: server.ask(lambda: len(link._backlog)) > 0)
        stranger.say(*(call(2 * n + 3, "EchoSync") for n in range(1500)))
        if limit < WITHOUT:
            server.journal.wait("it is closed", lambda: server.ask(lambda: link.is_over))
            assert stranger.ends()
            assert stranger.goaway is ErrorCode.ENHANCE_YOUR_CALM
        else:
            server.journal.wait("all are served", lambda: server.journal.begun[""] >= 1500)
            assert not server.ask(lambda: link.is_over)


@pytest.mark.parametrize("limit", [MIB, WITHOUT])
def test_messages_that_do_not_end_are_kept_up_to_a_limit(limit: int) -> None:
    """The call that goes beyond is refused, and those before may end."""
    limits = replace(WireLimits(), partial_bytes_max=limit)
    part = b"\0" + number(500_000) + bytes(399_995)
    with under_attack(wire_limits=limits) as (server, _), Stranger(server.address) as stranger:
        stranger.hello()
        for stream_id in (1, 3, 5):
            stranger.say(head(stream_id, "Echo"), frame(frames.DATA, 0, stream_id, part))
        assert stranger.is_served()
        assert stranger.statuses == ({5: StatusCode.RESOURCE_EXHAUSTED} if limit < WITHOUT else {})
        stranger.say(window(0, 10**6), window(1, 10**6))
        stranger.say(frame(frames.DATA, frames.END_STREAM, 1, bytes(100_005)))
        assert stranger.hear(lambda: stranger.statuses.get(1) is StatusCode.OK)


@pytest.mark.parametrize("limit", [MIB, WITHOUT])
@pytest.mark.parametrize("method", ["Echo", "EchoSync", "EchoTogether", "Count"])
def test_requests_whose_calls_do_not_end_are_kept_up_to_a_limit(
    method: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message is whole, so its window is given back; the call that goes beyond is refused. What ended
    counts no more."""
    monkeypatch.setattr(calls, "UNENDED_BYTES_MAX", limit)
    request = bytes(400_000)
    with under_attack() as (server, _), Stranger(server.address) as stranger:
        stranger.hello()
        for stream_id in (1, 3, 5):
            stranger.say(head(stream_id, method), message(stream_id, request, end=False))
        assert stranger.is_served()
        assert stranger.statuses == ({5: StatusCode.RESOURCE_EXHAUSTED} if limit < WITHOUT else {})
        stranger.say(window(0, 10**6), window(3, 10**6))
        stranger.say(rst(1), head(7, method), message(7, request, end=False))
        stranger.say(frame(frames.DATA, frames.END_STREAM, 3))
        stranger.say(head(9, method), message(9, request, end=False))
        assert stranger.hear(lambda: 3 in stranger.statuses)
        assert stranger.is_served()
        assert not stranger.statuses.keys() & {7, 9}


@pytest.mark.parametrize("stalled_s", [0.6, WITHOUT])
def test_who_speaks_on_and_reads_nothing_is_closed(stalled_s: float) -> None:
    """Its windows are open and nothing waits for them: the answer lies in front of its socket."""
    limits = replace(PortLimits(), stalled_s=stalled_s)
    with (
        under_attack(limits=limits) as (server, _),
        Stranger(server.address, receive_bytes=4096) as stranger,
    ):
        stranger.hello(initial_window_size=WINDOW_MAX).say(window(0, WINDOW_MAX - 65_535))
        link = link_of(server, stranger)
        stranger.say(call(1, "Large", b"4000000"))
        server.journal.wait("it is stuck", lambda: server.ask(lambda: len(link._backlog)) > 0)
        assert not server.ask(lambda: link.h2.queued_bytes)
        for _ in range(20):
            stranger.say(frames.ping(bytes(8), is_ack=True))
            time.sleep(0.1)
        assert server.ask(lambda: link.is_over) == (stalled_s < WITHOUT)


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("method", ["Echo", "Hang"])
def test_silence_ends_a_connection_only_if_it_does_not_answer_a_ping(answers: bool, method: str) -> None:
    """Whether a call goes on or not."""
    keepalive = Keepalive(after_s=0.2, timeout_s=0.2)
    with under_attack(keepalive=keepalive) as (server, _), Stranger(server.address) as stranger:
        stranger.hello().say(call(1, method))
        stranger.answers = answers
        assert stranger.ends(1.0) != answers
        assert stranger.goaway is (None if answers else ErrorCode.NO_ERROR)
        assert answers or "ping" in stranger.why


# --- the port ---------------------------------------------------------------------------------------------


def trickle(stranger: Stranger) -> None:
    for byte in PREFACE[:3]:
        stranger.say(bytes([byte]))
        time.sleep(0.1)


SLOW: Final[dict[str, tuple[str, Callable[[Stranger], object]]]] = {
    "nothing": ("first_bytes_s", lambda stranger: None),
    "half a preface": ("first_bytes_s", lambda stranger: stranger.say(PREFACE[:12])),
    "a preface byte by byte": ("first_bytes_s", trickle),
    "a preface, no request": ("first_request_s", lambda stranger: stranger.hello()),
    "a preface, half a request": (
        "first_request_s",
        lambda stranger: stranger.hello().say(head(1, "Echo")[:20]),
    ),
    "pings, no request": (
        "first_request_s",
        lambda stranger: stranger.hello().say(*[frames.ping(bytes(8))] * 10),
    ),
}


@pytest.mark.parametrize("is_limited", [True, False])
@pytest.mark.parametrize("name", list(SLOW))
def test_who_takes_too_long_to_say_what_it_wants_is_closed(name: str, is_limited: bool) -> None:
    limit, do = SLOW[name]
    limits: dict[str, Any] = {
        "first_bytes_s": WITHOUT,
        "first_request_s": WITHOUT,
        limit: 0.4 if is_limited else WITHOUT,
    }
    with (
        under_attack(limits=replace(PortLimits(), **limits)) as (server, _),
        Stranger(server.address) as stranger,
    ):
        do(stranger)
        assert stranger.ends(1.0) == is_limited
        assert stranger.goaway is (ErrorCode.NO_ERROR if is_limited else None)
        assert not is_limited or "in time" in stranger.why


@pytest.fixture
def strangers() -> Iterator[Callable[[str, int], list[Stranger]]]:
    """Makes so many, each with a call under way, as far as it is let."""
    with ExitStack() as stack:

        def make(address: str, count: int) -> list[Stranger]:
            made = [stack.enter_context(Stranger(address)) for _ in range(count)]
            for stranger in made:
                stranger.hello().say(call(1, "Echo"))
                stranger.hear(lambda stranger=stranger: stranger.statuses)  # type: ignore[misc]
            return made

        yield make


@pytest.mark.parametrize("is_limited", [True, False])
@pytest.mark.parametrize("limit", ["connections_max", "per_address_max"])
def test_connections_beyond_the_limit_are_closed_and_those_before_stay(
    limit: str, is_limited: bool, strangers: Callable[[str, int], list[Stranger]]
) -> None:
    """One of them is the honest client's."""
    limits: dict[str, Any] = {"share": 0, limit: 5 if is_limited else 1000}
    with under_attack(limits=replace(PortLimits(), **limits)) as (server, log):
        made = strangers(server.address, 8)
        assert [stranger.is_closed for stranger in made] == [False] * 4 + [is_limited] * 4
        assert log.events == ["connection_refused"] * is_limited
        assert all(stranger.is_served() for stranger in made[:4])
        made[0].sock.close()
        server.journal.wait(
            "it is gone",
            lambda: server.ask(lambda: server.server.listener.admission.count) < 5 + 4 * (not is_limited),
        )
        (late,) = strangers(server.address, 1)
        assert late.is_served()


@pytest.mark.parametrize("limit", [3 * MIB, WITHOUT])
def test_connections_hold_a_bounded_amount_together(limit: int) -> None:
    """Each is within its own limits. The one that has most goes, and says why; the small one stays."""
    begin = b"\0" + number(4 * MIB)
    with (
        under_attack(limits=replace(PortLimits(), kept_bytes_max=limit)) as (server, log),
        Stranger(server.address) as large,
        Stranger(server.address) as small,
    ):
        small.hello().say(head(1, "Echo"), frame(frames.DATA, 0, 1, begin + bytes(10_000)))
        assert small.is_served()
        large.hello()
        for stream_id in range(1, 13, 2):
            large.say(head(stream_id, "Echo"), frame(frames.DATA, 0, stream_id, begin + bytes(600_000)))
        if limit < WITHOUT:
            assert large.ends()
            assert (large.goaway, log.events) == (ErrorCode.ENHANCE_YOUR_CALM, ["connection_faulty"])
            assert "limits.connections_bytes_max" in large.why
        else:
            assert large.is_served()
        assert small.is_served()
        kept = server.ask(lambda: server.server.listener.kept_bytes)
        assert (kept > 3 * MIB) == (limit == WITHOUT)
        assert kept >= 10_000


@pytest.mark.parametrize("what", ["a request that does not end", "an answer that nobody takes"])
def test_what_is_kept_is_counted_and_given_back(what: str) -> None:
    """Link.K4: whatever keeps it, until the connection is gone."""
    with under_attack() as (server, _), Stranger(server.address) as stranger:
        stranger.hello(initial_window_size=0)
        if what == "an answer that nobody takes":
            stranger.say(call(1, "Large", b"1000000"))
        else:
            stranger.say(head(1, "Echo"), message(1, bytes(500_000), end=False))
        listener = server.server.listener
        server.journal.wait("it is counted", lambda: server.ask(lambda: listener.kept_bytes) >= 500_000)
        stranger.say(rst(1))
        server.journal.wait("it is given back", lambda: server.ask(lambda: listener.kept_bytes) == 0)
        stranger.say(call(3, "Large", b"1000000"))
        server.journal.wait("again", lambda: server.ask(lambda: listener.kept_bytes) >= 500_000)
        stranger.sock.close()
        server.journal.wait("it is gone", lambda: server.ask(lambda: listener.kept_bytes) == 0)


@pytest.mark.parametrize("idle_s", [0.3, WITHOUT])
def test_who_made_one_call_does_not_keep_others_out(
    idle_s: float, strangers: Callable[[str, int], list[Stranger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission.C3: who has a call under way stays, and the end is one in good order."""
    for module in (admission, listener):
        monkeypatch.setattr(module, "IDLE_S", idle_s)
    limits = replace(PortLimits(), connections_max=6, share=2)
    with under_attack(limits=limits) as (server, _):
        busy, *idle = strangers(server.address, 5)
        busy.say(call(3, "Hang"))
        server.journal.wait("it hangs", lambda: server.journal.begun[""] > 5)
        idle[0].ends(1.5)
        ended = [stranger for stranger in idle if not stranger.is_served()]
        assert bool(ended) == (idle_s < WITHOUT)
        assert all(stranger.goaway is ErrorCode.NO_ERROR for stranger in ended)
        assert busy.is_served()


def test_a_call_that_is_on_its_way_is_served_before_an_idle_connection_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Admission.C3: not every client repeats what GOAWAY disowns; streams of ours do not."""
    monkeypatch.setattr(admission, "IDLE_S", 0.2)  # the test looks, not the timer
    limits = replace(PortLimits(), connections_max=3, share=2)
    with under_attack(limits=limits) as (server, _), Stranger(server.address) as stranger:
        stranger.answers = True
        stranger.hello().say(call(1, "Echo"))
        assert stranger.hear(lambda: 1 in stranger.statuses)
        port = server.server.listener

        def look_while_it_calls() -> None:
            stranger.say(call(3, "Echo"))
            port._end_idle()

        server.ask(port._end_idle)
        time.sleep(0.3)
        server.ask(look_while_it_calls)
        assert stranger.ends()
        assert stranger.statuses == {1: StatusCode.OK, 3: StatusCode.OK}
        assert stranger.goaway is ErrorCode.NO_ERROR


def test_idle_connections_make_room_whenever_there_is_none(
    strangers: Callable[[str, int], list[Stranger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission.C3: also when the room that there was is taken by the next one that comes."""
    for module in (admission, listener):
        monkeypatch.setattr(module, "IDLE_S", 0.3)
    limits = replace(PortLimits(), connections_max=4, share=2)
    with under_attack(limits=limits) as (server, _):
        idle, leaves = strangers(server.address, 2)
        port = server.server.listener
        server.journal.wait("crowded", lambda: server.ask(lambda: port.admission.is_crowded))
        leaves.sock.close()
        server.journal.wait("there is room", lambda: server.ask(lambda: port._idle_timer is None))
        strangers(server.address, 1)
        assert idle.ends()
        assert idle.goaway is ErrorCode.NO_ERROR


def test_who_was_ended_for_what_it_holds_ends_nobody_else() -> None:
    """Its last bytes lie in front of its socket for a moment."""
    with (
        under_attack(limits=replace(PortLimits(), kept_bytes_max=MIB)) as (server, _),
        Stranger(server.address, receive_bytes=4096) as large,
        Stranger(server.address) as small,
    ):
        begin = b"\0" + number(MIB)
        small.hello().say(head(1, "Echo"), frame(frames.DATA, 0, 1, begin + bytes(10_000)))
        assert small.is_served()
        large.hello(initial_window_size=WINDOW_MAX).say(window(0, WINDOW_MAX - 65_535))
        link = link_of(server, large)
        large.say(call(1, "Large", b"16000000"))
        server.journal.wait("it is ended", lambda: server.ask(lambda: link.is_over))
        assert server.ask(lambda: link.kept_bytes) > MIB
        small.say(frame(frames.DATA, 0, 1, bytes(1000)))
        assert small.is_served()
        assert small.goaway is None
