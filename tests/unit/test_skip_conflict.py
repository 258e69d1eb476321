"""`replication.skip_conflict`: a Nop stands for the row in conflict, for nothing else. [A-35], ADR 10, 19."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from synchro.errors import CantUpdatePrimaryKey, FieldType, TupleFound, WalIo
from synchro.ids import InstanceId, Lsn, RequestId
from synchro.instance import events as ev
from synchro.row import FLAG_COMMIT, FLAG_REQUEST_ID, Dml, Field, Nop, Row, RowType, TxnId
from synchro.storage import row_body, schema, schema_ops, xrow
from tests.mesh import ASYNC, SYNC, Mesh

REQUEST = b"r" * 16


def insert(*value: Field, space: int = ASYNC) -> Dml:
    return row_body.dml_from_values(RowType.INSERT, space, value=value)


def replace(*value: Field, space: int = ASYNC) -> Dml:
    return row_body.dml_from_values(RowType.REPLACE, space, value=value)


def update(key: Field, *ops: tuple[Field, ...], space: int = ASYNC) -> Dml:
    return row_body.dml_from_values(RowType.UPDATE, space, key=(key,), ops=ops)


def upsert(value: tuple[Field, ...], *ops: tuple[Field, ...]) -> Dml:
    return row_body.dml_from_values(RowType.UPSERT, ASYNC, value=value, ops=ops)


def delete(key: Field) -> Dml:
    return row_body.dml_from_values(RowType.DELETE, ASYNC, key=(key,))


def two_masters(
    there: Sequence[Dml], here: Sequence[Dml], *, unique: bool = False, before: Sequence[Dml] = ()
) -> Mesh:
    """1 does `there` as one transaction while 2 does `here`; then they meet."""
    mesh = Mesh(2, skip_conflict=True)
    if unique:
        index = schema_ops.create_index(mesh[1].memtx, "async", "second", parts=((2, "string"),))
        mesh.write_ops(1, index)
    for op in before:
        mesh.write_ops(1, [op])
    mesh.settle()
    mesh.isolate(1)
    for op in here:
        mesh.write_ops(2, [op])
    mesh.write_ops(1, there, request_id=REQUEST)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    return mesh


def kinds(mesh: Mesh, number: int, origin: int = 1) -> list[str]:
    """Types of the rows of the last transaction of `origin` in the log of `number`."""
    txn = [txn for txn in mesh.members[number].wal if txn.origin == origin][-1]
    return [row.type.name for row in txn.rows]


def assert_same_after_restart(mesh: Mesh, number: int) -> None:
    """The log holds the Nops as written, so a replay gives the same."""
    rows, vclock = mesh.rows(number, ASYNC), mesh[number].vclock
    mesh.crash(number)
    mesh.restart(number)
    assert (mesh.rows(number, ASYNC), mesh[number].vclock) == (rows, vclock)
    mesh[number].memtx.check()


def test_the_rest_of_the_transaction_is_kept() -> None:
    """5 and 7 must not be lost with 6."""
    mesh = two_masters([insert(5), insert(6), insert(7)], [insert(6, "r")])
    assert not mesh.members[1].stopped and not mesh.members[2].stopped
    assert mesh.rows(2, ASYNC) == [(5,), (6, "r"), (7,)]
    assert mesh.rows(1, ASYNC) == [(5,), (6,), (7,)]
    assert kinds(mesh, 2) == ["INSERT", "NOP", "INSERT"]
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()
    assert_same_after_restart(mesh, 2)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_flags_tsn_and_the_request_id_stay_where_they_were(position: int) -> None:
    """Also where the last row, which carries them, is the one in conflict."""
    mesh = two_masters([insert(5), insert(6), insert(7)], [insert(5 + position, "r")])
    (sent,) = (txn for txn in mesh.members[1].wal if txn.origin == 1)
    (got,) = (txn for txn in mesh.members[2].wal if txn.origin == 1)
    assert [row[1:5] for row in got.rows] == [row[1:5] for row in sent.rows]
    assert [row.request_id for row in got.rows] == [None, None, REQUEST]
    assert got.flags == FLAG_COMMIT | FLAG_REQUEST_ID
    assert [row.type is RowType.NOP for row in got.rows] == [at == position for at in range(3)]
    others = [at for at in range(3) if at != position]
    assert [got.rows[at].body for at in others] == [sent.rows[at].body for at in others]


def test_each_row_in_conflict_is_told_once_and_counted() -> None:
    """One warning names origin:LSN, space and key; it comes when the row is on disk, not for a try that was
    cut back."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    mesh.write_ops(2, [insert(6, "r"), insert(8, "r")])
    mesh.write_ops(1, [insert(5), insert(6), insert(7), insert(8)])
    mesh.settle()
    txn = mesh.members[1].wal[-1]
    first = mesh[2].step(ev.TxnsReceived(InstanceId(1), [txn]), 0)
    assert not [effect for effect in first if isinstance(effect, ev.Notice)]
    vclock = mesh[2].vclock.follow(InstanceId(1), txn.lsn)
    told = [effect for effect in mesh[2].step(ev.RowsWritten(vclock), 0) if isinstance(effect, ev.Notice)]
    assert [notice.is_warning for notice in told] == [True, True]
    names = ("origin", "lsn", "space", "key")
    assert [[notice.facts[name] for name in names] for notice in told] == [
        [1, 2, "async", "[6]"],
        [1, 4, "async", "[8]"],
    ]
    assert mesh[2].conflicts_skipped == {1: 2}


@pytest.mark.parametrize(
    ("there", "rows"),
    [
        ([insert(6, "n"), update(6, ("=", 2, "u"))], [(6, "u")]),
        ([insert(6, "n"), delete(6)], []),
        ([insert(6, "n"), delete(6), insert(6, "again")], [(6, "again")]),
        ([insert(6, "n"), replace(6, "p")], [(6, "p")]),
        ([insert(6, "n"), upsert((6, "n"), ("=", 2, "s"))], [(6, "s")]),
        ([replace(6, "p"), delete(6), insert(6, "q")], [(6, "q")]),
        ([delete(6), insert(6, "n")], [(6, "n")]),
    ],
)
def test_rows_behind_the_one_in_conflict_mean_what_they_would_mean_alone(
    there: list[Dml], rows: list[tuple[Field, ...]]
) -> None:
    """ADR 19: an update or delete names a key, not a version of a tuple, in one transaction as in two."""
    mesh = two_masters(there, [insert(6, "r")])
    assert mesh.rows(2, ASYNC) == rows
    assert not mesh.members[2].stopped
    assert_same_after_restart(mesh, 2)


@pytest.mark.parametrize(
    ("here", "there", "error"),
    [
        (insert(6, 6), [insert(5), insert(6, "n"), update(6, (":", 2, 1, 0, "x"))], None),
        (insert(6, "r"), [insert(5), insert(6, 1), update(6, ("+", 2, 1))], None),
        (insert(6, "r"), [insert(5), insert(6), update(6, ("!", 2, 7)), insert("text")], FieldType),
        (insert(6, "r"), [insert(6), update(6, ("=", 1, 9))], CantUpdatePrimaryKey),
    ],
)
def test_any_other_error_stops_the_stream_and_nothing_of_the_transaction_is_written(
    here: Dml, there: list[Dml], error: type[Exception] | None
) -> None:
    """As without the option; the rows before it, and those skipped already, are not kept either."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    mesh.write_ops(2, [here])
    mesh.settle()
    before = mesh[2].volatile_vclock
    txn = xrow.encode_ops(there, InstanceId(1), Lsn(1), 0)
    mesh.step(2, ev.TxnsReceived(InstanceId(1), [txn]))
    assert isinstance(mesh.members[2].stopped[1], error or Exception)
    assert mesh[2].volatile_vclock == before
    mesh.persist(2)
    assert mesh.rows(2, ASYNC) == [here.value]
    assert mesh[2].conflicts_skipped == {}
    mesh[2].memtx.check()


def test_a_unique_secondary_index_is_a_conflict_of_the_row_that_breaks_it() -> None:
    mesh = two_masters([insert(1, "a"), insert(2, "b"), insert(3, "c")], [insert(9, "b")], unique=True)
    assert mesh.rows(2, ASYNC) == [(1, "a"), (3, "c"), (9, "b")]
    assert_same_after_restart(mesh, 2)


def test_replace_update_and_upsert_may_break_a_unique_secondary_index_too() -> None:
    """Not inserts alone: [A-35] speaks of the error. Of a skipped row nothing is done, to no index."""
    there = [replace(1, "x"), update(2, ("=", 2, "y")), upsert((3, "z"), ("=", 2, "z")), insert(4, "w")]
    before = [insert(1, "a"), insert(2, "b"), insert(3, "c")]
    here = [insert(7, "x"), insert(8, "y"), insert(9, "z")]
    mesh = two_masters(there, here, unique=True, before=before)
    kept = [(1, "a"), (2, "b"), (3, "c"), (4, "w"), (7, "x"), (8, "y"), (9, "z")]
    assert mesh.rows(2, ASYNC) == kept
    assert kinds(mesh, 2) == ["NOP", "NOP", "NOP", "INSERT"]
    assert_same_after_restart(mesh, 2)


def test_a_conflict_that_follows_from_a_conflict_is_one_of_its_row() -> None:
    """1 moved "a" away from tuple 1 and gave it to 2; here the move is a conflict, so is the gift."""
    there = [update(1, ("=", 2, "b")), insert(2, "a"), insert(3, "c")]
    mesh = two_masters(there, [insert(9, "b")], unique=True, before=[insert(1, "a")])
    assert mesh.rows(2, ASYNC) == [(1, "a"), (3, "c"), (9, "b")]
    assert kinds(mesh, 2) == ["NOP", "NOP", "INSERT"]
    assert_same_after_restart(mesh, 2)


def test_several_spaces_in_one_transaction() -> None:
    mesh = Mesh(2, skip_conflict=True)
    mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "other"))
    mesh.settle()
    mesh.write_ops(1, schema_ops.create_index(mesh[1].memtx, "other", "primary"))
    mesh.settle()
    other = mesh[1].memtx.catalog.space("other").id
    mesh.isolate(1)
    mesh.write_ops(2, [insert(1, "r", space=other)])
    mesh.write_ops(1, [insert(1, "n"), insert(1, "n", space=other), insert(2, "n", space=other)])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert mesh.rows(2, ASYNC) == [(1, "n")]
    assert mesh.rows(2, other) == [(1, "r"), (2, "n")]
    assert_same_after_restart(mesh, 2)


def test_an_asynchronous_transaction_behind_a_synchronous_one_is_never_skipped() -> None:
    """ADR 10: it waits for the quorum of what is ahead; its ack as a Nop lost it with the next owner."""
    mesh = Mesh(3, skip_conflict=True)
    mesh.isolate(1)
    mesh.write_ops(1, [insert(6, "r")])
    mesh.settle()
    mesh.promote(2)
    mesh.write(2, (1,))
    behind = mesh.write_ops(2, [insert(5), insert(6)])
    mesh.settle()
    assert mesh.committed(behind)
    mesh.heal()
    mesh.settle()
    assert isinstance(mesh.members[1].stopped[2], TupleFound)
    assert not [txn for txn in mesh.members[1].wal if txn.origin == 2 and txn.is_nop]
    assert mesh[1].vclock.get(InstanceId(2)) < mesh[2].vclock.get(InstanceId(2))


def test_rows_of_system_spaces_are_never_skipped() -> None:
    """A definition or a member that is missing is no matter of one row."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "same"))
    mesh.write_ops(2, schema_ops.create_space(mesh[2].memtx, "same", space_id=700))
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert isinstance(mesh.members[1].stopped[2], TupleFound)
    assert isinstance(mesh.members[2].stopped[1], TupleFound)
    mesh = Mesh(2, skip_conflict=True)
    key = row_body.dml_from_values(RowType.INSERT, schema.SCHEMA_ID, value=("oncekey",))
    mesh.isolate(1)
    for number in (1, 2):
        mesh.write_ops(number, [key, insert(number)])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert isinstance(mesh.members[1].stopped[2], TupleFound)


def test_only_a_committed_tuple_is_a_conflict() -> None:
    """For a pending one the transaction waits, whatever becomes of it then."""
    for is_lost in (False, True):
        mesh = Mesh(2, skip_conflict=True)
        mesh.isolate(1)
        mesh.write_ops(2, [insert(6, "r")])  # on its way to disk
        txn = xrow.encode_ops([insert(5), insert(6)], InstanceId(1), Lsn(1), 0)
        mesh.step(2, ev.TxnsReceived(InstanceId(1), [txn]))
        assert mesh[2].volatile_vclock.get(InstanceId(1)) == 0
        if is_lost:
            member = mesh.members[2]
            del member.wal[member.written :]
            mesh.step(2, ev.RowsCutBack(mesh[2].vclock, TupleFound("no room")))
            mesh.step(2, ev.TxnsReceived(InstanceId(1), [txn]))
        mesh.settle()
        expected = [(5,), (6,)] if is_lost else [(5,), (6, "r")]
        assert mesh.rows(2, ASYNC) == expected
        assert mesh[2].conflicts_skipped == ({} if is_lost else {1: 1})


def test_what_was_cut_back_is_judged_and_counted_anew() -> None:
    """The disk was full: its LSNs come again, and the tuple in conflict may be gone by then."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.settle()
    txn = xrow.encode_ops([insert(5), insert(6)], InstanceId(1), Lsn(1), 0)
    mesh.step(2, ev.TxnsReceived(InstanceId(1), [txn]))
    member = mesh.members[2]
    del member.wal[member.written :]
    mesh.step(2, ev.RowsCutBack(mesh[2].vclock, WalIo("no room")))
    assert mesh[2].conflicts_skipped == {}
    mesh.write_ops(2, [delete(6)])
    mesh.settle()
    mesh.step(2, ev.TxnsReceived(InstanceId(1), [txn]))
    mesh.settle()
    assert mesh.rows(2, ASYNC) == [(5,), (6,)]
    assert mesh[2].conflicts_skipped == {}


def test_a_large_transaction_with_many_conflicts_is_no_more_work_than_its_rows() -> None:
    """No limit binds what peers send: 20,000 rows, every second one in conflict."""
    size = 20_000
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    taken = [insert(key, "r") for key in range(0, size, 2)]
    for start in range(0, len(taken), 1000):
        mesh.write_ops(2, taken[start : start + 1000])
    mesh.settle()
    txn = xrow.encode_ops([insert(key) for key in range(size)], InstanceId(1), Lsn(1), 0)
    mesh.step(2, ev.TxnsReceived(InstanceId(1), [txn]))
    mesh.settle()
    assert mesh[2].memtx.count(ASYNC) == size
    assert mesh[2].conflicts_skipped == {1: size // 2}


def test_nops_travel_on_and_are_nobody_elses_conflict() -> None:
    """3 hears of 1 through 2 only: it gets what 2 stored, and has the other rows."""
    mesh = Mesh(3, skip_conflict=True)
    mesh.isolate(1)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.write_ops(1, [insert(5), insert(6), insert(7)], request_id=REQUEST)
    mesh.settle()
    mesh._cuts = {frozenset((1, 3))}
    for number in (1, 2, 3):
        mesh._connect_all(number)
    mesh.settle()
    assert mesh.rows(3, ASYNC) == mesh.rows(2, ASYNC) == [(5,), (6, "r"), (7,)]
    assert kinds(mesh, 3) == ["INSERT", "NOP", "INSERT"]
    assert mesh[3].conflicts_skipped == {}
    assert_same_after_restart(mesh, 3)


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("there", [[insert(6)], [insert(5), insert(6)], [insert(6), insert(8)]])
def test_a_retry_elsewhere_finds_the_request_also_where_all_of_it_was_in_conflict(
    there: list[Dml], is_restarted: bool
) -> None:
    """S12: it is done at its origin. Here it must not run again, once the other tuple is gone or not."""
    mesh = two_masters(there, [insert(6, "r"), insert(8, "r")])
    txn = TxnId(InstanceId(1), Lsn(len(there)))
    if is_restarted:
        mesh.crash(2)
        mesh.restart(2)
    mesh.write_ops(2, [delete(6)])
    mesh.settle()
    call = mesh.write_ops(2, there, request_id=REQUEST)
    assert mesh.outcome(call) == ev.Committed(txn, duplicate=True)
    for by_txn in (True, False):
        wait = mesh.call_id()
        by_id = ev.WaitRequested(wait, request_id=RequestId(REQUEST))
        mesh.step(2, ev.WaitRequested(wait, txn) if by_txn else by_id)
        assert mesh.outcome(wait) == ev.FateKnown(ev.Fate.COMMITTED, txn)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_skipped_transaction_of_a_master_is_not_called_rolled_back(is_restarted: bool) -> None:
    """S5: it is committed at its origin. Nobody owned the queue, so nobody rolled anything back."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.write_ops(1, [insert(6)])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    if is_restarted:
        mesh.crash(2)
        mesh.restart(2)
    wait = mesh.call_id()
    mesh.step(2, ev.WaitRequested(wait, TxnId(InstanceId(1), Lsn(1))))
    assert mesh.outcome(wait) == ev.FateKnown(ev.Fate.COMMITTED, TxnId(InstanceId(1), Lsn(1)))


def skipped_of_a_former_owner(there: Sequence[Dml] = (insert(6),)) -> tuple[Mesh, TxnId]:
    """1 owned the queue, and gave it away. Its `there`, without a request id, is in conflict on 2; 3 has 2's
    rows, and hears of 1 through 2 alone."""
    mesh = Mesh(3, skip_conflict=True)
    mesh.promote(1)
    mesh.demote(1)
    mesh.isolate(1)
    mesh.write_ops(2, [insert(6, "r"), insert(8, "r")])
    call = mesh.write_ops(1, there)
    mesh.settle()
    written = mesh.outcome(call)
    assert isinstance(written, ev.Committed) and written.txn is not None
    mesh._cuts = {frozenset((1, 3))}
    for number in (1, 2, 3):
        mesh._connect_all(number)
    mesh.settle()
    return mesh, written.txn


def fate(mesh: Mesh, number: int, txn: TxnId) -> ev.Outcome | None:
    wait = mesh.call_id()
    mesh.step(number, ev.WaitRequested(wait, txn))
    return mesh.outcome(wait)


@pytest.mark.parametrize("there", [[insert(6)], [insert(6), insert(8)]])
def test_a_skipped_transaction_of_a_former_owner_is_committed_wherever_one_asks(there: list[Dml]) -> None:
    """S5: it is done at its origin. A mark tells its Nops from those of one that was rolled back (ADR 19), to
    a restart and to who gets them from there."""
    mesh, txn = skipped_of_a_former_owner(there)
    assert set(kinds(mesh, 2)) == set(kinds(mesh, 3)) == {"NOP"}
    assert (mesh[2].conflicts_skipped, mesh[3].conflicts_skipped) == ({1: len(there)}, {})
    for is_restarted in (False, True):
        for number in (1, 2, 3):
            if is_restarted:
                mesh.crash(number)
                mesh.restart(number)
            assert fate(mesh, number, txn) == ev.FateKnown(ev.Fate.COMMITTED, txn)
    assert not any(member.stopped for member in mesh.members.values())


def test_who_waits_for_a_skipped_transaction_of_a_former_owner_hears_that_it_is_committed() -> None:
    """Asked before it is on disk here."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.promote(1)
    mesh.demote(1)
    mesh.isolate(1)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.settle()
    lsn = Lsn(mesh[2].vclock.get(InstanceId(1)) + 1)
    mesh.step(2, ev.TxnsReceived(InstanceId(1), [xrow.encode_ops([insert(6)], InstanceId(1), lsn, 0)]))
    wait = mesh.call_id()
    mesh.step(2, ev.WaitRequested(wait, TxnId(InstanceId(1), lsn)))
    assert mesh.outcome(wait) is None
    mesh.settle()
    assert mesh.outcome(wait) == ev.FateKnown(ev.Fate.COMMITTED, TxnId(InstanceId(1), lsn))


def test_nops_without_a_mark_of_a_former_owner_are_told_as_rolled_back() -> None:
    """As former versions stored a conflict: they may also be what was rolled back, and that is the safe
    word."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.promote(1)
    mesh.demote(1)
    mesh.isolate(1)
    lsn = Lsn(mesh[2].vclock.get(InstanceId(1)) + 1)
    old = Row(RowType.NOP, InstanceId(1), lsn, lsn, FLAG_COMMIT, Nop())
    mesh.step(2, ev.TxnsReceived(InstanceId(1), [xrow.encode_txn([old])]))
    mesh.settle()
    for is_restarted in (False, True):
        if is_restarted:
            mesh.crash(2)
            mesh.restart(2)
        txn = TxnId(InstanceId(1), lsn)
        assert fate(mesh, 2, txn) == ev.FateKnown(ev.Fate.ROLLED_BACK, txn)


def test_a_shared_transaction_is_never_taken_apart() -> None:
    """ADR 13: each of its rows is the change of a call. In asynchronous spaces nobody makes one; one that
    comes all the same stops, since a Nop inside of it could not be read again."""
    ids = [RequestId(bytes([n]) * 16) for n in range(3)]
    mesh = Mesh(2, skip_conflict=True)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.settle()
    txn = xrow.encode_ops([insert(5), insert(6), insert(7)], InstanceId(1), Lsn(2), 0, ids)
    mesh.step(
        2, ev.TxnsReceived(InstanceId(1), [xrow.encode_ops([insert(4)], InstanceId(1), Lsn(1), 0), txn])
    )
    assert isinstance(mesh.members[2].stopped[1], TupleFound)


def test_without_the_option_a_conflict_stops_the_stream() -> None:
    """[A-52]"""
    mesh = Mesh(2)
    mesh.isolate(1)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.write_ops(1, [insert(5), insert(6)])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert isinstance(mesh.members[2].stopped[1], TupleFound)
    assert mesh.rows(2, ASYNC) == [(6, "r")]


def test_a_synchronous_space_without_an_owner_is_as_any_other() -> None:
    """Who writes there asynchronously before the first promote is refused; so only old flags could say so."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.write_ops(2, [insert(6, "r")])
    mesh.settle()
    txn = xrow.encode_ops([insert(6), insert(7), replace(1, space=SYNC)], InstanceId(1), Lsn(1), 0)
    mesh.step(2, ev.TxnsReceived(InstanceId(1), [txn]))
    mesh.settle()
    assert mesh.rows(2, ASYNC) == [(6, "r"), (7,)]
    assert mesh.rows(2, SYNC) == [(1,)]
