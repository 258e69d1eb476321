"""Callers whose writes arrive in one frame, and what each of them was told."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from synchro.ids import CallId, InstanceId, Lsn, RequestId
from synchro.instance import events as ev
from synchro.row import Field, RowType, Txn, TxnId
from synchro.storage import row_body
from tests.mesh import SYNC, Mesh

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
    request_ids: Sequence[RequestId | None] | None = None,
    positions: Sequence[ev.Position | None] | None = None,
) -> list[CallId]:
    """One caller for each tuple; all arrive in one frame. Their request ids count from `first_id`."""
    calls = [mesh.call_id() for _ in values]
    puts = row_body.insert_all(kind, space, [msgpack.packb(value) for value in values])
    ids = request_ids if request_ids is not None else [rid(first_id + n) for n in range(len(values))]
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
