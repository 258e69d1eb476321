"""Writes as the bytes of an ExecuteStreamRequest, put together without a message for each part.

A protobuf message is its fields one after another, so fields that are bytes already are joined as they are:
several times cheaper than messages that are filled, copied into each other and serialised. What is not new in
each row (heads, options) protobuf writes itself, once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

from synchro.client import requests
from synchro.client.channel import FRAME_BYTES_MAX, FRAME_OPS_MAX
from synchro.client.model import FieldNames, Result, Tuple, TxnId, make_tuple
from synchro.client.requests import (
    WAIT_MODES,
    Message,
    SpaceRef,
    WaitMode,
    duration,
    pack_tuple,
    read_tuple,
    set_space,
    unpack,
)
from synchro.errors import IllegalParams
from synchro.row import new_tuple
from synchro.rpc.generated.v1 import common_pb2, data_pb2

E = TypeVar("E", bound=tuple[Any, ...])

EXECUTE_STREAM: Final = "/synchro.v1.DataService/ExecuteStream"
SEQ_TAG: Final = b"\x08"
"""Of `ExecuteCall.seq`, a varint."""
CALLS_TAG: Final = b"\x0a"
"""Of `ExecuteStreamRequest.calls`, a length and its bytes."""
ID_TAG: Final = b"\x12\x10"
"""Of `ExecuteCall.request_id`, with its length."""


# --- operations: each is a field `ops` of an ExecuteCall -----------------------------------------------


def insert(space: SpaceRef, fields: Sequence[Any]) -> bytes:
    data = pack_tuple(fields)
    return _head("insert", space, len(data)) + data


def replace(space: SpaceRef, fields: Sequence[Any]) -> bytes:
    data = pack_tuple(fields)
    return _head("replace", space, len(data)) + data


@lru_cache(maxsize=4096)
def _head(kind: str, space: SpaceRef, size: int) -> bytes:
    """What stands before the tuple, which is the last field: everything of it but `size` bytes."""
    op = data_pb2.Op()
    body = getattr(op, kind)
    set_space(body, space)
    body.tuple = bytes(size)
    return encoded(op)[:-size]


def encoded(op: Message | bytes) -> bytes:
    """Of an Op; what is encoded already stays."""
    return op if isinstance(op, bytes) else bytes(data_pb2.ExecuteCall(ops=(op,)).SerializeToString())


SYNCHRONOUS: Final = encoded(requests.synchronous())
"""Ahead of all operations, as whose count it counts, while no tuple answers it."""


def decoded(op: bytes) -> Message:
    """The bytes of one operation as the message `Op`."""
    return data_pb2.ExecuteCall.FromString(op).ops[0]


def spaces_of(ops: bytes) -> set[SpaceRef]:
    """The spaces of any number of operations, whose bytes are joined."""
    return {_space_of(op) for op in data_pb2.ExecuteCall.FromString(ops).ops}


def space_of(ops: Sequence[bytes]) -> SpaceRef:
    """The space of the first operation that may answer with a tuple; "" if there is none."""
    for op in ops:
        message = decoded(op)
        if message.WhichOneof("op") != "check":
            return _space_of(message)
    return ""


def _space_of(op: Message) -> SpaceRef:
    body = getattr(op, op.WhichOneof("op") or "insert")
    space: SpaceRef = body.space or body.space_id
    return space


# --- calls ----------------------------------------------------------------------------------------------

CALL_BYTES_SURE: Final = 1 << 20
"""Any call up to this size fits into a message."""


def call(request_id: bytes, position: bytes, ops: bytes, options: bytes) -> bytes:
    """An ExecuteCall without its `seq`. ops: any number of them, joined.

    position: of a call that is sent again, see `position_field`; b"": that of its frame."""
    if len(request_id) == 16:
        return b"".join((ID_TAG, request_id, position, ops, options))
    return bytes(data_pb2.ExecuteCall(request_id=request_id).SerializeToString()) + position + ops + options


def position_field(position: Message | None) -> bytes:
    """`known_position` of an ExecuteCall, encoded as that field."""
    if position is None:
        return b""
    return bytes(data_pb2.ExecuteCall(known_position=position).SerializeToString())


@lru_cache(maxsize=256)
def options(wait: WaitMode, timeout_s: float | None, expected_term: int, omit_tuples: bool) -> bytes:
    """How a call is to be done. Raises `IllegalParams`."""
    if wait not in WAIT_MODES:
        raise IllegalParams(f"wait is complete, submit or none, not {wait!r}; nothing was sent")
    made = data_pb2.ExecuteCall(
        wait=WAIT_MODES[wait],
        timeout=None if timeout_s is None else duration(timeout_s),
        expected_term=expected_term,
        encoding=common_pb2.ENCODING_MSGPACK,
        omit_tuples=omit_tuples,
    )
    return bytes(made.SerializeToString())


# --- replies --------------------------------------------------------------------------------------------


def result(
    reply: Message, ops: Sequence[bytes], names: FieldNames | None, instance: str, *, omit_tuples: bool
) -> Result:
    """From an ExecuteReply."""
    txn = (reply.txn_origin, reply.txn_lsn) if reply.txn_origin else None
    tuples = () if omit_tuples else tuples_of(reply, ops, names)
    return Result(tuples, txn, reply.is_sync, reply.duplicate, instance)


def tuples_of(reply: Message, ops: Sequence[bytes], names: FieldNames | None) -> list[Tuple | None]:
    """A duplicate comes without tuples: what was stored as sent is known anyway. A null may have become the
    value of a sequence, so of a tuple with one nothing is known."""
    txn = (reply.txn_origin, reply.txn_lsn) if reply.txn_origin else None
    tuples = reply.tuples
    if len(tuples) == len(ops):
        return [read_tuple(message, names, txn) for message in tuples]
    return [_stored(op, names, txn) for op in ops]


def _stored(op: bytes, names: FieldNames | None, txn: TxnId | None) -> Tuple | None:
    message = decoded(op)
    kind = message.WhichOneof("op")
    if kind not in ("insert", "replace"):
        return None
    fields = unpack(getattr(message, kind).tuple)
    return None if None in fields else make_tuple(fields, names, txn)


class RangeReply(NamedTuple):
    """What an ExecuteReply says of one call of a CommittedRange."""

    txn_origin: int
    txn_lsn: int
    is_sync: bool = True
    duplicate: bool = False
    tuples: tuple[Message, ...] = ()


def replies(response: Message) -> Iterator[tuple[int, RangeReply]]:
    """Each call of the ranges of an ExecuteStreamResponse: its `seq` and the reply."""
    for part in response.committed:
        first, origin, lsn = part.first_seq, part.txn_origin, part.first_lsn
        for number in range(part.count):
            yield first + number, new_tuple(RangeReply, (origin, lsn + number, True, False, ()))


# --- frames ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def seqs() -> Iterator[tuple[int, bytes]]:
    """1, 2, ... and the field `seq` of each. In order they are cheaper than one by one."""
    for low in range(1, 128):
        yield low, SEQ_TAG + varint(low)
    for high in count(1):
        end = varint(high)
        for low in range(128):
            yield high << 7 | low, SEQ_TAG + bytes((low | 0x80,)) + end


def take(pending: deque[E]) -> list[E]:
    """Remove what one frame holds from the left. Entries end with a call and its number of operations."""
    size, room = 0, FRAME_OPS_MAX
    for number, entry in enumerate(pending):
        size += len(entry[-2])
        room -= entry[-1] or 1
        if number and (size > FRAME_BYTES_MAX or room < 0):
            return [pending.popleft() for _ in range(number)]
    taken = list(pending)
    pending.clear()
    return taken


def in_frame(seq_field: bytes, call: bytes) -> bytes:
    """A field `calls` of an ExecuteStreamRequest."""
    return CALLS_TAG + varint(len(seq_field) + len(call)) + seq_field + call


def open_stream(channel: Any) -> Any:
    """The ExecuteStream of a stub, for frames that are bytes already."""
    return channel.stream_stream(
        EXECUTE_STREAM, response_deserializer=data_pb2.ExecuteStreamResponse.FromString
    )


def frame_position(position: Message) -> bytes:
    """`known_position` of an ExecuteStreamRequest, encoded as that field."""
    return bytes(data_pb2.ExecuteStreamRequest(known_position=position).SerializeToString())


def frame_options(timeout_s: float) -> bytes:
    """What a frame has besides its calls."""
    frame = data_pb2.ExecuteStreamRequest(timeout=duration(timeout_s), accepts_ranges=True)
    return bytes(frame.SerializeToString())
