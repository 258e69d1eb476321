"""Bytes that nobody should send, into both ends of our HTTP/2: `python -m tests.fuzz_wire --inputs N --seed
S`.

An input is a legal exchange of a few calls, broken in some places, cut anywhere, for owners who answer,
echo, hold, refuse or end. Only `ConnectionFault` may come of it, every invariant holds after each piece,
and what is kept stays within the limits. Input N of a seed is always the same: `--first N --inputs 1`
plays it again."""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import hpack

from synchro.wire import frames
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ConnectionFault, StreamsExhausted
from synchro.wire.grpc_call import OK_TRAILERS, RESPONSE_HEAD, read_request, read_status
from synchro.wire.headers import HeaderList, header_block
from synchro.wire.limits import WireLimits
from synchro.wire.streams import BadMessage, Http2Stream, Nobody

LIMITS = (
    WireLimits(),
    WireLimits(streams_max=3, resets_burst=3, idle_frames_burst=5, settings_burst=2, unsent_frames_max=20),
    WireLimits(
        message_bytes_max=1000,
        stream_window_bytes=2000,
        connection_window_bytes=65_535,
        partial_bytes_max=1500,
        queued_bytes_max=3000,
        unsent_data_bytes_max=500,
        frame_bytes_max=16_384,
        remembered_resets_max=1,
        known_blocks_max=2,
    ),
)
REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/synchro.v1.Data/Execute"),
    (b":authority", b"127.0.0.1:3301"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
EXTRA = [
    (b"grpc-timeout", b"5S"),
    (b"x-bin", b"AAE"),
    (b"grpc-encoding", b"gzip"),
    (b"X", b"y"),
    (b"", b""),
    (b"x", b"\0"),
]
RESPONSE = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0"), (b"grpc-message", b"50%25 %zz")]
SLOW_S = 0.1
"""An input that takes longer is shown: a few kilobytes should take a millisecond."""


PROGRESS_INPUTS = 100_000


@dataclass
class Figures:
    inputs: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    messages: int = 0
    calls: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """How connections ended: the code of their fault, or "open"."""
    slowest: tuple[float, int] = (0.0, 0)
    """Seconds of processor time, and which input that was."""

    def __str__(self) -> str:
        ends = ", ".join(f"{name} {count:,}" for name, count in self.ends.most_common())
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return "\n".join(
            (
                f"{self.inputs:,} inputs, {self.input_bytes:,} bytes in, {self.output_bytes:,} out",
                f"{self.calls:,} calls, {self.messages:,} messages",
                f"ended: {ends}",
                f"slowest: {self.slowest[0] * 1e3:.1f} ms (input {self.slowest[1]})",
                f"largest resident set: {resident} MiB",
            )
        )


class Careless(Nobody):
    """An owner that does what comes into its mind, at any time."""

    def __init__(self, run: Run, stream: Http2Stream | None = None) -> None:
        self.run, self.stream = run, stream
        self.is_over = False

    def _act(self) -> None:
        stream, rng = self.stream, self.run.rng
        if stream is None:
            return
        what = rng.randrange(12)
        if what < 3:
            stream.send_message(bytes(rng.choice((0, 1, 100, 3000))))
        elif what == 3:
            stream.end(OK_TRAILERS)
        elif what == 4:
            stream.reset()
            self.is_over = True
        elif what == 5:
            stream.hold_window()
        elif what == 6:
            stream.give_window()
        elif what == 7 and not stream.is_blocked and not self.run.h2.is_client:
            stream.answer(RESPONSE_HEAD, b"answer", OK_TRAILERS)
        elif what == 8 and self.run.h2.is_client:
            self.run.open()

    def _told(self) -> None:
        assert not self.is_over, "told after its last word"
        self._act()

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        read_status(headers)
        self._told()

    def on_message(self, data: bytes) -> None:
        self.run.figures.messages += 1
        self._told()

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        self._told()

    def on_end(self, stream: Http2Stream) -> None:
        self._told()

    def on_reset(self, stream: Http2Stream, code: frames.ErrorCode) -> None:
        assert not self.is_over, "told after its last word"
        self.is_over = True

    def on_unblocked(self, stream: Http2Stream) -> None:
        self._told()

    def on_lost(self, why: str) -> None:
        assert not self.is_over, "told after its last word"
        self.is_over = True


class Run:
    """One input."""

    def __init__(self, rng: random.Random, figures: Figures) -> None:
        self.rng, self.figures = rng, figures
        self.now = 0.0
        is_client = rng.random() < 0.4
        self.h2 = Http2Connection(
            is_client=is_client,
            limits=rng.choice(LIMITS),
            clock=lambda: self.now,
            on_stream=None if is_client else self._on_stream,
        )
        if is_client:
            for _ in range(rng.randrange(1, 4)):
                self.open()

    def open(self) -> None:
        h2 = self.h2
        if len(h2.streams) + len(h2.pending) < 10:
            owner = Careless(self)
            with suppress(StreamsExhausted):
                owner.stream = h2.open(header_block(REQUEST), owner, end=self.rng.random() < 0.2)
                self.figures.calls += 1

    def _on_stream(self, stream: Http2Stream, headers: HeaderList) -> None:
        self.figures.calls += 1
        stream.owner = Careless(self, stream)
        refusal = read_request(headers).refusal
        if refusal is not None:
            stream.send_headers(refusal, end=True)
        elif self.rng.random() < 0.7:
            stream.send_headers(RESPONSE_HEAD)

    def play(self) -> None:
        rng, h2, figures = self.rng, self.h2, self.figures
        data = _break(rng, rng.choice(FROM_SERVERS if h2.is_client else FROM_CLIENTS))
        figures.input_bytes += len(data)
        takes = rng.random() < 0.9
        at, end = 0, "open"
        try:
            while at < len(data):
                size = rng.choice((1, 3, 9, 50, 500, 65_536))
                h2.receive(data[at : at + size])
                at += size
                self.now += rng.random() * 0.01
                h2.check()
                if takes:
                    figures.output_bytes += len(h2.take())
                if rng.random() < 0.02:
                    rng.choice((h2.shut_down, h2.goaway))()
        except ConnectionFault as fault:
            end = fault.code.name
        h2.lost("the input is over")
        h2.check()
        assert not h2.streams and not h2.held_bytes and not h2.partial_bytes and not h2.queued_bytes
        assert not h2.waiting and not h2.starved
        figures.ends[end] += 1


# --- inputs -----------------------------------------------------------------------------------------------


def _break(rng: random.Random, legal: bytes) -> bytes:
    """A few things go wrong."""
    data = bytearray(legal)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at = rng.randrange(24, len(data) + 1) if rng.random() < 0.97 else rng.randrange(len(data))
        what = rng.randrange(6)
        if what == 0 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif what == 1:
            del data[at : at + rng.randrange(1, 12)]
        elif what == 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 12))
        elif what == 3:
            data[at:at] = data[at - min(at, 40) : at]
        else:
            place = _frame_near(data, at)
            data[place:place] = _frame(rng)
        if not data:
            break
    return bytes(data)


def _frame_near(data: bytearray, at: int) -> int:
    """Where the first frame at or behind `at` begins, if the frames in front of it are whole."""
    place = 24 if data[:3] == b"PRI" else 0
    while place < at and place + 9 <= len(data):
        place += 9 + int.from_bytes(data[place : place + 3], "big")
    return min(place, len(data))


def _frame(rng: random.Random) -> bytes:
    """Any frame, with a length that often fits its kind."""
    kind = rng.randrange(11)
    fitting = {2: 5, 3: 4, 4: 6 * rng.randrange(4), 6: 8, 7: 8, 8: 4}.get(kind, rng.randrange(40))
    length = fitting if rng.random() < 0.8 else rng.randrange(30)
    payload = rng.randbytes(length) if rng.random() < 0.5 else bytes(length)
    if kind == 1 and rng.random() < 0.7:
        payload = header_block(rng.sample(REQUEST + TRAILERS + EXTRA, rng.randrange(8)))
    flags = rng.choice((0, 1, 4, 5, 8, rng.randrange(256)))
    stream_id = rng.choice((0, 1, 1, 2, 3, 5, 7, 2**31 - 1, rng.randrange(2**32)))
    return frames.HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def _legal(rng: random.Random, *, is_client: bool) -> bytes:
    """What one end may say in a short connection."""
    encoder = hpack.Encoder()

    def block(stream_id: int, fields: list[tuple[bytes, bytes]], *, end: bool) -> bytes:
        payload = (
            encoder.encode(fields, huffman=rng.random() < 0.5) if rng.random() < 0.7 else header_block(fields)
        )
        flags = frames.END_STREAM if end else 0
        if rng.random() < 0.2:
            padding = rng.randrange(5)
            payload, flags = bytes([padding]) + payload + bytes(padding), flags | frames.PADDED
        if rng.random() < 0.2:
            half = len(payload) // 2
            if not flags & frames.PADDED:
                head = frames.HEAD.pack(half << 8 | frames.HEADERS, flags, stream_id) + payload[:half]
                return head + frames.HEAD.pack(len(payload) - half << 8 | 9, 4, stream_id) + payload[half:]
        return frames.HEAD.pack(len(payload) << 8 | frames.HEADERS, flags | 4, stream_id) + payload

    def messages(stream_id: int) -> bytes:
        data = b"".join(
            frames.PREFIX.pack(0, size) + bytes(size)
            for size in rng.choices((0, 1, 30, 300, 1500), k=rng.randrange(4))
        )
        parts, at = [], 0
        while at < len(data):
            part = data[at : at + rng.choice((1, 5, 50, 5000))]
            parts.append(frames.HEAD.pack(len(part) << 8, 0, stream_id) + part)
            at += len(part)
        return b"".join(parts)

    values = (
        {frames.INITIAL_WINDOW_SIZE: rng.choice((0, 100, 65_535, 2**31 - 1))} if rng.random() < 0.7 else {}
    )
    if not is_client:
        values[frames.MAX_CONCURRENT_STREAMS] = rng.choice((0, 1, 100))
    lines = [frames.settings(values)]
    for n in range(rng.randrange(1, 5)):
        stream_id = 2 * n + 1
        lines.append(block(stream_id, REQUEST if is_client else RESPONSE, end=False))
        lines.append(messages(stream_id))
        if is_client and rng.random() < 0.7:
            lines.append(frames.HEAD.pack(0, frames.END_STREAM, stream_id))
        elif rng.random() < 0.7:
            lines.append(block(stream_id, TRAILERS, end=True))
        else:
            lines.append(frames.rst_stream(stream_id, 8))
        lines.append(
            rng.choice(
                (
                    b"",
                    frames.ping(bytes(8)),
                    frames.SETTINGS_ACK,
                    frames.window_update(rng.choice((0, stream_id)), rng.choice((1, 1000, 2**20))),
                    frames.goaway(2**31 - 1, 0, b"bye"),
                )
            )
        )
    return (frames.PREFACE if is_client else b"") + b"".join(lines)


_pool = random.Random(7)
FROM_CLIENTS = [_legal(_pool, is_client=True) for _ in range(300)]
FROM_SERVERS = [_legal(_pool, is_client=False) for _ in range(300)]


def fuzz(inputs: int, seed: int, first: int = 0, show: Callable[[str], None] = lambda line: None) -> Figures:
    """Play inputs `first` and so on. Whatever but `ConnectionFault` comes out is a fault of ours, and
    raised."""
    figures = Figures()
    for number in range(first, first + inputs):
        began = time.process_time()
        try:
            Run(random.Random(seed * 1_000_003 + number), figures).play()
        except BaseException:
            show(f"python -m tests.fuzz_wire --seed {seed} --first {number} --inputs 1")
            raise
        spent = time.process_time() - began
        figures.inputs += 1
        if spent > figures.slowest[0]:
            figures.slowest = (spent, number)
        if figures.inputs % PROGRESS_INPUTS == 0:
            show(f"{figures.inputs:,} inputs, {figures.messages:,} messages")
        if spent > SLOW_S:
            show(f"input {number} took {spent * 1e3:.0f} ms")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    figures = fuzz(
        given.inputs, given.seed, given.first, lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(f"{figures}\n{time.monotonic() - began:.0f} s, seed {given.seed}")


if __name__ == "__main__":
    main()
