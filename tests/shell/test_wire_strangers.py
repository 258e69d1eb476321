"""What strangers see at the socket when they go beyond a limit, while an honest client is answered in time.

Each attack runs twice: against the limits of a release, or smaller ones where those would take long, and
without the one limit, to see that it is that one which stops it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from synchro.wire import frames
from synchro.wire.frames import ErrorCode
from synchro.wire.headers import header_block
from synchro.wire.limits import KIB, MIB, WireLimits
from tests.conformance.servers import OurServer
from tests.shell.stranger import Stranger, call, frame, head, message, rst, under_attack, window

WITHOUT: Final = 10**9
"""A limit that is not there."""
CALM, TOO_MUCH = ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.FLOW_CONTROL_ERROR


@dataclass(frozen=True)
class Attack:
    """code: what the connection is closed with. less: other limits, smaller than in a release."""

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
    *[window(1, 1)] * 3000,
]
HELD = head(1, "Held")
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
    "a long frame": Attack(
        "frame_bytes_max",
        ErrorCode.FRAME_SIZE_ERROR,
        lambda: [head(1, "Held"), frames.HEAD.pack((MIB + 1) << 8, 0, 1)],
    ),
    "rapid reset": Attack("resets_burst", CALM, times(1500, lambda i: head(i, "Hang") + rst(i))),
    "rapid reset of calls that run": Attack(
        "resets_burst", CALM, times(1500, lambda i: call(i, "Hang") + rst(i))
    ),
    "resets that we are made to send": Attack(
        "resets_burst", CALM, times(1500, lambda i: head(i, "Hang") + window(i, 0))
    ),
    "malformed calls": Attack(
        "resets_burst",
        CALM,
        times(
            1500,
            lambda i: frame(frames.HEADERS, frames.END_HEADERS, i, header_block([(b":method", b"POST")])),
        ),
    ),
    "PING": Attack("idle_frames_burst", CALM, times(3000, lambda _: frames.ping(bytes(8)))),
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
    "empty DATA": Attack("idle_frames_burst", CALM, times(3000, lambda _: frame(frames.DATA, 0, 1), HELD)),
    "DATA of padding": Attack(
        "idle_frames_burst",
        CALM,
        times(3000, lambda _: frame(frames.DATA, frames.PADDED, 1, b"\0"), HELD),
    ),
    "PRIORITY": Attack(
        "idle_frames_burst", CALM, times(3000, lambda i: frame(frames.PRIORITY, 0, i, bytes(5)))
    ),
    "WINDOW_UPDATE": Attack("idle_frames_burst", CALM, times(3000, lambda _: window(0, 1))),
    "unknown frames": Attack("idle_frames_burst", CALM, times(3000, lambda _: frame(0xEE, 0, 0))),
    "windows that open by one byte": Attack("idle_frames_burst", CALM, lambda: SMALL_STEPS),
    "DATA beyond the window of a connection": Attack(
        "connection_window_bytes",
        TOO_MUCH,
        lambda: [head(1, "Held"), *[message(1, bytes(10_000), end=False)] * 20],
        {"connection_window_bytes": 128 * KIB},
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
