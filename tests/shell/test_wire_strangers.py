"""What strangers see at the socket when they go beyond a limit, while an honest client is answered in time.

Each attack runs twice: against the limits of a release, or smaller ones where those would take long, and
without the one limit, to see that it is that one which stops it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Final

import pytest

from synchro.wire import frames
from synchro.wire.frames import ErrorCode
from synchro.wire.grpc_call import request_block
from synchro.wire.headers import header_block
from synchro.wire.limits import KIB, MIB, WireLimits
from tests.conformance.servers import OurServer
from tests.shell.stranger import Stranger, call, frame, head, message, rst, under_attack, window

WITHOUT: Final = 10**9
"""A limit that is not there."""
CALM, TOO_MUCH = ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.FLOW_CONTROL_ERROR


@dataclass(frozen=True)
class Attack:
    """code: what the connection is closed with. less: other limits than in a release."""

    limit: str
    code: ErrorCode
    pieces: Callable[[], list[bytes]]
    less: dict[str, int] = field(default_factory=dict)


def times(count: int, make: Callable[[int], bytes], *before: bytes) -> Callable[[], list[bytes]]:
    """`before`, and then what `make` gives for the ids of so many streams."""
    return lambda: [*before, *(make(2 * n + 3) for n in range(count))]


def open_block(stream_id: int, part: bytes) -> bytes:
    """HEADERS whose block goes on."""
    return frame(frames.HEADERS, 0, stream_id, part)


def many_fields(stream_id: int) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), *[(b"x", b"")] * 600]
    return frame(frames.HEADERS, frames.END_HEADERS, stream_id, header_block(fields))


SMALL_STEPS = [
    frames.settings({frames.INITIAL_WINDOW_SIZE: 0}),
    call(1, "Large", b"1000000"),
    *[window(1, 1)] * 6000,
]
HELD = head(1, "Held")
REQUEST = request_block("/conformance.v1.Echo/Held", "localhost")
QUICK: Final = {"resets_per_s": 1, "quick_reset_s": 60}
"""On a slow machine too, the resets come faster than they are forgiven."""

ATTACKS: Final[dict[str, Attack]] = {
    "CONTINUATION without end": Attack(
        "continuations_max",
        CALM,
        lambda: [open_block(1, b""), *[frame(frames.CONTINUATION, 0, 1)] * 40],
    ),
    "a long header block": Attack(
        "header_list_bytes_max",
        CALM,
        lambda: [open_block(1, bytes(10 * KIB)), frame(frames.CONTINUATION, 0, 1, bytes(10 * KIB))],
    ),
    "many header fields": Attack(
        "header_list_bytes_max", ErrorCode.COMPRESSION_ERROR, lambda: [many_fields(1)]
    ),
    "changes of the header table": Attack(
        "table_changes_max",
        ErrorCode.COMPRESSION_ERROR,
        lambda: [frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x20" * 1000 + REQUEST)],
    ),
    "a long frame": Attack(
        "frame_bytes_max",
        ErrorCode.FRAME_SIZE_ERROR,
        lambda: [head(1, "Held"), frames.HEAD.pack((MIB + 1) << 8, 0, 1)],
    ),
    "rapid reset": Attack("resets_burst", CALM, times(1500, lambda i: head(i, "Hang") + rst(i)), QUICK),
    "rapid reset of calls that run": Attack(
        "resets_burst", CALM, times(1500, lambda i: call(i, "Hang") + rst(i)), QUICK
    ),
    "resets that we are made to send": Attack(
        "resets_burst", CALM, times(1500, lambda i: head(i, "Hang") + window(i, 0)), QUICK
    ),
    "malformed calls": Attack(
        "resets_burst",
        CALM,
        times(
            1500,
            lambda i: frame(frames.HEADERS, frames.END_HEADERS, i, header_block([(b":method", b"POST")])),
        ),
        QUICK,
    ),
    "PING": Attack("idle_frames_burst", CALM, times(6000, lambda _: frames.ping(bytes(8)))),
    "SETTINGS": Attack(
        "settings_burst",
        CALM,
        times(200, lambda i: frames.settings({frames.INITIAL_WINDOW_SIZE: 1000 + i})),
    ),
    "SETTINGS with many values": Attack(
        "settings_values_max",
        CALM,
        lambda: [frame(frames.SETTINGS, 0, 0, frames.SETTING.pack(77, 1) * 1000)],
    ),
    "empty DATA": Attack("idle_frames_burst", CALM, times(6000, lambda _: frame(frames.DATA, 0, 1), HELD)),
    "DATA of padding": Attack(
        "idle_frames_burst",
        CALM,
        times(6000, lambda _: frame(frames.DATA, frames.PADDED, 1, b"\0"), HELD),
    ),
    "PRIORITY": Attack(
        "idle_frames_burst", CALM, times(6000, lambda i: frame(frames.PRIORITY, 0, i, bytes(5)))
    ),
    "WINDOW_UPDATE": Attack("idle_frames_burst", CALM, times(6000, lambda _: window(0, 1))),
    "unknown frames": Attack("idle_frames_burst", CALM, times(6000, lambda _: frame(0xEE, 0, 0))),
    "windows that open by one byte": Attack("idle_frames_burst", CALM, lambda: SMALL_STEPS),
    "DATA that no reader takes": Attack(
        "held_bytes_max",
        TOO_MUCH,
        lambda: [head(1, "Held"), *[message(1, bytes(10_000), end=False)] * 20],
        {"connection_window_bytes": 128 * KIB, "held_bytes_max": 0},
    ),
    "DATA beyond the window of a connection": Attack(
        "connection_window_bytes",
        TOO_MUCH,
        lambda: [head(1, "Held"), *[message(1, bytes(10_000), end=False)] * 20],
        {"connection_window_bytes": 128 * KIB, "held_bytes_max": 0},
    ),
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_who_goes_beyond_a_limit_is_told_and_closed(name: str) -> None:
    attack = ATTACKS[name]
    limits = replace(WireLimits(), **attack.less)
    with under_attack(wire_limits=limits) as (server, log), Stranger(server.address) as stranger:
        stranger.hello().say(*attack.pieces())
        assert stranger.ends()
        assert stranger.goaway is attack.code
        assert log.events == ["connection_faulty"]
        assert log.records[0][1]["message"] == f"{stranger.why} ({attack.code.name})"


@pytest.mark.parametrize("name", list(ATTACKS))
def test_it_is_this_limit_that_stops_it(name: str) -> None:
    attack = ATTACKS[name]
    limits = replace(WireLimits(), **{**attack.less, attack.limit: WITHOUT})
    if attack.limit == "connection_window_bytes":
        limits = replace(limits, connection_window_bytes=16 * MIB)
    with OurServer(wire_limits=limits) as server, Stranger(server.address) as stranger:
        stranger.hello().say(*attack.pieces())
        stranger.hear(lambda: stranger.goaway is not None, 0.3)
        assert stranger.goaway is not attack.code
        server.journal.gate.set()


IN_PORT_LIMITS: Final = {
    "message_bytes_max",
    "streams_max",
    "stream_window_bytes",
    "partial_bytes_max",
    "queued_bytes_max",
    "unsent_frames_max",
}
"""Limits with a story of their own in `test_wire_port_limits`."""
INSIDE: Final = {
    "settings_per_s": "what the burst grows back by",
    "resets_per_s": "what the burst grows back by",
    "idle_frames_per_s": "what the burst grows back by",
    "idle_frames_per_call": "what the burst grows back by",
    "bytes_per_idle_frame": "what the burst grows back by",
    "unsent_data_bytes_max": "how much is written at a time; nobody sees it",
    "pending_streams_max": "of clients",
    "known_blocks_max": "memory of the decoder; nobody sees it",
    "known_bytes_max": "memory of the decoder; nobody sees it",
    "quick_reset_s": "what is no attack",
    "remembered_resets_max": "memory for frames that are late; nobody sees it",
}
"""Limits that have no effect at the socket which could be told from others."""


def test_each_limit_is_seen_at_the_socket_or_has_its_reason() -> None:
    seen = {attack.limit for attack in ATTACKS.values()} | IN_PORT_LIMITS
    assert not seen & INSIDE.keys()
    assert seen | INSIDE.keys() == {each.name for each in fields(WireLimits)}


def test_calls_whose_heads_cost_much_hold_up_nobody() -> None:
    """Legal ones, sent without a pause: 330 fields in 400 bytes, no two alike."""
    name = header_block([(b"x", b"0000")])[:-4]
    indexed = bytes(0x80 | number for number in range(16, 31)) * 22  # of the static table
    with under_attack() as (server, _), Stranger(server.address) as stranger:
        stranger.hello()
        end = time.monotonic() + 1.5
        stream_id = 1
        while time.monotonic() < end and not stranger.is_closed:
            pieces = []
            for _ in range(50):
                block = REQUEST + indexed + name + b"%04d" % (stream_id % 10_000)
                pieces.append(frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id, block))
                stream_id += 2
            stranger.say(*pieces)
            stranger.hear(lambda: False, 0.001)
        assert not stranger.is_closed
        assert stream_id > 500
