"""What a join brings is judged before it counts: no later start meets it, and the joiner lives."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from synchro.config import Limits, Settings
from synchro.errors import RemoteProtocolError, SynchroError
from synchro.ids import InstanceId, InstanceName, Lsn, Term
from synchro.instance.recovery import recover_instance
from synchro.row import Confirm, Demote, Nop, Promote, RaftState, Row, RowType, Txn
from synchro.server.directory import DataDirectory
from synchro.server.join import _Trial, join
from synchro.server.peer_messages import (
    JoinChunk,
    JoinEnd,
    JoinItem,
    JoinRequest,
    JoinRows,
    JoinSnapshotEnd,
    JoinStart,
)
from synchro.server.progress import ReceivedSoFar
from synchro.storage import row_body, schema, schema_ops, xrow
from synchro.storage.disk import RealDisk
from synchro.storage.memtx import Memtx
from synchro.storage.recovery import recover
from synchro.storage.snapshot import ChunkKind, SnapshotMeta, decode_chunk, iter_chunks
from synchro.storage.xlog import crc32c
from synchro.vclock import Vclock
from tests.mesh import ASYNC, REPLICASET, SYNC, first_tuples, uuid_of
from tests.property.test_received_rows import GOOD, bent, tuples
from tests.shell.memory_set import create_space, open_set, put, until, write

ONE, TWO, FOUR = InstanceId(1), InstanceId(2), InstanceId(4)
Spaces = list[tuple[int, list[Any]]]


@dataclass
class Sent:
    """What a source sends, sound as long as nobody changes it."""

    spaces: Spaces
    meta: SnapshotMeta = field(default_factory=lambda: SnapshotMeta(replicaset_uuid=REPLICASET))
    rows: list[Txn] = field(default_factory=list)
    start: JoinStart | None = None
    end: JoinEnd | None = None

    def items(self) -> list[JoinItem]:
        frames = list(iter_chunks(self.meta, self.spaces, chunk_bytes_max=300))
        items: list[JoinItem] = [self.start or JoinStart(self.meta.vclock, self.meta.replicaset_uuid, b"")]
        checksum = 0
        for frame in frames:
            crc = crc32c(frame)
            items.append(JoinChunk(0, frame, crc))
            checksum = crc32c(crc.to_bytes(4, "little"), checksum)
        items.append(JoinSnapshotEnd(len(frames), checksum))
        reached = dict(self.meta.vclock)
        for txn in self.rows:
            items.append(JoinRows(bytes(txn.data), crc32c(bytes(txn.data))))
            reached[txn.origin] = txn.lsn
        items.append(self.end or JoinEnd(Vclock(reached), FOUR))
        return items

    def put(self, space_id: int, *rows: Any) -> Sent:
        found = dict(self.spaces)
        found[space_id] = [*found.get(space_id, []), *rows]
        self.spaces = sorted(found.items())
        return self


def sound() -> Sent:
    sent = Sent([(space, list(rows)) for space, rows in first_tuples(3, Settings())])
    sent.put(schema.CLUSTER_ID, (4, "x", "i4"))
    sent.spaces = [(s, [r for r in rows if r[:2] != (4, "x")]) for s, rows in sent.spaces]
    second = (513, 1, "second", "TREE", {"unique": True}, ((1, "string"),))
    return sent.put(schema.INDEX_ID, second).put(ASYNC, (1, "a"), (2, "b")).put(SYNC, (1, "a"))


class Source:
    """A transport whose only peer says what it is told to."""

    def __init__(self, items: Sequence[JoinItem]) -> None:
        self._items = list(items)

    @asynccontextmanager
    async def join(self, address: str, request: JoinRequest) -> AsyncGenerator[Source]:
        yield self

    async def receive(self) -> JoinItem:
        await trio.lowlevel.checkpoint()
        return self._items.pop(0)


def open_directory(path: Path) -> DataDirectory:
    return DataDirectory.open(
        RealDisk(), Settings(instance_name=InstanceName("i4"), wal_dir=str(path), snapshot_dir=str(path))
    )


def joined(path: Path, sent: Sent) -> SynchroError | None:
    """None: it has data, from which it starts. Else what is wrong with it, and nothing of it is there."""
    directory = open_directory(path)
    try:
        try:
            source: Any = Source(sent.items())
            trio.run(join, directory, source, ReceivedSoFar("i1", "source"))
        except RemoteProtocolError as error:
            assert not directory.has_data
            directory.begin_first_start()
            assert {one.name for one in path.iterdir()} <= {"instance.identity", "instance.lock"}
            return error
        found = recover(directory.disk, str(path), str(path), directory.identity.instance_uuid)
        assert found is not None
        instance = recover_instance(
            uuid=directory.identity.instance_uuid,
            settings=directory.settings,
            meta=found.meta,
            spaces=found.tuples(),
            txns=(txn for batch in found.batches() for txn in batch),
            rng=random.Random(1),
            trusted=True,
            now=0.0,
        )
        instance.start(0.0)
        instance.check()
        instance.memtx.check()
        return None
    finally:
        directory.close()


def write_row(lsn: int, space: int, value: tuple[Any, ...], origin: InstanceId = TWO) -> Txn:
    op = row_body.dml_from_values(RowType.REPLACE, space, value=value)
    return xrow.encode_ops([op], origin, Lsn(lsn), 0)


def control(kind: RowType, body: Any, lsn: int = 1) -> Txn:
    return xrow.encode_txn([Row(kind, TWO, Lsn(lsn), Lsn(lsn), 1, body)])


def test_a_sound_join_is_kept(tmp_path: Path) -> None:
    sent = sound()
    sent.rows = [write_row(1, ASYNC, (3, "c")), write_row(2, schema.CLUSTER_ID, (5, uuid_of(5), "i5"))]
    assert joined(tmp_path, sent) is None


@pytest.mark.parametrize(
    ("space", "row", "named"),
    [
        (ASYNC, ("no number", "c"), "async"),
        (ASYNC, (3, 7), "async"),
        (ASYNC, (3,), "async"),
        (ASYNC, (), "async"),
        (ASYNC, (1, "c"), "async"),
        (ASYNC, (3, "b"), "async"),
        (999, (1,), "#999"),
        (2**32 - 1, (1,), "#4294967295"),
        (schema.SCHEMA_ID, (7, "x"), "_schema"),
        (schema.SPACE_ID, (600, 1, "async", "memtx", 0, {}, ()), "_space"),
        (schema.SPACE_ID, (600, 1, "other"), "_space"),
        (schema.SPACE_ID, (600, 1, "other", "memtx", 0, {"is_sync": 1}, ()), "_space"),
        (schema.SPACE_ID, (320, 1, "_cluster", "memtx", 0, {}, ()), "_space"),
        (schema.INDEX_ID, (999, 0, "primary", "TREE", {}, ((0, "unsigned"),)), "_index"),
        (schema.INDEX_ID, (513, 2, "third", "TREE", {}, ()), "_index"),
        (schema.INDEX_ID, (513, 2, "second", "TREE", {}, ((1, "string"),)), "_index"),
        (schema.CLUSTER_ID, (32, uuid_of(9), "i9"), "_cluster"),
        (schema.CLUSTER_ID, (5, "no uuid", "i5"), "_cluster"),
        (schema.CLUSTER_ID, ("five", uuid_of(9), "i9"), "_cluster"),
        (schema.TRUNCATE_ID, (280, 1), "_truncate"),
        (schema.TRUNCATE_ID, (), "_truncate"),
    ],
)
def test_a_bad_tuple_ends_the_join_by_name(
    tmp_path: Path, space: int, row: tuple[Any, ...], named: str
) -> None:
    """They were found when the instance started from it, again and again, or never."""
    error = joined(tmp_path, sound().put(space, row))
    assert error is not None
    assert error.details["space"] == named
    assert f"space {named}" in error.message
    assert f"tuple {error.details['tuple']} of a snapshot" in error.message


def change(sent: Sent, **changes: Any) -> None:
    sent.meta = replace(sent.meta, **changes)


BENT: dict[str, Callable[[Sent], None]] = {
    "owner without a promote": lambda s: change(s, queue_owner=TWO, queue_term=Term(3), term=Term(3)),
    "promote above the queue": lambda s: change(s, promote_terms=((TWO, Term(9)),), term=Term(9)),
    "term of the queue above the term": lambda s: change(
        s, queue_owner=TWO, queue_term=Term(3), promote_terms=((TWO, Term(3)),), term=Term(0)
    ),
    "term 0": lambda s: change(s, term=Term(0)),
    "extra of another shape": lambda s: change(s, extra={"requests_forgotten": "x"}),
    "drops of another shape": lambda s: change(s, extra={"drops_forgotten": ((1,),)}),
    "start elsewhere": lambda s: setattr(s, "start", JoinStart(Vclock({ONE: Lsn(3)}), REPLICASET, b"")),
    "another set": lambda s: setattr(s, "start", JoinStart(Vclock(), uuid_of(9), b"")),
    "another set in _schema": lambda s: setattr(
        s, "spaces", [(i, r) for i, r in s.spaces if i != schema.SCHEMA_ID]
    ),
    "end not reached": lambda s: setattr(s, "end", JoinEnd(Vclock({TWO: Lsn(5)}), FOUR)),
    "an id of another": lambda s: setattr(s, "end", JoinEnd(Vclock(), InstanceId(0))),
    "spaces in disorder": lambda s: s.spaces.reverse(),
    "a gap": lambda s: s.rows.append(write_row(2, ASYNC, (3, "c"))),
    "twice": lambda s: s.rows.extend([write_row(1, ASYNC, (3, "c")), write_row(1, ASYNC, (4, "d"))]),
    "row of no space": lambda s: s.rows.append(write_row(1, 999, (3, "c"))),
    "row in conflict with the format": lambda s: s.rows.append(write_row(1, ASYNC, ("x", "c"))),
    "row in conflict with an index": lambda s: s.rows.append(write_row(1, ASYNC, (3, "b"))),
    "broken member": lambda s: s.rows.append(write_row(1, schema.CLUSTER_ID, (33, "x", "y"))),
}


@pytest.mark.parametrize("what", BENT)
def test_what_no_instance_could_start_from_is_not_kept(tmp_path: Path, what: str) -> None:
    sent = sound()
    BENT[what](sent)
    error = joined(tmp_path, sent)
    assert error is not None
    assert "nothing" in error.message


bodies = st.one_of(
    st.builds(Confirm, st.integers(0, 4).map(InstanceId), st.integers(0, 9).map(Lsn)),
    st.builds(Promote, *([st.integers(0, 4)] * 4)),
    st.builds(Demote, *([st.integers(0, 4)] * 4)),
    st.just(Nop()),
    st.builds(RaftState, st.integers(0, 4).map(Term), st.integers(0, 4).map(InstanceId)),
)
KIND = {
    Confirm: RowType.CONFIRM,
    Promote: RowType.PROMOTE,
    Demote: RowType.DEMOTE,
    Nop: RowType.NOP,
    RaftState: RowType.RAFT,
}


def vclock_of(components: dict[int, int]) -> Vclock:
    return Vclock({InstanceId(one): Lsn(lsn) for one, lsn in components.items()})


metas = st.builds(
    SnapshotMeta,
    vclock=st.dictionaries(st.integers(1, 4), st.integers(1, 9), max_size=2).map(vclock_of),
    replicaset_uuid=st.just(REPLICASET),
    term=st.integers(0, 5),
    queue_owner=st.integers(0, 4),
    queue_term=st.integers(0, 5),
    confirmed_lsn=st.integers(0, 9),
    confirmed_vclock=st.dictionaries(st.integers(0, 4), st.integers(0, 9), max_size=2).map(vclock_of),
    promote_terms=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=2).map(tuple),
)
bad_tuples = st.sampled_from(sorted(GOOD)).flatmap(
    lambda space: st.tuples(st.just(space), bent(GOOD[space]))
) | st.tuples(st.sampled_from([SYNC, ASYNC, 999]), tuples)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    metas | st.just(SnapshotMeta(replicaset_uuid=REPLICASET)),
    st.lists(bad_tuples, max_size=2),
    st.lists(bodies, max_size=4),
)
def test_whatever_a_join_brings_is_started_from_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    meta: SnapshotMeta,
    added: list[tuple[int, tuple[Any, ...]]],
    found: list[Any],
) -> None:
    """Any state, any tuples, any rows: `joined` starts from what was kept."""
    sent = sound()
    for space, row in added:
        sent.put(space, row)
    sent.meta = meta
    first = meta.vclock.get(TWO) + 1
    sent.rows = [control(KIND[type(body)], body, first + n) for n, body in enumerate(found)]
    joined(tmp_path_factory.mktemp("joiner"), sent)


KINDS: list[dict[str, Any]] = [{}, {"is_sync": True}, {"is_local": True}, {"kind": "data-temporary"}]
PARTS = [[[1, "unsigned"]], [[2, "string"]], [[3, "number", {"is_nullable": True}]]]
STEPS = ["space", "index", "index", "put", "put", "put", "drop", "forget", "truncate", "rename"]


def change_of(memtx: Memtx, step: str, which: int, number: int) -> Sequence[Any]:
    name = f"s{which}"
    match step:
        case "space":
            return schema_ops.create_space(memtx, name, **KINDS[number % 4])
        case "index":
            place = number % 3
            is_unique = number % 2 == 0
            return schema_ops.create_index(
                memtx, name, f"i{place}", unique=is_unique or place == 0, parts=PARTS[place]
            )
        case "put":
            value: tuple[object, ...] = (number, f"t{number}", number or None, {})
            return [row_body.dml_from_values(RowType.REPLACE, memtx.catalog.space(name).id, value=value)]
        case "drop":
            return schema_ops.drop_space(memtx, name)
        case "forget":  # the row of `_truncate` is left
            return [op for op in schema_ops.drop_space(memtx, name) if op.space_id != schema.TRUNCATE_ID]
        case "truncate":
            return schema_ops.truncate(memtx, name)
        case _:
            return schema_ops.alter_space(memtx, name, name=f"s{number % 4}")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 40)), max_size=60),
    st.sampled_from([60, 300, 2**20]),
)
@example([("space", 0, 0), ("index", 0, 0), ("put", 0, 1), ("truncate", 0, 0), ("forget", 0, 0)], 300)
def test_whatever_an_instance_has_can_be_joined(found: list[tuple[str, int, int]], frame_bytes: int) -> None:
    """Nothing that came to be by changes that were accepted is refused, wherever its frames are cut."""
    memtx = Memtx(Limits())
    for step, which, number in found:
        with contextlib.suppress(SynchroError):
            memtx.commit(memtx.prepare(change_of(memtx, step, which, number), from_peer=True))
    trial = _Trial(Settings())
    for frame in iter_chunks(SnapshotMeta(), memtx.freeze(with_local=False), chunk_bytes_max=frame_bytes):
        chunk = decode_chunk(frame)
        if chunk.kind is ChunkKind.TUPLES:
            trial.add(chunk.space_id, chunk.tuples)


async def test_the_joiner_lives_and_joins_when_the_source_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended with the first broken join."""
    import synchro.server.join

    module: Any = synchro.server.join

    broken = [True]
    whole = module.snapshot_view

    def view(*args: Any, **options: Any) -> Any:
        meta, spaces = whole(*args, **options)
        return meta, [*spaces, (999, [(1,)])] if broken[0] else spaces

    monkeypatch.setattr(module, "snapshot_view", view)
    async with open_set(tmp_path, size=3) as replicas:
        broken[0] = False
        for number in (1, 2):
            await replicas.start(number)
        await replicas.wait_ready()
        leader = await replicas.wait_leader()
        await create_space(leader)
        await write(leader, put(1))
        broken[0] = True
        tried: list[bool] = []
        monkeypatch.setattr(module, "_shared_view", _noted(module._shared_view, tried))
        third = await replicas.start(3)
        await until(lambda: len(tried) > 2)
        assert not third.node.is_ready
        assert not [one for one in (tmp_path / "instance003").iterdir() if one.suffix == ".snap"]
        broken[0] = False
        await until(lambda: third.node.is_ready)
        await replicas.wait_equal()


def _noted(wrapped: Any, calls: list[bool]) -> Any:
    def call(*args: Any) -> Any:
        calls.append(True)
        return wrapped(*args)

    return call
