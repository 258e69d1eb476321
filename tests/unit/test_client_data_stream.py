"""The client's data stream without I/O, against a server whose frames and windows a test chooses: who waits
gets one outcome, and what was not sent is never unknown."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from synchro.client import CannotConnect, ConnectionLost
from synchro.client.data_stream import WIRE_LIMITS, DataStream
from synchro.client.session import Session
from synchro.errors import SynchroError, SyncTimeout, TupleFound, Unimplemented
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.rpc.status import DETAILS_KEY, to_status
from synchro.wire import frames, grpc_call
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ErrorCode
from synchro.wire.grpc_call import StatusCode
from synchro.wire.headers import HeaderList
from synchro.wire.streams import Http2Stream, Nobody
from tests.unit.wire.wire_world import data, goaway, headers, message, rst, settings, window

FAR = 1000.0
HOST = "127.0.0.1:3301"
LAST = 2**31 - 1


class Slot:
    """Who waits for a call. `ends`: each outcome it was given."""

    def __init__(self) -> None:
        self.ends: list[Any] = []
        self.is_cancelled = False

    def done(self) -> bool:
        return bool(self.ends) or self.is_cancelled

    def set_result(self, result: Any) -> None:
        assert not self.done(), "DataStream.B1"
        self.ends.append(result)

    def set_exception(self, error: SynchroError) -> None:
        assert not self.done(), "DataStream.B1"
        self.ends.append(error)

    @property
    def end(self) -> Any:
        return self.ends[0] if self.ends else None

    @property
    def kind(self) -> type | None:
        return type(self.end) if self.ends else None


class Shell(DataStream):
    """Has no connection but that of the test."""

    def __init__(self) -> None:
        self.headers: list[Any] = []
        self.session = Session()
        super().__init__(
            HOST, 5.0, lambda response, endpoint: self.headers.append(response.header), self.session
        )
        self.wakes = self.rooms = self.ends = 0

    def submit(self, slot: Slot, deadline: float, call: bytes) -> None:
        if not self.is_open:
            raise self._refusal()
        self._pending.append((slot, deadline, call, 1))

    def _write_soon(self) -> None:
        self.wakes += 1

    def _give_room(self) -> None:
        self.rooms += 1

    def _let_go(self) -> None:
        self.ends += 1


class World(Nobody):
    """A stream and the other end of its connection: a server on the same core."""

    def __init__(self, *, begin: bool = True, window: int = 1 << 20) -> None:
        self.stream = Shell()
        self.h2 = Http2Connection(
            is_client=True,
            limits=WIRE_LIMITS,
            clock=lambda: 0.0,
            on_goaway=lambda *_: self.stream.drain(),
        )
        self.server = Http2Connection(
            is_client=False, limits=WIRE_LIMITS, clock=lambda: 0.0, on_stream=self._on_stream
        )
        self.server.take()
        self.call: Http2Stream | None = None
        self.asked: list[Any] = []
        """Frames that the server got."""
        self.is_reset = False
        self.receive(settings(initial_window_size=window))
        if begin:
            self.stream.begin(self.h2)
            self.flush()

    # the server's side

    def _on_stream(self, stream: Http2Stream, headers: HeaderList) -> None:
        stream.owner = self
        self.call = stream
        stream.send_headers(grpc_call.RESPONSE_HEAD)

    def on_message(self, data: bytes) -> None:
        self.asked.append(data_pb2.ExecuteStreamRequest.FromString(data))

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        self.is_reset = True

    @property
    def ids(self) -> list[list[bytes]]:
        return [[call.request_id for call in frame.calls] for frame in self.asked]

    def seqs(self) -> dict[bytes, int]:
        return {call.request_id: call.seq for frame in self.asked for call in frame.calls}

    # what a test does

    def submit(self, *numbers: int, deadline: float = FAR, size: int = 0) -> list[Slot]:
        slots = []
        for number in numbers:
            slot = Slot()
            self.stream.submit(slot, deadline, b"\x12\x10" + name(number) + pad(size))
            slots.append(slot)
        return slots

    def flush(self) -> None:
        """Everything goes to the server, whose answers to frames come back."""
        while True:
            while self.stream._hand_over():
                self.stream.check()
            sent = self.h2.take()
            if sent:
                self.server.receive(sent)
            if back := self.server.take():
                self.receive(back)
            elif not sent:
                return

    def receive(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.h2.receive(piece)
            self.h2.check()
            self.stream.check()

    def answer(self, *results: Any, **fields: Any) -> None:
        assert self.call is not None
        response = data_pb2.ExecuteStreamResponse(
            header=common_pb2.Header(instance_id=1), results=results, **fields
        )
        self.call.send_message(response.SerializeToString())
        self.flush()

    def answer_all(self, *numbers: int) -> None:
        seqs = self.seqs()
        self.answer(*(reply(seqs[name(number)], number) for number in numbers))


def name(number: int) -> bytes:
    return b"%016d" % number


def pad(size: int) -> bytes:
    """An operation of about so many bytes; 0: none."""
    made = data_pb2.ExecuteCall()
    if size:
        made.ops.add().insert.tuple = bytes(size)
    return bytes(made.SerializeToString())


def reply(seq: int, lsn: int) -> Any:
    return data_pb2.ExecuteResult(seq=seq, reply=data_pb2.ExecuteReply(txn_origin=1, txn_lsn=lsn))


def kinds(slots: list[Slot]) -> list[type | None]:
    return [slot.kind for slot in slots]


# --- answers --------------------------------------------------------------------------------------------


def test_what_is_asked_together_shares_a_frame_and_each_hears_its_own_answer() -> None:
    world = World()
    slots = world.submit(*range(5))
    world.flush()
    assert world.ids == [[name(n) for n in range(5)]]
    assert world.asked[0].accepts_ranges and world.asked[0].timeout.seconds == 5
    seqs = world.seqs()
    status = to_status(TupleFound("there"))
    world.answer(
        reply(seqs[name(0)], 10),
        data_pb2.ExecuteResult(seq=seqs[name(4)], error=status),
        committed=[data_pb2.CommittedRange(first_seq=seqs[name(1)], count=3, txn_origin=1, first_lsn=11)],
    )
    assert [slot.end.txn_lsn for slot in slots[:4]] == [10, 11, 12, 13]
    assert slots[4].kind is TupleFound
    assert [header.instance_id for header in world.stream.headers] == [1]


def test_a_frame_names_the_position_that_is_known_when_it_is_made() -> None:
    world = World()
    world.submit(1)
    header = common_pb2.Header(decided_position=common_pb2.Position(term=2, lsn=50))
    world.stream.session.see(header)
    world.flush()
    assert (world.asked[0].known_position.term, world.asked[0].known_position.lsn) == (2, 50)


def test_a_cancelled_and_an_overdue_call_are_not_sent() -> None:
    world = World(begin=False)
    kept, cancelled = world.submit(1, 2)
    (overdue,) = world.submit(3, deadline=10.0)
    cancelled.is_cancelled = True
    world.stream.sweep(11.0)
    assert overdue.kind is CannotConnect and overdue.end.details["silent"] == "yes"
    world.stream.begin(world.h2)
    world.flush()
    assert world.ids == [[name(1)]]
    world.answer_all(1)
    assert kept.end.txn_lsn == 1 and not cancelled.ends


def test_an_answer_that_comes_too_late_is_for_nobody() -> None:
    world = World()
    (slot,) = world.submit(1, deadline=10.0)
    world.flush()
    world.stream.sweep(11.0)
    assert slot.kind is ConnectionLost and "in time" in slot.end.message
    world.answer_all(1)
    assert len(slot.ends) == 1


# --- ends ----------------------------------------------------------------------------------------------


def status_end(code: StatusCode, text: str, error: SynchroError | None = None) -> bytes:
    metadata = [] if error is None else [(DETAILS_KEY, to_status(error).SerializeToString())]
    return frames.header_frames(
        grpc_call.trailers(code, text, metadata), frames.END_STREAM, 1, frames.FRAME_BYTES_MIN
    )


ENDS: dict[str, tuple[list[bytes], type[SynchroError]]] = {
    "no error": ([status_end(StatusCode.OK, "")], ConnectionLost),
    "unavailable": ([status_end(StatusCode.UNAVAILABLE, "Socket closed")], ConnectionLost),
    "an error of the server": ([status_end(StatusCode.ABORTED, "", SyncTimeout("late"))], SyncTimeout),
    "unknown method": ([status_end(StatusCode.UNIMPLEMENTED, "unknown")], Unimplemented),
    "reset": ([rst(1, ErrorCode.INTERNAL_ERROR)], ConnectionLost),
    "refused": ([rst(1, ErrorCode.REFUSED_STREAM)], CannotConnect),
    "refused by goaway": ([goaway(0)], CannotConnect),
    "no message": ([data(1, message(b"\xff\xff"))], ConnectionLost),
    "compressed": ([data(1, message(b"", compressed=True))], ConnectionLost),
    "too long": ([data(1, frames.PREFIX.pack(0, 1 << 30))], ConnectionLost),
}


@pytest.mark.parametrize("how", ENDS)
def test_however_a_stream_ends_each_call_hears_whether_it_may_have_been_done(how: str) -> None:
    pieces, kind = ENDS[how]
    world = World()
    sent = world.submit(1, 2)
    world.flush()
    pending = world.submit(3)
    world.receive(*pieces)
    assert kinds(sent) == [kind, kind]
    assert sent[0].end is not sent[1].end  # each collects a traceback of its own
    assert kinds(pending) == [CannotConnect]
    assert world.stream.is_over and world.stream.ends == 1
    with pytest.raises(CannotConnect):
        world.submit(4)
    world.receive(*([rst(1)] if "goaway" in how else []))
    assert world.stream.ends == 1


def test_a_response_that_is_not_of_grpc_ends_the_stream() -> None:
    world = World(begin=False)
    world.stream.begin(world.h2)
    (slot,) = world.submit(1)
    world.stream._hand_over()
    world.h2.take()
    world.receive(headers(1, [(b":status", b"502")]))
    assert slot.kind is ConnectionLost and "502" in slot.end.message


def test_a_lost_connection_leaves_open_what_was_sent_only() -> None:
    world = World()
    sent = world.submit(1)
    world.flush()
    pending = world.submit(2)
    world.h2.lost("socket closed")
    assert kinds(sent + pending) == [ConnectionLost, CannotConnect]


def test_a_frame_that_flow_control_holds_back_did_nothing() -> None:
    """DataStream.B3: the other end cannot have read the whole of it."""
    world = World(window=300)
    first = world.submit(1)
    world.flush()
    held, pending = world.submit(2, size=400), []
    world.flush()
    pending = world.submit(3)
    world.flush()
    assert world.ids == [[name(1)]]
    world.h2.lost("socket closed")
    assert kinds(first + held + pending) == [ConnectionLost, CannotConnect, CannotConnect]


def test_what_the_window_let_go_may_have_been_done() -> None:
    world = World(window=300)
    held = world.submit(1, size=400)
    world.flush()
    assert world.ids == [] and world.stream.wakes == 1
    world.submit(2)
    world.receive(window(1, 1000))
    assert world.stream.wakes == 2  # for what waited behind it
    world.flush()
    assert world.ids == [[name(1)], [name(2)]]
    world.h2.lost("socket closed")
    assert kinds(held) == [ConnectionLost]


def test_a_stream_that_never_began_sent_nothing() -> None:
    """The other end takes no call at the time: SETTINGS_MAX_CONCURRENT_STREAMS is 0."""
    world = World(begin=False)
    world.receive(settings(max_concurrent_streams=0))
    world.stream.begin(world.h2)
    slots = world.submit(1)
    world.flush()
    world.h2.lost("socket closed")
    assert kinds(slots) == [CannotConnect] and not world.asked


def test_a_connection_that_goes_away_before_the_call_sent_nothing() -> None:
    world = World(begin=False)
    slots = world.submit(1)
    world.receive(goaway(LAST))
    world.stream.begin(world.h2)
    assert kinds(slots) == [CannotConnect] and world.stream.is_over


# --- draining ------------------------------------------------------------------------------------------


def test_who_goes_away_is_waited_for_and_given_nothing_more() -> None:
    world = World()
    sent = world.submit(1, 2)
    world.flush()
    pending = world.submit(3)
    world.receive(goaway(LAST), goaway(1))
    assert kinds(sent + pending) == [None, None, CannotConnect]
    assert not world.stream.is_open and not world.stream.is_over
    with pytest.raises(CannotConnect):
        world.submit(4)
    world.answer_all(1)
    assert not world.stream.is_over
    world.answer_all(2)
    assert [slot.end.txn_lsn for slot in sent] == [1, 2]
    assert world.stream.is_over and world.stream.ends == 1
    world.flush()
    assert world.is_reset


def test_who_goes_away_and_does_not_answer_is_waited_for_until_the_deadline() -> None:
    world = World()
    (slot,) = world.submit(1, deadline=10.0)
    world.flush()
    world.receive(goaway(LAST))
    world.stream.sweep(9.0)
    assert not slot.ends
    world.stream.sweep(11.0)
    assert slot.kind is ConnectionLost and world.stream.is_over


def test_who_goes_away_with_nothing_to_answer_is_left_at_once() -> None:
    world = World()
    world.receive(goaway(LAST))
    assert world.stream.is_over and world.stream.ends == 1


# --- room ----------------------------------------------------------------------------------------------


def test_a_stream_is_full_until_answers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synchro.client.data_stream.IN_FLIGHT_MAX", 3)
    world = World()
    world.submit(1, 2)
    assert not world.stream.is_full
    world.submit(3)
    assert world.stream.is_full
    world.flush()
    assert world.stream.is_full
    rooms = world.stream.rooms
    world.answer_all(1)
    assert not world.stream.is_full and world.stream.rooms > rooms


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stream_may_be_ended_in_every_state(after: int) -> None:
    """Connecting, open, draining: DataStream.B4."""
    world = World(begin=after > 0)
    slots = world.submit(1)
    if after:
        world.flush()
    if after == 2:
        world.receive(goaway(LAST))
    for _ in range(2):
        world.stream.end(ConnectionLost("the client closed its stream"))
    assert kinds(slots) == [ConnectionLost if after else CannotConnect]
    assert world.stream.ends == 1
    world.stream.sweep(FAR * 2)
    world.stream.drain()
    world.stream.begin(world.h2)
    assert world.stream.ends == 1
    world.flush()
    assert world.is_reset is (after > 0)


def test_seqs_rise_over_frames() -> None:
    world = World()
    for number in range(300):
        world.submit(number)
        world.flush()
    seqs = list(world.seqs().values())
    assert all(a < b for a, b in itertools.pairwise(seqs)) and len(seqs) == 300
