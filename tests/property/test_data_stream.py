"""Whatever happens between a client's data stream and a server: each call gets one outcome, and none that the
server has read is told that it was not sent."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.client import CannotConnect, ConnectionLost
from synchro.client.data_stream import WIRE_LIMITS
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.wire import grpc_call
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ErrorCode
from synchro.wire.grpc_call import StatusCode
from synchro.wire.headers import HeaderList
from synchro.wire.limits import WireLimits
from synchro.wire.streams import Http2Stream, Nobody
from tests.unit.test_client_data_stream import Shell, Slot, name, pad, reply

SMALL = WireLimits(stream_window_bytes=700, connection_window_bytes=66_000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 500)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("to server"), st.integers(1, 1500)),
        st.tuples(st.just("to client"), st.integers(1, 1500)),
        st.tuples(st.sampled_from(["there", "back"]), st.just(100_000)),
        st.tuples(st.just("answer"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["write", "hold", "give", "sweep", "begin"]), st.just(0)),
        st.tuples(st.sampled_from(["go away", "drain", "end", "reset", "refuse"]), st.just(0)),
    ),
    max_size=60,
)


class Exchange(Nobody):
    """Both ends, and the bytes between them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = Shell()
        self.h2 = Http2Connection(
            is_client=True, limits=WIRE_LIMITS, clock=self.clock, on_goaway=lambda *_: self.stream.drain()
        )
        self.server = Http2Connection(
            is_client=False, limits=SMALL, clock=self.clock, on_stream=self._on_stream
        )
        self.slots: list[Slot] = []
        self.to_server, self.to_client = bytearray(), bytearray()
        self.call: Http2Stream | None = None
        self.is_begun = False
        self.unanswered: list[tuple[int, int]] = []
        """seq and number of calls."""
        self.read: set[int] = set()
        """Numbers of the calls that the server has read."""
        self.answered: set[int] = set()

    def clock(self) -> float:
        return self.now

    # the server

    def _on_stream(self, stream: Http2Stream, headers: HeaderList) -> None:
        stream.owner = self
        self.call = stream
        stream.send_headers(grpc_call.RESPONSE_HEAD)

    def on_message(self, data: bytes) -> None:
        for call in data_pb2.ExecuteStreamRequest.FromString(data).calls:
            number = int(call.request_id)
            assert number not in self.read, "sent twice"
            self.read.add(number)
            self.unanswered.append((call.seq, number))

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        self.call = None

    # the steps

    def step(self, what: str, much: int) -> None:
        call, stream = self.call, self.stream
        match what:
            case "submit" if stream.is_open:
                slot = Slot()
                self.slots.append(slot)
                stream.submit(slot, self.now + 3.0, b"\x12\x10" + name(len(self.slots) - 1) + pad(much))
            case "cancel" if much < len(self.slots) and not self.slots[much].done():
                self.slots[much].is_cancelled = True
            case "begin" if not self.is_begun:
                self.is_begun = True
                stream.begin(self.h2)
            case "write":
                while stream._hand_over():
                    pass
                while data := self.h2.take():
                    self.to_server += data
            case "there":
                self.step("write", 0)
                self.step("to server", much)
            case "back":
                self.step("to client", much)
            case "to server":
                data = bytes(self.to_server[:much])
                del self.to_server[:much]
                self.server.receive(data)
                self.server.check()
            case "to client":
                while data := self.server.take():
                    self.to_client += data
                data = bytes(self.to_client[:much])
                del self.to_client[:much]
                self.h2.receive(data)
                self.h2.check()
            case "answer" if call is not None and self.unanswered:
                results = [reply(*one) for one in self.unanswered[:much]]
                self.answered |= {number for _, number in self.unanswered[:much]}
                del self.unanswered[:much]
                response = data_pb2.ExecuteStreamResponse(header=common_pb2.Header(), results=results)
                call.send_message(response.SerializeToString())
            case "hold" if call is not None:
                call.hold_window()
            case "give" if call is not None:
                call.give_window()
            case "sweep":
                self.now += 1.0
                stream.sweep(self.now)
            case "go away":
                self.server.goaway()
            case "drain":
                self.server.shut_down()
            case "end" if call is not None:
                call.end(grpc_call.trailers(StatusCode.UNAVAILABLE, "stopping"))
                self.call = None
            case "reset" | "refuse" if call is not None and not (what == "refuse" and self.read):
                call.reset(ErrorCode.REFUSED_STREAM if what == "refuse" else ErrorCode.INTERNAL_ERROR)
                self.call = None
        stream.check()

    def judge(self) -> None:
        for number, slot in enumerate(self.slots):
            assert slot.done(), "DataStream.B1"
            end = slot.end
            if isinstance(end, CannotConnect):
                assert number not in self.read, "DataStream.B3"
            elif isinstance(end, data_pb2.ExecuteReply):
                assert number in self.answered and end.txn_lsn == number
            elif end is not None:
                assert isinstance(end, ConnectionLost)


@settings(max_examples=1000, deadline=None)
@given(STEPS, st.booleans())
def test_each_call_hears_once_and_the_truth(steps: list[tuple[str, Any]], is_begun: bool) -> None:
    exchange = Exchange()
    exchange.step("back", 10_000)
    if is_begun:
        exchange.step("begin", 0)
    for what, much in steps:
        exchange.step(what, much)
    exchange.h2.lost("socket closed")
    exchange.stream.end(ConnectionLost("closed"))
    exchange.judge()
    assert exchange.stream.is_over and exchange.stream.ends == 1


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_a_server_that_goes_on_answers_every_call_that_it_has_read(steps: list[tuple[str, Any]]) -> None:
    """And a stream that is given up ends by itself, once they are answered."""
    exchange = Exchange()
    exchange.step("to client", 10_000)
    exchange.step("begin", 0)
    ends = ("go away", "end", "reset", "refuse", "sweep")
    for what, much in steps:
        if what not in ends:
            exchange.step(what, much)
    exchange.step("give", 0)
    for _ in range(len(exchange.slots) + 5):
        for what, much in (("write", 0), ("to server", 10_000), ("answer", 100), ("to client", 10_000)):
            exchange.step(what, much)
    exchange.stream.end(ConnectionLost("closed"))
    exchange.judge()
    for number, slot in enumerate(exchange.slots):
        if not slot.is_cancelled:
            assert number in exchange.answered or isinstance(slot.end, CannotConnect)
