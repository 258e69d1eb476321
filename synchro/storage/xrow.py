"""Row <-> bytes: what lies in a WAL block and travels in a stream frame. Rules [W-1], [W-3], [D-40].

A row is a header of 24 bytes, little-endian: body length u32, type u8, flags u8, origin u8, group u8,
LSN u64, TSN u64; then 16 bytes of request id if `FLAG_REQUEST_ID` is set (on the last row, or on every row
of a shared transaction, ADR 13: global changes with LSNs without a gap); then the body, a msgpack map
with Tarantool's IPROTO keys:

    INSERT, REPLACE   {0x10 space, 0x21 tuple}
    UPDATE            {0x10 space, 0x11 index, 0x20 key, 0x21 ops}
    DELETE            {0x10 space, 0x11 index, 0x20 key}
    UPSERT            {0x10 space, 0x21 tuple, 0x28 ops}
    NOP               {}
    RAFT              {0x00 term, 0x01 vote}
    CONFIRM, ROLLBACK {0x02 owner, 0x03 lsn}
    PROMOTE, DEMOTE   {0x02 previous owner, 0x03 lsn, 0x53 term, 0x71 previous term}

A transaction is a run of rows up to the one with `FLAG_COMMIT`. Its bytes are made once, by its origin;
the msgpack of a client's tuple is checked and spliced in as it came.

Hot path: changes of one transaction stay columns (`Puts`) where they can, rows are not made at all
(`PlainTxn`), `tuple.__new__` builds the named tuples (half the cost of calling the class), one precompiled
`Struct` reads the header, and scalars are recognised without a Python loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain, repeat
from struct import Struct
from struct import error as _StructError
from typing import Any, Final, NamedTuple, cast

import msgpack

from synchro.errors import DecodeError, WrongFormat
from synchro.ids import INSTANCE_ID_MAX, LOCAL, REQUEST_ID_BYTES, InstanceId, Lsn, RequestId, Term
from synchro.row import (
    CONTROL_TYPES,
    FLAG_COMMIT,
    FLAG_REQUEST_ID,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    GROUP_DEFAULT,
    Body,
    Confirm,
    Demote,
    Dml,
    Nop,
    PlainTxn,
    Promote,
    Puts,
    RaftState,
    RawTuple,
    Rollback,
    Row,
    RowType,
    Tuple,
    Txn,
    new_tuple,
)

NESTING_MAX: Final = 32
"""Arrays and maps inside each other, the tuple included; Python compares nested values by recursion."""
SMALL_BODY_BYTES: Final = 256
"""Up to here a lying array header cannot make the msgpack decoder reserve memory worth a check."""
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**64 - 1

KEY_SPACE_ID: Final = 0x10
KEY_INDEX_ID: Final = 0x11
KEY_KEY: Final = 0x20
KEY_TUPLE: Final = 0x21
KEY_OPS: Final = 0x28
KEY_REPLICA_ID: Final = 0x02
KEY_LSN: Final = 0x03
KEY_TERM: Final = 0x53
KEY_PREV_TERM: Final = 0x71
KEY_RAFT_TERM: Final = 0x00
KEY_RAFT_VOTE: Final = 0x01

ROW_HEADER: Final = Struct("<IBBBBQQ")
ROW_HEADER_BYTES: Final = ROW_HEADER.size

_INNER_HEADER: Final = Struct("<IxBxB16x")
"""Of `ROW_HEADER`: body length, flags, group."""
_PUT_HEADER: Final = Struct("<I4sQ14s")
"""A row of `_decode_puts`: body length; type, flags, origin and group; LSN; TSN and the start of the body."""
_SHARED_PUT_HEADER: Final = Struct("<I4sQ8s16s6s")
"""The same in a shared transaction: the request id stands between the TSN and the start of the body."""

_FLAGS_KNOWN: Final = FLAG_COMMIT | FLAG_WAIT_SYNC | FLAG_WAIT_ACK | FLAG_REQUEST_ID
_FLAGS_WRONG: Final = frozenset(
    f for f in range(256) if f & ~_FLAGS_KNOWN or (f & FLAG_WAIT_ACK and not f & FLAG_WAIT_SYNC)
)
_TYPES: Final[dict[int, RowType]] = {int(t): t for t in RowType}
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_NESTED: Final = frozenset({tuple, dict})
_ONLY_TUPLE: Final = frozenset({tuple})
_PREFIX_BYTES: Final = 6
_PREFIXES_MAX: Final = 1024
_SPACE_BY_PREFIX: Final[dict[bytes, int]] = {}
"""Start of an INSERT body -> space id, for ids of 256..65535, whose start has 6 bytes. A cache."""
_PUT_TYPES: Final[dict[int, RowType]] = {int(t): t for t in (RowType.INSERT, RowType.REPLACE)}
_INSERT, _REPLACE = RowType.INSERT, RowType.REPLACE  # a global is found faster than a member of an enum
_RAFT: Final = RowType.RAFT
_WITH_TERM: Final = frozenset({int(RowType.PROMOTE), int(RowType.DEMOTE)})
_ALONE_OR_LOCAL: Final = CONTROL_TYPES | {RowType.RAFT}
_NOP: Final = Nop()
_EMPTY_MAP: Final = b"\x80"

_unpackb: Callable[..., Any] = msgpack.unpackb
_Unpacker: Final[Any] = msgpack.Unpacker
_packb: Callable[..., bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class TxnSpan(NamedTuple):
    """Where one transaction lies in a run of bytes, and what a relay must know to send it or not.

    origin, lsn: as in `Txn`. local_lsn: highest LSN of component 0 it moves; 0 = it has no local rows.
    term: of the PROMOTE or DEMOTE it consists of, else None.
    """

    start: int
    end: int
    origin: InstanceId
    lsn: Lsn
    local_lsn: Lsn
    flags: int
    type: RowType
    term: Term | None

    @property
    def is_local(self) -> bool:
        return self.origin == LOCAL


# --- msgpack values -----------------------------------------------------------------------------------


def _skim(data: bytes) -> None:
    """Walk over one msgpack value without building it; ValueError if it is incomplete or far too deep.

    After this every array header is known to be true, so the decoder reserves no more than it fills.
    """
    unpacker = _Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    try:
        unpacker.skip()
    except msgpack.OutOfData as error:
        raise ValueError("incomplete msgpack") from error


def _unpack(data: bytes) -> Any:
    """One msgpack value; ValueError or TypeError if it is not exactly that. Memory bounded by the input."""
    if len(data) > SMALL_BODY_BYTES and data.count(b"\xdc") + data.count(b"\xdd") > 2:
        _skim(data)
    return _unpackb(data, use_list=False, strict_map_key=False)


def _check_nested(items: Iterable[Any], depth: int, from_client: bool = False) -> None:
    """What stands in an array or map at this depth, and in arrays and maps in it, level by level: a call for
    each of a million values would take a second."""
    while True:
        others = set(map(type, items)) - _SCALARS
        if not others:
            return
        if not others <= _NESTED:
            raise ValueError(f"{_name(others - _NESTED)} is not supported in a tuple")
        if depth >= NESTING_MAX:
            raise ValueError(f"nested deeper than {NESTING_MAX}")
        if from_client and dict in others:
            maps = [item for item in items if item and type(item) is dict]
            keys = set(map(type, chain.from_iterable(maps))) - _SCALARS
            if keys:
                raise ValueError(f"a key of a map is {_name(keys)}")
        items = _inside(items, others)
        depth += 1


def _name(kinds: set[type]) -> str:
    """What one of these, none of them a scalar, is called."""
    name = min(kind.__name__ for kind in kinds)
    return {"ExtType": "a msgpack extension", "Timestamp": "a timestamp", "tuple": "an array"}.get(
        name, f"a {name}"
    )


def _inside(items: Iterable[Any], kinds: set[type]) -> list[Any]:
    """What stands directly in the arrays and maps among these; kinds: which of both there are."""
    found: list[Any] = []
    if tuple in kinds:  # a million may be empty
        found = list(chain.from_iterable([item for item in items if item and type(item) is tuple]))
    if dict in kinds:
        maps = [item for item in items if item and type(item) is dict]
        found.extend(chain.from_iterable(maps))
        found.extend(chain.from_iterable(map(dict.values, maps)))
    return found


def count_values(items: Iterable[Any], limit: int) -> int:
    """Values in these arrays and maps, and in those inside them; stops once there are more than `limit`."""
    count = 0
    while kinds := set(map(type, items)) & _NESTED:
        items = _inside(items, kinds)
        count += len(items)
        if count > limit:
            break
    return count


def _check_fields(value: Any, what: str, depth: int = 1, from_client: bool = False) -> None:
    """`value` is an array of supported values, not nested too deep."""
    if type(value) is not tuple:
        raise ValueError(f"the {what} is not a msgpack array")
    if not _SCALARS.issuperset(map(type, value)):
        _check_nested(value, depth, from_client)


def _refuse_equal_keys(data: bytes) -> None:
    """ValueError if two keys of a map are equal here, as 1, 1.0 and true are: one of them would be lost."""

    def keys_differ(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("two keys of a map are equal")
        return made

    _unpackb(data, use_list=False, strict_map_key=False, object_pairs_hook=keys_differ)


def _as_it_came(value: Tuple, data: bytes, from_client: bool = False) -> Tuple:
    """A tuple, decoded from `data` and checked, that keeps these bytes if we would write others (ADR 24)."""
    if _packb(value) == data:
        return value
    if from_client:  # a key that is there twice makes the bytes differ too
        _refuse_equal_keys(data)
    kept = RawTuple(value)
    kept.raw = data
    return kept


def pack_tuple(value: Tuple) -> bytes:
    """A stored tuple as msgpack, in the bytes in which it came."""
    return value.raw if type(value) is RawTuple else _packb(value)


def _check_ops(ops: Any) -> None:
    if type(ops) is not tuple:
        raise ValueError("the operations are not a msgpack array")
    for op in ops:
        _check_fields(op, "operation", 2)


def array_size(data: bytes) -> int:
    """Elements that a msgpack array says it has; 0 if it is none."""
    head = data[0] if data else 0
    if head & 0xF0 == 0x90:
        return head & 0x0F
    if head in (0xDC, 0xDD):
        return int.from_bytes(data[1 : 3 if head == 0xDC else 5], "big")
    return 0


def _check_id(number: Any, what: str) -> None:
    if type(number) is not int or not 0 <= number <= 0xFFFFFFFF:
        raise ValueError(f"the {what} id is not a number of 32 bits")


# --- bodies ---------------------------------------------------------------------------------------------


def _map(raw: bytes, size: int) -> Any:
    # The size byte is compared too, so that a key given twice does not hide behind a dict.
    if not raw or raw[0] != 0x80 | size:
        raise ValueError(f"the body is not a msgpack map of {size} keys")
    body = _unpack(raw)
    if len(body) != size:
        raise ValueError("a key of the body is there twice")
    return body


def _parse_insert(kind: RowType, raw: bytes) -> Dml:
    # Nearly every row passes here. Its start, up to the tuple, is the same for all rows of a space, so
    # only the tuple itself is decoded once the start was seen (a third of the time of the whole map).
    space_id = _SPACE_BY_PREFIX.get(raw[:_PREFIX_BYTES])
    if space_id is None or len(raw) > SMALL_BODY_BYTES:
        body = _map(raw, 2)
        space_id, value = body[KEY_SPACE_ID], body[KEY_TUPLE]
        _check_id(space_id, "space")
        prefix = _prefix(2, space_id, None, KEY_TUPLE)
        data = raw[len(prefix) :] if raw.startswith(prefix) else b""
        if len(prefix) == _PREFIX_BYTES and len(_SPACE_BY_PREFIX) < _PREFIXES_MAX:
            _SPACE_BY_PREFIX[prefix] = space_id
    else:
        data = raw[_PREFIX_BYTES:]
        value = _unpackb(data, use_list=False, strict_map_key=False)
    if type(value) is not tuple:
        raise ValueError("the tuple is not a msgpack array")
    for field in value:
        if type(field) not in _SCALARS:
            _check_nested(value, 1)
            break
    if data:
        value = _as_it_came(value, data)
    return new_tuple(Dml, (kind, space_id, raw, 0, None, value, None))  # type: ignore[no-any-return]


def _parse_update(kind: RowType, raw: bytes) -> Dml:
    body = _map(raw, 4)
    space_id, index_id, key, ops = body[KEY_SPACE_ID], body[KEY_INDEX_ID], body[KEY_KEY], body[KEY_TUPLE]
    _check_id(space_id, "space")
    _check_id(index_id, "index")
    _check_fields(key, "key")
    _check_ops(ops)
    return Dml(kind, space_id, raw, index_id, key, None, ops)


def _parse_delete(kind: RowType, raw: bytes) -> Dml:
    body = _map(raw, 3)
    space_id, index_id, key = body[KEY_SPACE_ID], body[KEY_INDEX_ID], body[KEY_KEY]
    _check_id(space_id, "space")
    _check_id(index_id, "index")
    _check_fields(key, "key")
    return Dml(kind, space_id, raw, index_id, key)


def _parse_upsert(kind: RowType, raw: bytes) -> Dml:
    body = _map(raw, 3)
    space_id, value, ops = body[KEY_SPACE_ID], body[KEY_TUPLE], body[KEY_OPS]
    _check_id(space_id, "space")
    _check_fields(value, "tuple")
    _check_ops(ops)
    prefix = _prefix(3, space_id, None, KEY_TUPLE)
    if raw.startswith(prefix) and not raw.startswith(_packb(value), len(prefix)):
        value = _as_it_came(value, _first(raw[len(prefix) :]))
    return Dml(kind, space_id, raw, 0, None, value, ops)


def _first(data: bytes) -> bytes:
    """The first msgpack value of several."""
    unpacker = msgpack.Unpacker(use_list=False, strict_map_key=False)
    unpacker.feed(data)
    unpacker.skip()
    return data[: unpacker.tell()]


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


_PARSERS: Final[dict[int, tuple[RowType, Callable[[RowType, bytes], Body]]]] = {
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
_DML_TYPES: Final = frozenset(
    {RowType.INSERT, RowType.REPLACE, RowType.UPDATE, RowType.DELETE, RowType.UPSERT}
)
_MALFORMED: Final = (ValueError, TypeError, KeyError, OverflowError)


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
            return _packb({KEY_RAFT_TERM: body.term, KEY_RAFT_VOTE: body.vote})
        case Confirm() | Rollback():
            return _packb({KEY_REPLICA_ID: body.owner, KEY_LSN: body.lsn})
        case Promote() | Demote():
            return _packb(
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
    if kind not in _DML_TYPES:
        raise WrongFormat(f"{kind.name} is not a data change")
    try:
        return cast("Dml", _PARSERS[kind][1](kind, bytes(raw)))
    except _MALFORMED as error:
        raise WrongFormat(f"malformed {kind.name}: {why(error)}") from error


def why(error: Exception) -> str:
    """What is wrong with msgpack that somebody sent, for them: `error` came of decoding it."""
    if isinstance(error, TypeError) and "unhashable" in str(error):
        return "a key of a map is a map, or holds one"
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r} is missing"
    return str(error) or type(error).__name__.removesuffix("Error")


@lru_cache(maxsize=1024)
def _prefix(size: int, space_id: int, index_id: int | None, key: int) -> bytes:
    """Start of a body up to the first spliced value: map of `size`, space, index if any, `key`."""
    head = bytes((0x80 | size, KEY_SPACE_ID)) + _packb(space_id)
    if index_id is not None:
        head += bytes((KEY_INDEX_ID,)) + _packb(index_id)
    return head + bytes((key,))


def _as_msgpack(value: Any, what: str) -> bytes:
    """Python values packed; bytes are taken for msgpack already."""
    if isinstance(value, bytes):
        return value
    try:
        return _packb(value)
    except _MALFORMED as error:
        raise WrongFormat(f"the {what} cannot be encoded: {why(error)}") from error


def insert_dml(kind: RowType, space_id: int, tuple_msgpack: bytes) -> Dml:
    """INSERT or REPLACE; the client's tuple goes in as it came. Raises `WrongFormat`."""
    assert kind is _INSERT or kind is _REPLACE
    try:
        if len(tuple_msgpack) <= SMALL_BODY_BYTES:
            value = _unpackb(tuple_msgpack, use_list=False, strict_map_key=False)
        else:
            value = _unpack(tuple_msgpack)
        if type(value) is not tuple:
            raise ValueError("the tuple is not a msgpack array")
        for field in value:
            if type(field) not in _SCALARS:
                _check_nested(value, 1, True)
                break
        value = _as_it_came(value, tuple_msgpack, True)
    except _MALFORMED as error:
        raise WrongFormat(f"malformed tuple: {why(error)}") from error
    raw = _prefix(2, space_id, None, KEY_TUPLE) + tuple_msgpack
    return new_tuple(Dml, (kind, space_id, raw, 0, None, value, None))  # type: ignore[no-any-return]


def insert_all(kind: RowType, space_id: int, tuples: Sequence[bytes]) -> Puts:
    """`insert_dml` for many of one space. Raises `WrongFormat`, which does not say for which."""
    assert kind is _INSERT or kind is _REPLACE
    try:
        values = _unpack_all(tuples, from_client=True)
    except _MALFORMED as error:
        raise WrongFormat(f"malformed tuple: {why(error)}") from error
    prefix = _prefix(2, space_id, None, KEY_TUPLE)
    return Puts(kind, space_id, [prefix + data for data in tuples], values)


def _unpack_all(tuples: Sequence[bytes], from_client: bool = False) -> list[Tuple]:
    """The stored tuples that each of these is exactly one of; one of `_MALFORMED` if not."""
    unpack = _unpackb
    values = [
        unpack(data, use_list=False, strict_map_key=False) if len(data) <= SMALL_BODY_BYTES else _unpack(data)
        for data in tuples
    ]
    if not _ONLY_TUPLE.issuperset(map(type, values)):
        raise ValueError("the tuple is not a msgpack array")
    if not _SCALARS.issuperset(map(type, chain.from_iterable(values))):
        for value in values:
            _check_fields(value, "tuple", 1, from_client)
    # All of them in one call: a value ends where its bytes say, so equal bytes together are equal bytes each.
    if _packb(values) != array_header(len(values)) + b"".join(tuples):
        values = [_as_it_came(value, data, from_client) for value, data in zip(values, tuples, strict=True)]
    return values


def array_header(count: int) -> bytes:
    """Of a msgpack array."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 0x10000 else b"\xdd" + count.to_bytes(4, "big")


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
        found = _unpack(data)
        _check_nested((found,), 0, from_client=True)
        if _packb(found) != data:
            _refuse_equal_keys(data)
    except _MALFORMED as error:
        raise WrongFormat(f"malformed {what}: {why(error)}") from error
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


# --- transactions ---------------------------------------------------------------------------------------


def encode_txn(rows: Sequence[Row]) -> Txn:
    """One transaction from its rows; sets COMMIT on the last, REQUEST_ID where there is one [W-3]."""
    pack = ROW_HEADER.pack
    parts: list[bytes] = []
    add = parts.append
    rows = list(rows)
    last = len(rows) - 1
    for number, row in enumerate(rows):
        kind, origin, lsn, tsn, flags, body, group, request_id = row
        flags |= (FLAG_COMMIT if number == last else 0) | (0 if request_id is None else FLAG_REQUEST_ID)
        if flags != row.flags:
            rows[number] = row._replace(flags=flags)
        raw = (type(body) is Dml and body.raw) or encode_body(body)
        add(pack(len(raw), kind, flags, origin, group, lsn, tsn))
        if request_id is not None:
            assert len(request_id) == REQUEST_ID_BYTES
            add(request_id)
        add(raw)
    return Txn(rows, b"".join(parts))


def encode_ops(
    ops: Sequence[Dml], origin: InstanceId, first_lsn: Lsn, flags: int, request_ids: Sequence[RequestId] = ()
) -> PlainTxn:
    """One transaction of these changes, all global, with the LSNs from `first_lsn` on.

    flags: of the last row; COMMIT (and REQUEST_ID if there is one) is added [W-3]. request_ids: as in `Txn`.
    """
    flags |= FLAG_COMMIT
    tail = b""
    if request_ids:
        flags |= FLAG_REQUEST_ID
        tail = request_ids[-1]
        assert len(tail) == REQUEST_ID_BYTES
    pack = ROW_HEADER.pack
    last = len(ops) - 1
    if not last:
        (op,) = ops
        raw = op.raw or encode_body(op)
        head = pack(len(raw), op.type, flags, origin, GROUP_DEFAULT, first_lsn, first_lsn)
        return PlainTxn(ops, b"".join((head, tail, raw)), origin, first_lsn, flags, request_ids)
    if type(ops) is Puts:
        raws, kinds = ops.raws, [int(ops.type)] * len(ops)
    else:
        raws, kinds = [op.raw or encode_body(op) for op in ops], [op.type for op in ops]
    is_shared = len(request_ids) > 1
    inner = repeat(FLAG_REQUEST_ID if is_shared else 0)
    zero, lsns = repeat(0), range(first_lsn, first_lsn + last)
    heads = list(map(pack, map(len, raws), kinds, inner, repeat(origin), zero, lsns, repeat(first_lsn)))
    lsn = Lsn(first_lsn + last)
    heads.append(pack(len(raws[-1]), kinds[-1], flags, origin, GROUP_DEFAULT, lsn, first_lsn))
    if is_shared:
        assert set(map(len, request_ids)) == {REQUEST_ID_BYTES}
        data = b"".join(chain.from_iterable(zip(heads, request_ids, raws, strict=True)))
    else:
        heads[-1] += tail
        data = b"".join(chain.from_iterable(zip(heads, raws, strict=True)))
    return PlainTxn(ops, data, origin, lsn, flags, request_ids)


def shared_bytes(puts: Puts) -> int:
    """`Txn.data` of a shared transaction of them."""
    return sum(map(len, puts.raws)) + len(puts) * (ROW_HEADER_BYTES + REQUEST_ID_BYTES)


def decode_txns(data: bytes) -> list[Txn]:
    """The transactions of a run of whole ones; each `Txn.data` is a slice of `data`.

    Raises `DecodeError` for anything else, and nothing but that. details: offset (of the row).
    """
    txns: list[Txn] = []
    unpack_header, parsers, wrong = ROW_HEADER.unpack_from, _PARSERS, _FLAGS_WRONG
    size, pos = len(data), 0
    try:
        while pos < size:
            length, kind_number, flags, origin, group, lsn, tsn = unpack_header(data, pos)
            if not flags & FLAG_COMMIT:
                next_row = pos + 24 + length + (REQUEST_ID_BYTES if flags else 0)
                found = None
                if data[pos + 4 : pos + 8] == data[next_row + 4 : next_row + 8]:
                    found = _decode_puts(data, pos)
                txn, pos = found or _decode_changes(data, pos) or _decode_rows(data, pos)
                txns.append(txn)
                continue
            body_start = pos + 24
            request_ids: tuple[RequestId, ...] = ()
            if flags & FLAG_REQUEST_ID:
                request_ids = (RequestId(data[body_start : body_start + REQUEST_ID_BYTES]),)
                body_start += REQUEST_ID_BYTES
            end = body_start + length
            if end > size:
                raise ValueError("the row is longer than the data")
            kind, parse = parsers[kind_number]
            if flags in wrong or origin > 31 or group > 1 or not lsn or (group and origin):
                raise ValueError(f"wrong header: flags {flags}, origin {origin}, group {group}, LSN {lsn}")
            body = parse(kind, data[body_start:end])
            start, pos = pos, end
            if tsn != lsn or (kind is _RAFT and not group):
                raise ValueError(f"{kind.name} with LSN {lsn}, TSN {tsn}, group {group}")
            if origin and type(body) is Dml:
                txns.append(PlainTxn((body,), data[start:end], origin, lsn, flags, request_ids))
            else:
                request_id = request_ids[0] if request_ids else None
                row = new_tuple(Row, (kind, origin, lsn, tsn, flags, body, group, request_id))
                txns.append(Txn((row,), data[start:end]))
    except (*_MALFORMED, _StructError) as error:
        raise _bad_row(error, pos) from error
    return txns


def _bad_row(error: Exception, pos: int) -> DecodeError:
    text = "unknown row type" if isinstance(error, KeyError) and not isinstance(error.args[0], str) else ""
    return DecodeError(f"bad row at offset {pos}: {text or why(error)}", offset=pos)


def _decode_puts(data: bytes, start: int) -> tuple[PlainTxn, int] | None:
    """The transaction at `start`, and its end, if it is a sound one of INSERTs or REPLACEs into one space.

    None: `_decode_rows` must look at it. It accepts all that this accepts, and has the reasons of refusals.
    """
    try:
        _, kind_number, first_flags, origin, group, first_lsn, tsn = ROW_HEADER.unpack_from(data, start)
        is_shared = first_flags == FLAG_REQUEST_ID
        body_at = 24 + REQUEST_ID_BYTES if is_shared else 24
        kind = _PUT_TYPES.get(kind_number)
        prefix = data[start + body_at : start + body_at + _PREFIX_BYTES]
        space_id = _SPACE_BY_PREFIX.get(prefix)
        if kind is None or space_id is None or group or not 0 < origin <= INSTANCE_ID_MAX:
            return None
        if first_lsn != tsn or not first_lsn or not (is_shared or not first_flags):
            return None
        ids: list[RequestId] = []
        raws: list[bytes] = []
        add, add_id = raws.append, ids.append
        pos, lsn = start, first_lsn
        same = data[start + 4 : start + 8]
        if is_shared:
            unpack_shared, tsn_bytes = _SHARED_PUT_HEADER.unpack_from, data[start + 16 : start + 24]
            while True:
                length, row_same, row_lsn, row_tsn, request_id, row_prefix = unpack_shared(data, pos)
                if row_same != same or row_lsn != lsn or row_tsn != tsn_bytes or row_prefix != prefix:
                    break
                add_id(request_id)
                pos += 40
                add(data[pos : pos + length])
                pos += length
                lsn += 1
        else:
            unpack_plain, tail = _PUT_HEADER.unpack_from, data[start + 16 : start + 30]
            while True:
                length, row_same, row_lsn, row_tail = unpack_plain(data, pos)
                if row_same != same or row_tail != tail or row_lsn != lsn:
                    break
                pos += 24
                add(data[pos : pos + length])
                pos += length
                lsn += 1
        length, row_kind, flags, row_origin, group, row_lsn, tsn = ROW_HEADER.unpack_from(data, pos)
        if (row_kind, row_origin, group, row_lsn, tsn) != (kind_number, origin, 0, lsn, first_lsn):
            return None
        if not flags & FLAG_COMMIT or flags in _FLAGS_WRONG:
            return None
        pos += 24
        if flags & FLAG_REQUEST_ID:
            add_id(RequestId(data[pos : pos + REQUEST_ID_BYTES]))
            pos += REQUEST_ID_BYTES
        end = pos + length
        if end > len(data) or not data.startswith(prefix, pos) or (is_shared and len(ids) <= len(raws)):
            return None
        add(data[pos:end])
        values = _unpack_all([raw[_PREFIX_BYTES:] for raw in raws])
    except (*_MALFORMED, _StructError):
        return None
    ops = Puts(kind, space_id, raws, values)
    return PlainTxn(ops, data[start:end], InstanceId(origin), lsn, flags, ids), end


def _decode_changes(data: bytes, start: int) -> tuple[PlainTxn, int] | None:
    """The same for changes of every kind."""
    unpack_header, parsers = ROW_HEADER.unpack_from, _PARSERS
    try:
        _, _, first_flags, origin, _, first_lsn, _ = unpack_header(data, start)
        if not first_lsn or not 0 < origin <= INSTANCE_ID_MAX or first_flags & ~FLAG_REQUEST_ID:
            return None
        ops: list[Dml] = []
        ids: list[RequestId] = []
        flags, pos, lsn = first_flags, start, first_lsn - 1
        while flags == first_flags:
            length, kind_number, flags, row_origin, group, row_lsn, tsn = unpack_header(data, pos)
            lsn += 1
            if row_lsn != lsn or tsn != first_lsn or row_origin != origin or group:
                return None
            pos += 24
            if flags & FLAG_REQUEST_ID:
                ids.append(RequestId(data[pos : pos + REQUEST_ID_BYTES]))
                pos += REQUEST_ID_BYTES
            kind, parse = parsers[kind_number]
            if kind not in _DML_TYPES:
                return None
            end = pos + length
            ops.append(cast("Dml", parse(kind, data[pos:end])))
            pos = end
    except (*_MALFORMED, _StructError):
        return None
    if not flags & FLAG_COMMIT or flags in _FLAGS_WRONG or pos > len(data):
        return None
    if first_flags and len(ids) != len(ops):
        return None
    return PlainTxn(ops, data[start:pos], InstanceId(origin), lsn, flags, ids), pos


def _decode_rows(data: bytes, start: int) -> tuple[Txn, int]:
    """The transaction of several rows at `start`, and its end. Raises `DecodeError`."""
    rows: list[Row] = []
    unpack_header, parsers, wrong = ROW_HEADER.unpack_from, _PARSERS, _FLAGS_WRONG
    size, pos = len(data), start
    try:
        while pos < size:
            length, kind_number, flags, origin, group, lsn, tsn = unpack_header(data, pos)
            body_start = pos + 24
            request_id = None
            if flags & FLAG_REQUEST_ID:
                request_id = data[body_start : body_start + REQUEST_ID_BYTES]
                body_start += REQUEST_ID_BYTES
            end = body_start + length
            if end > size:
                raise ValueError("the row is longer than the data")
            kind, parse = parsers[kind_number]
            if flags in wrong or origin > 31 or group > 1 or not lsn or (group and origin):
                raise ValueError(f"wrong header: flags {flags}, origin {origin}, group {group}, LSN {lsn}")
            body = parse(kind, data[body_start:end])
            rows.append(new_tuple(Row, (kind, origin, lsn, tsn, flags, body, group, request_id)))
            pos = end
            if flags & FLAG_COMMIT:
                _check_txn(rows)
                return Txn(tuple(rows), data[start:end]), end
            if flags & ~FLAG_REQUEST_ID:
                raise ValueError("flags on a row that is not the last of its transaction")
    except (*_MALFORMED, _StructError) as error:
        raise _bad_row(error, pos) from error
    raise DecodeError("found a not finished transaction in the log", offset=start)  # [W-24]


def _check_txn(rows: Sequence[Row]) -> None:
    """Rows of one transaction belong together [W-3]; ValueError if not."""
    tsn = rows[0].tsn
    origin = 0
    last_lsn = last_local = 0
    for kind, row_origin, lsn, row_tsn, _flags, _body, group, _request_id in rows:
        if row_tsn != tsn:
            raise ValueError(f"rows of transactions {tsn} and {row_tsn} are mixed")
        if kind in _ALONE_OR_LOCAL and (kind is not _RAFT or not group):
            raise ValueError(f"{kind.name} is not alone in its transaction, or not local")
        if group:
            if lsn <= last_local:
                raise ValueError(f"LSN {lsn} follows {last_local}")
            last_local = lsn
            continue
        if lsn <= last_lsn:
            raise ValueError(f"LSN {lsn} follows {last_lsn}")
        if not last_lsn:
            origin = row_origin
            if lsn != tsn:
                raise ValueError(f"TSN {tsn}, but the first global row has LSN {lsn}")
        elif origin != row_origin:
            raise ValueError(f"rows of instances {origin} and {row_origin} in one transaction")
        last_lsn = lsn
    if not last_lsn and rows[0].lsn != tsn:
        raise ValueError(f"TSN {tsn}, but the first row has LSN {rows[0].lsn}")
    if any(row.request_id is not None for row in rows[:-1]):
        _check_shared(rows)


def _check_shared(rows: Sequence[Row]) -> None:
    """Each row is the change of another call (ADR 13); ValueError if not."""
    if any(row.request_id is None for row in rows):
        raise ValueError("request ids on some rows of a transaction, and not on the last one alone")
    if any(row.group_id or row.type not in _DML_TYPES for row in rows):
        raise ValueError("a shared transaction has a row that is local or no change")
    if rows[-1].lsn - rows[0].lsn != len(rows) - 1:
        raise ValueError("the LSNs of a shared transaction have a gap")


def scan_txns(data: bytes) -> list[TxnSpan]:
    """What `decode_txns` would find, from the headers alone (bodies of PROMOTE and DEMOTE excepted).

    For bytes that were decoded or CRC-checked before; still raises only `DecodeError`.
    """
    spans: list[TxnSpan] = []
    unpack_header, unpack_inner, types = ROW_HEADER.unpack_from, _INNER_HEADER.unpack_from, _TYPES
    size, pos, start = len(data), 0, 0
    try:
        while pos < size:
            length, kind, flags, origin, group, lsn, _tsn = unpack_header(data, pos)
            end = pos + 24 + length + (REQUEST_ID_BYTES if flags & FLAG_REQUEST_ID else 0)
            if end > size:
                raise ValueError("the row is longer than the data")
            local = 0
            if group:
                origin, lsn, local = LOCAL, 0, lsn
            if not flags & FLAG_COMMIT:
                last_global = last_local = -1
                while not flags & FLAG_COMMIT and end < size:
                    pos = end
                    length, flags, group = unpack_inner(data, pos)
                    end = pos + 24 + length + (REQUEST_ID_BYTES if flags & FLAG_REQUEST_ID else 0)
                    if end > size:
                        raise ValueError("the row is longer than the data")
                    if group:
                        last_local = pos
                    else:
                        last_global = pos
                if not flags & FLAG_COMMIT:
                    break
                if last_local >= 0:
                    local = unpack_header(data, last_local)[5]
                if last_global >= 0:
                    _, _, _, origin, _, lsn, _ = unpack_header(data, last_global)
            if not lsn:
                lsn = local
            term = _term_of(data[start:end]) if kind in _WITH_TERM else None
            spans.append(new_tuple(TxnSpan, (start, end, origin, lsn, local, flags, types[kind], term)))
            pos = start = end
    except (*_MALFORMED, _StructError) as error:
        raise DecodeError(f"bad row at offset {pos}: {why(error)}", offset=pos) from error
    if start != size:
        raise DecodeError("found a not finished transaction in the log", offset=start)
    return spans


def _term_of(data: bytes) -> Term:
    control = decode_txns(data)[0].control
    assert isinstance(control, Promote | Demote)
    return control.term
