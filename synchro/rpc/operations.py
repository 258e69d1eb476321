"""Operations of a transaction, as clients send them -> changes and conditions of the core.

Bad input is refused with a `SynchroError` whose details name the field. Hot path: a change that comes as
msgpack with a space id costs a few attribute reads; its bytes are checked and spliced by
`storage/row_body.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from synchro.config import KIB, Limits
from synchro.errors import BatchTooLarge, IllegalParams, SynchroError, WrongFormat
from synchro.row import Dml, Puts, RowType
from synchro.rpc.codec import Message, json_fields, unpack_array
from synchro.rpc.generated.v1 import data_pb2 as data_pb
from synchro.storage import msgpack_check, row_body
from synchro.storage.conditions import Condition, Expected, FieldRef, check_fields
from synchro.storage.index_build import made_at_once
from synchro.storage.update_ops import OP_WORK

SMALL_TXN_BYTES: Final = 256 * KIB
"""Up to this size nothing of a transaction can be too much, its number of operations aside."""
_PUTS_MIN: Final = 5
"""From this number on, columns are faster than one operation after the other."""
_KEYED: Final = frozenset({"update", "delete", "check", "update_existing", "delete_existing"})


class Schema(Protocol):
    """Names -> ids; `storage/memtx.py` through an adapter, a dict in tests.

    Both raise `NoSuchSpace` or `NoSuchIndex`."""

    def space_id(self, name: str) -> int: ...

    def index_id(self, space_id: int, name: str) -> int: ...


class Asked(NamedTuple):
    """The operations of one transaction, decoded. is_sync: it shall be synchronous whatever it changes."""

    ops: Sequence[Dml]
    conditions: Sequence[Condition] = ()
    is_sync: bool = False


def changes(ops: Sequence[Message], schema: Schema, limits: Limits) -> Sequence[Dml]:
    """Decode operations that are changes only. Raises `SynchroError` with `field` in its details."""
    asked = transaction(ops, schema, limits)
    if asked.conditions or asked.is_sync:
        raise IllegalParams("only changes are possible here; nothing was done", field="ops")
    return asked.ops


def transaction(ops: Sequence[Message], schema: Schema, limits: Limits) -> Asked:
    """Decode the operations of one transaction. Raises `SynchroError` with `field` in its details."""
    if len(ops) == 1 and (change := _single(ops[0], schema, limits)) is not None:
        return Asked([change])
    return made_at_once(transaction_in_steps(ops, schema, limits))


def _single(op: Message, schema: Schema, limits: Limits) -> Dml | None:
    """The only operation, as most transactions have; None if it is no plain change, or large."""
    kind = op.WhichOneof("op")
    decode = None if kind is None else _DECODERS.get(kind)
    if decode is None or op.ByteSize() > SMALL_TXN_BYTES:
        return None
    try:
        return decode(getattr(op, kind), schema, limits)
    except SynchroError as error:
        _name_field(error, 0, kind)
        raise


def _name_field(error: SynchroError, place: int, kind: str | None) -> None:
    """Say in its details which operation it is about."""
    named = f"ops[{place}]" if kind is None else f"ops[{place}].{kind}"
    inner = error.details.get("field")
    error.details = {**error.details, "field": f"{named}.{inner}" if inner else named}


def transaction_in_steps(
    ops: Sequence[Message], schema: Schema, limits: Limits
) -> Generator[None, None, Asked]:
    """Decode the operations of one transaction, one in each step. Decoding ends as soon as it is known that
    the transaction will be refused."""
    if not ops:
        raise IllegalParams("a transaction needs at least one operation; nothing was done", field="ops")
    if len(ops) > limits.batch_ops_max:
        raise BatchTooLarge(
            f"{len(ops)} operations in one transaction, the limit is {limits.batch_ops_max}; "
            "nothing was done",
            limit=limits.batch_ops_max,
            got=len(ops),
            field="ops",
        )
    if len(ops) >= _PUTS_MIN:
        puts = _puts(ops, schema, limits)
        if puts is not None:
            return Asked(puts)
    made: list[Dml] = []
    conditions: list[Condition] = []
    kind: str | None = None
    size = values = counted = update_ops = place = 0
    is_sync = False
    too_much: BatchTooLarge | None = None
    try:
        for place, op in enumerate(ops):
            kind = op.WhichOneof("op")
            decode = None if kind is None else _DECODERS.get(kind)
            if decode is not None:
                change = decode(getattr(op, kind), schema, limits)
            elif kind is None:
                raise IllegalParams("the operation is empty, or newer than this version; nothing was done")
            elif kind == "synchronous":
                is_sync = True
                continue
            elif kind == "check":
                conditions.append(_check(op.check, schema, limits, len(made), place))
                size += op.ByteSize()
                if size > SMALL_TXN_BYTES:
                    if too_much := _too_much(size, values, update_ops, limits):
                        break
                    yield
                continue
            else:
                change = _EXISTING[kind](getattr(op, kind), schema, limits)
                conditions.append(_must_match(change, len(made), place))
            made.append(change)
            size += len(change.raw)
            if change.ops is not None:
                update_ops += len(change.ops)
            if size > SMALL_TXN_BYTES:
                while size > limits.txn_values_max and counted < len(made):  # a value has a byte at least
                    yield
                    one = made[counted]
                    values += msgpack_check.count_values((one.key, one.value, one.ops), limits.txn_values_max)
                    counted += 1
                if too_much := _too_much(size, values, update_ops, limits):
                    break
                yield
    except SynchroError as error:
        _name_field(error, place, kind)
        raise
    too_much = too_much or _too_much(size, values, update_ops, limits)
    if too_much is not None:
        try:
            raise too_much
        finally:
            too_much = None  # else it holds this frame, which holds it, with all that was decoded
    if not made:
        raise IllegalParams(
            "a transaction needs at least one change, conditions alone make none; nothing was done. Next: "
            "read instead",
            field="ops",
        )
    return Asked(made, conditions, is_sync)


def statement(op: Message, place: int, schema: Schema, limits: Limits) -> Asked:
    """Decode one operation of an open transaction: at most one change, at most one condition. place: among
    its operations, from 0. Raises as `transaction`."""
    kind = op.WhichOneof("op")
    try:
        if kind is None:
            raise IllegalParams("the operation is empty, or newer than this version; nothing was done")
        if kind == "synchronous":
            raise IllegalParams("a transaction is asked to be synchronous when it is begun; nothing was done")
        if kind == "check":
            return Asked((), (_check(op.check, schema, limits, 0, place),))
        must_match = kind in _EXISTING
        decode = _EXISTING[kind] if must_match else _DECODERS[kind]
        change = decode(getattr(op, kind), schema, limits)
    except SynchroError as error:
        _name_field(error, place, kind)
        raise
    if len(change.raw) > SMALL_TXN_BYTES:
        counted = (change.key, change.value, change.ops)
        values = msgpack_check.count_values(counted, limits.txn_values_max)
        if (too_much := _too_much(len(change.raw), values, len(change.ops or ()), limits)) is not None:
            raise too_much
    return Asked((change,), (_must_match(change, 0, place),) if must_match else ())


def _too_much(size: int, values: int, update_ops: int, limits: Limits) -> BatchTooLarge | None:
    """Return what refuses a transaction before more of it is decoded; None if nothing does."""
    for got, limit, what in (
        (size, limits.txn_bytes_max, "bytes"),
        (values, limits.txn_values_max, "values"),
        (update_ops, limits.txn_work_bytes_max // OP_WORK, "operations of updates"),
    ):
        if got > limit:
            return BatchTooLarge(
                f"a transaction of {got} {what} or more, the limit is {limit}; nothing was done",
                limit=limit,
                got=got,
                field="ops",
            )
    return None


def _puts(ops: Sequence[Message], schema: Schema, limits: Limits) -> Puts | None:
    """The operations if all are inserts, or all replaces, of msgpack into one space, and all is well.

    None: look at them one by one, which also finds the one that is refused.
    """
    kind = ops[0].WhichOneof("op")
    if kind not in ("insert", "replace"):
        return None
    is_insert = kind == "insert"
    first = ops[0].insert if is_insert else ops[0].replace
    number, name = first.space_id, first.space
    tuples: list[bytes] = []
    for op in ops:
        body = op.insert if is_insert else op.replace  # an empty one, if it is of another kind
        if (body.space_id != number) if number else (body.space != name):
            return None
        tuples.append(body.tuple)
    if sum(map(len, tuples)) > SMALL_TXN_BYTES:
        return None  # not in one go
    return columns(kind, number or name, tuples, schema, limits)


def columns(
    kind: str, space: int | str, tuples: Sequence[bytes], schema: Schema, limits: Limits
) -> Puts | None:
    """Return inserts (or replaces) of these tuples into one space; None if something is wrong with one of
    them."""
    if not all(tuples) or max(map(len, tuples)) > limits.tuple_bytes_max or not space:
        return None
    try:
        space_id = schema.space_id(space) if isinstance(space, str) else space
        return row_body.insert_all(RowType.INSERT if kind == "insert" else RowType.REPLACE, space_id, tuples)
    except SynchroError:
        return None


def stored_bytes(change: Dml) -> bytes:
    """Return the tuple of an insert or replace as it came: the end of its body, behind what
    `row_body` put in front."""
    space_id = change.space_id
    width = 1 if space_id < 0x80 else 2 if space_id <= 0xFF else 3 if space_id <= 0xFFFF else 5
    return change.raw[3 + width :]


def is_json(ops: Sequence[Message]) -> bool:
    """Whether any tuple or key of accepted operations is JSON: then the reply is JSON too."""
    for op in ops:
        kind = op.WhichOneof("op")
        if kind == "synchronous":
            continue
        body = getattr(op, kind)
        # What is msgpack is not empty: an empty array has one byte.
        if not (body.key if kind in _KEYED else body.tuple):
            return True
    return False


def _space_id(body: Message, schema: Schema) -> int:
    number: int = body.space_id
    if number:
        return number
    name: str = body.space
    if not name:
        raise IllegalParams("neither space nor space_id is given; nothing was done", field="space")
    return schema.space_id(name)


def _index_id(body: Message, space_id: int, schema: Schema) -> int:
    name: str = body.index
    return schema.index_id(space_id, name) if name else body.index_id


def _array(body: Message, form: str, what: str) -> bytes:
    """Field `form` of the body, or its JSON twin packed."""
    data: bytes = getattr(body, form)
    if data:
        return data
    if not body.HasField(form + "_json"):
        raise WrongFormat(f"the {what} is missing; nothing was done", field=form)
    try:
        return msgpack_check.packb(json_fields(getattr(body, form + "_json")))
    except SynchroError as error:
        error.details = {**error.details, "field": form + "_json"}
        raise


def _check_tuple_size(data: bytes, limits: Limits) -> None:
    if len(data) > limits.tuple_bytes_max:
        raise BatchTooLarge(
            f"a tuple of {len(data)} bytes, the limit is {limits.tuple_bytes_max}; nothing was done",
            limit=limits.tuple_bytes_max,
            got=len(data),
            field="tuple",
        )


def _insert(body: Message, schema: Schema, limits: Limits, kind: RowType = RowType.INSERT) -> Dml:
    data: bytes = body.tuple or _array(body, "tuple", "tuple")
    if len(data) > limits.tuple_bytes_max:
        _check_tuple_size(data, limits)
    return row_body.insert_dml(kind, body.space_id or _space_id(body, schema), data)


def _replace(body: Message, schema: Schema, limits: Limits) -> Dml:
    return _insert(body, schema, limits, RowType.REPLACE)


def _update_ops(body: Message, limits: Limits) -> bytes:
    """Return the operations of an update, not decoded yet, if they are not too much for one."""
    data = _array(body, "ops", "list of operations")
    count = msgpack_check.array_size(data)
    for got, limit, what in (
        (count, limits.update_ops_max, "operations"),
        (len(data), limits.tuple_bytes_max, "bytes of operations"),
    ):
        if got > limit:
            raise BatchTooLarge(
                f"{got} {what} in one update, the limit is {limit}; nothing was done",
                limit=limit,
                got=got,
                field="ops",
            )
    return data


def _update(body: Message, schema: Schema, limits: Limits) -> Dml:
    space_id = _space_id(body, schema)
    key, ops = _key(body, limits), _update_ops(body, limits)
    return row_body.update_dml(space_id, _index_id(body, space_id, schema), key, ops)


def _upsert(body: Message, schema: Schema, limits: Limits) -> Dml:
    data = _array(body, "tuple", "tuple")
    _check_tuple_size(data, limits)
    return row_body.upsert_dml(_space_id(body, schema), data, _update_ops(body, limits))


def _delete(body: Message, schema: Schema, limits: Limits) -> Dml:
    space_id = _space_id(body, schema)
    return row_body.delete_dml(space_id, _index_id(body, space_id, schema), _key(body, limits))


def _key(body: Message, limits: Limits) -> bytes:
    data = _array(body, "key", "key")
    if len(data) > limits.tuple_bytes_max:
        raise BatchTooLarge(
            f"a key of {len(data)} bytes, the limit is {limits.tuple_bytes_max}; nothing was done",
            limit=limits.tuple_bytes_max,
            got=len(data),
            field="key",
        )
    return data


_EXPECTED: Final[Mapping[int, Expected]] = {
    data_pb.CHECK_KIND_ABSENT: Expected.ABSENT,
    data_pb.CHECK_KIND_PRESENT: Expected.PRESENT,
    data_pb.CHECK_KIND_EQUAL: Expected.EQUAL,
}


def _check(body: Message, schema: Schema, limits: Limits, at: int, place: int) -> Condition:
    expected = _EXPECTED.get(body.kind)
    if expected is None:
        raise IllegalParams(f"unknown kind {body.kind} of a condition; nothing was done", field="kind")
    space_id = _space_id(body, schema)
    index_id, key = _index_id(body, space_id, schema), unpack_array(_key(body, limits), "key")
    fields: tuple[tuple[FieldRef, Any], ...] = ()
    if expected is Expected.EQUAL:
        data = _array(body, "fields", "list of fields")
        _check_part(msgpack_check.array_size(data), limits.update_ops_max, "fields", "fields")
        _check_part(len(data), limits.tuple_bytes_max, "bytes of fields", "fields")
        fields = check_fields(unpack_array(data, "fields"))
    elif body.WhichOneof("fields_form") is not None:
        raise IllegalParams(
            "only a condition that fields are equal has some; nothing was done", field="fields"
        )
    return Condition(expected, space_id, index_id, key, at, place, fields)


def _check_part(got: int, limit: int, what: str, field: str) -> None:
    if got > limit:
        raise BatchTooLarge(
            f"{got} {what} in one condition, the limit is {limit}; nothing was done",
            limit=limit,
            got=got,
            field=field,
        )


def _must_match(change: Dml, at: int, place: int) -> Condition:
    assert change.key is not None
    key = change.key
    return Condition(Expected.PRESENT, change.space_id, change.index_id, key, at, place, is_of_change=True)


_DECODERS: Final[Mapping[str, Callable[[Message, Schema, Limits], Dml]]] = {
    "insert": _insert,
    "replace": _replace,
    "update": _update,
    "upsert": _upsert,
    "delete": _delete,
}
_EXISTING: Final[Mapping[str, Callable[[Message, Schema, Limits], Dml]]] = {
    "update_existing": _update,
    "delete_existing": _delete,
}
