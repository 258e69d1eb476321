"""Bounds of one connection against a peer that is careless or means harm. Each says what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synchro.wire.frames import FRAME_BYTES_MIN, WINDOW_AT_FIRST, WINDOW_MAX

KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What one connection may cost. Bytes where it says bytes; rates are per second of the injected clock.

    A peer that respects what SETTINGS tell it never meets the first group. What is over a limit is
    answered with ENHANCE_YOUR_CALM where nothing else is said."""

    message_bytes_max: int = 16 * MIB
    """One gRPC message; a longer one is not read: `StreamOwner.on_bad_message`. As
    `limits.message_bytes_max`."""
    streams_max: int = 1024
    """Calls under way that the peer began; it is told, and more are refused with REFUSED_STREAM, which
    clients repeat by themselves. Each costs a kilobyte, and a handler."""
    stream_window_bytes: int = 1 * MIB
    """What the peer may send on one stream beyond what was taken: the product of rate and round trip of a
    fast link, and what a reader that pauses holds at the most."""
    connection_window_bytes: int = 16 * MIB
    """The same for all streams together."""
    held_bytes_max: int = 64 * MIB
    """Bytes that lie with readers which take nothing, all streams together, for which the window of the
    connection is given back nevertheless: behind a proxy, clients that share a connection do not wait for
    those that pause. Beyond it all of them wait."""
    frame_bytes_max: int = 1 * MIB
    """Payload of a received frame: one that is not there as a whole is kept. Large ones save work."""
    header_list_bytes_max: int = 16 * KIB
    """Names and values of one header list, 32 bytes added for each (RFC 9113, 6.5.2), and bytes of its
    block. As much as grpcio takes by itself; a block of that size costs 5 ms to decode. More is a
    COMPRESSION_ERROR: what stands behind the limit would have changed the table."""

    continuations_max: int = 16
    """CONTINUATION frames of one header block. Four of the least size hold the longest list; endless or
    empty ones would keep the connection from everything else (CVE-2024-27316)."""
    settings_values_max: int = 64
    """Values in one SETTINGS frame; there are six names in RFC 9113."""
    settings_burst: int = 100
    """SETTINGS frames at once: each that changes the window of streams costs a walk over all of them."""
    settings_per_s: float = 10.0
    """What the burst grows back by. grpcio sends a few a second while it measures the link."""
    resets_burst: int = 1000
    """Streams that end by RST_STREAM of the peer, or by ours for its fault or over `streams_max`, at once.
    A call that is cancelled has cost a handler and no longer counts as a stream (CVE-2023-44487,
    CVE-2025-8671). All calls of an honest connection may be cancelled together."""
    resets_per_s: float = 1000.0
    """What the burst grows back by; a call that is begun and cancelled costs some 40 us."""
    quick_reset_s: float = 0.1
    """A stream that the peer resets after this, in seconds, has counted as one of `streams_max` long enough:
    many callers whose deadlines pass while a quorum is missing are no attack."""
    idle_frames_burst: int = 1000
    """Frames at once that carry nothing of a call: PING, PRIORITY, WINDOW_UPDATE, DATA without content,
    GOAWAY, unknown ones, and those for closed streams (CVE-2019-9511, 9512, 9518)."""
    idle_frames_per_s: float = 100.0
    """What the burst grows back by without calls. Keepalive takes 0.1."""
    idle_frames_per_call: float = 8.0
    """What it grows back by for each stream begun: windows given back, and a PING to measure the link."""
    bytes_per_idle_frame: int = 2
    """One more for each so many bytes of DATA, either way. A message has five at least, and a reader may give
    back the window of each, for stream and connection; steps of one byte are not covered."""

    partial_bytes_max: int = 64 * MIB
    """Bytes of messages that are not complete, all streams together. The window of streams is given back
    up to a half of it, then to one at a time, so honest peers wait. The call that goes beyond is refused."""
    queued_bytes_max: int = 64 * MIB
    """Bytes of messages that the windows of the peer hold back, all streams together: it does not read
    what it asked for (CVE-2019-9517). The call whose answer goes beyond is reset."""
    unsent_data_bytes_max: int = 4 * MIB
    """Bytes of messages in one `take`: when what was taken cannot be written, streams are blocked behind
    this, however large the windows are."""
    unsent_frames_max: int = 50_000
    """Frames that wait for `take`: heads of answers, and answers to PING and SETTINGS, are under no
    window. One read of 256 KiB makes 18,000 at the most."""
    pending_streams_max: int = 10_000
    """Calls of ours that wait because the peer takes no more at a time; more are refused."""
    known_blocks_max: int = 128
    """Header blocks whose meaning is kept: clients send the same few again and again."""
    known_bytes_max: int = 64 * KIB
    """What their lists count, all together: four of the longest, or a few hundred usual ones."""
    table_changes_max: int = 2
    """Changes of the table's size in front of a header block: the least and the last since the block
    before are all that means anything (RFC 7541, 4.2), and 16,000 would cost 20 ms."""
    remembered_resets_max: int = 1024
    """Ids of streams that we reset, for which frames may still be on their way."""

    def __post_init__(self) -> None:
        """What a peer may count on before it has read our SETTINGS cannot be less."""
        assert self.connection_window_bytes >= WINDOW_AT_FIRST
        assert self.frame_bytes_max >= FRAME_BYTES_MIN
        assert self.stream_window_bytes <= WINDOW_MAX and self.connection_window_bytes <= WINDOW_MAX


class Allowance:
    """So many at once, and so many again a second: a bucket of tokens that reads the clock only when it is
    empty."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        """now: seconds of the clock that `refill` is told later."""
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._at = now

    def spend(self) -> bool:
        """Take one; False if `refill` must be asked first."""
        self._left -= 1
        return self._left >= 0

    def refill(self, now: float, earned: float = 0.0) -> bool:
        """Add what time brought, and what was earned otherwise, since the last call. False: it is still
        empty."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s + earned)
        self._at = now
        return self._left >= 0
