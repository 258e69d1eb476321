"""Bytes that the client puts together itself, read by protobuf; and what one frame holds."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from itertools import islice
from typing import Any

import pytest

from synchro.client import encoding, requests
from synchro.client.channel import FRAME_BYTES_MAX, FRAME_OPS_MAX
from synchro.client.session import Session
from synchro.errors import IllegalParams, WrongFormat
from synchro.rpc.generated.v1 import common_pb2, data_pb2

RID = b"0123456789abcdef"
SIZES = (0, 1, 60, 100, 127, 128, 129, 16_000, 16_384, 100_000)
"""Around the lengths whose varints grow by a byte."""


@pytest.mark.parametrize("space", ["bands", "größe", "s" * 200, 512, 0, 2**32 - 1])
def test_an_encoded_row_is_the_operation_protobuf_makes(space: str | int) -> None:
    for size in SIZES:
        row = [7, "x" * size]
        assert encoding.decoded(encoding.insert(space, row)) == requests.insert(space, row)
        assert encoding.decoded(encoding.replace(space, row)) == requests.replace(space, row)
        assert encoding.encoded(requests.insert(space, row)) == encoding.insert(space, row)


def test_all_operations_can_be_encoded_and_stay_as_they_are() -> None:
    ops = [
        requests.update("s", 1, [["=", 2, "x"]], index="by_name"),
        requests.upsert("s", [1, "a"], [["+", 2, 1]]),
        requests.delete(512, [1, 2], index=1),
    ]
    encoded = [encoding.encoded(op) for op in ops]
    assert [encoding.decoded(op) for op in encoded] == ops
    assert [encoding.encoded(op) for op in encoded] == encoded
    assert [encoding.space_of([op]) for op in encoded] == ["s", "s", 512]


@pytest.mark.parametrize("space", [-1, 2**32, 1.5, None, "\ud800"])
def test_a_space_that_cannot_be_named_is_refused_each_time(space: Any) -> None:
    for _ in range(2):
        with pytest.raises((IllegalParams, ValueError)):
            encoding.insert(space, [1])


def test_a_row_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(WrongFormat, match="nothing was sent"):
        encoding.insert("s", [object()])
    with pytest.raises(WrongFormat, match="list of fields"):
        encoding.replace("s", "abc")


def test_a_frame_reads_as_the_calls_it_was_made_of() -> None:
    session = Session()
    session.see(common_pb2.Header(decided_position=common_pb2.Position(term=3, lsn=70_000)))
    ops = (
        encoding.insert("s", [1])
        + encoding.encoded(requests.delete("s", 2))
        + encoding.replace("s", ["x" * 200])
    )
    options = encoding.options("submit", 2.5, 9, True)
    call = encoding.call(RID, encoding.position_field(session.position), ops, options)
    first, second = islice(encoding.seqs(), 2)
    parts = [encoding.in_frame(first[1], call), encoding.in_frame(second[1], call)]
    parts += [session.frame_position, encoding.frame_options(0.25)]
    frame = data_pb2.ExecuteStreamRequest.FromString(b"".join(parts))
    made = data_pb2.ExecuteCall(
        seq=1,
        request_id=RID,
        known_position=common_pb2.Position(term=3, lsn=70_000),
        ops=[requests.insert("s", [1]), requests.delete("s", 2), requests.replace("s", ["x" * 200])],
        wait=data_pb2.WAIT_MODE_SUBMIT,
        timeout=requests.duration(2.5),
        expected_term=9,
        encoding=common_pb2.ENCODING_MSGPACK,
        omit_tuples=True,
    )
    assert frame.calls[0] == made
    assert frame.calls[1].seq == 2
    assert requests.seconds(frame.timeout) == 0.25
    assert frame.accepts_ranges
    assert frame.known_position == session.position


def test_a_range_is_a_reply_for_each_of_its_calls() -> None:
    """ADR 13: as each would have had it alone."""
    response = data_pb2.ExecuteStreamResponse()
    response.committed.add(first_seq=7, count=3, txn_origin=2, first_lsn=40)
    response.committed.add(first_seq=3, count=1, txn_origin=2, first_lsn=50)
    replies = dict(encoding.replies(response))
    assert {seq: reply.txn_lsn for seq, reply in replies.items()} == {7: 40, 8: 41, 9: 42, 3: 50}
    for reply in replies.values():
        alone = data_pb2.ExecuteReply(txn_origin=2, txn_lsn=reply.txn_lsn, is_sync=True)
        made = [encoding.result(one, [], None, "i", omit_tuples=True) for one in (reply, alone)]
        assert made[0] == made[1]


def test_what_is_not_said_is_not_sent() -> None:
    call = data_pb2.ExecuteCall.FromString(
        encoding.call(RID, b"", b"", encoding.options("complete", None, 0, False))
    )
    assert call == data_pb2.ExecuteCall(request_id=RID, encoding=common_pb2.ENCODING_MSGPACK)
    assert not call.HasField("timeout")
    assert not call.HasField("known_position")


def test_an_id_of_another_length_goes_as_it_is() -> None:
    """The server says what is wrong with it."""
    for request_id in (b"x", b"x" * 200):
        call = data_pb2.ExecuteCall.FromString(encoding.call(request_id, b"", encoding.insert("s", [1]), b""))
        assert call.request_id == request_id
        assert len(call.ops) == 1


def test_calls_are_numbered_from_one() -> None:
    for expected, (seq, field) in enumerate(islice(encoding.seqs(), 40_000), 1):
        assert seq == expected
        if seq < 300 or seq % 997 == 0 or seq & (seq + 1) == 0:
            assert data_pb2.ExecuteCall.FromString(field).seq == seq


def test_unknown_ways_to_wait_are_refused() -> None:
    with pytest.raises(IllegalParams, match="'maybe'"):
        encoding.options("maybe", None, 0, False)


# --- frames ---------------------------------------------------------------------------------------------


def frames(calls: list[tuple[int, int]]) -> list[int]:
    """Calls of (bytes, operations) -> how many of them each frame holds."""
    pending = deque((bytes(size), ops) for size, ops in calls)
    held = []
    while pending:
        held.append(len(encoding.take(pending)))
    return held


def test_small_calls_share_a_frame() -> None:
    assert frames([(150, 1)] * 256) == [256]


def test_a_frame_has_a_limit_of_bytes() -> None:
    third = FRAME_BYTES_MAX // 3
    assert frames([(third, 1)] * 7) == [3, 3, 1]
    assert frames([(third + 1, 1)] * 5) == [2, 2, 1]


def test_a_frame_has_a_limit_of_operations() -> None:
    assert frames([(10, FRAME_OPS_MAX // 4)] * 6) == [4, 2]
    assert frames([(10, 1)] * (FRAME_OPS_MAX + 1)) == [FRAME_OPS_MAX, 1]
    assert frames([(10, 0)] * (FRAME_OPS_MAX + 1)) == [FRAME_OPS_MAX, 1]


def test_a_call_beyond_the_limits_goes_alone() -> None:
    huge = (FRAME_BYTES_MAX * 3, 10 * FRAME_OPS_MAX)
    assert frames([huge, (10, 1), (10, 1), huge, huge]) == [1, 2, 1, 1]


def test_nothing_pending_is_nothing_taken() -> None:
    assert encoding.take(deque()) == []


# --- request ids ----------------------------------------------------------------------------------------


def test_request_ids_are_16_bytes_and_never_the_same() -> None:
    ids = [requests.new_request_id() for _ in range(3 * requests.IDS_AT_ONCE)]
    assert {len(one) for one in ids} == {16}
    assert len(set(ids)) == len(ids)


def test_a_forked_child_has_ids_of_its_own() -> None:
    """Two processes that share an id would have one transaction where each asked for one."""
    program = (
        "import os\n"
        "from synchro.client.requests import new_request_id\n"
        "new_request_id()\n"
        "child = os.fork()\n"
        "if child: os.waitpid(child, 0)\n"
        "print(new_request_id().hex())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=20, capture_output=True)
    assert len(set(done.stdout.split())) == 2
