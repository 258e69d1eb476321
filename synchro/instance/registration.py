"""A joining instance gets its `_cluster` row. [M-3], [M-22], [M-25]."""

from __future__ import annotations

from synchro.errors import IllegalParams, QuorumWait, ReplicaMax, SynchroError
from synchro.ids import INSTANCE_ID_MAX, InstanceId, twin_of
from synchro.instance import events as ev
from synchro.instance.admission import Admission
from synchro.instance.parts import Parts
from synchro.instance.transactions import Transactions
from synchro.instance.writability import WRITABLE, read_only_error, read_only_reason, stopping_error
from synchro.row import RowType
from synchro.storage import row_body, schema
from synchro.storage.prepared import PendingRefusal
from synchro.storage.system_rows import replaced_row


class Registration:
    """A write like those of clients, but the row, and the id in it, are made here; one at a time (ADR 6)."""

    __slots__ = ("_admission", "_state", "_txns")

    def __init__(self, state: Parts, txns: Transactions, admission: Admission) -> None:
        self._state = state
        self._txns = txns
        self._admission = admission

    def on_register_requested(self, event: ev.RegisterRequested, now: float) -> None:
        """[M-22]: a `_cluster` row, one at a time, by whoever may write; smallest free id [M-3], never
        one that an instance had before (ADR 41)."""
        try:
            if self._state.stop.is_begun:
                raise stopping_error()
            self._register(event, now)
        except SynchroError as error:
            self._state.calls.refuse(event.call_id, error)

    def _register(self, event: ev.RegisterRequested, now: float) -> None:
        state, txns = self._state, self._txns
        known = next(
            (i for i, (uuid, _) in state.memtx.catalog.members().items() if uuid == event.uuid), None
        )
        if known is not None:
            state.calls.reply(event.call_id, txns.registered_as(known))
            return
        self._admission.look()
        reason = read_only_reason(state)
        if reason is not WRITABLE:
            raise read_only_error(state, reason)
        if txns.membership_change is not None or txns.must_wait(()):
            raise QuorumWait(
                "another change of members or definitions is not decided yet; nothing was changed, try again"
            )
        new_id = self._id_for(event)
        value = (int(new_id), event.uuid, event.name)
        ops = [row_body.dml_from_values(RowType.REPLACE, schema.CLUSTER_ID, value=value)]
        if (former := state.memtx.catalog.prepared_members().get(new_id)) is not None:
            record = replaced_row(new_id, *former)
            ops.append(row_body.dml_from_values(RowType.REPLACE, schema.SCHEMA_ID, value=record))
        state.calls.registering[event.call_id] = new_id
        try:
            self._admission.begin(ev.ClientWrite(event.call_id, tuple(ops)), now)
        except PendingRefusal as refusal:
            raise refusal.error from refusal

    def _id_for(self, event: ev.RegisterRequested) -> InstanceId:
        """A name keeps its id when its instance comes back under a new UUID [M-25]."""
        state = self._state
        members = state.memtx.catalog.prepared_members()
        same_name = next((i for i, (_, name) in members.items() if name == event.name), None)
        if same_name is not None:
            if event.must_be_new or same_name == state.self_id or same_name in state.raft.healthy:
                raise IllegalParams(
                    f"Duplicate replica name {event.name}, already occupied by {members[same_name][0]}; "
                    "nothing was changed"
                )
            return same_name
        if (twin := twin_of(event.name, (name for _, name in members.values() if name))) is not None:
            raise IllegalParams(
                f"Instance name {event.name} differs from that of the member {twin} in nothing but case; "
                "nothing was changed"
            )
        # Neither an id that was expelled, nor one that has rows: its LSNs are used [M-4] (ADR 41).
        taken = members.keys() | state.memtx.catalog.expelled().keys() | state.log.assigned.keys()
        free = [InstanceId(i) for i in range(1, INSTANCE_ID_MAX + 1) if InstanceId(i) not in taken]
        if not free:
            raise ReplicaMax("Replica count limit reached: 32; nothing was changed")
        return free[0]
