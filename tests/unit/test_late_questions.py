"""What a snapshot and a restart must still know: requests that were done, LSNs without effect. S5, S12.

MEND-T3: three planted bugs here were noticed by no test; `tests/saboteurs` has them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgpack
import pytest

from synchro.ids import CallId, InstanceId, Lsn, RequestId
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance, snapshot_view
from synchro.row import RowType, TxnId
from synchro.storage import row_body
from synchro.storage.snapshot import SnapshotAssembler, decode_chunk, iter_chunks
from tests.mesh import SYNC, Mesh, uuid_of

REQUEST = b"r" * 16
CALL = CallId(10_000)


def behind_a_snapshot(mesh: Mesh, number: int) -> Instance:
    """A new process with a snapshot of this moment, as bytes, and the log behind its vclock."""
    meta, spaces = snapshot_view(mesh[number])
    assembler = SnapshotAssembler()
    for frame in iter_chunks(meta, spaces):
        assembler.add(decode_chunk(frame))
    assert assembler.meta is not None
    member = mesh.members[number]
    return recover_instance(
        uuid=uuid_of(number),
        settings=mesh.settings,
        meta=assembler.meta,
        spaces=spaces,
        txns=[t for t in member.wal[: member.written] if t.lsn > meta.vclock.get(t.origin)],
        rng=random.Random(number),
        trusted=True,
        now=mesh.now,
    )


def behind_a_restart(mesh: Mesh, number: int) -> Instance:
    """The same from the log alone."""
    mesh.crash(number)
    mesh.restart(number)
    return mesh[number]


def as_it_runs(mesh: Mesh, number: int) -> Instance:
    return mesh[number]


Life = Callable[[Mesh, int], Instance]
LIVES = pytest.mark.parametrize("life", [as_it_runs, behind_a_snapshot, behind_a_restart])


def answer(instance: Instance, event: ev.Event) -> ev.Outcome | None:
    """What is said at once."""
    for effect in instance.step(event, 0):
        if isinstance(effect, ev.Replies):
            return dict(effect.replies).get(CALL)
    return None


def fate(instance: Instance, txn: TxnId) -> ev.Fate | None:
    outcome = answer(instance, ev.WaitRequested(CALL, txn))
    return outcome.fate if isinstance(outcome, ev.FateKnown) else None


def write(instance: Instance, request_id: bytes) -> ev.Outcome | None:
    op = row_body.dml_from_values(RowType.INSERT, SYNC, value=(1, "one"))
    call = ev.ClientWrite(CALL, [op], RequestId(request_id))
    return answer(instance, ev.ClientWrites([call]))


@LIVES
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_request_that_was_done_is_known_everywhere(life: Life, number: int) -> None:
    """Also by who is read-only: the answer is that it was done, not that it may not be."""
    mesh = Mesh(3)
    mesh.promote(1)
    call = mesh.write(1, (1, "one"), kind=RowType.INSERT, request_id=REQUEST)
    mesh.settle()
    done = mesh.outcome(call)
    assert isinstance(done, ev.Committed)
    instance = life(mesh, number)
    assert write(instance, REQUEST) == ev.Committed(done.txn, duplicate=True)
    known = answer(instance, ev.WaitRequested(CALL, request_id=RequestId(REQUEST)))
    assert known == ev.FateKnown(ev.Fate.COMMITTED, done.txn)


@LIVES
def test_each_call_of_a_shared_transaction_is_known_by_its_own_row(life: Life) -> None:
    mesh = Mesh(3)
    mesh.promote(1)
    ids = [RequestId(bytes([n]) * 16) for n in range(5)]
    puts = row_body.insert_all(RowType.INSERT, SYNC, [msgpack.packb((n, "x")) for n in range(5)])
    calls = [mesh.call_id() for _ in ids]
    mesh.step(1, ev.ClientPuts(calls, puts, ids, [None] * 5))
    mesh.settle()
    for call, request_id in zip(calls, ids, strict=True):
        done = mesh.outcome(call)
        assert isinstance(done, ev.Committed)
        instance = life(mesh, 2) if life is not behind_a_restart else mesh[2]
        known = answer(instance, ev.WaitRequested(CALL, request_id=request_id))
        assert known == ev.FateKnown(ev.Fate.COMMITTED, done.txn)


def deposed() -> tuple[Mesh, TxnId]:
    """1 wrote a row that only it holds; 2 took over, and 1 is back."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(1)
    mesh.write(1, (1, "lost"), request_id=REQUEST)
    mesh.persist(1)
    lost = TxnId(InstanceId(1), mesh[1].vclock.get(InstanceId(1)))
    mesh.promote(2)
    mesh.write(2, (2, "kept"))
    mesh.settle()
    mesh.heal()
    mesh.settle()
    return mesh, lost


@LIVES
@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_was_dropped_stays_dropped_everywhere(life: Life, number: int) -> None:
    """1 rolled it back, the others stored it as a NOP; its LSN is confirmed by what came later."""
    mesh, lost = deposed()
    mesh.promote(1)  # it owns the queue again, and its confirmed LSN rises above the dropped one
    mesh.write(1, (3, "later"))
    mesh.settle()
    instance = life(mesh, number)
    assert instance.vclock.get(InstanceId(1)) > lost.lsn
    assert fate(instance, lost) is ev.Fate.ROLLED_BACK
    later = TxnId(InstanceId(1), Lsn(instance.vclock.get(InstanceId(1)) - 1))
    assert fate(instance, later) is ev.Fate.COMMITTED


@LIVES
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_request_that_was_dropped_is_done_anew(life: Life, number: int) -> None:
    """R1: nobody may say that it was done."""
    mesh, _ = deposed()
    instance = life(mesh, number)
    known = answer(instance, ev.WaitRequested(CALL, request_id=RequestId(REQUEST)))
    assert known == ev.FateKnown(ev.Fate.UNKNOWN)
    outcome = write(instance, REQUEST)
    assert not isinstance(outcome, ev.Committed)


def test_two_lives_later_both_are_known_still() -> None:
    """A snapshot of what came from a snapshot."""
    mesh, lost = deposed()
    call = mesh.write(2, (9, "done"), request_id=b"d" * 16)
    mesh.settle()
    done = mesh.outcome(call)
    assert isinstance(done, ev.Committed)
    instance = behind_a_snapshot(mesh, 3)
    mesh.members[3].instance = instance
    again = behind_a_snapshot(mesh, 3)
    assert fate(again, lost) is ev.Fate.ROLLED_BACK
    known = answer(again, ev.WaitRequested(CALL, request_id=RequestId(b"d" * 16)))
    assert known == ev.FateKnown(ev.Fate.COMMITTED, done.txn)
