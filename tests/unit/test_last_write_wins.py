"""`conflict: last_write_wins`: the newest row of a key is what all read. ADR 44, [A-54], stamps.G1..G3."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from synchro.config import Limits
from synchro.errors import DecodeError, TombstonesGone, Unsupported
from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.replication.settled import Settled
from synchro.row import Dml, Field, RowType
from synchro.storage import row_body, schema, schema_ops, xrow
from synchro.storage.schema import ConflictPolicy
from synchro.storage.stamp_clock import UNKNOWN, Stamp
from synchro.storage.stamps import FORGOTTEN_AT_ONCE, Stamps, Tombstones
from synchro.vclock import Vclock
from tests.mesh import ASYNC, SYNC, Mesh
from tests.unit.test_conflict_policies import encoded, set_policy
from tests.unit.test_skip_conflict import assert_same_after_restart, delete, insert, replace, update, upsert

HOUR_US = 3600 * 10**6
LWW = ConflictPolicy.LAST_WRITE_WINS


def masters(members: int = 2, *, ahead: int = 0, **options: object) -> Mesh:
    """ahead: the instance whose clock is an hour ahead of the others; 0: none."""
    mesh = Mesh(members, **options)
    set_policy(mesh, LWW)
    for number in mesh.members:
        mesh.step(number, ev.ClockCompared(HOUR_US * (2 if number == ahead else 1)))
    return mesh


def apart(mesh: Mesh, writes: Sequence[tuple[int, Sequence[Dml]]]) -> Mesh:
    """Everybody writes alone, one after the other; then they meet."""
    for number in mesh.members:
        mesh.isolate(number)
    for number, ops in writes:
        mesh.now += 1
        mesh.write_ops(number, ops)
        mesh.settle()
    mesh.heal()
    mesh.settle()
    return mesh


def same(mesh: Mesh) -> list[tuple[Field, ...]]:
    """What all have."""
    assert not any(member.stopped for member in mesh.members.values())
    rows = [mesh.rows(number, ASYNC) for number in mesh.members]
    assert all(found == rows[0] for found in rows), rows
    for number in mesh.members:
        mesh[number].memtx.check()
    return rows[0]


def stamps_of(mesh: Mesh, number: int) -> Stamps:
    stamps = mesh[number].memtx.catalog.store(ASYNC).stamps
    assert stamps is not None
    return stamps


# --- who wins ---------------------------------------------------------------------------------------------


def test_the_later_of_two_concurrent_writes_is_read_everywhere() -> None:
    """[A-51] differs for ever; this does not. Inserts stop nobody."""
    mesh = apart(masters(3), [(1, [insert(6, "a")]), (3, [insert(6, "c")]), (2, [insert(6, "b")])])
    assert same(mesh) == [(6, "b")]


def test_a_clock_that_is_ahead_wins_until_it_was_heard() -> None:
    """Then the others count on from what they have seen."""
    mesh = apart(masters(2, ahead=1), [(1, [replace(6, "fast")]), (2, [replace(6, "slow")])])
    assert same(mesh) == [(6, "fast")]
    mesh.write_ops(2, [replace(6, "heard")])
    mesh.settle()
    assert same(mesh) == [(6, "heard")]


def test_equal_times_are_decided_by_the_origin() -> None:
    mesh = masters(3)
    for number in mesh.members:
        mesh.isolate(number)
    for number in (2, 3, 1):
        mesh.write_ops(number, [replace(6, str(number))])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert same(mesh) == [(6, "3")]


def test_a_deletion_is_a_write() -> None:
    """Of the two the later one counts; a deletion of what is not here yet, too."""
    deleted = [(1, [insert(6, "a")]), (2, [delete(6)])]
    assert same(apart(masters(), deleted)) == []
    kept = [(2, [delete(6)]), (1, [insert(6, "a")])]
    assert same(apart(masters(), kept)) == [(6, "a")]


def test_it_is_decided_row_by_row_also_inside_a_transaction() -> None:
    mesh = masters()
    writes = [(1, [replace(1, "a"), replace(2, "a")]), (2, [replace(2, "b"), replace(3, "b")])]
    assert same(apart(mesh, writes)) == [(1, "a"), (2, "b"), (3, "b")]


def test_a_row_that_loses_is_stored_as_it_came() -> None:
    """Same LSN, same bytes: acks, logs and further streams are as ever."""
    mesh = apart(masters(), [(2, [insert(6, "old")]), (1, [insert(6, "new")])])
    (sent,) = (txn for txn in mesh.members[2].wal if txn.origin == 2)
    (got,) = (txn for txn in mesh.members[1].wal if txn.origin == 2)
    assert got.data == sent.data
    assert mesh[1].conflicts_skipped == {}
    assert same(mesh) == [(6, "new")]
    assert_same_after_restart(mesh, 1)


# --- what is logged ---------------------------------------------------------------------------------------


def test_updates_and_upserts_are_logged_as_whole_tuples() -> None:
    """Else an instance that has another tuple would make another one of them."""
    mesh = masters()
    mesh.write_ops(1, [insert(6, 1), update(6, ("+", 2, 1)), upsert((6, 0), ("+", 2, 5))])
    mesh.settle()
    ops = mesh.members[1].wal[-1].ops
    assert [(op.type, op.value) for op in ops] == [
        (RowType.INSERT, (6, 1)),
        (RowType.REPLACE, (6, 2)),
        (RowType.REPLACE, (6, 7)),
    ]
    assert ops[0].stamp < ops[1].stamp < ops[2].stamp
    assert same(mesh) == [(6, 7)]


def test_what_changes_nothing_is_not_logged_but_a_deletion() -> None:
    mesh = masters()
    before = mesh[1].vclock
    for op in (update(6, ("=", 2, 1)),):
        assert mesh.committed(mesh.write_ops(1, [op]))
    mesh.settle()
    assert mesh[1].vclock == before
    mesh.write_ops(1, [delete(6)])
    mesh.settle()
    assert mesh[1].vclock != before


def test_a_client_hears_of_a_key_that_is_there() -> None:
    mesh = masters()
    mesh.write_ops(1, [insert(6)])
    mesh.settle()
    assert mesh.reason(mesh.write_ops(2, [insert(6)])) == "TUPLE_FOUND"


@pytest.mark.parametrize("kind", ["INSERT", "DELETE", "UPSERT"])
def test_a_stamp_is_read_as_it_was_written(kind: str) -> None:
    op = {"INSERT": insert(6, 1.5), "DELETE": delete(6), "UPSERT": upsert((6, 0), ("+", 2, 5))}[kind]
    made = row_body.stamped(op, 2**61 + 5)
    txn = xrow.encode_ops([made, made], InstanceId(1), Lsn(7), 0)
    (copy,) = xrow.decode_txns(txn.data)
    assert list(copy.ops) == [made, made]
    assert made._replace(stamp=0, raw=op.raw) == op


def test_a_stamp_that_nobody_gives_is_no_row() -> None:
    good = row_body.stamped(insert(6), 5)
    for raw in (
        good.raw.replace((5).to_bytes(8, "big"), (0).to_bytes(8, "big")),
        good.raw.replace((5).to_bytes(8, "big"), (2**62).to_bytes(8, "big")),
        good.raw.replace(b"\x04\xcf", b"\x05\xcf"),
        good.raw[:10],
    ):
        txn = xrow.encode_ops([good._replace(raw=raw)], InstanceId(1), Lsn(7), 0)
        with pytest.raises(DecodeError):
            xrow.decode_txns(txn.data)


# --- truncate ---------------------------------------------------------------------------------------------


def test_a_truncate_takes_what_is_older_and_leaves_what_is_newer() -> None:
    """In whatever order they meet."""
    truncate = encoded(schema_ops.truncate(masters()[1].memtx, ASYNC))
    writes = [(1, [insert(1, "old")]), (2, truncate), (1, [insert(2, "new")])]
    mesh = apart(masters(3), writes)
    assert same(mesh) == [(2, "new")]
    for number in list(mesh.members):
        assert_same_after_restart(mesh, number)


def test_a_truncate_in_the_transaction_that_begins_the_policy_takes_all() -> None:
    """There are no stamps yet by which some of it could stay."""
    mesh = Mesh(2)
    mesh.write_ops(1, [insert(1), insert(2)])
    mesh.settle()
    memtx = mesh[1].memtx
    alter = schema_ops.alter_space(memtx, "async", conflict=LWW)
    mesh.write_ops(1, encoded([*alter, *schema_ops.truncate(memtx, ASYNC)]))
    mesh.settle()
    assert stamps_of(mesh, 1).floor.time == 0 and same(mesh) == []
    for number in list(mesh.members):
        assert_same_after_restart(mesh, number)


# --- tombstones -------------------------------------------------------------------------------------------


def test_a_tombstone_goes_when_every_member_has_it() -> None:
    """Not before: while 3 is away, an older row of it may come."""
    mesh = masters(3)
    mesh.write_ops(1, [insert(6), insert(7)])
    mesh.settle()
    mesh.isolate(3)
    mesh.write_ops(3, [replace(6, "older")])
    mesh.now += 1
    mesh.write_ops(1, [delete(6), delete(7)])
    mesh.settle()
    assert set(stamps_of(mesh, 1).graves) == set(stamps_of(mesh, 2).graves) == {6, 7}
    mesh.heal()
    mesh.settle()
    assert same(mesh) == []
    mesh.write_ops(2, [replace(8, "x")])  # and its acks
    mesh.settle()
    for number in mesh.members:
        assert not stamps_of(mesh, number).graves
        assert mesh[number].memtx.catalog.tombstones.count == 0


def test_one_that_left_holds_no_tombstones() -> None:
    mesh = masters(3)
    mesh.isolate(3)
    mesh.write_ops(1, [insert(6)])
    mesh.write_ops(1, [delete(6)])
    mesh.settle()
    assert stamps_of(mesh, 1).graves
    mesh.write_ops(1, [row_body.dml_from_values(RowType.DELETE, 320, key=(3,))])
    mesh.settle()
    mesh.write_ops(1, [replace(8, "x")])
    mesh.settle()
    assert not stamps_of(mesh, 1).graves and not stamps_of(mesh, 2).graves


def test_beyond_the_limit_who_missed_deletions_is_refused() -> None:
    """Whether its row is older than a deletion cannot be told: it must join again. Newer rows are taken."""
    mesh = masters(2, limits=Limits(tombstones_max=1000, batch_ops_max=2000))
    mesh.isolate(2)
    mesh.write_ops(2, [replace(5000, "older")])
    mesh.write_ops(1, [delete(key) for key in range(1100)])
    mesh.settle()
    assert len(stamps_of(mesh, 1).graves) == 1000
    mesh.heal()
    mesh.settle()
    error = mesh.members[1].stopped[2]
    assert isinstance(error, TombstonesGone)
    assert error.details["at"] == "2:1" and error.details["key"] == "[5000]"
    assert 2 not in mesh.members[2].stopped
    assert_same_after_restart(mesh, 1)


@pytest.mark.effect_of("limits.tombstones_max")
def test_fewer_deletions_are_remembered_from_now_on() -> None:
    """Tombstones.N1 holds at once: the oldest ones go with the change."""
    mesh = masters(2, limits=Limits(tombstones_max=2000, batch_ops_max=2000))
    mesh.isolate(2)
    mesh.write_ops(1, [delete(key) for key in range(1100)])
    mesh.settle()
    assert len(stamps_of(mesh, 1).graves) == 1100
    limits = Limits(tombstones_max=1000, batch_ops_max=2000)
    mesh.step(1, ev.SettingsChanged(dataclasses.replace(mesh[1].state.settings, limits=limits)))
    assert len(stamps_of(mesh, 1).graves) == 1000


def test_acks_settle_only_with_all_that_was_on_disk_there() -> None:
    """Settled.S1: a row of 2 that is older than the deletion is on its way to 1."""
    settled = Settled()
    others = frozenset({InstanceId(2), InstanceId(3)})

    def clock(**lsns: int) -> Vclock:
        return Vclock({InstanceId(int(name[1:])): Lsn(lsn) for name, lsn in lsns.items()})

    settled.acked(InstanceId(2), clock(i1=5, i2=9))
    settled.acked(InstanceId(3), clock(i1=5))
    assert settled.look(clock(i1=6, i2=8), others) is None
    settled.acked(InstanceId(2), clock(i1=6, i2=10))  # a newer one does not take its place
    assert settled.look(clock(i1=6, i2=9), others) == {1: 5, 2: 0}
    stayed = frozenset({InstanceId(2)})
    assert settled.look(clock(i1=7, i2=10), stayed) is None  # Settled.S2
    settled.acked(InstanceId(2), clock(i1=6, i2=10))
    assert settled.look(clock(i1=7, i2=10), stayed) is None
    settled.acked(InstanceId(2), clock(i1=7, i2=10))
    assert settled.look(clock(i1=7, i2=10), stayed) == {1: 7, 2: 10}
    assert Settled().look(clock(i1=7), frozenset()) == {1: 7}


def test_who_subscribes_anew_may_have_lost_what_it_said_before() -> None:
    """Settled.S1: an ack of its former life does not count for its new one."""
    mesh = masters(3)
    mesh.isolate(2)
    mesh.write_ops(1, [delete(6)])
    mesh.settle()
    mesh.isolate(3)
    lost = ev.Ack(Vclock(), mesh[3].raft.term, counts=False)
    mesh.step(1, ev.RelayConnected(InstanceId(3), lost, True, True))
    mesh.join(1, 2)
    mesh.settle()
    assert mesh[2].vclock.covers(mesh[1].vclock) and stamps_of(mesh, 1).graves

    settled, two = Settled(), frozenset({InstanceId(2)})
    clock = Vclock({InstanceId(1): Lsn(5)})
    settled.acked(InstanceId(2), clock)
    assert settled.look(clock, two) == {1: 5}
    settled.began_anew(InstanceId(2))
    three = frozenset({InstanceId(2), InstanceId(3)})
    settled.acked(InstanceId(3), clock)
    assert settled.look(clock, three) is None
    settled.acked(InstanceId(2), Vclock({InstanceId(1): Lsn(4)}))
    assert settled.look(clock, three) == {1: 4}


def test_nobody_uses_up_all_stamps() -> None:
    """A row that none could follow stops its stream; whoever has one in its log writes no more of them."""
    mesh = masters(2)
    poison = row_body.stamped(insert(6), row_body.STAMP_END - 1)
    with pytest.raises(Unsupported):
        mesh[1].memtx.prepare([poison], from_peer=True, origin=InstanceId(2))
    mesh[2].memtx.clock.saw(row_body.STAMP_END - 1)
    call = mesh.write_ops(2, [insert(6)])
    assert mesh.reason(call) == "UNSUPPORTED"
    call = mesh.write_ops(1, [insert(6)])
    mesh.settle()
    assert mesh.committed(call) and len(same(mesh)) == 1


def test_a_key_that_came_back_is_not_forgotten_with_its_former_deletion() -> None:
    tombstones = Tombstones()
    stamps = Stamps(tombstones)
    stamps.take("k", Stamp(1, 1), Lsn(1), is_deleted=True)
    stamps.take("k", Stamp(2, 1), Lsn(2), is_deleted=False)
    stamps.take("j", Stamp(3, 1), Lsn(3), is_deleted=True)
    stamps.take("j", Stamp(4, 2), Lsn(3), is_deleted=True)
    tombstones.settled({InstanceId(1): Lsn(3)})
    assert stamps.known == {"k": Stamp(2, 1), "j": Stamp(4, 2)}
    tombstones.settled({InstanceId(2): Lsn(3)})
    assert stamps.known == {"k": Stamp(2, 1)} and tombstones.count == 0


def test_very_many_tombstones_go_a_few_at_a_time() -> None:
    """Tombstones.N2: a member that was away for a day acks, or the limit is lowered. A million took a second
    and more, in which nobody was heard."""
    for way in ("settled", "limit"):
        tombstones = Tombstones()
        stamps = Stamps(tombstones)
        total = 4 * FORGOTTEN_AT_ONCE
        for lsn in range(1, total + 1):
            stamps.take(lsn, Stamp(lsn, 1), Lsn(lsn), is_deleted=True)
        if way == "settled":
            tombstones.settled({InstanceId(1): Lsn(total - 1)})
        else:
            tombstones.limit(1)
        assert tombstones.count == total - FORGOTTEN_AT_ONCE
        stamps.take("next", Stamp(total + 1, 2), Lsn(1), is_deleted=True)
        assert tombstones.count == total - FORGOTTEN_AT_ONCE - 1
        while tombstones.is_behind:
            tombstones.go_on(1000)
        assert (tombstones.count, len(stamps.known)) == ((2, 2) if way == "settled" else (1, 1))
        assert stamps.forgotten == (UNKNOWN if way == "settled" else Stamp(total, 1))
        stamps.check({})


def test_who_frees_memory_forgets_tombstones_too() -> None:
    """Until nothing is left to do; the shell asks as long as there is."""
    mesh = masters(2)
    memtx = mesh[1].memtx
    stamps = memtx.catalog.store(ASYNC).stamps
    assert stamps is not None
    for lsn in range(1, 2 * FORGOTTEN_AT_ONCE):
        stamps.take(lsn, Stamp(lsn, 2), Lsn(lsn), is_deleted=True)
    while not memtx.free(1000):
        pass
    memtx.catalog.tombstones.settled({InstanceId(2): Lsn(2 * FORGOTTEN_AT_ONCE)})
    assert memtx.has_dead
    while not memtx.free(1000):
        assert memtx.has_dead
    assert (memtx.has_dead, memtx.catalog.tombstones.count) == (False, 0)


# --- the change of policy ---------------------------------------------------------------------------------


def test_rows_from_before_the_policy_are_older_than_all_that_came_since() -> None:
    """stamps.G3: 2 wrote them while 1 had the policy already. Where nothing newer is known they mean what
    they meant."""
    mesh = Mesh(2)
    mesh.write_ops(1, [insert(1, "a"), insert(2, "a"), insert(3, "a")])
    mesh.settle()
    mesh.isolate(2)
    mesh.write_ops(2, [replace(1, "before"), update(2, ("=", 2, "before")), insert(4, "before")])
    alter = encoded(schema_ops.alter_space(mesh[1].memtx, "async", conflict=LWW))
    mesh.step(1, ev.ClockCompared(HOUR_US))
    mesh.write_ops(1, alter)
    mesh.settle()
    mesh.write_ops(1, [replace(1, "since"), delete(4)])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert same(mesh) == [(1, "since"), (2, "before"), (3, "a")]
    for number in list(mesh.members):
        assert_same_after_restart(mesh, number)


def before_the_policy(*ops: Sequence[Dml], **options: object) -> Mesh:
    """2 does each of these, alone, while only 1 has the policy; they have not met since."""
    mesh = Mesh(2, **options)
    mesh.isolate(2)
    for each in ops:
        mesh.write_ops(2, each)
        mesh.settle()
    for number in mesh.members:
        mesh.step(number, ev.ClockCompared(HOUR_US))
    mesh.write_ops(1, encoded(schema_ops.alter_space(mesh[1].memtx, "async", conflict=LWW)))
    mesh.settle()
    assert mesh[1].memtx.catalog.store(ASYNC).stamps is not None
    return mesh


def test_each_truncate_from_before_the_policy_takes_what_came_before_it() -> None:
    """All of them are of one time."""
    truncate = encoded(schema_ops.truncate(Mesh(1)[1].memtx, ASYNC))
    mesh = before_the_policy([insert(1)], truncate, [insert(2)], truncate, [insert(3)])
    mesh.write_ops(1, [insert(9)])
    mesh.heal()
    mesh.settle()
    assert [row[0] for row in same(mesh)] == [3, 9]
    for number in list(mesh.members):
        assert_same_after_restart(mesh, number)


def test_a_row_from_before_the_policy_is_older_than_deletions_that_are_forgotten() -> None:
    """It would come back on one instance only."""
    limits = Limits(tombstones_max=1000, batch_ops_max=2000)
    mesh = before_the_policy([insert(5000)], limits=limits)
    mesh.write_ops(1, [delete(5000), *(delete(key) for key in range(1100))])
    mesh.heal()
    mesh.settle()
    assert isinstance(mesh.members[1].stopped[2], TombstonesGone)
    assert mesh.rows(1, ASYNC) == []
    assert_same_after_restart(mesh, 1)


def test_a_tuple_that_is_there_was_not_deleted_since() -> None:
    """Nobody need know its stamp: it is from before the policy, and deletions of others were forgotten."""
    mesh = Mesh(2, limits=Limits(tombstones_max=1000, batch_ops_max=2000))
    mesh.write_ops(1, [insert(5000, "first")])
    mesh.settle()
    set_policy(mesh, LWW)
    for number in mesh.members:
        mesh.step(number, ev.ClockCompared(HOUR_US))
    mesh.isolate(2)
    mesh.write_ops(2, [replace(5000, "second")])
    mesh.now += 1
    mesh.write_ops(1, [delete(key) for key in range(1100)])
    mesh.heal()
    mesh.settle()
    assert same(mesh) == [(5000, "second")]


@pytest.mark.parametrize("change", [{2: "key"}, {3: "hash"}])
def test_another_name_or_type_of_the_primary_index_leaves_stamps_as_they_are(change: dict[int, str]) -> None:
    """The keys are the same, so 3, which was away, still loses."""
    mesh = masters(3)
    mesh.isolate(3)
    mesh.write_ops(3, [replace(6, "older"), replace(7, "older")])
    mesh.now += 1
    mesh.write_ops(1, [replace(6, "newer"), delete(7)])
    old = mesh[1].memtx.get(schema.INDEX_ID, 0, (ASYNC, 0))
    assert old is not None
    new = tuple(change.get(at, field) for at, field in enumerate(old))
    mesh.write_ops(1, [row_body.dml_from_values(RowType.REPLACE, schema.INDEX_ID, value=new)])
    mesh.settle()
    assert mesh[1].memtx.get(schema.INDEX_ID, 0, (ASYNC, 0)) == new
    mesh.heal()
    mesh.settle()
    assert same(mesh) == [(6, "newer")]
    for number in list(mesh.members):
        assert_same_after_restart(mesh, number)


def test_without_the_policy_stamps_mean_nothing_any_more() -> None:
    mesh = masters()
    mesh.write_ops(1, [insert(6, "a")])
    mesh.settle()
    set_policy(mesh, "stop")
    mesh.write_ops(2, [replace(6, "b")])
    mesh.settle()
    assert same(mesh) == [(6, "b")]
    assert mesh[1].memtx.catalog.store(ASYNC).stamps is None
    assert_same_after_restart(mesh, 1)


def test_a_snapshot_without_stamps_is_as_it_ever_was() -> None:
    """An older version reads it: the way back is to set the policy to stop, and to write snapshots."""
    mesh = masters()
    mesh.write_ops(1, [insert(6, "a"), delete(7)])
    mesh.settle()
    assert schema.MARKS_ID in dict(mesh[1].memtx.freeze())
    set_policy(mesh, "stop")
    assert schema.MARKS_ID not in dict(mesh[1].memtx.freeze())
    assert schema.MARKS_ID not in dict(Mesh(1)[1].memtx.freeze())


@pytest.mark.parametrize("order", ["index first", "policy first"])
def test_refused_with_unique_secondary_indexes(order: str) -> None:
    """Which of two tuples has the key would depend on the order."""
    mesh = Mesh(2)
    memtx = mesh[1].memtx
    unique = encoded(schema_ops.create_index(memtx, "async", "second", parts=((2, "string"),)))
    policy = encoded(schema_ops.alter_space(memtx, "async", conflict=LWW))
    first, then = (unique, policy) if order == "index first" else (policy, unique)
    mesh.write_ops(1, first)
    mesh.settle()
    assert mesh.reason(mesh.write_ops(1, then)) == "ILLEGAL_PARAMS"


def test_the_primary_key_stays_as_it_is() -> None:
    mesh = masters()
    op = row_body.dml_from_values(
        RowType.UPDATE, 288, key=(ASYNC, 0), ops=(("=", 6, ({"field": 1, "type": "unsigned"},)),)
    )
    assert mesh.reason(mesh.write_ops(1, [op])) == "ILLEGAL_PARAMS"


def test_the_primary_index_goes_with_its_space_only() -> None:
    """With it would go all stamps, on each master at another moment of the rows of the others."""
    mesh = masters()
    memtx = mesh[1].memtx
    drop = encoded(schema_ops.drop_index(memtx, "async", 0))
    refused = mesh.write_ops(1, drop)
    assert mesh.reason(refused) == "ILLEGAL_PARAMS"
    other = row_body.dml_from_values(
        RowType.INSERT,
        288,
        value=(ASYNC, 0, "again", "tree", {"unique": True}, ({"field": 1, "type": "unsigned"},)),
    )
    assert mesh.reason(mesh.write_ops(1, [*drop, other])) == "ILLEGAL_PARAMS"
    mesh.write_ops(1, encoded(schema_ops.alter_space(memtx, "async", conflict="stop")))
    mesh.settle()
    mesh.write_ops(1, encoded(schema_ops.drop_index(memtx, "async", 0)))
    mesh.settle()
    assert all(not mesh[number].memtx.catalog.indexes("async") for number in mesh.members)


def test_a_space_of_that_kind_can_be_dropped() -> None:
    mesh = masters()
    mesh.write_ops(1, encoded(schema_ops.drop_space(mesh[1].memtx, "async")))
    mesh.settle()
    assert all("async" not in {one.name for one in mesh[n].memtx.catalog.spaces()} for n in mesh.members)


# --- with an owner of the queue ---------------------------------------------------------------------------


def test_what_is_rolled_back_wins_over_nothing() -> None:
    """1 is deposed with a newer row of its own in the queue; a row of 2 came meanwhile."""
    mesh = masters(3)
    mesh.write_ops(2, [insert(6, "two")])
    mesh.promote(1)
    mesh.isolate(1)
    mesh.now += 1
    mesh.write_ops(1, [insert(1, space=SYNC), replace(6, "dropped"), delete(7)])
    mesh.persist(1)
    assert mesh[1].memtx.catalog.store(ASYNC).has_pending
    mesh.promote(2)
    mesh.write_ops(2, [insert(7, "kept")])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert same(mesh) == [(6, "two"), (7, "kept")]
    for number in list(mesh.members):
        assert_same_after_restart(mesh, number)


# --- tombstones over a restart --------------------------------------------------------------------------


def deletions(mesh: Mesh, number: int, keys: range) -> None:
    """In transactions of a hundred."""
    for first in keys[::100]:
        mesh.write_ops(number, [delete(key) for key in range(first, first + 100)])
        mesh.settle()


def pass_time(mesh: Mesh) -> None:
    for _ in range(5):
        mesh.now += 1
        mesh.settle()


@pytest.mark.parametrize("key", [5, 77_777])
@pytest.mark.parametrize("restarts", ["before they meet", "at the end", "all of them"])
def test_a_restart_forgets_no_tombstone_for_those_that_are_settled(key: int, restarts: str) -> None:
    """Tombstones.N3, [stamps.G2]: more deletions lie in the log than the limit, of which most were settled.
    The older row of 5 must not come back, and that of a key that nobody deleted must not stop a stream."""
    mesh = masters(3, limits=Limits(tombstones_max=1000, batch_ops_max=2000))
    deletions(mesh, 1, range(10_000, 10_800))
    pass_time(mesh)
    mesh.isolate(3)
    mesh.now += 1
    mesh.write_ops(3, [insert(key, "old")])
    mesh.settle()
    mesh.now += 1
    deletions(mesh, 2, range(5, 905))
    if restarts == "before they meet":
        mesh.crash(1)
        mesh.restart(1)
    mesh.heal()
    pass_time(mesh)
    if restarts != "before they meet":
        for number in (1,) if restarts == "at the end" else (1, 2, 3):
            mesh.crash(number)
            mesh.restart(number)
            mesh.settle()
    pass_time(mesh)
    assert [mesh.rows(number, ASYNC) for number in (1, 2, 3)] == [[] if key == 5 else [(key, "old")]] * 3
    assert not any(member.stopped for member in mesh.members.values())
    tombstones = mesh[1].memtx.catalog.tombstones
    assert tombstones.count_max == 1000


def test_a_tombstone_that_goes_between_prepare_and_commit_still_counts() -> None:
    """[stamps.G1]: an older row was compared with it when it came; the limit makes it go before it is
    committed."""
    mesh = masters(2, limits=Limits(tombstones_max=1000, batch_ops_max=2000))
    mesh.isolate(1)
    mesh.now += 1
    mesh.write_ops(1, [insert(5, "old")])
    mesh.settle()
    mesh.now += 1
    deletions(mesh, 2, range(5, 905))
    mesh.heal()
    mesh.write_ops(2, [delete(key) for key in range(5000, 5150)])  # on its way to disk
    mesh.deliver(1, 2)
    mesh.settle()
    pass_time(mesh)
    assert mesh.rows(1, ASYNC) == mesh.rows(2, ASYNC)
