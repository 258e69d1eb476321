"""Refusals cost little, and writes of clients give the loop back (ADR 25)."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import ListValue

from synchro.config import MIB, Limits
from synchro.errors import BatchTooLarge, NoSuchSpace, WrongFormat
from synchro.instance import events as ev
from synchro.row import Dml, RowType
from synchro.rpc import codec, malformed, operations
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.storage import msgpack_check, row_body
from synchro.storage.memtx import Memtx
from synchro.storage.schema import SPACE_ID, nearest_name
from tests import messages
from tests.mesh import SYNC, Mesh
from tests.unit.test_memtx_data import do, memtx_with
from tests.yardstick import slowness

LIMITS = Limits()


class Names:
    def space_id(self, name: str) -> int:
        return 512

    def index_id(self, space_id: int, name: str) -> int:
        return 0


def changes(*ops: Any) -> Any:
    return operations.changes([messages.op(**op) for op in ops], Names(), LIMITS)


def update(ops: bytes) -> dict[str, Any]:
    return {"update": {"space_id": 512, "key": b"\x91\x01", "ops": ops}}


def replace(data: bytes) -> dict[str, Any]:
    return {"replace": {"space_id": 512, "tuple": data}}


def json_tuple(count: int) -> dict[str, Any]:
    value = ListValue()
    value.extend([1.0] * count)
    return {"replace": {"space_id": 512, "tuple_json": value}}


ARRAYS = msgpack.packb([()] * (MIB - 16))
OPS = msgpack.packb([("+", 2, 1)] * 4_000)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: changes(update(msgpack.packb([("+", 2, 1)] * 200_000))),
        lambda: changes(update(b"\xdd\x00\x0f\xff\xff")),
        lambda: changes(update(msgpack.packb([("=", 2, "x" * MIB)]))),
        lambda: changes({"delete": {"space_id": 512, "key": msgpack.packb(["x" * MIB])}}),
        lambda: changes(*[update(OPS)] * 1_000),
        lambda: changes(*[replace(ARRAYS)] * 8),
        lambda: changes(json_tuple(100_000)),
    ],
    ids=["operations", "announced", "bytes", "key", "updates", "values", "json"],
)
def test_too_much_is_refused_before_it_is_looked_at(refused: Callable[[], object]) -> None:
    began = time.thread_time()
    with pytest.raises(BatchTooLarge, match="nothing was done"):
        refused()
    assert (time.thread_time() - began) / slowness() < 1.0


@pytest.mark.parametrize(
    ("name", "spaces"),
    [("x" * 15 * MIB, 1), ("".join(map(chr, range(0x4E00, 0x4E00 + 20_000))), 1), ("space00000x", 5_000)],
    ids=["long", "like another long one", "like very many"],
)
def test_a_name_that_is_not_there_is_refused_in_time(name: str, spaces: int) -> None:
    """Whoever may not even read gets as far: a suggestion took seconds."""
    memtx = Memtx(LIMITS)
    names = [f"space{n:06}" for n in range(spaces)] if spaces > 1 else [name[-1:] + name[: 20_000 - 1]]
    for space in names:
        memtx.catalog._ids[space] = 1
    began = time.thread_time()
    for _ in range(10):
        with pytest.raises(NoSuchSpace):
            memtx.catalog.space(name)
        assert nearest_name(name, names) is None or spaces > 1
    assert (time.thread_time() - began) / slowness() < 0.5
    assert nearest_name("bnds", ["_space", "x" * 100, "bands"]) == "bands"


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 100_000 + b"\x01",
        b"\x91" * 33 + b"\x01",
        b"\xdd\x00\x0f\xff\xff" * 50_000,
        b"\xdc\xff\xff" * 3 + b"\x01" * 300,
    ],
    ids=["deep", "33", "lying", "short"],
)
def test_deep_or_lying_tuples_are_malformed(data: bytes) -> None:
    with pytest.raises(WrongFormat, match="malformed tuple"):
        row_body.insert_dml(RowType.REPLACE, 512, data)


def test_as_deep_as_it_may_be_is_taken() -> None:
    assert row_body.insert_dml(RowType.REPLACE, 512, b"\x91" * 32 + b"\x01").value is not None
    mixed = msgpack.packb([{1: [{2: ()}]}, [3, {"a": {"b": 4}}], 5])
    assert row_body.insert_dml(RowType.REPLACE, 512, mixed).value == (
        {1: ({2: ()},)},
        (3, {"a": {"b": 4}}),
        5,
    )


@pytest.mark.parametrize(
    ("value", "count"),
    [((), 0), ((1, 2), 2), ((1, (2, (3, ()))), 6), (({1: 2, 3: (4,)},), 6), ((("a",) * 10,) * 3, 33)],
)
def test_values_are_counted_with_those_inside(value: Any, count: int) -> None:
    assert msgpack_check.count_values((value,), 10**6) == count


def test_a_tuple_too_wide_for_json_comes_as_msgpack() -> None:
    assert codec.tuple_message((1, 2), as_json=True).WhichOneof("form") == "json"
    wide = tuple(range(codec.JSON_VALUES_MAX + 1))
    assert codec.tuple_message(wide, as_json=True).WhichOneof("form") == "msgpack"


def counted(data: bytes, kind: Any = data_pb2.ExecuteRequest) -> Any:
    return malformed._counting(kind.FromString)(data)


def test_a_message_of_very_many_parts_is_not_decoded() -> None:
    op = messages.op(replace={"space": "t", "tuple": b"\x91\x01"})
    many = data_pb2.ExecuteRequest(ops=[op] * 100_000).SerializeToString()
    for data in (many, b"\x0a\x00" * MIB, b"\x08\x01" * MIB, b"\xfa\x7f\x00" * MIB):
        with pytest.raises(DecodeError, match="fields"):
            counted(data)
    value = ListValue()
    value.extend([None] * 400_000)
    with pytest.raises(DecodeError, match="fields"):
        counted(common_pb2.Tuple(json=value).SerializeToString(), common_pb2.Tuple)


@pytest.mark.parametrize(
    "tail", [b"", b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 9, b"\x09\x01", b"\x0d"]
)
def test_counting_leaves_the_rest_to_the_decoder(tail: bytes) -> None:
    op = messages.op(replace={"space": "t", "tuple": b"\xc4" * 500_000})
    data = messages.request(ops=[op] * 4, known_position={"term": 3, "lsn": 2**40}).SerializeToString() + tail
    try:
        plain = data_pb2.ExecuteRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            counted(data)
    else:
        assert counted(data) == plain


# --- turns --------------------------------------------------------------------------------------------------


def put(mesh: Mesh, number: int, wait: ev.WaitMode = ev.WaitMode.COMPLETE) -> ev.ClientWrite:
    op = row_body.dml_from_values(RowType.REPLACE, SYNC, value=(1, number))
    return ev.ClientWrite(mesh.call_id(), [op], wait=wait)


def test_more_than_a_turn_takes_waits_in_its_order() -> None:
    mesh = Mesh(3, limits=Limits(turn_work_bytes_max=20_000))
    mesh.promote(1)
    writes = [put(mesh, n) for n in range(50)]
    mesh.step(1, ev.ClientWrites(writes))
    assert mesh.members[1].wants_turn
    assert mesh[1].waiting_unprepared > 40
    mesh.settle()
    assert all(mesh.committed(write.call_id) for write in writes)
    assert mesh.rows(1) == mesh.rows(3) == [(1, 49)]
    lsns = [
        outcome.txn.lsn
        for write in writes
        if isinstance(outcome := mesh.outcome(write.call_id), ev.Committed) and outcome.txn
    ]
    assert lsns == sorted(lsns)


def test_who_would_not_wait_for_room_waits_for_a_turn() -> None:
    mesh = Mesh(1, limits=Limits(turn_work_bytes_max=1))
    mesh.promote(1)
    writes = [put(mesh, n, ev.WaitMode.NONE) for n in range(9)]
    mesh.step(1, ev.ClientWrites(writes))
    mesh.settle()
    assert all(isinstance(mesh.outcome(write.call_id), ev.Submitted) for write in writes)
    assert mesh.rows(1) == [(1, 8)]


def test_a_caller_that_leaves_while_it_waits_for_its_turn_wrote_nothing() -> None:
    mesh = Mesh(1, limits=Limits(turn_work_bytes_max=1))
    mesh.promote(1)
    first, second, third = (put(mesh, n) for n in range(3))
    mesh.step(1, ev.ClientWrites([first, second, third]))
    mesh.step(1, ev.RequestAbandoned(third.call_id))
    mesh.step(1, ev.CallExpired(second.call_id))
    mesh.settle()
    assert mesh.rows(1) == [(1, 0)]
    assert mesh.reason(second.call_id) == "SYNC_QUEUE_FULL"


def test_fields_of_formats_count_before_they_are_looked_at() -> None:
    """Five formats of 40,000 fields took most of a second. What was accepted once is applied."""
    memtx = Memtx(LIMITS)
    fields = [{"name": f"f{n}"} for n in range(12_000)]
    ops = [
        row_body.dml_from_values(
            RowType.INSERT, SPACE_ID, value=(600 + n, 1, f"s{n}", "memtx", 0, {}, fields)
        )
        for n in range(4)
    ]
    with pytest.raises(BatchTooLarge, match="nothing was done: each field of a format counts"):
        memtx.prepare(ops)
    do(memtx, *ops[:2])
    memtx.commit(memtx.prepare(ops[2:], from_peer=True))
    assert len(memtx.catalog.space("s3").format) == 12_000


def test_rows_of_many_indexes_count() -> None:
    """A row costs its place in each secondary index."""
    mesh = Mesh(1, limits=Limits(txn_work_bytes_max=100 * 1024))
    mesh.promote(1)
    from synchro.storage import schema_ops

    for n in range(10):
        (op,) = schema_ops.create_index(mesh[1].memtx, SYNC, f"i{n}", parts=((1, "unsigned"),), unique=False)
        mesh.write_ops(1, [row_body.dml_from_values(op.type, op.space_id, value=op.value)])
        mesh.settle()
    few = mesh.write_ops(
        1, row_body.insert_all(RowType.REPLACE, SYNC, [msgpack.packb((n,)) for n in range(10)])
    )
    many = mesh.write_ops(
        1, row_body.insert_all(RowType.REPLACE, SYNC, [msgpack.packb((n,)) for n in range(11)])
    )
    mesh.settle()
    assert mesh.committed(few) and mesh.reason(many) == "BATCH_TOO_LARGE"


@pytest.mark.parametrize("upsert", [False, True])
def test_values_of_an_updated_tuple_count_before_anything_is_done(upsert: bool) -> None:
    """One update of the largest tuple is always possible; the second of them is refused at once."""
    memtx = memtx_with()
    do(memtx, Dml(RowType.REPLACE, 512, b"raw", value=(1, ((),) * (MIB - 16))))
    ops = (("=", 3, 1),)
    one = Dml(RowType.UPDATE, 512, b"", key=(1,), ops=ops)
    if upsert:
        one = Dml(RowType.UPSERT, 512, b"raw", value=(1,), ops=ops)
    do(memtx, one)
    used = memtx.memory_used
    with pytest.raises(BatchTooLarge, match="would touch more than"):
        memtx.prepare((one, one))
    assert memtx.memory_used == used
    memtx.check()


def slowest(steps: Callable[[], object]) -> float:
    """Seconds of processor time, of a machine of normal speed; without the garbage collector, which an
    instance tunes."""
    gc.disable()
    try:
        began = time.thread_time()
        steps()
        return (time.thread_time() - began) / slowness()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "item", [b"\x80", b"\x90", b"\x91\x80", b"\x81\x01\x80"], ids=["{}", "[]", "[{}]", "{1: {}}"]
)
def test_a_tuple_of_a_million_empty_values_is_decoded_in_time(item: bytes) -> None:
    """Of what is empty nothing is looked at; a million empty maps took 0.7 s."""
    count = (MIB - 64) // len(item)
    data = b"\xdd" + (count + 1).to_bytes(4, "big") + b"\x01" + item * count
    assert slowest(lambda: changes(replace(data))) < 0.5


def test_large_tuples_are_undone_and_replaced_in_time() -> None:
    """A queue holds sixteen of them. Each was packed again to count its memory, 2.4 s; the objects
    of those that are replaced were dropped at once, 0.6 s."""
    memtx = memtx_with()
    maps = MIB - 64

    def tuples() -> list[Dml]:
        datas = (b"\xdd" + (maps + 1).to_bytes(4, "big") + bytes((n,)) + b"\x80" * maps for n in range(3))
        return [row_body.insert_dml(RowType.REPLACE, 512, data) for data in datas]

    for prepared in [memtx.prepare([op]) for op in tuples()]:
        memtx.commit(prepared)
    used = memtx.memory_used
    pending = [memtx.prepare([op]) for op in tuples()]

    def roll_back() -> None:
        while pending:
            memtx.rollback(pending.pop())

    assert slowest(roll_back) < 0.1
    assert memtx.memory_used == used
    assert memtx.has_dead
    while not memtx.free(1_000):
        pass
    pending = [memtx.prepare([op]) for op in tuples()]

    def commit() -> None:
        for prepared in pending:
            memtx.commit(prepared)

    assert slowest(commit) < 0.1
    assert slowest(lambda: memtx.free(1_000)) < 0.2
    while not memtx.free(1_000):
        pass
    memtx.check()
