"""A member leaves: its `_cluster` row is deleted by a client [M-50]. What that needs, and what goes with it.

The rest follows from the rows, on each instance for itself: from the deletion on, whoever leaves counts no
more (`Parts.counting`); when it is decided it is no member, and its streams end (`MembersChanged`). ADR 41.
"""

from __future__ import annotations

from collections.abc import Sequence

from synchro.errors import QuorumWait
from synchro.ids import NOBODY, InstanceId
from synchro.instance.parts import Parts
from synchro.instance.transactions import Transactions
from synchro.row import Dml, RowType
from synchro.storage import row_body, schema
from synchro.storage.system_rows import expelled_row, is_removal


def with_record(state: Parts, txns: Transactions, ops: Sequence[Dml]) -> Sequence[Dml]:
    """What is to be prepared for a client's `ops`: the removal of a member goes with a row of `_schema`, for
    which no id is given twice. Everything else, and the removal of nobody, stays as it is.

    Raises `QuorumWait`; nothing was changed then.
    """
    if len(ops) != 1 or not is_removal(ops[0]):
        return ops
    leaver = state.memtx.catalog.member_named_by(ops[0])
    if leaver is None:
        return ops
    if txns.membership_change is not None or txns.must_wait(()):
        raise QuorumWait(
            "another change of members or definitions is not decided yet; nothing was changed, try again"
        )
    _check_those_who_stay(state, leaver[0])
    record = row_body.dml_from_values(RowType.REPLACE, schema.SCHEMA_ID, value=expelled_row(*leaver))
    return ops[0], record


def _check_those_who_stay(state: Parts, leaver: InstanceId) -> None:
    """They decide it, alone. If their quorum cannot be reached the queue would wait behind the deletion. An
    instance whose acks do not count was not heard by the queue."""
    if state.limbo.owner_id == NOBODY:
        return  # asynchronous, as all else is then (ADR 6)
    stay = state.registered - {leaver}
    needed = state.settings.synchro_quorum.quorum(len(stay))
    there = {state.self_id} | (stay & state.raft.healthy & state.limbo.heard)
    if len(there) < needed:
        raise QuorumWait(
            f"Couldn't wait for quorum {needed} of those who stay: {len(there)} of {len(stay)} are connected "
            "and count; nothing was changed",
            needed=needed,
            registered=len(stay),
        )
