"""Refusals of the codec: each has its own reason and names the field."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from google.protobuf.struct_pb2 import Value

from synchro.config import Limits
from synchro.errors import BatchTooLarge, IllegalParams, NoSuchSpace, SynchroError, WrongFormat
from synchro.instance.events import Position, WaitMode
from synchro.rpc import codec, operations, shared_puts
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.generated.v1.data_pb2 import ExecuteRequest, Op
from tests import messages

LIMITS = Limits(batch_ops_max=3, tuple_bytes_max=100, txn_bytes_max=150, update_ops_max=2)


class Schema:
    def space_id(self, name: str) -> int:
        return 512

    def index_id(self, space_id: int, name: str) -> int:
        return 1


def insert(size: int = 1) -> Op:
    return messages.op(insert={"space_id": 512, "tuple": msgpack.packb((b"x" * size,))})


def refusal(*ops: Op) -> SynchroError:
    with pytest.raises(SynchroError) as caught:
        operations.changes(ops, Schema(), LIMITS)
    return caught.value


@pytest.mark.parametrize(
    ("ops", "kind", "field"),
    [
        ([], IllegalParams, "ops"),
        ([insert()] * 4, BatchTooLarge, "ops"),
        ([Op()], IllegalParams, "ops[0]"),
        ([insert(), insert(101)], BatchTooLarge, "ops[1].insert.tuple"),
        ([insert(80), insert(80)], BatchTooLarge, "ops"),
        ([messages.op(insert={"tuple": b"\x90"})], IllegalParams, "ops[0].insert.space"),
        ([messages.op(insert={"space_id": 512})], WrongFormat, "ops[0].insert.tuple"),
        ([messages.op(insert={"space_id": 512, "tuple": b"\x92\x01"})], WrongFormat, "ops[0].insert"),
        ([messages.op(insert={"space_id": 512, "tuple": b"\x01"})], WrongFormat, "ops[0].insert"),
        ([messages.op(delete={"space_id": 512})], WrongFormat, "ops[0].delete.key"),
        (
            [messages.op(update={"space_id": 512, "key": b"\x90", "ops": msgpack.packb([["=", 1, 1]] * 3)})],
            BatchTooLarge,
            "ops[0].update.ops",
        ),
    ],
)
def test_bad_operations(ops: list[Op], kind: type[SynchroError], field: str) -> None:
    error = refusal(*ops)
    assert type(error) is kind
    assert error.details["field"] == field


@pytest.mark.parametrize(
    "form",
    [
        {"$number": str(2**64)},
        {"$number": str(-(2**63) - 1)},
        {"$number": "9" * 5000},
        {"$number": "1_0"},
        {"$msgpack": "wQ=="},  # a byte that begins nothing
        {"$msgpack": "kZGR"},  # cut off
        {"$msgpack": "gYEBAgI="},  # a map as a key
        {"$binary": 5},
    ],
)
def test_forms_of_json_that_stand_for_nothing(form: dict[str, object]) -> None:
    """Bad input of a client, never an error of the server; the text says what is wrong."""
    op = messages.op(insert={"space_id": 512})
    tuple_json: Any = op.insert.tuple_json
    tuple_json.extend([form])
    error = refusal(op)
    assert type(error) is WrongFormat and error.details["field"] == "ops[0].insert.tuple_json"
    assert not error.message.startswith(";"), error.message


def test_deep_json_is_refused() -> None:
    value: list[object] = []
    for _ in range(40):
        value = [value]
    op = messages.op(insert={"space_id": 512, "tuple_json": codec.json_list([value])})
    assert refusal(op).details["field"] == "ops[0].insert.tuple_json"


def test_fields_around_the_operations() -> None:
    request = messages.request(
        request_id=b"0" * 16, known_position={"term": 2, "lsn": 9}, wait="WAIT_MODE_SUBMIT"
    )
    request.timeout.FromMilliseconds(1500)

    assert codec.request_id(request.request_id) == b"0" * 16
    assert codec.position(request) == Position(2, 9)  # type: ignore[arg-type]
    assert codec.wait_mode(request.wait) is WaitMode.SUBMIT
    assert codec.timeout_s(request, 5.0) == 1.5


def test_fields_that_are_not_set() -> None:
    request = ExecuteRequest()
    assert codec.request_id(request.request_id) is None
    assert codec.position(request) is None
    assert codec.wait_mode(request.wait) is WaitMode.COMPLETE
    assert codec.timeout_s(request, 5.0) == 5.0


@pytest.mark.parametrize("seconds", [-1, 2**40])
def test_impossible_timeouts_are_refused(seconds: int) -> None:
    request = ExecuteRequest()
    request.timeout.seconds = seconds
    with pytest.raises(IllegalParams) as caught:
        codec.timeout_s(request, 5.0)
    assert caught.value.details["field"] == "timeout"


def test_a_request_id_has_16_bytes() -> None:
    with pytest.raises(IllegalParams, match="16 bytes, got 3"):
        codec.request_id(b"abc")


def test_an_unknown_wait_mode_is_refused() -> None:
    with pytest.raises(IllegalParams, match="unknown 'wait' mode 9"):
        codec.wait_mode(9)


def test_json_numbers_beyond_all_integers_stay_doubles() -> None:
    """They could not be packed otherwise, and the call would end as an internal error."""
    values = [2.0**64, -(2.0**64), 1e300, float("inf"), 2.0**63, -(2.0**63)]
    fields = [codec.json_field(Value(number_value=value)) for value in values]
    assert [type(field) for field in fields] == [float, float, float, float, int, int]
    assert codec.pack(fields)


def test_whole_numbers_of_json_become_integers() -> None:
    fields = codec.json_fields(codec.json_list([1.0, 1.5, True, None, "a", [2.0], {"k": 3.0}]))
    assert fields == (1, 1.5, True, None, "a", (2,), {"k": 3})
    assert type(fields[0]) is int


def test_a_reply_is_json_if_the_request_was_unless_told() -> None:
    assert codec.wants_json(data_pb2.ExecuteRequest().encoding, default=True)
    assert not codec.wants_json(1, default=True)
    assert codec.wants_json(2, default=False)


# --- what may share a transaction (ADR 13) --------------------------------------------------------------


ROW = msgpack.packb((1, "a"))


def call(op: object = None, **fields: object) -> data_pb2.ExecuteCall:
    op = op if op is not None else {"insert": {"space": "bands", "tuple": ROW}}
    return messages.call(**{"ops": [op], "request_id": b"0" * 16, **fields})


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        (call(), ("insert", "bands", ROW)),
        (call({"replace": {"space": "bands", "tuple": ROW}}), ("replace", "bands", ROW)),
        (call({"replace": {"space_id": 512, "tuple": ROW}}), ("replace", 512, ROW)),
        (call(wait="WAIT_MODE_COMPLETE", omit_tuples=True, seq=7), ("insert", "bands", ROW)),
        (call(known_position={"term": 2, "lsn": 9}, encoding="ENCODING_JSON"), ("insert", "bands", ROW)),
        (call(timeout={"seconds": 1}), ("insert", "bands", ROW)),
        (call(request_id=b""), ("insert", "bands", ROW)),
        (data_pb2.ExecuteRequest(ops=call().ops, request_id=b"0" * 16), ("insert", "bands", ROW)),
    ],
)
def test_a_plain_insert_or_replace_has_a_shape(given: data_pb2.ExecuteCall, shape: object) -> None:
    """ADR 13: how and when it is answered, what the client has seen, and whether it has an id make no
    difference."""
    assert shared_puts.shape(given) == shape


@pytest.mark.parametrize(
    "special",
    [
        data_pb2.ExecuteCall(request_id=b"0" * 16),
        call(ops=[insert(), insert()]),
        call(Op()),
        call({"update": {"space": "bands", "key": ROW, "ops": b"\x90"}}),
        call({"delete": {"space": "bands", "key": ROW}}),
        call({"upsert": {"space": "bands", "tuple": ROW, "ops": b"\x90"}}),
        call(request_id=b"0" * 15),
        call(request_id=b"0" * 17),
        call(wait="WAIT_MODE_SUBMIT"),
        call(wait="WAIT_MODE_NONE"),
        call(wait=9),
        call(wait=-1),
        call(expected_term=3),
    ],
)
def test_whatever_is_special_about_a_call_leaves_it_alone(special: data_pb2.ExecuteCall) -> None:
    """ADR 13: nobody shares who asks for anything that a neighbour does not ask for, or asks in vain."""
    assert shared_puts.shape(special) is None


def test_tuples_become_columns_or_are_looked_at_one_by_one() -> None:
    """ADR 13: one that is refused would be refused for all."""
    good = [msgpack.packb((n,)) for n in range(5)]
    puts = operations.columns("insert", "bands", good, Schema(), LIMITS)
    assert puts is not None
    assert [(op.type.name, op.space_id, op.value) for op in puts] == [("INSERT", 512, (n,)) for n in range(5)]
    replaces = operations.columns("replace", 7, good, Schema(), LIMITS)
    assert replaces is not None and (replaces[0].type.name, replaces[0].space_id) == ("REPLACE", 7)
    for bad in (b"", b"\x01", b"\xc1", b"\x92\x01", msgpack.packb((b"x" * 101,))):
        assert operations.columns("insert", "bands", [*good, bad], Schema(), LIMITS) is None
    assert operations.columns("insert", "", good, Schema(), LIMITS) is None


class NoSchema(Schema):
    def space_id(self, name: str) -> int:
        raise NoSuchSpace("no such space")


def test_an_unknown_space_has_no_columns() -> None:
    assert operations.columns("insert", "bands", [ROW], NoSchema(), LIMITS) is None
