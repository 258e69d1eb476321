"""Flow control of one connection, both ways (RFC 9113, 5.2 and 6.9): its windows, its output, and in which
order streams get what there is of either."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from synchro.wire.floods import FloodGuard
from synchro.wire.frames import WINDOW_AT_FIRST, WINDOW_MAX, ConnectionFault, ErrorCode, window_update
from synchro.wire.limits import WireLimits


class FlowStream(Protocol):
    """What a stream does when it is its turn."""

    @property
    def is_inside_message(self) -> bool:
        """The beginning of a message is here, and not its end."""

    def _pump_frame(self) -> bool:
        """Send one frame of what is queued. True: there is more, and the window of the stream is open."""

    def _queue_moved(self) -> None:
        """The line was left: everything is sent, or the window of the stream is closed."""

    def _give_back(self) -> None:
        """Give the peer window for this stream, if it should have more."""


class FlowControl(FloodGuard):
    """The half of `Http2Connection` that knows windows only: Http2Connection.W2..W6."""

    def __init__(self, limits: WireLimits, clock: Callable[[], float]) -> None:
        super().__init__(limits, clock)
        self._top_up_below = limits.unsent_data_bytes_max // 2
        self.send_window = min(WINDOW_AT_FIRST, limits.unsent_data_bytes_max)
        """Bytes of DATA that may be added to the output."""
        self._window_kept = WINDOW_AT_FIRST - self.send_window
        """What the peer allows beyond `send_window`, until more was taken."""
        self._window_at_take = self.send_window
        """`send_window` of an empty output: what is missing from it lies in the output."""
        self._granted = WINDOW_AT_FIRST
        """What the peer has allowed, in all."""
        self.waiting: OrderedDict[FlowStream, None] = OrderedDict()
        """Blocked streams whose own window is open: they wait for the connection's, in turns."""
        self.queued_bytes = 0
        """Bytes of messages that windows hold back, of all streams."""
        self._moved_at = 0.0
        self._is_pumping = False

        self._room = limits.connection_window_bytes
        """What the peer may send before more is given back."""
        self._given = 0
        """What was given back, in all."""
        self._give_below = limits.connection_window_bytes * 3 // 4
        self.held_bytes = 0
        """Bytes received on streams whose reader takes nothing."""
        self.partial_bytes = 0
        """Bytes of incomplete messages, of all streams."""
        self.starved: OrderedDict[FlowStream, None] = OrderedDict()
        """Streams inside a message that get no window, since `partial_bytes` is high."""
        self._favoured: FlowStream | None = None
        """The one inside a message that gets it nevertheless, so that it ends."""

    # --- sending ------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """What is to be written. Call it again when that is written, until nothing comes: of messages it
        gives `WireLimits.unsent_data_bytes_max` at a time."""
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        self._window_at_take = self.send_window
        if self.waiting or (self.send_window < self._top_up_below and self._window_kept):
            self._top_up()
            self._pump()
        return data

    @property
    def kept_bytes(self) -> int:
        """Bytes that lie here for who does not take them, or does not end them."""
        return self.queued_bytes + self.held_bytes + self.partial_bytes

    def _data_bytes(self) -> int:
        """Bytes of DATA that went and came."""
        sent = self._granted - self.send_window - self._window_kept
        return sent + self._given + self.limits.connection_window_bytes - self._room

    @property
    def stalled_since(self) -> float | None:
        """Seconds of the clock since when messages wait for the peer and none has moved; None if none
        waits."""
        return self._moved_at if self.queued_bytes else None

    def _grant(self, more: int) -> None:
        """WINDOW_UPDATE for the connection."""
        if self.send_window + self._window_kept + more > WINDOW_MAX:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window of the connection overflows")
        self._granted += more
        self._window_kept += more
        if self.waiting or self.send_window < self._top_up_below:
            self._top_up()
            self._pump()

    def _top_up(self) -> None:
        """Move to `send_window` what the peer allows and the output has room for."""
        unsent = self._window_at_take - self.send_window
        more = min(self._window_kept, self.limits.unsent_data_bytes_max - unsent - self.send_window)
        if more > 0:
            self._window_kept -= more
            self.send_window += more
            self._window_at_take += more

    def _pump(self) -> None:
        """A frame of each stream in line, in turns, as far as the window goes: each step sends something or
        takes a stream out of the line, so a trickle of WINDOW_UPDATE does not walk over those that wait."""
        waiting = self.waiting
        if self._is_pumping or not waiting or self.send_window <= 0:
            return  # inside of another one, the outer loop goes on
        self._is_pumping = True
        self._moved_at = self._clock()
        try:
            while waiting and self.send_window > 0:
                stream = next(iter(waiting))
                if stream._pump_frame():
                    waiting.move_to_end(stream)
                else:
                    del waiting[stream]
                    stream._queue_moved()
        finally:
            self._is_pumping = False

    def _queue_more(self, size: int) -> bool:
        """Bytes of a message must wait. False: too many wait."""
        if self.queued_bytes + size > self.limits.queued_bytes_max:
            return False
        if not self.queued_bytes:
            self._moved_at = self._clock()
        self.queued_bytes += size
        self._top_up()
        return True

    # --- receiving ----------------------------------------------------------------------------------

    def _give_back(self) -> None:
        """Let the peer send as much again as was taken, if that is worth a frame."""
        withheld = max(0, self.held_bytes - self.limits.held_bytes_max)
        taken = self.limits.connection_window_bytes - self._room - withheld
        if taken > 0 and self._room < self._give_below:
            self._room += taken
            self._given += taken
            self._out.append(window_update(0, taken))

    def _keep_partial(self, size: int) -> bool:
        """More bytes of a message that is not complete. False: there are too many."""
        if self.partial_bytes + size > self.limits.partial_bytes_max:
            return False
        self.partial_bytes += size
        return True

    def _drop_partial(self, size: int) -> None:
        """A message is complete, or given up."""
        self.partial_bytes -= size
        if self._favoured is not None or self.starved:
            self._feed_starved()

    def _may_have_window(self, stream: FlowStream) -> bool:
        """Whether a stream inside a message gets window; if not, it is fed later."""
        if self.partial_bytes * 2 <= self.limits.partial_bytes_max or self._favoured is stream:
            return True
        if self._favoured is None:
            self._favoured = stream
            return True
        self.starved[stream] = None
        return False

    def _feed_starved(self) -> None:
        """Window for streams that had none: for all while incomplete messages are few, else for one."""
        if self._favoured is not None and not self._favoured.is_inside_message:
            self._favoured = None
        while self.starved and (
            self._favoured is None or self.partial_bytes * 2 <= self.limits.partial_bytes_max
        ):
            stream, _ = self.starved.popitem(last=False)
            stream._give_back()

    def _forget_flow(self, stream: FlowStream, queued: int) -> None:
        """A stream is over: `queued` bytes of it are not sent."""
        self.queued_bytes -= queued
        self.waiting.pop(stream, None)
        assert stream not in self.starved and self._favoured is not stream  # its message was given up

    def _check_flow(self) -> None:
        """Assert what can be seen without the streams."""
        limits = self.limits
        assert self.send_window >= 0 and self._window_kept >= 0  # Http2Connection.W2
        assert self.send_window + self._window_kept <= WINDOW_MAX
        assert self._window_at_take - self.send_window <= limits.unsent_data_bytes_max
        assert self._room <= limits.connection_window_bytes  # Http2Connection.W3
        assert all(stream.is_inside_message for stream in self.starved)  # Http2Connection.W6
        assert not self.starved or self._favoured is not None
        assert self._favoured is None or self._favoured.is_inside_message
