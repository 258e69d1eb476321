"""How much may be on its way (ADR 20), on links that a test makes up."""

from __future__ import annotations

from collections import deque

import pytest

from synchro.replication.pace import WINDOW_MIN_BYTES, WINDOW_START_BYTES, Pace

MIB = 1024 * 1024


class Link:
    """Carries `rate` bytes a second in order, `delay_s` each way; the receiver answers what asks for it."""

    def __init__(self, pace: Pace, *, rate: float, delay_s: float = 0.0) -> None:
        self.pace = pace
        self.rate = rate
        self.delay_s = delay_s
        self.now = 0.0
        self.total = 0
        self.waits: list[float] = []
        """Of each message, until it was received."""
        self._free_at = 0.0
        self._sent = 0
        self._receipts: deque[tuple[float, int]] = deque()

    def send(self, size: int) -> None:
        wanted = self.pace.sent(size, self.now)
        self._sent += size
        self._free_at = max(self.now, self._free_at) + size / self.rate
        arrived = self._free_at + self.delay_s
        self.waits.append(arrived - self.now)
        if wanted:
            self._receipts.append((self._free_at + 2 * self.delay_s, self._sent))

    def run(self, seconds: float, *, beat_s: float) -> None:
        """A backlog without an end, and heartbeats, which are answered too."""
        end, next_beat = self.now + seconds, self.now
        while self.now < end:
            if self.now >= next_beat:
                next_beat += beat_s
                self.pace.sent(0, self.now)
                self._receipts.append((max(self.now, self._free_at) + 2 * self.delay_s, self._sent))
            while self.pace.has_room(self.pace.piece) and self._free_at < end:
                self.send(self.pace.piece)
            self.now = min(next_beat, self._receipts[0][0]) if self._receipts else next_beat
            while self._receipts and self._receipts[0][0] <= self.now:
                self.total = self._receipts.popleft()[1]
                self.pace.received(self.total, self.now)


@pytest.mark.parametrize("beat_s", [0.1, 0.25, 1.0, 5.0])
@pytest.mark.parametrize("kib_per_s", [16, 64, 200, 2_000, 100_000])
@pytest.mark.parametrize("delay_s", [0.0002, 0.02, 0.08])
def test_a_link_is_filled_and_heartbeats_are_not_late(beat_s: float, kib_per_s: int, delay_s: float) -> None:
    """From 16 KB/s to 100 MB/s: nothing waits for longer than a heartbeat behind rows, the start excepted."""
    rate = kib_per_s * 1024.0
    pace = Pace(beat_s=beat_s, window_max=8 * MIB, now=0.0)
    link = Link(pace, rate=rate, delay_s=delay_s)
    link.run(20.0, beat_s=beat_s)
    settled = link.waits[len(link.waits) // 4 :]
    floor = WINDOW_MIN_BYTES / rate
    assert max(settled) <= max(beat_s, floor) + delay_s
    assert max(link.waits) <= max(2 * beat_s, WINDOW_START_BYTES / rate) + 2 * delay_s
    possible = min(rate, 8 * MIB / (2 * delay_s)) * 20.0
    round_trips = 2 * delay_s / beat_s  # a window of half a beat does not fill a link of such a delay
    assert link.total >= possible * (0.7 if round_trips <= 0.25 else 0.5 if round_trips <= 1 else 0.2)


def test_a_fast_link_is_not_held_back_for_long() -> None:
    """Ten doublings, each a round trip."""
    pace = Pace(beat_s=1.0, window_max=8 * MIB, now=0.0)
    link = Link(pace, rate=100 * MIB, delay_s=0.0005)
    link.run(1.0, beat_s=1.0)
    assert pace.window == 8 * MIB
    assert link.total > 80 * MIB


def test_a_link_that_became_slow_gets_less() -> None:
    pace = Pace(beat_s=1.0, window_max=8 * MIB, now=0.0)
    link = Link(pace, rate=1 * MIB)
    link.run(10.0, beat_s=1.0)
    assert pace.window > 256 * 1024
    link.rate = 64 * 1024
    link.run(30.0, beat_s=1.0)
    assert pace.window <= 64 * 1024
    assert link.waits[-1] <= 1.0


def test_a_few_late_bytes_do_not_make_a_link_slow() -> None:
    """The receiver was busy for a second: with little on its way that says nothing of the link."""
    pace = Pace(beat_s=1.0, window_max=8 * MIB, now=0.0)
    link = Link(pace, rate=100 * MIB, delay_s=0.0005)
    link.run(2.0, beat_s=1.0)
    pace.received(link._sent, link.now)
    window = pace.window
    pace.sent(100, link.now)
    pace.sent(0, link.now)
    pace.received(link._sent + 100, link.now + 1.0)
    assert pace.window == window


def test_what_is_larger_than_the_window_goes_alone() -> None:
    """Pace.K1: to who takes no parts a transaction goes as it is, when nothing else is on its way."""
    pace = Pace(beat_s=1.0, window_max=8 * MIB, now=0.0)
    assert pace.has_room(MIB)
    pace.sent(MIB, 0.0)
    assert not pace.has_room(1)
    pace.received(MIB, 1.0)
    assert pace.has_room(MIB)


def test_old_and_impossible_receipts_do_nothing() -> None:
    pace = Pace(beat_s=1.0, window_max=8 * MIB, now=0.0)
    pace.sent(1000, 0.0)
    pace.received(2000, 0.1)
    assert pace.on_the_way == 1000
    pace.received(700, 0.2)
    pace.received(600, 0.3)
    assert pace.on_the_way == 300
    assert pace.received_at == 0.2
