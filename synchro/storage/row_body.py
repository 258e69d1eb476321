"""Bodies of rows <-> bytes: a msgpack map with Tarantool's IPROTO keys. Rules [W-3], [D-40].

    INSERT, REPLACE   {0x10 space, 0x21 tuple}
    UPDATE            {0x10 space, 0x11 index, 0x20 key, 0x21 ops}
    DELETE            {0x10 space, 0x11 index, 0x20 key}
    UPSERT            {0x10 space, 0x21 tuple, 0x28 ops}
    NOP               {}
    of all but UPDATE, with 0x04 stamp behind the space, if it has one (ADR 44)
    RAFT              {0x00 term, 0x01 vote}
    CONFIRM, ROLLBACK {0x02 owner, 0x03 lsn}
    PROMOTE, DEMOTE   {0x02 previous owner, 0x03 lsn, 0x53 term, 0x71 previous term}

The msgpack of a client's tuple is checked and spliced in as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from synchro.errors import WrongFormat
from synchro.ids import INSTANCE_ID_MAX, InstanceId, Lsn, Term
from synchro.msgpack_ext import unpack_extension
from synchro.row import (
    Body,
    Confirm,
    Demote,
    Dml,
    Nop,
    Promote,
    Puts,
    RaftState,
    Rollback,
    RowType,
    new_tuple,
)
from synchro.storage.msgpack_check import (
    MALFORMED,
    SCALARS,
    SMALL_BODY_BYTES,
    as_it_came,
    check_fields,
    check_id,
    check_nested,
    check_operations,
    first_value,
    packb,
    refuse_equal_keys,
    unpack,
    unpack_all,
    unpackb,
    why_malformed,
)

KEY_SPACE_ID: Final = 0x10
KEY_INDEX_ID: Final = 0x11
KEY_KEY: Final = 0x20
KEY_TUPLE: Final = 0x21
KEY_OPS: Final = 0x28
KEY_STAMP: Final = 0x04
KEY_REPLICA_ID: Final = 0x02
KEY_LSN: Final = 0x03
KEY_TERM: Final = 0x53
KEY_PREV_TERM: Final = 0x71
KEY_RAFT_TERM: Final = 0x00
KEY_RAFT_VOTE: Final = 0x01

STAMP_END: Final = 2**62
_STAMP_HEAD: Final = bytes((KEY_STAMP, 0xCF))
_STAMP_BYTES: Final = 10

PREFIX_BYTES: Final = 6
_PREFIXES_MAX: Final = 1024
SPACE_BY_PREFIX: Final[dict[bytes, int]] = {}
"""Start of an INSERT body -> space id, for ids of 256..65535, whose start has 6 bytes. A cache."""
PUT_TYPES: Final[dict[int, RowType]] = {int(t): t for t in (RowType.INSERT, RowType.REPLACE)}
_INSERT, _REPLACE = RowType.INSERT, RowType.REPLACE  # a global is found faster than a member of an enum
_NOP: Final = Nop()
_EMPTY_MAP: Final = b"\x80"


def _map(raw: bytes, size: int) -> Any:
    # The size byte is compared too, so that a key given twice does not hide behind a dict.
    if not raw or raw[0] != 0x80 | size:
        raise ValueError(f"the body is not a msgpack map of {size} keys")
    body = unpack(raw)
    if len(body) != size:
        raise ValueError("a key of the body is there twice")
    return body


def _parse_insert(kind: RowType, raw: bytes) -> Dml:
    # Nearly every row passes here. Its start, up to the tuple, is the same for all rows of a space, so
    # only the tuple itself is decoded once the start was seen (a third of the time of the whole map).
    space_id = SPACE_BY_PREFIX.get(raw[:PREFIX_BYTES])
    if space_id is None or len(raw) > SMALL_BODY_BYTES:
        if raw[:1] == b"\x83":
            return _parse_stamped(kind, raw)
        body = _map(raw, 2)
        space_id, value = body[KEY_SPACE_ID], body[KEY_TUPLE]
        check_id(space_id, "space")
        prefix = _prefix(2, space_id, None, KEY_TUPLE)
        data = raw[len(prefix) :] if raw.startswith(prefix) else b""
        if len(prefix) == PREFIX_BYTES and len(SPACE_BY_PREFIX) < _PREFIXES_MAX:
            SPACE_BY_PREFIX[prefix] = space_id
    else:
        data = raw[PREFIX_BYTES:]
        value = unpackb(data, use_list=False, strict_map_key=False, ext_hook=unpack_extension)
    if type(value) is not tuple:
        raise ValueError("the tuple is not a msgpack array")
    for field in value:
        if type(field) not in SCALARS:
            check_nested(value, 1)
            break
    if data:
        value = as_it_came(value, data)
    return new_tuple(Dml, (kind, space_id, raw, 0, None, value, None, 0))  # type: ignore[no-any-return]


def _parse_update(kind: RowType, raw: bytes) -> Dml:
    body = _map(raw, 4)
    space_id, index_id, key, ops = body[KEY_SPACE_ID], body[KEY_INDEX_ID], body[KEY_KEY], body[KEY_TUPLE]
    check_id(space_id, "space")
    check_id(index_id, "index")
    check_fields(key, "key")
    check_operations(ops)
    return Dml(kind, space_id, raw, index_id, key, None, ops)


def _parse_delete(kind: RowType, raw: bytes) -> Dml:
    if raw[:1] == b"\x84":
        return _parse_stamped(kind, raw)
    body = _map(raw, 3)
    space_id, index_id, key = body[KEY_SPACE_ID], body[KEY_INDEX_ID], body[KEY_KEY]
    check_id(space_id, "space")
    check_id(index_id, "index")
    check_fields(key, "key")
    return Dml(kind, space_id, raw, index_id, key)


def _parse_upsert(kind: RowType, raw: bytes) -> Dml:
    if raw[:1] == b"\x84":
        return _parse_stamped(kind, raw)
    body = _map(raw, 3)
    space_id, value, ops = body[KEY_SPACE_ID], body[KEY_TUPLE], body[KEY_OPS]
    check_id(space_id, "space")
    check_fields(value, "tuple")
    check_operations(ops)
    prefix = _prefix(3, space_id, None, KEY_TUPLE)
    if raw.startswith(prefix) and not raw.startswith(packb(value), len(prefix)):
        value = as_it_came(value, first_value(raw[len(prefix) :]))
    return Dml(kind, space_id, raw, 0, None, value, ops)


def _parse_stamped(kind: RowType, raw: bytes) -> Dml:
    """The body is as without a stamp, but for that behind the space."""
    start = 2 + len(first_value(raw[2:]))
    end = start + _STAMP_BYTES
    if raw[start : start + 2] != _STAMP_HEAD or len(raw) < end:
        raise ValueError("a key of the body is not known")
    stamp = int.from_bytes(raw[start + 2 : end], "big")
    if not 0 < stamp < STAMP_END:
        raise ValueError(f"{stamp} is not a stamp")
    bare = PARSERS[kind][1](kind, bytes((raw[0] - 1,)) + raw[1:start] + raw[end:])
    assert isinstance(bare, Dml)
    return bare._replace(raw=raw, stamp=stamp)


def stamped(op: Dml, stamp: int) -> Dml:
    """The same change with a stamp: microseconds, below `STAMP_END`. Not for an UPDATE."""
    assert op.type is not RowType.UPDATE and 0 < stamp < STAMP_END
    raw = op.raw or encode_body(op)
    start = 2 + len(packb(op.space_id))
    raw = b"%c%b%b%b%b" % (raw[0] + 1, raw[1:start], _STAMP_HEAD, stamp.to_bytes(8, "big"), raw[start:])
    return op._replace(raw=raw, stamp=stamp)


def _parse_nop(kind: RowType, raw: bytes) -> Nop:
    if raw != _EMPTY_MAP:
        raise ValueError("the body of a NOP is not empty")
    return _NOP


def _instance(number: Any) -> InstanceId:
    if type(number) is not int or not 0 <= number <= INSTANCE_ID_MAX:
        raise ValueError(f"{number!r} is not an instance id")
    return InstanceId(number)


def _unsigned(number: Any, what: str) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is not a {what}")
    return number


def _parse_raft(kind: RowType, raw: bytes) -> RaftState:
    body = _map(raw, 2)
    return RaftState(Term(_unsigned(body[KEY_RAFT_TERM], "term")), _instance(body[KEY_RAFT_VOTE]))


def _parse_confirm(kind: RowType, raw: bytes) -> Confirm | Rollback:
    body = _map(raw, 2)
    make = Confirm if kind is RowType.CONFIRM else Rollback
    return make(_instance(body[KEY_REPLICA_ID]), Lsn(_unsigned(body[KEY_LSN], "LSN")))


def _parse_promote(kind: RowType, raw: bytes) -> Promote | Demote:
    body = _map(raw, 4)
    make = Promote if kind is RowType.PROMOTE else Demote
    return make(
        _instance(body[KEY_REPLICA_ID]),
        Lsn(_unsigned(body[KEY_LSN], "LSN")),
        Term(_unsigned(body[KEY_TERM], "term")),
        Term(_unsigned(body[KEY_PREV_TERM], "term")),
    )


PARSERS: Final[dict[int, tuple[RowType, Callable[[RowType, bytes], Body]]]] = {
    int(kind): (kind, parse)
    for kind, parse in cast(
        "tuple[tuple[RowType, Callable[[RowType, bytes], Body]], ...]",
        (
            (RowType.INSERT, _parse_insert),
            (RowType.REPLACE, _parse_insert),
            (RowType.UPDATE, _parse_update),
            (RowType.DELETE, _parse_delete),
            (RowType.UPSERT, _parse_upsert),
            (RowType.NOP, _parse_nop),
            (RowType.RAFT, _parse_raft),
            (RowType.PROMOTE, _parse_promote),
            (RowType.DEMOTE, _parse_promote),
            (RowType.CONFIRM, _parse_confirm),
            (RowType.ROLLBACK, _parse_confirm),
        ),
    )
}
DML_TYPES: Final = frozenset(
    {RowType.INSERT, RowType.REPLACE, RowType.UPDATE, RowType.DELETE, RowType.UPSERT}
)


def encode_body(body: Body) -> bytes:
    """The body as it stands in a row."""
    match body:
        case Dml():
            return (
                body.raw
                or dml_from_values(
                    body.type,
                    body.space_id,
                    index_id=body.index_id,
                    key=body.key,
                    value=body.value,
                    ops=body.ops,
                ).raw
            )
        case Nop():
            return _EMPTY_MAP
        case RaftState():
            return packb({KEY_RAFT_TERM: body.term, KEY_RAFT_VOTE: body.vote})
        case Confirm() | Rollback():
            return packb({KEY_REPLICA_ID: body.owner, KEY_LSN: body.lsn})
        case Promote() | Demote():
            return packb(
                {
                    KEY_REPLICA_ID: body.prev_owner,
                    KEY_LSN: body.lsn,
                    KEY_TERM: body.term,
                    KEY_PREV_TERM: body.prev_term,
                }
            )


# --- changes asked for by clients ---------------------------------------------------------------------


def read_dml(kind: RowType, raw: bytes) -> Dml:
    """A change from its encoded body. Raises `WrongFormat`."""
    if kind not in DML_TYPES:
        raise WrongFormat(f"{kind.name} is not a data change")
    try:
        return cast("Dml", PARSERS[kind][1](kind, bytes(raw)))
    except MALFORMED as error:
        raise WrongFormat(f"malformed {kind.name}: {why_malformed(error)}") from error


@lru_cache(maxsize=1024)
def _prefix(size: int, space_id: int, index_id: int | None, key: int) -> bytes:
    """Start of a body up to the first spliced value: map of `size`, space, index if any, `key`."""
    head = bytes((0x80 | size, KEY_SPACE_ID)) + packb(space_id)
    if index_id is not None:
        head += bytes((KEY_INDEX_ID,)) + packb(index_id)
    return head + bytes((key,))


def _as_msgpack(value: Any, what: str) -> bytes:
    """Python values packed; bytes are taken for msgpack already."""
    if isinstance(value, bytes):
        return value
    try:
        return packb(value)
    except MALFORMED as error:
        raise WrongFormat(f"the {what} cannot be encoded: {why_malformed(error)}") from error


def insert_dml(kind: RowType, space_id: int, tuple_msgpack: bytes) -> Dml:
    """INSERT or REPLACE; the client's tuple goes in as it came. Raises `WrongFormat`."""
    assert kind is _INSERT or kind is _REPLACE
    try:
        if len(tuple_msgpack) <= SMALL_BODY_BYTES:
            value = unpackb(tuple_msgpack, use_list=False, strict_map_key=False, ext_hook=unpack_extension)
        else:
            value = unpack(tuple_msgpack, from_client=True)
        if type(value) is not tuple:
            raise ValueError("the tuple is not a msgpack array")
        for field in value:
            if type(field) not in SCALARS:
                check_nested(value, 1, True)
                break
        value = as_it_came(value, tuple_msgpack, True)
    except MALFORMED as error:
        raise WrongFormat(f"malformed tuple: {why_malformed(error)}") from error
    raw = _prefix(2, space_id, None, KEY_TUPLE) + tuple_msgpack
    return new_tuple(Dml, (kind, space_id, raw, 0, None, value, None, 0))  # type: ignore[no-any-return]


def put_dml(kind: RowType, space_id: int, value: Sequence[Any]) -> Dml:
    """INSERT or REPLACE of fields that were checked already."""
    raw = _prefix(2, space_id, None, KEY_TUPLE) + packb(value)
    return new_tuple(Dml, (kind, space_id, raw, 0, None, value, None, 0))  # type: ignore[no-any-return]


def insert_all(kind: RowType, space_id: int, tuples: Sequence[bytes]) -> Puts:
    """`insert_dml` for many of one space. Raises `WrongFormat`, which does not say for which."""
    assert kind is _INSERT or kind is _REPLACE
    try:
        values = unpack_all(tuples, from_client=True)
    except MALFORMED as error:
        raise WrongFormat(f"malformed tuple: {why_malformed(error)}") from error
    prefix = _prefix(2, space_id, None, KEY_TUPLE)
    return Puts(kind, space_id, [prefix + data for data in tuples], values)


def update_dml(space_id: int, index_id: int, key: bytes | Sequence[Any], ops: bytes | Sequence[Any]) -> Dml:
    """key and ops: msgpack arrays as bytes, or Python sequences. Raises `WrongFormat`."""
    raw = b"%b%b\x21%b" % (
        _prefix(4, space_id, index_id, KEY_KEY),
        _spliced(key, "key"),
        _spliced(ops, "operations"),
    )
    return read_dml(RowType.UPDATE, raw)


def upsert_dml(space_id: int, value: bytes | Sequence[Any], ops: bytes | Sequence[Any]) -> Dml:
    raw = b"%b%b\x28%b" % (
        _prefix(3, space_id, None, KEY_TUPLE),
        _spliced(value, "tuple"),
        _spliced(ops, "operations"),
    )
    return read_dml(RowType.UPSERT, raw)


def delete_dml(space_id: int, index_id: int, key: bytes | Sequence[Any]) -> Dml:
    raw = _prefix(3, space_id, index_id, KEY_KEY) + _spliced(key, "key")
    return read_dml(RowType.DELETE, raw)


def _spliced(value: bytes | Sequence[Any], what: str) -> bytes:
    """Exactly one msgpack value: two of them would slip a key of their own into the body."""
    data = _as_msgpack(value, what)
    try:
        found = unpack(data, from_client=True)
        check_nested((found,), 0, from_client=True)
        if packb(found) != data:
            refuse_equal_keys(data)
    except MALFORMED as error:
        raise WrongFormat(f"malformed {what}: {why_malformed(error)}") from error
    return data


def dml_from_values(
    kind: RowType,
    space_id: int,
    *,
    index_id: int = 0,
    key: Sequence[Any] | None = None,
    value: Sequence[Any] | None = None,
    ops: Sequence[Sequence[Any]] | None = None,
) -> Dml:
    """A change from Python values: tests, system spaces, tools. Raises `WrongFormat`."""
    match kind:
        case RowType.INSERT | RowType.REPLACE if value is not None:
            return insert_dml(kind, space_id, _as_msgpack(value, "tuple"))
        case RowType.UPDATE if key is not None and ops is not None:
            return update_dml(space_id, index_id, key, ops)
        case RowType.DELETE if key is not None:
            return delete_dml(space_id, index_id, key)
        case RowType.UPSERT if value is not None and ops is not None:
            return upsert_dml(space_id, value, ops)
        case _:
            raise WrongFormat(f"{kind.name} lacks its key, tuple or operations")
