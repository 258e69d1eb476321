"""Protobuf <-> the types of the core. No protobuf object goes past this module and its neighbours in `rpc/`.

Bad input is refused with a `SynchroError` whose details name the field. Hot path: a change that comes as
msgpack with a space id costs a few attribute reads; its bytes are checked and spliced by
`storage/row_body.py`.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, Value

from synchro import json_form
from synchro.config import DURATION_S_MAX, KIB, Limits
from synchro.errors import BatchTooLarge, IllegalParams, SynchroError, WrongFormat
from synchro.ids import INSTANCE_ID_MAX, NUMBER_END, REQUEST_ID_BYTES, InstanceId, Lsn, RequestId, Term
from synchro.instance.events import Fate, Position, WaitMode
from synchro.row import Dml, Puts, RowType, Tuple, TxnId
from synchro.rpc.generated.v1 import common_pb2 as common_pb
from synchro.rpc.generated.v1 import data_pb2 as data_pb
from synchro.storage import msgpack_check, row_body
from synchro.storage.conditions import Condition, Expected, FieldRef, check_fields
from synchro.storage.index_build import made_at_once
from synchro.storage.update_ops import OP_WORK
from synchro.vclock import EMPTY_VCLOCK, Vclock

Message: TypeAlias = Any
"""A generated protobuf message."""

JSON_VALUES_MAX: Final = 64 * KIB
"""The most values of one tuple in JSON, which costs ten times as much as msgpack; larger tuples are answered
as msgpack."""
JSON_NESTING_MAX: Final = msgpack_check.NESTING_MAX
"""How many lists and objects may stand inside each other, as in the rows of the log."""


class Schema(Protocol):
    """Names -> ids; `storage/memtx.py` through an adapter, a dict in tests.

    Both raise `NoSuchSpace` or `NoSuchIndex`."""

    def space_id(self, name: str) -> int: ...

    def index_id(self, space_id: int, name: str) -> int: ...


# --- small values ---------------------------------------------------------------------------------------


def min_vclock(lsns: Mapping[int, int]) -> Vclock:
    """Field `min_vclock` of a request; component 0 is left out. Raises `IllegalParams`."""
    for instance, lsn in lsns.items():
        if instance > INSTANCE_ID_MAX or lsn >= NUMBER_END:
            raise _no_number("min_vclock", f"{instance}: {lsn}", "instance ids are 0..31, LSNs below 2^62")
    return vclock_of(lsns)


def vclock_of(lsns: Mapping[int, int]) -> Vclock:
    return Vclock(cast("Mapping[InstanceId, Lsn]", lsns)) if lsns else EMPTY_VCLOCK


def _no_number(field: str, got: object, rule: str) -> IllegalParams:
    return IllegalParams(f"{field} {got} names nothing: {rule}; nothing was done", field=field)


def lsns(clock: Vclock) -> dict[int, int]:
    """For a constructor argument of type map<uint32, uint64>."""
    return dict(clock)


def seconds(duration: Message) -> float:
    whole: int = duration.seconds
    nanos: int = duration.nanos
    return whole + nanos / 1e9


def duration(value_s: float) -> Message:
    nanos = round(value_s * 1e9)
    whole = int(nanos / 10**9)  # towards zero: both parts have the same sign
    return Duration(seconds=whole, nanos=nanos - whole * 10**9)


def timeout_s(request: Message, default_s: float) -> float:
    """Field `timeout` of a request. Raises `IllegalParams`."""
    if not request.HasField("timeout"):
        return default_s
    value_s = seconds(request.timeout)
    if not 0 <= value_s <= DURATION_S_MAX:
        raise IllegalParams(
            f"timeout {value_s:g} s is not between 0 and {DURATION_S_MAX:g} s; nothing was done",
            field="timeout",
        )
    return value_s


def position(request: Message, default: Position | None = None) -> Position | None:
    """Field `known_position` of a request, or of a frame of calls. Raises `IllegalParams`.

    default: where it is not set; a frame's, for its calls."""
    if not request.HasField("known_position"):
        return default
    known = request.known_position
    if known.term >= NUMBER_END or known.lsn >= NUMBER_END:
        got = f"{known.term}/{known.lsn}"
        raise _no_number("known_position", got, "terms and LSNs lie below 2^62")
    return Position(Term(known.term), Lsn(known.lsn))


def expected_term(request: Message) -> Term | None:
    """Field `expected_term` of a request; None: any. Raises `IllegalParams`."""
    term: int = request.expected_term
    if term >= NUMBER_END:
        raise _no_number("expected_term", term, "terms lie below 2^62")
    return Term(term) if term else None


def request_id(data: bytes) -> RequestId | None:
    """Field `request_id` of a request; None if it is empty. Raises `IllegalParams`."""
    if not data:
        return None
    if len(data) != REQUEST_ID_BYTES:
        raise IllegalParams(
            f"a request id has {REQUEST_ID_BYTES} bytes, got {len(data)}; nothing was done",
            field="request_id",
        )
    return RequestId(data)


def txn_id(message: Message) -> TxnId:
    """Field `txn` of a request. Raises `IllegalParams`."""
    origin, lsn = message.origin, message.lsn
    if origin > INSTANCE_ID_MAX or not 0 < lsn < NUMBER_END:
        rule = "origins are 0..31, LSNs from 1 up and below 2^62"
        raise _no_number("txn", f"{origin}:{lsn}", rule)
    return TxnId(InstanceId(origin), Lsn(lsn))


def txn_message(txn: TxnId | None) -> Message:
    return None if txn is None else common_pb.TxnId(origin=txn.origin, lsn=txn.lsn)


_WAIT_MODES: Final[Mapping[int, WaitMode]] = {
    data_pb.WAIT_MODE_UNSPECIFIED: WaitMode.COMPLETE,
    data_pb.WAIT_MODE_COMPLETE: WaitMode.COMPLETE,
    data_pb.WAIT_MODE_SUBMIT: WaitMode.SUBMIT,
    data_pb.WAIT_MODE_NONE: WaitMode.NONE,
}


def wait_mode(number: int) -> WaitMode:
    mode = _WAIT_MODES.get(number)
    if mode is None:
        raise IllegalParams(f"unknown 'wait' mode {number}; nothing was done", field="wait")
    return mode


FATES: Final = {
    Fate.COMMITTED: data_pb.TRANSACTION_OUTCOME_COMMITTED,
    Fate.ROLLED_BACK: data_pb.TRANSACTION_OUTCOME_ROLLED_BACK,
    Fate.PENDING: data_pb.TRANSACTION_OUTCOME_PENDING,
    Fate.UNKNOWN: data_pb.TRANSACTION_OUTCOME_UNKNOWN,
}
LAST_STAGES: Final = {
    Fate.COMMITTED: data_pb.TRANSACTION_STAGE_COMMITTED,
    Fate.ROLLED_BACK: data_pb.TRANSACTION_STAGE_ROLLED_BACK,
    Fate.UNKNOWN: data_pb.TRANSACTION_STAGE_UNKNOWN,
}


# --- tuples, JSON ---------------------------------------------------------------------------------------


def pack(value: Any) -> bytes:
    """Return a value of the data model as msgpack."""
    return msgpack_check.pack_tuple(value)


def json_field(value: Message, depth: int = 1, room: list[int] | None = None) -> Any:
    """A google.protobuf.Value as a field. Whole numbers become integers, if msgpack has such integers.

    Objects that stand for something else (`json_form`) become that. room: how many more values there may be;
    `json_fields` gives it."""
    if room is not None:
        room[0] -= 1
        if room[0] < 0:
            raise BatchTooLarge(
                f"JSON of more than {JSON_VALUES_MAX} values; nothing was done. Next: send it as msgpack",
                limit=JSON_VALUES_MAX,
            )
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if -(2.0**63) <= number < 2.0**64 and number.is_integer() else number
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind in (None, "null_value"):
        return None
    if depth >= JSON_NESTING_MAX:
        raise WrongFormat(f"JSON is nested deeper than {JSON_NESTING_MAX}; nothing was done")
    if kind == "list_value":
        return tuple(json_field(item, depth + 1, room) for item in value.list_value.values)
    found = {key: json_field(item, depth + 1, room) for key, item in value.struct_value.fields.items()}
    try:
        if found.keys() == {json_form.MSGPACK}:
            data = b64decode(found[json_form.MSGPACK], validate=True)
            return msgpack_check.unpack(data)
        return json_form.decode_object(found)
    except (ValueError, TypeError) as error:
        raise WrongFormat(f"{msgpack_check.why_malformed(error)}; nothing was done") from error


def json_fields(message: Message) -> Tuple:
    """Return a ListValue as a tuple."""
    room = [JSON_VALUES_MAX]
    return tuple(json_field(value, 1, room) for value in message.values)


def json_value(value: Any) -> Message:
    """Return a tree such as `box.info` as a Value. Keys of maps become text; what else JSON lacks has the
    forms of tuples."""
    made = Value()
    _fill_value(made, value)
    return made


def json_list(fields: Sequence[Any]) -> Message:
    """Return a tuple as a ListValue. What JSON has no form for is written as `json_form` says, so nothing is
    lost."""
    made = ListValue()
    for field in fields:
        form = json_form.encode(field, doubles=True)
        if _levels(form) > _LEVELS_MAX:
            form = {json_form.MSGPACK: b64encode(msgpack_check.packb(field)).decode()}
        _fill_value(made.values.add(), form)
    return made


_LEVELS_MAX: Final = 3 * JSON_NESTING_MAX
"""Of the 100 messages that protobuf reads inside each other, less those around a tuple."""


def _levels(form: Any) -> int:
    """Messages inside each other that a Value takes for it: an object three, a list two."""
    if isinstance(form, dict):
        return 3 + max(map(_levels, form.values()), default=0)
    return 2 + max(map(_levels, form), default=0) if isinstance(form, list) else 0


def _fill_value(message: Message, value: Any) -> None:
    if value is None:
        message.null_value = 0
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, Mapping):
        message.struct_value.SetInParent()
        for key, item in value.items():
            _fill_value(message.struct_value.fields[str(key)], item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        message.list_value.SetInParent()
        for item in value:
            _fill_value(message.list_value.values.add(), item)
    else:
        form = json_form.encode(value, doubles=True)
        if isinstance(form, (int, float)):
            message.number_value = form
        else:
            _fill_value(message, form)


def tuple_message(fields: Tuple | None, *, as_json: bool) -> Message:
    """Return a tuple as a message; None gives a message without a form. A tuple too large for JSON comes as
    msgpack."""
    if fields is None:
        return common_pb.Tuple()
    if as_json and msgpack_check.count_values((fields,), JSON_VALUES_MAX) <= JSON_VALUES_MAX:
        return common_pb.Tuple(json=json_list(fields))
    return common_pb.Tuple(msgpack=msgpack_check.pack_tuple(fields))


def tuple_fields(message: Message, what: str) -> Tuple | None:
    """Return the fields of a Tuple message; None if no form is set. Raises `WrongFormat`."""
    form = message.WhichOneof("form")
    if form is None:
        return None
    if form == "json":
        return json_fields(message.json)
    return unpack_array(message.msgpack, what)


def unpack_array(data: bytes, what: str) -> Tuple:
    """Decode exactly one msgpack array of supported values. Raises `WrongFormat` naming `what`."""
    try:
        # The checks of a stored tuple are the right ones: depth, types, lying headers.
        value = row_body.insert_dml(RowType.REPLACE, 0, data).value
    except WrongFormat as error:
        raise WrongFormat(str(error).replace("tuple", what), field=what) from error
    assert value is not None
    return value


def wants_json(encoding: int, *, default: bool) -> bool:
    """Whether the reply is to be JSON. default: what ENCODING_UNSPECIFIED means for this request."""
    if encoding == common_pb.ENCODING_UNSPECIFIED:
        return default
    return bool(encoding == common_pb.ENCODING_JSON)


# --- changes --------------------------------------------------------------------------------------------


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
        if kind == "check":
            return Asked((), (_check(op.check, schema, limits, 0, place),))
        if kind in _EXISTING:
            change = _EXISTING[kind](getattr(op, kind), schema, limits)
            return Asked((change,), (_must_match(change, 0, place),))
        if kind == "synchronous":
            raise IllegalParams("a transaction is asked to be synchronous when it is begun; nothing was done")
        if kind is None:
            raise IllegalParams("the operation is empty, or newer than this version; nothing was done")
        asked = Asked((_DECODERS[kind](getattr(op, kind), schema, limits),))
    except SynchroError as error:
        _name_field(error, place, kind)
        raise
    values = 0
    for change in asked.ops:
        if len(change.raw) > SMALL_TXN_BYTES:
            values = msgpack_check.count_values((change.key, change.value, change.ops), limits.txn_values_max)
    if (too_much := _too_much(0, values, 0, limits)) is not None:
        raise too_much
    return asked


SMALL_TXN_BYTES: Final = 256 * KIB
"""Up to this size nothing of a transaction can be too much, its number of operations aside."""


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


_PUTS_MIN: Final = 5
"""From this number on, columns are faster than one operation after the other."""


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


_KEYED: Final = frozenset({"update", "delete", "check", "update_existing", "delete_existing"})


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
