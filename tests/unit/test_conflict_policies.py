"""What a space does with a received row that is in the way: `skip`, `keep_local`. ADR 44, [A-35], [A-54]."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from synchro.config import Settings
from synchro.errors import IllegalParams, ProtocolVersion, SynchroError, TupleFound, WalIo, WrongFormat
from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.recovery import snapshot_view
from synchro.row import Dml, Field, RowType, TxnId
from synchro.storage import row_body, schema, schema_ops
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import Skips
from synchro.storage.schema import ConflictPolicy
from tests.mesh import ASYNC, SYNC, Mesh
from tests.unit.test_skip_conflict import assert_same_after_restart, delete, insert, kinds, replace, update

SKIP, KEEP_LOCAL = ConflictPolicy.SKIP, ConflictPolicy.KEEP_LOCAL


def encoded(ops: Sequence[Dml]) -> list[Dml]:
    return [
        op
        if op.raw
        else row_body.dml_from_values(
            op.type, op.space_id, index_id=op.index_id, key=op.key, value=op.value, ops=op.ops
        )
        for op in ops
    ]


def set_policy(mesh: Mesh, policy: str, at: int = 1) -> None:
    call = mesh.write_ops(at, encoded(schema_ops.alter_space(mesh[at].memtx, "async", conflict=policy)))
    mesh.settle()
    assert mesh.committed(call), mesh.outcome(call)


def with_policy(policy: str, members: int = 2) -> Mesh:
    mesh = Mesh(members)
    set_policy(mesh, policy)
    return mesh


def meet(mesh: Mesh, there: Sequence[Dml], here: Sequence[Dml]) -> Mesh:
    """1 does `there` as one transaction while 2 does `here`, one by one; then they meet."""
    mesh.isolate(1)
    for op in here:
        mesh.write_ops(2, [op])
    mesh.write_ops(1, there)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    return mesh


def both(mesh: Mesh) -> tuple[list[tuple[Field, ...]], list[tuple[Field, ...]]]:
    assert not mesh.members[1].stopped and not mesh.members[2].stopped
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()
    return mesh.rows(1, ASYNC), mesh.rows(2, ASYNC)


# --- skip -------------------------------------------------------------------------------------------------


def test_skip_makes_a_nop_of_an_insert_of_a_key_that_is_there() -> None:
    """[A-35] for one space: nothing stops, the LSN is used, and the rest of the transaction is kept."""
    mesh = meet(with_policy(SKIP), [insert(5), insert(6), insert(7)], [insert(6, "r")])
    assert both(mesh) == ([(5,), (6,), (7,)], [(5,), (6, "r"), (7,)])
    assert kinds(mesh, 2) == ["INSERT", "NOP", "INSERT"]
    assert_same_after_restart(mesh, 2)


def test_skip_leaves_all_other_changes_as_they_are() -> None:
    """[A-51]: the one that is applied last stays."""
    mesh = meet(with_policy(SKIP), [replace(6, "one")], [replace(6, "two")])
    assert both(mesh) == ([(6, "two")], [(6, "one")])


def test_without_a_policy_the_stream_stops() -> None:
    """`stop` is the default; another space's policy means nothing here."""
    mesh = with_policy(SKIP)
    set_policy(mesh, "stop")
    assert mesh[2].memtx.catalog.space("async").conflict is ConflictPolicy.STOP
    meet(mesh, [insert(6)], [insert(6, "r")])
    assert isinstance(mesh.members[1].stopped[2], TupleFound)
    assert isinstance(mesh.members[2].stopped[1], TupleFound)


def test_by_default_replaces_may_differ_and_a_checksum_shows_it() -> None:
    """[A-51]: each instance has what it applied last; nothing stops, and nothing is reported."""
    mesh = meet(Mesh(2), [replace(6, "one")], [replace(6, "two")])
    assert both(mesh) == ([(6, "two")], [(6, "one")])
    assert mesh[1].memtx.checksum(ASYNC) != mesh[2].memtx.checksum(ASYNC)
    mesh.write_ops(1, [replace(6, "right")])
    mesh.settle()
    assert mesh[1].memtx.checksum(ASYNC) == mesh[2].memtx.checksum(ASYNC)


def test_what_waits_in_the_queue_is_never_skipped() -> None:
    """ADR 10, 19: its ack stands for its bytes."""
    mesh = Mesh(3)
    set_policy(mesh, SKIP)
    mesh.isolate(2)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.settle()
    mesh.promote(1)
    mesh.write_ops(1, [insert(1, space=SYNC), insert(6)])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert isinstance(mesh.members[2].stopped[1], TupleFound)
    assert mesh[2].conflicts_skipped == {}


# --- keep_local -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [insert(6, "o"), replace(6, "o"), update(6, ("=", 2, "o")), delete(6)],
    ids=["insert", "replace", "update", "delete"],
)
def test_keep_local_keeps_what_was_last_written_here(change: Dml) -> None:
    mesh = with_policy(KEEP_LOCAL)
    if change.type is not RowType.INSERT:
        mesh.write_ops(1, [replace(6, "old")])
        mesh.settle()
    meet(mesh, [insert(5), change, insert(7)], [replace(6, "here")])
    assert both(mesh)[1] == [(5,), (6, "here"), (7,)]
    assert kinds(mesh, 2) == ["INSERT", "NOP", "INSERT"]
    assert mesh[2].conflicts_skipped == {1: 1}
    assert_same_after_restart(mesh, 2)


def test_keep_local_takes_changes_of_what_others_wrote() -> None:
    """Also where it was written here before: the last one counts. What was deleted here is nobody's."""
    mesh = with_policy(KEEP_LOCAL)
    mesh.write_ops(2, [insert(4, "two"), insert(5, "two")])
    mesh.write_ops(1, [insert(3, "one")])
    mesh.settle()
    mesh.write_ops(2, [delete(5)])
    mesh.write_ops(1, [replace(3, "again")])
    mesh.settle()
    mesh.write_ops(1, [insert(5, "one")])
    mesh.settle()
    assert mesh.rows(2, ASYNC) == [(3, "again"), (4, "two"), (5, "one")]
    assert mesh[2].conflicts_skipped == {}


def test_who_wrote_last_is_known_after_a_restart_from_the_log_and_from_a_snapshot() -> None:
    mesh = with_policy(KEEP_LOCAL)
    mesh.write_ops(2, [insert(4, "two")])
    mesh.write_ops(1, [insert(3, "one")])
    mesh.settle()
    meta, spaces = snapshot_view(mesh[2])
    copy = Memtx(Settings().limits)
    copy.begin_bulk()
    for space_id, tuples in spaces:
        copy.load(space_id, tuples)
    copy.end_bulk()
    copy.self_id = InstanceId(2)
    copy.check()
    assert meta.vclock == mesh[2].vclock
    mesh.crash(2)
    mesh.restart(2)
    for memtx in (copy, mesh[2].memtx):
        ops = [replace(3, "x"), replace(4, "x")]
        prepared = memtx.prepare(ops, from_peer=True, origin=InstanceId(1), skips=Skips(by_policy=True))
        assert [at for at, _, _ in prepared.skipped or ()] == [1]
        memtx.rollback(prepared)
    _, joined = snapshot_view(mesh[2], with_local=False)
    assert schema.MARKS_ID not in dict(joined)  # who joins has written nothing


def test_a_write_on_its_way_to_disk_is_waited_for() -> None:
    """Only what is committed is kept: a full disk may take it back."""
    for is_lost in (False, True):
        mesh = with_policy(KEEP_LOCAL)
        mesh.isolate(1)
        mesh.write_ops(1, [replace(6, "one")])
        mesh.settle()
        row = mesh.members[1].wal[-1]
        mesh.write_ops(2, [replace(6, "two")])
        mesh.step(2, ev.TxnsReceived(InstanceId(1), [row]))
        assert [txn.origin for txn in mesh.members[2].wal] == [1, 2]
        if is_lost:
            mesh.members[2].wal.pop()
            mesh.step(2, ev.RowsCutBack(mesh[2].vclock, WalIo("no room")))
            mesh.heal()
        mesh.settle()
        assert mesh.rows(2, ASYNC) == [(6, "one" if is_lost else "two")]
        assert mesh[2].conflicts_skipped == ({} if is_lost else {1: 1})


def test_own_rows_that_come_back_are_no_conflict() -> None:
    """ADR 28: 1 lost the end of its log and gets its rows from 2."""
    mesh = with_policy(KEEP_LOCAL)
    mesh.write_ops(1, [insert(6, "a")])
    mesh.settle()
    mesh.write_ops(1, [replace(6, "b")])
    mesh.settle()
    mesh.crash(1)
    mesh.restart(1, rows=2, trusted=False)
    assert mesh.rows(1, ASYNC) == [(6, "a")]
    mesh.settle()
    assert mesh.rows(1, ASYNC) == [(6, "b")]
    assert mesh[1].conflicts_skipped == {}


# --- which spaces may have one ----------------------------------------------------------------------------


def test_a_policy_is_for_replicated_asynchronous_spaces() -> None:
    memtx = Memtx(Settings().limits)

    def refused(words: str, **options: object) -> None:
        with pytest.raises(IllegalParams, match=words):
            memtx.prepare(encoded(schema_ops.create_space(memtx, "s", **options)))  # type: ignore[arg-type]

    for policy in (SKIP, KEEP_LOCAL):
        refused("a synchronous one has no conflicts", is_sync=True, conflict=policy)
        refused("no peer sends rows of this one", is_local=True, conflict=policy)
        refused("no peer sends rows of this one", temporary=True, conflict=policy)
    with pytest.raises(WrongFormat, match="expected one of stop, skip, keep_local"):
        schema_ops.create_space(memtx, "s", conflict="newest")
    mesh = with_policy(SKIP)
    call = mesh.write_ops(1, encoded(schema_ops.alter_space(mesh[1].memtx, "async", is_sync=True)))
    assert mesh.reason(call) == "ILLEGAL_PARAMS"


def test_the_policy_is_a_flag_of_the_space_that_other_changes_leave_alone() -> None:
    """[D-7]"""
    mesh = with_policy(KEEP_LOCAL)
    memtx = mesh[2].memtx
    assert memtx.get(schema.SPACE_ID, 0, (ASYNC,))[5] == {"conflict": "keep_local"}  # type: ignore[index]
    mesh.write_ops(1, encoded(schema_ops.alter_space(mesh[1].memtx, "async", name="renamed")))
    mesh.settle()
    assert memtx.catalog.space("renamed").conflict is KEEP_LOCAL
    set_call = mesh.write_ops(1, encoded(schema_ops.alter_space(mesh[1].memtx, "renamed", conflict="stop")))
    mesh.settle()
    assert mesh.committed(set_call)
    assert memtx.get(schema.SPACE_ID, 0, (ASYNC,))[5] == {}  # type: ignore[index]


def test_no_policy_begins_while_a_member_may_not_know_it() -> None:
    """Readers.U1: of an older version, or away since this process started."""
    mesh = Mesh(3)
    mesh.older.add(3)
    mesh.cut(1, 3)
    mesh.heal()
    alter = encoded(schema_ops.alter_space(mesh[1].memtx, "async", conflict=SKIP))
    call = mesh.write_ops(1, alter)
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected) and isinstance(outcome.error, ProtocolVersion)
    assert "i3 did not say so" in outcome.error.message
    assert mesh[1].memtx.catalog.space("async").conflict is ConflictPolicy.STOP
    mesh.older.clear()
    mesh.cut(1, 3)
    mesh.heal()
    set_policy(mesh, SKIP)


# --- what a person is told --------------------------------------------------------------------------------


def test_a_skipped_row_is_told_with_both_tuples() -> None:
    mesh = meet(with_policy(KEEP_LOCAL), [insert(6, "one")], [insert(6, "two")])
    facts = mesh[2].last_skipped[InstanceId(1)]
    assert {name: facts[name] for name in ("origin", "lsn", "space", "key", "policy")} == {
        "origin": 1,
        "lsn": 2,
        "space": "async",
        "key": "[6]",
        "policy": "keep_local",
    }
    assert (facts["old_tuple"], facts["new_tuple"]) == ('[6, "two"]', '[6, "one"]')
    assert "was last written here and is kept" in str(facts["error"])


def test_a_person_may_leave_out_the_row_at_which_a_stream_stands() -> None:
    """`replication restart --skip`: that row, and no later one."""
    mesh = meet(Mesh(2), [insert(6, "one")], [insert(6, "two"), insert(8, "two")])
    error = mesh.members[2].stopped[1]
    assert (error.details["at"], error.details["skippable"]) == ("1:1", "yes")

    def restart() -> None:
        del mesh.members[2].stopped[1]
        mesh.cut(1, 2)
        mesh.heal()
        mesh.settle()

    mesh.step(2, ev.SkipGranted(TxnId(InstanceId(1), Lsn(1))))
    restart()
    assert 1 not in mesh.members[2].stopped
    assert kinds(mesh, 2) == ["NOP"]
    mesh.write_ops(1, [insert(8, "one")])
    mesh.settle()
    assert mesh.members[2].stopped[1].details["at"] == "1:2"


def test_a_truncate_of_a_space_that_is_gone_may_be_left_out_and_a_definition_may_not() -> None:
    """Nothing is here that it could empty; an index row decides what later rows mean."""
    for is_truncate in (True, False):
        mesh = Mesh(2)
        mesh.cut(1, 2)
        parts = ((2, "string"),)
        index = schema_ops.create_index(mesh[1].memtx, "async", "other", parts=parts)
        mesh.write_ops(1, schema_ops.truncate(mesh[1].memtx, "async") if is_truncate else index)
        mesh.write_ops(2, schema_ops.drop_space(mesh[2].memtx, "async"))
        mesh.heal()
        mesh.settle()
        error = mesh.members[2].stopped[1]
        assert error.reason == "NO_SUCH_SPACE"
        assert ("skippable" in error.details) is is_truncate


def test_each_row_of_a_transaction_needs_its_own_word() -> None:
    """ADR 19: `--skip` of one left out all rows in conflict of its transaction, unseen."""
    mesh = meet(Mesh(2), [insert(6, "one"), insert(7, "one"), insert(8, "one")], [insert(6), insert(8)])

    def skip(lsn: int) -> None:
        mesh.step(2, ev.SkipGranted(TxnId(InstanceId(1), Lsn(lsn))))
        del mesh.members[2].stopped[1]
        mesh.cut(1, 2)
        mesh.heal()
        mesh.settle()

    assert mesh.members[2].stopped[1].details["at"] == "1:1"
    skip(1)
    assert mesh.members[2].stopped[1].details["at"] == "1:3"
    assert mesh[2].conflicts_skipped.get(InstanceId(1), 0) == 0
    skip(3)
    assert 1 not in mesh.members[2].stopped
    assert kinds(mesh, 2) == ["NOP", "INSERT", "NOP"]
    assert mesh[2].conflicts_skipped[InstanceId(1)] == 2


def test_a_row_that_waits_for_a_quorum_may_not_be_left_out_by_a_person() -> None:
    mesh = Mesh(3)
    mesh.isolate(2)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.settle()
    mesh.promote(1)
    mesh.write_ops(1, [insert(1, space=SYNC), insert(6)])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    error: SynchroError = mesh.members[2].stopped[1]
    assert "skippable" not in error.details
