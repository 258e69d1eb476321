"""Changes of system spaces that people ask for in other words: made from the rows of the moment, and made
again when another change came first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from synchro.errors import SyncTimeout, TupleFound
from synchro.ids import CallId
from synchro.instance.events import (
    ClientWrite,
    ClientWrites,
    Committed,
    Fate,
    FateKnown,
    Outcome,
    Rejected,
    WaitRequested,
)
from synchro.row import Dml, TxnId
from synchro.rpc import codec
from synchro.rpc.codec import Message
from synchro.rpc.service import expect
from synchro.server.api import NodeApi
from synchro.storage.row_body import dml_from_values

REBUILDS_MAX: Final = 10
"""Two changes that were asked for at once may choose the same id; the later one is built again."""


async def change(
    node: NodeApi, request: Message, build: Callable[[], Sequence[Dml]], *, what: str, spaces: Sequence[str]
) -> TxnId | None:
    """Run what `build` makes from the rows of this moment. Returns None if nothing had to be done.

    request: with request_id, known_position and timeout. what: for people. spaces: in which another change
    may have taken the id or name."""
    timeout_s = codec.timeout_s(request, node.instance.settings.txn_synchro_timeout_s)
    deadline = trio.current_time() + timeout_s
    request_id = codec.request_id(request.request_id)
    known_position = codec.position(request)
    if request_id is not None:
        # A retry would find its own work and be refused: look for the first call before building.
        outcome = await node.call(
            lambda call_id: WaitRequested(call_id, request_id=request_id), timeout_s=timeout_s
        )
        first = expect(outcome, FateKnown)
        if first.fate is Fate.COMMITTED:
            return first.txn
        if first.fate is Fate.PENDING:
            raise SyncTimeout(
                f"{what} {first.txn} was not decided within {timeout_s:g} s; it stays in the queue, outcome "
                "unknown",
                txn=first.txn,
            )
    for attempt in range(1, REBUILDS_MAX + 1):
        ops = [_encoded(op) for op in build()]
        if not ops:
            return None

        def write(call_id: CallId, ops: Sequence[Dml] = ops) -> ClientWrites:
            return ClientWrites([ClientWrite(call_id, ops, request_id, known_position)])

        outcome = await node.call(write, timeout_s=max(0.0, deadline - trio.current_time()))
        if attempt == REBUILDS_MAX or not _is_race(outcome, spaces):
            break
    return expect(outcome, Committed).txn


def _encoded(op: Dml) -> Dml:
    if op.raw:
        return op
    return dml_from_values(op.type, op.space_id, index_id=op.index_id, key=op.key, value=op.value, ops=op.ops)


def _is_race(outcome: Outcome, spaces: Sequence[str]) -> bool:
    """Whether another change took the id or the name while this one waited for its turn."""
    return (
        isinstance(outcome, Rejected)
        and isinstance(outcome.error, TupleFound)
        and outcome.error.details.get("space") in spaces
    )
