"""Two ends of a connection with one face, ours and the `h2` library's, and a wire between them that cuts
bytes anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import h2.stream
import h2.windows

from synchro.wire.connection import Http2Connection
from synchro.wire.frames import HEAD_BYTES, PREFACE, PREFIX, ErrorCode
from synchro.wire.headers import HeaderList, header_block
from synchro.wire.limits import WireLimits
from synchro.wire.streams import BadMessage, Http2Stream, Nobody

REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/c"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
RESPONSE = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0"), (b"x-trace", b"y" * 300)]


@dataclass
class Call:
    """One call as one end sees it."""

    sent: list[bytes] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)
    head: Any = None
    trailers: Any = None
    is_answered: bool = False
    """The head of the response was sent (servers)."""
    is_finished: bool = False
    """Nothing more is sent from here."""
    is_ended: bool = False
    """The other end sends nothing more."""
    is_reset: bool = False
    is_early: bool = False
    """It was answered before the other end had ended: the rest of that may be refused (8.1)."""


class Peer(Protocol):
    calls: dict[int, Call]

    def take(self) -> bytes: ...
    def receive(self, data: bytes) -> None: ...
    def begin(self, more: int) -> None: ...
    def place(self, number: int) -> int:
        """The number that the server knows the client's call by; -1: it never began."""

    def send(self, number: int, message: bytes) -> None: ...
    def finish(self, number: int) -> None: ...
    def reset(self, number: int) -> None: ...
    def ping(self) -> None: ...
    def pause(self, number: int) -> None: ...
    def resume(self) -> None: ...
    def tune(self, value: int) -> None: ...


class Ours(Nobody):
    """`Http2Connection`, checked after every step. Calls are numbered by the client, from 0."""

    def __init__(self, *, is_client: bool, **limits: Any) -> None:
        self.is_client = is_client
        self.h2 = Http2Connection(
            is_client=is_client,
            limits=WireLimits(**limits),
            clock=lambda: 0.0,
            on_stream=None if is_client else self._on_stream,
            on_ping_ack=self._on_ping_ack,
        )
        self.calls: dict[int, Call] = {}
        self.streams: dict[int, Http2Stream] = {}
        self.pings = 0

    def _on_stream(self, stream: Http2Stream, headers: HeaderList) -> None:
        stream.owner = _Owner(self, (stream.id - 1) // 2)
        self.streams[(stream.id - 1) // 2] = stream
        self.calls[(stream.id - 1) // 2] = Call(head=headers.fields)

    def _on_ping_ack(self, payload: bytes) -> None:
        self.pings -= 1

    def take(self) -> bytes:
        data = self.h2.take()
        self.h2.check()
        return data

    def receive(self, data: bytes) -> None:
        self.h2.receive(data)
        self.h2.check()

    def begin(self, more: int) -> None:
        if not self.h2.is_settled:
            return  # before it has read the settings a client guesses, and h2 forgives nobody
        number = len(self.calls)
        fields = [*REQUEST, (b"x", b"y" * more)]
        self.calls[number] = Call()
        self.streams[number] = self.h2.open(header_block(fields), _Owner(self, number))

    def place(self, number: int) -> int:
        return (self.streams[number].id - 1) // 2  # one that was reset while it waited has no id

    def send(self, number: int, message: bytes) -> None:
        call, stream = self.calls[number], self.streams[number]
        if not call.is_finished and not stream.local_closed:
            if not self.is_client and not call.is_answered:
                call.is_answered = True
                stream.send_headers(header_block(RESPONSE))
            call.sent.append(message)
            stream.send_message(message)

    def finish(self, number: int) -> None:
        call, stream = self.calls[number], self.streams[number]
        if not call.is_finished and not stream.local_closed:
            call.is_finished = True
            call.is_early = not call.is_ended
            if self.is_client:
                stream.end()
            elif call.is_answered:
                stream.end(header_block(TRAILERS))
            else:
                call.sent.append(b"whole")
                stream.answer(header_block(RESPONSE), b"whole", header_block(TRAILERS))

    def reset(self, number: int) -> None:
        if not (self.streams[number].local_closed and self.streams[number].remote_closed):
            self.calls[number].is_reset = True
            self.streams[number].reset()

    def ping(self) -> None:
        self.pings += 1
        self.h2.ping(b"01234567")

    def pause(self, number: int) -> None:
        self.streams[number].hold_window()

    def resume(self) -> None:
        for stream in self.streams.values():
            stream.give_window()

    def tune(self, value: int) -> None:
        """Our settings are said once."""


class _Owner(Nobody):
    def __init__(self, ours: Ours, number: int) -> None:
        self.ours, self.number = ours, number

    @property
    def call(self) -> Call:
        return self.ours.calls[self.number]

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        if is_end:
            self.call.trailers = headers.fields
        else:
            self.call.head = headers.fields

    def on_message(self, data: bytes) -> None:
        assert not self.call.is_reset and not self.call.is_ended  # Http2Connection.W10
        self.call.got.append(data)

    def on_end(self, stream: Http2Stream) -> None:
        assert not self.call.is_reset and not self.call.is_ended
        self.call.is_ended = True

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        assert not self.call.is_reset
        self.call.is_reset = True

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        raise AssertionError((why, length))


class _Windows(h2.windows.WindowManager):
    """The library's own refuse DATA without content while SETTINGS keep a window below 0; RFC 9113 allows it
    (6.9)."""

    def window_consumed(self, size: int) -> None:
        if size:
            super().window_consumed(size)


h2.stream.WindowManager = _Windows  # type: ignore[attr-defined]


class Theirs:
    """The `h2` library, which is strict by itself: what it does not allow raises `ProtocolError`."""

    def __init__(self, *, is_client: bool, **settings: int) -> None:
        self.is_client = is_client
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=is_client, header_encoding=None)
        )
        self.h2.local_settings = h2.settings.Settings(
            client=is_client,
            initial_values={h2.settings.SettingCodes[name]: value for name, value in settings.items()},
        )
        self.h2.initiate_connection()
        self.calls: dict[int, Call] = {}
        self.pings = 0
        self._is_settled = False  # h2 takes an acknowledgement for all settings that it has ever sent
        self._came = bytearray()
        self._preface_bytes = 0 if is_client else len(PREFACE)
        self._queues: dict[int, bytearray] = {}
        self._parts: dict[int, bytearray] = {}
        self._paused: dict[int, int] = {}
        self._is_paused: set[int] = set()

    # --- what the wire does ---

    def take(self) -> bytes:
        return self.h2.data_to_send()

    def receive(self, data: bytes) -> None:
        for frame in self._frames(data):
            for event in self.h2.receive_data(frame):
                self._on_event(event)
        self._pump()

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """What has come as a whole, one by one: the library looks what length it allows once a call."""
        came = self._came
        came += data
        while len(came) >= self._preface_bytes + HEAD_BYTES:
            start = self._preface_bytes
            end = start + HEAD_BYTES + int.from_bytes(came[start : start + 3], "big")
            if len(came) < end:
                break
            frame = bytes(came[:end])
            del came[:end]
            self._preface_bytes = 0
            yield frame

    def _on_event(self, event: h2.events.Event) -> None:
        number = ((getattr(event, "stream_id", 0) or 1) - 1) // 2
        match event:
            case h2.events.RequestReceived():
                self.calls[number] = Call(head=tuple(event.headers))
                self._queues[number] = bytearray()
            case h2.events.ResponseReceived():
                self.calls[number].head = tuple(event.headers)
            case h2.events.TrailersReceived():
                self.calls[number].trailers = tuple(event.headers)
            case h2.events.DataReceived():
                self._on_data(number, event.data, event.flow_controlled_length)
            case h2.events.StreamEnded():
                assert not self._parts.get(number), "the end is in the middle of a message"
                self.calls[number].is_ended = True
            case h2.events.StreamReset():
                self.calls[number].is_reset = True
            case h2.events.SettingsAcknowledged():
                self._is_settled = True
            case h2.events.PingAckReceived():
                self.pings -= 1

    def _on_data(self, number: int, data: bytes, size: int) -> None:
        part = self._parts.setdefault(number, bytearray())
        part += data
        while len(part) >= 5:
            compressed, length = PREFIX.unpack_from(part)
            assert not compressed
            if len(part) < 5 + length:
                break
            self.calls[number].got.append(bytes(part[5 : 5 + length]))
            del part[: 5 + length]
        if number in self._is_paused:
            self._paused[number] = self._paused.get(number, 0) + size
        else:
            self._acknowledge(number, size)

    def _acknowledge(self, number: int, size: int) -> None:
        """Give back what was taken. The library's own way waits for a half of the window, also where SETTINGS
        have closed it meanwhile, and then it waits for ever."""
        if not size:
            return
        self.h2.increment_flow_control_window(size)
        with suppress(h2.exceptions.StreamClosedError, KeyError):  # the latter as well says that it is over
            self.h2.increment_flow_control_window(size, 2 * number + 1)

    # --- what a program does ---

    def begin(self, more: int) -> None:
        number = len(self.calls)
        if self.h2.open_outbound_streams < self.h2.remote_settings.max_concurrent_streams:
            self.h2.send_headers(
                2 * number + 1, [*REQUEST, (b"x", b"y" * more), (b"n", b"%d" % (number % 3))]
            )
            self.calls[number] = Call()
            self._queues[number] = bytearray()

    def place(self, number: int) -> int:
        return number

    def send(self, number: int, message: bytes) -> None:
        call = self.calls[number]
        if not call.is_finished and not call.is_reset:
            self._answer(number)
            call.sent.append(message)
            self._queues[number] += PREFIX.pack(0, len(message)) + message
            self._pump()

    def _answer(self, number: int) -> None:
        if not self.is_client and not self.calls[number].is_answered:
            self.calls[number].is_answered = True
            self.h2.send_headers(2 * number + 1, RESPONSE)

    def finish(self, number: int) -> None:
        call = self.calls[number]
        if not call.is_finished and not call.is_reset:
            self._answer(number)
            call.is_finished = True
            self._pump()

    def _pump(self) -> None:
        for number, queue in list(self._queues.items()):
            stream_id, call = 2 * number + 1, self.calls[number]
            try:
                while queue:
                    room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
                    if room <= 0:
                        break
                    self.h2.send_data(stream_id, bytes(queue[:room]))
                    del queue[:room]
                if not queue and call.is_finished:
                    if self.is_client:
                        self.h2.end_stream(stream_id)
                    else:
                        self.h2.send_headers(stream_id, TRAILERS, end_stream=True)
                    del self._queues[number]
            except h2.exceptions.StreamClosedError:
                del self._queues[number]

    def reset(self, number: int) -> None:
        call = self.calls[number]
        if not call.is_reset:
            try:
                self.h2.reset_stream(2 * number + 1, ErrorCode.CANCEL)
            except h2.exceptions.StreamClosedError:
                return
            call.is_reset = True

    def ping(self) -> None:
        self.pings += 1
        self.h2.ping(b"01234567")

    def pause(self, number: int) -> None:
        self._is_paused.add(number)

    def resume(self) -> None:
        self._is_paused.clear()
        paused, self._paused = self._paused, {}
        for number, size in paused.items():
            self._acknowledge(number, size)
        self._pump()

    def tune(self, value: int) -> None:
        """Other settings in the middle of everything. A window of one byte, given back byte by byte, would
        be a flood (`WireLimits.bytes_per_idle_frame`)."""
        codes = h2.settings.SettingCodes
        if not self._is_settled:
            return
        self._is_settled = False
        values: dict[h2.settings.SettingCodes | int, int] = {
            codes.INITIAL_WINDOW_SIZE: (0, 2_000, 100, 65_535, 2**20, 2**31 - 1)[value % 6],
            codes.MAX_FRAME_SIZE: (16_384, 20_000, 2**24 - 1)[value % 3],
            codes.HEADER_TABLE_SIZE: (0, 4096, 100)[value // 3 % 3],
        }
        if not self.is_client:
            values[codes.MAX_CONCURRENT_STREAMS] = (3, 1, 7)[value // 2 % 3]
        self.h2.update_settings(values)


class Wire:
    """What each end has said, in flight to the other."""

    def __init__(self, client: Peer, server: Peer) -> None:
        self.ends = (client, server)
        self.flight = (bytearray(), bytearray())

    def carry(self, side: int, size: int) -> bool:
        """Deliver up to `size` bytes of what end `side` has said. False: it has said nothing."""
        flight = self.flight[side]
        if len(flight) < size:
            flight += self.ends[side].take()
        piece = bytes(flight[:size])
        del flight[:size]
        if piece:
            self.ends[1 - side].receive(piece)
        return bool(piece)

    def settle(self, size: int) -> None:
        """Deliver everything, in pieces of `size` bytes."""
        for _ in range(100_000):
            if not any([self.carry(0, size), self.carry(1, size)]):
                return
        raise AssertionError("they never end")
