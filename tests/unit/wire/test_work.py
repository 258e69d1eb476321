"""Work and memory are proportional to what came: nothing is looked at, copied or kept again and again."""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from synchro.wire import frames
from synchro.wire.headers import header_block
from tests.unit.wire.wire_world import (
    MIB,
    REQUEST,
    RESPONSE,
    TRAILERS,
    End,
    data,
    headers,
    message,
    request,
    rst,
    server,
    settings,
    window,
)

FAR_TOO_LONG_S = 5.0
"""Quadratic copies would take a minute and more here, linear ones a quarter of a second."""


def calls_in(work: Callable[[], object]) -> int:
    """Calls of Python functions."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_large_message_in_tiny_frames() -> None:
    end = server().receive(request(1))
    whole = message(bytes(4 * MIB))
    view = memoryview(whole)
    began = time.process_time()
    for start in range(0, len(whole), 64):
        end.h2.receive(data(1, bytes(view[start : start + 64])))
    assert [len(m) for m in end.messages()] == [4 * MIB]
    assert time.process_time() - began < FAR_TOO_LONG_S


def test_a_large_frame_in_tiny_pieces() -> None:
    end = server().receive(request(1))
    whole = data(1, message(bytes(MIB - 5)))
    view = memoryview(whole)
    began = time.process_time()
    for start in range(0, len(whole), 16):
        end.h2.receive(bytes(view[start : start + 16]))
    assert [len(m) for m in end.messages()] == [MIB - 5]
    assert time.process_time() - began < FAR_TOO_LONG_S


def test_a_large_answer_through_a_small_window() -> None:
    """65,536 windows of 64 bytes: each sends its frame, and the rest is not copied."""
    end = server(idle_frames_burst=10**6).receive(settings(initial_window_size=0), request(1, end=True))
    end.receive(window(0, 2**30))
    end.opened[1].send_message(bytes(4 * MIB))
    began = time.process_time()
    for _ in range(4 * MIB // 64 + 1):
        end.h2.receive(window(1, 64))
        end.h2.take()
    assert not end.opened[1].is_blocked
    assert time.process_time() - began < FAR_TOO_LONG_S


def _trickle(blocked: int, own_window: int) -> int:
    end = server(idle_frames_burst=10**6).receive(settings(initial_window_size=own_window))
    for stream_id in range(1, 2 * blocked + 1, 2):
        end.receive_unchecked(request(stream_id, end=True))
        end.opened[stream_id].send_message(bytes(70_000))
    end.h2.take()
    return calls_in(lambda: end.receive_unchecked(*[window(0, 1)] * 200))


@pytest.mark.parametrize("own_window", [0, 2**20], ids=["closed", "open"])
def test_a_trickle_costs_the_same_however_many_wait(own_window: int) -> None:
    """Windows that open byte by byte do not walk over a thousand blocked streams each time."""
    few, many = _trickle(10, own_window), _trickle(1000, own_window)
    assert many < 1.2 * few


def test_resets_of_those_that_wait_cost_the_same_however_many_wait() -> None:
    def cost(streams: int) -> float:
        end = server(streams_max=10**4, resets_burst=10**6).receive(settings(initial_window_size=100))
        ids = range(1, 2 * streams + 1, 2)
        for stream_id in ids:
            end.receive_unchecked(request(stream_id, end=True))
            end.opened[stream_id].send_message(bytes(300))
        return calls_in(lambda: end.receive_unchecked(*[rst(stream_id) for stream_id in ids])) / streams

    assert cost(2000) < 1.2 * cost(20)


def _serve(end: End, stream_id: int) -> None:
    end.receive_unchecked(request(stream_id), data(stream_id, message(b"question"), end=True))
    end.opened.pop(stream_id).answer(header_block(RESPONSE), b"answer", header_block(TRAILERS))
    end.listeners.pop(stream_id)


def _reset(end: End, stream_id: int) -> None:
    end.receive_unchecked(request(stream_id), data(stream_id, message(b"question")[:7]), rst(stream_id))
    end.opened.pop(stream_id), end.listeners.pop(stream_id)


def _refuse(end: End, stream_id: int) -> None:
    end.receive_unchecked(headers(stream_id, TRAILERS))


def _new_blocks(end: End, stream_id: int) -> None:
    fields = [*REQUEST, (b"grpc-timeout", b"%du" % stream_id)]
    end.receive_unchecked(headers(stream_id, fields, end=True))
    end.opened.pop(stream_id).send_headers(header_block(TRAILERS), end=True)
    end.listeners.pop(stream_id)


def _chatter(end: End, stream_id: int) -> None:
    end.receive_unchecked(frames.ping(bytes(8)), settings(), window(0, 1))


@pytest.mark.parametrize("act", [_serve, _reset, _refuse, _new_blocks, _chatter])
def test_nothing_is_kept_of_what_is_over(act: Callable[[End, int], None]) -> None:
    end = server(resets_burst=10**6, idle_frames_burst=10**6, settings_burst=10**6, remembered_resets_max=50)

    def some(first: int) -> int:
        for n in range(first, first + 500):
            act(end, 2 * n + 1)
            end.h2.take()
        end.log.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = some(0)
        assert some(500) - before < 20_000
    finally:
        tracemalloc.stop()


def test_small_messages_that_wait_take_little_more_than_their_bytes() -> None:
    end = server().receive(settings(initial_window_size=0), request(1, end=True))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(50_000):
            end.opened[1].send_message(b"%05d" % n)
        assert tracemalloc.get_traced_memory()[0] - before < 700_000
    finally:
        tracemalloc.stop()
    end.receive(window(0, 500_000), window(1, 500_000))
    payload = b"".join(f.payload for f in end.sent() if f.kind == frames.DATA)
    assert payload == b"".join(message(b"%05d" % n) for n in range(50_000))
