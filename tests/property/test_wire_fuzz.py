"""Nothing but `ConnectionFault` comes of bytes from a stranger. `python -m tests.fuzz_wire` does it for
hours."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.wire import frames
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ConnectionFault
from synchro.wire.headers import HeaderDecoder, header_block
from synchro.wire.limits import WireLimits
from synchro.wire.streams import Nobody
from tests.fuzz_wire import REQUEST, fuzz

FRAME = st.builds(
    lambda kind, flags, stream_id, payload: (
        frames.HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload
    ),
    st.integers(0, 11),
    st.integers(0, 255),
    st.sampled_from((0, 1, 2, 3, 2**31 - 1, 2**32 - 1)),
    st.one_of(st.binary(max_size=40), st.just(header_block(REQUEST)), st.sampled_from((bytes(4), bytes(8)))),
)
STREAM = st.one_of(st.binary(max_size=200), st.lists(FRAME, max_size=12).map(b"".join))


@pytest.mark.parametrize("is_client", [True, False])
@settings(max_examples=200, deadline=None)
@given(STREAM, st.booleans(), st.integers(1, 50))
def test_bytes_of_any_kind(is_client: bool, data: bytes, greets: bool, cut: int) -> None:
    h2 = Http2Connection(
        is_client=is_client,
        limits=WireLimits(),
        clock=lambda: 0.0,
        on_stream=None if is_client else lambda stream, headers: stream.send_headers(header_block(REQUEST)),
    )
    if is_client:
        h2.open(header_block(REQUEST), Nobody())
    if greets:
        data = (b"" if is_client else frames.PREFACE) + frames.settings({}) + data
    with suppress(ConnectionFault):
        for start in range(0, len(data), cut):
            h2.receive(data[start : start + cut])
            h2.check()
    h2.take()
    h2.lost("over")
    h2.check()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_header_blocks_of_any_kind(blocks: list[bytes]) -> None:
    """What the `hpack` library makes of them is a list or a fault; a block that is known means what it
    meant."""
    decoder = HeaderDecoder(WireLimits(), is_client=False)
    with suppress(ConnectionFault):
        for block in blocks:
            headers = decoder.decode(block)
            assert decoder.known.get(block, headers) is headers
            if block in decoder.known:
                assert decoder.decode(block).fields == headers.fields


def test_broken_exchanges() -> None:
    figures = fuzz(inputs=1500, seed=20)
    assert figures.messages > 1000 and figures.calls > 1500
    assert len(figures.ends) >= 6 and figures.ends["open"] > 200
    assert figures.slowest[0] < 1.0
