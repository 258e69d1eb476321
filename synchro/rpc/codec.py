"""Protobuf <-> the types of the core. No protobuf object goes past this module and its neighbours in `rpc/`.

Bad input is refused with a `SynchroError` whose details name the field. What a transaction consists of is
decoded by `operations.py`.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, Value

from synchro import json_form
from synchro.config import DURATION_S_MAX, KIB, Limits
from synchro.errors import BatchTooLarge, IllegalParams, WrongFormat
from synchro.ids import INSTANCE_ID_MAX, NUMBER_END, REQUEST_ID_BYTES, InstanceId, Lsn, RequestId, Term
from synchro.instance.events import Fate, Position, WaitMode
from synchro.row import RowType, Tuple, TxnId
from synchro.rpc.generated.v1 import common_pb2 as common_pb
from synchro.rpc.generated.v1 import data_pb2 as data_pb
from synchro.storage import msgpack_check, row_body
from synchro.vclock import EMPTY_VCLOCK, Vclock

Message: TypeAlias = Any
"""A generated protobuf message."""

JSON_VALUES_MAX: Final = 64 * KIB
"""The most values of one tuple in JSON, which costs ten times as much as msgpack; larger tuples are answered
as msgpack."""
JSON_NESTING_MAX: Final = msgpack_check.NESTING_MAX
"""How many lists and objects may stand inside each other, as in the rows of the log."""


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
            return msgpack_check.unpack(data, from_client=True)
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


def _tuple_fields(message: Message, what: str, limits: Limits) -> Tuple | None:
    form = message.WhichOneof("form")
    if form is None:
        return None
    if form == "json":
        return json_fields(message.json)
    _check_size(message.msgpack, what, limits)
    return unpack_array(message.msgpack, what)


def _check_size(data: bytes, what: str, limits: Limits) -> None:
    """What is no larger than a tuple is decoded in some ten milliseconds (ADR 25)."""
    if len(data) > limits.tuple_bytes_max:
        raise BatchTooLarge(
            f"{what} has {len(data)} bytes, the limit is {limits.tuple_bytes_max}; nothing was read",
            limit=limits.tuple_bytes_max,
            got=len(data),
            field=what,
        )


def select_key(request: Message, limits: Limits) -> Tuple:
    """Field `key` of a select; empty if there is none. Raises `WrongFormat`, `BatchTooLarge`."""
    return _tuple_fields(request.key, "key", limits) or ()


def after(request: Message, limits: Limits) -> Tuple | None:
    """Field `after` of a select: a tuple as an answer had it, be it one that no client may write any more
    (ADR 24). Maps in it are None: they are in no key. Raises `WrongFormat`."""
    if not request.HasField("after"):
        return None
    if request.after.WhichOneof("form") != "msgpack":
        return _tuple_fields(request.after, "after", limits)
    try:
        value = msgpack_check.unpack_fields(request.after.msgpack)
        if type(value) is not tuple:
            raise ValueError("it is not a msgpack array")
    except msgpack_check.MALFORMED as error:
        raise WrongFormat(f"malformed after: {msgpack_check.why_malformed(error)}", field="after") from error
    return value


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
