"""Whatever goes through the codec comes back the same; whatever comes in, only a refusal comes out."""

from __future__ import annotations

import math
from typing import Any

import msgpack
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from synchro.config import Limits
from synchro.errors import NoSuchIndex, NoSuchSpace, SynchroError
from synchro.ids import InstanceId, Lsn, Term
from synchro.instance.events import Ack
from synchro.raft.messages import RaftMessage, Role
from synchro.row import RowType
from synchro.rpc import codec, operations, peer_codec
from synchro.rpc.generated.peer.v1 import replication_pb2 as peer_pb
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.vclock import Vclock
from tests import messages

LIMITS = Limits()


class Schema:
    def space_id(self, name: str) -> int:
        if name != "bands":
            raise NoSuchSpace(f"Space '{name}' does not exist", space=name)
        return 512

    def index_id(self, space_id: int, name: str) -> int:
        if name != "year":
            raise NoSuchIndex(f"No index '{name}'", index=name)
        return 1


def refused(ops: list[Any]) -> SynchroError | None:
    try:
        operations.changes(ops, Schema(), LIMITS)
    except SynchroError as error:
        return error
    return None


instances = st.integers(1, 31).map(InstanceId)
lsns = st.integers(1, 2**62 - 1).map(Lsn)
vclocks = st.dictionaries(instances, lsns, max_size=31).map(Vclock)
terms = st.integers(1, 2**62 - 1).map(Term)
fields = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
tuples = st.lists(fields, max_size=5).map(tuple)
json_tuples = st.lists(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8), max_size=5
).map(tuple)


@given(vclocks)
def test_vclock(clock: Vclock) -> None:
    message = peer_pb.Hello(vclock=codec.lsns(clock))
    assert peer_codec.peer_vclock(peer_pb.Hello.FromString(message.SerializeToString()).vclock) == clock


@given(st.builds(Ack, vclocks, terms, st.integers(0, 2**62 - 1), st.booleans(), st.integers(0, 31)))
def test_ack(ack: Ack) -> None:
    message = peer_pb.Ack()
    peer_codec.fill_ack(message, ack, credit=5, tm=1.5)
    assert peer_codec.ack_from(peer_pb.Ack.FromString(message.SerializeToString())) == ack
    assert (message.credit, message.tm) == (5, 1.5)


@given(
    st.builds(
        RaftMessage,
        terms,
        st.integers(0, 31).map(InstanceId),
        st.sampled_from(Role),
        st.integers(0, 31).map(InstanceId),
        st.booleans(),
        st.none() | vclocks,
    )
)
def test_raft_message(message: RaftMessage) -> None:
    data = peer_codec.raft_message(message).SerializeToString()
    assert peer_codec.raft_from(peer_pb.RaftMessage.FromString(data)) == message


@given(st.floats(-1e9, 1e9))
def test_durations_keep_a_microsecond(value_s: float) -> None:
    message = codec.duration(value_s)
    assert math.isclose(codec.seconds(message), value_s, abs_tol=1e-6)
    assert message.seconds * message.nanos >= 0


@given(tuples)
def test_tuples_are_lossless_as_msgpack(value: tuple[Any, ...]) -> None:
    message = common_pb2.Tuple.FromString(codec.tuple_message(value, as_json=False).SerializeToString())
    assert codec.select_key(data_pb2.SelectRequest(key=message), Limits()) == value


@given(json_tuples)
def test_tuples_without_binaries_and_large_numbers_survive_json(value: tuple[Any, ...]) -> None:
    message = codec.tuple_message(value, as_json=True)
    assert codec.select_key(data_pb2.SelectRequest(key=message), Limits()) == value


@given(tuples)
def test_every_tuple_has_a_json_form(value: tuple[Any, ...]) -> None:
    MessageToDict(codec.tuple_message(value, as_json=True))
    MessageToDict(codec.json_value({1: value, "a": {"b": None}}))


@given(tuples, st.sampled_from(["insert", "replace"]))
def test_a_tuple_is_stored_as_the_client_sent_it(value: tuple[Any, ...], kind: str) -> None:
    data = msgpack.packb(value)
    op = messages.op(**{kind: {"space_id": 512, "tuple": data}})

    (change,) = operations.changes([op], Schema(), LIMITS)

    assert change.type is RowType[kind.upper()]
    assert (change.space_id, change.value) == (512, value)
    assert change.raw.endswith(data)
    assert operations.stored_bytes(change) == data


@given(
    st.lists(tuples, min_size=1, max_size=12),
    st.sampled_from(["insert", "replace"]),
    st.sampled_from([{"space_id": 512}, {"space": "bands"}, {"space_id": 600}]),
)
def test_many_are_read_as_one_by_one(values: list[tuple[Any, ...]], kind: str, space: dict[str, Any]) -> None:
    ops = [messages.op(**{kind: {**space, "tuple": msgpack.packb(value)}}) for value in values]

    many = operations.changes(ops, Schema(), LIMITS)

    assert list(many) == [operations.changes([op], Schema(), LIMITS)[0] for op in ops]
    assert [many[place] for place in range(len(many))] == list(many)
    assert list(many[1:3]) == list(many)[1:3]


@given(
    st.integers(1, 12),
    st.data(),
    st.sampled_from(
        [
            {"insert": {"space_id": 512}},
            {"insert": {"space_id": 512, "tuple": b"\x92\x01"}},
            {"insert": {"space_id": 512, "tuple": b"\x91\x01\x01"}},
            {"insert": {"space_id": 512, "tuple": b"\x01"}},
            {"insert": {"space_id": 512, "tuple": b"\x91\xd4\x01\x01"}},
            {"insert": {"space_id": 512, "tuple": b"\x91" * 40 + b"\x01"}},
            {"insert": {"space_id": 512, "tuple": b"x" * 2**20}},
            {"insert": {"tuple": b"\x90"}},
            {"insert": {"space": "bnds", "tuple": b"\x90"}},
            {"replace": {"space": "bnds", "tuple": b"\x90"}},
            {"delete": {"space_id": 512}},
            {},
        ]
    ),
)
def test_the_bad_one_of_many_is_named(count: int, data: st.DataObject, bad: dict[str, Any]) -> None:
    good = messages.op(insert={"space_id": 512, "tuple": b"\x91\x01"})
    place = data.draw(st.integers(0, count))
    ops = [good] * place + [messages.op(**bad)] + [good] * (count - place)

    alone, among = refused(ops[place : place + 1]), refused(ops)

    assert alone is not None and among is not None
    assert (type(among), among.message) == (type(alone), alone.message)
    field = alone.details["field"].replace("ops[0]", f"ops[{place}]")
    assert among.details == {**alone.details, "field": field}


def test_inserts_into_several_spaces_go_where_they_were_sent() -> None:
    spaces = [512, 513, 0, 512, 514, 0]
    ops = [
        messages.op(insert={**({"space_id": number} if number else {"space": "bands"}), "tuple": b"\x91\x01"})
        for number in spaces
    ]

    made = operations.changes(ops, Schema(), LIMITS)

    assert [change.space_id for change in made] == [number or 512 for number in spaces]


@given(json_tuples)
def test_json_and_msgpack_mean_the_same(value: tuple[Any, ...]) -> None:
    as_json = messages.op(replace={"space": "bands", "tuple_json": codec.json_list(value)})
    packed = messages.op(replace={"space": "bands", "tuple": msgpack.packb(value)})

    assert operations.changes([as_json], Schema(), LIMITS) == operations.changes([packed], Schema(), LIMITS)
    assert operations.is_json([as_json])
    assert not operations.is_json([packed])


@given(tuples, st.lists(tuples, max_size=3).map(tuple), st.sampled_from(["", "year"]))
def test_keys_and_operations(key: tuple[Any, ...], ops: tuple[Any, ...], index: str) -> None:
    update = messages.op(
        update={"space": "bands", "index": index, "key": msgpack.packb(key), "ops": msgpack.packb(ops)}
    )
    delete = messages.op(delete={"space": "bands", "index": index, "key": msgpack.packb(key)})
    upsert = messages.op(upsert={"space_id": 513, "tuple": msgpack.packb(key), "ops": msgpack.packb(ops)})

    changed, deleted, upserted = operations.changes([update, delete, upsert], Schema(), LIMITS)

    assert (changed.index_id, changed.key, changed.ops) == (1 if index else 0, key, ops)
    assert (deleted.index_id, deleted.key) == (1 if index else 0, key)
    assert (upserted.space_id, upserted.value, upserted.ops) == (513, key, ops)


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(["bands", "", "bnds"]))
def test_garbage_is_refused_and_its_place_named(first: bytes, second: bytes, space: str) -> None:
    good = messages.op(insert={"space_id": 512, "tuple": b"\x91\x01"})
    for bad in (
        messages.op(insert={"space": space, "tuple": first}),
        messages.op(update={"space": space, "key": first, "ops": second}),
        messages.op(upsert={"space": space, "tuple": first, "ops": second}),
        messages.op(delete={"space": space, "key": first}),
    ):
        refusal = refused([good, bad])
        if refusal is not None:
            assert refusal.details["field"].startswith(f"ops[1].{bad.WhichOneof('op')}")


@given(st.binary(max_size=200))
def test_any_bytes_that_are_a_request_are_handled(data: bytes) -> None:
    try:
        request = data_pb2.ExecuteRequest.FromString(data)
    except Exception:  # noqa: BLE001 - protobuf refuses most of them
        return
    try:
        operations.changes(request.ops, Schema(), LIMITS)
        codec.request_id(request.request_id)
        codec.wait_mode(request.wait)
        codec.timeout_s(request, 1.0)
    except SynchroError:
        pass
