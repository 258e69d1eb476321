"""Writes of several callers in one transaction of the log (ADR 13): who shares, who does not, who hears what.

Nobody can tell by what he is told: each has an LSN, a tuple and a fate of his own, as if he were alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgpack
import pytest

from synchro.config import Limits, QuorumFormula
from synchro.errors import WalIo
from synchro.ids import CallId, InstanceId, Lsn, RequestId, Term
from synchro.instance import events as ev
from synchro.row import Field, RowType, Txn, TxnId
from synchro.server import info
from synchro.storage import row_body, schema, schema_ops
from synchro.vclock import Vclock
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh

ONE = InstanceId(1)


def rid(number: int) -> RequestId:
    return RequestId(number.to_bytes(16, "big"))


def promoted_mesh(members: int = 3, **settings: object) -> Mesh:
    mesh = Mesh(members, **settings)
    mesh.promote(1)
    return mesh


def put_all(
    mesh: Mesh,
    values: Sequence[tuple[Field, ...]],
    *,
    to: int = 1,
    space: int = SYNC,
    kind: RowType = RowType.REPLACE,
    first_id: int = 1,
    request_ids: Sequence[RequestId] | None = None,
    positions: Sequence[ev.Position | None] | None = None,
) -> list[CallId]:
    """One caller for each tuple; all arrive in one frame. Their request ids count from `first_id`."""
    calls = [mesh.call_id() for _ in values]
    puts = row_body.insert_all(kind, space, [msgpack.packb(value) for value in values])
    ids = request_ids or [rid(first_id + n) for n in range(len(values))]
    mesh.step(to, ev.ClientPuts(calls, puts, ids, positions or [None] * len(values)))
    return calls


def numbered(count: int, text: str = "v", first: int = 1) -> list[tuple[int, str]]:
    return [(first + n, text) for n in range(count)]


def logged(mesh: Mesh, number: int = 1) -> list[Txn]:
    """Transactions of the space `sync` in its log."""
    return [txn for txn in mesh.members[number].wal if any(op.space_id == SYNC for op in txn.ops)]


def shapes(mesh: Mesh, number: int = 1) -> list[int]:
    """How many callers each of them has."""
    return [txn.call_count for txn in logged(mesh, number)]


def told(mesh: Mesh, calls: Sequence[CallId]) -> list[Lsn]:
    """LSNs that the callers were told with their commit."""
    lsns = []
    for call in calls:
        outcome = mesh.outcome(call)
        assert isinstance(outcome, ev.Committed), outcome
        assert outcome.txn is not None and outcome.txn.origin == 1
        lsns.append(outcome.txn.lsn)
    return lsns


def tuples(mesh: Mesh, calls: Sequence[CallId]) -> list[tuple[object, ...]]:
    """What each was answered with."""
    found: list[tuple[object, ...]] = []
    for call in calls:
        outcome = mesh.outcome(call)
        assert isinstance(outcome, ev.Committed), outcome
        found.append(tuple(outcome.tuples))
    return found


def reasons(mesh: Mesh, calls: Sequence[CallId]) -> list[str]:
    return [mesh.reason(call) for call in calls]


def wait_for(
    mesh: Mesh, number: int, *, txn: TxnId | None = None, request_id: RequestId | None = None
) -> CallId:
    call = mesh.call_id()
    mesh.step(number, ev.WaitRequested(call, txn, request_id))
    return call


def retry(mesh: Mesh, number: int, value: tuple[Field, ...], request_id: RequestId, to: int = 1) -> CallId:
    return mesh.write(to, value, kind=RowType.INSERT, request_id=request_id)


# --- who shares -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RowType.INSERT, RowType.REPLACE])
def test_callers_of_one_frame_share_a_transaction_and_each_hears_its_own_row(kind: RowType) -> None:
    """ADR 13, [Q-20]: one entry, one TSN, an LSN and an id for each; decided for all by one ack."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5), kind=kind)
    (txn,) = logged(mesh)
    assert (txn.is_shared, txn.row_count, len(mesh[1].limbo), mesh[1].limbo.count) == (True, 5, 1, 5)
    assert list(txn.requests()) == [(rid(1 + n), txn.tsn + n) for n in range(5)]
    mesh.persist(1)
    assert all(mesh.outcome(call) is None for call in calls)
    assert mesh.rows(1) == []  # not visible while it waits
    mesh.settle()
    assert told(mesh, calls) == [txn.tsn + n for n in range(5)]
    assert tuples(mesh, calls) == [((n, "v"),) for n in range(1, 6)]
    assert all(outcome.is_sync for outcome in map(mesh.outcome, calls) if isinstance(outcome, ev.Committed))
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3) == numbered(5)


def test_followers_have_the_same_rows_checksums_and_request_records() -> None:
    """S10: bytes travel as they are, and every instance makes the same table of them."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(6))
    mesh.settle()
    lsns = told(mesh, calls)
    for number in (1, 2, 3):
        assert [txn.data for txn in logged(mesh, number)] == [txn.data for txn in logged(mesh)]
        assert mesh[number].memtx.checksum(SYNC) == mesh[1].memtx.checksum(SYNC)
        assert mesh[number].vclock.without_local() == mesh[1].vclock.without_local()
    mesh.crash(1)
    mesh.promote(2)
    for n, lsn in enumerate(lsns):
        outcome = mesh.outcome(retry(mesh, 2, (n, "again"), rid(1 + n), to=2))
        assert outcome == ev.Committed(TxnId(ONE, lsn), duplicate=True)


def test_fewer_than_it_is_worth_go_one_by_one() -> None:
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(ev.SHARED_MIN - 1))
    mesh.settle()
    assert shapes(mesh) == [1] * (ev.SHARED_MIN - 1)
    assert sorted(told(mesh, calls)) == told(mesh, calls)


def test_more_than_a_transaction_may_hold_become_several() -> None:
    """Each is within `batch_ops_max`, as if a client had sent it."""
    mesh = promoted_mesh(limits=Limits(batch_ops_max=10))
    calls = put_all(mesh, numbered(35))
    assert sum(shapes(mesh)) == 35
    assert 4 <= len(shapes(mesh)) <= 8 and max(shapes(mesh)) <= 10
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == list(range(lsns[0], lsns[0] + 35))


def test_more_bytes_than_a_transaction_may_hold_become_several() -> None:
    mesh = promoted_mesh(limits=Limits(txn_bytes_max=400))
    calls = put_all(mesh, numbered(16, "x" * 50))
    assert sum(shapes(mesh)) == 16 and len(shapes(mesh)) > 1
    assert all(sum(len(op.raw) for op in txn.ops) <= 400 for txn in logged(mesh))
    mesh.settle()
    assert len(told(mesh, calls)) == 16


def test_a_frame_of_thousands_is_one_step() -> None:
    """More than a frame may bring, so that a larger limit of it would not be the first to find out."""
    mesh = promoted_mesh(limits=Limits(batch_ops_max=10_000))
    calls = put_all(mesh, numbered(5000), kind=RowType.INSERT)
    assert shapes(mesh) == [5000]
    mesh.settle()
    assert told(mesh, calls) == list(range(logged(mesh)[0].tsn, logged(mesh)[0].tsn + 5000))
    assert mesh[2].memtx.checksum(SYNC) == mesh[1].memtx.checksum(SYNC)


def test_a_set_of_one_shares_as_well() -> None:
    """[Q-23]: its quorum is its own disk."""
    mesh = promoted_mesh(1)
    calls = put_all(mesh, numbered(4))
    mesh.persist(1)
    assert len(told(mesh, calls)) == 4 and shapes(mesh) == [4]


# --- keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(9))
def test_a_key_that_is_taken_refuses_its_caller_alone(place: int) -> None:
    """W2: who is refused goes alone, without LSN and id; the others commit, in order."""
    mesh = promoted_mesh()
    mesh.write(1, (1 + place, "old"))
    mesh.settle()
    calls = put_all(mesh, numbered(9), kind=RowType.INSERT)
    mesh.settle()
    refused = calls.pop(place)
    assert mesh.reason(refused) == "TUPLE_FOUND"
    lsns = told(mesh, calls)
    assert lsns == list(range(lsns[0], lsns[0] + 8))
    assert mesh.rows(2) == [(n, "old" if n == 1 + place else "v") for n in range(1, 10)]
    assert mesh.outcome(wait_for(mesh, 1, request_id=rid(1 + place))) == ev.FateKnown(ev.Fate.UNKNOWN)


def test_the_second_insert_of_a_key_in_one_frame_is_refused_when_the_first_is_decided() -> None:
    """ADR 7: no error shows unconfirmed data, also that of a neighbour."""
    mesh = promoted_mesh()
    values = [*numbered(8), (3, "second"), *numbered(8, first=9)]
    calls = put_all(mesh, values, kind=RowType.INSERT)
    assert mesh.outcome(calls[8]) is None
    mesh.settle()
    assert mesh.reason(calls.pop(8)) == "TUPLE_FOUND"
    assert len(told(mesh, calls)) == 16
    assert mesh.rows(1) == numbered(16)


@pytest.mark.parametrize("gap", [1, 2, 5, 15])
def test_the_last_of_two_replaces_of_a_key_in_one_frame_wins(gap: int) -> None:
    """Calls of a frame run in order; both are done."""
    mesh = promoted_mesh()
    values = numbered(16)
    values[gap] = (1, "last")
    calls = put_all(mesh, values)
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == sorted(set(lsns))
    assert (1, "last") in mesh.rows(1) and mesh.rows(1) == mesh.rows(2)


def test_many_replaces_of_one_key_are_all_done_in_order() -> None:
    mesh = promoted_mesh()
    calls = put_all(mesh, [(1, n) for n in range(20)])
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == list(range(lsns[0], lsns[0] + 20))
    assert mesh.rows(1) == mesh.rows(2) == [(1, 19)]


def test_a_tuple_of_the_wrong_form_refuses_its_caller_alone() -> None:
    """[A-32]: a key of another type."""
    mesh = promoted_mesh()
    values: list[tuple[Field, ...]] = [*numbered(8)]
    values[5] = ("text", "v")
    calls = put_all(mesh, values)
    mesh.settle()
    assert mesh.reason(calls.pop(5)) == "FIELD_TYPE"
    assert len(told(mesh, calls)) == 7


def test_later_writes_on_keys_of_a_pending_shared_transaction_rest_on_it() -> None:
    """ADR 7: a refusal is told when it commits; a change of its tuple follows it in the queue."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(4), kind=RowType.INSERT)
    refused = mesh.write(1, (2, "other"), kind=RowType.INSERT)
    update = mesh.write_ops(
        1, [row_body.dml_from_values(RowType.UPDATE, SYNC, key=(3,), ops=[("=", 2, "updated")])]
    )
    more = put_all(mesh, [(n, "again") for n in (4, 20, 21, 22, 23)], kind=RowType.REPLACE, first_id=50)
    assert all(mesh.outcome(call) is None for call in (refused, update, *more))
    mesh.settle()
    assert mesh.reason(refused) == "TUPLE_FOUND"
    assert mesh.committed(update), mesh.outcome(update)
    assert len(told(mesh, [*calls, *more])) == 9
    assert mesh.rows(2)[:4] == [(1, "v"), (2, "v"), (3, "updated"), (4, "again")]


def test_refusals_that_rested_on_a_rolled_back_shared_transaction_are_conflicts() -> None:
    """ADR 7."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    calls = put_all(mesh, numbered(4), kind=RowType.INSERT)
    refused = put_all(mesh, numbered(4, "other"), kind=RowType.INSERT, first_id=50)
    mesh.settle()
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert reasons(mesh, calls) == ["SYNC_ROLLBACK"] * 4
    assert reasons(mesh, refused) == ["TRANSACTION_CONFLICT"] * 4
    mesh[1].memtx.check()


# --- who does not share ---------------------------------------------------------------------------------


def test_asynchronous_spaces_are_not_shared() -> None:
    """[A-35]: a conflict may drop one, and must not drop its neighbours."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(8), space=ASYNC)
    mesh.settle()
    assert all(txn.call_count == 1 for txn in mesh.members[1].wal)
    assert all(mesh.committed(call) for call in calls)
    assert mesh.rows(2, ASYNC) == numbered(8)


def test_local_spaces_are_not_shared() -> None:
    """[L-22]: also where nothing else is writable."""
    mesh = promoted_mesh()
    for number in (1, 2):
        calls = put_all(mesh, numbered(8), space=LOCAL_SPACE, to=number, first_id=number * 100)
        mesh.persist(number)
        assert all(mesh.committed(call) for call in calls)
        assert mesh.rows(number, LOCAL_SPACE) == numbered(8)
        assert all(txn.call_count == 1 for txn in mesh.members[number].wal)


def test_temporary_spaces_are_not_shared() -> None:
    """[D-4]: nothing of them is logged."""
    mesh = promoted_mesh()
    mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "temp", temporary=True))
    mesh.settle()
    mesh.write_ops(1, schema_ops.create_index(mesh[1].memtx, "temp", "primary"))
    mesh.settle()
    space = mesh[1].memtx.catalog.space("temp").id
    before = len(mesh.members[1].wal)
    calls = put_all(mesh, numbered(8), space=space)
    assert tuples(mesh, calls) == [(value,) for value in numbered(8)]
    assert len(mesh.members[1].wal) == before and mesh.rows(1, space) == numbered(8)


@pytest.mark.parametrize("is_unique", [True, False])
def test_a_second_unique_index_is_looked_at_row_by_row(is_unique: bool) -> None:
    """[D-9]: two callers may collide in it with different primary keys; whoever came first has the value."""
    mesh = promoted_mesh()
    parts = ({"field": 2, "type": "string"},)
    mesh.write_ops(1, schema_ops.create_index(mesh[1].memtx, "sync", "second", unique=is_unique, parts=parts))
    mesh.settle()
    values = [(n, f"text {n}") for n in range(8)]
    values[5] = (5, "text 2")
    calls = put_all(mesh, values, kind=RowType.INSERT)
    assert shapes(mesh) == ([1] * 7 if is_unique else [8])
    mesh.settle()
    if is_unique:
        assert mesh.reason(calls.pop(5)) == "TUPLE_FOUND"
    assert len(told(mesh, calls)) == len(calls)
    assert len(mesh.rows(2)) == len(calls)
    mesh[2].memtx.check()


def test_an_unknown_space_refuses_every_caller() -> None:
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(8), space=999)
    assert reasons(mesh, calls) == ["NO_SUCH_SPACE"] * 8
    assert mesh[1].vclock == mesh[1].volatile_vclock


def test_members_are_not_registered_together() -> None:
    """Rows of system spaces have a meaning and are looked at one by one."""
    mesh = promoted_mesh()
    calls = put_all(mesh, [(1, 2), (2, 3), (3, 4), (4, 5)], space=schema.CLUSTER_ID)
    assert len(reasons(mesh, calls)) == 4
    assert mesh[1].vclock == mesh[1].volatile_vclock


def test_who_may_not_write_refuses_every_caller() -> None:
    """[E-40], [E-41], [Q-13]."""
    mesh = Mesh(3)
    assert reasons(mesh, put_all(mesh, numbered(5))) == ["SYNC_QUEUE_UNCLAIMED"] * 5
    mesh.promote(1)
    refused = put_all(mesh, numbered(5), to=2)
    assert reasons(mesh, refused) == ["READ_ONLY"] * 5
    outcome = mesh.outcome(refused[3])
    assert isinstance(outcome, ev.Rejected) and outcome.error.details["owner"] == "1"
    few = promoted_mesh(1, synchro_quorum=QuorumFormula(2))
    assert reasons(few, put_all(few, numbered(5))) == ["QUORUM_WAIT"] * 5


# --- room -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 50, 100, 200, 400, 700, 800, 839, 840, 1000])
def test_the_limit_of_the_queue_is_passed_by_no_more_than_by_single_writes(limit: int) -> None:
    """[Q-46], [Q-5]: a write begins while there is room, so the last one alone may pass the limit."""
    one = promoted_mesh()
    one.write(1, (1, "v"), request_id=rid(1))
    size = one[1].limbo.size
    mesh = promoted_mesh(synchro_queue_max_size=limit)
    mesh.isolate(1)
    calls = put_all(mesh, numbered(20))
    assert mesh[1].limbo.size < limit + size
    assert mesh[1].waiting_unprepared == 20 - mesh[1].limbo.count
    mesh.heal()
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == sorted(set(lsns))
    assert mesh.rows(2) == numbered(20)


@pytest.mark.parametrize("limit", [1, 100, 300, 600, 800, 850, 900, 950, 1000])
def test_the_limit_of_the_wal_queue_is_passed_by_no_more_than_by_single_writes(limit: int) -> None:
    """[W-16]."""
    one = promoted_mesh()
    one.write(1, (1, "v"), request_id=rid(1))
    size = len(logged(one)[0].data)
    mesh = promoted_mesh(limits=Limits(wal_queue_bytes_max=limit))
    calls = put_all(mesh, numbered(20))
    assert sum(len(txn.data) for txn in logged(mesh)) < limit + size
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == sorted(set(lsns))


@pytest.mark.parametrize("limit", range(50, 450, 50))
def test_nobody_overtakes_a_neighbour_that_waits_for_room(limit: int) -> None:
    """W1: calls of one frame run in order, whichever part of them could share; the last value stays."""
    mesh = promoted_mesh(synchro_queue_max_size=limit)
    mesh.isolate(1)
    before = mesh.write(1, (1, "pending"))  # whoever changes this key goes alone
    values = [(1, "x"), (2, "x"), (3, "x"), (4, "first"), (4, "second"), (5, "x"), (6, "x"), (7, "x")]
    calls = put_all(mesh, values)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    lsns = told(mesh, [before, *calls])
    assert lsns == sorted(set(lsns))
    assert (4, "second") in mesh.rows(1)
    assert mesh.rows(1) == mesh.rows(2)


@pytest.mark.parametrize("limit", range(1800, 2500, 40))
def test_nobody_overtakes_a_neighbour_that_waits_for_the_disk(limit: int) -> None:
    """W1, [W-16]: the same where what is on its way to disk is limited."""
    mesh = promoted_mesh(limits=Limits(wal_queue_bytes_max=limit))
    before = mesh.write(1, (40, "pending"))  # whoever changes this key, and five around him, go alone
    values = numbered(48)
    values[41], values[42] = (99, "first"), (99, "second")
    calls = put_all(mesh, values)
    mesh.settle()
    lsns = told(mesh, [before, *calls])
    assert lsns == sorted(set(lsns))
    assert (99, "second") in mesh.rows(1)
    assert mesh.rows(1) == mesh.rows(2)


def test_who_comes_while_others_wait_for_room_waits_behind_them() -> None:
    """W1."""
    mesh = promoted_mesh(2, synchro_queue_max_size=1)
    mesh.crash(2)
    first, second = mesh.write(1, (1, "a")), mesh.write(1, (2, "a"))
    calls = put_all(mesh, numbered(5, "b"))
    assert mesh[1].waiting_unprepared == 6
    mesh.step(1, ev.CallExpired(calls[2]))
    assert mesh.reason(calls.pop(2)) == "SYNC_QUEUE_FULL"
    mesh.restart(2)
    mesh.settle()
    lsns = told(mesh, [first, second, *calls])
    assert lsns == sorted(lsns)
    assert mesh.rows(1) == [(1, "b"), (2, "b"), (4, "b"), (5, "b")]


def test_a_definition_on_its_way_holds_all_of_them_back() -> None:
    """ADR 7: rows never meet a schema that may still vanish."""
    mesh = promoted_mesh(2, synchro_quorum=QuorumFormula(2))
    mesh.crash(2)
    ddl = mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "later", is_sync=True))
    calls = put_all(mesh, numbered(5))
    mesh.settle()
    assert mesh[1].waiting_unprepared == 5
    mesh.restart(2)
    mesh.settle()
    assert mesh.committed(ddl) and len(told(mesh, calls)) == 5


def test_a_definition_waits_for_a_pending_shared_transaction() -> None:
    """ADR 7."""
    mesh = promoted_mesh(2, synchro_quorum=QuorumFormula(2))
    mesh.crash(2)
    calls = put_all(mesh, numbered(5))
    ddl = mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "later", is_sync=True))
    assert mesh[1].waiting_unprepared == 1
    mesh.restart(2)
    mesh.settle()
    assert mesh.committed(ddl) and len(told(mesh, calls)) == 5


# --- retries --------------------------------------------------------------------------------------------


def test_a_retry_joins_a_pending_row_and_hears_what_its_first_caller_hears() -> None:
    """ADR 3, S12, ADR 13: that of its own row, not of the transaction."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.persist(1)
    again = [retry(mesh, 1, (1 + n, "v"), rid(1 + n)) for n in range(5)]
    assert all(mesh.outcome(call) is None for call in again)
    mesh.settle()
    assert told(mesh, again) == told(mesh, calls)
    assert tuples(mesh, again) == tuples(mesh, calls)
    late = [retry(mesh, 1, (1 + n, "v"), rid(1 + n)) for n in range(5)]
    assert told(mesh, late) == told(mesh, calls)
    for call in late:
        outcome = mesh.outcome(call)
        assert isinstance(outcome, ev.Committed) and outcome.duplicate
    assert shapes(mesh) == [5]


def test_a_retry_that_wants_the_own_disk_only_is_told_its_own_row() -> None:
    """[Q-45], ADR 13."""
    mesh = promoted_mesh()
    put_all(mesh, numbered(5))
    (txn,) = logged(mesh)
    early = mesh.write(1, (3, "v"), request_id=rid(3), wait=ev.WaitMode.SUBMIT)
    late = mesh.write(1, (3, "v"), request_id=rid(3), wait=ev.WaitMode.SUBMIT)
    assert mesh.outcome(early) is None
    mesh.persist(1)
    expected = ev.Submitted(TxnId(ONE, Lsn(txn.tsn + 2)), True)
    assert (mesh.outcome(early), mesh.outcome(late)) == (expected, expected)
    on_disk = mesh.write(1, (2, "v"), request_id=rid(2), wait=ev.WaitMode.SUBMIT)
    assert mesh.outcome(on_disk) == ev.Submitted(TxnId(ONE, Lsn(txn.tsn + 1)), True)


@pytest.mark.parametrize("is_decided", [False, True])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_retry_among_the_callers_has_one_effect(is_decided: bool, place: int) -> None:
    """S12: the whole frame may be a retry, or one of it."""
    mesh = promoted_mesh()
    first = put_all(mesh, numbered(4, first=50), kind=RowType.INSERT, first_id=50)
    if is_decided:
        mesh.settle()
    values, ids = numbered(8), [rid(1 + n) for n in range(8)]
    values[place], ids[place] = (51, "v"), rid(51)
    calls = put_all(mesh, values, kind=RowType.INSERT, request_ids=ids)
    mesh.settle()
    again = mesh.outcome(calls.pop(place))
    assert isinstance(again, ev.Committed) and again.duplicate == is_decided
    assert again.txn == TxnId(ONE, told(mesh, first)[1])
    lsns = told(mesh, calls)
    assert lsns == list(range(lsns[0], lsns[0] + 7))


def test_a_frame_sent_again_joins_its_first_life() -> None:
    """S12: by another owner too."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(6), kind=RowType.INSERT)
    again = put_all(mesh, numbered(6), kind=RowType.INSERT)
    mesh.settle()
    assert told(mesh, again) == told(mesh, calls)
    mesh.crash(1)
    mesh.promote(2)
    late = put_all(mesh, numbered(6), kind=RowType.INSERT, to=2)
    assert told(mesh, late) == told(mesh, calls)


def test_the_same_request_id_twice_in_one_frame_is_one_request() -> None:
    """S12: the second is a retry of the first."""
    mesh = promoted_mesh()
    ids = [rid(n) for n in (1, 2, 3, 4, 2, 5)]
    calls = put_all(mesh, numbered(6), request_ids=ids)
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns[4] == lsns[1] and len(set(lsns)) == 5
    assert [row[0] for row in mesh.rows(1)] == [1, 2, 3, 4, 6]


def test_a_request_id_older_than_what_is_remembered_is_refused_alone() -> None:
    """R3: the others are done."""
    mesh = promoted_mesh(1, limits=Limits(remembered_requests_max=1))
    for number in (1, 2, 3):
        mesh.write(1, (number, "old"), request_id=rid(900 + number))
        mesh.settle()
    positions: list[ev.Position | None] = [mesh[1].decided_position] * 6
    positions[2], positions[4] = ev.Position(Term(0), Lsn(0)), None
    calls = put_all(mesh, numbered(6, first=10), positions=positions)
    mesh.settle()
    assert mesh.reason(calls.pop(2)) == "REQUEST_EXPIRED"
    assert len(told(mesh, calls)) == 5
    assert [row[0] for row in mesh.rows(1)] == [1, 2, 3, 10, 11, 13, 14, 15]


# --- callers that go ------------------------------------------------------------------------------------


def test_a_call_whose_time_is_over_is_told_its_own_lsn_and_the_others_commit() -> None:
    """ADR 3, [L-29]: the transaction stays."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5))
    unwritten = calls.pop(0)
    mesh.step(1, ev.CallExpired(unwritten))
    outcome = mesh.outcome(unwritten)
    assert isinstance(outcome, ev.OutcomeUnknown) and outcome.txn is None
    mesh.persist(1)
    tsn = logged(mesh)[0].tsn
    late = calls.pop(1)
    mesh.step(1, ev.CallExpired(late))
    outcome = mesh.outcome(late)
    assert isinstance(outcome, ev.OutcomeUnknown)
    assert outcome.txn == TxnId(ONE, Lsn(tsn + 2))
    assert outcome.error.details["txn"] == str(outcome.txn)
    asked = wait_for(mesh, 1, txn=outcome.txn)
    mesh.settle()
    assert told(mesh, calls) == [tsn + 1, tsn + 3, tsn + 4]
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.COMMITTED, outcome.txn)
    assert mesh.rows(2) == numbered(5)


def test_an_abandoned_call_gets_no_reply_and_its_neighbours_do() -> None:
    """[Q-43], [L-15]."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5))
    gone = calls.pop(2)
    mesh.step(1, ev.RequestAbandoned(gone))
    mesh.settle()
    assert mesh.outcome(gone) is None
    assert len(told(mesh, calls)) == 4
    assert mesh.rows(2) == numbered(5)


def test_when_all_are_gone_it_is_decided_all_the_same() -> None:
    """[Q-43]."""
    mesh = promoted_mesh()
    for call in put_all(mesh, numbered(5)):
        mesh.step(1, ev.RequestAbandoned(call))
    mesh.settle()
    assert mesh.rows(2) == numbered(5)
    assert mesh[1].limbo.count == 0


# --- asking for one -------------------------------------------------------------------------------------


def test_who_asks_for_a_row_in_the_middle_is_told_of_that_row() -> None:
    """ADR 13: by its request id or by (origin, LSN), on every instance; pending first, then committed."""
    mesh = promoted_mesh()
    put_all(mesh, numbered(5))
    (txn,) = logged(mesh)
    middle = TxnId(ONE, Lsn(txn.tsn + 2))
    for event_of in ({"request_id": rid(3)}, {"txn": middle}):
        asked = wait_for(mesh, 1, **event_of)
        mesh.step(1, ev.CallExpired(asked))
        assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.PENDING, None)  # not on disk: not told
    mesh.persist(1)
    for event_of in ({"request_id": rid(3)}, {"txn": middle}):
        asked = wait_for(mesh, 1, **event_of)
        mesh.step(1, ev.CallExpired(asked))
        assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.PENDING, middle)
    mesh.deliver(1, 2)
    waiting = [
        wait_for(mesh, number, **event_of)
        for number in (1, 2)
        for event_of in ({"request_id": rid(3)}, {"txn": middle})
    ]
    assert all(mesh.outcome(call) is None for call in waiting)
    mesh.settle()
    late = [wait_for(mesh, 1, request_id=rid(3)), wait_for(mesh, 3, txn=middle)]
    for call in (*waiting, *late):
        assert mesh.outcome(call) == ev.FateKnown(ev.Fate.COMMITTED, middle)


def test_who_asks_for_a_row_of_what_was_rolled_back_is_told_of_that_row() -> None:
    """ADR 13: whichever row, before and after; the ids are free again (R1)."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    put_all(mesh, numbered(5))
    mesh.settle()
    (txn,) = logged(mesh)
    lsns = [Lsn(txn.tsn + n) for n in range(5)]
    waiting = [wait_for(mesh, 1, txn=TxnId(ONE, lsn)) for lsn in lsns]
    by_id = [wait_for(mesh, 1, request_id=rid(1 + n)) for n in range(5)]
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    late = [wait_for(mesh, 1, txn=TxnId(ONE, lsn)) for lsn in lsns]
    for calls in (waiting, by_id, late):
        assert [mesh.outcome(call) for call in calls] == [
            ev.FateKnown(ev.Fate.ROLLED_BACK, TxnId(ONE, lsn)) for lsn in lsns
        ]
    again = put_all(mesh, numbered(5, "again"), to=2)
    mesh.settle()
    assert all(mesh.committed(call) for call in again)


def test_a_row_of_a_plain_transaction_is_still_told_by_its_last_lsn() -> None:
    """Only in a shared one each row is somebody's whole transaction."""
    mesh = promoted_mesh()
    ops = [row_body.dml_from_values(RowType.REPLACE, SYNC, value=value) for value in numbered(3)]
    mesh.write_ops(1, ops, request_id=rid(1))
    mesh.persist(1)
    (txn,) = logged(mesh)
    asked = wait_for(mesh, 1, txn=TxnId(ONE, txn.tsn))
    mesh.settle()
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.COMMITTED, TxnId(ONE, txn.lsn))


def test_a_row_of_what_is_on_its_way_to_disk_is_pending_whatever_follows_it() -> None:
    """By any LSN of it, also in front of the queue: it is no more decided than its last row."""
    mesh = promoted_mesh()
    ops = [row_body.dml_from_values(RowType.REPLACE, ASYNC, value=value) for value in numbered(3)]
    plain = mesh.write_ops(1, ops)
    shared = put_all(mesh, numbered(4))
    tsn = logged(mesh)[0].tsn
    rows = [TxnId(ONE, Lsn(tsn - 3 + n)) for n in range(7)]
    waiting = [wait_for(mesh, 1, txn=row) for row in rows]
    assert [mesh.outcome(call) for call in waiting] == [None] * 7
    mesh.settle()
    assert mesh.committed(plain) and len(told(mesh, shared)) == 4
    expected = [rows[2], rows[2], rows[2], *rows[3:]]
    assert [mesh.outcome(call) for call in waiting] == [
        ev.FateKnown(ev.Fate.COMMITTED, row) for row in expected
    ]


# --- its end --------------------------------------------------------------------------------------------


def test_a_full_disk_undoes_all_and_each_caller_hears_that_nothing_was_written() -> None:
    """ADR 8, [W-15]: the LSNs and the ids are used again."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5), kind=RowType.INSERT)
    asked = wait_for(mesh, 1, request_id=rid(2))
    member = mesh.members[1]
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("Failed to write to disk; nothing was written")))
    assert reasons(mesh, calls) == ["WAL_IO"] * 5
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.UNKNOWN)
    assert (len(mesh[1].limbo), mesh[1].limbo.count, mesh[1].limbo.size) == (0, 0, 0)
    again = put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.settle()
    assert len(told(mesh, again)) == 5
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()


def test_a_promote_that_does_not_hold_it_rolls_back_all_and_each_caller_hears_so() -> None:
    """[Q-51], [P-52], ADR 1."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    calls = put_all(mesh, numbered(5))
    mesh.settle()
    promoted = mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert reasons(mesh, calls) == ["SYNC_ROLLBACK"] * 5
    assert isinstance(mesh.outcome(promoted), ev.Promoted)
    assert mesh.rows(1) == mesh.rows(2) == []
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()
    mesh[1].memtx.check()


def test_a_promote_that_holds_it_commits_all_and_counts_each_caller() -> None:
    """[P-2], ADR 13: what it confirmed is told in transactions of clients."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.isolate(1)
    single = mesh.write(1, (9, "alone"))
    mesh.settle()
    promote = mesh.promote(2)
    outcome = mesh.outcome(promote)
    assert isinstance(outcome, ev.Promoted)
    assert (outcome.confirmed, outcome.rolled_back) == (5, 0)
    mesh.heal()
    mesh.settle()
    assert len(told(mesh, calls)) == 5
    assert mesh.reason(single) == "SYNC_ROLLBACK"
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3) == numbered(5)


def test_late_rows_of_a_deposed_owner_become_nops_without_ids() -> None:
    """[P-50]: nobody is told that they were done, and vclocks converge."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    put_all(mesh, numbered(5))
    mesh.settle()
    mesh.promote(2)
    put_all(mesh, numbered(5, "new", first=20), to=2, first_id=20)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local() == mesh[3].vclock.without_local()
    assert mesh.rows(1) == mesh.rows(3) == numbered(5, "new", first=20)
    for number in (2, 3):
        assert mesh.outcome(wait_for(mesh, number, request_id=rid(3))) == ev.FateKnown(ev.Fate.UNKNOWN)
    mesh.crash(3)
    mesh.restart(3)
    mesh.settle()
    assert mesh.rows(3) == numbered(5, "new", first=20)


# --- recovery -------------------------------------------------------------------------------------------


def test_after_a_restart_it_is_pending_with_all_its_callers_and_ids() -> None:
    """[W-20], S12: a retry joins the row that it had; the number of those who wait is the same."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.persist(1)
    (txn,) = logged(mesh)
    mesh.crash(1)
    mesh.restart(1)
    assert (len(mesh[1].limbo), mesh[1].limbo.count) == (1, 5)
    assert info.synchro(mesh[1], mesh.now)["queue"]["len"] == 5
    again = [retry(mesh, 1, (1 + n, "v"), rid(1 + n)) for n in range(5)]
    asked = wait_for(mesh, 1, request_id=rid(4))
    mesh.heal()
    mesh.promote(1)
    assert told(mesh, again) == [txn.tsn + n for n in range(5)]
    assert tuples(mesh, again) == [((n, "v"),) for n in range(1, 6)]
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.COMMITTED, TxnId(ONE, Lsn(txn.tsn + 3)))
    assert mesh.rows(2) == numbered(5)


def test_after_a_restart_decided_ids_are_known_with_their_own_lsns() -> None:
    """S12."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.settle()
    mesh.crash(1)
    mesh.restart(1)
    mesh.promote(1)
    again = put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.settle()
    assert told(mesh, again) == told(mesh, calls)
    assert mesh.rows(1) == numbered(5)


def test_a_log_that_ends_in_front_of_it_knows_none_of_it() -> None:
    """[W-3]: a transaction is never split."""
    mesh = promoted_mesh(1)
    put_all(mesh, numbered(5))
    mesh.crash(1)
    mesh.restart(1)
    assert mesh[1].limbo.count == 0
    assert mesh.outcome(wait_for(mesh, 1, request_id=rid(1))) == ev.FateKnown(ev.Fate.UNKNOWN)
    assert mesh.rows(1) == []


# --- what others see ------------------------------------------------------------------------------------


def test_an_lsn_in_the_middle_is_not_applied_while_it_is_undecided() -> None:
    """Read-your-writes: who was told `unknown` for his row and reads behind it waits for its fate."""
    mesh = promoted_mesh()
    put_all(mesh, numbered(5))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    (txn,) = logged(mesh)
    rows = [Vclock({ONE: Lsn(txn.tsn + n)}) for n in range(5)]
    before = Vclock({ONE: Lsn(txn.tsn - 1)})
    assert mesh[2].has_applied(before)
    assert [mesh[2].has_applied(row) for row in rows] == [False] * 5
    mesh.settle()
    for number in (1, 2, 3):
        assert mesh[number].has_applied(before)
        assert [mesh[number].has_applied(row) for row in rows] == [True] * 5


def test_info_and_the_queue_list_each_caller() -> None:
    """[I-25], ADR 13: as if each were alone."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    mesh.write(1, (90, "alone"))
    calls = put_all(mesh, numbered(4))
    ops = [row_body.dml_from_values(RowType.REPLACE, SYNC, value=value) for value in numbered(3, first=50)]
    mesh.write_ops(1, ops, request_id=rid(50))
    assert [entry.txn for entry in info.queue_entries(mesh[1], mesh.now)] == [None] * 6
    mesh.persist(1)
    queue = info.synchro(mesh[1], mesh.now)["queue"]
    assert (queue["len"], len(mesh[1].limbo)) == (6, 3)
    entries = info.queue_entries(mesh[1], mesh.now + 2.0)
    alone, shared, plain = logged(mesh)
    assert [entry.txn for entry in entries] == [
        (1, alone.lsn),
        *((1, shared.tsn + n) for n in range(4)),
        (1, plain.lsn),
    ]
    assert [entry.rows for entry in entries] == [1, 1, 1, 1, 1, 3]
    assert {entry.size_bytes for entry in entries[1:5]} == {mesh[1].limbo.entries[1].size // 4}
    assert all(entry.space_ids == [SYNC] and entry.is_sync for entry in entries)
    assert all((entry.acked_by, entry.missing) == ([1], [2, 3]) for entry in entries)
    assert sum(entry.size_bytes for entry in entries) == queue["size"]
    mesh.heal()
    mesh.settle()
    assert info.synchro(mesh[1], mesh.now)["queue"]["len"] == 0
    assert len(told(mesh, calls)) == 4


def test_shared_and_single_writes_commit_in_the_order_of_the_log() -> None:
    """[Q-20], [Q-51]: replies come in the order in which the calls came."""
    mesh = promoted_mesh()
    first = mesh.write(1, (100, "a"))
    shared = put_all(mesh, numbered(5))
    plain = mesh.write(1, (1, "async"), ASYNC)
    more = put_all(mesh, numbered(5, first=20), first_id=20)
    calls = [first, *shared, plain, *more]
    mesh.settle()
    assert [call for call in mesh.outcomes if call in calls] == calls
    lsns = told(mesh, calls)
    assert lsns == sorted(set(lsns))
