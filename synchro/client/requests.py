"""Requests and replies as protobuf messages: everything about the wire that does no I/O."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from struct import Struct
from typing import Any, Final, Literal, TypeAlias

import msgpack
from google.protobuf.duration_pb2 import Duration

from synchro.client.model import FieldNames, Rows, Tuple, TxnId, make_tuple
from synchro.config import DURATION_S_MAX
from synchro.errors import IllegalParams, WrongFormat
from synchro.msgpack_ext import packb, unpack_for_python
from synchro.rpc.generated.v1 import common_pb2, data_pb2, info_pb2, schema_pb2
from synchro.rpc.schema_form import FieldSpec as FieldSpec
from synchro.rpc.schema_form import PartSpec as PartSpec
from synchro.rpc.schema_form import SequenceSpec as SequenceSpec
from synchro.rpc.schema_form import fields as fields
from synchro.rpc.schema_form import index_sequence as index_sequence
from synchro.rpc.schema_form import parts as parts

Message: TypeAlias = Any
SpaceRef: TypeAlias = "str | int"
IndexRef: TypeAlias = "str | int | None"
KeyLike: TypeAlias = Any
"""A list or tuple of key parts, or a single part as it is."""

FieldsLike: TypeAlias = "Mapping[str | int, Any] | Sequence[tuple[str | int, Any]]"
"""Fields of a tuple, by name or by number from 1, each with a value."""
_MSGPACK: Final = common_pb2.ENCODING_MSGPACK
WaitMode: TypeAlias = Literal["complete", "submit", "none"]
"""When a write returns: decided; on the leader's disk and in the queue; at once."""
ReadMode: TypeAlias = Literal["confirmed", "linearizable", "read_committed"]
"""confirmed: what is decided where it is read. linearizable: no older than the moment of the call.
read_committed: also what waits for its quorum there, which may be rolled back."""
IteratorName: TypeAlias = Literal[
    "EQ", "REQ", "ALL", "LT", "LE", "GE", "GT", "eq", "req", "all", "lt", "le", "ge", "gt"
]
ConflictKind: TypeAlias = Literal["stop", "skip", "keep_local", "last_write_wins"]
"""What becomes of a row of another instance that is in the way of what an instance has."""
CONFLICT_POLICIES: Final[Mapping[ConflictKind, Any]] = {
    "stop": schema_pb2.CONFLICT_POLICY_STOP,
    "skip": schema_pb2.CONFLICT_POLICY_SKIP,
    "keep_local": schema_pb2.CONFLICT_POLICY_KEEP_LOCAL,
    "last_write_wins": schema_pb2.CONFLICT_POLICY_LAST_WRITE_WINS,
}
WAIT_MODES: Final[Mapping[str, Any]] = {
    "complete": data_pb2.WAIT_MODE_UNSPECIFIED,
    "submit": data_pb2.WAIT_MODE_SUBMIT,
    "none": data_pb2.WAIT_MODE_NONE,
}
READ_MODES: Final[Mapping[str, Any]] = {
    "confirmed": data_pb2.READ_MODE_CONFIRMED,
    "linearizable": data_pb2.READ_MODE_LINEARIZABLE,
    "read_committed": data_pb2.READ_MODE_READ_COMMITTED,
}


def conflict(policy: ConflictKind) -> Any:
    """As in a message. IllegalParams."""
    if policy not in CONFLICT_POLICIES:
        names = ", ".join(CONFLICT_POLICIES)
        raise IllegalParams(f"conflict is one of {names}, not {policy!r}; nothing was done")
    return CONFLICT_POLICIES[policy]


def pack(value: Any) -> bytes:
    try:
        return packb(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise WrongFormat(f"not a value that can be stored: {error}; nothing was sent") from error


def unpack(data: bytes) -> Any:
    """Arrays are lists, and tuples where they are the key of a map, as in rows of before ADR 24."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False, ext_hook=unpack_for_python)
    except TypeError:  # a list has no hash
        return msgpack.unpackb(
            data, raw=False, strict_map_key=False, ext_hook=unpack_for_python, object_pairs_hook=_map
        )


def _map(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_as_key(key): value for key, value in pairs}


def _as_key(key: Any) -> Any:
    return tuple(map(_as_key, key)) if isinstance(key, list) else key


def pack_tuple(fields: Sequence[Any]) -> bytes:
    if not isinstance(fields, (list, tuple)):
        raise WrongFormat(f"a tuple is a list of fields, not {type(fields).__name__}; nothing was sent")
    return pack(fields)


def key_parts(key: KeyLike) -> Sequence[Any]:
    """None: no parts."""
    if key is None:
        return ()
    return key if isinstance(key, (list, tuple)) else (key,)


def check_options(given: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    """TypeError, as for any call with an unknown keyword: a misspelt `timeout` is not the client's own."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f" of {', '.join(sorted(known))}"
            raise TypeError(f"{what} has no option {name!r}{meant}; nothing was sent")


def check_timeout(timeout_s: float) -> float:
    """Return it. Raises `IllegalParams`, before anything is sent, for what no instance takes."""
    try:
        is_one = 0 <= timeout_s <= DURATION_S_MAX
    except TypeError:
        is_one = False
    if not is_one:
        raise IllegalParams(
            f"a timeout is between 0 and {DURATION_S_MAX:g} seconds, not {timeout_s!r}; nothing was done"
        )
    return timeout_s


def duration(seconds: float) -> Message:
    check_timeout(seconds)
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def seconds(message: Message) -> float:
    return float(message.seconds + message.nanos / 1e9)


IDS_AT_ONCE: Final = 256
_cut_ids: Final = Struct("16s" * IDS_AT_ONCE).unpack
_ids: Final[list[bytes]] = []
"""Random, not used yet. Read from the system many at a time."""


def new_request_id() -> bytes:
    """16 random bytes. For any thread, and for children of a fork, which begin with fresh ones."""
    try:
        return _ids.pop()
    except IndexError:
        first, *others = _cut_ids(os.urandom(16 * IDS_AT_ONCE))
        _ids.extend(others)
        return bytes(first)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.clear)


# --- operations -----------------------------------------------------------------------------------------


def insert(space: SpaceRef, fields: Sequence[Any]) -> Message:
    op = data_pb2.Op()
    return _with_tuple(op, op.insert, space, fields)


def replace(space: SpaceRef, fields: Sequence[Any]) -> Message:
    op = data_pb2.Op()
    return _with_tuple(op, op.replace, space, fields)


def _with_tuple(op: Message, body: Message, space: SpaceRef, fields: Sequence[Any]) -> Message:
    set_space(body, space)
    body.tuple = pack_tuple(fields)
    return op


def update(
    space: SpaceRef,
    key: KeyLike,
    ops: Sequence[Sequence[Any]],
    index: IndexRef = None,
    *,
    must_match: bool = False,
) -> Message:
    op = data_pb2.Op()
    body = op.update_existing if must_match else op.update
    _set_key(body, space, key, index)
    body.ops = pack(ops)
    return op


def upsert(space: SpaceRef, fields: Sequence[Any], ops: Sequence[Sequence[Any]]) -> Message:
    op = data_pb2.Op()
    body = op.upsert
    set_space(body, space)
    body.tuple = pack_tuple(fields)
    body.ops = pack(ops)
    return op


def delete(space: SpaceRef, key: KeyLike, index: IndexRef = None, *, must_match: bool = False) -> Message:
    op = data_pb2.Op()
    _set_key(op.delete_existing if must_match else op.delete, space, key, index)
    return op


def check(
    kind: Any, space: SpaceRef, key: KeyLike, index: IndexRef = None, fields: FieldsLike | None = None
) -> Message:
    op = data_pb2.Op()
    _set_key(op.check, space, key, index)
    op.check.kind = kind
    if fields is not None:
        pairs = list(fields.items()) if isinstance(fields, Mapping) else [list(pair) for pair in fields]
        op.check.fields = pack(pairs)
    return op


def synchronous() -> Message:
    op = data_pb2.Op()
    op.synchronous.SetInParent()
    return op


def _set_key(body: Message, space: SpaceRef, key: KeyLike, index: IndexRef) -> None:
    set_space(body, space)
    _set_index(body, index)
    body.key = pack(key_parts(key))


def set_space(body: Message, space: SpaceRef) -> None:
    if isinstance(space, str):
        body.space = space
    else:
        body.space_id = number(space, "the id of a space")


def _set_index(body: Message, index: IndexRef) -> None:
    if isinstance(index, str):
        body.index = index
    elif index is not None:
        body.index_id = number(index, "the id of an index")


def number(value: int, what: str, *, bits: int = 32) -> int:
    """A field of a message. Raises `IllegalParams`."""
    if not hasattr(value, "__index__") or not 0 <= value < 1 << bits:
        raise IllegalParams(f"{what} is a whole number of {bits} bits, not {value!r}; nothing was sent")
    return value


# --- reads ----------------------------------------------------------------------------------------------


def read_tuple(message: Message, names: FieldNames | None = None, txn: TxnId | None = None) -> Tuple | None:
    data: bytes = message.msgpack
    return make_tuple(unpack(data), names, txn) if data else None


def select(
    space: SpaceRef,
    key: KeyLike = None,
    *,
    index: IndexRef = None,
    iterator: IteratorName | None = None,
    limit: int | None = None,
    offset: int = 0,
    after: Sequence[Any] | None = None,
    read: ReadMode | None = None,
    min_vclock: Mapping[int, int] | None = None,
    timeout_s: float | None = None,
) -> Message:
    parts = key_parts(key)
    request = data_pb2.SelectRequest(
        key=common_pb2.Tuple(msgpack=pack(parts)),
        iterator=iterator or ("EQ" if parts else "ALL"),
        offset=number(offset, "offset"),
        encoding=_MSGPACK,
        min_vclock=min_vclock,
    )
    set_space(request, space)
    _set_index(request, index)
    if limit is not None:
        request.limit = number(limit, "limit")
    if after is not None:
        request.after.msgpack = pack(after)
    if read is not None:
        if read not in READ_MODES:
            names = ", ".join(READ_MODES)
            raise IllegalParams(f"read is one of {names}, not {read!r}; nothing was read")
        request.read = READ_MODES[read]
    if timeout_s is not None:
        request.timeout.CopyFrom(duration(timeout_s))
    return request


def add_page(rows: Rows, request: Message, reply: Message, names: FieldNames | None) -> bool:
    """Take a SelectResponse in. True: `request` now asks for the next page, which is wanted."""
    for message in reply.tuples:
        rows.append(make_tuple(unpack(message.msgpack), names))
    rows.read_at = dict(reply.read_at)
    rows.after = read_tuple(reply.after)
    if rows.after is None or not reply.tuples:
        return False
    if request.HasField("limit"):
        request.limit -= len(reply.tuples)
        if not request.limit:
            return False
    request.offset = 0
    request.after.msgpack = reply.after.msgpack
    return True


def get_info(paths: Sequence[str]) -> Message:
    return info_pb2.GetInfoRequest(paths=paths, encoding=_MSGPACK)
