"""Many inserts prepared at once against a twin that prepares them one by one: nothing can be told apart."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.config import Limits
from synchro.errors import SynchroError
from synchro.row import Dml, Puts, RowType, Tuple
from synchro.storage import schema_ops
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal, Prepared
from synchro.storage.row_body import insert_all
from synchro.storage.schema import SCHEMA_ID

LIMITS = Limits(batch_ops_max=7, tuple_bytes_max=60, txn_bytes_max=120)
FORMATS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"name": "id", "type": "unsigned"}, {"name": "name", "type": "string"}],
    "numbers": [{"name": "id", "type": "number"}, {"name": "year", "type": "integer", "is_nullable": True}],
    "pairs": [{"name": "id", "type": "integer"}, {"name": "name", "type": "scalar"}],
    "coded": [{"name": "id", "type": "unsigned"}, {"name": "code", "type": "string"}],
}
PARTS: dict[str, Any] = {"pairs": ((1, "integer"), (2, "scalar"))}
KINDS = ("INSERT", "REPLACE", "REPLACE")


def memtx() -> Memtx:
    made = Memtx(LIMITS)

    def do(ops: list[Dml]) -> None:
        made.commit(made.prepare(ops, from_peer=True))

    for name, fields in FORMATS.items():
        do(schema_ops.create_space(made, name, format=fields, is_sync=name == "plain"))
        parts = PARTS.get(name, ((1, fields[0]["type"]),))
        do(schema_ops.create_index(made, name, "primary", parts=parts))
    do(schema_ops.create_index(made, "plain", "by_name", parts=((2, "string"),), unique=False))
    do(schema_ops.create_index(made, "coded", "by_code", parts=((2, "string"),)))
    do(schema_ops.create_space(made, "here", is_local=True, field_count=2))
    do(schema_ops.create_index(made, "here", "primary", parts=((1, "unsigned"),)))
    do(schema_ops.create_space(made, "passing", temporary=True))
    do(schema_ops.create_index(made, "passing", "primary", parts=((1, "unsigned"),)))
    do(schema_ops.create_space(made, "bare"))
    return made


SPACES = [space.id for space in memtx().catalog.spaces() if space.id >= 512]

first = st.one_of(st.integers(0, 6), st.sampled_from([-1, 2**64 - 1, 1.0, 2.5, float("nan"), "x", None]))
second = st.one_of(st.sampled_from(["a", "b", "c"]), st.integers(-1, 1), st.just("d" * 50), st.none())
good_rows = st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", "c"]))
odd_rows = st.one_of(st.tuples(first, second), st.tuples(first), st.tuples(first, second, first))


@st.composite
def runs(draw: st.DrawFn) -> Puts:
    unique = st.lists(good_rows, min_size=1, max_size=5, unique_by=lambda row: row[0])
    rows = draw(st.one_of(unique, unique, st.lists(good_rows, min_size=1), st.lists(odd_rows, min_size=1)))
    space = draw(st.one_of(st.just(SPACES[0]), st.sampled_from([*SPACES, SCHEMA_ID, 999])))
    kind = RowType[draw(st.sampled_from(KINDS))]
    return insert_all(kind, space, [msgpack.packb(row) for row in rows])


steps = st.one_of(
    runs(),
    st.tuples(runs(), st.just("from a peer")),
    st.sampled_from(["commit", "commit", "rollback"]),
)


def outcome(memtx: Memtx, ops: Any, *, from_peer: bool) -> tuple[Prepared | None, Any]:
    """What was prepared, and all that can be seen of it."""
    try:
        made = memtx.prepare(ops, from_peer=from_peer)
    except PendingRefusal as refusal:
        return None, (refusal.blocker.serial, type(refusal.error), str(refusal.error), refusal.error.details)
    except SynchroError as error:
        return None, (type(error), str(error), error.details)
    base = made.base and made.base.serial
    flags = (made.is_sync, made.is_ddl, made.touches_system, tuple(made.system))
    return made, (list(made.ops), list(made.local), list(made.results), made.size, base, flags)


def state(memtx: Memtx) -> list[Any]:
    memtx.check()
    seen: list[Any] = []
    for space in SPACES[:-1]:
        committed: list[Tuple] = list(memtx.select(space))
        seen += [repr(committed), sorted(map(repr, memtx.prepared_rows(space)))]
    return [*seen, list(memtx.select(SPACES[0], 1))]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(steps, max_size=12))
def test_at_once_is_as_one_by_one(todo: list[Any]) -> None:
    at_once, twin = memtx(), memtx()
    pending: list[tuple[Prepared, Prepared]] = []
    for step in todo:
        if isinstance(step, str):
            if pending:
                pair = pending.pop(0 if step == "commit" else -1)
                for side, prepared in zip((at_once, twin), pair, strict=True):
                    (side.commit if step == "commit" else side.rollback)(prepared)
        else:
            ops, from_peer = step if isinstance(step, tuple) else (step, None)
            made, shown = outcome(at_once, ops, from_peer=from_peer is not None)
            other, expected = outcome(twin, list(ops), from_peer=from_peer is not None)
            assert repr(shown) == repr(expected)
            if made is not None and other is not None:
                pending.append((made, other))
        assert state(at_once) == state(twin)
