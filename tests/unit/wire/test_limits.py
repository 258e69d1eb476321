"""RFC 9113, 10.5: a peer that is careless or means harm. Each limit is met, and what it stops goes on
without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from synchro.wire import frames
from synchro.wire.frames import ConnectionFault, ErrorCode, StreamsExhausted
from synchro.wire.headers import HeaderDecoder, header_block
from synchro.wire.limits import Allowance, WireLimits
from synchro.wire.streams import BadMessage
from tests.unit.wire.wire_world import (
    KIB,
    MIB,
    REQUEST,
    RESPONSE,
    TRAILERS,
    End,
    client,
    data,
    frame,
    goaway,
    headers,
    message,
    request,
    resets,
    rst,
    server,
    settings,
    window,
)

WITHOUT = 10**9
"""A limit that is not there."""
ATTACKS: dict[str, list[Callable[..., bool]]] = {}
"""Limit -> functions that do what it stops: keyword arguments for `WireLimits` -> whether they were
stopped."""


def stops(name: str, small: float) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Register an attack. small: the value of the limit that stops it."""

    def register(attack: Callable[..., bool]) -> Callable[..., bool]:
        ATTACKS.setdefault(name, []).append(lambda value=small, **more: attack(**{name: value}, **more))
        return attack

    return register


def code_of(end: End, *pieces: bytes) -> ErrorCode | None:
    """Why the connection ended; None if it did not."""
    try:
        end.receive(*pieces)
    except ConnectionFault as fault:
        return fault.code
    return None


def is_calmed(end: End, *pieces: bytes) -> bool:
    code = code_of(end, *pieces)
    assert code in (None, ErrorCode.ENHANCE_YOUR_CALM)
    return code is not None


# --- how much -------------------------------------------------------------------------------------------


@stops("message_bytes_max", 1000)
def _a_large_message(**limits: Any) -> bool:
    end = server(**limits).receive(request(1), data(1, message(bytes(1001))[:10]), data(1, bytes(996)))
    return end.told()[1:] == [("bad message", 1, BadMessage.TOO_LARGE, 1001)]


@stops("streams_max", 3)
def _many_streams(**limits: Any) -> bool:
    end = server(**limits).receive(*[request(stream_id) for stream_id in range(1, 11, 2)])
    refused = {7: ErrorCode.REFUSED_STREAM, 9: ErrorCode.REFUSED_STREAM}
    assert resets(end.sent()) in ({}, refused)
    return len(end.h2.streams) == 3


@stops("header_list_bytes_max", 2000)
def _a_large_block(**limits: Any) -> bool:
    end = server(**{**limits, "continuations_max": WITHOUT})
    return is_calmed(end, headers(1, bytes(1990), flags=0), frame(frames.CONTINUATION, 0, 1, bytes(20)))


@stops("header_list_bytes_max", 2000)
def _a_large_block_at_once(**limits: Any) -> bool:
    return is_calmed(server(**limits), headers(1, [*REQUEST, (b"x", bytes(b"y" * 2000))]))


@stops("header_list_bytes_max", 2000)
def _many_small_fields(**limits: Any) -> bool:
    """Short on the wire, long when read: each counts 32 bytes and more."""
    code = code_of(server(**limits), headers(1, [*REQUEST, *[(b"x", b"")] * 100]))
    return code is ErrorCode.COMPRESSION_ERROR


@stops("frame_bytes_max", 20_000)
def _a_large_frame(**limits: Any) -> bool:
    code = code_of(server(**limits), request(1), frames.HEAD.pack(20_001 << 8, 0, 1))
    return code is ErrorCode.FRAME_SIZE_ERROR


@stops("stream_window_bytes", 70_000)
def _more_than_a_window(**limits: Any) -> bool:
    end = server(**limits).receive(request(1))
    end.opened[1].hold_window()
    end.receive(*[data(1, message(bytes(9_995)))] * 8)
    return resets(end.sent()) == {1: ErrorCode.FLOW_CONTROL_ERROR}


@stops("held_bytes_max", 0)
def _more_than_readers_may_hold(**limits: Any) -> bool:
    return _more_than_all_windows(connection_window_bytes=70_000, **limits)


@stops("connection_window_bytes", 70_000)
def _more_than_all_windows(**limits: Any) -> bool:
    end = server(**{"held_bytes_max": 0, **limits})
    end.receive(*[request(i) for i in (1, 3)])
    end.opened[1].hold_window()
    end.opened[3].hold_window()
    code = code_of(end, *[data(1, message(bytes(9_995)))] * 5, *[data(3, message(bytes(9_995)))] * 5)
    return code is ErrorCode.FLOW_CONTROL_ERROR


@stops("partial_bytes_max", 100_000)
def _many_incomplete_messages(**limits: Any) -> bool:
    end = server(**limits)
    part = message(bytes(MIB))[:30_000]
    for stream_id in (1, 3, 5, 7):
        end.receive(request(stream_id), data(stream_id, part))
    assert end.h2.partial_bytes <= 4 * 30_000
    return ("bad message", 7, BadMessage.NO_ROOM, 30_000) in end.told()


@stops("partial_bytes_max", 100_000)
def _one_incomplete_message(**limits: Any) -> bool:
    end = server(**limits).receive(request(1), *[data(1, message(bytes(MIB))[:60_000])] * 2)
    return ("bad message", 1, BadMessage.NO_ROOM, 120_000) in end.told()


@stops("queued_bytes_max", 50_000)
def _a_reader_that_gives_no_window(**limits: Any) -> bool:
    end = server(**limits).receive(settings(initial_window_size=0))
    for stream_id in range(1, 21, 2):
        end.receive(request(stream_id, end=True))
        end.opened[stream_id].answer(header_block(RESPONSE), bytes(10_000), header_block(TRAILERS))
    assert not resets(end.sent()) or end.h2.queued_bytes <= 50_000
    return [what for what in end.told() if what[0] == "reset"] == [
        ("reset", stream_id, ErrorCode.ENHANCE_YOUR_CALM) for stream_id in range(9, 21, 2)
    ]


@stops("unsent_data_bytes_max", MIB)
def _a_reader_that_gives_all_windows_and_reads_nothing(**limits: Any) -> bool:
    end = server(**limits).receive(settings(initial_window_size=2**31 - 1), window(0, 2**31 - 1 - 65_535))
    end.receive(request(1, end=True))
    for _ in range(64):
        end.opened[1].send_message(bytes(64 * KIB))
    return len(end.h2.take()) < 2 * MIB


@stops("unsent_frames_max", 100)
def _answers_that_are_not_read(**limits: Any) -> bool:
    return is_calmed(server(**limits), *[frames.ping(bytes(8))] * 102)


@stops("unsent_frames_max", 100)
def _calls_whose_answers_are_not_read(**limits: Any) -> bool:
    end = server(**limits)
    for stream_id in range(1, 101, 2):
        if is_calmed(end, request(stream_id, end=True)):
            return True
        end.opened[stream_id].answer(header_block(RESPONSE), b"", header_block(TRAILERS))
    return False


@stops("pending_streams_max", 3)
def _calls_of_ours_that_the_peer_does_not_take(**limits: Any) -> bool:
    end = client(**limits).receive(settings(max_concurrent_streams=1))
    try:
        for _ in range(5):
            end.open()
    except StreamsExhausted:
        return len(end.h2.pending) == 3
    return False


@stops("known_blocks_max", 10)
def _many_blocks(**limits: Any) -> bool:
    decoder = HeaderDecoder(replace(WireLimits(), **limits), is_client=False)
    for n in range(100):
        decoder.decode(header_block([*REQUEST, (b"x", b"%d" % n)]))
    return len(decoder.known) <= 10


@stops("known_bytes_max", 1000)
def _large_blocks(**limits: Any) -> bool:
    decoder = HeaderDecoder(replace(WireLimits(), **limits), is_client=False)
    for n in range(5):
        decoder.decode(header_block([(b"x", b"%d" % n * 400)]))
    return len(decoder.known) <= 2


@stops("known_bytes_max", 1000)
def _one_large_block(**limits: Any) -> bool:
    decoder = HeaderDecoder(replace(WireLimits(), **limits), is_client=False)
    decoder.decode(header_block([(b"x", b"y" * 1000)]))
    return not decoder.known


@stops("table_changes_max", 2)
def _many_changes_of_the_table(**limits: Any) -> bool:
    block = b"\x20\x3f\xe1\x1f\x3f\x00" + header_block(REQUEST)
    return code_of(server(**limits), headers(1, block)) is ErrorCode.COMPRESSION_ERROR


@stops("remembered_resets_max", 10)
def _ids_of_streams_that_were_reset(**limits: Any) -> bool:
    end = server(**limits)
    for stream_id in range(1, 41, 2):
        end.receive(request(stream_id))
        end.opened[stream_id].reset()
    end.receive(data(1, b"late"), data(39, b"late"), data(19, b"late"))  # never a fault, remembered or not
    return len(end.h2._reset_here) <= 10


# --- how often ------------------------------------------------------------------------------------------


@stops("continuations_max", 5)
def _a_block_without_end(**limits: Any) -> bool:
    return is_calmed(server(**limits), headers(1, b"", flags=0), *[frame(frames.CONTINUATION, 0, 1)] * 6)


@stops("settings_values_max", 5)
def _settings_with_many_values(**limits: Any) -> bool:
    payload = b"".join(frames.SETTING.pack(1000 + n, n) for n in range(6))  # not looked at, so no other code
    return is_calmed(server(**limits), frame(frames.SETTINGS, 0, 0, payload))


@stops("settings_burst", 5)
def _many_settings(**limits: Any) -> bool:
    return is_calmed(server(**limits), *[settings()] * 7)


@stops("resets_burst", 5)
def _rapid_reset(**limits: Any) -> bool:
    """CVE-2023-44487: calls that are begun and cancelled, never more than one at a time."""
    end = server(**limits)
    return any(is_calmed(end, request(i) + rst(i)) for i in range(1, 15, 2))


@pytest.mark.parametrize("lived_s", [0.01, 0.5])
def test_resets_are_counted_of_calls_that_lived_for_a_moment(lived_s: float) -> None:
    end = server(resets_burst=5, resets_per_s=0, quick_reset_s=0.1)

    def attack(stream_id: int) -> bool:
        end.receive(request(stream_id))
        end.clock.now += lived_s
        return is_calmed(end, rst(stream_id))

    assert any(attack(i) for i in range(1, 15, 2)) is (lived_s < 0.1)


def test_callers_whose_deadlines_pass_are_no_attack() -> None:
    """64 at a time, again and again, each after 0.2 s: a quorum is missing, and they ask again."""
    end = server()
    for turn in range(100):
        ids = range(128 * turn + 1, 128 * turn + 129, 2)
        end.receive(*[request(i) for i in ids])
        end.clock.now += 0.2
        end.receive(*[rst(i) for i in ids])
    assert end.h2.fault is None


@stops("resets_burst", 5)
def _resets_that_we_are_made_to_send(**limits: Any) -> bool:
    """CVE-2025-8671: each of these frames makes the server reset a call that it has begun."""
    end = server(**limits)
    bad = [
        lambda i: window(i, 0),
        lambda i: window(i, 2**31 - 1),
        lambda i: headers(i, TRAILERS),
        lambda i: headers(i, RESPONSE, end=True),
        lambda i: data(i, b"", end=True) + data(i, b"x"),
    ]
    return any(is_calmed(end, request(i) + bad[i // 2 % 5](i)) for i in range(1, 15, 2))


@stops("resets_burst", 5)
def _calls_beyond_the_limit(**limits: Any) -> bool:
    return is_calmed(server(streams_max=1, **limits), *[request(i) for i in range(1, 17, 2)])


@stops("resets_burst", 5)
def _malformed_calls(**limits: Any) -> bool:
    return is_calmed(server(**limits), *[headers(i, TRAILERS) for i in range(1, 15, 2)])


IDLE = {
    "PING": frames.ping(bytes(8)),
    "PING ACK": frames.ping(bytes(8), is_ack=True),
    "SETTINGS ACK": frames.SETTINGS_ACK,
    "PRIORITY": frame(frames.PRIORITY, 0, 7, bytes(5)),
    "WINDOW_UPDATE": window(0, 1),
    "WINDOW_UPDATE of a stream": window(1, 1),
    "WINDOW_UPDATE of a closed stream": window(3, 1),
    "RST_STREAM of a closed stream": rst(3),
    "empty DATA": data(1, b""),
    "DATA of padding": frame(frames.DATA, frames.PADDED, 1, b"\0"),
    "DATA of a stream that was reset": data(3, b""),
    "HEADERS of a stream that was reset": headers(3, TRAILERS),
    "GOAWAY": goaway(0),
    "unknown": frame(0xEE),
}


def _idle_flood(piece: bytes, **limits: Any) -> bool:
    end = server(idle_frames_per_call=0, **limits).receive(request(1), request(3))
    end.opened[3].reset()
    return any(is_calmed(end, piece) for _ in range(30))


for _piece in IDLE.values():
    stops("idle_frames_burst", 10)(lambda piece=_piece, **limits: _idle_flood(piece, **limits))


@stops("idle_frames_burst", 10)
def _informational_responses(**limits: Any) -> bool:
    end = client(idle_frames_per_call=0, **limits)
    end.open()
    return is_calmed(end, *[headers(1, [(b":status", b"103")])] * 12)


@stops("idle_frames_burst", 10)
def _calls_behind_goaway(**limits: Any) -> bool:
    end = server(idle_frames_per_call=0, **limits)
    end.h2.goaway()
    return is_calmed(end, *[request(i) for i in range(1, 25, 2)])


@pytest.mark.parametrize(
    ("name", "attack"),
    [(name, attack) for name, attacks in ATTACKS.items() for attack in attacks],
    ids=[f"{name}-{n}" for name, attacks in ATTACKS.items() for n in range(len(attacks))],
)
def test_a_limit_bites_and_is_what_bites(name: str, attack: Callable[..., bool]) -> None:
    assert attack(), "not stopped"
    assert not attack(WITHOUT), "stopped by something else"


def test_each_limit_has_its_attack() -> None:
    """What is left are rates, below, and prices of one account."""
    rates = {
        "settings_per_s",
        "resets_per_s",
        "quick_reset_s",
        "idle_frames_per_s",
        "idle_frames_per_call",
        "bytes_per_idle_frame",
    }
    assert ATTACKS.keys() | rates == {field.name for field in fields(WireLimits)}


# --- rates: what was spent comes back -------------------------------------------------------------------


def test_bursts_grow_back_with_time() -> None:
    end = server(settings_burst=2, settings_per_s=1, resets_burst=2, resets_per_s=1)
    end.receive(settings())  # the second: one came with the preface
    for n in range(20):
        end.clock.now += 1
        end.receive(settings(), request(4 * n + 1), rst(4 * n + 1))
    assert is_calmed(end, settings(), settings(), settings())
    end = server(resets_burst=2, resets_per_s=1)
    assert is_calmed(end, *[request(i) + rst(i) for i in range(1, 9, 2)])


def test_keepalive_is_never_too_much() -> None:
    """A ping every ten seconds for a day, on a connection without calls."""
    end = server(idle_frames_burst=10)
    for _ in range(8640):
        end.clock.now += 10
        end.receive(frames.ping(bytes(8)))
        end.sent()


def test_traffic_pays_for_pings_and_window_updates() -> None:
    """A client that measures the link sends a PING for each answer, and gives each window back at once."""
    end = server(idle_frames_burst=10, idle_frames_per_s=0).receive(request(1))
    for _ in range(1000):
        end.receive(data(1, message(b"12345")))
        end.opened[1].send_message(b"12345")
        end.receive(window(1, 10), window(0, 10), frames.ping(bytes(8)))
        end.sent()


def test_calls_pay_for_pings_and_window_updates() -> None:
    end = server(idle_frames_burst=20, idle_frames_per_s=0)
    for stream_id in range(1, 2001, 2):
        end.receive(request(stream_id, end=True), window(stream_id, 5), window(0, 5), frames.ping(bytes(8)))
        end.opened[stream_id].send_headers(header_block(TRAILERS), end=True)
        end.sent()


def test_steps_of_one_byte_are_too_small() -> None:
    """A window that opens byte by byte makes us send frames of one byte: that is not paid for."""
    end = server(idle_frames_burst=100, idle_frames_per_s=0).receive(settings(initial_window_size=0))
    end.receive(request(1, end=True))
    end.opened[1].send_message(bytes(10_000))
    assert not any(is_calmed(end, window(1, 1)) for _ in range(120))
    sent = sum(f.kind == frames.DATA for f in end.sent())
    assert sent == 120 and any(is_calmed(end, window(1, 1)) for _ in range(150))


def test_a_thousand_calls_may_be_cancelled_together() -> None:
    end = server()
    end.receive_unchecked(*[request(i) for i in range(1, 2001, 2)], *[rst(i) for i in range(1, 2001, 2)])
    assert not end.h2.streams


def test_an_allowance_reads_the_clock_only_when_it_is_empty() -> None:
    allowance = Allowance(3, 2.0, now=10.0)
    assert [allowance.spend() for _ in range(4)] == [True, True, True, False]
    assert not allowance.refill(10.4)
    assert allowance.refill(10.5)
    assert not allowance.spend() and allowance.refill(100.0, 0.0)
    assert [allowance.spend() for _ in range(4)] == [True, True, True, False]  # no more than the burst
    assert not allowance.refill(100.0) and allowance.refill(100.0, earned=1.0)
