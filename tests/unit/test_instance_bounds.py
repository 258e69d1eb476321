"""What waits is bounded in bytes, and an ack stands for what was really applied. [W-16], S3, S17."""

from __future__ import annotations

from synchro.config import Limits
from synchro.errors import TupleFound
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.storage import row_body
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh


def test_asynchronous_writes_wait_for_room_in_the_wal_queue() -> None:
    """[W-16]: the disk is slower than the clients; nobody else would stop them, with an empty limbo."""
    mesh = Mesh(1, limits=Limits(wal_queue_bytes_max=1))
    first, second = (mesh.write(1, (number,), ASYNC) for number in (1, 2))
    refused = mesh.write(1, (3,), ASYNC, wait=ev.WaitMode.NONE)
    assert mesh.reason(refused) == "WAL_QUEUE_FULL"  # MEND-Q6
    assert mesh[1].waiting_unprepared == 1
    mesh.persist(1)
    assert mesh.committed(first) and mesh.outcome(second) is None
    assert mesh[1].waiting_unprepared == 0
    mesh.persist(1)
    assert mesh.committed(second)
    assert mesh.rows(1, ASYNC) == [(1,), (2,)]


def test_skip_conflict_never_acks_a_synchronous_row_that_it_did_not_apply() -> None:
    """Answers 1: else {1, 2} confirm what 1 has as NOPs only, and it is lost when 1 takes over."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    mesh.write(1, (1, "gone"), ASYNC, kind=RowType.INSERT)
    mesh.write_ops(1, [row_body.dml_from_values(RowType.DELETE, ASYNC, key=(1,))])
    mesh.write(2, (1, "stray"), ASYNC, kind=RowType.INSERT)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert (mesh.rows(1, ASYNC), mesh.rows(2, ASYNC)) == ([(1, "stray")], [])  # as the operator wanted

    mesh.promote(2)
    sync = row_body.dml_from_values(RowType.REPLACE, SYNC, value=(7,))
    conflict = row_body.dml_from_values(RowType.INSERT, ASYNC, value=(1, "second"))
    call = mesh.write_ops(2, [sync, conflict])
    mesh.settle()
    assert mesh.outcome(call) is None
    assert isinstance(mesh.members[1].stopped[2], TupleFound)


def test_a_local_write_of_a_replica_between_two_rows_that_one_confirm_covers() -> None:
    """[Q-15]: one sync brings all of them. The core broke an assertion, on every replica that wrote so."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.write(1, (1,))
    mesh.persist(1)
    mesh.deliver(1, 2)
    call = mesh.write(2, (9,), LOCAL_SPACE)
    mesh.write(1, (2,))
    mesh.persist(1)
    mesh.deliver(1, 3)
    mesh.persist(3)
    mesh._announce()
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    assert mesh.committed(call)
    assert mesh.rows(2) == [(1,), (2,)]
    mesh.crash(2)
    mesh.restart(2)
    assert (mesh.rows(2), mesh.rows(2, LOCAL_SPACE)) == ([(1,), (2,)], [(9,)])
